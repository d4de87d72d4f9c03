#include "delta.hpp"

#include <gtest/gtest.h>

#include "util.hpp"

namespace evac::dedup {
namespace {

using test::mutated;
using test::Page;
using test::page_of;
using test::shifted;
using test::text_page_of;

DeltaEncoder make_encoder() {
    return std::move(DeltaEncoder::create()).value();
}
DeltaDecoder make_decoder() {
    return std::move(DeltaDecoder::create()).value();
}

Bytes bytes(std::initializer_list<int> list) {
    Bytes out;
    for (const int b : list) out.push_back(std::byte(b));
    return out;
}

TEST(Patch, GoldenBytes) {
    Page base{};
    Page page{};
    page[3] = std::byte{1};
    page[5] = std::byte{2};     // a gap of one: in one stretch
    page[300] = std::byte{3};   // far: another
    page[4095] = std::byte{4};  // the last byte
    Bytes out(100);
    const auto size = encode_patch(base, page, out);
    ASSERT_TRUE(size.has_value());
    out.resize(*size);
    EXPECT_EQ(out, bytes({3, 3, 1, 0, 2, 0xa6, 2, 1, 3, 0xd2, 0x1d, 1, 4}));
    Page result{};
    EXPECT_TRUE(apply_patch(base, out, result));
    EXPECT_EQ(result, page);
    out.resize(*size - 1);
    EXPECT_FALSE(encode_patch(base, page, out).has_value());
}

TEST(Patch, RefusesWhatIsNone) {
    const Page base = page_of(1);
    Page page{};
    EXPECT_TRUE(apply_patch(base, {}, page));
    EXPECT_EQ(page, base);
    for (const Bytes& bad : {
             bytes({0}),                          // no length
             bytes({0, 0}),                       // of nothing
             bytes({0, 2, 1}),                    // cut short
             bytes({0x80, 0x80, 1, 1, 1}),        // a number of three bytes
             bytes({0x80}),                       // half a number
             bytes({0xff, 0x1f, 2, 1, 1}),        // 4095 + 2: over the end
             bytes({0x80, 0x20, 1, 1}),           // at the end
             bytes({0xff, 0x1f, 1, 1, 1, 1, 1}),  // goes on behind the end
         }) {
        EXPECT_FALSE(apply_patch(base, bad, page));
    }
    EXPECT_TRUE(apply_patch(base, bytes({0xff, 0x1f, 1, 9}), page));
    EXPECT_EQ(page[4095], std::byte{9});
}

TEST(Delta, RestoresThePage) {
    auto encoder = make_encoder();
    auto decoder = make_decoder();
    size_t patches = 0;
    size_t frames = 0;
    size_t none = 0;
    Random random(11);
    for (uint64_t i = 1; i <= 3000; ++i) {
        const Page base = i % 3 == 0 ? text_page_of(i) : page_of(i);
        Page page = mutated(base, i, random.below(i % 7 == 0 ? 2000 : 200));
        // Bytes that moved: no patch is small, a prefix is.
        if (i % 5 == 0) page = shifted(base, page_of(i + 1), 1 + random.below(300));
        if (i % 11 == 0) page = page_of(i + 9000);  // nothing in common
        const auto delta = encoder.encode(base, page);
        if (!delta) {
            ++none;
            continue;
        }
        ASSERT_LE(delta->payload.size(), kDeltaBytesMax);
        ++(delta->kind == DeltaKind::patch ? patches : frames);
        Page result{};
        ASSERT_TRUE(decoder.apply(delta->kind, base, delta->payload, result)) << i;
        ASSERT_EQ(result, page) << i;
    }
    EXPECT_GT(patches, 1000u);
    EXPECT_GT(frames, 300u);
    EXPECT_GT(none, 50u);
}

TEST(Delta, IsNotLargerThanAsked) {
    auto encoder = make_encoder();
    const Page base = page_of(1);
    const Page page = mutated(base, 1, 60);
    const auto delta = encoder.encode(base, page);
    ASSERT_TRUE(delta.has_value());
    EXPECT_LT(delta->payload.size(), 60u * 3 + 20);
    EXPECT_FALSE(encoder.encode(base, page, delta->payload.size() / 2).has_value());
    EXPECT_TRUE(encoder.encode(base, base)->payload.empty());
}

TEST(Delta, DamagedOnesCrashNothing) {
    auto encoder = make_encoder();
    auto decoder = make_decoder();
    Random random(5);
    Page result{};
    size_t accepted = 0;
    for (uint64_t i = 1; i <= 4000; ++i) {
        const Page base = page_of(i);
        const Page page = i % 2 == 0 ? shifted(base, page_of(i + 1), 40) : mutated(base, i, 100);
        const auto delta = encoder.encode(base, page);
        ASSERT_TRUE(delta.has_value());
        Bytes bad(delta->payload.begin(), delta->payload.end());
        bad[random.below(bad.size())] ^= std::byte(1 + random.below(255));
        if (random.chance(0.3)) bad.resize(random.below(bad.size()));
        if (random.chance(0.1)) bad.push_back(std::byte{0});
        const auto kind = random.chance(0.2) ? DeltaKind(1 - int(delta->kind)) : delta->kind;
        accepted += decoder.apply(kind, base, bad, result) ? 1 : 0;
        // The decoder is whole after a failure.
        ASSERT_TRUE(decoder.apply(delta->kind, base, delta->payload, result));
        ASSERT_EQ(result, page);
    }
    EXPECT_LT(accepted, 4000u);
    EXPECT_FALSE(decoder.apply(DeltaKind::zstd, page_of(1), {}, result));
    EXPECT_FALSE(decoder.apply(DeltaKind::zstd, page_of(1), Bytes(kPageBytes + 1), result));
}

// A frame that claims or holds more than a page, or two frames, writes no byte behind it.
TEST(Delta, CannotExpandBeyondAPage) {
    auto decoder = make_decoder();
    struct Guarded {
        Page page{};
        std::array<std::byte, 64> guard{};
    } out;
    // zstd: window descriptor 0x58 (2 MiB), one RLE block of 128 KiB - 1, last.
    const Bytes bomb = bytes({0x00, 0x58, 0xfb, 0xff, 0x0f, 0x41});
    EXPECT_FALSE(decoder.apply(DeltaKind::zstd, page_of(1), bomb, out.page));
    const Bytes rle = bytes({0x00, 0x58, 0x03, 0x80, 0x00, 0x41});  // RLE of 4096: a page
    EXPECT_TRUE(decoder.apply(DeltaKind::zstd, page_of(1), rle, out.page));
    EXPECT_EQ(out.page[4095], std::byte{0x41});
    Bytes two = rle;
    const Bytes again = bytes({0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, 0x03, 0x80, 0x00, 0x41});
    two.insert(two.end(), again.begin(), again.end());
    EXPECT_FALSE(decoder.apply(DeltaKind::zstd, page_of(1), two, out.page));
    for (const std::byte b : out.guard) EXPECT_EQ(b, std::byte{0});
}

}  // namespace
}  // namespace evac::dedup
