// Many evacuations: re-planning, and what is kept of each run.
#include <gtest/gtest.h>

#include "evac/planner/simulate.hpp"
#include "planner_fixture.hpp"
#include "simulate_fixture.hpp"

namespace evac::planner {
namespace {

using testing::Family;
using testing::kMibitMbit;
using testing::plain_inventory;
using testing::plain_vm;
using testing::random_inventory;

TEST(Simulate, ReplanningFollowsTheLink) {
    // Planned for a fast link with a deadline that fits all; the link becomes slow: who weighs most
    // per second must go first, which the first plan does not do.
    Inventory inventory = plain_inventory({});
    for (int i = 0; i < 40; ++i) {
        inventory.vms.push_back(plain_vm("vm" + std::to_string(i), 10));
        inventory.vms.back().priority = 1 + i % 10;
        inventory.vms.back().max_downtime_ms = 100;
        inventory.vms.back().disk_write_mib_s = 0.001 * (40 - i);
    }
    inventory.link.goodput_mbit = 10 * kMibitMbit;
    inventory.deadline_s = 60;
    Scenario scenario;
    scenario.bandwidth = {{0, 2 * kMibitMbit, {}, 0}};
    const ManualClock clock;
    const auto keeps = simulate(inventory, scenario, clock);
    ASSERT_TRUE(keeps.ok());
    scenario.replan_interval_s = 5;
    const auto replans = simulate(inventory, scenario, clock);
    ASSERT_TRUE(replans.ok());
    const RunSummary &kept = keeps->policies[0].runs[0], &changed = replans->policies[0].runs[0];
    EXPECT_EQ(kept.replans, 0U);
    EXPECT_GE(changed.replans_taken, 1U);
    EXPECT_LE(changed.replans_taken, 5U) << "no thrash";
    EXPECT_GT(changed.weighted_rescued, kept.weighted_rescued * 1.1);
    EXPECT_FALSE(keeps->feasible());
}

TEST(Simulate, ReplanningIsStableWhereThePlanHolds) {
    Random random(31);
    for (const Family family : testing::kFamilies) {
        const Inventory inventory = random_inventory(random, family, 60, 500);
        Scenario scenario;
        const ManualClock clock;
        const auto keeps = simulate(inventory, scenario, clock);
        scenario.replan_interval_s = 3;
        const auto replans = simulate(inventory, scenario, clock);
        ASSERT_TRUE(keeps.ok() && replans.ok());
        const RunSummary &kept = keeps->policies[0].runs[0], &asked = replans->policies[0].runs[0];
        EXPECT_GT(asked.replans, 0U);
        EXPECT_LE(asked.replans_taken, 1 + asked.replans / 10) << testing::name_of(family);
        EXPECT_LE(asked.makespan_s, kept.makespan_s * 1.01) << testing::name_of(family);
    }
}

TEST(Simulate, SummariesCountWhatRunsSay) {
    Inventory inventory = plain_inventory({10, 10, 10, 10});
    inventory.vms[3].priority = 7;
    inventory.deadline_s = 25;
    Scenario scenario;
    scenario.policies = {{Policy::fifo}, {Policy::priority}};
    scenario.windows_s = {10, 20, 100};
    const ManualClock clock;
    const auto out = simulate(inventory, scenario, clock);
    ASSERT_TRUE(out.ok());
    EXPECT_EQ(out->seeds_played, 1U);
    const RunSummary &fifo = out->policies[0].runs[0], &priority = out->policies[1].runs[0];
    EXPECT_EQ(fifo.weight_away, (std::vector<double>{1, 2, 10}));
    EXPECT_EQ(priority.weight_away, (std::vector<double>{7, 8, 10}));
    EXPECT_EQ(fifo.vms_away, (std::vector<size_t>{1, 2, 4}));
    EXPECT_EQ(fifo.weighted_rescued, 2);
    EXPECT_EQ(priority.weighted_rescued, 8);
    EXPECT_EQ(fifo.late, 2U);
    EXPECT_EQ(fifo.ends[0], 4U);
    EXPECT_NEAR(fifo.makespan_s, 40, 1e-9);
    EXPECT_NEAR(fifo.predicted_makespan_s, 40, 1e-9);
    EXPECT_NEAR(fifo.wire_mib, 40, 1e-9);
    EXPECT_NEAR(fifo.weight_curve_s[kCurvePoints / 5], 20, 1e-9);  // 2 of 10
    EXPECT_NEAR(fifo.weight_curve_s[kCurvePoints / 2], 40, 1e-9);  // the heavy one is last
    EXPECT_NEAR(priority.weight_curve_s[kCurvePoints / 2], 10, 1e-9);
    EXPECT_NEAR(fifo.vms_curve_s[kCurvePoints / 2], 20, 1e-9);
    EXPECT_FALSE(out->feasible());
}

}  // namespace
}  // namespace evac::planner
