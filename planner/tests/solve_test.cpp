#include "evac/planner/solve.hpp"

#include <gtest/gtest.h>

#include <random>

#include "bound.hpp"
#include "compiled.hpp"
#include "evac/planner/plan.hpp"
#include "inventory_rules.hpp"
#include "planner_fixture.hpp"
#include "relaxation.hpp"

namespace evac::planner {
namespace {

using testing::Family;
constexpr double kTolerance = 1e-9;

Plan must_solve(const Inventory& inventory, const SolveOptions& options = {}) {
    const ManualClock clock;
    auto plan = solve(inventory, options, clock);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().context);
    return std::move(*plan);
}

SolveOptions all_stay_live() {
    SolveOptions options;
    options.freeze_for_deadline = false;
    return options;
}

// What holds of every plan, whatever the instance.
void expect_sound(const Inventory& inventory, const Plan& plan) {
    const auto again = evaluate(inventory, plan.schedule);
    ASSERT_TRUE(again.ok()) << again.error().context;
    EXPECT_EQ(again->makespan_s, plan.evaluation.makespan_s);
    EXPECT_EQ(again->weighted_rescued, plan.evaluation.weighted_rescued);
    EXPECT_LE(plan.stats.lower_bound_s, plan.evaluation.makespan_s);
    EXPECT_GE(plan.stats.gap, 0);
    EXPECT_TRUE(std::isfinite(plan.evaluation.makespan_s));
}

// A deadline that only part of the work meets.
void set_tight_deadline(Random& random, Inventory& inventory) {
    const double all = must_solve(inventory, all_stay_live()).evaluation.makespan_s;
    inventory.deadline_s = all * testing::between(random, 0.2, 0.9);
}

class Seeds : public ::testing::TestWithParam<uint64_t> {};
uint64_t random_seed() {
    static const uint64_t seed = std::random_device{}();
    return seed;
}
// Two fixed seeds and one that differs from run to run; a failure prints it.
INSTANTIATE_TEST_SUITE_P(Solve, Seeds, ::testing::Values(11, 12, random_seed()));

TEST_P(Seeds, ExactSolutionIsTheBestOfAllOrders) {
    SCOPED_TRACE("seed " + std::to_string(GetParam()));
    Random random(GetParam());
    for (int k = 0; k < 60; ++k) {
        Inventory inventory = testing::random_inventory(random, testing::kFamilies[k % 7],
                                                        1 + random.below(k < 6 ? 7 : 6));
        if (random.chance(0.3)) testing::add_after(random, inventory, 0.4);
        if (random.chance(0.6)) set_tight_deadline(random, inventory);
        const testing::BruteForce best =
            testing::brute_force(inventory, testing::all_live(inventory));
        const Plan plan = must_solve(inventory, all_stay_live());
        expect_sound(inventory, plan);
        EXPECT_TRUE(plan.stats.exact);
        EXPECT_NEAR(plan.evaluation.weighted_rescued, best.weight, kTolerance);
        EXPECT_NEAR(plan.evaluation.makespan_s, best.makespan_s, kTolerance * best.makespan_s);
        EXPECT_LE(plan.stats.lower_bound_s, best.least_makespan_s * (1 + kTolerance));
        if (!inventory.deadline_s) EXPECT_NEAR(plan.stats.gap, 0, kTolerance);
    }
}

// The search that large sites get, held against the optimum.
TEST_P(Seeds, SearchComesCloseToTheOptimum) {
    SCOPED_TRACE("seed " + std::to_string(GetParam()));
    Random random(GetParam());
    SolveOptions search = all_stay_live();
    search.exact_small = false;
    double sum = 0, worst = 0;
    int compared = 0, weight_missed = 0;
    const int instances = 35;
    for (int k = 0; k < instances; ++k) {
        Inventory inventory = testing::random_inventory(random, testing::kFamilies[k % 7],
                                                        2 + random.below(kExactVmsMax - 3));
        if (random.chance(0.3)) testing::add_after(random, inventory, 0.3);
        if (random.chance(0.4)) set_tight_deadline(random, inventory);
        const Plan best = must_solve(inventory, all_stay_live());
        ASSERT_TRUE(best.stats.exact);
        const Plan found = must_solve(inventory, search);
        expect_sound(inventory, found);
        EXPECT_FALSE(found.stats.exact);
        EXPECT_LE(found.evaluation.weighted_rescued, best.evaluation.weighted_rescued + kTolerance);
        EXPECT_LE(found.stats.lower_bound_s, best.evaluation.makespan_s * (1 + kTolerance));
        if (found.evaluation.weighted_rescued < best.evaluation.weighted_rescued - kTolerance) {
            ++weight_missed;
            continue;
        }
        const double gap = found.evaluation.makespan_s / best.evaluation.makespan_s - 1;
        EXPECT_GE(gap, -kTolerance);
        if (gap > 0.01) {
            std::printf("  %.2f %%: %s, %zu VMs%s\n", 100 * gap,
                        testing::name_of(testing::kFamilies[k % 7]), inventory.vms.size(),
                        inventory.deadline_s ? ", deadline" : "");
        }
        sum += gap;
        worst = std::max(worst, gap);
        ++compared;
    }
    std::printf("search against optimum: mean %.4f %%, worst %.4f %%, weight missed in %d of %d\n",
                100 * sum / compared, 100 * worst, weight_missed, instances);
    // No promise for each instance: the figure holds for the fixed seeds, and loosely for any.
    EXPECT_LE(sum / compared, GetParam() == random_seed() ? 0.02 : 0.001);
    EXPECT_LE(weight_missed, instances / 20);
}

// Thousands of small instances in every family, live, frozen and mixed, with links from starved to
// idle.
TEST_P(Seeds, BoundIsNeverAboveTheOptimum) {
    SCOPED_TRACE("seed " + std::to_string(GetParam()));
    Random random(GetParam());
    double tightest = 0;
    for (int k = 0; k < 1500; ++k) {
        Inventory inventory = testing::random_inventory(random, testing::kFamilies[random.below(7)],
                                                        1 + random.below(k % 20 == 0 ? 6 : 5),
                                                        testing::log_between(random, 20, 20'000));
        std::vector<Mode> mode = testing::all_live(inventory);
        for (Mode& m : mode) m = random.chance(0.3) ? Mode::freeze : Mode::live;
        const double best = testing::brute_force(inventory, mode).least_makespan_s;

        const Compiled model(inventory, std::vector<std::vector<uint32_t>>(mode.size()), mode);
        std::vector<uint32_t> going(mode.size());
        std::iota(going.begin(), going.end(), 0U);
        std::vector<int> passes_max;
        for (uint32_t i = 0; i < mode.size(); ++i) {
            passes_max.push_back(mode[model.original(i)] == Mode::freeze ? 0 : kLivePassesMax);
        }
        const double bound = makespan_lower_bound(model, going, passes_max,
                                                  best * (1 + random.unit()), true, ManualClock());
        ASSERT_LE(bound, best * (1 + kTolerance)) << to_json(inventory);
        ASSERT_GT(bound, 0);
        tightest = std::max(tightest, bound / best);
    }
    EXPECT_GT(tightest, 0.999);  // and it is not vacuous
}

// The gap of a plan for many VMs, in every family: the secant leaves 9 % on saturating guests and
// 44 % where passes are added.
TEST(Solve, TheBoundIsTightForManyVms) {
    for (const Family family : testing::kFamilies) {
        Random random(5);
        const Inventory inventory = testing::random_inventory(random, family, 1500);
        EXPECT_LT(must_solve(inventory).stats.gap, 0.02) << testing::name_of(family);
        SolveOptions loose;
        loose.tight_bound = false;
        const double gap = must_solve(inventory, loose).stats.gap;
        if (family == Family::heavy) EXPECT_GT(gap, 0.1);
    }
}

// The relaxation alone, not held down to a known plan, on horizons beyond the best end.
TEST_P(Seeds, RelaxationIsNeverAboveAKnownEnd) {
    SCOPED_TRACE("seed " + std::to_string(GetParam()));
    Random random(GetParam());
    double tightest = 0;
    for (int k = 0; k < 14; ++k) {
        const Inventory inventory =
            testing::random_inventory(random, testing::kFamilies[k % 7], 40 + random.below(600),
                                      testing::log_between(random, 100, 10'000));
        SolveOptions options = all_stay_live();
        options.turns_max = 300'000;
        const Plan plan = must_solve(inventory, options);
        const Compiled model(inventory, std::vector<std::vector<uint32_t>>(inventory.vms.size()),
                             plan.schedule.mode);
        const std::vector<int> passes_max(model.size(), kLivePassesMax);
        const ManualClock clock;
        Effort effort(clock);
        Sequencer sequencer(model, passes_max, effort);
        std::vector<uint32_t> order;
        for (const VmIndex i : plan.schedule.order) order.push_back(model.canonical(i));
        const double end = sequencer.end_of(order, 0);
        for (const double stretch : {1.0, 1.3}) {
            Relaxation relaxation(sequencer, order, end * stretch);
            relaxation.improve(2 * end, 0);
            ASSERT_LE(relaxation.link_bound_s(), end * (1 + kTolerance)) << k;
            tightest = std::max(tightest, relaxation.link_bound_s() / end);
        }
    }
    EXPECT_GT(tightest, 0.999);
}

TEST(Solve, TheOrderAndTheNamesInTheInventoryDoNotMatter) {
    for (const size_t n : {9U, 150U}) {
        for (const bool deadline : {false, true}) {
            Random random(31 + n);
            Inventory inventory = testing::random_inventory(random, Family::mixed, n);
            testing::add_after(random, inventory, 0.2);
            if (deadline) set_tight_deadline(random, inventory);
            const Plan plan = must_solve(inventory);

            Inventory shuffled = inventory;
            for (size_t i = n; i > 1; --i)
                std::swap(shuffled.vms[i - 1], shuffled.vms[random.below(i)]);
            const Plan other = must_solve(shuffled);
            EXPECT_EQ(other.evaluation.makespan_s, plan.evaluation.makespan_s);
            EXPECT_EQ(other.stats.lower_bound_s, plan.stats.lower_bound_s);
            for (size_t p = 0; p < n; ++p) {
                EXPECT_EQ(shuffled.vms[other.schedule.order[p]].name,
                          inventory.vms[plan.schedule.order[p]].name);
            }

            Inventory renamed = inventory;
            const auto rename = [](const std::string& name) {
                return "z" + std::string(name.rbegin(), name.rend());
            };
            for (VmInput& vm : renamed.vms) {
                vm.name = rename(vm.name);
                for (std::string& name : vm.after) name = rename(name);
            }
            const Plan third = must_solve(renamed);
            EXPECT_EQ(third.schedule.order, plan.schedule.order);
            EXPECT_EQ(third.schedule.mode, plan.schedule.mode);
        }
    }
}

TEST(Solve, IsDeterministic) {
    Random random(8);
    Inventory inventory = testing::random_inventory(random, Family::heavy, 120);
    set_tight_deadline(random, inventory);
    const Plan a = must_solve(inventory), b = must_solve(inventory);
    EXPECT_EQ(a.schedule.order, b.schedule.order);
    EXPECT_EQ(a.schedule.mode, b.schedule.mode);
    EXPECT_EQ(a.stats.turns, b.stats.turns);
}

TEST(Solve, MoreBandwidthNeverRaisesTheBoundOrTheOptimum) {
    Random random(77);
    for (int k = 0; k < 40; ++k) {
        // Frozen guests: with live passes a faster link may turn "no progress" into one more pass.
        const Inventory inventory =
            testing::random_inventory(random, testing::kFamilies[k % 7], 2 + random.below(7), 200);
        SolveOptions freeze;
        freeze.forced_mode_all = Mode::freeze;
        double last_makespan = std::numeric_limits<double>::infinity();
        double last_bound = last_makespan;
        for (const double mbit : {200.0, 300.0, 1000.0, 5000.0}) {
            Inventory faster = inventory;
            faster.link.goodput_mbit = mbit;
            const Plan plan = must_solve(faster, freeze);
            EXPECT_LE(plan.evaluation.makespan_s, last_makespan * (1 + kTolerance));
            last_makespan = plan.evaluation.makespan_s;
            // The relaxation itself, on one horizon for all rates.
            const Compiled model(faster, std::vector<std::vector<uint32_t>>(faster.vms.size()),
                                 std::vector<Mode>(faster.vms.size(), Mode::freeze));
            std::vector<uint32_t> going(faster.vms.size());
            std::iota(going.begin(), going.end(), 0U);
            const double bound =
                secant_lower_bound(model, going, std::vector<int>(faster.vms.size(), 0), 1000);
            EXPECT_LE(bound, last_bound * (1 + kTolerance));
            last_bound = bound;
        }
    }
}

TEST(Solve, BeatsOrEqualsTheSimpleRules) {
    Random random(99);
    const ManualClock clock;
    for (const Family family : testing::kFamilies) {
        Inventory inventory = testing::random_inventory(random, family, 120);
        testing::add_after(random, inventory, 0.1);
        for (const bool deadline : {false, true}) {
            if (deadline) set_tight_deadline(random, inventory);
            SolveOptions options = all_stay_live();
            options.turns_max = 300'000;
            const Plan plan = must_solve(inventory, options);
            expect_sound(inventory, plan);
            EXPECT_TRUE(testing::respects_after(inventory, plan.schedule.order));
            for (const Policy policy : {Policy::fifo, Policy::shortest_first, Policy::ratio,
                                        Policy::priority, Policy::priority_per_second}) {
                const auto simple = plan_by_policy(inventory, policy, {}, clock);
                ASSERT_TRUE(simple.ok());
                expect_sound(inventory, *simple);
                EXPECT_GE(plan.evaluation.weighted_rescued,
                          simple->evaluation.weighted_rescued - kTolerance)
                    << testing::name_of(family) << " " << to_string(policy);
                if (deadline) continue;
                EXPECT_LE(plan.evaluation.makespan_s,
                          simple->evaluation.makespan_s * (1 + kTolerance))
                    << testing::name_of(family) << " " << to_string(policy);
            }
        }
    }
}

// Linear growth: ascending a/b is optimal, and the bound proves it.
TEST(Solve, LinearGrowthIsProvedOptimal) {
    Random random(3);
    Inventory inventory = testing::random_inventory(random, Family::linear, 400);
    for (VmInput& vm : inventory.vms) vm.switchover_ms = 50;
    SolveOptions freeze;
    freeze.forced_mode_all = Mode::freeze;
    const Plan plan = must_solve(inventory, freeze);
    EXPECT_LT(plan.stats.gap, 1e-6);
    EXPECT_EQ(plan.schedule.mode, std::vector<Mode>(400, Mode::freeze));
}

Inventory equal_vms(size_t n) {
    Inventory inventory;
    inventory.link = {8.388608, 0};  // 1 MiB/s
    for (size_t i = 0; i < n; ++i) {
        VmInput vm;
        vm.name = "vm" + std::to_string(i);
        vm.memory_mib = 64;
        vm.unstaged_mib = 1;
        vm.max_downtime_ms = 2000;
        inventory.vms.push_back(vm);
    }
    return inventory;
}

TEST(Solve, SavesTheHeavyOnesFirst) {
    for (const size_t n : {10U, 60U}) {
        Inventory inventory = equal_vms(n);
        for (size_t i = 0; i < n; ++i) inventory.vms[i].priority = i % 2 == 0 ? 1 : 5;
        inventory.deadline_s = static_cast<double>(n) / 2;
        const Plan plan = must_solve(inventory);
        EXPECT_EQ(plan.evaluation.late, n / 2);
        EXPECT_DOUBLE_EQ(plan.evaluation.weighted_rescued, 5.0 * static_cast<double>(n) / 2);
        EXPECT_DOUBLE_EQ(plan.evaluation.makespan_s,
                         static_cast<double>(n));  // the others still go
        EXPECT_EQ(plan.evaluation.abandoned, 0U);
    }
}

TEST(Solve, AbandonLateLeavesThemBehind) {
    Inventory inventory = equal_vms(10);
    inventory.deadline_s = 4;
    SolveOptions options;
    options.abandon_late = true;
    const Plan plan = must_solve(inventory, options);
    EXPECT_EQ(plan.evaluation.abandoned, 6U);
    EXPECT_EQ(plan.evaluation.late, 0U);
    EXPECT_DOUBLE_EQ(plan.evaluation.makespan_s, 4);
    EXPECT_LE(plan.stats.lower_bound_s, 4);
    EXPECT_EQ(plan.schedule.mode[plan.schedule.order.back()], Mode::abandon);
}

// Who is waited for counts with who waits: a light VM in front of a heavy one goes early.
TEST(Solve, PredecessorsOfHeavyVmsGoEarly) {
    for (const size_t n : {10U, 60U}) {
        Inventory inventory = equal_vms(n);
        for (VmInput& vm : inventory.vms) vm.priority = 3;
        inventory.vms[0].priority = 1;
        inventory.vms[1].priority = 100;
        inventory.vms[1].after = {"vm0"};
        inventory.deadline_s = 2;
        EXPECT_DOUBLE_EQ(must_solve(inventory).evaluation.weighted_rescued, 101);
    }
}

Inventory with_live_passes(size_t n) {
    Inventory inventory = equal_vms(n);
    for (VmInput& vm : inventory.vms) {  // live: 1 + 0.5 + 0.25 s; frozen: 1 s
        vm.max_downtime_ms = 300;
        vm.dirty = {{1e6, 0.5}};
        vm.unstaged_mib = 4;
    }
    return inventory;
}

TEST(Solve, FreezesOnlyToMeetTheDeadline) {
    for (const size_t n : {4U, 30U}) {
        Inventory inventory = with_live_passes(n);
        const Plan live = must_solve(inventory);
        EXPECT_EQ(live.schedule.mode, testing::all_live(inventory));

        inventory.deadline_s = live.evaluation.makespan_s * 0.97;
        const Plan plan = must_solve(inventory);
        EXPECT_EQ(plan.evaluation.late, 0U);
        const auto frozen =
            std::count(plan.schedule.mode.begin(), plan.schedule.mode.end(), Mode::freeze);
        EXPECT_GE(frozen, 1);
        EXPECT_LE(static_cast<size_t>(frozen), n / 2);
        EXPECT_GT(must_solve(inventory, all_stay_live()).evaluation.late, 0U);

        SolveOptions forced_live;
        forced_live.forced_mode = {{"vm0", Mode::live}};
        EXPECT_EQ(must_solve(inventory, forced_live).schedule.mode[0], Mode::live);
    }
}

TEST(Solve, ForcedModes) {
    const Inventory inventory = with_live_passes(5);
    SolveOptions options;
    options.forced_mode_all = Mode::freeze;
    options.forced_mode = {{"vm2", Mode::live}, {"vm4", Mode::abandon}};
    const Plan plan = must_solve(inventory, options);
    using M = Mode;
    EXPECT_EQ(plan.schedule.mode,
              (std::vector<Mode>{M::freeze, M::freeze, M::live, M::freeze, M::abandon}));
    EXPECT_EQ(plan.schedule.order.back(), 4U);
    EXPECT_EQ(plan.evaluation.vms[0].live_passes, 0);
    EXPECT_FALSE(plan.evaluation.vms[0].meets_downtime_limit);

    const ManualClock clock;
    options.forced_mode = {{"nobody", Mode::live}};
    EXPECT_FALSE(solve(inventory, options, clock).ok());
    options.forced_mode = {{"vm1", Mode::recovery_point}};  // it has none
    EXPECT_FALSE(solve(inventory, options, clock).ok());
    options.forced_mode.clear();
    options.forced_mode_all = Mode::recovery_point;
    EXPECT_FALSE(solve(inventory, options, clock).ok());
    options.forced_mode_all = Mode::abandon;
    const Plan nothing = must_solve(inventory, options);
    EXPECT_EQ(nothing.evaluation.abandoned, 5U);
    EXPECT_EQ(nothing.evaluation.makespan_s, 0);
    EXPECT_EQ(nothing.stats.gap, 0);
}

// Guests that together write far faster than the link drains: times would grow without end.
TEST(Solve, AbandonsWhatTheLinkCannotDrain) {
    for (const size_t n : {8U, 300U}) {
        Inventory inventory = equal_vms(n);
        for (VmInput& vm : inventory.vms) vm.disk_write_mib_s = n < 10 ? 1000 : 1.5;
        const Plan plan = must_solve(inventory);
        expect_sound(inventory, plan);
        EXPECT_GT(plan.evaluation.abandoned, 0U);
        EXPECT_LT(plan.evaluation.abandoned, n);
        EXPECT_LE(plan.evaluation.makespan_s, kHorizonS);
    }
    Inventory extreme = equal_vms(3);
    for (VmInput& vm : extreme.vms) {
        vm.disk_write_mib_s = vm.unstaged_mib = vm.wire_ratio = kNumberMax;
        vm.dirty = {{kNumberMax, 1e-12}, {1e-12, kNumberMax}};
    }
    extreme.link.goodput_mbit = kGoodputMbitMin;
    EXPECT_EQ(must_solve(extreme).evaluation.abandoned, 3U);
}

TEST(Solve, NothingToSend) {
    Inventory inventory = equal_vms(20);
    for (VmInput& vm : inventory.vms) vm.unstaged_mib = 0;
    const Plan plan = must_solve(inventory);
    EXPECT_EQ(plan.evaluation.makespan_s, 0);
    EXPECT_EQ(plan.stats.lower_bound_s, 0);
    EXPECT_EQ(plan.stats.gap, 0);
}

// A clock that runs on by itself, to spend a budget.
class RunningClock final : public Clock {
  public:
    uint64_t now_ns() const override { return now_ns_ += 1'000'000; }
    int64_t wall_unix_ms() const override { return 0; }

  private:
    mutable uint64_t now_ns_ = 0;
};

TEST(Solve, TimeBudgetStillGivesAPlan) {
    Random random(6);
    Inventory inventory = testing::random_inventory(random, Family::mixed, 2000);
    testing::add_after(random, inventory, 0.1);
    const RunningClock clock;
    for (const bool deadline : {false, true}) {
        if (deadline) inventory.deadline_s = 30;
        SolveOptions options;
        options.time_budget_ms = 5;
        const auto plan = solve(inventory, options, clock);
        ASSERT_TRUE(plan.ok());
        expect_sound(inventory, *plan);
        EXPECT_TRUE(plan->stats.cut_by_time);
        EXPECT_LT(plan->stats.turns, 200'000U);
    }
}

TEST(PlanFromText, AppliesChangesAndNamesMistakes) {
    const ManualClock clock;
    Inventory inventory = equal_vms(4);
    inventory.vms[1].after = {"vm0"};
    const std::string text = to_json(inventory);
    PlanOptions options;
    options.what_if.goodput_mbit = 2 * 8.388608;
    options.what_if.exclude = {"vm0"};
    options.what_if.priority = {{"vm3", 9}};
    options.what_if.deadline_s = 1;
    const auto output = plan_from_text(text, options, clock);
    ASSERT_TRUE(output.ok()) << output.error().context;
    EXPECT_EQ(output->inventory.vms.size(), 3U);
    EXPECT_TRUE(output->inventory.vms[0].after.empty());
    EXPECT_DOUBLE_EQ(output->plan.evaluation.makespan_s, 1.5);
    EXPECT_DOUBLE_EQ(output->plan.evaluation.weighted_rescued, 10);
    EXPECT_FALSE(output->feasible());
    EXPECT_NE(output->json().find("\"schema\": 1"), std::string::npos);

    const auto refused = [&](const PlanOptions& wrong, const std::string& part) {
        const auto result = plan_from_text(text, wrong, clock);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().code, Errc::invalid_argument);
        EXPECT_NE(result.error().context.find(part), std::string::npos) << result.error().context;
    };
    PlanOptions wrong;
    wrong.what_if.exclude = {"zoe"};
    refused(wrong, "exclude: \"zoe\"");
    wrong.what_if.exclude = {"vm0", "vm1", "vm2", "vm3"};
    refused(wrong, "one VM at least");
    wrong = {};
    wrong.what_if.priority = {{"vm0", 0.5}};
    refused(wrong, "priority of \"vm0\": 0.5");
    wrong = {};
    wrong.what_if.goodput_mbit = 0;
    refused(wrong, "rate: 0");
    wrong = {};
    wrong.what_if.deadline_s = -1;
    refused(wrong, "deadline: -1");
    EXPECT_FALSE(plan_from_text("{}", {}, clock).ok());
    EXPECT_TRUE(plan_from_text(text, {}, clock)->feasible());
}

}  // namespace
}  // namespace evac::planner
