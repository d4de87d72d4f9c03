// The planner's figures, as JSON: bench_planner_figures WHAT [--json FILE]. WHAT is one of small,
// gap, time-10000, time-100000, replan, rules. Not a test; tests/bench/planner.sh runs all, each in
// a process of its own, because peak memory is the process's. CPU time: a busy machine changes it
// little.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "evac/core/clock.hpp"
#include "evac/planner/replan.hpp"
#include "planner_fixture.hpp"

namespace {

using namespace evac::planner;
using Json = nlohmann::ordered_json;

Json figures = Json::object();

void figure(const std::string& name, double value, const char* unit, std::optional<double> at_most,
            std::optional<bool> met = std::nullopt, const Json& baseline = nullptr) {
    Json entry;
    entry["value"] = value;
    entry["unit"] = unit;
    entry["target"] = at_most ? Json("<= " + Json(*at_most).dump()) : Json(nullptr);
    entry["met"] = met ? Json(*met) : at_most ? Json(value <= *at_most) : Json(nullptr);
    if (!baseline.is_null()) entry["baseline"] = baseline;
    std::printf("%-44s %10.4f %-4s %s\n", name.c_str(), value, unit, entry["met"].dump().c_str());
    std::fflush(stdout);
    figures[name] = std::move(entry);
}

double cpu_ms() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto ms = [](const timeval& t) {
        return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) / 1e3;
    };
    return ms(usage.ru_utime) + ms(usage.ru_stime);
}

double peak_mib() {  // VmHWM
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) / 1024;
}

const evac::SystemClock kClock;

Plan must(evac::Result<Plan> plan) {
    if (plan.ok()) return std::move(*plan);
    std::fprintf(stderr, "%s\n", plan.error().context.c_str());
    std::exit(1);
}

