#pragma once
// The arithmetic of a plan: given the order and each VM's mode, who is away when.
//
// The link is one machine of goodput B = goodput_mbit * 10^6 / 8 / 2^20 MiB/s. For a VM
//   dirty(dt) = sum over its entries of W (1 - exp(-r dt / W)) + disk_write dt
// and its turn, started at t, is
//   remaining = unstaged + dirty(t);  live passes done = 0
//   repeat: wire = remaining * wire_ratio / B
//     stop and copy when any of these holds, tested in this state before every pass, the first
//     included:
//       - wire + switchover <= max_downtime
//       - four live passes were done
//       - dirty(wire) >= 0.9 remaining (no progress)
//     otherwise a live pass: the link is used for `wire`, remaining becomes dirty(wire)
//   link time = sum of the live passes' wires + the last wire;  downtime = last wire + switchover
// so a VM needs at most five transfers, and one with a small enough backlog is moved with none
// live. Freeze: no live pass and no test: the guest is stopped at the start of its turn. Its
// downtime may exceed the limit; that is reported (meets_downtime_limit).
//
// The turns follow one another without a pause: no order gains by idling, because a turn that
// starts later never ends sooner (solve.hpp, monotonicity). away = link end + switchover; the
// switchover overlaps the next turn. `after` orders the resumption: an order is legal only when
// every VM comes behind those it names, and where a long switchover would still let it resume first
// it is held, stopped: away is then the latest away of those it names, and the hold counts as
// downtime. A VM that is abandoned holds nobody.
//
// A VM that would be away later than kHorizonS cannot be drained by this link (its guests write
// faster than the link empties them); the solver abandons it.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "evac/planner/inventory.hpp"

namespace evac::planner {

inline constexpr int kLivePassesMax = 4;
inline constexpr double kNoProgressShare = 0.9;
inline constexpr double kHorizonS = 1e9;

// Post-copy: the guest is stopped at the start of its turn for the switchover only, runs at away
// and reads what it misses over the link: the link is used as by freeze, downtime = switchover. It
// depends on home until its link end, so it counts as away when a frozen one would.
// Recovery-point: the link is not used; the guest is stopped at home and lands from its newest
// sealed recovery point. Its last minutes are lost: it is not in weighted_rescued, but in
// weighted_recovery_point. Like an abandoned VM it holds nobody.
enum class Mode : uint8_t { live, freeze, post_copy, recovery_point, abandon };
std::string_view to_string(
    Mode mode);  // "live", "freeze", "post-copy", "recovery-point", "abandon"
std::optional<Mode> mode_from(std::string_view text);

// Uses the link. The others have no times.
constexpr bool moves(Mode mode) {
    return mode == Mode::live || mode == Mode::freeze || mode == Mode::post_copy;
}
// Most live passes of a turn.
constexpr int passes_of(Mode mode) {
    return mode == Mode::live ? kLivePassesMax : 0;
}

using VmIndex = uint32_t;  // index into Inventory::vms

struct Schedule {
    std::vector<VmIndex> order;  // every VM once; what does not move may stand anywhere
    std::vector<Mode> mode;      // by VmIndex
};

struct VmOutcome {
    Mode mode = Mode::live;
    double start_s = 0;     // from the alert; all times are 0 for what does not move
    double link_end_s = 0;  // link_end_s - start_s = bytes_mib / B
    double away_s = 0;
    double downtime_ms = 0;
    double bytes_mib = 0;  // on the wire, all passes
    int live_passes = 0;
    bool meets_deadline = false;  // away by the deadline (true for all that go when there is none)
    bool meets_downtime_limit = false;  // downtime_ms <= max_downtime_ms
};

struct Evaluation {
    std::vector<VmOutcome> vms;    // by VmIndex
    double makespan_s = 0;         // latest away; 0 when nothing moves
    double weighted_rescued = 0;   // sum of the priorities of those that meet the deadline
    double weighted_total = 0;     // sum of all priorities
    double downtime_total_ms = 0;  // sum over those that go
    size_t late = 0;               // that go, but not by the deadline
    size_t abandoned = 0;
    size_t recovery_points = 0;          // that land from their recovery point
    double weighted_recovery_point = 0;  // their priorities
};

// Plays the schedule. Errc::invalid_argument when it is not a permutation that respects `after`, or
// a mode is recovery_point where there is none. `inventory` must be valid.
Result<Evaluation> evaluate(const Inventory& inventory, const Schedule& schedule);

}  // namespace evac::planner
