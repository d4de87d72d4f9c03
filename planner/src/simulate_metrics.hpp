#pragma once
// What is reported of a run, once for all forms of the report.
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "evac/planner/simulate.hpp"

namespace evac::planner {

using Metric = std::function<double(const RunSummary&)>;

struct NamedMetric {
    const char* name;
    bool before_windows;
    double (*value)(const RunSummary&);
};
inline constexpr std::array<NamedMetric, 12> kMetrics{{
    {"makespan_s", true, [](const RunSummary& r) { return r.makespan_s; }},
    {"predicted_makespan_s", true, [](const RunSummary& r) { return r.predicted_makespan_s; }},
    {"weighted_rescued", true, [](const RunSummary& r) { return r.weighted_rescued; }},
    {"late", false, [](const RunSummary& r) { return static_cast<double>(r.late); }},
    {"downtime_total_s", false, [](const RunSummary& r) { return r.downtime_total_s; }},
    {"downtime_median_ms", false, [](const RunSummary& r) { return r.downtime_median_ms; }},
    {"downtime_p95_ms", false, [](const RunSummary& r) { return r.downtime_p95_ms; }},
    {"downtime_max_ms", false, [](const RunSummary& r) { return r.downtime_max_ms; }},
    {"recovery_age_max_s", false, [](const RunSummary& r) { return r.recovery_age_max_s; }},
    {"wire_mib", false, [](const RunSummary& r) { return r.wire_mib; }},
    {"second_turns", false,
     [](const RunSummary& r) { return static_cast<double>(r.second_turns); }},
    {"replans_taken", false,
     [](const RunSummary& r) { return static_cast<double>(r.replans_taken); }},
}};

std::vector<double> values_of(const PolicyRuns& policy, const Metric& metric);

// One table for people: a title, and a value of each run.
struct Block {
    std::string title;
    Metric value;
    int decimals = 0;
};
// What says something here: rows that are zero everywhere are left out.
std::vector<Block> blocks_of(const Simulation& simulation);
std::string headline(const Simulation& simulation);

}  // namespace evac::planner
