#pragma once
// Finds an order and modes. Objectives, in this order: most priority weight away by the deadline;
// least makespan; least total downtime.
//
// Modes: live unless forced. `freeze` is chosen by the solver only where it brings more weight out
// before the deadline (at least 0.5 % of all weight), and for no more guests than that needs; never
// to gain makespan: every guest frozen is the shortest plan on this model and the one that nobody
// wants. Late VMs still go, behind the others, unless abandon_late; `abandon` is otherwise only for
// what the link can never drain (model.hpp, kHorizonS).
//
// Deterministic: the same inventory and options give the same plan, whatever the order and the
// names of the VMs (identical VMs are interchangeable), because the effort is counted in evaluated
// turns and not in time. Only a time budget that actually cuts the search (SolveStats::cut_by_time)
// makes the result depend on the machine; the best plan so far is then returned.
//
// Post-copy only where allow_post_copy says so or it is forced: then instead of freezing, and for
// those whose live passes would end above their downtime limit. Recovery-point only where forced,
// or, under triage or abandon_late, for VMs that miss the deadline or can never be drained and have
// a recovery point: full state that arrives late is worth more to most, so it is the operator's
// choice. With away_hosts, VMs that find no room (src/placement.hpp) are abandoned.
//
// The bound and its proof are in src/bound.hpp. It says: no order of these VMs in these modes,
// whatever it does about the deadline, has a smaller makespan.
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/planner/model.hpp"

namespace evac::planner {

inline constexpr size_t kExactVmsMax = 12;  // solved to the optimum up to here

struct SolveOptions {
    std::optional<Mode>
        forced_mode_all;  // e.g. freeze where the hypervisor cannot do live passes (TCG)
    std::vector<std::pair<std::string, Mode>>
        forced_mode;  // by name; stronger than forced_mode_all
    bool freeze_for_deadline = true;
    bool allow_post_copy = false;
    bool triage = false;        // late VMs land from their recovery point, where they have one
    bool abandon_late = false;  // as triage, and late VMs without one stay behind
    bool exact_small = true;    // subset dynamic programming for at most kExactVmsMax VMs
    bool tight_bound = true;    // false: the secant bound alone, cheap and loose
    uint64_t turns_max = 0;     // effort in evaluated turns; 0 = chosen from the number of VMs
    double time_budget_ms = 0;  // 0 = none
};

struct SolveStats {
    double lower_bound_s = 0;  // certified, <= makespan_s
    double gap = 0;            // makespan_s / lower_bound_s - 1; 0 when both are 0
    bool exact = false;        // order proved best for the modes (first two objectives)
    bool cut_by_time = false;
    uint64_t turns = 0;
    double solve_ms = 0;
};

// Why a VM is not away in full by the deadline.
enum class Miss : uint8_t {
    none,          // it is
    late,          // its turn ends too late
    waits,         // its turn ends in time, but it is held by `waits_for`
    never_drains,  // beyond kHorizonS: its guest writes faster than the link empties it
    no_room,       // no host at away has its memory free
    forced,        // the mode was asked for
    failed,        // given up by the caller (replan)
};
std::string_view to_string(Miss miss);  // "none", "late", "waits", "never-drains", "no-room", ...
struct MissReason {
    Miss miss = Miss::none;
    VmIndex waits_for = 0;  // Miss::waits only: the one that is away last
};

struct Plan {
    Schedule schedule;  // what does not move stands last
    Evaluation evaluation;
    SolveStats stats;
    std::vector<MissReason> reason;  // by VmIndex
    std::vector<int32_t> away_host;  // by VmIndex into away_hosts, -1 = none; empty without them
};

// invalid_argument: the inventory is not valid, or a forced mode names nobody or has no arithmetic.
Result<Plan> solve(const Inventory& inventory, const SolveOptions& options, const Clock& clock);

// Orders to compare with. Each is made legal for `after` by taking the first VM in the rule's order
// whose predecessors have gone. All modes live unless forced.
enum class Policy : uint8_t {
    fifo,                 // as listed
    shortest_first,       // by link time at the alert
    ratio,                // a/b: link time at the alert by its growth
    priority,             // highest weight first, then shortest
    priority_per_second,  // weight by link time, highest first
};
std::string_view to_string(
    Policy policy);  // "fifo", "shortest-first", "a/b", "priority", "priority/s"
Result<Plan> plan_by_policy(const Inventory& inventory, Policy policy, const SolveOptions& options,
                            const Clock& clock);

}  // namespace evac::planner