Inventory family_of(testing::Family family, size_t n, uint64_t seed = 1) {
    evac::Random random(seed);
    return testing::random_inventory(random, family, n, n >= 3000 ? 10'000 : 1000);
}

// The search of large sites against the optimum, on what the dynamic programme can solve.
void small() {
    evac::Random random(2024);
    double sum = 0, worst = 0, exact_worst = 0;
    int compared = 0, weight_missed = 0;
    for (int k = 0; k < 1000; ++k) {
        Inventory inventory =
            testing::random_inventory(random, testing::kFamilies[k % 7], 2 + random.below(11),
                                      testing::log_between(random, 100, 10'000));
        if (random.chance(0.3)) testing::add_after(random, inventory, 0.3);
        SolveOptions exact, search;
        exact.freeze_for_deadline = search.freeze_for_deadline = false;
        search.exact_small = search.tight_bound = false;
        Plan best = must(solve(inventory, exact, kClock));
        if (random.chance(0.4)) {
            inventory.deadline_s = best.evaluation.makespan_s * testing::between(random, 0.2, 0.9);
            best = must(solve(inventory, exact, kClock));
        }
        if (!best.stats.exact) continue;
        if (!inventory.deadline_s) exact_worst = std::max(exact_worst, best.stats.gap);
        const Plan found = must(solve(inventory, search, kClock));
        if (found.evaluation.weighted_rescued < best.evaluation.weighted_rescued - 1e-9) {
            ++weight_missed;
            continue;
        }
        const double gap = 100 * (found.evaluation.makespan_s / best.evaluation.makespan_s - 1);
        sum += gap;
        worst = std::max(worst, gap);
        ++compared;
    }
    figure("small_gap_mean", sum / std::max(1, compared), "%", 0.1);
    figure("small_gap_worst", worst, "%", 1.0);
    figure("small_weight_missed", weight_missed, "of 1000", 10);
    figure("small_exact_gap_worst", 100 * exact_worst, "%", 1e-6);
}

bool saturates(testing::Family family) {
    return family == testing::Family::saturating || family == testing::Family::heavy;
}

void gap() {
    for (const testing::Family family : testing::kFamilies) {
        const Inventory inventory = family_of(family, 10'000);
        SolveOptions loose;
        loose.tight_bound = false;
        const double secant = 100 * must(solve(inventory, loose, kClock)).stats.gap;
        figure(std::string("gap_10000_") + testing::name_of(family),
               100 * must(solve(inventory, {}, kClock)).stats.gap, "%",
               saturates(family) ? 8.0 : 3.0, std::nullopt, Json{{"secant bound alone", secant}});
    }
}

void scale(size_t n, double target_s, std::optional<double> target_mib) {
    double worst = 0;
    for (const testing::Family family : testing::kFamilies) {
        const Inventory inventory = family_of(family, n);
        const double start = cpu_ms();
        const Plan plan = must(solve(inventory, {}, kClock));
        const double took = (cpu_ms() - start) / 1000;
        worst = std::max(worst, took);
        std::printf("  %zu %-10s %.3f s, gap %.2f %%\n", n, testing::name_of(family), took,
                    100 * plan.stats.gap);
    }
    figure("plan_" + std::to_string(n) + "_cpu", worst, "s", target_s);
    figure("plan_" + std::to_string(n) + "_memory", peak_mib(), "MiB", target_mib);
}

void again() {
    double worst = 0;
    for (const testing::Family family : testing::kFamilies) {
        const Inventory inventory = family_of(family, 10'000);
        SolveOptions quick;
        quick.tight_bound = false;
        const Plan plan = must(solve(inventory, quick, kClock));
        const Progress progress{std::vector<VmState>(inventory.vms.size(), VmState::waiting), 0};
        for (const bool rate : {true, false}) {
            Inventory now = inventory;
            if (rate)
                now.link.goodput_mbit *= 0.7;
            else
                now.deadline_s = plan.evaluation.makespan_s / 2;
            const double start = cpu_ms();
            const auto out = replan(now, progress, {inventory, plan}, {}, kClock);
            const double took = cpu_ms() - start;
            if (!out.ok()) std::exit(1);
            worst = std::max(worst, took);
            std::printf("  %-10s %-8s %6.1f ms %s, weight %.0f -> %.0f, makespan %.1f -> %.1f\n",
                        testing::name_of(family), rate ? "goodput" : "deadline", took,
                        out->replaced ? "replaced" : "kept", out->before.weighted_rescued,
                        out->after.weighted_rescued, out->before.makespan_s, out->after.makespan_s);
        }
    }
    figure("replan_10000_cpu", worst, "ms", 100);
}

void rules() {
    for (const testing::Family family : testing::kFamilies) {
        Inventory inventory = family_of(family, 1000);
        const std::string name = testing::name_of(family);
        SolveOptions live;
        live.freeze_for_deadline = false;
        const Plan plan = must(solve(inventory, live, kClock));
        Json others = Json::object();
        bool best = true;
        for (const Policy policy : {Policy::fifo, Policy::shortest_first, Policy::ratio}) {
            const Plan rule = must(plan_by_policy(inventory, policy, live, kClock));
            others[std::string(to_string(policy))] = rule.evaluation.makespan_s;
            best = best && plan.evaluation.makespan_s <= rule.evaluation.makespan_s * (1 + 1e-9);
        }
        figure("makespan_1000_" + name, plan.evaluation.makespan_s, "s", std::nullopt, best,
               others);
        inventory.deadline_s = plan.evaluation.makespan_s / 2;
        const Plan half = must(solve(inventory, live, kClock));
        others = Json::object();
        best = true;
        for (const Policy policy : {Policy::fifo, Policy::shortest_first, Policy::ratio,
                                    Policy::priority, Policy::priority_per_second}) {
            const Plan rule = must(plan_by_policy(inventory, policy, live, kClock));
            const double share =
                100 * rule.evaluation.weighted_rescued / rule.evaluation.weighted_total;
            others[std::string(to_string(policy))] = share;
            best = best && half.evaluation.weighted_rescued >=
                               rule.evaluation.weighted_rescued * (1 - 1e-9);
        }
        figure("rescued_at_half_1000_" + name,
               100 * half.evaluation.weighted_rescued / half.evaluation.weighted_total, "%",
               std::nullopt, best, others);
    }
}

}  // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "small")
        small();
    else if (what == "gap")
        gap();
    else if (what == "time-10000")
        scale(10'000, 1, 200);
    else if (what == "time-100000")
        scale(100'000, 15, std::nullopt);
    else if (what == "replan")
        again();
    else if (what == "rules")
        rules();
    else {
        std::fprintf(stderr, "small | gap | time-10000 | time-100000 | replan | rules\n");
        return 2;
    }
    if (argc == 4 && std::strcmp(argv[2], "--json") == 0) {
        std::ofstream file(argv[3]);
        file << Json{{"figures", figures}}.dump(2) << "\n";
        if (!file) return 1;
    }
    return 0;
}
