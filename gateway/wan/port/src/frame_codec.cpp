#include "evac/wan_port/frame_codec.hpp"

#include <cstring>

#include "evac/core/assert.hpp"

namespace evac::wan_port {
namespace {

constexpr uint16_t kEtherTypeIpv4 = 0x0800;
constexpr uint16_t kEtherTypeArp = 0x0806;
constexpr uint16_t kEtherTypeVlan = 0x8100;
constexpr uint16_t kVlanIdMask = 0x0fff;
constexpr uint8_t kProtocolIcmp = 1;
constexpr uint8_t kProtocolUdp = 17;
constexpr uint8_t kTtl = 64;
constexpr uint16_t kDontFragment = 0x4000;
constexpr uint16_t kFragmentBits = 0x3fff;  // more-fragments and the offset
constexpr uint8_t kIcmpEchoRequest = 8;
constexpr uint8_t kIcmpUnreachable = 3;
constexpr uint8_t kIcmpFragmentationNeeded = 4;
constexpr size_t kIcmpHeaderBytes = 8;
constexpr uint16_t kArpRequest = 1;
constexpr uint16_t kArpReply = 2;

// Fixed-size big-endian access to a buffer whose bounds the caller has checked.
uint16_t get16(ByteSpan bytes, size_t at) {
    return static_cast<uint16_t>((std::to_integer<unsigned>(bytes[at]) << 8) |
                                 std::to_integer<unsigned>(bytes[at + 1]));
}
uint32_t get32(ByteSpan bytes, size_t at) {
    return (uint32_t{get16(bytes, at)} << 16) | get16(bytes, at + 2);
}
uint8_t get8(ByteSpan bytes, size_t at) {
    return std::to_integer<uint8_t>(bytes[at]);
}
MacAddress get_mac(ByteSpan bytes, size_t at) {
    MacAddress mac;
    std::memcpy(mac.data(), bytes.data() + at, mac.size());
    return mac;
}
void put8(std::byte* at, uint8_t value) {
    *at = std::byte{value};
}
void put16(std::byte* at, uint16_t value) {
    put8(at, static_cast<uint8_t>(value >> 8));
    put8(at + 1, static_cast<uint8_t>(value & 0xff));
}
void put32(std::byte* at, uint32_t value) {
    put16(at, static_cast<uint16_t>(value >> 16));
    put16(at + 2, static_cast<uint16_t>(value & 0xffff));
}

// Returns the header's size.
size_t put_ethernet(std::byte* out, const MacAddress& dst, const MacAddress& src,
                    const VlanTag& vlan, uint16_t type) {
    std::memcpy(out, dst.data(), dst.size());
    std::memcpy(out + 6, src.data(), src.size());
    if (vlan.present()) {
        put16(out + 12, kEtherTypeVlan);
        put16(out + 14, static_cast<uint16_t>((vlan.priority << 13) | (vlan.id & kVlanIdMask)));
        out += kVlanTagBytes;
    }
    put16(out + 12, type);
    return kEthernetHeaderBytes + (vlan.present() ? kVlanTagBytes : 0);
}

void put_ipv4(std::byte* out, uint8_t protocol, uint32_t src, uint32_t dst, uint16_t id,
              size_t total_bytes) {
    put8(out, 0x45);
    put8(out + 1, 0);
    put16(out + 2, static_cast<uint16_t>(total_bytes));
    put16(out + 4, id);
    put16(out + 6, kDontFragment);
    put8(out + 8, kTtl);
    put8(out + 9, protocol);
    put16(out + 10, 0);
    put32(out + 12, src);
    put32(out + 16, dst);
    put16(out + 10, checksum_fold(checksum_sum({out, kIpv4HeaderBytes})));
}

// The UDP checksum also covers addresses, protocol and length (RFC 768).
uint64_t pseudo_header_sum(uint32_t src, uint32_t dst, uint8_t protocol, size_t udp_bytes) {
    return uint64_t{src >> 16} + (src & 0xffff) + (dst >> 16) + (dst & 0xffff) + protocol +
           udp_bytes;
}

DecodedFrame with_kind(DecodedFrame frame, FrameKind kind) {
    frame.kind = kind;
    return frame;
}

DecodedFrame decode_arp(DecodedFrame frame, ByteSpan arp) {
    if (arp.size() < 28) return with_kind(frame, FrameKind::malformed);
    if (get16(arp, 0) != 1 || get16(arp, 2) != kEtherTypeIpv4 || get8(arp, 4) != 6 ||
        get8(arp, 5) != 4) {
        return with_kind(frame, FrameKind::other);
    }
    const uint16_t operation = get16(arp, 6);
    // The body's sender address is what the asker wants to be answered at; bridges may differ in
    // the header.
    frame.src_mac = get_mac(arp, 8);
    frame.src_ip = get32(arp, 14);
    frame.dst_ip = get32(arp, 24);
    if (operation == kArpRequest) return with_kind(frame, FrameKind::arp_request);
    if (operation == kArpReply) return with_kind(frame, FrameKind::arp_reply);
    return with_kind(frame, FrameKind::other);
}

DecodedFrame decode_udp(DecodedFrame frame, ByteSpan udp) {
    if (udp.size() < kUdpHeaderBytes) return with_kind(frame, FrameKind::malformed);
    const size_t udp_bytes = get16(udp, 4);
    if (udp_bytes < kUdpHeaderBytes || udp_bytes > udp.size()) {
        return with_kind(frame, FrameKind::malformed);
    }
    udp = udp.first(udp_bytes);
    // Zero means that the sender made none (RFC 768).
    if (get16(udp, 6) != 0) {
        const uint64_t sum = pseudo_header_sum(frame.src_ip, frame.dst_ip, kProtocolUdp, udp_bytes);
        if (checksum_fold(sum + checksum_sum(udp)) != 0) {
            return with_kind(frame, FrameKind::bad_checksum);
        }
    }
    frame.src_port = get16(udp, 0);
    frame.dst_port = get16(udp, 2);
    frame.payload = udp.subspan(kUdpHeaderBytes);
    return with_kind(frame, FrameKind::udp);
}

// RFC 1191: type, code, checksum, 2 unused bytes, next hop's MTU, then the IP header and at least 8
// bytes of the packet that was too large. Routers may quote more, and may have changed TTL and
// header checksum: neither is looked at.
DecodedFrame decode_too_big(DecodedFrame frame, ByteSpan icmp) {
    const ByteSpan ip = icmp.subspan(kIcmpHeaderBytes);
    if (ip.size() < kIpv4HeaderBytes) return with_kind(frame, FrameKind::malformed);
    const size_t header_bytes = size_t{get8(ip, 0) & 0x0fU} * 4;
    if ((get8(ip, 0) >> 4) != 4 || header_bytes < kIpv4HeaderBytes ||
        ip.size() < header_bytes + kUdpHeaderBytes) {
        return with_kind(frame, FrameKind::malformed);
    }
    if (get8(ip, 9) != kProtocolUdp || (get16(ip, 6) & kFragmentBits) != 0) {
        return with_kind(frame, FrameKind::other);
    }
    frame.quoted.src = {get32(ip, 12), get16(ip, header_bytes)};
    frame.quoted.dst = {get32(ip, 16), get16(ip, header_bytes + 2)};
    frame.quoted.ip_bytes = get16(ip, 2);
    frame.quoted.next_hop_mtu = get16(icmp, 6);
    return with_kind(frame, FrameKind::icmp_too_big);
}

DecodedFrame decode_icmp(DecodedFrame frame, ByteSpan icmp) {
    if (icmp.size() < kIcmpHeaderBytes) return with_kind(frame, FrameKind::malformed);
    if (checksum_fold(checksum_sum(icmp)) != 0) return with_kind(frame, FrameKind::bad_checksum);
    if (get8(icmp, 0) == kIcmpUnreachable && get8(icmp, 1) == kIcmpFragmentationNeeded) {
        return decode_too_big(frame, icmp);
    }
    if (get8(icmp, 0) != kIcmpEchoRequest || get8(icmp, 1) != 0) {
        return with_kind(frame, FrameKind::other);
    }
    frame.payload = icmp;
    return with_kind(frame, FrameKind::icmp_echo_request);
}

DecodedFrame decode_ipv4(DecodedFrame frame, ByteSpan ip) {
    if (ip.size() < kIpv4HeaderBytes) return with_kind(frame, FrameKind::malformed);
    const uint8_t version_length = get8(ip, 0);
    const size_t header_bytes = size_t{version_length & 0x0fU} * 4;
    const size_t total_bytes = get16(ip, 2);
    if ((version_length >> 4) != 4 || header_bytes < kIpv4HeaderBytes ||
        total_bytes < header_bytes || total_bytes > ip.size()) {
        return with_kind(frame, FrameKind::malformed);
    }
    if (checksum_fold(checksum_sum(ip.first(header_bytes))) != 0) {
        return with_kind(frame, FrameKind::bad_checksum);
    }
    // Our peers set Don't Fragment; reassembly would be state for an attacker to fill.
    if ((get16(ip, 6) & kFragmentBits) != 0) return with_kind(frame, FrameKind::malformed);
    frame.src_ip = get32(ip, 12);
    frame.dst_ip = get32(ip, 16);
    // What follows total_bytes is the device's padding to 60 bytes.
    const ByteSpan body = ip.subspan(header_bytes, total_bytes - header_bytes);
    const uint8_t protocol = get8(ip, 9);
    if (protocol == kProtocolUdp) return decode_udp(frame, body);
    if (protocol == kProtocolIcmp) return decode_icmp(frame, body);
    return with_kind(frame, FrameKind::other);
}

size_t encode_arp(uint16_t operation, const MacAddress& mac, uint32_t ip, const MacAddress& to_mac,
                  uint32_t to_ip, std::span<std::byte> out, const VlanTag& vlan) {
    EVAC_ASSERT(out.size() >= kArpFrameBytes + (vlan.present() ? kVlanTagBytes : 0));
    const size_t header_bytes = put_ethernet(
        out.data(), operation == kArpRequest ? kBroadcastMac : to_mac, mac, vlan, kEtherTypeArp);
    std::byte* arp = out.data() + header_bytes;
    put16(arp, 1);  // Ethernet
    put16(arp + 2, kEtherTypeIpv4);
    put8(arp + 4, 6);
    put8(arp + 5, 4);
    put16(arp + 6, operation);
    std::memcpy(arp + 8, mac.data(), mac.size());
    put32(arp + 14, ip);
    std::memcpy(arp + 18, to_mac.data(), to_mac.size());
    put32(arp + 24, to_ip);
    return header_bytes + kArpFrameBytes - kEthernetHeaderBytes;
}

}  // namespace

uint64_t checksum_sum(ByteSpan bytes) {
    // Ones' complement addition does not care about byte order as long as it is swapped once at the
    // end, nor about the width of the words as long as carries go round (RFC 1071): so native
    // 64-bit words, carries counted apart.
    uint64_t wide = 0, carries = 0;
    size_t at = 0;
    for (; at + 8 <= bytes.size(); at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, bytes.data() + at, 8);
        wide += word;
        carries += wide < word ? 1 : 0;
    }
    uint64_t sum = (wide >> 32) + (wide & 0xffffffff) + carries;
    if (at + 4 <= bytes.size()) {
        uint32_t word = 0;
        std::memcpy(&word, bytes.data() + at, 4);
        sum += word;
        at += 4;
    }
    if (at + 2 <= bytes.size()) {
        uint16_t word = 0;
        std::memcpy(&word, bytes.data() + at, 2);
        sum += word;
        at += 2;
    }
    if (at < bytes.size()) {
        uint16_t word = 0;
        std::memcpy(&word, bytes.data() + at, 1);
        sum += word;
    }
    while (sum >> 16) sum = (sum >> 16) + (sum & 0xffff);
    if constexpr (std::endian::native == std::endian::little) {
        sum = ((sum & 0xff) << 8) | (sum >> 8);
    }
    return sum;
}

