// Plans made again, room at away, modes that give up full state, and advice.
#include "evac/planner/replan.hpp"

#include <gtest/gtest.h>

#include <random>

#include "placement.hpp"
#include "planner_fixture.hpp"

namespace evac::planner {
namespace {

using testing::Family;

Plan must_solve(const Inventory& inventory, SolveOptions options = {}) {
    const ManualClock clock;
    options.turns_max = 40'000;
    auto plan = solve(inventory, options, clock);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().context);
    return std::move(*plan);
}

Replan must_replan(const Inventory& now, const Progress& progress, const Standing& standing,
                   const ReplanOptions& options = {}) {
    const ManualClock clock;
    auto out = replan(now, progress, standing, options, clock);
    EXPECT_TRUE(out.ok()) << (out.ok() ? "" : out.error().context);
    return std::move(*out);
}

Progress all_wait(const Inventory& inventory) {
    return {std::vector<VmState>(inventory.vms.size(), VmState::waiting), 0};
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

TEST(Replan, NothingChangedKeepsThePlan) {
    Random random(4);
    for (const Family family : testing::kFamilies) {
        const Inventory inventory = testing::random_inventory(random, family, 80);
        const Plan plan = must_solve(inventory);
        const Replan again = must_replan(inventory, all_wait(inventory), {inventory, plan});
        EXPECT_FALSE(again.replaced);
        EXPECT_EQ(again.reason, "nothing changed");
        EXPECT_EQ(again.plan.schedule.order, plan.schedule.order);
        EXPECT_EQ(again.plan.schedule.mode, plan.schedule.mode);
        EXPECT_DOUBLE_EQ(again.plan.evaluation.makespan_s, plan.evaluation.makespan_s);
        EXPECT_LE(again.plan.stats.lower_bound_s, again.plan.evaluation.makespan_s);
    }
}

// Whatever changes: what is under way stays in front in its mode, what is away is not planned, the
// result is not worse than the standing order, and is replaced only for the margin.
TEST(Replan, IsStableAndNeverTouchesWhatIsUnderWay) {
    const uint64_t fresh = std::random_device{}();
    for (const uint64_t seed : {uint64_t{1}, uint64_t{2}, fresh}) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        for (int round = 0; round < 25; ++round) {
            Inventory inventory =
                testing::random_inventory(random, testing::kFamilies[random.below(7)], 60);
            if (random.chance(0.4)) testing::add_after(random, inventory, 0.2);
            const Plan live = must_solve(inventory);
            if (random.chance(0.5)) inventory.deadline_s = live.evaluation.makespan_s * 0.6;
            const Plan plan = must_solve(inventory);
            Progress progress = all_wait(inventory);
            const size_t gone = random.below(20);
            const auto& order = plan.schedule.order;
            for (size_t p = 0; p < gone; ++p) progress.state[order[p]] = VmState::away;
            progress.state[order[gone]] = VmState::frozen;
            progress.state[order[gone + 1]] = VmState::in_flight;
            progress.state[order[gone + 5]] = VmState::failed;
            progress.elapsed_s = gone == 0 ? 0 : plan.evaluation.vms[order[gone]].start_s;
            Inventory now = inventory;
            now.link.goodput_mbit *= testing::between(random, 0.4, 2);
            for (VmInput& vm : now.vms) {
                if (random.chance(0.2)) vm.unstaged_mib *= testing::between(random, 0, 4);
            }
            const ReplanOptions options;
            const Replan out = must_replan(now, progress, {inventory, plan}, options);
            const auto& next = out.plan.schedule.order;
            ASSERT_EQ(next.size(), now.vms.size());
            EXPECT_EQ(next[0], order[gone]);
            EXPECT_EQ(next[1], order[gone + 1]);
            EXPECT_EQ(out.plan.schedule.mode[next[1]], plan.schedule.mode[next[1]]);
            EXPECT_EQ(out.plan.schedule.mode[next[0]], Mode::freeze);
            EXPECT_EQ(out.plan.evaluation.vms[next[0]].live_passes, 0);
            EXPECT_EQ(out.plan.reason[order[gone + 5]].miss, Miss::failed);
            for (size_t p = 0; p < gone; ++p) {
                EXPECT_TRUE(out.plan.evaluation.vms[order[p]].meets_deadline);
                EXPECT_EQ(out.plan.evaluation.vms[order[p]].bytes_mib, 0);
            }
            EXPECT_GE(out.after.weighted_rescued, out.before.weighted_rescued - 1e-9);
            EXPECT_NEAR(out.plan.evaluation.weighted_rescued, out.after.weighted_rescued, 1e-6);
            EXPECT_NEAR(out.plan.evaluation.makespan_s, out.after.makespan_s,
                        1e-9 * out.after.makespan_s);
            const bool more = out.after.weighted_rescued > out.before.weighted_rescued + 1e-9;
            if (out.replaced && !more) {
                EXPECT_LE(out.after.makespan_s,
                          out.before.makespan_s * (1 - options.margin) * (1 + 1e-9));
            }
            EXPECT_NE(out.reason.find("goodput"), std::string::npos);
            EXPECT_NE(out.reason.find("1 VM failed"), std::string::npos);
            std::vector<size_t> place(next.size());
            for (size_t p = 0; p < next.size(); ++p) place[next[p]] = p;
            for (size_t i = 0; i < now.vms.size(); ++i) {
                if (progress.state[i] != VmState::waiting || !moves(out.plan.schedule.mode[i]))
                    continue;
                for (const std::string& name : now.vms[i].after) {
                    const size_t k = std::stoul(name.substr(2));
                    const bool holds =
                        progress.state[k] == VmState::waiting && moves(out.plan.schedule.mode[k]);
                    if (holds) EXPECT_LT(place[k], place[i]);
                }
            }
        }
    }
}

TEST(Replan, ATighterDeadlineSavesTheHeavyOnes) {
    Inventory inventory = equal_vms(20);
    for (size_t i = 0; i < 20; ++i) inventory.vms[i].priority = i % 4 == 0 ? 9 : 1;
    const Plan plan = must_solve(inventory);
    Inventory now = inventory;
    now.deadline_s = 10;
    Progress progress = all_wait(now);
    progress.elapsed_s = 5;  // five seconds are left: five VMs
    const Replan out = must_replan(now, progress, {inventory, plan});
    EXPECT_DOUBLE_EQ(out.after.weighted_rescued, 45);
    EXPECT_EQ(out.replaced, out.before.weighted_rescued < 45);
    EXPECT_EQ(out.plan.evaluation.late, 15U);
    EXPECT_EQ(out.reason, "deadline none -> 10 s");
    EXPECT_EQ(out.plan.reason[out.plan.schedule.order.back()].miss, Miss::late);
}

TEST(Replan, NewVmsAndFreezing) {
    Inventory inventory = equal_vms(8);
    for (VmInput& vm : inventory.vms) {  // live: 4 + 2 + 1 + ... s; frozen: 4 s
        vm.max_downtime_ms = 300;
        vm.dirty = {{1e6, 0.5}};
        vm.unstaged_mib = 4;
    }
    const Plan plan = must_solve(inventory);
    Inventory now = inventory;
    now.vms.push_back(now.vms.back());
    now.vms.back().name = "new";
    now.deadline_s = plan.evaluation.makespan_s * 0.8;
    const Replan out = must_replan(now, all_wait(now), {inventory, plan});
    EXPECT_TRUE(out.replaced);
    EXPECT_NE(out.reason.find("1 VM new"), std::string::npos) << out.reason;
    const auto& mode = out.plan.schedule.mode;
    EXPECT_GT(std::count(mode.begin(), mode.end(), Mode::freeze), 0);
    ReplanOptions post_copy;
    post_copy.allow_post_copy = true;
    const Replan other = must_replan(now, all_wait(now), {inventory, plan}, post_copy);
    EXPECT_EQ(
        std::count(other.plan.schedule.mode.begin(), other.plan.schedule.mode.end(), Mode::freeze),
        0);
}

TEST(Replan, RefusesWhatDoesNotFit) {
    const Inventory inventory = equal_vms(3);
    const Plan plan = must_solve(inventory);
    const ManualClock clock;
    Progress progress = all_wait(inventory);
    progress.state.pop_back();
    EXPECT_FALSE(replan(inventory, progress, {inventory, plan}, {}, clock).ok());
    progress = all_wait(inventory);
    progress.elapsed_s = std::nan("");
    EXPECT_FALSE(replan(inventory, progress, {inventory, plan}, {}, clock).ok());
    progress.elapsed_s = 0;
    progress.state.assign(3, VmState::away);
    const Replan done = must_replan(inventory, progress, {inventory, plan});
    EXPECT_EQ(done.plan.evaluation.makespan_s, 0);
    EXPECT_DOUBLE_EQ(done.after.weighted_rescued, 3);
    EXPECT_EQ(done.plan.evaluation.abandoned, 0U);
}

TEST(Modes, PostCopyUsesTheLinkAsFreezeAndStopsForTheSwitchoverOnly) {
    Inventory inventory = equal_vms(1);
    inventory.vms[0].switchover_ms = 70;
    inventory.vms[0].disk_write_mib_s = 0.1;
    Schedule schedule{{0}, {Mode::post_copy}};
    const auto post_copy = evaluate(inventory, schedule);
    schedule.mode = {Mode::freeze};
    const auto freeze = evaluate(inventory, schedule);
    ASSERT_TRUE(post_copy.ok() && freeze.ok());
    EXPECT_DOUBLE_EQ(post_copy->vms[0].downtime_ms, 70);
    EXPECT_DOUBLE_EQ(freeze->vms[0].downtime_ms, 1070);
    EXPECT_DOUBLE_EQ(post_copy->vms[0].away_s, freeze->vms[0].away_s);
    EXPECT_DOUBLE_EQ(post_copy->vms[0].away_s, 1.07);
}

TEST(Modes, PostCopyOnlyWhereAllowed) {
    Inventory inventory = equal_vms(6);
    for (VmInput& vm : inventory.vms) vm.disk_write_mib_s = 0.95;  // no live pass makes progress
    for (VmInput& vm : inventory.vms) vm.max_downtime_ms = 100;
    for (size_t i = 0; i < 3; ++i) inventory.vms[i].disk_write_mib_s = 0;
    for (size_t i = 0; i < 3; ++i) inventory.vms[i].max_downtime_ms = 1e6;
    const auto count = [](const Plan& plan, Mode mode) {
        return std::count(plan.schedule.mode.begin(), plan.schedule.mode.end(), mode);
    };
    EXPECT_EQ(count(must_solve(inventory), Mode::post_copy), 0);
    SolveOptions allowed;
    allowed.allow_post_copy = true;
    const Plan plan = must_solve(inventory, allowed);
    EXPECT_EQ(count(plan, Mode::post_copy), 3);
    EXPECT_EQ(count(plan, Mode::live), 3);
    for (size_t i = 3; i < 6; ++i) EXPECT_TRUE(plan.evaluation.vms[i].meets_downtime_limit);
    SolveOptions forced;
    forced.forced_mode = {{"vm0", Mode::post_copy}};
    EXPECT_EQ(must_solve(inventory, forced).schedule.mode[0], Mode::post_copy);
}

TEST(Modes, RecoveryPointsOnlyUnderTriage) {
    Inventory inventory = equal_vms(6);
    inventory.deadline_s = 3;
    for (size_t i = 0; i < 6; ++i) inventory.vms[i].priority = static_cast<double>(10 - i);
    inventory.vms[4].recovery_point_age_s = 30;
    const Plan plan = must_solve(inventory);
    EXPECT_EQ(plan.evaluation.recovery_points, 0U);
    EXPECT_EQ(plan.evaluation.late, 3U);
    EXPECT_EQ(plan.reason[4].miss, Miss::late);
    SolveOptions triage;
    triage.triage = true;
    const Plan third = must_solve(inventory, triage);
    EXPECT_EQ(third.schedule.mode[4], Mode::recovery_point);
    EXPECT_EQ(third.reason[4].miss, Miss::late);
    EXPECT_EQ(third.evaluation.late, 2U);
    EXPECT_DOUBLE_EQ(third.evaluation.weighted_recovery_point, 6);
    EXPECT_DOUBLE_EQ(third.evaluation.weighted_rescued, plan.evaluation.weighted_rescued);
    EXPECT_LE(third.stats.lower_bound_s, third.evaluation.makespan_s);
    SolveOptions leave;
    leave.abandon_late = true;
    const Plan left = must_solve(inventory, leave);
    EXPECT_EQ(left.evaluation.recovery_points, 1U);
    EXPECT_EQ(left.evaluation.abandoned, 2U);
    SolveOptions forced;
    forced.forced_mode = {{"vm0", Mode::recovery_point}};
    const ManualClock clock;
    EXPECT_FALSE(solve(inventory, forced, clock).ok());  // it has none
}

TEST(Modes, ReasonsNameWhoHolds) {
    Inventory inventory = equal_vms(2);
    inventory.vms[0].switchover_ms = 60'000;
    inventory.vms[1].after = {"vm0"};
    inventory.deadline_s = 10;
    const Plan plan = must_solve(inventory);
    EXPECT_EQ(plan.reason[0].miss, Miss::late);
    EXPECT_EQ(plan.reason[1].miss, Miss::waits);
    EXPECT_EQ(plan.reason[1].waits_for, 0U);
    Inventory endless = equal_vms(3);
    for (VmInput& vm : endless.vms) vm.disk_write_mib_s = 1e9;
    const Plan never = must_solve(endless);
    EXPECT_EQ(never.reason[never.schedule.order.back()].miss, Miss::never_drains);
}

// No host is filled beyond its memory, and who is left out fits nowhere, not even for a lighter
// one.
TEST(Room, IsKeptAndLeavesOutTheLightest) {
    for (const uint64_t seed : {uint64_t{7}, uint64_t{8}, uint64_t{std::random_device{}()}}) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        for (int round = 0; round < 30; ++round) {
            Inventory inventory = testing::random_inventory(random, Family::mixed, 40);
            double memory = 0;
            for (const VmInput& vm : inventory.vms) memory += vm.memory_mib;
            const double share = testing::between(random, 0.1, 0.5);
            for (size_t h = 0; h < 4; ++h) {
                inventory.away_hosts.push_back({"h" + std::to_string(h), memory * share / 2});
            }
            const Plan plan = must_solve(inventory);
            ASSERT_EQ(plan.away_host.size(), 40U);
            std::vector<double> room;
            for (const AwayHost& host : inventory.away_hosts) room.push_back(host.memory_mib);
            for (size_t i = 0; i < 40; ++i) {
                if (plan.away_host[i] < 0) continue;
                room[static_cast<size_t>(plan.away_host[i])] -= inventory.vms[i].memory_mib;
            }
            for (const double left : room) EXPECT_GE(left, 0);
            for (size_t i = 0; i < 40; ++i) {
                const bool out = plan.away_host[i] < 0;
                EXPECT_EQ(plan.schedule.mode[i] == Mode::abandon, out);
                if (!out) continue;
                EXPECT_EQ(plan.reason[i].miss, Miss::no_room);
                const double need = inventory.vms[i].memory_mib;
                for (const double left : room) EXPECT_GT(need, left);
                for (size_t k = 0; k < 40; ++k) {
                    if (plan.away_host[k] < 0) continue;
                    if (inventory.vms[k].priority >= inventory.vms[i].priority) continue;
                    EXPECT_GT(need, room[static_cast<size_t>(plan.away_host[k])] +
                                        inventory.vms[k].memory_mib);
                }
            }
        }
    }
}

