#pragma once
// Ethernet II / 802.1Q / IPv4 / UDP / ARP / ICMP: the frames that a device port speaks itself
// because no kernel does it for us. Pure functions, no allocation. Wire formats: IEEE 802.1Q (one
// tag, type 0x8100), RFC 894, 791, 768, 826, 792, 1191.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "evac/core/bytes.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan_port {

using MacAddress = std::array<std::byte, 6>;
inline constexpr MacAddress kBroadcastMac{std::byte{0xff}, std::byte{0xff}, std::byte{0xff},
                                          std::byte{0xff}, std::byte{0xff}, std::byte{0xff}};

inline constexpr size_t kEthernetHeaderBytes = 14;
inline constexpr size_t kIpv4HeaderBytes = 20;  // as we send it: no options
inline constexpr size_t kUdpHeaderBytes = 8;
inline constexpr size_t kUdpFrameHeaderBytes =
    kEthernetHeaderBytes + kIpv4HeaderBytes + kUdpHeaderBytes;       // 42
inline constexpr size_t kVlanTagBytes = 4;                           // more, with a tag
inline constexpr size_t kArpFrameBytes = kEthernetHeaderBytes + 28;  // 42, the device pads to 60
// The largest header that an encoder writes.
inline constexpr size_t kUdpFrameHeaderBytesMax = kUdpFrameHeaderBytes + kVlanTagBytes;
inline constexpr size_t kArpFrameBytesMax = kArpFrameBytes + kVlanTagBytes;

// An 802.1Q tag. Identifier 0 as an option: untagged. On the wire 0 means "priority only".
struct VlanTag {
    uint16_t id = 0;       // 1..4094
    uint8_t priority = 0;  // 0..7
    bool present() const { return id != 0; }
    bool operator==(const VlanTag&) const = default;
};
VlanTag vlan_tag_of(uint16_t tci);  // tag control information, as drivers hand it over

// Ones' complement sum of big-endian 16-bit words, not yet folded; an odd last byte is padded with
// zero. Sums of parts may be added when every part but the last has an even length.
uint64_t checksum_sum(ByteSpan bytes);
// Folds a sum and complements it: the value that goes into a header, host byte order.
uint16_t checksum_fold(uint64_t sum);

enum class FrameKind : uint8_t {
    udp,                // payload = UDP payload
    arp_request,        // src_ip asks for dst_ip; src_mac is the sender's address from the ARP body
    arp_reply,          // src_ip is at src_mac
    icmp_echo_request,  // payload = ICMP message from its type byte on
    icmp_too_big,       // "fragmentation needed": quoted = the datagram that was too large
    other,              // well-formed as far as read, but not for this stack (IPv6, TCP, ...)
    malformed,          // lengths or versions do not fit, or an IP fragment
    bad_checksum,       // IPv4 header, UDP or ICMP
};

struct DecodedFrame {
    FrameKind kind = FrameKind::malformed;
    MacAddress src_mac{}, dst_mac{};
    uint32_t src_ip = 0, dst_ip = 0;      // host byte order
    uint16_t src_port = 0, dst_port = 0;  // UDP only
    ByteSpan payload;                     // a view into the frame
    bool tagged = false;                  // 802.1Q; then:
    VlanTag vlan{};
    struct Quoted {  // icmp_too_big only: the start of an IPv4/UDP packet, as an ICMP sender quotes
        UdpAddress src, dst;
        size_t ip_bytes = 0;      // its length
        size_t next_hop_mtu = 0;  // what would have fitted; 0 = an old router does not say
    } quoted;
};

// Any bytes in, no precondition. Fields beyond `kind` are valid for udp, arp_*, icmp_* only.
DecodedFrame decode_frame(ByteSpan frame);

// Everything about a flow's frames that does not change from datagram to datagram.
struct UdpFlow {
    MacAddress src_mac{}, dst_mac{};
    UdpAddress src, dst;
    VlanTag vlan{};

    size_t header_bytes() const {
        return kUdpFrameHeaderBytes + (vlan.present() ? kVlanTagBytes : 0);
    }
};

// Each writes a frame into `out` and returns its size. `out` too small is a programmer error.
size_t encode_udp_frame(const UdpFlow& flow, uint16_t ip_id, ByteSpan payload,
                        std::span<std::byte> out);
size_t encode_arp_request(const MacAddress& mac, uint32_t ip, uint32_t wanted_ip,
                          std::span<std::byte> out, const VlanTag& vlan = {});
size_t encode_arp_reply(const MacAddress& mac, uint32_t ip, const MacAddress& to_mac,
                        uint32_t to_ip, std::span<std::byte> out, const VlanTag& vlan = {});
// The answer to a decoded echo request: addresses swapped, same identifier, sequence and data.
size_t encode_icmp_echo_reply(const DecodedFrame& request, std::span<std::byte> out,
                              const VlanTag& vlan = {});

}  // namespace evac::wan_port
