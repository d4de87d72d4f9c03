#include "evac/planner/simulate.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "simulate_player.hpp"
#include "simulate_quantile.hpp"

namespace evac::planner {
namespace {

constexpr std::array<std::string_view, kEnds> kEndNames{"away",   "recovery-point", "lost",
                                                        "failed", "abandoned",      "stranded"};

// When i / kCurvePoints of the total has come; `steps`: (time, how much comes), by time.
std::vector<double> curve_of(const std::vector<std::pair<double, double>>& steps, double total) {
    std::vector<double> times(kCurvePoints + 1, std::numeric_limits<double>::infinity());
    double sum = 0;
    size_t point = 0;
    for (const auto& [at, amount] : steps) {
        sum += amount;
        const double share = sum / total * static_cast<double>(kCurvePoints);
        while (point <= kCurvePoints && static_cast<double>(point) <= share * (1 + 1e-12)) {
            times[point++] = at;
        }
    }
    return times;
}

RunSummary summary_of(const Inventory& inventory, const Scenario& scenario, const SimRun& run) {
    RunSummary out;
    out.makespan_s = run.makespan_s;
    out.replans = run.replans;
    out.replans_taken = run.replans_taken;
    out.ends.assign(kEnds, 0);
    out.weight_away.assign(scenario.windows_s.size(), 0);
    out.vms_away.assign(scenario.windows_s.size(), 0);
    std::vector<std::pair<double, double>> weight, count;
    std::vector<double> downtime;
    double total = 0;
    for (size_t i = 0; i < run.vms.size(); ++i) {
        const VmRun& vm = run.vms[i];
        const double priority = inventory.vms[i].priority;
        total += priority;
        ++out.ends[static_cast<size_t>(vm.end)];
        out.wire_mib += vm.bytes_mib;
        out.second_turns += vm.turns > 1 ? 1 : 0;
        out.recovery_age_max_s = std::max(out.recovery_age_max_s, vm.recovery_age_s);
        if (vm.end != End::away) continue;
        weight.emplace_back(vm.away_s, priority);
        count.emplace_back(vm.away_s, 1);
        downtime.push_back(vm.downtime_ms);
        const bool late = inventory.deadline_s && vm.away_s > *inventory.deadline_s;
        out.late += late ? 1 : 0;
        if (!late) out.weighted_rescued += priority;
        for (size_t w = 0; w < scenario.windows_s.size(); ++w) {
            if (vm.away_s > scenario.windows_s[w]) continue;
            out.weight_away[w] += priority;
            ++out.vms_away[w];
        }
    }
    std::sort(weight.begin(), weight.end());
    std::sort(count.begin(), count.end());
    out.weight_curve_s = curve_of(weight, total);
    out.vms_curve_s = curve_of(count, static_cast<double>(run.vms.size()));
    std::sort(downtime.begin(), downtime.end());
    if (!downtime.empty()) {
        out.downtime_total_s = std::accumulate(downtime.begin(), downtime.end(), 0.0) / 1000;
        out.downtime_median_ms = quantile(downtime, 0.5);
        out.downtime_p95_ms = quantile(downtime, 0.95);
        out.downtime_max_ms = downtime.back();
    }
    return out;
}

struct Stage {
    const Inventory& inventory;
    const Scenario& scenario;
    const sim::Links& links;
    const Clock& clock;
};

double ms_since(const Clock& clock, uint64_t start_ns) {
    return static_cast<double>(clock.now_ns() - start_ns) / 1e6;
}

// All seeds of one policy. Without measurement errors the first plan is the same in all of them.
Status play_policy(const Stage& stage, size_t seeds, PolicyRuns& out, Simulation& into,
                   const std::function<void()>& played) {
    const MeasurementError& error = stage.scenario.measurement_error;
    const bool same_view =
        error.unstaged == 0 && error.dirty == 0 && error.wire_ratio == 0 && error.goodput == 0;
    std::optional<Plan> plan;
    for (size_t s = 0; s < seeds; ++s) {
        const uint64_t seed = stage.scenario.first_seed + s;
        uint64_t start_ns = stage.clock.now_ns();
        if (!plan || !same_view) {
            const Inventory measured = as_measured(stage.inventory, stage.scenario, seed);
            auto planned = first_plan(measured, stage.scenario, out.policy);
            if (!planned.ok()) return planned.error();
            plan = std::move(*planned);
        }
        into.plan_ms += ms_since(stage.clock, start_ns);
        start_ns = stage.clock.now_ns();
        sim::Player player(stage.inventory, stage.links, stage.scenario, plan->schedule, out.policy,
                           seed);
        const auto run = player.play();
        if (!run.ok()) return run.error();
        out.runs.push_back(summary_of(stage.inventory, stage.scenario, *run));
        out.runs.back().predicted_makespan_s = plan->evaluation.makespan_s;
        into.play_ms += ms_since(stage.clock, start_ns);
        played();
    }
    return {};
}

}  // namespace

std::string_view to_string(End end) {
    return kEndNames[static_cast<size_t>(end)];
}

Result<Plan> first_plan(const Inventory& measured, const Scenario& scenario, PolicyChoice policy) {
    SolveOptions options;
    options.forced_mode_all = scenario.mode;
    const ManualClock clock;  // no budget in time: the result must not depend on the machine
    return policy.rule ? plan_by_policy(measured, *policy.rule, options, clock)
                       : solve(measured, options, clock);
}

Result<SimRun> play(const Inventory& inventory, const Scenario& scenario, const Schedule& schedule,
                    PolicyChoice policy, uint64_t seed) {
    EVAC_TRY(validate(inventory));
    EVAC_TRY(check_scenario(scenario, inventory));
    const auto legal = evaluate(inventory, schedule);
    if (!legal.ok()) return legal.error();
    const auto links = sim::make_links(inventory);
    if (!links.ok()) return links.error();
    return sim::Player(inventory, *links, scenario, schedule, policy, seed).play();
}

Result<Simulation> simulate(const Inventory& inventory, const Scenario& scenario,
                            const Clock& clock, const SimulationProgress& progress) {
    EVAC_TRY(validate(inventory));
    EVAC_TRY(check_scenario(scenario, inventory));
    const auto links = sim::make_links(inventory);
    if (!links.ok()) return links.error();
    Simulation out;
    out.vms = inventory.vms.size();
    for (const VmInput& vm : inventory.vms) out.weighted_total += vm.priority;
    out.deadline_s = inventory.deadline_s;
    out.scenario = scenario;
    out.seeds_played = scenario.random() ? scenario.seeds : 1;
    size_t done = 0;
    const size_t total = scenario.policies.size() * out.seeds_played;
    const Stage stage{inventory, scenario, *links, clock};
    for (const PolicyChoice policy : scenario.policies) {
        out.policies.push_back({policy, {}});
        EVAC_TRY(play_policy(stage, out.seeds_played, out.policies.back(), out, [&] {
            ++done;
            if (progress) progress(done, total);
        }));
    }
    return out;
}

bool Simulation::feasible() const {
    const std::vector<RunSummary>& runs = policies.front().runs;
    return std::all_of(runs.begin(), runs.end(), [this](const RunSummary& run) {
        return run.ends[static_cast<size_t>(End::away)] == vms && run.late == 0;
    });
}

}  // namespace evac::planner