TEST(Room, EnoughIsNoLimitAndThePlanIsTheSame) {
    Random random(5);
    Inventory inventory = testing::random_inventory(random, Family::heavy, 30);
    const Plan without = must_solve(inventory);
    EXPECT_TRUE(without.away_host.empty());
    inventory.away_hosts = {{"big", 1e9}};
    const Plan with = must_solve(inventory);
    EXPECT_EQ(with.schedule.order, without.schedule.order);
    EXPECT_EQ(with.away_host, std::vector<int32_t>(30, 0));
    const auto again = parse_inventory(to_json(inventory));
    ASSERT_TRUE(again.ok()) << again.error().context;
    EXPECT_EQ(again->away_hosts.size(), 1U);
    EXPECT_EQ(again->away_hosts[0].memory_mib, 1e9);
}

TEST(Room, BadFieldsAreNamed) {
    const auto refused = [](const Inventory& inventory, const std::string& part) {
        const auto result = parse_inventory(to_json(inventory));
        ASSERT_FALSE(result.ok()) << part;
        EXPECT_NE(result.error().context.find(part), std::string::npos) << result.error().context;
    };
    Inventory inventory = equal_vms(2);
    inventory.vms[1].recovery_point_age_s = -1;
    refused(inventory, "vms[1].recovery_point_age_s: -1");
    inventory.vms[1].recovery_point_age_s = 12.5;
    EXPECT_EQ(parse_inventory(to_json(inventory))->vms[1].recovery_point_age_s, 12.5);
    inventory.away_hosts = {{"h", 1}, {"h", 1}};
    refused(inventory, "away_hosts[1].name: \"h\"");
    inventory.away_hosts = {{"h", -2}};
    refused(inventory, "away_hosts[0].memory_mib: -2");
}

