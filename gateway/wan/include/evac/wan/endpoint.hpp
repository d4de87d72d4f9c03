#pragma once
// One end of the WAN transport, sans-I/O: time, randomness and datagrams come in by argument, so
// the same code runs in the daemon and in a deterministic simulation. No threads, no sockets, no
// clock. docs/wan-protocol.md has the packet grammar, the states, the key schedule and the threat
// model.
//
// Owning thread: one (the packet loop). Nothing allocates per packet; a message costs one buffer.
//
//   loop:  receive(now, from, datagram) for each arrival
//          tick(now)
//          while ((size = transmit(now, buffer, to)) != 0) send it
//          sleep until next_timeout_ns(), an arrival, or something to send
//
// `now_ns` is monotonic and never decreases between calls. A loop that comes back long after
// next_timeout_ns() was stopped (a paused guest, a clock that jumped): that time is not counted
// against the peer or the path.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "evac/core/result.hpp"
#include "evac/wan/tls_config.hpp"
#include "evac/wan/types.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan {

enum class Role : uint8_t {
    connect,  // DTLS client: starts handshakes; peer_address is required
    listen,   // DTLS server: answers; peer_address {0,0} accepts any source address (see below)
};

enum class FecMode : uint8_t {
    off,
    urgent,  // control and demand
    full,    // and the tails of disk and bulk
};

struct ClassLimits {
    size_t send_bytes_max = 0;     // accepted and unacknowledged; send() says full beyond it
    size_t receive_bytes_max = 0;  // reassembly + delivered but not taken; advertised to the peer
};

inline constexpr size_t kDatagramBytesMin = 1200;
inline constexpr size_t kDatagramBytesMax = 9000;
inline constexpr size_t kFecHistoryBytesMin = 64 * 1024;
inline constexpr size_t kFecHistoryBytesMax = 64u << 20;

struct EndpointConfig {
    Role role = Role::connect;
    wan_port::UdpAddress peer_address{};
    // true: peer_address is where the connecting side begins. A session follows the peer to another
    // address (NAT rebinding, another uplink) once it has proved to be there, and a listening side
    // answers hellos from anywhere: certificates say who it is, not addresses. false: a session
    // stays where it began, and with a peer_address everything from elsewhere is dropped unread.
    bool allow_address_change = true;
    size_t datagram_bytes_max =
        1472;  // UDP payload, kDatagramBytesMin..kDatagramBytesMax; the port's maximum or less

    // Rates count UDP payload plus kWireOverheadBytes per packet.
    uint64_t ceiling_bits_per_s = 10'000'000'000;
    uint64_t floor_bits_per_s = 1'000'000;  // never paced below it; at most the ceiling
    uint64_t start_bits_per_s =
        10'000'000;  // first guess of a first session; later ones start at the last rate

    uint32_t disk_weight = 2;  // disk : bulk when both wait
    uint32_t bulk_weight = 1;

    // Outages: a session is never given up for silence alone.
    uint64_t probe_interval_ns = 100'000'000;        // between probes while the peer is silent
    uint64_t keepalive_interval_ns = 1'000'000'000;  // when nothing else is sent
    uint64_t silent_after_ns = 500'000'000;          // unanswered for this long: state silent
    uint64_t reconnect_after_ns =
        2'000'000'000;  // silent for this long: also knock with a new handshake

    uint64_t rekey_after_packets = 1ull << 26;
    uint64_t rekey_after_ns = 900'000'000'000;  // 15 min

    // Forward error correction of what we send; what the peer sends is always decoded. It costs
    // nothing while the line loses nothing. The history is allocated at the first loss, at each
    // end.
    FecMode fec = FecMode::full;
    size_t fec_history_bytes = 2u << 20;  // kFecHistoryBytesMin..Max

    std::array<ClassLimits, kClasses> classes{{
        {2u << 20, 2u << 20},    // control
        {8u << 20, 8u << 20},    // demand
        {32u << 20, 32u << 20},  // disk
        {32u << 20, 32u << 20},  // bulk
    }};
};

inline constexpr size_t kDropReportsMax = 1024;

class Endpoint {
  public:
    // `seed` drives jitter only; key material comes from OpenSSL. Errors: a field out of range,
    // named.
    static Result<std::unique_ptr<Endpoint>> create(const EndpointConfig& config,
                                                    std::shared_ptr<const TlsContext> tls,
                                                    uint64_t seed, uint64_t now_ns);
    virtual ~Endpoint() = default;
    // The most bytes that an endpoint of this configuration holds: the session's tables, messages
    // accepted and undelivered, handshakes under way. Stats::memory_bytes is what it holds now.
    static size_t memory_bytes_max(const EndpointConfig& config);

    // A datagram came in. Never fails: what does not fit is dropped and counted.
    virtual void receive(uint64_t now_ns, const wan_port::UdpAddress& from, ByteSpan datagram) = 0;
    // Runs the timers that are due.
    virtual void tick(uint64_t now_ns) = 0;
    // Writes the next datagram into `out` (at least datagram_bytes_max long) and its target into
    // `to`. 0 = nothing now.
    virtual size_t transmit(uint64_t now_ns, std::span<std::byte> out,
                            wan_port::UdpAddress& to) = 0;
    // Certificates, authorities and revocation list for the handshakes from now on. The living
    // session goes on, unless the new context does not trust the peer's certificate any more
    // (revoked, authority gone, other name): then it ends at once and take_refusal() says why. Time
    // alone (an expired certificate or list) does not end a session.
    virtual void set_tls(uint64_t now_ns, std::shared_ptr<const TlsContext> tls) = 0;

    // When tick() and transmit() must be called next without an arrival; UINT64_MAX = never.
    virtual uint64_t next_timeout_ns() const = 0;

    // ok moves from `message`; otherwise it is untouched. session: the one the caller believes in.
    virtual SendResult send(Class c, SessionId session, Bytes&& message,
                            const SendOptions& options) = 0;
    SendResult send(Class c, SessionId session, Bytes&& message) {
        return send(c, session, std::move(message), SendOptions{});
    }
    // Takes a message back that was sent with this ticket and is not begun: its bytes are free at
    // once. cancelled or too_late; messages of a session that is over are void anyway.
    virtual Dropped::Reason cancel(Class c, SessionId session, uint64_t ticket) = 0;
    // Messages of the present session whose deadline passed. At most kDropReportsMax wait to be
    // taken; more are only counted.
    virtual std::optional<Dropped> take_dropped() = 0;
    // The next complete message in order; taking it opens the window. Messages of a replaced
    // session are gone.
    virtual std::optional<Message> take(Class c) = 0;

    virtual SessionId session() const = 0;  // changes exactly when a handshake completes
    virtual SessionState state() const = 0;
    // Why the peer or we refused the handshake, for people; each text once until it changes or a
    // session comes up.
    virtual std::optional<std::string> take_refusal() = 0;

    // Cumulative over all sessions, per class, in message bytes: `departed` were transmitted once
    // or given up (with their session, cancelled, expired); `released` were acknowledged completely
    // or given up.
    virtual uint64_t departed_bytes(Class c) const = 0;
    virtual uint64_t released_bytes(Class c) const = 0;

    virtual void set_ceiling_bits_per_s(uint64_t rate) = 0;
    // Disk and bulk use only what other traffic leaves: they yield when a queue stands on the path
    // and take the line back when it is free. Control and demand go on (at least
    // 64 KiB per round trip). Kept across sessions; off at first.
    virtual void set_scavenger(bool on) = 0;
    virtual Stats stats(uint64_t now_ns) const = 0;
};

}  // namespace evac::wan
