#include "evac/wan_port/frame_codec.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "evac/core/random.hpp"

namespace evac::wan_port {
namespace {

Bytes from_hex(std::string_view hex) {
    Bytes bytes;
    std::string digits;
    for (const char c : hex) {
        if (c == ' ') continue;
        digits += c;
        if (digits.size() == 2) {
            bytes.push_back(static_cast<std::byte>(std::stoi(digits, nullptr, 16)));
            digits.clear();
        }
    }
    return bytes;
}

MacAddress mac(uint8_t last) {
    return {std::byte{0x02}, std::byte{0}, std::byte{0},
            std::byte{0},    std::byte{0}, std::byte{last}};
}

UdpFlow flow() {
    return {mac(1), mac(2), {0x0a4d0001, 4500}, {0x0a4d0002, 4501}};
}

Bytes udp_frame(ByteSpan payload, const UdpFlow& on = flow()) {
    Bytes frame(kUdpFrameHeaderBytes + payload.size());
    EXPECT_EQ(encode_udp_frame(on, 7, payload, frame), frame.size());
    return frame;
}

// The straightforward RFC 1071 sum, to check the fast one against.
uint16_t slow_checksum(ByteSpan bytes) {
    uint32_t sum = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
        sum += std::to_integer<uint32_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return static_cast<uint16_t>(~sum);
}

TEST(Checksum, Rfc1071Example) {
    EXPECT_EQ(checksum_fold(checksum_sum(from_hex("0001 f203 f4f5 f6f7"))), uint16_t(~0xddf2));
}

TEST(Checksum, EqualsThePlainOneForAllSizes) {
    Random random(1);
    Bytes bytes(1600);
    for (auto& b : bytes) b = static_cast<std::byte>(random.next());
    for (size_t size = 0; size < 200; ++size) {
        const ByteSpan part{bytes.data() + size % 3, size};
        ASSERT_EQ(checksum_fold(checksum_sum(part)), slow_checksum(part)) << size;
    }
    EXPECT_EQ(checksum_fold(checksum_sum(bytes)), slow_checksum(bytes));
    const Bytes ones(1500, std::byte{0xff});
    EXPECT_EQ(checksum_fold(checksum_sum(ones)), slow_checksum(ones));
}

TEST(FrameCodec, UdpGoldenBytes) {
    // Checksums come from a separate program (Python, RFC 1071 word by word).
    const Bytes golden = from_hex(
        "020000000002 020000000001 0800"
        "4500 0021 0007 4000 4011 2629 0a4d0001 0a4d0002"
        "1194 1195 000d 843c"
        "68656c6c6f");
    EXPECT_EQ(udp_frame(as_byte_span("hello")), golden);
    const DecodedFrame decoded = decode_frame(golden);
    EXPECT_EQ(decoded.kind, FrameKind::udp);
    EXPECT_EQ(decoded.src_ip, 0x0a4d0001U);
    EXPECT_EQ(decoded.dst_ip, 0x0a4d0002U);
    EXPECT_EQ(decoded.src_port, 4500);
    EXPECT_EQ(decoded.dst_port, 4501);
    EXPECT_EQ(decoded.src_mac, mac(1));
    EXPECT_EQ(decoded.dst_mac, mac(2));
    EXPECT_EQ(as_text(decoded.payload), "hello");
}

TEST(FrameCodec, ArpGoldenBytes) {
    Bytes frame(kArpFrameBytes);
    ASSERT_EQ(encode_arp_request(mac(1), 0x0a4d0001, 0x0a4d0002, frame), kArpFrameBytes);
    EXPECT_EQ(frame, from_hex("ffffffffffff 020000000001 0806 0001 0800 06 04 0001"
                              "020000000001 0a4d0001 000000000000 0a4d0002"));
    DecodedFrame decoded = decode_frame(frame);
    EXPECT_EQ(decoded.kind, FrameKind::arp_request);
    EXPECT_EQ(decoded.src_ip, 0x0a4d0001U);
    EXPECT_EQ(decoded.dst_ip, 0x0a4d0002U);
    ASSERT_EQ(encode_arp_reply(mac(2), 0x0a4d0002, mac(1), 0x0a4d0001, frame), kArpFrameBytes);
    EXPECT_EQ(frame, from_hex("020000000001 020000000002 0806 0001 0800 06 04 0002"
                              "020000000002 0a4d0002 020000000001 0a4d0001"));
    frame.resize(60);  // as a device pads it
    decoded = decode_frame(frame);
    EXPECT_EQ(decoded.kind, FrameKind::arp_reply);
    EXPECT_EQ(decoded.src_mac, mac(2));
}

TEST(FrameCodec, IcmpEchoGoldenBytes) {
    const Bytes request = from_hex(
        "020000000002 020000000001 0800"
        "4500 0020 0000 0000 4001 6641 0a4d0001 0a4d0002"
        "0800 06fa 1234 0001 70696e67");
    const DecodedFrame decoded = decode_frame(request);
    ASSERT_EQ(decoded.kind, FrameKind::icmp_echo_request);
    Bytes reply(request.size());
    ASSERT_EQ(encode_icmp_echo_reply(decoded, reply), reply.size());
    EXPECT_EQ(reply, from_hex("020000000001 020000000002 0800"
                              "4500 0020 0000 4000 4001 2641 0a4d0002 0a4d0001"
                              "0000 0efa 1234 0001 70696e67"));
}

TEST(FrameCodec, PaddingAndZeroChecksumAreAccepted) {
    Bytes frame = udp_frame(as_byte_span("x"));
    frame.resize(60);
    EXPECT_EQ(as_text(decode_frame(frame).payload), "x");
    frame[40] = frame[41] = std::byte{0};
    EXPECT_EQ(decode_frame(frame).kind, FrameKind::udp);
}

TEST(FrameCodec, EveryFlippedBitOfAnIpPacketIsNoticed) {
    const Bytes good = udp_frame(as_byte_span("every bit counts"));
    for (size_t bit = 8 * kEthernetHeaderBytes; bit < 8 * good.size(); ++bit) {
        Bytes bad = good;
        bad[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
        const FrameKind kind = decode_frame(bad).kind;
        EXPECT_TRUE(kind == FrameKind::bad_checksum || kind == FrameKind::malformed) << bit;
    }
}

TEST(FrameCodec, EveryTruncationIsMalformed) {
    const Bytes good = udp_frame(as_byte_span("cut me anywhere"));
    for (size_t size = 0; size < good.size(); ++size) {
        EXPECT_EQ(decode_frame(ByteSpan(good).first(size)).kind, FrameKind::malformed) << size;
    }
    Bytes arp(kArpFrameBytes);
    encode_arp_request(mac(1), 1, 2, arp);
    for (size_t size = 0; size < arp.size(); ++size) {
        EXPECT_EQ(decode_frame(ByteSpan(arp).first(size)).kind, FrameKind::malformed) << size;
    }
}

// Sets the IPv4 header checksum right again after a test changed a field.
void fix_ip_checksum(Bytes& frame, size_t header_bytes = 20) {
    frame[24] = frame[25] = std::byte{0};
    const uint16_t sum = slow_checksum({frame.data() + 14, header_bytes});
    frame[24] = static_cast<std::byte>(sum >> 8);
    frame[25] = static_cast<std::byte>(sum & 0xff);
}

TEST(FrameCodec, FragmentsVersionsAndOtherProtocols) {
    Bytes fragment = udp_frame(as_byte_span("abc"));
    fragment[20] = std::byte{0x20};  // more fragments
    fix_ip_checksum(fragment);
    EXPECT_EQ(decode_frame(fragment).kind, FrameKind::malformed);
    Bytes tail = udp_frame(as_byte_span("abc"));
    tail[20] = std::byte{0};
    tail[21] = std::byte{1};  // offset 8
    fix_ip_checksum(tail);
    EXPECT_EQ(decode_frame(tail).kind, FrameKind::malformed);
    Bytes tcp = udp_frame(as_byte_span("abc"));
    tcp[23] = std::byte{6};
    fix_ip_checksum(tcp);
    EXPECT_EQ(decode_frame(tcp).kind, FrameKind::other);
    Bytes ipv6 = udp_frame(as_byte_span("abc"));
    ipv6[12] = std::byte{0x86};
    ipv6[13] = std::byte{0xdd};
    EXPECT_EQ(decode_frame(ipv6).kind, FrameKind::other);
    Bytes long_udp = udp_frame(as_byte_span("abc"));
    long_udp[39] = std::byte{12};  // one byte more than there is
    EXPECT_EQ(decode_frame(long_udp).kind, FrameKind::malformed);
}

TEST(FrameCodec, VlanGoldenBytes) {
    UdpFlow on = flow();
    on.vlan = {0x123, 5};
    Bytes frame(on.header_bytes() + 5);
    ASSERT_EQ(encode_udp_frame(on, 7, as_byte_span("hello"), frame), frame.size());
    EXPECT_EQ(frame, from_hex("020000000002 020000000001 8100 a123 0800"
                              "4500 0021 0007 4000 4011 2629 0a4d0001 0a4d0002"
                              "1194 1195 000d 843c"
                              "68656c6c6f"));
    const DecodedFrame decoded = decode_frame(frame);
    EXPECT_EQ(decoded.kind, FrameKind::udp);
    EXPECT_TRUE(decoded.tagged);
    EXPECT_EQ(decoded.vlan, on.vlan);
    EXPECT_EQ(as_text(decoded.payload), "hello");
    for (size_t size = 0; size < frame.size(); ++size) {
        EXPECT_EQ(decode_frame(ByteSpan(frame).first(size)).kind, FrameKind::malformed) << size;
    }

    Bytes arp(kArpFrameBytesMax);
    ASSERT_EQ(encode_arp_request(mac(1), 0x0a4d0001, 0x0a4d0002, arp, {0x123, 5}), arp.size());
    EXPECT_EQ(arp, from_hex("ffffffffffff 020000000001 8100 a123 0806 0001 0800 06 04 0001"
                            "020000000001 0a4d0001 000000000000 0a4d0002"));
    EXPECT_EQ(decode_frame(arp).kind, FrameKind::arp_request);
    EXPECT_FALSE(decode_frame(udp_frame(as_byte_span("x"))).tagged);
}

// A router at 10.77.0.254 says: next hop takes 1300 (0514); quotes a packet of 1428 bytes (0594).
// Checksums from a separate program, as above.
Bytes too_big_frame() {
    return from_hex(
        "020000000001 020000000009 0800"
        "4500 0038 0000 0000 4001 652d 0a4d00fe 0a4d0001"
        "0304 bd0a 0000 0514"
        "4500 0594 0007 4000 4011 20b6 0a4d0001 0a4d0002"
        "1194 1195 0580 1234");
}

TEST(FrameCodec, FragmentationNeededGoldenBytes) {
    const DecodedFrame decoded = decode_frame(too_big_frame());
    ASSERT_EQ(decoded.kind, FrameKind::icmp_too_big);
    EXPECT_EQ(decoded.quoted.src, (UdpAddress{0x0a4d0001, 4500}));
    EXPECT_EQ(decoded.quoted.dst, (UdpAddress{0x0a4d0002, 4501}));
    EXPECT_EQ(decoded.quoted.ip_bytes, 1428U);
    EXPECT_EQ(decoded.quoted.next_hop_mtu, 1300U);
    for (size_t size = 0; size < too_big_frame().size(); ++size) {
        const Bytes whole = too_big_frame();
        EXPECT_EQ(decode_frame(ByteSpan(whole).first(size)).kind, FrameKind::malformed) << size;
    }
    for (size_t bit = 8 * kEthernetHeaderBytes; bit < 8 * too_big_frame().size(); ++bit) {
        Bytes bad = too_big_frame();
        bad[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
        EXPECT_NE(decode_frame(bad).kind, FrameKind::icmp_too_big) << bit;
    }
}

TEST(FrameCodec, IpOptionsAreSkipped) {
    const Bytes plain = udp_frame(as_byte_span("opt"));
    Bytes frame(plain.begin(), plain.begin() + 34);
    frame.insert(frame.end(), 4, std::byte{1});  // no-operation options
    frame.insert(frame.end(), plain.begin() + 34, plain.end());
    frame[14] = std::byte{0x46};
    frame[17] = static_cast<std::byte>(frame.size() - 14);
    fix_ip_checksum(frame, 24);
    const DecodedFrame decoded = decode_frame(frame);
    ASSERT_EQ(decoded.kind, FrameKind::udp);
    EXPECT_EQ(as_text(decoded.payload), "opt");
}

TEST(FrameCodec, RandomFlowsRoundTrip) {
    Random random(42);
    for (int i = 0; i < 2000; ++i) {
        const UdpFlow on{
            mac(static_cast<uint8_t>(random.next())),
            mac(static_cast<uint8_t>(random.next())),
            {static_cast<uint32_t>(random.next()), static_cast<uint16_t>(random.next())},
            {static_cast<uint32_t>(random.next()), static_cast<uint16_t>(random.next())}};
        Bytes payload(random.below(1473));
        for (auto& b : payload) b = static_cast<std::byte>(random.next());
        const Bytes frame = udp_frame(payload, on);
        const DecodedFrame decoded = decode_frame(frame);
        ASSERT_EQ(decoded.kind, FrameKind::udp);
        EXPECT_EQ((UdpAddress{decoded.src_ip, decoded.src_port}), on.src);
        EXPECT_EQ((UdpAddress{decoded.dst_ip, decoded.dst_port}), on.dst);
        ASSERT_TRUE(std::ranges::equal(decoded.payload, payload));
    }
}

}  // namespace
}  // namespace evac::wan_port
