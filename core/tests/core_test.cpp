#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <thread>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/random.hpp"
#include "evac/core/result.hpp"
#include "evac/core/spsc_ring.hpp"

namespace evac {
namespace {

Result<int> half(int v) {
    if (v % 2 != 0) return make_error(Errc::invalid_argument, "v: must be even");
    return v / 2;
}
Result<int> quarter(int v) {
    auto h = half(v);
    EVAC_TRY(h);
    return half(*h);
}

TEST(Result, CarriesValueOrError) {
    EXPECT_EQ(*quarter(8), 2);
    EXPECT_EQ(quarter(6).error().code, Errc::invalid_argument);
    EXPECT_EQ(quarter(6).error().message(), "v: must be even (invalid argument)");
    EXPECT_EQ(io_error("open x", ENOENT).message(),
              "open x: No such file or directory (input/output)");
}

TEST(Bytes, RoundTripsAndFailsForGoodWhenShort) {
    Bytes buffer;
    ByteWriter w(buffer);
    w.u8(1);
    w.le16(0x0203);
    w.be32(0x04050607);
    w.le64(0x1122334455667788);
    w.put_sized("abc");
    ByteReader r(buffer);
    EXPECT_EQ(r.u8(), 1);
    EXPECT_EQ(r.le16(), 0x0203);
    EXPECT_EQ(r.be32(), 0x04050607u);
    EXPECT_EQ(r.le64(), 0x1122334455667788u);
    EXPECT_EQ(r.text_sized(3), "abc");
    EXPECT_TRUE(r.at_end());
    EXPECT_EQ(r.u8(), 0);
    EXPECT_FALSE(r.ok());

    ByteReader too_long(buffer);
    too_long.take(15);
    EXPECT_EQ(too_long.text_sized(2), "");
    EXPECT_FALSE(too_long.ok());
}

// The plain model is a deque; the ring must agree with it under random operations.
TEST(SpscRing, AgreesWithDeque) {
    Random random(1);
    SpscRing<int> ring(8);
    std::deque<int> model;
    for (int i = 0; i < 100000; ++i) {
        if (random.chance(0.5)) {
            const bool pushed = ring.try_push(int{i});
            EXPECT_EQ(pushed, model.size() < ring.capacity());
            if (pushed) model.push_back(i);
        } else {
            const auto popped = ring.try_pop();
            ASSERT_EQ(popped.has_value(), !model.empty());
            if (popped) {
                EXPECT_EQ(*popped, model.front());
                model.pop_front();
            }
        }
        EXPECT_EQ(ring.size_approx(), model.size());
    }
}

TEST(SpscSlots, AgreesWithDequeAndKeepsItsSlots) {
    Random random(2);
    SpscSlots<std::vector<int>> ring(8);
    std::deque<int> model;
    std::set<const int*> memory;  // of the slots' values
    for (int i = 0; i < 100000; ++i) {
        if (random.chance(0.5)) {
            std::vector<int>* slot = ring.claim();
            ASSERT_EQ(slot != nullptr, model.size() < ring.capacity());
            EXPECT_EQ(slot, ring.claim());
            if (slot == nullptr) continue;
            slot->assign(1, i);
            memory.insert(slot->data());
            ring.publish();
            model.push_back(i);
        } else {
            std::vector<int>* slot = ring.front();
            ASSERT_EQ(slot != nullptr, !model.empty());
            EXPECT_EQ(slot, ring.front());
            if (slot == nullptr) continue;
            EXPECT_EQ(slot->at(0), model.front());
            ring.release();
            model.pop_front();
        }
        EXPECT_EQ(ring.size_approx(), model.size());
    }
    EXPECT_EQ(memory.size(), ring.capacity());  // nothing was allocated a second time
}
TEST(SpscSlots, KeepsOrderAcrossThreads) {
    SpscSlots<uint64_t> ring(64);
    constexpr uint64_t kCount = 200000;
    std::thread producer([&ring] {
        for (uint64_t i = 0; i < kCount;) {
            if (uint64_t* slot = ring.claim()) {
                *slot = i++;
                ring.publish();
            } else {
                std::this_thread::yield();
            }
        }
    });
    for (uint64_t expected = 0; expected < kCount;) {
        if (const uint64_t* slot = ring.front()) {
            ASSERT_EQ(*slot, expected);
            ++expected;
            ring.release();
        } else {
            std::this_thread::yield();
        }
    }
    producer.join();
}
TEST(SpscRing, KeepsOrderAcrossThreads) {
    SpscRing<uint64_t> ring(64);
    constexpr uint64_t kCount = 200000;
    std::thread producer([&ring] {
        for (uint64_t i = 0; i < kCount;) {
            if (ring.try_push(uint64_t{i}))
                ++i;
            else
                std::this_thread::yield();
        }
    });
    for (uint64_t expected = 0; expected < kCount;) {
        if (const auto got = ring.try_pop()) {
            ASSERT_EQ(*got, expected);
            ++expected;
        } else {
            std::this_thread::yield();
        }
    }
    producer.join();
}

}  // namespace
}  // namespace evac