uint16_t checksum_fold(uint64_t sum) {
    while (sum >> 16) sum = (sum >> 16) + (sum & 0xffff);
    return static_cast<uint16_t>(~sum & 0xffff);
}

VlanTag vlan_tag_of(uint16_t tci) {
    return {static_cast<uint16_t>(tci & kVlanIdMask), static_cast<uint8_t>(tci >> 13)};
}

DecodedFrame decode_frame(ByteSpan frame) {
    DecodedFrame decoded;
    if (frame.size() < kEthernetHeaderBytes) return decoded;
    decoded.dst_mac = get_mac(frame, 0);
    decoded.src_mac = get_mac(frame, 6);
    uint16_t type = get16(frame, 12);
    ByteSpan body = frame.subspan(kEthernetHeaderBytes);
    if (type == kEtherTypeVlan) {
        if (body.size() < kVlanTagBytes) return decoded;
        decoded.tagged = true;
        decoded.vlan = vlan_tag_of(get16(body, 0));
        type = get16(body, 2);
        body = body.subspan(kVlanTagBytes);
    }
    if (type == kEtherTypeIpv4) return decode_ipv4(decoded, body);
    if (type == kEtherTypeArp) return decode_arp(decoded, body);
    return with_kind(decoded, FrameKind::other);
}

