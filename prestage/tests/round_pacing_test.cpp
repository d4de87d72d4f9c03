// Hosts in virtual time: what the pacing promises, on hundred guests of different heat.
#include "evac/prestage/round_pacing.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "evac/core/random.hpp"

namespace evac::prestage {
namespace {

constexpr double kTickS = 0.1;  // how often the daemon asks

struct Guest {
    double priority = 1, target_s = 30;
    std::vector<DirtyTerm> dirty;
    double seal_s = 0.2, cpu_s = 0.2, pause_s = 0.005;
    bool can_refresh = false;
    // state
    double point_s = -1, pass_s = -1, awaited_point_s = -1, sealed_at_s = 0;
    bool busy = false, awaiting = false;
    // seen
    double age_max_s = 0;
    uint64_t seals = 0, refreshes = 0;
    double pass_ended_s = 0;
    Estimate drain{};
};

// One host: workers, CPU of the passes, a line; what a pass finds waits for the line.
class Host {
  public:
    Host(PacingLimits limits, std::vector<Guest> guests)
        : guests(std::move(guests)), limits_(limits), pacing(limits) {}

    double line_bytes_per_s = 100e6;
    double wire_ratio = 0.3;
    uint64_t queue_bytes = 512 * kMiB;

    void run(double seconds, double settle_s) {
        const double end_s = now_s + seconds;
        const double from_s = now_s + settle_s;
        for (; now_s < end_s; now_s += kTickS) {
            finish();
            waiting_bytes = std::max(0.0, waiting_bytes - line_bytes_per_s / wire_ratio * kTickS);
            while (begin()) {
            }
            for (Guest& g : guests) {
                if (now_s >= from_s && g.point_s >= 0)
                    g.age_max_s = std::max(g.age_max_s, now_s - g.point_s);
            }
            if (now_s < from_s) cpu_from_s = cpu_s;
        }
        measured_s = seconds - settle_s;
    }

    double duty() const { return (cpu_s - cpu_from_s) / measured_s; }

    std::vector<Guest> guests;
    double now_s = 1, cpu_s = 0, cpu_from_s = 0, measured_s = 0, waiting_bytes = 0;
    double waiting_most = 0;
    std::vector<size_t> order;  // in which passes began

  private:
    struct Running {
        size_t guest;
        double begun_s, ends_s;
        RoundKind kind;
    };

    PacedVm paced(size_t i) const {
        const Guest& g = guests[i];
        PacedVm vm;
        vm.vm = VmId{static_cast<uint32_t>(i)};
        vm.priority = g.priority;
        vm.rpo_target_s = g.target_s;
        vm.point_age_s = g.point_s < 0 ? -1 : now_s - g.point_s;
        vm.pass_age_s = g.pass_s < 0 ? -1 : now_s - g.pass_s;
        vm.ready = !g.busy && !g.awaiting;
        vm.measured = g.seals > 1;
        vm.dirty = g.dirty;
        vm.can_refresh = g.can_refresh;
        vm.seal_s = g.seals == 0 ? 0 : g.seal_s;
        vm.refresh_s = g.seal_s;
        vm.drain_s = g.drain.safe();
        vm.cpu_s = g.seals == 0 ? 0 : g.cpu_s;
        vm.pause_s = g.pause_s;
        vm.wire_ratio = wire_ratio;
        return vm;
    }

    bool begin() {
        std::vector<PacedVm> vms;
        for (size_t i = 0; i < guests.size(); ++i) vms.push_back(paced(i));
        PacingNow now;
        now.now_ns = static_cast<uint64_t>(now_s * 1e9);
        now.link_bytes_per_s = line_bytes_per_s;
        now.waiting_bytes = static_cast<uint64_t>(waiting_bytes);
        now.queue_bytes = queue_bytes;
        now.wire_ratio = wire_ratio;
        const NextRound next = pacing.next(vms, now);
        EXPECT_GT(next.ask_again_ns, now.now_ns);
        if (!next.vm) return false;
        const size_t i = raw(*next.vm);
        Guest& g = guests[i];
        EXPECT_TRUE(vms[i].ready);
        order.push_back(i);
        pacing.started(*next.vm, vms[i].cpu_s);
        g.busy = true;
        running_.push_back({i, now_s, now_s + g.seal_s, next.kind});
        EXPECT_LE(running_.size(), limits_.rounds_at_once);
        return true;
    }

