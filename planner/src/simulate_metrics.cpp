#include "simulate_metrics.hpp"

#include <algorithm>

#include "report_text.hpp"

namespace evac::planner {
namespace {

size_t count_of(const RunSummary& run, End end) {
    return run.ends[static_cast<size_t>(end)];
}

bool all_zero(const Simulation& simulation, const Metric& metric) {
    for (const PolicyRuns& policy : simulation.policies) {
        const auto zero = [&metric](const RunSummary& run) { return metric(run) == 0; };
        if (!std::all_of(policy.runs.begin(), policy.runs.end(), zero)) return false;
    }
    return true;
}

}  // namespace

std::vector<double> values_of(const PolicyRuns& policy, const Metric& metric) {
    std::vector<double> values;
    values.reserve(policy.runs.size());
    for (const RunSummary& run : policy.runs) values.push_back(metric(run));
    return values;
}

std::vector<Block> blocks_of(const Simulation& simulation) {
    const double percent = 100 / simulation.weighted_total;
    std::vector<Block> blocks;
    blocks.push_back({"makespan, s", [](const RunSummary& r) { return r.makespan_s; }, 1});
    blocks.push_back({"makespan that the first plan predicted, s",
                      [](const RunSummary& r) { return r.predicted_makespan_s; }, 1});
    if (simulation.deadline_s) {
        blocks.push_back(
            {"weight away by the deadline (" + duration_text(*simulation.deadline_s) + "), %",
             [percent](const RunSummary& r) { return r.weighted_rescued * percent; }, 1});
    }
    for (size_t w = 0; w < simulation.scenario.windows_s.size(); ++w) {
        blocks.push_back(
            {"weight away within " + duration_text(simulation.scenario.windows_s[w]) + ", %",
             [w, percent](const RunSummary& r) { return r.weight_away[w] * percent; }, 1});
    }
    const size_t always = blocks.size();
    const auto ends = [](End end) {
        return [end](const RunSummary& r) { return static_cast<double>(count_of(r, end)); };
    };
    blocks.push_back({"VMs lost", ends(End::lost), 0});
    blocks.push_back(
        {"VMs of which the last recovery point remains", ends(End::recovery_point), 0});
    blocks.push_back({"age of the oldest of these recovery points, s",
                      [](const RunSummary& r) { return r.recovery_age_max_s; }, 1});
    blocks.push_back({"VMs still at home: both turns failed", ends(End::failed), 0});
    blocks.push_back({"VMs still at home: given up by the plan", ends(End::abandoned), 0});
    blocks.push_back({"VMs still at home at the horizon", ends(End::stranded), 0});
    blocks.push_back({"VMs away after the deadline",
                      [](const RunSummary& r) { return static_cast<double>(r.late); }, 0});
    blocks.push_back({"second turns",
                      [](const RunSummary& r) { return static_cast<double>(r.second_turns); }, 0});
    blocks.push_back({"new orders taken by re-planning",
                      [](const RunSummary& r) { return static_cast<double>(r.replans_taken); }, 0});
    for (size_t i = blocks.size(); i > always; --i) {
        if (all_zero(simulation, blocks[i - 1].value)) {
            blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i - 1));
        }
    }
    blocks.push_back({"downtime of a VM, median, ms",
                      [](const RunSummary& r) { return r.downtime_median_ms; }, 0});
    blocks.push_back({"downtime of a VM, 95 of 100 below, ms",
                      [](const RunSummary& r) { return r.downtime_p95_ms; }, 0});
    blocks.push_back(
        {"downtime of a VM, worst, ms", [](const RunSummary& r) { return r.downtime_max_ms; }, 0});
    blocks.push_back(
        {"downtime of all, s", [](const RunSummary& r) { return r.downtime_total_s; }, 1});
    blocks.push_back({"sent, MiB", [](const RunSummary& r) { return r.wire_mib; }, 0});
    return blocks;
}

std::string headline(const Simulation& simulation) {
    const std::vector<RunSummary>& runs = simulation.policies.front().runs;
    const auto good = std::count_if(runs.begin(), runs.end(), [&](const RunSummary& run) {
        return count_of(run, End::away) == simulation.vms && run.late == 0;
    });
    std::string out = std::to_string(simulation.vms) + " VMs, " +
                      std::to_string(simulation.seeds_played) +
                      (simulation.seeds_played == 1 ? " seed" : " seeds");
    if (!simulation.scenario.random()) out += " (nothing in the scenario is random)";
    out += ": under policy " + std::string(to_string(simulation.policies.front().policy)) +
           " every VM is away" + (simulation.deadline_s ? " by the deadline" : "") + " in " +
           std::to_string(good) + " of " + std::to_string(runs.size());
    return out;
}

}  // namespace evac::planner