size_t encode_udp_frame(const UdpFlow& flow, uint16_t ip_id, ByteSpan payload,
                        std::span<std::byte> out) {
    const size_t udp_bytes = kUdpHeaderBytes + payload.size();
    EVAC_ASSERT(udp_bytes + kIpv4HeaderBytes <= 0xffff);
    EVAC_ASSERT(out.size() >= flow.header_bytes() + payload.size());
    std::byte* ip = out.data() +
                    put_ethernet(out.data(), flow.dst_mac, flow.src_mac, flow.vlan, kEtherTypeIpv4);
    put_ipv4(ip, kProtocolUdp, flow.src.ip, flow.dst.ip, ip_id, kIpv4HeaderBytes + udp_bytes);
    std::byte* udp = ip + kIpv4HeaderBytes;
    put16(udp, flow.src.port);
    put16(udp + 2, flow.dst.port);
    put16(udp + 4, static_cast<uint16_t>(udp_bytes));
    put16(udp + 6, 0);
    if (!payload.empty()) std::memcpy(udp + kUdpHeaderBytes, payload.data(), payload.size());
    const uint16_t checksum =
        checksum_fold(pseudo_header_sum(flow.src.ip, flow.dst.ip, kProtocolUdp, udp_bytes) +
                      checksum_sum({udp, udp_bytes}));
    put16(udp + 6, checksum == 0 ? 0xffff : checksum);  // 0 would mean "no checksum"
    return flow.header_bytes() + payload.size();
}

