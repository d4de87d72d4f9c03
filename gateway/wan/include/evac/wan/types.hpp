#pragma once
// Values shared by the sans-I/O Endpoint and the threaded Transport. Plain data, no owner.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "evac/core/bytes.hpp"

namespace evac::wan {

// Each class is an ordered reliable stream of messages. control goes first, then demand; disk and
// bulk share what is left by weight. Order holds within a class and a session only.
enum class Class : uint8_t { control = 0, demand = 1, disk = 2, bulk = 3 };
inline constexpr size_t kClasses = 4;
inline constexpr size_t index(Class c) {
    return static_cast<size_t>(c);
}
const char* to_string(Class c);

inline constexpr size_t kMessageBytesMax = 256 * 1024;  // a message holds 1..kMessageBytesMax bytes

// New for every completed handshake and equal on both sides; 0 = no session.
enum class SessionId : uint64_t { none = 0 };

struct Message {
    SessionId session{};
    Bytes bytes;
};

// What may be said about a message when it is handed over. Messages of a class go out in the order
// in which they were given, deadline or not: a later one with an earlier deadline does not overtake
// (deltas build on each other; who wants to overtake has a higher class).
struct SendOptions {
    // Monotonic, the caller's clock. A message of which nothing was sent when it comes is dropped
    // from the queue and reported: a demand read that nobody waits for any more is useless. One
    // that was begun is finished, however late. For messages that must arrive, late or not (deltas,
    // seals), give none. 0 = none.
    uint64_t deadline_ns = 0;
    // The caller's name for the message, to cancel it and in reports; unique among those that wait
    // in a class. 0 = none.
    uint64_t ticket = 0;
};

// A message that was accepted and will not be sent, or the answer to a request to cancel.
struct Dropped {
    enum class Reason : uint8_t {
        expired,    // its deadline passed while it waited
        cancelled,  // as asked
        too_late,   // asked, but it was begun, done, or never known: it is not dropped
    };
    Class c = Class::control;
    Reason reason{};
    SessionId session{};
    uint64_t ticket = 0;
    uint64_t bytes = 0;
};
const char* to_string(Dropped::Reason reason);

enum class SessionState : uint8_t {
    down,         // no session; the connecting side is trying
    handshaking,  // no session yet, the peer answers
    up,
    silent,  // session kept, the peer has not been heard for a while: probing
};
const char* to_string(SessionState state);

enum class SendResult : uint8_t {
    ok,
    full,             // backpressure: the message is untouched, try later
    session_changed,  // the session the caller believes in is over; its messages are void
    not_connected,  // no session (the caller passed SessionId::none or the first session is not up)
    invalid,        // empty or larger than kMessageBytesMax
};
const char* to_string(SendResult result);

// Why a received datagram (or one to be sent) was thrown away. One counter each.
enum class DropReason : uint8_t {
    too_short,
    unknown_type,
    bad_version,
    wrong_address,
    unknown_session,
    bad_phase,        // key phase neither current, previous nor next
    replayed,         // packet number seen before
    too_old,          // packet number below the replay window
    bad_tag,          // AES-GCM says no: altered, spliced or foreign
    malformed_frame,  // authentic packet that breaks the grammar
    flow_violation,   // authentic packet beyond the advertised window
    reassembly_full,  // fragments too scattered; not acknowledged, will come again
    handshake_malformed,
    handshake_no_cookie,   // first hello, answered without keeping state
    handshake_unexpected,  // no such attempt
    handshake_limited,     // too many handshakes at once
    handshake_failed,      // certificate refused, or a damaged handshake
    hint_ignored,          // "no such session" notice that does not fit
    kCount,
};
inline constexpr size_t kDropReasons = static_cast<size_t>(DropReason::kCount);
const char* to_string(DropReason reason);

struct ClassStats {
    uint64_t sent_messages = 0;      // accepted for sending
    uint64_t sent_bytes = 0;         // message bytes put on the wire for the first time
    uint64_t acked_bytes = 0;        // message bytes of messages acknowledged completely
    uint64_t received_messages = 0;  // complete, in order
    uint64_t received_bytes = 0;
    uint64_t retransmitted_bytes = 0;
    uint64_t queued_bytes = 0;  // accepted and not yet acknowledged completely
    uint64_t unsent_bytes = 0;  // of those: never put on the wire
    uint64_t cancelled_messages = 0;
    uint64_t expired_messages = 0;
    uint64_t parity_bytes = 0;  // FEC frames sent for it; overhead = parity_bytes / sent_bytes
};

enum class RateMode : uint8_t {
    startup,  // learning the path's rate
    steady,   // a small queue of our own stands on the path
    compete,  // others fill the queue: our share is held
    drain,    // the queue runs dry for a round, so that the base delay is seen
};
const char* to_string(RateMode mode);

// Counters are since the endpoint was made (they survive sessions); the rest is the present moment.
struct Stats {
    uint64_t session_id = 0;
    uint64_t sessions = 0;  // completed handshakes
    uint64_t handshake_attempts = 0;
    uint64_t state = 0;  // SessionState
    uint64_t rtt_smoothed_ns = 0;
    uint64_t rtt_min_ns = 0;
    uint64_t delivery_rate_bits_per_s =
        0;  // windowed maximum, UDP payload + kWireOverheadBytes per packet
    uint64_t pacing_rate_bits_per_s = 0;
    uint64_t ceiling_bits_per_s = 0;
    uint64_t inflight_bytes = 0;
    uint64_t window_bytes = 0;      // congestion window
    uint64_t loss_ppm = 0;          // smoothed over rounds, parts per million of packets
    uint64_t loss_burst_milli = 0;  // mean length of a run of lost packets, times 1000
    uint64_t queue_delay_ns = 0;    // standing on the path now, beyond its base delay
    uint64_t rate_mode = 0;         // RateMode
    uint64_t scavenging = 0;        // 1: bulk yields to other traffic (set_scavenger)
    uint64_t cuts_undone = 0;       // rate cuts taken back: their losses proved spurious
    uint64_t memory_bytes = 0;      // held for the connection now: tables and messages
    uint64_t memory_bytes_max = 0;  // the most it can be with this configuration
    uint64_t silent_ns = 0;         // since the peer was last heard, when state is silent
    uint64_t packets_sent = 0;
    uint64_t packets_received = 0;  // authentic ones
    uint64_t packets_lost = 0;      // declared lost by us
    uint64_t packets_spurious = 0;  // of those, acknowledged later after all
    uint64_t bytes_sent = 0;        // UDP payload
    uint64_t bytes_received = 0;
    uint64_t probes_sent = 0;
    uint64_t rekeys = 0;                // key phases entered, both directions
    uint64_t path_mtu_bytes = 0;        // UDP payload that data packets may have now
    uint64_t path_mtu_probes = 0;       // sent
    uint64_t path_mtu_black_holes = 0;  // times the size fell because large packets vanished
    uint64_t peer_ip = 0;               // where the session sends, host byte order
    uint64_t peer_port = 0;
    uint64_t path_challenges = 0;   // sent
    uint64_t path_changes = 0;      // the session went on at another address of the peer
    uint64_t path_refused = 0;      // addresses that did not prove to be the peer's
    uint64_t fec_packets_sent = 0;  // parity
    uint64_t fec_packets_received = 0;
    uint64_t fec_recovered = 0;          // packets that we rebuilt
    uint64_t fec_recovered_by_peer = 0;  // of ours
    uint64_t fec_active = 0;             // 1 = the line loses packets: parity is on
    uint64_t fec_loss_ppm = 0;           // as FEC sees it
    uint64_t fec_burst_milli = 0;        // mean run of lost packets, thousandths
    uint64_t fec_memory_bytes = 0;
    uint64_t drop_reports_lost = 0;  // of cancelled and expired messages: nobody took them
    std::array<ClassStats, kClasses> classes{};
    std::array<uint64_t, kDropReasons> drops{};
};

// Added to each UDP payload when rates are computed: Ethernet, IPv4 and UDP headers (14 + 20 + 8).
inline constexpr size_t kWireOverheadBytes = 42;

}  // namespace evac::wan