TEST(Advice, SaysWhatHelpsAndByHowMuch) {
    Inventory inventory = equal_vms(10);
    inventory.deadline_s = 4;
    const Plan plan = must_solve(inventory);
    const ManualClock clock;
    const auto advice = advise(inventory, plan, {}, clock);
    ASSERT_TRUE(advice.ok());
    ASSERT_EQ(advice->size(), 2U);  // nobody writes: freezing does not help
    const Advice& rate = advice->at(0);
    EXPECT_EQ(rate.kind, Advice::Kind::bandwidth);
    EXPECT_DOUBLE_EQ(rate.goodput_mbit, 3 * inventory.link.goodput_mbit);  // 10 VMs in 10/3 s
    EXPECT_DOUBLE_EQ(rate.before.weighted_rescued, 4);
    EXPECT_DOUBLE_EQ(rate.after.weighted_rescued, 10);
    const Advice& stage = advice->at(1);
    EXPECT_EQ(stage.kind, Advice::Kind::stage);
    EXPECT_EQ(stage.vms.size(), 6U);
    EXPECT_DOUBLE_EQ(stage.after.weighted_rescued, 7);  // six halves, then one

    Inventory writing = equal_vms(4);
    for (VmInput& vm : writing.vms) {
        vm.max_downtime_ms = 300;
        vm.dirty = {{1e6, 0.5}};
        vm.unstaged_mib = 4;
    }
    const auto other = advise(writing, must_solve(writing), {}, clock);
    ASSERT_TRUE(other.ok());
    EXPECT_EQ(other->back().kind, Advice::Kind::freeze);
    EXPECT_LT(other->back().after.makespan_s, other->back().before.makespan_s);
}

}  // namespace
}  // namespace evac::planner
