#include "evac/protocol/messages.hpp"

#include <gtest/gtest.h>

#include "evac/core/random.hpp"
#include "evac/protocol/device_state.hpp"

namespace evac::protocol {
namespace {

std::vector<Message> one_of_each() {
    Fingerprints prints;
    prints.vm = VmId{7};
    prints.request_id = 3;
    prints.copy_id = 77;
    prints.region = RegionId{1};
    prints.first_page = 4096;
    prints.last = true;
    for (uint64_t i = 0; i < 11; ++i) {
        prints.zero.push_back(i % 3 == 0);
        prints.values.push_back(i % 3 == 0 ? Fingerprint{} : Fingerprint{i, ~i});
    }
    return {Hello{1, "site-a", 42, 1700000000000},
            Enrol{VmId{7},
                  "db",
                  "u-1",
                  {{RegionKind::main_ram, 1 << 28, "pc.ram"}, {RegionKind::disk, 512, "d0"}},
                  "{}",
                  {"-m", "256"},
                  Epoch{3}},
            EnrolResult{VmId{7}, false, "cpu differs", Epoch{2}, Epoch{3}, 99},
            FingerprintsRequest{VmId{7}, 3, 8, 77, {{RegionId{0}, 5, 1}, {RegionId{1}, 0, 9000}}},
            prints,
            BatchAck{VmId{7}, {1, 2, 3}},
            Nak{VmId{7}, 9, {{RegionId{0}, 5, Epoch{3}}}},
            Seal{VmId{7}, Epoch{3}, 12, 6, 1700000000001, Bytes(5, std::byte{1})},
            SealResult{VmId{7}, Epoch{3}, true, "", 1000},
            Handover{Bytes(3, std::byte{9})},
            Forget{VmId{7}},
            Heartbeat{5, true},
            Batch{Bytes(4, std::byte{8})},
            Echo{6, true, Bytes(3, std::byte{4})},
            Ballast{Bytes(5, std::byte{2})}};
}

TEST(Messages, BatchInPlaceIsTheBatchMessage) {
    const Bytes payload(100, std::byte{8});
    Bytes message(kBatchHeadroomBytes + payload.size(), std::byte{8});
    encode_batch(message);
    EXPECT_EQ(message, encode(Message(Batch{payload})));
}

TEST(Messages, RoundTripOfEachKind) {
    for (const Message& message : one_of_each()) {
        const Bytes bytes = encode(message);
        auto decoded = decode(bytes);
        ASSERT_TRUE(decoded.ok()) << name_of(message) << ": " << decoded.error().message();
        EXPECT_EQ(decoded->index(), message.index());
        EXPECT_EQ(encode(*decoded), bytes) << name_of(message);
    }
}

TEST(Messages, GoldenBytes) {
    auto hex = [](const Bytes& bytes) {
        std::string text;
        char two[3];
        for (const std::byte b : bytes) {
            snprintf(two, sizeof(two), "%02x", std::to_integer<unsigned>(b));
            text += two;
        }
        return text;
    };
    EXPECT_EQ(hex(encode(Hello{1, "ab", 2, 3})),
              "010100020000006162"
              "0200000000000000"
              "0300000000000000");
    EXPECT_EQ(hex(encode(Nak{VmId{1}, 2, {{RegionId{3}, 4, Epoch{5}}}})),
              "07"
              "01000000"
              "0200000000000000"
              "0100"
              "0300"
              "0400000000000000"
              "05000000");
    EXPECT_EQ(hex(encode(FingerprintsRequest{VmId{1}, 7, 2, 3, {{RegionId{4}, 5, 6}}})),
              "04"
              "01000000"
              "07000000"
              "0200000000000000"
              "0300000000000000"
              "0100"
              "0400"
              "0500000000000000"
              "06000000");
    EXPECT_EQ(
        hex(encode(Fingerprints{VmId{1}, 8, 2, RegionId{3}, 4, true, {true, false}, {{}, {6, 7}}})),
        "05"
        "01000000"
        "08000000"
        "0200000000000000"
        "0300"
        "0400000000000000"
        "02000000"
        "01"
        "01"
        "0600000000000000"
        "0700000000000000");
    EXPECT_EQ(hex(encode(Seal{VmId{1}, Epoch{2}, 3, 1, 4, Bytes(1, std::byte{0xaa})})),
              "08"
              "01000000"
              "02000000"
              "0300000000000000"
              "0100000000000000"
              "0400000000000000"
              "01000000"
              "aa");
    EXPECT_EQ(hex(encode(Echo{1, true, Bytes(2, std::byte{0xbb})})), "0e010000000000000001bbbb");
    EXPECT_EQ(hex(encode(Ballast{Bytes(2, std::byte{0xcc})})), "0fcccc");
}

TEST(Messages, AnEchoHasABoundedFiller) {
    EXPECT_TRUE(decode(encode(Echo{1, false, Bytes(kEchoFillerMax)})).ok());
    EXPECT_FALSE(decode(encode(Echo{1, false, Bytes(kEchoFillerMax + 1)})).ok());
}

TEST(Messages, ARequestHasBoundedRanges) {
    FingerprintsRequest most{VmId{7}, 0, 0, 1, {}};
    most.ranges.resize(kRangesMax, {RegionId{63}, UINT64_MAX, UINT32_MAX});
    const Bytes bytes = encode(most);
    EXPECT_LE(bytes.size(), kMessageBytesMax);
    EXPECT_TRUE(decode(bytes).ok());
    Bytes more = bytes;  // one range more
    ++reinterpret_cast<uint8_t&>(more[25]);
    more.insert(more.end(), bytes.end() - 14, bytes.end());
    EXPECT_FALSE(decode(more).ok());
    EXPECT_FALSE(decode(encode(FingerprintsRequest{VmId{7}, 0, 0, 1, {{RegionId{0}, 0, 0}}})).ok());
    EXPECT_TRUE(decode(encode(FingerprintsRequest{VmId{7}, 0, 0, 0, {}})).ok());
}

// Every truncation and every single-byte change gives a message or an error, never more than that.
TEST(Messages, DamagedBytesNeverCrash) {
    Random random(3);
    for (const Message& message : one_of_each()) {
        const Bytes good = encode(message);
        for (size_t size = 0; size < good.size(); ++size) {
            const auto cut = decode(ByteSpan(good).first(size));
            if (cut.ok()) EXPECT_EQ(encode(*cut).size(), size);
        }
        for (int i = 0; i < 500; ++i) {
            Bytes bad = good;
            bad[random.below(bad.size())] = static_cast<std::byte>(random.next());
            const auto decoded = decode(bad);
            if (decoded.ok()) EXPECT_LE(encode(*decoded).size(), bad.size() + 128);
        }
    }
    EXPECT_FALSE(decode({}).ok());
    EXPECT_FALSE(decode(Bytes(1, std::byte{0xff})).ok());
}

TEST(DeviceState, RoundTripAndDamage) {
    const DeviceStateBlob state{2, Bytes(100, std::byte{1}), Bytes(90000, std::byte{2})};
    const auto packed = pack(state);
    ASSERT_TRUE(packed.ok());
    EXPECT_LT(packed->size(), 1000u);
    const auto unpacked = unpack_device_state(*packed);
    ASSERT_TRUE(unpacked.ok());
    EXPECT_EQ(unpacked->prefix, state.prefix);
    EXPECT_EQ(unpacked->tail, state.tail);
    for (size_t i = 0; i < packed->size(); ++i) {
        EXPECT_FALSE(unpack_device_state(ByteSpan(*packed).first(i)).ok());
    }
}

}  // namespace
}  // namespace evac::protocol
