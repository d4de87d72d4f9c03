#pragma once
// Messages between the two sites about the right to run a VM. They travel on the WAN's control
// class; the final SEAL record itself travels with the data and must carry the handover id. Every
// message may be lost, repeated or overtaken: it states a fact that stays true, or asks a question.
//
//   message     = version:u8 kind:u8 vm:u32 handover:u64 epoch:u32 body  little-endian
//   version     = 1      another version is refused as a whole; both sites upgrade together
//   body        = PREPARE:      policy:u8 (1 planned, 2 evacuation) hold:u8 (0, 1) silence_ms:u32
//               | COMMIT:       hold:u8
//               | ABORT:        reason:u8
//               | ABORTED:      reason:u8 floor:u64 text
//               | SEAL_FAILED, LOST:  text
//               | any other:    nothing
//   text        = length:u32 (<= 256) bytes
//
// home -> away
//   PREPARE   the turn of `vm` begins; check, make a landing ready         -> PREPARED | ABORTED
//   SEALING   I have sealed `epoch` and stand still; where are you?
//                                           -> SEALED | NOT_SEALED | SEAL_FAILED | any below
//   COMMIT    the right to run is yours; hold=0: let it run
//                                           -> COMMITTED | LANDED_PAUSED | RUNNING | ABORTED | LOST
//   ABORT     give the handover up if you can
//                                           -> ABORTED | COMMITTED | LANDED_PAUSED | RUNNING | LOST
//   RELEASED  my source is destroyed
// away -> home
//   PREPARED, SEALED (applied completely, journaled), SEAL_FAILED, NOT_SEALED,
//   COMMITTED (journaled: by COMMIT, by silence, by force), LANDED_PAUSED, RUNNING (journaled),
//   ABORTED   journaled: I never run this handover, nor any other up to `floor`. After COMMIT: it
//             is given back
//   LOST      it ran here, or may have, and is gone; an operator must decide
#include <cstdint>
#include <string>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"

namespace evac::evacuation {

// One attempt to move one VM; per VM, from 1, only grows, persisted by home. 0 = outside any
// handover.
enum class HandoverId : uint64_t {};
inline constexpr uint64_t raw(HandoverId id) {
    return static_cast<uint64_t>(id);
}

enum class Policy : uint8_t {
    planned = 1,     // without an explicit COMMIT away never runs
    evacuation = 2,  // away, once sealed, may run after a stated silence of home
};
const char* to_string(Policy policy);

enum class MessageKind : uint8_t {
    prepare = 1,
    sealing = 2,
    commit = 3,
    abort = 4,
    released = 5,
    prepared = 16,
    sealed = 17,
    seal_failed = 18,
    not_sealed = 19,
    committed = 20,
    landed_paused = 21,
    running = 22,
    aborted = 23,
    lost = 24,
};
const char* to_string(MessageKind kind);
// True for the kinds that home sends, i.e. those that AwayDesk::deliver takes.
constexpr bool is_from_home(MessageKind kind) {
    return static_cast<uint8_t>(kind) < 16;
}

enum class AbortReason : uint8_t {
    none = 0,
    cancelled = 1,  // the alert was cancelled, or an operator said abort
    drain_failed = 2,
    stop_failed = 3,
    capture_failed = 4,
    seal_failed = 5,
    stopped_too_long = 6,
    away_silent = 7,
    away_refused = 8,    // PREPARE refused
    landing_failed = 9,  // away gave the right back after kLandingAttemptsMax attempts
    given_back = 10,     // an operator at away gave it back
    superseded = 11,     // home has begun a newer handover, or forgot this one
    forced = 12,         // force_resume
    guest_gone = 13,
    conflict = 14,
};
const char* to_string(AbortReason reason);

struct Message {
    MessageKind kind{};
    VmId vm{};
    HandoverId handover{};
    Epoch epoch{};
    Policy policy = Policy::planned;         // PREPARE
    bool hold = false;                       // PREPARE, COMMIT
    uint32_t silence_ms = 0;                 // PREPARE
    AbortReason reason = AbortReason::none;  // ABORT, ABORTED
    HandoverId floor{};                      // ABORTED
    std::string text;                        // ABORTED, SEAL_FAILED, LOST; at most kTextMax bytes

    bool operator==(const Message&) const = default;
};

inline constexpr size_t kMessageBytesMax = 18 + 1 + 8 + 4 + 256;

// Fields that the kind does not have are not written; text beyond 256 bytes is cut.
Bytes encode(const Message& message);
// Errc::corrupt for anything that encode() would not have written.
Result<Message> decode_message(ByteSpan bytes);

}  // namespace evac::evacuation
