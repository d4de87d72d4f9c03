#include "evac/dedup/batch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "util.hpp"

namespace evac::dedup {
namespace {

using test::page_of;
using test::text_page_of;

BatchBuilder make_builder() {
    return std::move(BatchBuilder::create(1)).value();
}
BatchDecoder make_decoder() {
    return std::move(BatchDecoder::create()).value();
}

PageKey key(uint32_t vm, uint16_t region, uint64_t page) {
    return PageKey{VmId{vm}, RegionId{region}, page};
}

Identity identity_of(uint8_t first) {
    Identity out;
    for (size_t i = 0; i < out.size(); ++i) out[i] = std::byte(first + i);
    return out;
}

Bytes bytes(std::initializer_list<int> list) {
    Bytes out;
    for (const int b : list) out.push_back(std::byte(b));
    return out;
}

Bytes golden_records_batch() {
    BatchBuilder builder = make_builder();
    builder.add_zero(key(7, 0, 100), Epoch{3});
    builder.add_zero(key(7, 0, 101), Epoch{3});
    builder.add_zero(key(7, 0, 50), Epoch{3});
    builder.add_reference(key(7, 1, 5), Epoch{200}, identity_of(0x10), key(9, 2, 300));
    builder.add_reference(key(7, 1, 6), Epoch{200}, identity_of(0x20), key(9, 2, 301));
    builder.add_reference(key(7, 1, 7), Epoch{200}, identity_of(0x30), key(9, 2, 200));
    return builder.finish(0x0102030405060708).message;
}

TEST(Batch, GoldenRecords) {
    Bytes expected = bytes({
        2, 0,    0,    0, 7, 0,    0,    0, 8, 7, 6, 5, 4, 3,
        2, 1,    71,   0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0,  // header
        0, 3,    0,                                            // GROUP epoch 3 region 0
        1, 0xc8, 0x01, 2,                                      // ZERO +100, 2 pages
        1, 0x67, 1,                                            // ZERO 50 = 102 - 52, 1 page
        0, 0xc8, 0x01, 1,                                      // GROUP epoch 200 region 1
        3, 10,   2,    9, 2, 0xd8, 0x04,  // REF +5, 2 pages, source vm 9 region 2 page +300
    });
    const auto put_identity = [&](uint8_t first) {
        const Identity identity = identity_of(first);
        expected.insert(expected.end(), identity.begin(), identity.end());
    };
    put_identity(0x10);
    put_identity(0x20);
    const Bytes last = bytes({3, 0, 1, 9, 2, 0xcb, 0x01});  // REF +0, source 200 = 302 - 102
    expected.insert(expected.end(), last.begin(), last.end());
    put_identity(0x30);
    expected[16] = std::byte(expected.size() - kBatchHeaderBytes);
    EXPECT_EQ(golden_records_batch(), expected);
}

TEST(Batch, GoldenRawLiterals) {
    BatchBuilder builder = make_builder();
    const test::Page page = page_of(1);  // random bytes: zstd does not shrink them
    builder.add_literal(key(2, 3, 4), Epoch{5}, page);
    const auto encoded = builder.finish(6);
    Bytes expected = bytes({2, 0, 1, 0, 2,  0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 6,
                            0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 5, 3, 2, 8, 1});
    expected.insert(expected.end(), page.begin(), page.end());
    EXPECT_EQ(encoded.message, expected);
    EXPECT_EQ(encoded.record_bytes, 6u);
    EXPECT_EQ(encoded.literal_bytes, 4096u);
}

TEST(Batch, HeadroomStandsBeforeTheSameMessage) {
    const auto encode = [](size_t headroom) {
        BatchBuilder builder = make_builder();
        builder.add_literal(key(2, 3, 4), Epoch{5}, page_of(1));
        builder.add_zero(key(2, 3, 9), Epoch{5});
        return builder.finish(6, headroom).message;
    };
    Bytes expected(3);
    const Bytes plain = encode(0);
    expected.insert(expected.end(), plain.begin(), plain.end());
    EXPECT_EQ(encode(3), expected);
}

TEST(Batch, CompressesLiteralsTogether) {
    BatchBuilder builder = make_builder();
    for (uint64_t i = 0; i < kBatchLiteralPagesMax; ++i) {
        ASSERT_TRUE(builder.has_room_for_literal());
        builder.add_literal(key(1, 0, i), Epoch{1}, text_page_of(i + 1));
    }
    EXPECT_FALSE(builder.has_room_for_literal());
    EXPECT_TRUE(builder.has_room_for_reference());
    const auto encoded = builder.finish(1);
    EXPECT_LT(encoded.message.size(), 2048u);
    EXPECT_TRUE(builder.empty());

    BatchContent content;
    BatchDecoder decoder = make_decoder();
    ASSERT_TRUE(decoder.decode(encoded.message, content).ok());
    ASSERT_EQ(content.runs.size(), 1u);
    EXPECT_EQ(content.runs[0].count, kBatchLiteralPagesMax);
    for (uint64_t i = 0; i < kBatchLiteralPagesMax; ++i) {
        const auto page = text_page_of(i + 1);
        EXPECT_TRUE(std::ranges::equal(content.literal(i), page));
    }
}

struct Fed {
    BatchOp op;
    PageKey key;
    Epoch epoch;
    Identity identity;
    Location source;
    uint64_t page_id;
    bool operator==(const Fed&) const = default;
};

std::vector<Fed> unroll(const BatchContent& content) {
    std::vector<Fed> out;
    for (const BatchRun& run : content.runs) {
        for (uint64_t i = 0; i < run.count; ++i) {
            Fed one{run.op, run.first, run.epoch, {}, {}, 0};
            one.key.page += i;
            if (run.op == BatchOp::reference) {
                one.identity = content.identities.at(run.index + i);
                one.source = run.source;
                one.source.page += i;
            }
            if (run.op == BatchOp::literal) {
                std::memcpy(&one.page_id, content.literal(run.index + i).data(), 8);
            }
            out.push_back(one);
        }
    }
    return out;
}

// A page number that is near, far, or at a limit.
uint64_t some_page(Random& random) {
    switch (random.below(4)) {
        case 0:
            return random.below(kLocationPagesMax);
        case 1:
            return kLocationPagesMax - 1 - random.below(3);
        default:
            return random.below(20);
    }
}

Fed some_page_to_feed(Random& random, const std::vector<Fed>& before) {
    Fed one{BatchOp(1 + random.below(3)), {}, {}, {}, {}, 0};
    one.key = PageKey{VmId{5}, RegionId(random.below(3)), some_page(random)};
    one.epoch = random.chance(0.9) ? Epoch{7}
                                   : Epoch(random.chance(0.5) ? 0xffffffffu : 1 + random.below(9));
    if (random.chance(0.7) && !before.empty()) {  // continue a run
        one = before.back();
        if (one.key.page + 1 < kLocationPagesMax) ++one.key.page;
        const bool more = one.op == BatchOp::reference && one.source.page + 1 < kLocationPagesMax;
        if (more && random.chance(0.9)) ++one.source.page;
    } else if (one.op == BatchOp::reference) {
        const uint32_t vm = random.chance(0.2) ? 0xffffffffu : 5;
        one.source = Location{VmId{vm}, RegionId(random.below(64)), some_page(random)};
    }
    if (one.op == BatchOp::reference) one.identity = identity_of(uint8_t(random.next()));
    if (one.op == BatchOp::literal) one.page_id = 1 + random.below(1000);
    return one;
}

TEST(Batch, RoundTripOfRandomBatches) {
    BatchBuilder builder = make_builder();
    BatchDecoder decoder = make_decoder();
    BatchContent content;
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        SCOPED_TRACE(seed);
        Random random(seed);
        std::vector<Fed> fed;
        const uint64_t wanted = 1 + random.below(seed % 10 == 0 ? 5000 : 60);
        while (fed.size() < wanted && builder.has_room_for_literal() &&
               builder.has_room_for_reference()) {
            const Fed one = some_page_to_feed(random, fed);
            if (one.op == BatchOp::zero) builder.add_zero(one.key, one.epoch);
            if (one.op == BatchOp::literal) {
                builder.add_literal(one.key, one.epoch, text_page_of(one.page_id));
            }
            if (one.op == BatchOp::reference) {
                builder.add_reference(one.key, one.epoch, one.identity, one.source);
            }
            fed.push_back(one);
        }
        const auto encoded = builder.finish(seed);
        ASSERT_LE(encoded.message.size(), kBatchBytesMax);
        const Status decoded = decoder.decode(encoded.message, content);
        ASSERT_TRUE(decoded.ok()) << decoded.error().message();
        EXPECT_EQ(content.sequence, seed);
        EXPECT_EQ(content.vm, VmId{5});
        ASSERT_EQ(unroll(content), fed);
    }
}

Bytes golden_deltas_batch() {
    BatchBuilder builder = make_builder();
    builder.set_compress(false);
    builder.add_shifted(key(7, 0, 10), Epoch{1}, identity_of(0x10), key(7, 1, 20), 1024);
    builder.add_shifted(key(7, 0, 11), Epoch{1}, identity_of(0x20), key(7, 1, 21), 1024);
    const Bytes patch = bytes({5, 2, 0xaa, 0xbb});
    builder.add_delta(key(7, 0, 12), Epoch{1}, identity_of(0x30),
                      {key(7, 0, 12), 0, 0x11223344, DeltaKind::patch, patch});
    const Bytes frame = bytes({0xcc});
    builder.add_delta(key(7, 0, 13), Epoch{1}, identity_of(0x40),
                      {key(9, 1, 30), 512, 0x55667788, DeltaKind::zstd, frame});
    return builder.finish(1).message;
}

TEST(Batch, GoldenDeltas) {
    Bytes expected =
        bytes({2, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0});
    const auto put = [&](const Bytes& more) {
        expected.insert(expected.end(), more.begin(), more.end());
    };
    const auto put_identity = [&](uint8_t first) {
        const Identity identity = identity_of(first);
        expected.insert(expected.end(), identity.begin(), identity.end());
    };
    put(bytes({0, 1, 0, 4, 20, 2, 7, 1, 40, 0x80, 8}));  // SHIFT 10, 2 pages, source 20, by 1024
    put_identity(0x10);
    put_identity(0x20);
    put(bytes({5, 0, 1, 7, 0, 19, 0}));  // DELTA +0, source page 12 = 22 - 10, no shift
    put_identity(0x30);
    put(bytes({0x44, 0x33, 0x22, 0x11, 8, 0}));  // base tag, 4 bytes, patch
    put(bytes({5, 0, 1, 9, 1, 34, 0x80, 4}));    // source vm 9 region 1 page 30 = 13 + 17
    put_identity(0x40);
    put(bytes({0x88, 0x77, 0x66, 0x55, 3, 0}));  // base tag, 1 byte, zstd
    expected[16] = std::byte(expected.size() - kBatchHeaderBytes);
    put(bytes({5, 2, 0xaa, 0xbb, 0xcc}));
    EXPECT_EQ(golden_deltas_batch(), expected);
    BatchContent content;
    ASSERT_TRUE(make_decoder().decode(expected, content).ok());
    ASSERT_EQ(content.runs.size(), 3u);
    EXPECT_EQ(content.runs[0].shift, 1024u);
    EXPECT_EQ(content.runs[2].source, key(9, 1, 30));
    ASSERT_EQ(content.deltas.size(), 2u);
    EXPECT_EQ(content.deltas[0].base_tag, 0x11223344u);
    EXPECT_EQ(content.payload(content.deltas[0]).size(), 4u);
    EXPECT_EQ(content.payload(content.deltas[1])[0], std::byte{0xcc});
}

// The worst mix for size: literals that do not shrink, and single far-apart runs.
TEST(Batch, NeverExceedsItsLimit) {
    BatchBuilder builder = make_builder();
    for (uint64_t i = 0; i < kBatchLiteralPagesMax; ++i) {
        builder.add_literal(key(1, 0, i * 1000), Epoch{0xffffffff}, page_of(i + 1));
    }
    uint64_t page = 0;
    while (builder.has_room_for_reference()) {
        page = kLocationPagesMax - 1 - page;
        builder.add_delta(key(1, 63, page), Epoch{0xfffffff0}, Identity{},
                          {key(0xffffffff, 63, (kLocationPagesMax - 2) - page % 7 * 100),
                           4095,
                           1,
                           DeltaKind::patch,
                           {}});
        if (builder.has_room()) builder.add_zero(key(1, 62, page), Epoch{0xfffffff1});
    }
    while (builder.has_room()) {
        page = kLocationPagesMax - 1 - page;
        builder.add_zero(key(1, page % 2 ? 61 : 60, page), Epoch{0xfffffff1});
    }
    const auto encoded = builder.finish(std::numeric_limits<uint64_t>::max());
    EXPECT_LE(encoded.record_bytes, kBatchRecordBytesMax);
    EXPECT_LE(encoded.message.size(), kBatchBytesMax);
    BatchContent content;
    EXPECT_TRUE(make_decoder().decode(encoded.message, content).ok());
}

void expect_corrupt(const Bytes& message, const std::string& reason) {
    BatchContent content;
    const Status status = make_decoder().decode(message, content);
    ASSERT_FALSE(status.ok()) << reason;
    EXPECT_EQ(status.error().code, Errc::corrupt);
    EXPECT_NE(status.error().context.find(reason), std::string::npos) << status.error().context;
}

TEST(Batch, NamesWhatIsWrong) {
    const Bytes good = golden_records_batch();
    const auto with = [&](size_t at, int value) {
        Bytes out = good;
        out[at] = std::byte(value);
        return out;
    };
    expect_corrupt({}, "shorter than its header");
    expect_corrupt(with(0, 1), "version 1");
    expect_corrupt(with(1, 2), "unknown flags");
    expect_corrupt(with(2, 17), "17 literal pages");
    expect_corrupt(with(2, 1), "the header 1");
    expect_corrupt(with(16, 1), "sizes in the header");
    expect_corrupt(with(20, 1), "sizes in the header");
    expect_corrupt(with(24, 1), "the header 1");
    expect_corrupt(with(27, 1), "16777216 bytes of deltas");
    expect_corrupt(with(28, 9), "unknown record 9");
    expect_corrupt(with(28, 1), "before the first group");
    expect_corrupt(with(29, 0), "epoch 0");
    expect_corrupt(with(30, 64), "region 64");
    expect_corrupt(with(34, 0), "run of 0 pages");
    expect_corrupt(with(36, 0xff), "");  // 102 - ... : a start below zero, or an overlong number
    Bytes no_sequence = good;
    std::fill_n(no_sequence.begin() + 8, 8, std::byte{0});
    expect_corrupt(no_sequence, "sequence 0");
    Bytes empty(good.begin(), good.begin() + kBatchHeaderBytes);
    empty[16] = std::byte{0};
    expect_corrupt(empty, "no runs");
    expect_corrupt(Bytes(kBatchBytesMax + 1), "at most 131072");
}

TEST(Batch, NamesWhatIsWrongWithDeltas) {
    const Bytes good = golden_deltas_batch();
    const auto with = [&](size_t at, int value) {
        Bytes out = good;
        out[at] = std::byte(value);
        return out;
    };
    constexpr size_t kShift = kBatchHeaderBytes + 9;
    constexpr size_t kDelta = kBatchHeaderBytes + 11 + 32;
    ASSERT_EQ(good[kDelta], std::byte{5});
    expect_corrupt(with(kShift + 1, 0x20), "shift 4096");
    Bytes none = with(kShift, 0x80);
    none[kShift + 1] = std::byte{0};
    expect_corrupt(none, "shift 0");
    expect_corrupt(with(kDelta + 7 + 16 + 4, 10), "the records name 6 bytes of deltas");
    expect_corrupt(with(kDelta + 7 + 16 + 5, 0x21), "delta of 4228 bytes");
    expect_corrupt(with(kDelta, 6), "unknown record 6");
    // The last page of a region has no neighbour to be composed with.
    BatchBuilder builder = make_builder();
    builder.add_reference(key(1, 0, 0), Epoch{1}, Identity{}, key(1, 0, kLocationPagesMax - 1));
    Bytes last = builder.finish(1).message;
    last[kBatchHeaderBytes + 3] = std::byte{4};
    last.insert(last.end() - 16, std::byte{1});
    last[16] = std::byte(last.size() - kBatchHeaderBytes);
    expect_corrupt(last, "source vm 1 region 0 page 1099511627775");
}

// A header with one literal page, and the given literal area.
Bytes with_literals(uint8_t flags, ByteSpan literals) {
    Bytes out;
    ByteWriter writer(out);
    writer.u8(kBatchVersion);
    writer.u8(flags);
    writer.le16(1);
    writer.le32(1);
    writer.le64(1);
    writer.le32(6);
    writer.le32(static_cast<uint32_t>(literals.size()));
    writer.le32(0);
    writer.put(bytes({0, 1, 0, 2, 0, 1}));
    writer.put(literals);
    return out;
}

TEST(Batch, RefusesBadLiterals) {
    expect_corrupt(with_literals(0, Bytes(4095)), "raw literals of the wrong size");
    expect_corrupt(with_literals(1, Bytes(100)), "not one zstd frame");
    BatchBuilder builder = make_builder();
    builder.add_literal(key(1, 0, 0), Epoch{1}, text_page_of(1));
    builder.add_literal(key(1, 0, 1), Epoch{1}, text_page_of(2));
    const auto two = builder.finish(1);
    const ByteSpan frame_of_two = ByteSpan(two.message).last(two.literal_bytes);
    expect_corrupt(with_literals(1, frame_of_two), "literals");
    builder.add_literal(key(1, 0, 0), Epoch{1}, text_page_of(1));
    const auto one = builder.finish(1);
    Bytes frame(one.message.end() - static_cast<std::ptrdiff_t>(one.literal_bytes),
                one.message.end());
    BatchContent content;
    EXPECT_TRUE(make_decoder().decode(with_literals(1, frame), content).ok());
    frame.push_back(std::byte{0});
    expect_corrupt(with_literals(1, frame), "not one zstd frame");
    const Bytes legacy = bytes({0x27, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0});  // zstd 0.7
    expect_corrupt(with_literals(1, legacy), "not one zstd frame");
}

TEST(Batch, EveryTruncationIsRefused) {
    BatchBuilder builder = make_builder();
    builder.add_zero(key(1, 0, 9), Epoch{1});
    builder.add_literal(key(1, 0, 0), Epoch{1}, text_page_of(1));
    builder.add_reference(key(1, 0, 3), Epoch{1}, identity_of(1), key(2, 0, 1));
    for (const Bytes& whole :
         {golden_records_batch(), golden_deltas_batch(), builder.finish(3).message}) {
        BatchDecoder decoder = make_decoder();
        BatchContent content;
        ASSERT_TRUE(decoder.decode(whole, content).ok());
        for (size_t size = 0; size < whole.size(); ++size) {
            EXPECT_FALSE(decoder.decode(ByteSpan(whole).first(size), content).ok()) << size;
        }
    }
}

}  // namespace
}  // namespace evac::dedup
