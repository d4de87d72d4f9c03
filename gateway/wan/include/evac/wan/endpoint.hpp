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
// `now_ns` is monotonic and never decreases between calls.
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
    listen,   // DTLS server: answers; peer_address {0,0} accepts any source address
};

struct ClassLimits {
    size_t send_bytes_max = 0;     // accepted and unacknowledged; send() says full beyond it
    size_t receive_bytes_max = 0;  // reassembly + delivered but not taken; advertised to the peer
};

inline constexpr size_t kDatagramBytesMin = 1200;
inline constexpr size_t kDatagramBytesMax = 9000;

struct EndpointConfig {
    Role role = Role::connect;
    wan_port::UdpAddress peer_address{};
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

    std::array<ClassLimits, kClasses> classes{{
        {2u << 20, 2u << 20},    // control
        {8u << 20, 8u << 20},    // demand
        {32u << 20, 32u << 20},  // disk
        {32u << 20, 32u << 20},  // bulk
    }};
};

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
    // When tick() and transmit() must be called next without an arrival; UINT64_MAX = never.
    virtual uint64_t next_timeout_ns() const = 0;

    // ok moves from `message`; otherwise it is untouched. session: the one the caller believes in.
    virtual SendResult send(Class c, SessionId session, Bytes&& message) = 0;
    // The next complete message in order; taking it opens the window. Messages of a replaced
    // session are gone.
    virtual std::optional<Message> take(Class c) = 0;

    virtual SessionId session() const = 0;  // changes exactly when a handshake completes
    virtual SessionState state() const = 0;
    // Why the peer or we refused the handshake, for people; each text once until it changes or a
    // session comes up.
    virtual std::optional<std::string> take_refusal() = 0;

    // Cumulative over all sessions, per class, in message bytes: `departed` were transmitted once
    // or given up with their session; `released` were acknowledged completely or given up.
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
