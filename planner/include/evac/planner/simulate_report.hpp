#pragma once
// A simulation for machines (JSON, schema 1), for people (table) and as a page with plots (HTML
// with SVG, self-contained: no script, no other file). All show distributions over the seeds; their
// size does not grow with the number of VMs.
//
// JSON: {"schema": 1, "vms", "weighted_total", "deadline_s" (or null), "seeds", "first_seed",
//   "streams", "mode" ("live", "freeze" or null), "replan_interval_s", "feasible", "plan_ms",
//   "play_ms", "policies": [{"policy", D "makespan_s", D "predicted_makespan_s",
//   D "weighted_rescued", "windows": [{"at_s", D "weight_away", D "vms_away"}],
//   "ends": {D "away", D "recovery-point", D "lost", D "failed", D "abandoned", D "stranded"},
//   D "late", D "downtime_total_s", D "downtime_median_ms", D "downtime_p95_ms",
//   D "downtime_max_ms", D "recovery_age_max_s", D "wire_mib", D "second_turns",
//   D "replans_taken",
//   "curve": {"at_s", "weight_p5", "weight_median", "weight_p95", "vms_mean": lists of one length;
//             shares of 1}}]}
// where D "x" is "x": {"min", "p5", "p25", "median", "p75", "p95", "max", "mean"}.
#include <string>
#include <vector>

#include "evac/planner/simulate.hpp"

namespace evac::planner {

inline constexpr int kSimulationSchema = 1;
inline constexpr size_t kCurveSamples = 160;  // points of a curve in JSON and in the plots

struct Distribution {
    double min = 0, p5 = 0, p25 = 0, median = 0, p75 = 0, p95 = 0, max = 0, mean = 0;
};
Distribution distribution_of(std::vector<double> values);  // zeros when empty

// How much was away over time, over the seeds.
struct Curve {
    std::vector<double> at_s;
    std::vector<double> weight_p5, weight_median, weight_p95;  // shares of all weight
    std::vector<double> vms_mean;  // share of all VMs: the distribution of away times
};
Curve curve_of(const PolicyRuns& policy, double end_s);
double last_away_s(const Simulation& simulation);  // of all policies and seeds

std::string simulation_to_json(const Simulation& simulation);
std::string simulation_to_table(const Simulation& simulation);
std::string simulation_to_html(const Simulation& simulation);

}  // namespace evac::planner
