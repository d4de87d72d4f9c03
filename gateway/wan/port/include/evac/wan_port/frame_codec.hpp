#pragma once
// Ethernet II / IPv4 / UDP / ARP / ICMP echo: the frames that a device port speaks itself because
// no kernel does it for us. Pure functions, no allocation. Wire formats: RFC 894, 791, 768, 826,
// 792. 802.1Q tags are not understood: a tagged frame decodes as `other`.
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
inline constexpr size_t kArpFrameBytes = kEthernetHeaderBytes + 28;  // 42, the device pads to 60

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
    other,              // well-formed as far as read, but not for this stack (IPv6, TCP, VLAN, ...)
    malformed,          // lengths or versions do not fit, or an IP fragment
    bad_checksum,       // IPv4 header, UDP or ICMP
};

struct DecodedFrame {
    FrameKind kind = FrameKind::malformed;
    MacAddress src_mac{}, dst_mac{};
    uint32_t src_ip = 0, dst_ip = 0;      // host byte order
    uint16_t src_port = 0, dst_port = 0;  // UDP only
    ByteSpan payload;                     // a view into the frame
};

// Any bytes in, no precondition. Fields beyond `kind` are valid for udp, arp_* and
// icmp_echo_request only.
DecodedFrame decode_frame(ByteSpan frame);

// Everything about a flow's frames that does not change from datagram to datagram.
struct UdpFlow {
    MacAddress src_mac{}, dst_mac{};
    UdpAddress src, dst;
};

// Each writes a frame into `out` and returns its size. `out` too small is a programmer error.
size_t encode_udp_frame(const UdpFlow& flow, uint16_t ip_id, ByteSpan payload,
                        std::span<std::byte> out);
size_t encode_arp_request(const MacAddress& mac, uint32_t ip, uint32_t wanted_ip,
                          std::span<std::byte> out);
size_t encode_arp_reply(const MacAddress& mac, uint32_t ip, const MacAddress& to_mac,
                        uint32_t to_ip, std::span<std::byte> out);
// The answer to a decoded echo request: addresses swapped, same identifier, sequence and data.
size_t encode_icmp_echo_reply(const DecodedFrame& request, std::span<std::byte> out);

}  // namespace evac::wan_port
