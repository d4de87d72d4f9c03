#include "evac/planner/solve.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <unordered_map>

#include "bound.hpp"
#include "compiled.hpp"
#include "inventory_rules.hpp"
#include "placement.hpp"
#include "reasons.hpp"
#include "search.hpp"
#include "sequence.hpp"

namespace evac::planner {
namespace {

struct Prepared {
    std::vector<std::vector<uint32_t>> after;
    std::vector<Mode> mode;       // by VmIndex, live where nothing is forced
    std::vector<bool> forced;     // by VmIndex
    std::vector<int32_t> host{};  // by VmIndex; empty without away_hosts
    std::vector<bool> no_room{};
    std::vector<bool> dropped{}, drains{};  // by canonical number; empty where nobody was
};

Result<Prepared> check_points(const Inventory& inventory, Prepared prepared) {
    for (size_t i = 0; i < prepared.mode.size(); ++i) {
        if (prepared.mode[i] != Mode::recovery_point) continue;
        if (inventory.vms[i].recovery_point_age_s) continue;
        return rules::refuse("forced mode of " + rules::shown(inventory.vms[i].name),
                             to_string(Mode::recovery_point),
                             "live, freeze, post-copy or abandon, as it has no recovery point");
    }
    return prepared;
}

// Who may land: takes those that find no room out of the plan.
void make_room(const Inventory& inventory, Prepared& prepared) {
    if (inventory.away_hosts.empty()) return;
    std::vector<uint32_t> wanted;
    for (uint32_t i = 0; i < prepared.mode.size(); ++i) {
        if (prepared.mode[i] != Mode::abandon) wanted.push_back(i);
    }
    prepared.host = place_at_away(inventory, wanted, {});
    prepared.no_room.assign(prepared.mode.size(), false);
    for (const uint32_t i : wanted) {
        if (prepared.host[i] != kNoHost) continue;
        prepared.mode[i] = Mode::abandon;
        prepared.no_room[i] = true;
    }
}

Result<Prepared> prepare(const Inventory& inventory, const SolveOptions& options) {
    EVAC_TRY(validate(inventory));
    auto after = rules::resolve_after(inventory.vms);
    if (!after.ok()) return after.error();
    const size_t n = inventory.vms.size();
    Prepared out{std::move(*after), std::vector<Mode>(n, Mode::live), std::vector<bool>(n, false)};
    if (options.forced_mode_all) {
        out.mode.assign(n, *options.forced_mode_all);
        out.forced.assign(n, true);
    }
    if (options.forced_mode.empty()) return check_points(inventory, std::move(out));
    std::unordered_map<std::string_view, size_t> by_name;
    for (size_t i = 0; i < n; ++i) by_name.emplace(inventory.vms[i].name, i);
    for (const auto& [name, mode] : options.forced_mode) {
        const auto it = by_name.find(name);
        if (it == by_name.end()) {
            return rules::refuse("forced mode", rules::shown(name), "the name of a VM in vms");
        }
        out.mode[it->second] = mode;
        out.forced[it->second] = true;
    }
    return check_points(inventory, std::move(out));
}

// The search's canonical result in the inventory's terms, and why who stays behind does so.
void to_schedule(const Compiled& model, const Arrangement& found, const Prepared& prepared,
                 bool allow_post_copy, Plan& plan) {
    Schedule& schedule = plan.schedule;
    schedule.mode = prepared.mode;
    plan.reason.assign(model.size(), {});
    plan.away_host = prepared.host;
    std::vector<bool> goes(model.size(), false);
    for (const uint32_t i : found.order) {
        const uint32_t original = model.original(i);
        goes[i] = true;
        schedule.order.push_back(original);
        if (prepared.forced[original]) continue;
        const Mode stopped = allow_post_copy ? Mode::post_copy : Mode::freeze;
        schedule.mode[original] = found.passes_max[i] == 0 ? stopped : Mode::live;
    }
    for (uint32_t i = 0; i < model.size(); ++i) {
        if (goes[i]) continue;
        const uint32_t original = model.original(i);
        schedule.order.push_back(original);
        Miss& miss = plan.reason[original].miss;
        const bool dropped = i < prepared.dropped.size() && prepared.dropped[i];
        if (moves(schedule.mode[original])) {
            miss = Miss::never_drains;
            schedule.mode[original] = Mode::abandon;
        } else if (dropped) {
            miss = prepared.drains[i] ? Miss::late : Miss::never_drains;
        } else {
            const bool no_room = !prepared.no_room.empty() && prepared.no_room[original];
            miss = no_room ? Miss::no_room : Miss::forced;
        }
        if (schedule.mode[original] == Mode::abandon && !plan.away_host.empty()) {
            plan.away_host[original] = kNoHost;
        }
    }
}

uint64_t default_turns(size_t n) {
    const uint64_t count = n;
    // 2 million turns are 0.2 to 0.5 s; beyond 20,000 VMs a fixed number of passes over all.
    return std::max(std::clamp<uint64_t>(300 * count * count, 1'000'000, 2'000'000), 100 * count);
}

class Stopwatch {
  public:
    explicit Stopwatch(const Clock& clock) : clock_(clock), start_ns_(clock.now_ns()) {}
    double elapsed_ms() const { return static_cast<double>(clock_.now_ns() - start_ns_) / 1e6; }

