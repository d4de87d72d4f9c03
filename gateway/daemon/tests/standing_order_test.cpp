#include "standing_order.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace evac::daemon {
namespace {

class StandingOrderTest : public ::testing::Test {
  protected:
    void TearDown() override { std::filesystem::remove(path_); }
    const std::string path_ =
        ::testing::TempDir() + "standing-order-" + std::to_string(::getpid()) + ".json";
};

TEST_F(StandingOrderTest, StandsUntilItsTimeAndOverARestart) {
    StandingOrder standing(path_);
    ASSERT_TRUE(standing.load().ok());
    EXPECT_EQ(standing.at(0), nullptr);
    ASSERT_TRUE(standing.give({"quake-1", "intensity 6-", 1000}).ok());
    StandingOrder restarted(path_);
    ASSERT_TRUE(restarted.load().ok());
    ASSERT_NE(restarted.at(999), nullptr);
    EXPECT_EQ(restarted.at(999)->event_id, "quake-1");
    EXPECT_EQ(restarted.at(999)->reason, "intensity 6-");
    EXPECT_EQ(restarted.at(1000), nullptr);
}

TEST_F(StandingOrderTest, OnlyItsOwnEventOrAnOperatorCancelsIt) {
    StandingOrder standing(path_);
    ASSERT_TRUE(standing.give({"quake-1", "r", 1000}).ok());
    EXPECT_FALSE(standing.cancel("quake-2"));
    EXPECT_NE(standing.at(0), nullptr);
    EXPECT_TRUE(standing.cancel(""));
    EXPECT_FALSE(standing.cancel(""));
    StandingOrder restarted(path_);
    ASSERT_TRUE(restarted.load().ok());
    EXPECT_EQ(restarted.at(0), nullptr);
}

TEST_F(StandingOrderTest, ADamagedFileIsNamedAndNoOrder) {
    std::ofstream(path_) << R"({"event": 3})";
    StandingOrder standing(path_);
    const Status loaded = standing.load();
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.error().code, Errc::corrupt);
    EXPECT_NE(loaded.error().message().find(path_), std::string::npos);
    EXPECT_EQ(standing.at(0), nullptr);
}

}  // namespace
}  // namespace evac::daemon
