// The best order of 13 to 16 VMs by dynamic programming over subsets, sharing no code with src/:
// with one switchover for all, no deadline and no `after`, the makespan is the end of the link plus
// it, and a turn that starts later never ends sooner, so the earliest end of each subset is enough.
#include <gtest/gtest.h>

#include <cstdio>
#include <random>

#include "planner_fixture.hpp"

namespace evac::planner {
namespace {

double best_makespan(const Inventory& inventory, Mode mode) {
    const size_t n = inventory.vms.size();
    const double B = testing::link_mib_s(inventory);
    std::vector<double> end(size_t{1} << n, std::numeric_limits<double>::infinity());
    end[0] = 0;
    for (size_t gone = 0; gone + 1 < end.size(); ++gone) {
        for (size_t vm = 0; vm < n; ++vm) {
            const size_t bit = size_t{1} << vm;
            if ((gone & bit) != 0) continue;
            const double t = end[gone];
            const double after = t + testing::plain_turn(inventory.vms[vm], mode, B, t).link_time;
            end[gone | bit] = std::min(end[gone | bit], after);
        }
    }
    return end.back() + inventory.vms[0].switchover_ms / 1000;
}

class SubsetSeeds : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Subset, SubsetSeeds, ::testing::Values(21, std::random_device{}()));

TEST_P(SubsetSeeds, ThirteenToSixteenVmsAreSolvedAndBoundedRight) {
    SCOPED_TRACE("seed " + std::to_string(GetParam()));
    Random random(GetParam());
    const ManualClock clock;
    double sum = 0, worst = 0;
    int instances = 0;
    for (int k = 0; k < 14; ++k) {
        Inventory inventory =
            testing::random_inventory(random, testing::kFamilies[k % 7], 13 + random.below(4));
        inventory.deadline_s.reset();
        for (VmInput& vm : inventory.vms) {
            vm.after.clear();
            vm.switchover_ms = inventory.vms[0].switchover_ms;
        }
        SolveOptions options;
        options.forced_mode_all = k % 2 == 0 ? Mode::live : Mode::freeze;
        const auto plan = solve(inventory, options, clock);
        ASSERT_TRUE(plan.ok());
        if (plan->evaluation.abandoned > 0) continue;  // then it is not the same question
        const double best = best_makespan(inventory, *options.forced_mode_all);
        EXPECT_LE(plan->stats.lower_bound_s, best * (1 + 1e-9));
        EXPECT_GE(plan->evaluation.makespan_s, best * (1 - 1e-9));
        const double gap = plan->evaluation.makespan_s / best - 1;
        sum += gap;
        worst = std::max(worst, gap);
        ++instances;
    }
    ASSERT_GE(instances, 7);
    std::printf("13 to 16 VMs against the optimum: mean %.4f %%, worst %.4f %% of %d\n",
                100 * sum / instances, 100 * worst, instances);
    // The figure is for the fixed seed; for any seed there is no promise of each instance.
    EXPECT_LE(sum / instances, GetParam() == 21 ? 0.001 : 0.02);
}

}  // namespace
}  // namespace evac::planner
