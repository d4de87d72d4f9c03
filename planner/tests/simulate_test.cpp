// The event loop: against the closed form, against itself, and against what must hold whatever
// happens.
#include "evac/planner/simulate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "planner_fixture.hpp"
#include "simulate_fixture.hpp"
#include "simulate_trace.hpp"

namespace evac::planner {
namespace {

using testing::as_listed;
using testing::Family;
using testing::kMibitMbit;
using testing::plain_inventory;
using testing::plain_vm;
using testing::random_inventory;

SimRun played(const Inventory& inventory, const Scenario& scenario, const Schedule& schedule,
              uint64_t seed = 1) {
    auto run = play(inventory, scenario, schedule, {Policy::fifo}, seed);
    EXPECT_TRUE(run.ok()) << (run.ok() ? "" : run.error().context);
    return run.ok() ? std::move(*run) : SimRun{};
}

std::vector<size_t> ends_of(const SimRun& run) {
    std::vector<size_t> ends(kEnds, 0);
    for (const VmRun& vm : run.vms) ++ends[static_cast<size_t>(vm.end)];
    return ends;
}

bool same(const SimRun& a, const SimRun& b) {
    if (a.vms.size() != b.vms.size() || a.makespan_s != b.makespan_s) return false;
    for (size_t i = 0; i < a.vms.size(); ++i) {
        const VmRun &x = a.vms[i], &y = b.vms[i];
        if (x.end != y.end || x.away_s != y.away_s || x.bytes_mib != y.bytes_mib ||
            x.downtime_ms != y.downtime_ms || x.recovery_age_s != y.recovery_age_s) {
            return false;
        }
    }
    return true;
}

// 1e-6 of the value, or of one second.
#define EXPECT_CLOSE(a, b) EXPECT_NEAR(a, b, 1e-6 * std::max(1.0, std::abs(b)))

TEST(Simulate, OnASteadyLinkItIsTheClosedForm) {
    uint64_t printed = std::random_device{}();
    std::printf("random seed %llu\n", static_cast<unsigned long long>(printed));
    for (const uint64_t seed : {uint64_t{1}, uint64_t{2}, uint64_t{3}, printed}) {
        Random random(seed);
        for (const Family family : testing::kFamilies) {
            for (const size_t n : {size_t{1}, size_t{9}, size_t{60}}) {
                Inventory inventory = random_inventory(random, family, n, 500);
                if (random.chance(0.5)) testing::add_after(random, inventory, 0.3);
                inventory.deadline_s = 100;
                const ManualClock clock;
                SolveOptions options;
                options.turns_max = 20'000;
                options.exact_small = false;
                auto plan = solve(inventory, options, clock);
                ASSERT_TRUE(plan.ok());
                const Evaluation& wanted = plan->evaluation;
                Scenario scenario;
                scenario.horizon_s = kHorizonS;
                const SimRun run = played(inventory, scenario, plan->schedule);
                EXPECT_CLOSE(run.makespan_s, wanted.makespan_s);
                for (size_t i = 0; i < n; ++i) {
                    const VmRun& vm = run.vms[i];
                    if (wanted.vms[i].mode == Mode::abandon) {
                        EXPECT_EQ(vm.end, End::abandoned);
                        continue;
                    }
                    ASSERT_EQ(vm.end, End::away) << seed;
                    EXPECT_EQ(vm.live_passes, wanted.vms[i].live_passes);
                    EXPECT_CLOSE(vm.start_s, wanted.vms[i].start_s);
                    EXPECT_CLOSE(vm.link_end_s, wanted.vms[i].link_end_s);
                    EXPECT_CLOSE(vm.away_s, wanted.vms[i].away_s);
                    EXPECT_CLOSE(vm.downtime_ms, wanted.vms[i].downtime_ms);
                    EXPECT_CLOSE(vm.bytes_mib, wanted.vms[i].bytes_mib);
                }
            }
        }
    }
}

// The same rate said in another way (two steps, a decay to itself) gives the same.
TEST(Simulate, AStepToTheSameRateChangesNothing) {
    Random random(5);
    const Inventory inventory = random_inventory(random, Family::mixed, 40, 500);
    Scenario stepped;
    for (const double at : {0.0, 1.5, 7.0, 20.0}) stepped.bandwidth.push_back({at, 500, {}, 0});
    stepped.bandwidth.back().half_life_s = 3;
    stepped.bandwidth.back().decay_to_mbit = 500;
    const SimRun a = played(inventory, {}, as_listed(inventory));
    const SimRun b = played(inventory, stepped, as_listed(inventory));
    for (size_t i = 0; i < inventory.vms.size(); ++i) {
        EXPECT_CLOSE(b.vms[i].away_s, a.vms[i].away_s);
        EXPECT_EQ(b.vms[i].live_passes, a.vms[i].live_passes);
    }
}

TEST(Simulate, TheTraceIsIntegratedAsItIs) {
    // 100 MiB at 1 MiB/s: 10 s, then 2 MiB/s for 20 s, dead for 15 s, then 2 MiB/s again: 50 left.
    const Inventory inventory = plain_inventory({100, 1});
    Scenario scenario;
    scenario.bandwidth = {{10, 2 * kMibitMbit, {}, 0}};
    scenario.outages = {{30, 15}};
    SimRun run = played(inventory, scenario, as_listed(inventory));
    EXPECT_NEAR(run.vms[0].away_s, 70, 1e-9);
    EXPECT_NEAR(run.vms[1].away_s, 70.5, 1e-9);

    // Decay to nothing: all that ever comes is rate x half-life / ln 2.
    scenario = {};
    scenario.bandwidth = {{0, kMibitMbit, 20.0, 0}};
    run = played(inventory, scenario, as_listed(inventory));
    EXPECT_EQ(run.vms[0].end, End::stranded);  // 28.85 MiB of 100
    EXPECT_EQ(run.vms[1].end, End::stranded);
    run = played(inventory, scenario, {{1, 0}, {Mode::live, Mode::live}});
    EXPECT_NEAR(run.vms[1].away_s, -20 / std::log(2.0) * std::log(1 - std::log(2.0) / 20), 1e-9);
}

TEST(Simulate, StreamsShareTheLinkEvenly) {
    const Inventory inventory = plain_inventory({10, 10, 10, 30});
    Scenario scenario;
    scenario.streams = 2;
    const SimRun run = played(inventory, scenario, as_listed(inventory));
    // 0 and 1 together until 20; 2 and 3 together until 40, then 3 alone for its last 20.
    EXPECT_NEAR(run.vms[0].away_s, 20, 1e-9);
    EXPECT_NEAR(run.vms[1].away_s, 20, 1e-9);
    EXPECT_NEAR(run.vms[2].away_s, 40, 1e-9);
    EXPECT_NEAR(run.vms[3].away_s, 60, 1e-9);
    EXPECT_NEAR(run.vms[3].start_s, 20, 1e-9);
    // The link is never idle: any number of streams ends with the last byte at the same time.
    Random random(3);
    Inventory many = random_inventory(random, Family::linear, 50, 500);
    for (VmInput& vm : many.vms) {
        vm.disk_write_mib_s = vm.switchover_ms = 0;
        vm.max_downtime_ms = 1e9;
    }
    const double serial = played(many, {}, as_listed(many)).makespan_s;
    for (const size_t streams : {size_t{2}, size_t{7}, kStreamsMax}) {
        scenario.streams = streams;
        EXPECT_CLOSE(played(many, scenario, as_listed(many)).makespan_s, serial);
    }
}

TEST(Simulate, PowerTakesWhoIsNotAway) {
    Inventory inventory = plain_inventory({10, 10, 10, 10});
    inventory.vms[1].host = inventory.vms[3].host = "rack";
    Scenario scenario;
    scenario.power = {{0, {}, {}}};
    EXPECT_EQ(ends_of(played(inventory, scenario, as_listed(inventory)))[2], 4U);
    scenario.power = {{20, {}, {}}};  // the second is away at 20: not before
    EXPECT_EQ(ends_of(played(inventory, scenario, as_listed(inventory))),
              (std::vector<size_t>{1, 0, 3, 0, 0, 0}));
    scenario.power = {{15, {}, {"rack"}}};  // in the middle of the second's turn: the third begins
    SimRun run = played(inventory, scenario, as_listed(inventory));
    EXPECT_EQ(ends_of(run), (std::vector<size_t>{2, 0, 2, 0, 0, 0}));
    EXPECT_NEAR(run.vms[2].away_s, 25, 1e-9);
    scenario.recovery_interval_s = 7;
    run = played(inventory, scenario, as_listed(inventory));
    EXPECT_EQ(ends_of(run), (std::vector<size_t>{2, 2, 0, 0, 0, 0}));
    EXPECT_GE(run.vms[3].recovery_age_s, 0);
    EXPECT_LE(run.vms[3].recovery_age_s, 7);
    scenario.power = {{1000, {}, {}}};  // long after: nothing is there any more
    EXPECT_EQ(ends_of(played(inventory, scenario, as_listed(inventory)))[0], 4U);
    scenario.power = {{1000, {}, {}}};  // but who was given up is
    Schedule schedule = as_listed(inventory);
    schedule.mode[2] = Mode::abandon;
    EXPECT_EQ(ends_of(played(inventory, scenario, schedule)),
              (std::vector<size_t>{3, 1, 0, 0, 0, 0}));
}

TEST(Simulate, AHoldEndsWhenTheOtherIsAwayOrLost) {
    Inventory inventory = plain_inventory({10, 5});
    inventory.vms[0].switchover_ms = 30'000;
    inventory.vms[0].host = "rack";
    inventory.vms[1].after = {"vm0"};
    SimRun run = played(inventory, {}, as_listed(inventory));
    EXPECT_NEAR(run.vms[1].away_s, 40, 1e-9);
    EXPECT_NEAR(run.vms[1].downtime_ms, 30'000, 1e-6);  // from 10 to 40
    Scenario scenario;
    scenario.power = {{22, {}, {"rack"}}};
    run = played(inventory, scenario, as_listed(inventory));
    EXPECT_EQ(run.vms[0].end, End::lost);
    EXPECT_EQ(run.vms[1].end, End::away);
    EXPECT_NEAR(run.vms[1].away_s, 22, 1e-9);
}

TEST(Simulate, AFailedTurnIsTriedOnceMore) {
    const Inventory inventory = plain_inventory(
        {10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10});
    Scenario scenario;
    scenario.failures.turn_probability = 1;
    SimRun run = played(inventory, scenario, as_listed(inventory));
    EXPECT_EQ(ends_of(run)[static_cast<size_t>(End::failed)], 20U);
    for (const VmRun& vm : run.vms) {
        EXPECT_EQ(vm.turns, kTurnsMax);
        EXPECT_GT(vm.bytes_mib, 0);
        EXPECT_LT(vm.bytes_mib, 20);
    }
    scenario.failures.turn_probability = 0.3;
    run = played(inventory, scenario, as_listed(inventory));
    size_t second = 0;
    double first_turns_end = 0, sent = 0;
    for (const VmRun& vm : run.vms) {
        sent += vm.bytes_mib;
        if (vm.turns == 1) first_turns_end = std::max(first_turns_end, vm.link_end_s);
    }
    for (const VmRun& vm : run.vms) {
        if (vm.turns == 1) continue;
        ++second;
        EXPECT_GE(vm.start_s, first_turns_end - 1e-9);  // after the others
    }
    EXPECT_GT(second, 0U);
    EXPECT_LT(second, 20U);
    EXPECT_CLOSE(sent, std::max_element(run.vms.begin(), run.vms.end(), [](auto& a, auto& b) {
                           return a.link_end_s < b.link_end_s;
                       })->link_end_s);  // 1 MiB/s: the link was never idle

    scenario.failures.retry = Retry::delay;
    scenario.failures.retry_delay_s = 500;
    const SimRun delayed = played(inventory, scenario, as_listed(inventory));
    for (size_t i = 0; i < 20; ++i) {
        EXPECT_EQ(delayed.vms[i].turns, run.vms[i].turns) << "the same chance";
        if (run.vms[i].turns == 2) EXPECT_GE(delayed.vms[i].start_s, 500);
    }
}

// Frozen, it is stopped in both turns, and runs between them.
TEST(Simulate, DowntimeCountsTheTurnThatFailed) {
    const Inventory inventory = plain_inventory({10, 10, 10, 10, 10, 10, 10, 10, 10, 10});
    Scenario scenario;
    scenario.failures.turn_probability = 0.4;
    const SimRun run = played(inventory, scenario, as_listed(inventory, Mode::freeze));
    size_t second = 0;
    for (const VmRun& vm : run.vms) {
        if (vm.end != End::away) continue;
        EXPECT_NEAR(vm.downtime_ms, vm.bytes_mib * 1000, 1e-6);  // 1 MiB/s
        second += vm.turns == 2 ? 1 : 0;
    }
    EXPECT_GT(second, 0U);
}

// A turn that begins while the line is dead judges with the rate before: the guest is not stopped
// because nothing gets through.
TEST(Simulate, AnOutageDoesNotStopTheGuest) {
    Inventory inventory = plain_inventory({10, 10});
    inventory.vms[1].max_downtime_ms = 100;
    inventory.vms[1].dirty = {{20, 0.1}};
    Scenario scenario;
    scenario.outages = {{10, 20}};
    const SimRun run = played(inventory, scenario, as_listed(inventory));
    EXPECT_NEAR(run.vms[1].start_s, 10, 1e-9);
    EXPECT_GE(run.vms[1].live_passes, 1);
    EXPECT_LT(run.vms[1].downtime_ms, 5000);
}

// A VM whose turn failed is not overtaken by one that is `after` it.
TEST(Simulate, AfterHoldsAlsoWhenTheOtherFailed) {
    Random random(17);
    size_t parked = 0;
    for (int round = 0; round < 30; ++round) {
        Inventory inventory = random_inventory(random, Family::mixed, 30, 500);
        testing::add_after(random, inventory, 0.6);
        const ManualClock clock;
        const auto plan = plan_by_policy(inventory, Policy::fifo, {}, clock);
        ASSERT_TRUE(plan.ok());
        Scenario scenario;
        scenario.failures.turn_probability = 0.3;
        scenario.streams = random.chance(0.5) ? 1 : 1 + random.below(4);
        if (random.chance(0.5)) {
            scenario.failures.retry = Retry::delay;
            scenario.failures.retry_delay_s = 5;
        }
        const SimRun run = played(inventory, scenario, plan->schedule, random.next());
        std::vector<VmIndex> place(30);
        for (size_t k = 0; k < 30; ++k) place[plan->schedule.order[k]] = static_cast<VmIndex>(k);
        for (VmIndex i = 0; i < 30; ++i) {
            EXPECT_TRUE(run.vms[i].end == End::away || run.vms[i].end == End::failed);
            for (const std::string& name : inventory.vms[i].after) {
                const VmIndex p = static_cast<VmIndex>(std::stoul(name.substr(2)));
                if (run.vms[p].end != End::away || run.vms[i].end != End::away) continue;
                EXPECT_GE(run.vms[i].away_s, run.vms[p].away_s);
                if (scenario.streams == 1 && run.vms[i].turns == 1 && run.vms[p].turns == 2) {
                    EXPECT_GE(run.vms[i].start_s, run.vms[p].start_s);
                    ++parked;
                }
            }
        }
    }
    EXPECT_GT(parked, 10U) << "the case must occur";
}

// Every VM ends in exactly one state, the link carries no more than it can, and nothing happens
// beyond the horizon, whatever the scenario.
TEST(Simulate, Conservation) {
    const uint64_t printed = std::random_device{}();
    std::printf("random seed %llu\n", static_cast<unsigned long long>(printed));
    std::vector<size_t> seen(kEnds, 0);
    for (int round = 0; round < 300; ++round) {
        Random random(round < 280 ? static_cast<uint64_t>(round) : printed + 7 * round);
        const size_t n = 1 + random.below(60);
        Inventory inventory = random_inventory(
            random, testing::kFamilies[random.below(std::size(testing::kFamilies))], n, 500);
        for (VmInput& vm : inventory.vms) {
            if (random.chance(0.7)) vm.host = "h" + std::to_string(random.below(4));
        }
        inventory.vms[0].host = "h0";
        if (random.chance(0.5)) testing::add_after(random, inventory, 0.3);
        Scenario scenario;
        scenario.streams = 1 + random.below(5);
        scenario.failures.turn_probability = random.chance(0.5) ? 0.2 : 0;
        scenario.failures.host_probability = random.chance(0.3) ? 0.3 : 0;
        scenario.failures.host_within_s = 30;
        if (random.chance(0.4)) scenario.power.push_back({random.unit() * 60, {}, {}});
        if (random.chance(0.4)) scenario.power.push_back({5, 50.0, {"h0"}});
        if (random.chance(0.3)) scenario.recovery_interval_s = 30;
        if (random.chance(0.4)) scenario.dirty_phases = {2, 0.1, 10};
        if (random.chance(0.4))
            scenario.bandwidth = {{3, 400, 20.0, random.chance(0.5) ? 0 : 50.0}};
        if (random.chance(0.4)) scenario.outages = {{1, 5}};
        if (random.chance(0.4)) scenario.replan_interval_s = 4;
        if (random.chance(0.4)) scenario.measurement_error = {0.2, 0.3, 0.1, 0.2};
        scenario.horizon_s = random.chance(0.2) ? 20 : 1e5;
        const uint64_t seed = random.next();
        const auto plan = first_plan(as_measured(inventory, scenario, seed), scenario,
                                     {Policy::priority_per_second});
        ASSERT_TRUE(plan.ok());
        const auto run =
            play(inventory, scenario, plan->schedule, {Policy::priority_per_second}, seed);
        ASSERT_TRUE(run.ok()) << run.error().context;
        double sent = 0, last_away = 0;
        for (size_t i = 0; i < n; ++i) {
            const VmRun& vm = run->vms[i];
            ++seen[static_cast<size_t>(vm.end)];
            sent += vm.bytes_mib;
            EXPECT_EQ(vm.end == End::away, vm.away_s > 0);
            EXPECT_EQ(vm.end == End::recovery_point && !scenario.recovery_interval_s, false);
            EXPECT_LE(vm.turns, kTurnsMax);
            if (vm.end != End::away) continue;
            last_away = std::max(last_away, vm.away_s);
            EXPECT_GE(vm.away_s, vm.link_end_s);
            EXPECT_GE(vm.link_end_s, vm.start_s);
            EXPECT_LE(vm.away_s, scenario.horizon_s);
        }
        EXPECT_EQ(run->makespan_s, last_away);
        const sim::Trace trace(500, scenario);
        EXPECT_LE(sent, trace.total_mib(scenario.horizon_s) * (1 + 1e-9));
        const auto again =
            play(inventory, scenario, plan->schedule, {Policy::priority_per_second}, seed);
        ASSERT_TRUE(again.ok());
        EXPECT_TRUE(same(*run, *again)) << "round " << round;
    }
    for (size_t end = 0; end < kEnds; ++end) {
        const auto name = to_string(static_cast<End>(end));
        if (static_cast<End>(end) != End::abandoned) EXPECT_GT(seen[end], 0U) << name;
    }
}

// Guests that do not write, one stream: more bandwidth at every moment, nobody later. (Guests that
// write may need another pass on a faster link: model.hpp.)
TEST(Simulate, MonotoneInBandwidth) {
    Random random(23);
    for (int round = 0; round < 60; ++round) {
        Inventory inventory = random_inventory(random, Family::staged, 40, 300);
        for (VmInput& vm : inventory.vms) vm.dirty.clear();
        Scenario slow, fast;
        double at = 0;
        for (int k = 0; k < 5; ++k) {
            if (k > 0) at += testing::between(random, 0.1, 6);
            const double mbit = testing::between(random, 50, 500);
            const double half_life = testing::between(random, 1, 30);
            slow.bandwidth.push_back({at, mbit, half_life, mbit / 2});
            fast.bandwidth.push_back({at, mbit * 1.1, half_life, mbit / 1.5});
        }
        const SimRun late = played(inventory, slow, as_listed(inventory));
        const SimRun soon = played(inventory, fast, as_listed(inventory));
        EXPECT_LT(soon.makespan_s, late.makespan_s);
        for (size_t i = 0; i < inventory.vms.size(); ++i) {
            EXPECT_LE(soon.vms[i].away_s, late.vms[i].away_s * (1 + 1e-12));
        }
    }
}

TEST(Simulate, SeedsAreReproducibleAndDiffer) {
    Random random(29);
    const Inventory inventory = random_inventory(random, Family::mixed, 100, 500);
    Scenario scenario;
    scenario.dirty_phases = {5, 0.2, 5};
    scenario.failures.turn_probability = 0.1;
    scenario.measurement_error = {0.1, 0.1, 0.1, 0.1};
    const SimRun a = played(inventory, scenario, as_listed(inventory), 1);
    const SimRun b = played(inventory, scenario, as_listed(inventory), 1);
    const SimRun c = played(inventory, scenario, as_listed(inventory), 2);
    EXPECT_TRUE(same(a, b));
    EXPECT_FALSE(same(a, c));
    const Inventory x = as_measured(inventory, scenario, 1),
                    y = as_measured(inventory, scenario, 2);
    EXPECT_EQ(x.vms[7].unstaged_mib, as_measured(inventory, scenario, 1).vms[7].unstaged_mib);
    EXPECT_NE(x.vms[7].unstaged_mib, y.vms[7].unstaged_mib);
    EXPECT_NE(x.link.goodput_mbit, y.link.goodput_mbit);
}

// Phases with one factor are a guest that writes that much faster from its first change on.
TEST(Simulate, PhasesScaleTheWriting) {
    Inventory inventory = plain_inventory({0});
    inventory.vms[0].disk_write_mib_s = 0.01;
    inventory.vms[0].switchover_ms = 0;
    inventory.vms.insert(inventory.vms.begin(), plain_vm("first", 1000));
    Scenario scenario;
    scenario.dirty_phases = {kPhaseIntervalMinS, 3, 3};
    const SimRun run = played(inventory, scenario, as_listed(inventory, Mode::freeze));
    EXPECT_NEAR(run.vms[1].bytes_mib, 30, 0.1);
    scenario.dirty_phases = {1e9, 3, 3};
    EXPECT_NEAR(played(inventory, scenario, as_listed(inventory, Mode::freeze)).vms[1].bytes_mib,
                10, 1e-9);
}

TEST(Simulate, RefusesWhatIsNotValid) {
    Inventory inventory = plain_inventory({1, 1});
    Schedule twice = as_listed(inventory);
    twice.order = {0, 0};
    EXPECT_FALSE(play(inventory, {}, twice, {}, 1).ok());
    inventory.vms[0].unstaged_mib = -1;
    EXPECT_FALSE(play(inventory, {}, as_listed(inventory), {}, 1).ok());
    const ManualClock clock;
    EXPECT_FALSE(simulate(inventory, {}, clock).ok());
}

}  // namespace
}  // namespace evac::planner
