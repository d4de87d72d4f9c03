// Golden bytes of every header and frame, and what the parsers refuse.
#include <gtest/gtest.h>

#include "dtls.hpp"
#include "evac/core/random.hpp"
#include "packet.hpp"

namespace evac::wan {
namespace {

std::string hex(ByteSpan bytes) {
    constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (const std::byte b : bytes) {
        out.push_back(digits[std::to_integer<unsigned>(b) >> 4]);
        out.push_back(digits[std::to_integer<unsigned>(b) & 15]);
    }
    return out;
}

Bytes unhex(const std::string& text) {
    Bytes out;
    for (size_t i = 0; i + 1 < text.size(); i += 2) {
        out.push_back(static_cast<std::byte>(std::stoul(text.substr(i, 2), nullptr, 16)));
    }
    return out;
}

template <class Write>
std::string written(Write&& write) {
    std::array<std::byte, 2048> buffer{};
    PacketWriter writer(buffer);
    write(writer);
    EXPECT_TRUE(writer.ok());
    return hex(ByteSpan(buffer).first(writer.size()));
}

AckFrame sample_ack() {
    AckFrame ack;
    ack.delay_us = 300;
    ack.range_count = 3;
    ack.ranges[0] = {1000, 1010};
    ack.ranges[1] = {990, 998};
    ack.ranges[2] = {5, 5};
    for (size_t i = 0; i < kClasses; ++i) ack.credit[i] = {(i + 1) * 1'000'000, 100 + i};
    return ack;
}

TEST(Codec, GoldenDataHeader) {
    EXPECT_EQ(written([](PacketWriter& w) {
                  write_data_header(w, {3, 0xa1b2c3d4, 0x0102030405060708});
              }),
              "0203d4c3b2a10807060504030201");
    DataHeader header;
    const Bytes datagram =
        unhex("0203d4c3b2a10807060504030201" + std::string(2 * (1 + kTagBytes), '0'));
    ASSERT_TRUE(read_data_header(datagram, header));
    EXPECT_EQ(header.phase, 3);
    EXPECT_EQ(header.session_tag, 0xa1b2c3d4u);
    EXPECT_EQ(header.number, 0x0102030405060708u);
    EXPECT_FALSE(read_data_header(ByteSpan(datagram).first(datagram.size() - 1), header));
}

TEST(Codec, GoldenVarints) {
    const auto varint = [](uint64_t v) { return written([v](PacketWriter& w) { w.varint(v); }); };
    EXPECT_EQ(varint(0), "00");
    EXPECT_EQ(varint(63), "3f");
    EXPECT_EQ(varint(64), "4040");
    EXPECT_EQ(varint(16383), "7fff");
    EXPECT_EQ(varint(16384), "80004000");
    EXPECT_EQ(varint(1u << 30), "c000000040000000");
    EXPECT_EQ(varint(kVarintMax), "ffffffffffffffff");
}

TEST(Codec, VarintsRoundTrip) {
    Random random(1);
    for (int i = 0; i < 2000; ++i) {
        const uint64_t v = random.next() & kVarintMax >> random.below(62);
        const Bytes bytes = unhex(written([v](PacketWriter& w) { w.varint(v); }));
        ByteReader reader(bytes);
        EXPECT_EQ(read_varint(reader), v);
        EXPECT_TRUE(reader.at_end());
        EXPECT_EQ(bytes.size(), varint_bytes(v));
        ByteReader cut(ByteSpan(bytes).first(bytes.size() - 1));
        read_varint(cut);
        EXPECT_FALSE(cut.ok());
    }
}

TEST(Codec, GoldenFragment) {
    const Bytes body = unhex("cafe");
    Fragment f{Class::disk, 300, 70000, 1400, body};
    const std::string golden = "12412c8001117045780 2cafe";
    std::string expected;
    for (const char ch : golden) {
        if (ch != ' ') expected.push_back(ch);
    }
    const std::string bytes = written([&](PacketWriter& w) { write_fragment(w, f); });
    EXPECT_EQ(bytes, expected);
    EXPECT_EQ(bytes.size() / 2, fragment_header_bytes(f, 2) + 2);
    Frames frames;
    const Bytes parsed_from = unhex(bytes);
    ASSERT_TRUE(parse_frames(parsed_from, frames));
    ASSERT_EQ(frames.fragment_count, 1u);
    EXPECT_EQ(frames.fragments[0].c, Class::disk);
    EXPECT_EQ(frames.fragments[0].message, 300u);
    EXPECT_EQ(frames.fragments[0].total, 70000u);
    EXPECT_EQ(frames.fragments[0].offset, 1400u);
    EXPECT_EQ(hex(frames.fragments[0].bytes), "cafe");
    EXPECT_TRUE(frames.elicits_ack);
}

TEST(Codec, GoldenAck) {
    const std::string bytes = written([](PacketWriter& w) { write_ack(w, sample_ack()); });
    // type, largest 1010, delay 300, 2 more, first 10 below; gap 0, 8; gap 983, 0; credits
    EXPECT_EQ(bytes,
              "02"
              "43f2"
              "412c"
              "02"
              "0a"
              "00"
              "08"
              "43d7"
              "00"
              "800f4240"
              "4064"
              "801e8480"
              "4065"
              "802dc6c0"
              "4066"
              "803d0900"
              "4067");
    Frames frames;
    const Bytes parsed_from = unhex(bytes);
    ASSERT_TRUE(parse_frames(parsed_from, frames));
    EXPECT_TRUE(frames.has_ack);
    EXPECT_FALSE(frames.elicits_ack);
    const AckFrame expected = sample_ack();
    ASSERT_EQ(frames.ack.range_count, expected.range_count);
    for (size_t i = 0; i < expected.range_count; ++i) {
        EXPECT_EQ(frames.ack.ranges[i].first, expected.ranges[i].first);
        EXPECT_EQ(frames.ack.ranges[i].last, expected.ranges[i].last);
    }
    for (size_t i = 0; i < kClasses; ++i) {
        EXPECT_EQ(frames.ack.credit[i].bytes, expected.credit[i].bytes);
        EXPECT_EQ(frames.ack.credit[i].messages, expected.credit[i].messages);
    }
}

TEST(Codec, GoldenPathFrames) {
    const uint64_t value = 0x1122334455667788;
    const std::array<std::pair<uint8_t, const char*>, 3> golden{
        {{kFramePathChallenge, "50088877665544332211"},
         {kFramePathResponse, "51088877665544332211"},
         {kFramePathMoved, "52088877665544332211"}}};
    for (const auto& [type, text] : golden) {
        EXPECT_EQ(written([&, t = type](PacketWriter& w) { write_path_frame(w, t, value); }), text);
        Frames frames;
        ASSERT_TRUE(parse_frames(unhex(text), frames));
        EXPECT_FALSE(frames.elicits_ack);
        EXPECT_EQ(frames.path_challenge.has_value(), type == kFramePathChallenge);
        EXPECT_EQ(frames.path_response.has_value(), type == kFramePathResponse);
        EXPECT_EQ(frames.path_moved.has_value(), type == kFramePathMoved);
        EXPECT_FALSE(parse_frames(unhex(std::string(text).substr(0, 18)), frames));
    }
}

TEST(Codec, GoldenCookieReplyAndHello) {
    CookieReply reply;
    reply.record_sequence = {std::byte{1}, std::byte{2}, std::byte{3},
                             std::byte{4}, std::byte{5}, std::byte{6}};
    reply.cookie.fill(std::byte{0xcc});
    const std::string golden =
        "16feff0000010203040506001f"
        "030000130000000000000013"
        "feff10" +
        std::string(32, 'c');
    EXPECT_EQ(written([&](PacketWriter& w) { write_cookie_reply(w, reply); }), golden);
    EXPECT_TRUE(is_hello_verify(unhex(golden)));
    EXPECT_FALSE(parse_hello(unhex(golden)));
    // record, handshake header, version, random, no session, cookie of 2, one suite
    const std::string body = "fefd" + std::string(64, 'a') + "00" + "02beef" + "0002c02c";
    const std::string hello =
        "16feff0000010203040506"
        "0036"
        "0100002a000000000000002a" +
        body;
    const auto view = parse_hello(unhex(hello));
    ASSERT_TRUE(view);
    EXPECT_EQ(hex(view->cookie), "beef");
    EXPECT_EQ(hex(view->record_sequence), "010203040506");
    for (size_t cut = 0; cut < hello.size() - 2; cut += 2)
        EXPECT_FALSE(parse_hello(unhex(hello.substr(0, cut)))) << cut;
}

TEST(Codec, SeveralFramesAndSkippableOnes) {
    Frames frames;
    // padding, ping, an unknown skippable frame of 3 bytes, padding
    ASSERT_TRUE(parse_frames(unhex("0001"
                                   "4f03aabbcc"
                                   "00"),
                             frames));
    EXPECT_TRUE(frames.elicits_ack);
    EXPECT_EQ(frames.fragment_count, 0u);
    ASSERT_TRUE(parse_frames(unhex("ff00"), frames));
    EXPECT_FALSE(frames.elicits_ack);
}

TEST(Codec, RefusesWhatBreaksTheGrammar) {
    const std::string credits(16, '0');
    const struct {
        const char* what;
        std::string bytes;
    } cases[] = {
        {"unknown type", "03"},
        {"reserved class",
         "14000100"
         "0100"},
        {"empty message", "1000000000"},
        {"empty fragment", "1000050000"},
        {"fragment past the end", "1000050402aabb"},
        {"offset at the end", "1000050501aa"},
        {"message too large",
         "1000"
         "80040001"
         "0001aa"},
        {"fragment longer than the packet", "1000050005aabb"},
        {"skippable longer than the packet", "4005aa"},
        {"cut varint", "1040"},
        {"ack below zero",
         "02050000"
         "06" +
             credits},
        {"ack range below zero",
         "020a0001"
         "00"
         "0900" +
             credits},
        {"ack with 33 ranges",
         "02"
         "44ff"
         "00"
         "20"
         "00" +
             std::string(2 * 2 * 32, '0') + credits},
        {"ack without credit",
         "02050000"
         "00"},
        {"two acks", "0205000000" + credits + "0205000000" + credits},
        {"17 fragments",
         [] {
             std::string many;
             for (int i = 0; i < 17; ++i) many += "1000010001aa";
             return many;
         }()},
    };
    for (const auto& c : cases) {
        Frames frames;
        EXPECT_FALSE(parse_frames(unhex(c.bytes), frames)) << c.what;
    }
}

TEST(Codec, AckRoundTripsUnderRandomRanges) {
    Random random(3);
    for (int i = 0; i < 500; ++i) {
        AckFrame ack;
        ack.range_count = 1 + random.below(kAckRangesMax);
        uint64_t at = 1'000'000 + random.below(1u << 30);
        for (size_t r = 0; r < ack.range_count; ++r) {
            const uint64_t length = random.below(200);
            ack.ranges[r] = {at - length, at};
            at = at - length - 2 - random.below(300);
        }
        ack.delay_us = random.below(10'000);
        std::array<std::byte, 1024> buffer{};
        PacketWriter writer(buffer);
        write_ack(writer, ack);
        ASSERT_TRUE(writer.ok());
        Frames frames;
        ASSERT_TRUE(parse_frames(ByteSpan(buffer).first(writer.size()), frames));
        ASSERT_EQ(frames.ack.range_count, ack.range_count);
        for (size_t r = 0; r < ack.range_count; ++r) {
            EXPECT_EQ(frames.ack.ranges[r].first, ack.ranges[r].first);
            EXPECT_EQ(frames.ack.ranges[r].last, ack.ranges[r].last);
        }
    }
}

TEST(Codec, WriterStopsAtItsEnd) {
    std::array<std::byte, 3> buffer{};
    PacketWriter writer(buffer);
    writer.u8(1);
    writer.le32(2);
    EXPECT_FALSE(writer.ok());
    EXPECT_EQ(writer.size(), 1u);
    writer.u8(3);
    EXPECT_EQ(writer.size(), 1u);
}

}  // namespace
}  // namespace evac::wan