    void finish() {
        for (auto it = running_.begin(); it != running_.end();) {
            if (it->ends_s > now_s) {
                ++it;
                continue;
            }
            Guest& g = guests[it->guest];
            const double since_s = g.pass_s < 0 ? 60 : it->begun_s - g.pass_s;
            waiting_bytes += dirty_mib(g.dirty, since_s) * static_cast<double>(kMiB);
            waiting_most = std::max(waiting_most, waiting_bytes);
            g.busy = false;
            g.pass_ended_s = now_s;
            g.pass_s = it->begun_s;
            cpu_s += g.cpu_s;
            pacing.finished(VmId{static_cast<uint32_t>(it->guest)}, g.cpu_s);
            if (it->kind == RoundKind::seal) {
                g.awaiting = true;
                g.awaited_point_s = it->begun_s;
                g.sealed_at_s = now_s + waiting_bytes * wire_ratio / line_bytes_per_s + 0.05;
                ++g.seals;
            } else {
                ++g.refreshes;
            }
            it = running_.erase(it);
        }
        for (Guest& g : guests) {
            if (!g.awaiting || g.sealed_at_s > now_s) continue;
            g.awaiting = false;
            g.drain.add(now_s - g.pass_ended_s);
            g.point_s = g.awaited_point_s;
        }
    }

    const PacingLimits limits_;

  public:
    RoundPacing pacing;

