#pragma once
// The datagram port: how the transport reaches the other site. Implementations: DPDK
// (gateway/wan/dpdk) and kernel UDP (here). One conformance suite runs against all of them and
// against the in-memory pair used by simulations.
//
// Owning thread: the packet loop, for every method. Nothing here allocates after construction,
// blocks or logs.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "evac/core/result.hpp"

namespace evac::wan_port {

// IPv4 in host byte order; port in host byte order.
struct UdpAddress {
    uint32_t ip = 0;
    uint16_t port = 0;
    bool operator==(const UdpAddress&) const = default;
};

Result<UdpAddress> parse_udp_address(const std::string& text);  // "10.0.0.1:4500"
std::string to_string(const UdpAddress& address);

struct PortCounters {
    uint64_t tx_packets = 0, tx_bytes = 0,
             tx_dropped = 0;  // bytes: UDP payload; dropped: device or kernel refused
    uint64_t rx_packets = 0, rx_bytes = 0;
    uint64_t rx_not_ours = 0;  // other protocol, port or address
    uint64_t rx_bad_checksum = 0;
    uint64_t rx_malformed = 0;
    uint64_t rx_ring_dropped =
        0;  // the device's ring was full: the loop was too slow (updated about once a second)
    uint64_t rx_mtu_hints = 0;  // see PathMtuHint
};

// A router's word that a datagram of ours was too large for the path (ICMP type 3 code 4, RFC
// 1191), or the kernel's that its own interface does not take it.
//
// Nobody vouches for it: anyone who can guess our addresses and ports can send one. It says that
// probing smaller sizes is worth while now, and where to begin; the transport believes only what
// its own authenticated probes confirm, and must not let hints alone shrink its datagrams for good.
// A port keeps the latest one only, sends nothing because of it, and accepts ten a second at most
// (kernel UDP: what the kernel's own ICMP limits let through, one per call of receive).
struct PathMtuHint {
    UdpAddress to;             // where that datagram was going: the last destination of send()
    size_t payload_bytes = 0;  // UDP payload said to fit: kPathMtuHintMin or more
    uint64_t count = 0;        // hints so far, 0 = none yet; a change means that this one is new
};
inline constexpr size_t kPathMtuHintMin = 576 - 28;  // below IPv4's least MTU nothing is believed

using DatagramHandler =
    std::function<void(const UdpAddress& from, std::span<const std::byte> payload)>;

class DatagramPort {
  public:
    virtual ~DatagramPort() = default;

    // Sends datagrams to `to`, in order, and returns how many the device took (a prefix of the
    // span). Fewer than all means: try again later. A taken datagram may still be lost. Payloads
    // larger than payload_bytes_max() are a programmer error. Until the next hop's hardware address
    // is known, datagrams are dropped and counted.
    virtual size_t send(const UdpAddress& to,
                        std::span<const std::span<const std::byte>> datagrams) = 0;

    // Hands at most `budget` waiting datagrams to `handler` and returns how many. Also answers ARP
    // and ICMP echo.
    virtual size_t receive(size_t budget, const DatagramHandler& handler) = 0;

    // A descriptor that poll() reports readable when receive() has work; -1 when there is none
    // (then the loop sleeps by the clock: 50 us to 1 ms, 10 ms when long idle). Sleep on it only
    // after a receive() that returned fewer than its budget. With the link down poll() may report
    // POLLERR at once: the loop then falls back to a timed sleep.
    virtual int wait_fd() const = 0;

    virtual size_t payload_bytes_max()
        const = 0;  // UDP payload that fits the device's MTU (1472 at MTU 1500)
    virtual PathMtuHint path_mtu_hint() const { return {}; }
    virtual UdpAddress local_address() const = 0;
    virtual const PortCounters& counters() const = 0;
    virtual const char* name()
        const = 0;  // "dpdk net_af_packet0", "kernel-udp": for status and logs
};

}  // namespace evac::wan_port
