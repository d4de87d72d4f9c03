// Any bytes as a frame: the decoder must stay within them, and what it accepts must survive a round
// trip through the encoder. The host on top must only ever answer with well-formed frames.
#include <array>
#include <cstdint>

#include "evac/core/assert.hpp"
#include "evac/wan_port/frame_codec.hpp"
#include "evac/wan_port/ipv4_host.hpp"

using namespace evac;
using namespace evac::wan_port;

namespace {

void check_round_trip(const DecodedFrame& decoded) {
    static std::array<std::byte, 70000> again;
    const UdpFlow flow{decoded.src_mac,
                       decoded.dst_mac,
                       {decoded.src_ip, decoded.src_port},
                       {decoded.dst_ip, decoded.dst_port},
                       decoded.vlan};
    const size_t size = encode_udp_frame(flow, 1, decoded.payload, again);
    const DecodedFrame twice = decode_frame(ByteSpan(again).first(size));
    EVAC_ASSERT(twice.kind == FrameKind::udp);
    EVAC_ASSERT(twice.payload.size() == decoded.payload.size());
    EVAC_ASSERT(!decoded.vlan.present() || twice.vlan == decoded.vlan);
}

void check_host(ByteSpan frame, const VlanTag& vlan) {
    const MacAddress mac{std::byte{2}, std::byte{0}, std::byte{0},
                         std::byte{0}, std::byte{0}, std::byte{2}};
    Ipv4Host host({mac, {0x0a4d0002, 4501}, 24, 0, vlan});
    PortCounters counters;
    std::array<std::byte, 1518> reply{};
    host.flow_to({0x0a4d0001, 4500}, 1);
    std::array<std::byte, kArpFrameBytesMax> answer{};
    const size_t answer_bytes = encode_arp_reply(
        {std::byte{2}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}},
        0x0a4d0001, mac, 0x0a4d0002, answer, vlan);
    host.handle(ByteSpan(answer).first(answer_bytes), 1, reply, counters);
    EVAC_ASSERT(host.flow_to({0x0a4d0001, 4500}, 1) != nullptr);
    const auto input = host.handle(frame, 2, reply, counters);
    EVAC_ASSERT(input.reply_bytes <= reply.size());
    if (input.reply_bytes != 0) {
        const DecodedFrame sent = decode_frame(ByteSpan(reply).first(input.reply_bytes));
        EVAC_ASSERT(sent.kind == FrameKind::arp_reply || sent.kind == FrameKind::other);
        EVAC_ASSERT(sent.vlan == vlan);
    }
    EVAC_ASSERT(!input.is_datagram || counters.rx_packets == 1);
    const PathMtuHint& hint = host.path_mtu_hint();
    EVAC_ASSERT(hint.count == counters.rx_mtu_hints);
    if (hint.count != 0) {
        EVAC_ASSERT(hint.payload_bytes >= kPathMtuHintMin && hint.payload_bytes < 65508);
        EVAC_ASSERT(hint.to == (UdpAddress{0x0a4d0001, 4500}));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const ByteSpan frame{reinterpret_cast<const std::byte*>(data), size};
    const DecodedFrame decoded = decode_frame(frame);
    // The encoder writes no options, so a payload next to the largest IP packet may not fit again.
    if (decoded.kind == FrameKind::udp && decoded.payload.size() < 65000) check_round_trip(decoded);

    for (const VlanTag vlan : {VlanTag{}, VlanTag{5, 5}}) check_host(frame, vlan);
    return 0;
}
