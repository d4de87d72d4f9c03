#include "standing_order.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace evac::daemon {
namespace {

constexpr int64_t kHourMs = 3'600'000;

class StandingOrderTest : public ::testing::Test {
  protected:
    void TearDown() override { std::filesystem::remove(path_); }
    StandingOrders restarted() const {
        StandingOrders orders(path_);
        EXPECT_TRUE(orders.load().ok());
        return orders;
    }
    const std::string path_ =
        ::testing::TempDir() + "standing-orders-" + std::to_string(::getpid()) + ".json";
};

TEST_F(StandingOrderTest, StandsUntilItsTimeAndOverARestart) {
    StandingOrders orders = restarted();
    EXPECT_EQ(orders.first(), nullptr);
    ASSERT_TRUE(orders.give({"quake-1", "intensity 6-", 9 * kHourMs, 10 * kHourMs}).ok());
    StandingOrders again = restarted();
    ASSERT_NE(again.first(), nullptr);
    EXPECT_EQ(again.first()->event_id, "quake-1");
    EXPECT_EQ(again.first()->reason, "intensity 6-");
    EXPECT_TRUE(again.expire(10 * kHourMs - 1).empty());
    const auto ended = again.expire(10 * kHourMs);
    ASSERT_EQ(ended.size(), 1u);
    EXPECT_EQ(ended[0].event_id, "quake-1");
    EXPECT_EQ(again.first(), nullptr);
    EXPECT_EQ(restarted().first(), nullptr) << "for good";
}

TEST_F(StandingOrderTest, AClockFarBackDoesNotRaiseAnOldOne) {
    StandingOrders orders = restarted();
    ASSERT_TRUE(orders.give({"quake-1", "r", 9 * kHourMs, 10 * kHourMs}).ok());
    EXPECT_TRUE(orders.expire(9 * kHourMs - 1000).empty()) << "a small step";
    EXPECT_EQ(orders.expire(7 * kHourMs).size(), 1u);
}

TEST_F(StandingOrderTest, CancellingOneLeavesTheOthers) {
    StandingOrders orders = restarted();
    ASSERT_TRUE(orders.give({"quake-1", "r", 0, kHourMs}).ok());
    ASSERT_TRUE(orders.give({"quake-2", "r", 0, kHourMs}).ok());
    ASSERT_TRUE(orders.give({"quake-1", "update", 0, kHourMs}).ok());
    EXPECT_FALSE(orders.cancel("quake-3").value());
    EXPECT_TRUE(orders.cancel("quake-2").value());
    StandingOrders again = restarted();
    ASSERT_NE(again.first(), nullptr);
    EXPECT_EQ(again.first()->event_id, "quake-1");
    EXPECT_EQ(again.first()->reason, "update");
    EXPECT_TRUE(again.cancel("").value());
    EXPECT_FALSE(again.cancel("").value());
    EXPECT_EQ(restarted().first(), nullptr);
}

TEST_F(StandingOrderTest, HoldsABoundedNumber) {
    StandingOrders orders = restarted();
    for (size_t i = 0; i <= StandingOrders::kMax; ++i) {
        ASSERT_TRUE(orders.give({"quake-" + std::to_string(i), "r", 0, kHourMs}).ok());
    }
    EXPECT_EQ(orders.first()->event_id, "quake-1");
}

TEST_F(StandingOrderTest, ADamagedFileIsNamedAndNoOrder) {
    std::ofstream(path_) << R"({"orders": [{"event": 3}]})";
    StandingOrders orders(path_);
    const Status loaded = orders.load();
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.error().code, Errc::corrupt);
    EXPECT_NE(loaded.error().message().find(path_), std::string::npos);
    EXPECT_EQ(orders.first(), nullptr);
}

}  // namespace
}  // namespace evac::daemon
