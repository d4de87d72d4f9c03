#pragma once
// Plays evacuations in virtual time: an order of some policy against a link, a site and guests that
// do not keep to the plan (scenario.hpp). The arithmetic of a turn is that of model.hpp, with these
// differences, which vanish on a steady link without failures and random phases (then the result is
// that of evaluate(); tested to 1e-6):
//   - a pass takes as long as the link really needs for it, and what is written meanwhile is what
//     the guest then writes; the rules "short enough" and "no progress" judge with the rate of the
//     moment (where the line is dead: the last one before), divided by the turns that share it
//   - `streams` turns share the link evenly
//   - a turn begins only when each VM that it is `after` has begun its own or has ended otherwise;
//     one that is held by a VM that was lost is held no longer
//   - a turn that fails does so somewhere in its first pass; what it sent is of no use, the guest
//     runs on, and it has one more turn
//   - who loses power is lost unless it was away before that moment
// Re-planning asks the same policy about what has not begun, with the rate and the backlogs of the
// moment; a new order is taken only where it wins by kReplanMargin. Growth since the alert is kept
// as it is, so that a guest that has saturated is not charged twice.
//
// Deterministic: same inventory, scenario and seed, same run. All policies meet the same failures,
// phases and measurement errors in the same seed. One thread; memory about 400 bytes per VM.
#include <cstdint>
#include <functional>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/planner/scenario.hpp"

namespace evac::planner {

inline constexpr double kReplanMargin = 0.01;      // of the makespan, or of the weight away in time
inline constexpr size_t kReplansMax = 1'000;       // in one evacuation
inline constexpr int kTurnsMax = 2;                // of one VM
inline constexpr size_t kPhaseChangesMax = 1'000;  // of one VM; then it keeps its last factor

// Where a VM ends. Exactly one.
enum class End : uint8_t {
    away,            // runs at the other site
    recovery_point,  // lost power before it was away; its last recovery point remains
    lost,            // lost power, and there is none
    failed,          // still at home: both turns failed
    abandoned,       // still at home: the policy gave it up
    stranded,        // still at home when the horizon was reached
};
inline constexpr size_t kEnds = 6;
std::string_view to_string(End end);  // "away", "recovery-point", "lost", ...

struct VmRun {
    End end = End::stranded;
    int turns = 0;
    int live_passes = 0;        // of the last turn
    double start_s = 0;         // of the last turn
    double link_end_s = 0;      // 0 unless it came so far
    double away_s = 0;          // 0 unless away
    double downtime_ms = 0;     // of those away; earlier turns that failed included
    double bytes_mib = 0;       // on the wire, all turns
    double recovery_age_s = 0;  // of the recovery point that remains
};

struct SimRun {
    std::vector<VmRun> vms;  // by VmIndex
    double makespan_s = 0;   // latest away; 0 when none is
    size_t replans = 0;
    size_t replans_taken = 0;
};

// What the planner sees in this seed: the inventory with the scenario's measurement errors.
Inventory as_measured(const Inventory& inventory, const Scenario& scenario, uint64_t seed);

// The policy's first order for a measured inventory.
Result<Plan> first_plan(const Inventory& measured, const Scenario& scenario, PolicyChoice policy);

// One evacuation. `policy` is asked again only with replan_interval_s > 0. Errors: an inventory, a
// scenario or a schedule that is not valid.
Result<SimRun> play(const Inventory& inventory, const Scenario& scenario, const Schedule& schedule,
                    PolicyChoice policy, uint64_t seed);

// What is kept of a run: everything that the distributions and the curves need.
inline constexpr size_t kCurvePoints = 200;
struct RunSummary {
    double predicted_makespan_s = 0;  // by the first plan, on what was measured
    double makespan_s = 0;
    double weighted_rescued = 0;      // away by the deadline
    std::vector<double> weight_away;  // at each of windows_s
    std::vector<size_t> vms_away;     // at each of windows_s
    std::vector<size_t> ends;         // kEnds counts, by End
    size_t late = 0;                  // away, but not by the deadline
    double downtime_total_s = 0;
    double downtime_median_ms = 0, downtime_p95_ms = 0, downtime_max_ms = 0;
    double recovery_age_max_s = 0;
    double wire_mib = 0;
    size_t second_turns = 0, replans = 0, replans_taken = 0;
    // When i / kCurvePoints of all weight (of all VMs) is away; infinity when it never is.
    std::vector<double> weight_curve_s, vms_curve_s;
};

struct PolicyRuns {
    PolicyChoice policy;
    std::vector<RunSummary> runs;  // by seed
};

struct Simulation {
    size_t vms = 0;
    double weighted_total = 0;
    std::optional<double> deadline_s;
    Scenario scenario;
    size_t seeds_played = 0;  // 1 when nothing in the scenario is random
    std::vector<PolicyRuns> policies;
    double plan_ms = 0, play_ms = 0;  // first plans; playing and re-planning

    // Under the first policy and in every seed, every VM is away, and by the deadline if there is
    // one. False is exit code 3.
    bool feasible() const;
};

// `progress(done, total)` is called after each evacuation.
using SimulationProgress = std::function<void(size_t done, size_t total)>;
Result<Simulation> simulate(const Inventory& inventory, const Scenario& scenario,
                            const Clock& clock, const SimulationProgress& progress = {});

}  // namespace evac::planner
