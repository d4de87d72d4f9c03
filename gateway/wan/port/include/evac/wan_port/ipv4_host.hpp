#pragma once
// The least IPv4 host that lets a bare device carry our UDP: neighbour resolution (ARP), ICMP echo
// replies, and UDP frames both ways. Sans-I/O: frames and time come in by argument. A device port
// owns one. Owning thread: the port's. No allocation after construction.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "evac/core/bytes.hpp"
#include "evac/core/units.hpp"
#include "evac/wan_port/datagram_port.hpp"
#include "evac/wan_port/frame_codec.hpp"

namespace evac::wan_port {

struct Ipv4HostOptions {
    MacAddress mac{};
    UdpAddress local;
    uint8_t prefix_length = 24;  // the on-link network of local.ip
    uint32_t gateway_ip = 0;     // next hop for everything else; 0 = none (off-link is unreachable)
    // Sent on every frame; received ones with another identifier, or without, are not ours. Without
    // one, tagged frames are not ours (unless identifier 0: priority only).
    VlanTag vlan{};
};

class Ipv4Host {
  public:
    static constexpr size_t kNeighboursMax = 8;  // a gateway talks to one peer and one router
    // While an address is wanted and unknown it is asked for at this fixed interval: no back-off,
    // so that an outage's end is noticed at once (28 bytes five times a second).
    static constexpr uint64_t kArpRetryNs = 200 * kNsPerMs;
    // A known address in use is asked for again so often. It is never forgotten: during an outage
    // the old answer is the best guess, and a new one replaces it when it comes.
    static constexpr uint64_t kArpRefreshNs = 20 * kNsPerSecond;
    // An address that nobody sent to for so long is not asked for any more.
    static constexpr uint64_t kArpWantedNs = 5 * kNsPerSecond;
    // Hints about the path's MTU are taken at most so often: anyone can send them.
    static constexpr uint64_t kMtuHintGapNs = 100 * kNsPerMs;

    explicit Ipv4Host(const Ipv4HostOptions& options);

    // The frame fields for datagrams to `to`, or null while the next hop's address is unknown (it
    // is then marked wanted). Valid until the next call of any method.
    const UdpFlow* flow_to(const UdpAddress& to, uint64_t now_ns);

    // Writes the next ARP request that is due at now_ns and returns its size; 0 = none is due. Call
    // until it returns 0, from both send and receive. `out` holds at least kArpFrameBytesMax.
    size_t write_due_request(uint64_t now_ns, std::span<std::byte> out);

    // Announces our own address (gratuitous ARP), for neighbours that know an older one.
    size_t write_announcement(std::span<std::byte> out) const;

    struct Input {
        bool is_datagram =
            false;  // then from and payload are set; payload is a view into the frame
        UdpAddress from;
        ByteSpan payload;
        size_t reply_bytes = 0;  // a frame to send back, written into `reply`
    };
    // Takes any frame. A reply that does not fit `reply` is not made. Counts into `counters`.
    // `stripped`: the 802.1Q tag where the device took it out of the frame.
    Input handle(ByteSpan frame, uint64_t now_ns, std::span<std::byte> reply,
                 PortCounters& counters, const VlanTag* stripped = nullptr);

    // The latest believable hint: it quotes a datagram of ours to the last flow_to().
    const PathMtuHint& path_mtu_hint() const { return hint_; }

    uint16_t next_ip_id() { return ip_id_++; }
    const Ipv4HostOptions& options() const { return options_; }

  private:
    struct Neighbour {
        uint32_t ip = 0;  // 0 = free
        bool known = false;
        MacAddress mac{};
        uint64_t wanted_ns = 0;  // last use by flow_to
        uint64_t asked_ns = 0;
        bool ever_asked = false;
        uint64_t confirmed_ns = 0;
    };

    bool on_link(uint32_t ip) const;
    Neighbour* find(uint32_t ip);
    Neighbour& find_or_replace_oldest(uint32_t ip);
    void learn(uint32_t ip, const MacAddress& mac, bool may_add, uint64_t now_ns);
    bool on_our_vlan(const DecodedFrame& decoded, const VlanTag* stripped) const;
    Input handle_arp(const DecodedFrame& decoded, uint64_t now_ns, std::span<std::byte> reply);
    bool take_hint(const DecodedFrame& decoded, uint64_t now_ns);

    Ipv4HostOptions options_;
    uint32_t mask_;
    std::array<Neighbour, kNeighboursMax> neighbours_{};
    UdpFlow flow_;
    PathMtuHint hint_;
    uint64_t hint_ns_ = 0;
    uint16_t ip_id_ = 1;
};

}  // namespace evac::wan_port
