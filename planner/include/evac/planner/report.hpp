#pragma once
// A plan for machines (JSON, schema 1), for people (table) and as a picture (Gantt chart, SVG).
//
// JSON: {"schema": 1, "order": [names], "vms": [in that order {"name", "mode", "start_s",
// "link_end_s",
//   "away_s", "downtime_ms", "bytes_mib", "live_passes", "meets_deadline",
//   "meets_downtime_limit", "miss" (null, or why it is not away in full in time: "late", "waits",
//   "never-drains", "no-room", "forced", "failed"), "waits_for" (with "waits"), "away_host" (with
//   away_hosts)}], "advice": [{"kind", "goodput_mbit" or "vms", and "before", "after" each with
//   "makespan_s", "weighted_rescued"}], "makespan_s", "lower_bound_s", "gap", "weighted_rescued",
//   "weighted_total", "downtime_total_ms", "deadline_s" (or null), "goodput_mbit", "late",
//   "abandoned", "exact", "solve_ms", and where VMs land from
//   recovery points "recovery_points", "weighted_recovery_point"}
// The times, downtime and meets_downtime_limit of an abandoned VM are null. bytes_mib counts bytes
// on the wire.
#include <cstddef>
#include <string>
#include <vector>

#include "evac/planner/replan.hpp"
#include "evac/planner/solve.hpp"

namespace evac::planner {

inline constexpr int kPlanSchema = 1;
inline constexpr size_t kGanttRowsMax = 60;  // more VMs than this are drawn in groups

std::string plan_to_json(const Inventory& inventory, const Plan& plan,
                         const std::vector<Advice>& advice = {});

// Fixed-width ASCII with one row per VM, '!' before what misses the deadline or is abandoned, and
// totals.
std::string plan_to_table(const Inventory& inventory, const Plan& plan,
                          const std::vector<Advice>& advice = {});

// Self-contained SVG: one row per VM, or per group of consecutive VMs beyond kGanttRowsMax.
std::string plan_to_svg(const Inventory& inventory, const Plan& plan,
                        const std::vector<Advice>& advice = {});

// Evacuability: how many VMs, and how much weight, are away `seconds` after the alert by this plan.
struct AwayBy {
    size_t vms = 0;
    double weight = 0;
};
AwayBy away_by(const Inventory& inventory, const Plan& plan, double seconds);

}  // namespace evac::planner
