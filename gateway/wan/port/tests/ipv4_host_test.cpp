#include "evac/wan_port/ipv4_host.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace evac::wan_port {
namespace {

constexpr uint32_t kUs = 0x0a4d0001, kPeer = 0x0a4d0002, kRouter = 0x0a4d00fe, kFar = 0x08080808;
constexpr uint64_t kMs = kNsPerMs;

MacAddress mac(uint8_t last) {
    return {std::byte{0x02}, std::byte{0}, std::byte{0},
            std::byte{0},    std::byte{0}, std::byte{last}};
}

class Ipv4HostTest : public ::testing::Test {
  protected:
    Ipv4Host::Input feed(ByteSpan frame) { return host.handle(frame, now, reply, counters); }
    void feed_reply(uint32_t ip, const MacAddress& at) {
        std::array<std::byte, kArpFrameBytes> frame{};
        encode_arp_reply(at, ip, mac(1), kUs, frame);
        feed(frame);
    }
    // The address asked for by the request that is due, or 0.
    uint32_t asked() {
        const size_t size = host.write_due_request(now, out);
        if (size == 0) return 0;
        const DecodedFrame decoded = decode_frame(ByteSpan(out).first(size));
        EXPECT_EQ(decoded.kind, FrameKind::arp_request);
        EXPECT_EQ(decoded.src_ip, kUs);
        return decoded.dst_ip;
    }
    Bytes datagram(const UdpAddress& src, const UdpAddress& dst, const MacAddress& to_mac) {
        Bytes frame(kUdpFrameHeaderBytes + 4);
        encode_udp_frame({mac(2), to_mac, src, dst}, 1, as_byte_span("data"), frame);
        return frame;
    }

