#pragma once
// The daemon's journal of rights: one append-only file, the last record per (role, VM) is the
// state. append(durable) returns only after the record is on stable storage, and only then may the
// caller do what the record permits. Owner: the control thread (calls block for one fdatasync).
//
//   file     = record*                     in the order of seq; the first is `begin`
//   record   = length:u32 crc:u32 payload  little-endian; length of payload, 17..kRecordBytesMax;
//                                          crc = CRC-32C of length and payload
//   payload  = seq:u64 synced:u64 body     seq counts from 1 without gaps;
//                                          synced = the last seq known to be on stable storage
//   body     = 1:u8 "EVACJNL" version:u8(1)                                   begin
//            | 2:u8 handover                                           one VM's state, one role
//            | 3:u8 role:u8 vm:u32                                            forget
//            | 4:u8 evacuation                                                the executor's state
//   handover = role:u8 state:u8 policy:u8 flags:u8 reason:u8 attempts:u8 vm:u32 epoch:u32
//              handover:u64 silence_ms:u32 stopped_max_ms:u32 away_patience_ms:u32
//              since_unix_ms:i64 stopped_unix_ms:i64 downtime_ms:u32
//   flags    = 1 hold_landing, 2 abort_asked, 4 by_silence, 8 forced, 16 outside
//   evacuation = stage:u8 flags:u8 policy:u8 silence_ms:u32 stopped_max_ms:u32 away_patience_ms:u32
//              since_unix_ms:i64 event_id:text reason:text count:u32
//              count * (vm:u32 away_ms:u32 downtime_ms:u32)
//   text     = length:u32(<=256) bytes
//
// Torn or corrupt? A record that does not parse is a torn tail, and is cut off at open, when no
// later record in the file says that it was synced; otherwise the file is corrupt and open()
// refuses. A damaged very last record cannot be told from a torn one: storage that loses
// acknowledged bytes is not survivable. After a failed write or sync nothing is appended any more
// (what is on disk is then unknown): the daemon stops and starts again, and replay finds either
// state; both are legal since nothing was permitted yet.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/evacuation/handover_types.hpp"
#include "evac/evacuation/journal_file.hpp"

namespace evac::evacuation {

struct HandoverRecord {
    Role role{};
    VmId vm{};
    State state = State::protected_;
    HandoverId handover{};  // the current or last one; away never runs it again once aborted
    Epoch epoch{};          // of the final seal, from `sealed` on
    HandoverOptions options{};
    AbortReason reason = AbortReason::none;
    uint8_t attempts = 0;         // landings begun (away, committed)
    bool abort_asked = false;     // home, sealed: goes back as soon as away agrees
    bool by_silence = false;      // away: committed because home was silent
    bool forced = false;          // an operator took the decision
    bool outside = false;         // away: runs a recovery point, not a handover's final seal
    int64_t since_unix_ms = 0;    // the state was entered
    int64_t stopped_unix_ms = 0;  // home: the guest stands still since then; 0 = it does not
    uint32_t downtime_ms = 0;     // home: how long it stood still, once that is over

    bool operator==(const HandoverRecord&) const = default;
};

enum class Stage : uint8_t {
    idle = 0,
    armed = 1,
    evacuating = 2,
    cancelling = 3,
    done = 4,
    cancelled = 5,  // done, but called off
};
const char* to_string(Stage stage);

struct Turn {
    VmId vm{};
    uint32_t predicted_away_ms = 0;  // from the start of the evacuation, by the plan
    uint32_t predicted_downtime_ms = 0;

    bool operator==(const Turn&) const = default;
};

struct EvacuationRecord {
    Stage stage = Stage::idle;
    std::string event_id;  // the alert's or the operator's; at most kTextMax bytes
    std::string reason;    // for people; at most kTextMax bytes
    HandoverOptions options{};
    int64_t since_unix_ms = 0;
    std::vector<Turn> order;  // at most kVmsMax

    bool operator==(const EvacuationRecord&) const = default;
};

inline constexpr size_t kVmsMax = 65'536;
inline constexpr size_t kRecordBytesMax =
    1024 * 1024;  // an evacuation of kVmsMax VMs: 12 * 65,536 + 600 bytes
inline constexpr size_t kJournalBytesMax = 64 * 1024 * 1024;
inline constexpr size_t kJournalCompactBytes =
    4 * 1024 * 1024;  // and twice its size after the last compaction

enum class Durability : uint8_t { lazy, durable };

class Journal {
  public:
    struct Opened {
        uint64_t torn_bytes = 0;  // cut off at the end
        uint64_t records = 0;     // read
    };

    // Reads, cuts a torn tail off, compacts. `file` must outlive the journal. Errors: corrupt, io.
    static Result<Journal> open(JournalFile& file);

    // durable: on stable storage when it returns ok. lazy: written, in order, maybe lost by a
    // crash.
    Status append(const HandoverRecord& record, Durability durability);
    Status append(const EvacuationRecord& record, Durability durability);
    // The VM leaves protection. Its states are dropped.
    Status forget(Role role, VmId vm);

    const HandoverRecord* find(Role role, VmId vm) const;
    std::vector<HandoverRecord> all(Role role) const;  // by VmId
    const EvacuationRecord& evacuation() const { return evacuation_; }
    const Opened& opened() const { return opened_; }
    uint64_t size_bytes() const { return size_bytes_; }
    bool failed() const { return failed_; }

  private:
    explicit Journal(JournalFile& file) : file_(&file) {}
    Status load(ByteSpan bytes);
    Status apply(ByteSpan body);
    Status append_body(ByteSpan body, Durability durability);
    Status compact();
    void frame(Bytes& out, ByteSpan body);

    JournalFile* file_;
    std::map<std::pair<Role, VmId>, HandoverRecord> handovers_;
    EvacuationRecord evacuation_;
    Opened opened_;
    uint64_t seq_ = 0;     // of the last record in the file
    uint64_t synced_ = 0;  // the last one known to be on stable storage
    uint64_t size_bytes_ = 0;
    uint64_t compacted_bytes_ = 0;
    bool failed_ = false;
};

}  // namespace evac::evacuation
