#include "evac/evacuation/handover_message.hpp"

#include <gtest/gtest.h>

#include "evac/core/random.hpp"

namespace evac::evacuation {
namespace {

std::string hex(ByteSpan bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string out;
    for (const std::byte b : bytes) {
        out += kDigits[std::to_integer<unsigned>(b) >> 4];
        out += kDigits[std::to_integer<unsigned>(b) & 15];
    }
    return out;
}

constexpr MessageKind kKinds[] = {
    MessageKind::prepare,   MessageKind::sealing,       MessageKind::commit,
    MessageKind::abort,     MessageKind::released,      MessageKind::prepared,
    MessageKind::sealed,    MessageKind::seal_failed,   MessageKind::not_sealed,
    MessageKind::committed, MessageKind::landed_paused, MessageKind::running,
    MessageKind::aborted,   MessageKind::lost};

Message sample(MessageKind kind) {
    Message m;
    m.kind = kind;
    m.vm = VmId{0x01020304};
    m.handover = HandoverId{0x1112131415161718};
    m.epoch = Epoch{0x21222324};
    if (kind == MessageKind::prepare) {
        m.policy = Policy::evacuation;
        m.hold = true;
        m.silence_ms = 0x31323334;
    }
    if (kind == MessageKind::commit) m.hold = true;
    if (kind == MessageKind::abort) m.reason = AbortReason::cancelled;
    if (kind == MessageKind::aborted) {
        m.reason = AbortReason::landing_failed;
        m.floor = HandoverId{0x4142434445464748};
    }
    if (kind == MessageKind::aborted || kind == MessageKind::lost ||
        kind == MessageKind::seal_failed) {
        m.text = "why";
    }
    return m;
}

TEST(HandoverMessage, GoldenBytes) {
    const auto with = [](const char* kind, const char* body) {
        return std::string("01") + kind + "04030201" + "1817161514131211" + "24232221" + body;
    };
    EXPECT_EQ(hex(encode(sample(MessageKind::prepare))), with("01", "020134333231"));
    EXPECT_EQ(hex(encode(sample(MessageKind::sealing))), with("02", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::commit))), with("03", "01"));
    EXPECT_EQ(hex(encode(sample(MessageKind::abort))), with("04", "01"));
    EXPECT_EQ(hex(encode(sample(MessageKind::released))), with("05", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::prepared))), with("10", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::sealed))), with("11", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::seal_failed))), with("12", "03000000776879"));
    EXPECT_EQ(hex(encode(sample(MessageKind::not_sealed))), with("13", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::committed))), with("14", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::landed_paused))), with("15", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::running))), with("16", ""));
    EXPECT_EQ(hex(encode(sample(MessageKind::aborted))),
              with("17", "09484746454443424103000000776879"));
    EXPECT_EQ(hex(encode(sample(MessageKind::lost))), with("18", "03000000776879"));
}

TEST(HandoverMessage, RoundTrips) {
    for (const MessageKind kind : kKinds) {
        const Message m = sample(kind);
        const Result<Message> back = decode_message(encode(m));
        ASSERT_TRUE(back.ok()) << to_string(kind);
        EXPECT_EQ(*back, m) << to_string(kind);
        EXPECT_LE(encode(m).size(), kMessageBytesMax);
    }
}

TEST(HandoverMessage, LongTextIsCut) {
    Message m = sample(MessageKind::lost);
    m.text = std::string(1000, 'x');
    const Bytes bytes = encode(m);
    EXPECT_LE(bytes.size(), kMessageBytesMax);
    EXPECT_EQ(decode_message(bytes).value().text.size(), 256u);
}

TEST(HandoverMessage, EveryTruncationAndEveryTrailingByteIsRefused) {
    for (const MessageKind kind : kKinds) {
        Bytes bytes = encode(sample(kind));
        for (size_t n = 0; n < bytes.size(); ++n) {
            EXPECT_FALSE(decode_message(ByteSpan(bytes).first(n)).ok())
                << to_string(kind) << " " << n;
        }
        bytes.push_back(std::byte{0});
        EXPECT_FALSE(decode_message(bytes).ok()) << to_string(kind);
    }
}

TEST(HandoverMessage, WrongVersionKindAndValuesAreRefusedByName) {
    Bytes bytes = encode(sample(MessageKind::prepare));
    bytes[0] = std::byte{2};
    EXPECT_NE(decode_message(bytes).error().context.find("version 2"), std::string::npos);
    bytes[0] = std::byte{1};
    for (const unsigned kind : {0u, 6u, 15u, 25u, 255u}) {
        bytes[1] = std::byte(kind);
        EXPECT_FALSE(decode_message(bytes).ok()) << kind;
    }
    bytes = encode(sample(MessageKind::prepare));
    for (const auto& [at, value] : {std::pair<size_t, unsigned>{18, 0}, {18, 3}, {19, 2}}) {
        Bytes bad = bytes;
        bad[at] = std::byte(value);
        EXPECT_EQ(decode_message(bad).error().code, Errc::corrupt) << at << "=" << value;
    }
}

// What decodes is exactly what encode would have written: no two encodings of one message.
TEST(HandoverMessage, RandomBytesNeverCrashAndDecodeCanonically) {
    Random random(7);
    size_t decoded = 0;
    for (int i = 0; i < 100'000; ++i) {
        Bytes bytes = encode(sample(kKinds[random.below(std::size(kKinds))]));
        for (uint64_t n = random.below(4); n > 0; --n) {
            bytes[random.below(bytes.size())] = static_cast<std::byte>(random.below(256));
        }
        const Result<Message> message = decode_message(bytes);
        if (!message.ok()) continue;
        ++decoded;
        ASSERT_EQ(encode(*message), bytes);
    }
    EXPECT_GT(decoded, 10'000u);
}

}  // namespace
}  // namespace evac::evacuation