  private:
    const Clock& clock_;
    uint64_t start_ns_;
};

struct Finish {
    const Clock& clock;
    const SolveOptions& options;
};

Result<Plan> finish(const Inventory& inventory, const Compiled& model, const Arrangement& found,
                    const Effort& effort, const Stopwatch& watch, const Prepared& prepared,
                    const Finish& task) {
    Plan plan;
    to_schedule(model, found, prepared, task.options.allow_post_copy, plan);
    auto evaluation = evaluate(inventory, plan.schedule);
    if (!evaluation.ok()) return evaluation.error();
    plan.evaluation = std::move(*evaluation);
    explain_late(inventory, prepared.after, plan);
    const double makespan = plan.evaluation.makespan_s;
    double bound = makespan_lower_bound(
        model, found.order, found.passes_max, makespan,
        task.options.tight_bound && !effort.cut && !found.least_makespan_s, task.clock);
    if (found.least_makespan_s)
        bound = std::min(makespan, std::max(bound, *found.least_makespan_s));
    plan.stats.lower_bound_s = bound;
    plan.stats.gap = bound > 0 ? makespan / bound - 1 : 0;
    plan.stats.exact = found.exact;
    plan.stats.cut_by_time = effort.cut;
    plan.stats.turns = effort.turns;
    plan.stats.solve_ms = watch.elapsed_ms();
    return plan;
}

// Late VMs, and those that never drain, land from their recovery points or, where they have none
// and the options say so, stay behind. Who waits for a late VM is late too.
void drop_late(const Inventory& inventory, const Compiled& model, const SolveOptions& options,
               Prepared& prepared, Arrangement& found) {
    const std::vector<double> away = away_times(model, found.order, found.passes_max);
    prepared.dropped.assign(model.size(), false);
    prepared.drains.assign(model.size(), false);
    for (const uint32_t i : found.order) prepared.drains[i] = true;
    for (uint32_t i = 0; i < model.size(); ++i) {
        const uint32_t original = model.original(i);
        const bool late = !prepared.drains[i] || away[i] > model.deadline_s();
        if (!moves(prepared.mode[original]) || !late) continue;
        const bool point = inventory.vms[original].recovery_point_age_s.has_value();
        if (!point && (!options.abandon_late || !prepared.drains[i])) continue;
        prepared.mode[original] = point ? Mode::recovery_point : Mode::abandon;
        prepared.dropped[i] = true;
    }
    const size_t before = found.order.size();
    std::erase_if(found.order, [&](uint32_t i) { return prepared.dropped[i]; });
    if (found.order.size() == before) return;
    found.exact = false;
    found.least_makespan_s.reset();
}

// Live guests whose downtime limit the plan does not keep, and that may go by post-copy instead.
bool prefer_post_copy(const Compiled& model, const Prepared& prepared, const Arrangement& found,
                      SearchInput& input) {
    bool any = false;
    double now = 0;
    for (const uint32_t i : found.order) {
        const CompiledVm& vm = model.vm(i);
        const Turn turn = play_turn(vm, now, found.passes_max[i]);
        now += turn.link_s;
        if (prepared.forced[model.original(i)] || found.passes_max[i] == 0) continue;
        if (turn.last_wire_s + vm.switchover_s <= vm.max_downtime_s) continue;
        input.passes_max[i] = 0;
        any = true;
    }
    return any;
}

}  // namespace

Result<Plan> solve(const Inventory& inventory, const SolveOptions& options, const Clock& clock) {
    const Stopwatch watch(clock);
    auto prepared = prepare(inventory, options);
    if (!prepared.ok()) return prepared.error();
    make_room(inventory, *prepared);
    const Compiled model(inventory, prepared->after, prepared->mode);

    Effort effort(clock);
    if (options.time_budget_ms > 0) {
        effort.stop_at_ns = clock.now_ns() + static_cast<uint64_t>(options.time_budget_ms * 1e6);
    }
    SearchInput input;
    input.turns_max = options.turns_max != 0 ? options.turns_max : default_turns(model.size());
    input.exact_small = options.exact_small;
    input.passes_max.assign(model.size(), kLivePassesMax);
    input.may_freeze.assign(model.size(), false);
    for (uint32_t i = 0; i < model.size(); ++i) {
        const uint32_t original = model.original(i);
        const Mode mode = prepared->mode[original];
        input.passes_max[i] = passes_of(mode);
        if (moves(mode)) input.going.push_back(i);
        input.may_freeze[i] = options.freeze_for_deadline && !prepared->forced[original];
    }
    Arrangement found = search(model, input, effort);
    if (options.allow_post_copy && prefer_post_copy(model, *prepared, found, input)) {
        found = search(model, input, effort);
    }
    if (options.triage || options.abandon_late) {
        drop_late(inventory, model, options, *prepared, found);
    }
    return finish(inventory, model, found, effort, watch, *prepared, {clock, options});
}

std::string_view to_string(Policy policy) {
    switch (policy) {
        case Policy::fifo:
            return "fifo";
        case Policy::shortest_first:
            return "shortest-first";
        case Policy::ratio:
            return "a/b";
        case Policy::priority:
            return "priority";
        case Policy::priority_per_second:
            return "priority/s";
    }
    return "?";
}

Result<Plan> plan_by_policy(const Inventory& inventory, Policy policy, const SolveOptions& options,
                            const Clock& clock) {
    const Stopwatch watch(clock);
    auto prepared = prepare(inventory, options);
    if (!prepared.ok()) return prepared.error();
    make_room(inventory, *prepared);
    const Compiled model(inventory, prepared->after, prepared->mode);
    Effort effort(clock);
    Arrangement found;
    found.passes_max.assign(model.size(), kLivePassesMax);
    std::vector<uint32_t> going;
    for (uint32_t i = 0; i < model.size(); ++i) {
        const Mode mode = prepared->mode[model.original(i)];
        found.passes_max[i] = passes_of(mode);
        if (moves(mode)) going.push_back(i);
    }
    Sequencer sequencer(model, found.passes_max, effort);
    std::vector<double> key = policy_keys(sequencer, going, policy);
    found.order = sequencer.legal_order(going, key);
    const std::vector<double> away = away_times(model, found.order, found.passes_max);
    std::erase_if(found.order, [&](uint32_t i) { return away[i] > kHorizonS; });
    return finish(inventory, model, found, effort, watch, *prepared, {clock, options});
}

}  // namespace evac::planner
