#pragma once
// A plan made again while the evacuation runs: the link, the guests, the deadline or the VMs are no
// longer what the standing plan was made for.
//
// Times of the new plan count from now. What is away stays away; what is in flight or frozen keeps
// its mode and goes first, in the standing order: only waiting VMs are moved. The standing order is
// the start of the search and is kept unless the new one rescues more weight, or lowers the
// makespan by at least `margin`: an evacuation that changes its mind at every measurement loses
// more than it gains. Modes of waiting VMs change from live to freeze (or post-copy) only where
// that brings more weight out by the deadline (at least 0.5 % of all). Hosts at away are kept; new
// VMs get what room is left.
//
// Effort is counted in evaluated turns, as in solve(): 30 per VM that waits, so that 10,000 VMs
// take below 100 ms. The bound is the cheap one (link times as of now in sum), not solve()'s.
#include "evac/planner/solve.hpp"

namespace evac::planner {

enum class VmState : uint8_t { waiting, in_flight, frozen, away, failed };

struct Progress {
    std::vector<VmState> state;  // by VmIndex of the inventory as it is now
    double elapsed_s = 0;        // since the alert, >= 0; deadline_s counts from the alert
};

struct Standing {
    const Inventory& inventory;  // that the plan was made for; VMs are matched by name
    const Plan& plan;
};

struct ReplanOptions {
    double margin = 0.02;  // of the makespan, >= 0
    bool allow_post_copy = false;
    bool freeze_for_deadline = true;
    uint64_t turns_max = 0;     // 0 = 30 per waiting VM, at least 100,000
    double time_budget_ms = 0;  // 0 = none
};

struct Effect {
    double makespan_s = 0;  // from now
    double weighted_rescued = 0;
};

struct Replan {
    Plan plan;  // for the inventory as it is now; what is away or failed stands last
    bool replaced = false;
    std::string reason;  // what changed, for the log: "goodput 1000 -> 600 Mbit/s; 1 VM failed"
    Effect before;       // the standing order under the new facts
    Effect after;        // of `plan`; the same unless replaced
};

// In the plan an away VM has mode live, times 0 and meets_deadline, and counts as rescued; a failed
// one is abandoned (Miss::failed). invalid_argument: `now` is not valid, progress.state has not one
// entry per VM, elapsed_s or margin is negative or not finite.
Result<Replan> replan(const Inventory& now, const Progress& progress, const Standing& standing,
                      const ReplanOptions& options, const Clock& clock);

// What would help, each found by planning again.
struct Advice {
    enum class Kind : uint8_t { bandwidth, stage, freeze } kind = Kind::bandwidth;
    double goodput_mbit = 0;   // bandwidth: the least of a few multiples that gets everybody out in
                               // time, else the largest of them
    std::vector<VmIndex> vms;  // stage (half as much unstaged at the alert), freeze: these
    Effect before, after;
};
std::string_view to_string(Advice::Kind kind);  // "bandwidth", "stage", "freeze"
// Only what gains: more weight, or at least 1 % of the makespan. At most one of each kind.
Result<std::vector<Advice>> advise(const Inventory& inventory, const Plan& plan,
                                   const SolveOptions& options, const Clock& clock);

}  // namespace evac::planner
