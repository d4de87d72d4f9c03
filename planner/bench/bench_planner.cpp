// Solve time and gap per family. Not a test: run it by hand, bench_planner [vms ...] [--seeds N].
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "evac/core/clock.hpp"
#include "planner_fixture.hpp"

namespace {

using namespace evac::planner;

void run(testing::Family family, size_t n, uint64_t seed, double mbit) {
    evac::Random random(seed);
    Inventory inventory = testing::random_inventory(random, family, n, mbit);
    const evac::SystemClock clock;
    const auto plan = solve(inventory, {}, clock);
    if (!plan.ok()) return;
    const double makespan = plan->evaluation.makespan_s;
    std::printf("%-10s %7zu %9.0f %9.2f %9.2f", testing::name_of(family), n, plan->stats.solve_ms,
                makespan, 100 * plan->stats.gap);
    for (const Policy policy : {Policy::fifo, Policy::shortest_first, Policy::ratio}) {
        const auto simple = plan_by_policy(inventory, policy, {}, clock);
        std::printf(" %+8.2f", 100 * (simple->evaluation.makespan_s / makespan - 1));
    }
    inventory.deadline_s = makespan / 2;
    const auto half = solve(inventory, {}, clock);
    SolveOptions live;
    live.freeze_for_deadline = false;
    const auto half_live = solve(inventory, live, clock);
    const auto priority = plan_by_policy(inventory, Policy::priority, {}, clock);
    const auto density = plan_by_policy(inventory, Policy::priority_per_second, {}, clock);
    const double all = half->evaluation.weighted_total / 100;
    const auto frozen =
        std::count(half->schedule.mode.begin(), half->schedule.mode.end(), Mode::freeze);
    std::printf(" | %6.0f %6.1f %6ld %6.1f %6.1f %6.1f\n", half->stats.solve_ms,
                half->evaluation.weighted_rescued / all, static_cast<long>(frozen),
                half_live->evaluation.weighted_rescued / all,
                priority->evaluation.weighted_rescued / all,
                density->evaluation.weighted_rescued / all);
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<size_t> sizes;
    uint64_t seeds = 1;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--seeds") == 0 && i + 1 < argc)
            seeds = std::strtoull(argv[++i], nullptr, 10);
        else
            sizes.push_back(std::strtoull(argv[i], nullptr, 10));
    }
    if (sizes.empty()) sizes = {100, 1000, 10000};
    std::printf(
        "                                                  rules' excess, %%            | deadline "
        "at "
        "half: weight rescued, %%\n");
    std::printf(
        "family         vms  solve ms makespan s   gap %%     fifo shortest      a/b |     ms   "
        "plan frozen   live   prio prio/s\n");
    for (const size_t n : sizes) {
        for (const testing::Family family : testing::kFamilies) {
            for (uint64_t seed = 1; seed <= seeds; ++seed)
                run(family, n, seed, n >= 3000 ? 10'000 : 1000);
        }
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf("peak memory %ld MiB\n", usage.ru_maxrss / 1024);
    return 0;
}
