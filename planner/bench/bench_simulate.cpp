// Figures of the simulator: bench_simulate [--vms N] [--json FILE]. Not a test. CPU time, so that a
// busy machine changes them little; wall time is printed beside it.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "evac/core/clock.hpp"
#include "evac/planner/simulate_report.hpp"
#include "simgrid_cases.hpp"

namespace {

using namespace evac::planner;

constexpr double kSecondsTarget = 5;
constexpr double kSimgridTarget = 0.01;

struct Times {
    double cpu_s = 0, wall_s = 0;
};

Times now(const evac::Clock& clock) {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
        return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
    };
    return {seconds(usage.ru_utime) + seconds(usage.ru_stime),
            static_cast<double>(clock.now_ns()) / 1e9};
}

Scenario bad_day() {
    Scenario scenario;
    scenario.bandwidth = {{60, 8000, {}, 0}, {200, 8000, 400.0, 3000}};
    scenario.outages = {{100, 8}};
    scenario.failures.turn_probability = 0.01;
    scenario.dirty_phases = {60, 0.3, 4};
    scenario.measurement_error = {0.05, 0.2, 0.1, 0.1};
    scenario.recovery_interval_s = 120;
    return scenario;
}

// One evacuation of each family of guests; the worst is the figure.
double evacuate_all(size_t vms, nlohmann::ordered_json& figures) {
    const evac::SystemClock clock;
    double worst = 0;
    std::printf("%zu VMs, one evacuation   plan CPU s (wall)   play CPU s (wall)\n", vms);
    for (const testing::Family family : testing::kFamilies) {
        evac::Random random(1);
        const Inventory inventory = testing::random_inventory(random, family, vms, 10'000);
        const Scenario scenario = bad_day();
        const Times start = now(clock);
        const auto plan = first_plan(as_measured(inventory, scenario, 1), scenario, {});
        const Times planned = now(clock);
        if (!plan.ok()) return -1;
        const auto run = play(inventory, scenario, plan->schedule, {}, 1);
        const Times played = now(clock);
        if (!run.ok()) return -1;
        std::printf("%-24s %9.2f (%6.2f) %11.3f (%7.3f)   makespan %.0f s\n",
                    testing::name_of(family), planned.cpu_s - start.cpu_s,
                    planned.wall_s - start.wall_s, played.cpu_s - planned.cpu_s,
                    played.wall_s - planned.wall_s, run->makespan_s);
        worst = std::max(worst, played.cpu_s - start.cpu_s);
    }
    figures["simulate_" + std::to_string(vms) + "_vms_cpu"] = {{"value", worst},
                                                               {"unit", "s"},
                                                               {"target", kSecondsTarget},
                                                               {"met", worst <= kSecondsTarget}};
    return worst;
}

double compare_with_simgrid(nlohmann::ordered_json& figures) {
    evac::Random random(2);
    std::vector<testing::SimgridCase> cases;
    std::vector<testing::FlowScenario> flows;
    for (const size_t streams : {size_t{1}, size_t{8}}) {
        for (const size_t changes : {size_t{0}, size_t{20}}) {
            cases.push_back(testing::simgrid_case(random, 5'000, streams, changes));
            flows.push_back(cases.back().flows);
        }
    }
    const evac::SystemClock clock;
    const Times start = now(clock);
    const auto ends = testing::play_in_simgrid(flows);
    const Times theirs = now(clock);
    double worst = 0;
    for (size_t k = 0; k < cases.size(); ++k) {
        worst = std::max(worst, testing::difference(cases[k], ends[k]));
    }
    const Times ours = now(clock);
    std::printf(
        "SimGrid, %zu scenarios of 5,000 flows: largest difference %.2g (CPU: SimGrid %.2f "
        "s, ours %.3f s)\n",
        cases.size(), worst, theirs.cpu_s - start.cpu_s, ours.cpu_s - theirs.cpu_s);
    figures["simulate_simgrid_difference"] = {{"value", 100 * worst},
                                              {"unit", "%"},
                                              {"target", 100 * kSimgridTarget},
                                              {"met", worst <= kSimgridTarget}};
    return worst;
}

}  // namespace

int main(int argc, char** argv) {
    size_t vms = 50'000;
    const char* file = nullptr;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (std::strcmp(argv[i], "--vms") == 0) vms = std::strtoull(argv[i + 1], nullptr, 10);
        if (std::strcmp(argv[i], "--json") == 0) file = argv[i + 1];
    }
    nlohmann::ordered_json out;
    nlohmann::ordered_json& figures = out["figures"];
    if (evacuate_all(vms, figures) < 0 || compare_with_simgrid(figures) < 0) return 1;
    if (file != nullptr) {
        std::FILE* to = std::fopen(file, "w");
        if (to == nullptr) return 1;
        std::fprintf(to, "%s\n", out.dump(2).c_str());
        if (std::fclose(to) != 0) return 1;
    }
    return 0;
}
