#include "evac/planner/solve.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <unordered_map>

#include "bound.hpp"
#include "compiled.hpp"
#include "inventory_rules.hpp"
#include "search.hpp"
#include "sequence.hpp"

namespace evac::planner {
namespace {

struct Prepared {
    std::vector<std::vector<uint32_t>> after;
    std::vector<Mode> mode;    // by VmIndex, live where nothing is forced
    std::vector<bool> forced;  // by VmIndex
};

Status check_forced(Mode mode, const std::string& where) {
    if (mode == Mode::live || mode == Mode::freeze || mode == Mode::abandon) return {};
    return rules::refuse(where, to_string(mode), "live, freeze or abandon");
}

Result<Prepared> prepare(const Inventory& inventory, const SolveOptions& options) {
    EVAC_TRY(validate(inventory));
    auto after = rules::resolve_after(inventory.vms);
    if (!after.ok()) return after.error();
    const size_t n = inventory.vms.size();
    Prepared out{std::move(*after), std::vector<Mode>(n, Mode::live), std::vector<bool>(n, false)};
    if (options.forced_mode_all) {
        EVAC_TRY(check_forced(*options.forced_mode_all, "forced mode"));
        out.mode.assign(n, *options.forced_mode_all);
        out.forced.assign(n, true);
    }
    if (options.forced_mode.empty()) return out;
    std::unordered_map<std::string_view, size_t> by_name;
    for (size_t i = 0; i < n; ++i) by_name.emplace(inventory.vms[i].name, i);
    for (const auto& [name, mode] : options.forced_mode) {
        const auto it = by_name.find(name);
        if (it == by_name.end()) {
            return rules::refuse("forced mode", rules::shown(name), "the name of a VM in vms");
        }
        EVAC_TRY(check_forced(mode, "forced mode of " + rules::shown(name)));
        out.mode[it->second] = mode;
        out.forced[it->second] = true;
    }
    return out;
}

// The search's canonical result in the inventory's terms.
Schedule to_schedule(const Compiled& model, const Arrangement& found) {
    Schedule schedule;
    schedule.mode.assign(model.size(), Mode::abandon);
    std::vector<bool> goes(model.size(), false);
    for (const uint32_t i : found.order) {
        goes[i] = true;
        schedule.order.push_back(model.original(i));
        schedule.mode[model.original(i)] = found.passes_max[i] == 0 ? Mode::freeze : Mode::live;
    }
    for (uint32_t i = 0; i < model.size(); ++i) {
        if (!goes[i]) schedule.order.push_back(model.original(i));
    }
    return schedule;
}

uint64_t default_turns(size_t n) {
    const uint64_t count = n;
    // 2 million turns are 0.2 to 0.5 s; beyond 20,000 VMs a fixed number of passes over all.
    return std::max(std::clamp<uint64_t>(300 * count * count, 100'000, 2'000'000), 100 * count);
}

class Stopwatch {
  public:
    explicit Stopwatch(const Clock& clock) : clock_(clock), start_ns_(clock.now_ns()) {}
    double elapsed_ms() const { return static_cast<double>(clock_.now_ns() - start_ns_) / 1e6; }

  private:
    const Clock& clock_;
    uint64_t start_ns_;
};

struct BoundTask {
    const Clock& clock;
    bool tight;
};

Result<Plan> finish(const Inventory& inventory, const Compiled& model, const Arrangement& found,
                    const Effort& effort, const Stopwatch& watch, const BoundTask& task) {
    Plan plan;
    plan.schedule = to_schedule(model, found);
    auto evaluation = evaluate(inventory, plan.schedule);
    if (!evaluation.ok()) return evaluation.error();
    plan.evaluation = std::move(*evaluation);
    const double makespan = plan.evaluation.makespan_s;
    double bound =
        makespan_lower_bound(model, found.order, found.passes_max, makespan,
                             task.tight && !effort.cut && !found.least_makespan_s, task.clock);
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

// Late VMs do not go. Who waits for a late VM is late too, so nobody else loses a predecessor.
void drop_late(const Compiled& model, Arrangement& found) {
    const std::vector<double> away = away_times(model, found.order, found.passes_max);
    std::erase_if(found.order, [&](uint32_t i) { return away[i] > model.deadline_s(); });
    found.exact = false;
    found.least_makespan_s.reset();
}

}  // namespace

Result<Plan> solve(const Inventory& inventory, const SolveOptions& options, const Clock& clock) {
    const Stopwatch watch(clock);
    const auto prepared = prepare(inventory, options);
    if (!prepared.ok()) return prepared.error();
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
        if (mode == Mode::freeze) input.passes_max[i] = 0;
        if (mode != Mode::abandon) input.going.push_back(i);
        input.may_freeze[i] = options.freeze_for_deadline && !prepared->forced[original];
    }
    Arrangement found = search(model, input, effort);
    if (options.abandon_late && std::isfinite(model.deadline_s())) drop_late(model, found);
    return finish(inventory, model, found, effort, watch, {clock, options.tight_bound});
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
    const auto prepared = prepare(inventory, options);
    if (!prepared.ok()) return prepared.error();
    const Compiled model(inventory, prepared->after, prepared->mode);
    Effort effort(clock);
    Arrangement found;
    found.passes_max.assign(model.size(), kLivePassesMax);
    std::vector<uint32_t> going;
    for (uint32_t i = 0; i < model.size(); ++i) {
        const Mode mode = prepared->mode[model.original(i)];
        if (mode == Mode::freeze) found.passes_max[i] = 0;
        if (mode != Mode::abandon) going.push_back(i);
    }
    Sequencer sequencer(model, found.passes_max, effort);
    std::vector<double> key = policy_keys(sequencer, going, policy);
    found.order = sequencer.legal_order(going, key);
    const std::vector<double> away = away_times(model, found.order, found.passes_max);
    std::erase_if(found.order, [&](uint32_t i) { return away[i] > kHorizonS; });
    return finish(inventory, model, found, effort, watch, {clock, options.tight_bound});
}

}  // namespace evac::planner