size_t encode_arp_request(const MacAddress& mac, uint32_t ip, uint32_t wanted_ip,
                          std::span<std::byte> out, const VlanTag& vlan) {
    return encode_arp(kArpRequest, mac, ip, MacAddress{}, wanted_ip, out, vlan);
}

size_t encode_arp_reply(const MacAddress& mac, uint32_t ip, const MacAddress& to_mac,
                        uint32_t to_ip, std::span<std::byte> out, const VlanTag& vlan) {
    return encode_arp(kArpReply, mac, ip, to_mac, to_ip, out, vlan);
}

size_t encode_icmp_echo_reply(const DecodedFrame& request, std::span<std::byte> out,
                              const VlanTag& vlan) {
    const size_t frame_bytes = kEthernetHeaderBytes + (vlan.present() ? kVlanTagBytes : 0) +
                               kIpv4HeaderBytes + request.payload.size();
    EVAC_ASSERT(request.payload.size() >= kIcmpHeaderBytes);
    EVAC_ASSERT(out.size() >= frame_bytes);
    std::byte* ip = out.data() + put_ethernet(out.data(), request.src_mac, request.dst_mac, vlan,
                                              kEtherTypeIpv4);
    put_ipv4(ip, kProtocolIcmp, request.dst_ip, request.src_ip, 0,
             kIpv4HeaderBytes + request.payload.size());
    std::byte* icmp = ip + kIpv4HeaderBytes;
    std::memcpy(icmp, request.payload.data(), request.payload.size());
    put8(icmp, 0);  // echo reply
    put16(icmp + 2, 0);
    put16(icmp + 2, checksum_fold(checksum_sum({icmp, request.payload.size()})));
    return frame_bytes;
}

}  // namespace evac::wan_port