    Ipv4Host host{{mac(1), {kUs, 4500}, 24, kRouter}};
    PortCounters counters;
    uint64_t now = 1'000'000'000;
    std::array<std::byte, 1514> reply{}, out{};
};

TEST_F(Ipv4HostTest, ResolvesThePeerAndRetriesAtAFixedInterval) {
    EXPECT_EQ(asked(), 0U);
    EXPECT_EQ(host.flow_to({kPeer, 4500}, now), nullptr);
    EXPECT_EQ(asked(), kPeer);
    EXPECT_EQ(asked(), 0U);
    for (int i = 0; i < 20; ++i) {  // still at the same pace after many failures
        now += 199 * kMs;
        EXPECT_EQ(host.flow_to({kPeer, 4500}, now), nullptr);
        EXPECT_EQ(asked(), 0U);
        now += 1 * kMs;
        EXPECT_EQ(asked(), kPeer);
    }
    feed_reply(kPeer, mac(2));
    const UdpFlow* flow = host.flow_to({kPeer, 4500}, now);
    ASSERT_NE(flow, nullptr);
    EXPECT_EQ(flow->dst_mac, mac(2));
    EXPECT_EQ(flow->src_mac, mac(1));
    EXPECT_EQ(flow->src, (UdpAddress{kUs, 4500}));
    EXPECT_EQ(flow->dst, (UdpAddress{kPeer, 4500}));
    EXPECT_EQ(asked(), 0U);
}

TEST_F(Ipv4HostTest, StopsAskingForWhatNobodyWants) {
    host.flow_to({kPeer, 4500}, now);
    EXPECT_EQ(asked(), kPeer);
    now += Ipv4Host::kArpWantedNs + 1;
    EXPECT_EQ(asked(), 0U);
}

TEST_F(Ipv4HostTest, RefreshesWhileInUseAndKeepsTheOldAnswerMeanwhile) {
    host.flow_to({kPeer, 4500}, now);
    EXPECT_EQ(asked(), kPeer);
    feed_reply(kPeer, mac(2));
    now += Ipv4Host::kArpRefreshNs;
    ASSERT_NE(host.flow_to({kPeer, 4500}, now), nullptr);
    EXPECT_EQ(asked(), kPeer);
    ASSERT_NE(host.flow_to({kPeer, 4500}, now), nullptr);
    feed_reply(kPeer, mac(9));  // the peer's device was replaced
    EXPECT_EQ(host.flow_to({kPeer, 4500}, now)->dst_mac, mac(9));
    EXPECT_EQ(asked(), 0U);
}

TEST_F(Ipv4HostTest, OffLinkGoesThroughTheGateway) {
    EXPECT_EQ(host.flow_to({kFar, 1}, now), nullptr);
    EXPECT_EQ(asked(), kRouter);
    feed_reply(kRouter, mac(7));
    const UdpFlow* flow = host.flow_to({kFar, 1}, now);
    ASSERT_NE(flow, nullptr);
    EXPECT_EQ(flow->dst_mac, mac(7));
    EXPECT_EQ(flow->dst.ip, kFar);

    Ipv4Host no_gateway({mac(1), {kUs, 4500}, 24, 0});
    EXPECT_EQ(no_gateway.flow_to({kFar, 1}, now), nullptr);
    EXPECT_EQ(no_gateway.write_due_request(now, out), 0U);
}

TEST_F(Ipv4HostTest, AnswersArpForItsOwnAddressOnlyAndLearnsTheAsker) {
    std::array<std::byte, kArpFrameBytes> request{};
    encode_arp_request(mac(2), kPeer, kUs, request);
    const auto input = feed(request);
    ASSERT_EQ(input.reply_bytes, kArpFrameBytes);
    const DecodedFrame answer = decode_frame(ByteSpan(reply).first(input.reply_bytes));
    EXPECT_EQ(answer.kind, FrameKind::arp_reply);
    EXPECT_EQ(answer.src_mac, mac(1));
    EXPECT_EQ(answer.src_ip, kUs);
    EXPECT_EQ(answer.dst_mac, mac(2));
    EXPECT_NE(host.flow_to({kPeer, 4500}, now), nullptr);
    encode_arp_request(mac(2), kPeer, kRouter, request);
    EXPECT_EQ(feed(request).reply_bytes, 0U);
}

TEST_F(Ipv4HostTest, BelievesNoAnswerThatItDidNotAskFor) {
    feed_reply(kPeer, mac(6));
    EXPECT_EQ(host.flow_to({kPeer, 4500}, now), nullptr);
    feed_reply(kPeer, kBroadcastMac);
    EXPECT_EQ(host.flow_to({kPeer, 4500}, now), nullptr);
    feed_reply(kPeer, MacAddress{});
    EXPECT_EQ(host.flow_to({kPeer, 4500}, now), nullptr);
}

TEST_F(Ipv4HostTest, AFloodOfAskersDoesNotEvictThePeer) {
    host.flow_to({kPeer, 4500}, now);
    EXPECT_EQ(asked(), kPeer);
    feed_reply(kPeer, mac(2));
    std::array<std::byte, kArpFrameBytes> request{};
    for (uint32_t i = 0; i < 200; ++i) {
        encode_arp_request(mac(static_cast<uint8_t>(10 + i % 200)), 0x0a4d000a + i, kUs, request);
        EXPECT_EQ(feed(request).reply_bytes, kArpFrameBytes);
    }
    ASSERT_NE(host.flow_to({kPeer, 4500}, now), nullptr);
    EXPECT_EQ(host.flow_to({kPeer, 4500}, now)->dst_mac, mac(2));
    // A wanted address still finds room.
    EXPECT_EQ(host.flow_to({kRouter, 4500}, now), nullptr);
    EXPECT_EQ(asked(), kRouter);
}

TEST_F(Ipv4HostTest, HandsOverItsOwnDatagramsAndCountsTheRest) {
    const Bytes good = datagram({kPeer, 9}, {kUs, 4500}, mac(1));
    const auto input = feed(good);  // its payload is a view into `good`
    ASSERT_TRUE(input.is_datagram);
    EXPECT_EQ(input.from, (UdpAddress{kPeer, 9}));
    EXPECT_EQ(as_text(input.payload), "data");
    EXPECT_EQ(counters.rx_packets, 1U);
    EXPECT_EQ(counters.rx_bytes, 4U);

    EXPECT_FALSE(feed(datagram({kPeer, 9}, {kUs, 4501}, mac(1))).is_datagram);      // port
    EXPECT_FALSE(feed(datagram({kPeer, 9}, {kRouter, 4500}, mac(1))).is_datagram);  // address
    EXPECT_FALSE(feed(datagram({kPeer, 9}, {kUs, 4500}, mac(3))).is_datagram);  // hardware address
    EXPECT_EQ(counters.rx_not_ours, 3U);

    Bytes corrupt = datagram({kPeer, 9}, {kUs, 4500}, mac(1));
    corrupt.back() ^= std::byte{1};
    EXPECT_FALSE(feed(corrupt).is_datagram);
    EXPECT_EQ(counters.rx_bad_checksum, 1U);
    EXPECT_FALSE(feed(ByteSpan(corrupt).first(20)).is_datagram);
    EXPECT_EQ(counters.rx_malformed, 1U);
}

TEST_F(Ipv4HostTest, OnAVlanEveryFrameIsTaggedAndOthersAreNotOurs) {
    Ipv4Host tagged({mac(1), {kUs, 4500}, 24, kRouter, {5, 3}});
    const auto udp_on = [](const VlanTag& vlan) {
        Bytes frame(kUdpFrameHeaderBytes + 4 + (vlan.present() ? kVlanTagBytes : 0));
        encode_udp_frame({mac(2), mac(1), {kPeer, 9}, {kUs, 4500}, vlan}, 1, as_byte_span("data"),
                         frame);
        return frame;
    };
    const auto is_ours = [&](Ipv4Host& at, const Bytes& frame, const VlanTag* stripped = nullptr) {
        return at.handle(frame, now, reply, counters, stripped).is_datagram;
    };
    const VlanTag five{5, 0}, six{6, 0}, none{0, 7};
    EXPECT_TRUE(is_ours(tagged, udp_on({5, 0})));
    EXPECT_TRUE(is_ours(tagged, udp_on({5, 7})));
    EXPECT_TRUE(is_ours(tagged, udp_on({}), &five));
    EXPECT_TRUE(is_ours(host, udp_on({})));
    EXPECT_TRUE(is_ours(host, udp_on({}), &none));  // priority only
    EXPECT_EQ(counters.rx_not_ours, 0U);
    EXPECT_FALSE(is_ours(tagged, udp_on({})));
    EXPECT_FALSE(is_ours(tagged, udp_on({6, 0})));
    EXPECT_FALSE(is_ours(tagged, udp_on({}), &six));
    EXPECT_FALSE(is_ours(tagged, udp_on({5, 0}), &five));  // a tag in a tag
    EXPECT_FALSE(is_ours(host, udp_on({5, 0})));
    EXPECT_FALSE(is_ours(host, udp_on({}), &five));
    EXPECT_EQ(counters.rx_not_ours, 6U);

    const auto tag_of = [](ByteSpan frame) { return decode_frame(frame).vlan; };
    tagged.flow_to({kPeer, 4500}, now);
    EXPECT_EQ(tag_of(ByteSpan(out).first(tagged.write_due_request(now, out))), (VlanTag{5, 3}));
    EXPECT_EQ(tag_of(ByteSpan(out).first(tagged.write_announcement(out))), (VlanTag{5, 3}));
    std::array<std::byte, kArpFrameBytesMax> request{};
    encode_arp_request(mac(2), kPeer, kUs, request, {5, 0});
    const auto input = tagged.handle(request, now, reply, counters);
    ASSERT_EQ(input.reply_bytes, kArpFrameBytesMax);
    EXPECT_EQ(tag_of(ByteSpan(reply).first(input.reply_bytes)), (VlanTag{5, 3}));
    ASSERT_NE(tagged.flow_to({kPeer, 4500}, now), nullptr);
    EXPECT_EQ(tagged.flow_to({kPeer, 4500}, now)->vlan, (VlanTag{5, 3}));
}

// What a router sends when `quoted` was too large for it.
Bytes too_big(const UdpFlow& quoted, uint16_t quoted_bytes, uint16_t mtu) {
    const auto put16 = [](std::byte* at, size_t value) {
        at[0] = static_cast<std::byte>(value >> 8);
        at[1] = static_cast<std::byte>(value & 0xff);
    };
    Bytes original(kUdpFrameHeaderBytes + quoted_bytes - 28);
    encode_udp_frame(quoted, 1, Bytes(quoted_bytes - 28), original);
    // A UDP frame of the router's own as the envelope: then the protocol and the body are changed.
    Bytes frame(kEthernetHeaderBytes + 20 + 8 + 28);
    encode_udp_frame({mac(9), mac(1), {kRouter, 0}, {kUs, 0}}, 1, Bytes(28), frame);
    std::byte* ip = frame.data() + kEthernetHeaderBytes;
    ip[9] = std::byte{1};
    put16(ip + 10, 0);
    put16(ip + 10, checksum_fold(checksum_sum({ip, 20})));
    std::byte* icmp = ip + 20;
    std::fill(icmp, icmp + 8, std::byte{0});
    icmp[0] = std::byte{3};
    icmp[1] = std::byte{4};
    put16(icmp + 6, mtu);
    std::copy_n(original.begin() + kEthernetHeaderBytes, 28, icmp + 8);
    put16(icmp + 2, checksum_fold(checksum_sum({icmp, 36})));
    return frame;
}

TEST_F(Ipv4HostTest, AHintMustQuoteOurDatagramAndIsRateLimited) {
    host.flow_to({kPeer, 4500}, now);
    feed_reply(kPeer, mac(2));
    ASSERT_NE(host.flow_to({kPeer, 4500}, now), nullptr);
    const UdpFlow ours{mac(1), mac(2), {kUs, 4500}, {kPeer, 4500}};
    const auto hint_after = [&](const UdpFlow& quoted, uint16_t bytes, uint16_t mtu) {
        feed(too_big(quoted, bytes, mtu));
        return host.path_mtu_hint();
    };
    UdpFlow wrong = ours;
    wrong.src.port = 4501;
    EXPECT_EQ(hint_after(wrong, 1428, 1300).count, 0U);
    wrong = ours;
    wrong.src.ip = kPeer;
    EXPECT_EQ(hint_after(wrong, 1428, 1300).count, 0U);
    wrong = ours;
    wrong.dst.ip = kFar;
    EXPECT_EQ(hint_after(wrong, 1428, 1300).count, 0U);
    EXPECT_EQ(hint_after(ours, 1428, 0).count, 0U);     // does not say
    EXPECT_EQ(hint_after(ours, 1428, 575).count, 0U);   // absurd
    EXPECT_EQ(hint_after(ours, 1300, 1300).count, 0U);  // would have fitted
    EXPECT_EQ(counters.rx_mtu_hints, 0U);
    EXPECT_EQ(counters.rx_not_ours, 6U);

    PathMtuHint hint = hint_after(ours, 1428, 1300);
    EXPECT_EQ(hint.count, 1U);
    EXPECT_EQ(hint.payload_bytes, 1272U);
    EXPECT_EQ(hint.to, (UdpAddress{kPeer, 4500}));
    now += Ipv4Host::kMtuHintGapNs - 1;
    EXPECT_EQ(hint_after(ours, 1300, 1280).count, 1U);
    now += 1;
    hint = hint_after(ours, 1300, 1280);
    EXPECT_EQ(hint.count, 2U);
    EXPECT_EQ(hint.payload_bytes, 1252U);
    EXPECT_EQ(counters.rx_mtu_hints, 2U);
}

TEST_F(Ipv4HostTest, AnnouncesItself) {
    const size_t size = host.write_announcement(out);
    const DecodedFrame decoded = decode_frame(ByteSpan(out).first(size));
    EXPECT_EQ(decoded.kind, FrameKind::arp_request);
    EXPECT_EQ(decoded.src_ip, kUs);
    EXPECT_EQ(decoded.dst_ip, kUs);
}

}  // namespace
}  // namespace evac::wan_port