  private:
    std::vector<Running> running_;
};

// Of a recovery point, in targets.
double worst_age(const Host& host) {
    double worst = 0;
    for (const Guest& g : host.guests)
        worst = std::max(worst, g.point_s < 0 ? INFINITY : g.age_max_s / g.target_s);
    return worst;
}

std::vector<Guest> hundred(double target_s, uint64_t seed) {
    Random random(seed);
    std::vector<Guest> guests;
    for (int i = 0; i < 100; ++i) {
        Guest g;
        g.target_s = target_s;
        g.priority = 1 + static_cast<double>(i % 4);
        const double heat = std::pow(10.0, static_cast<double>(random.below(300)) / 100 - 2);
        g.dirty = {{heat * 20, heat}};  // 0.01 to 10 MiB/s
        if (i % 10 == 0) g.dirty.clear();
        guests.push_back(g);
    }
    return guests;
}

TEST(RoundPacing, FeasibleTargetsOfAHundredGuestsAreKept) {
    for (const double target_s : {40.0, 60.0}) {
        Host host({0.8, 1, 5}, hundred(target_s, 7));
        host.run(900, 240);
        EXPECT_EQ(host.pacing.stretch(), 1);
        EXPECT_LE(worst_age(host), 1);
    }
}

TEST(RoundPacing, DifferentTargetsSideBySideAreKept) {
    auto guests = hundred(120, 11);
    for (size_t i = 0; i < guests.size(); i += 10) guests[i].target_s = 12;
    Host host({0.9, 1, 3}, std::move(guests));
    host.run(900, 300);
    EXPECT_LE(worst_age(host), 1);
}

TEST(RoundPacing, PointsThatGetDueTogetherAreReplacedInTime) {
    std::vector<Guest> guests(50);
    for (Guest& g : guests) {
        g.target_s = 60;
        g.seal_s = g.cpu_s = 0.4;
        g.point_s = g.pass_s = 1;  // all of one moment: 25 s of work at this share
        g.seals = 2;
    }
    Host host({0.8, 1, 5}, guests);
    host.run(600, 0);
    EXPECT_LE(worst_age(host), 1);
    EXPECT_LE(host.duty(), 50 * 0.4 / 60 * 1.4);  // and not by running all the time
}

TEST(RoundPacing, MissesAreSharedByPriorityAndNobodyStarves) {
    auto guests = hundred(10, 3);
    for (size_t i = 0; i < guests.size(); ++i) guests[i].priority = i % 4 == 0 ? 1e6 : 1;
    Host host({0.8, 1, 2}, std::move(guests));
    host.run(1200, 300);
    EXPECT_GT(host.pacing.stretch(), 2);
    double worst_high = 0, worst_low = 0;
    for (const Guest& g : host.guests) {
        double& worst = g.priority > 1 ? worst_high : worst_low;
        worst = std::max(worst, g.age_max_s / g.target_s);
    }
    EXPECT_LT(worst_high, worst_low / 2);
    EXPECT_LE(worst_low, worst_high * kShareRatioMax);
    EXPECT_LE(worst_low, host.pacing.stretch() * 1.2);  // bounded for everyone
    host.pacing.next({}, {});
    EXPECT_EQ(host.pacing.stretch(), 1);  // when all have moved away nothing is missed
}

TEST(RoundPacing, EqualGuestsOfAnOverloadedHostAgeAlike) {
    Guest guest;
    guest.target_s = 10;
    guest.dirty = {{20, 1}};
    Host host({0.5, 1, 1}, std::vector<Guest>(100, guest));
    host.run(1200, 400);
    double least = INFINITY, most = 0;
    for (const Guest& g : host.guests) {
        least = std::min(least, g.age_max_s);
        most = std::max(most, g.age_max_s);
    }
    EXPECT_GT(least, 10);
    EXPECT_LT(most, least * 1.3);
}

TEST(RoundPacing, WorkStaysWithinTheCpuShare) {
    for (const double share : {0.1, 0.3, 0.8}) {
        Host host({share, 2, 1}, hundred(10, 5));
        host.run(900, 300);
        EXPECT_LE(host.duty(), share * 1.02);
        EXPECT_GE(host.duty(), share * 0.9);  // and what is allowed is used: it is overloaded
    }
}

TEST(RoundPacing, AGuestThatWritesNothingIsVisitedAsItsTargetAsks) {
    std::vector<Guest> guests(2);
    for (Guest& g : guests) g.target_s = 30;
    guests[1].dirty = {{200, 10}};
    Host host({0.8, 1, 2}, guests);
    host.run(600, 60);
    EXPECT_LE(host.guests[0].seals, 600 / 30 * 1.15);
    EXPECT_LE(host.guests[0].age_max_s, 30);
    EXPECT_GT(host.guests[1].seals, 100u);  // worth every few seconds
}

TEST(RoundPacing, FirstCopiesComeFirstByPriority) {
    std::vector<Guest> guests(6);
    for (size_t i = 0; i < guests.size(); ++i) guests[i].priority = static_cast<double>(i + 1);
    Host host({0.8, 1, 5}, guests);
    host.run(20, 0);
    ASSERT_GE(host.order.size(), 6u);
    EXPECT_EQ(std::vector<size_t>(host.order.begin(), host.order.begin() + 6),
              (std::vector<size_t>{5, 4, 3, 2, 1, 0}));
}

TEST(RoundPacing, WhatTheLineCannotCarryIsHeldBack) {
    // 100 MiB a pass over 1 MB/s: by worth alone a pass every second would pile up for minutes.
    std::vector<Guest> guests(4);
    for (Guest& g : guests) {
        g.target_s = 86'400;
        g.dirty = {{2000, 20}};
    }
    Host host({0.8, 1, 1}, guests);
    host.line_bytes_per_s = 1e6;
    host.queue_bytes = 16'384 * kMiB;
    host.run(3000, 0);
    host.waiting_most = 0;
    host.run(2000, 0);
    EXPECT_LT(host.waiting_most, 3000.0 * static_cast<double>(kMiB));  // not two whole guests
}

TEST(RoundPacing, MappedGuestsAreRefreshedAndSealedForTheirTargetOnly) {
    std::vector<Guest> guests(1);
    guests[0].can_refresh = true;
    guests[0].dirty = {{500, 20}};
    Host host({0.8, 1, 2}, guests);
    host.run(600, 60);
    EXPECT_GT(host.guests[0].refreshes, 100u);
    EXPECT_LE(host.guests[0].seals, 600 / 30 * 1.2);
    EXPECT_LE(host.guests[0].age_max_s, 30);
}

TEST(RoundPacing, PassesByWorthKeepTheGuestsPauseSmall) {
    std::vector<Guest> guests(1);
    guests[0].pause_s = 0.2;  // 0.2 s every 2 s would cost a tenth of the guest
    guests[0].target_s = 600;
    guests[0].dirty = {{5000, 20}};
    Host host({0.8, 1, 2}, guests);
    host.run(2000, 0);
    EXPECT_LE(static_cast<double>(host.guests[0].seals) * 0.2 / 2000,
              RoundPacing::kPauseShare * 1.1);
    EXPECT_GT(host.guests[0].seals, 40u);
}

TEST(RoundPacing, AnUnfinishedFirstCopyWaitsForTheQueueAndStopsNobody) {
    RoundPacing pacing({0.8, 1, 5});
    PacedVm big, other;
    big.vm = VmId{1};
    big.pass_age_s = 100;  // tried, did not fit
    big.ready = true;
    big.last_incomplete = true;
    other = big;
    other.vm = VmId{2};
    other.point_age_s = 29.5;
    other.last_incomplete = false;
    other.measured = true;
    other.seal_s = other.cpu_s = big.cpu_s = big.seal_s = 0.1;
    PacingNow now;
    now.now_ns = 1'000'000'000;
    now.queue_bytes = 100 * kMiB;
    now.waiting_bytes = 60 * kMiB;
    now.link_bytes_per_s = 1e6;
    EXPECT_EQ(pacing.next({big}, now).vm, std::nullopt);
    EXPECT_EQ(pacing.next({big, other}, now).vm, VmId{2});  // target 30
    other.point_age_s = 1;
    EXPECT_EQ(pacing.next({big, other}, now).vm, std::nullopt);
    now.waiting_bytes = 20 * kMiB;
    EXPECT_EQ(pacing.next({big, other}, now).vm, VmId{1});
    now.first_copies_only = true;
    other.point_age_s = 40;
    EXPECT_EQ(pacing.next({other}, now).vm, std::nullopt);
    EXPECT_EQ(pacing.next({big, other}, now).vm, VmId{1});
}

TEST(RoundPacing, NobodyIsCapturedWithoutCredit) {
    RoundPacing pacing({0.5, 1, 1});
    PacedVm vm;
    vm.vm = VmId{1};
    vm.ready = true;
    vm.point_age_s = vm.pass_age_s = 100;
    PacingNow now;
    now.now_ns = 1'000'000'000;
    ASSERT_TRUE(pacing.next({vm}, now).vm);
    pacing.started(VmId{1}, 0);
    EXPECT_FALSE(pacing.next({vm}, now).vm);  // one at once
    pacing.finished(VmId{1}, 0.75);           // 0.25 were saved: half a second is owed
    const NextRound next = pacing.next({vm}, now);
    EXPECT_FALSE(next.vm);
    EXPECT_EQ(next.ask_again_ns, 2'000'000'000u);
    now.now_ns = 1'990'000'000;
    EXPECT_FALSE(pacing.next({vm}, now).vm);
    now.now_ns = 2'010'000'000;
    EXPECT_TRUE(pacing.next({vm}, now).vm);
}

TEST(Estimate, FollowsWhatIsMeasured) {
    Estimate e;
    EXPECT_FALSE(e.known());
    e.add(NAN);
    e.add(-1);
    EXPECT_FALSE(e.known());
    for (int i = 0; i < 40; ++i) e.add(2);
    EXPECT_NEAR(e.typical(), 2, 1e-9);
    EXPECT_NEAR(e.safe(), 2, 1e-3);
    e.add(100);
    EXPECT_GT(e.safe(), 90);
    for (int i = 0; i < 12; ++i) e.add(2);
    EXPECT_LT(e.safe(), 6);  // one bad minute is forgotten soon
    for (int i = 0; i < 40; ++i) e.add(i % 2 == 0 ? 1 : 5);
    EXPECT_NEAR(e.typical(), 3, 0.6);
    EXPECT_GT(e.safe(), 5);
}

}  // namespace
}  // namespace evac::prestage
