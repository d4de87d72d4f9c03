#include "evac/planner/replan.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "inventory_rules.hpp"
#include "placement.hpp"
#include "reasons.hpp"
#include "replan_reason.hpp"
#include "search.hpp"
#include "select.hpp"

namespace evac::planner {
namespace {

constexpr double kFreezeGainShareMin = 0.005;
constexpr uint64_t kTurnsPerVm = 30;
constexpr uint64_t kTurnsMin = 100'000;

// The VMs that still use the link, in an inventory of their own whose clock starts now.
struct Remainder {
    Inventory inventory;
    std::vector<VmIndex> whole;  // index in the whole inventory
    std::vector<Mode> mode;
    std::vector<bool> fixed;
    std::vector<double> rank;  // in the standing order; new VMs behind all
};

class Replanner {
  public:
    Replanner(const Inventory& now, const Progress& progress, const Standing& standing,
              const ReplanOptions& options, const Clock& clock)
        : now_(now),
          progress_(progress),
          standing_(standing),
          options_(options),
          clock_(clock),
          effort_(clock) {
        for (uint32_t i = 0; i < standing.inventory.vms.size(); ++i) {
            standing_at_.emplace(standing.inventory.vms[i].name, i);
        }
        rank_.assign(standing.inventory.vms.size(), 0);
        for (size_t p = 0; p < standing.plan.schedule.order.size(); ++p) {
            rank_[standing.plan.schedule.order[p]] = static_cast<double>(p);
        }
    }

    Result<Replan> run();

  private:
    Mode standing_mode(VmIndex i) const;
    void collect();
    void place();
    struct Order {
        std::vector<uint32_t> order;  // canonical numbers of rest_
        std::vector<int> passes_max;
        Score score;
    };
    Score score(const Compiled& model, const Order& order) const;
    Order improved(const Compiled& model, const Order& from, std::vector<uint32_t> waiting);
    void freeze(const Compiled& model, const Order& live, Order& best,
                const std::vector<uint32_t>& waiting);
    Result<Plan> to_plan(const Compiled& model, const Order& chosen);

    const Inventory& now_;
    const Progress& progress_;
    const Standing& standing_;
    const ReplanOptions& options_;
    const Clock& clock_;
    Effort effort_;
    uint64_t turns_max_ = 0;
    std::unordered_map<std::string_view, uint32_t> standing_at_;
    std::vector<double> rank_;
    Remainder rest_;
    std::vector<int32_t> host_;
    double weight_away_ = 0;
    double weight_total_ = 0;
};

Mode Replanner::standing_mode(VmIndex i) const {
    const auto it = standing_at_.find(now_.vms[i].name);
    const VmState state = progress_.state[i];
    if (it == standing_at_.end()) return state == VmState::frozen ? Mode::freeze : Mode::live;
    const Mode mode = standing_.plan.schedule.mode[it->second];
    if (state == VmState::frozen && mode == Mode::live) return Mode::freeze;
    return mode;
}

// Keeps the hosts of the standing plan, as long as away still has them.
void Replanner::place() {
    if (now_.away_hosts.empty()) return;
    std::unordered_map<std::string_view, int32_t> host_at;
    for (size_t h = 0; h < now_.away_hosts.size(); ++h) {
        host_at.emplace(now_.away_hosts[h].name, static_cast<int32_t>(h));
    }
    std::vector<int32_t> fixed(now_.vms.size(), kNoHost);
    std::vector<uint32_t> wanted;
    for (uint32_t i = 0; i < now_.vms.size(); ++i) {
        if (progress_.state[i] == VmState::failed) continue;
        wanted.push_back(i);
        const auto it = standing_at_.find(now_.vms[i].name);
        if (it == standing_at_.end() || standing_.plan.away_host.empty()) continue;
        const int32_t old = standing_.plan.away_host[it->second];
        if (old == kNoHost) continue;
        const auto host =
            host_at.find(standing_.inventory.away_hosts[static_cast<size_t>(old)].name);
        if (host != host_at.end()) fixed[i] = host->second;
    }
    host_ = place_at_away(now_, wanted, fixed);
}

void Replanner::collect() {
    std::unordered_map<std::string_view, bool> goes;
    std::vector<VmIndex> going;
    for (uint32_t i = 0; i < now_.vms.size(); ++i) {
        const VmState state = progress_.state[i];
        weight_total_ += now_.vms[i].priority;
        if (state == VmState::away) weight_away_ += now_.vms[i].priority;
        if (state == VmState::away || state == VmState::failed) continue;
        const bool under_way = state != VmState::waiting;
        const Mode mode = standing_mode(i);
        // Who found no room may find it now; who was given up as endless may drain by now.
        const auto it = standing_at_.find(now_.vms[i].name);
        const std::vector<MissReason>& why = standing_.plan.reason;
        const bool retry = it != standing_at_.end() && mode == Mode::abandon &&
                           it->second < why.size() && why[it->second].miss != Miss::forced;
        if (!under_way && !moves(mode) && !retry) continue;
        if (!under_way && !host_.empty() && host_[i] == kNoHost) continue;
        going.push_back(i);
        goes.emplace(now_.vms[i].name, true);
    }
    rest_.inventory.link = now_.link;
    if (now_.deadline_s) {
        rest_.inventory.deadline_s = std::max(0.0, *now_.deadline_s - progress_.elapsed_s);
    }
    for (const VmIndex i : going) {
        VmInput vm = now_.vms[i];
        std::erase_if(vm.after, [&](const std::string& name) { return goes.count(name) == 0; });
        const VmState state = progress_.state[i];
        if (state == VmState::frozen) {  // it writes no more
            vm.dirty.clear();
            vm.disk_write_mib_s = 0;
        }
        const auto it = standing_at_.find(vm.name);
        const double rank = it == standing_at_.end() ? 1e9 + i : rank_[it->second];
        // Frozen ones before those in flight, and both before what waits.
        const double first = state == VmState::frozen      ? -4e9
                             : state == VmState::in_flight ? -2e9
                                                           : 0;
        const Mode mode = standing_mode(i);
        rest_.inventory.vms.push_back(std::move(vm));
        rest_.whole.push_back(i);
        rest_.mode.push_back(moves(mode) ? mode : Mode::live);
        rest_.fixed.push_back(state != VmState::waiting);
        rest_.rank.push_back(rank + first);
    }
}

Score Replanner::score(const Compiled& model, const Order& order) const {
    const std::vector<double> away = away_times(model, order.order, order.passes_max);
    Score out;
    for (const uint32_t i : order.order) {
        if (away[i] <= model.deadline_s()) out.weight += model.vm(i).weight;
        out.makespan_s = std::max(out.makespan_s, away[i]);
    }
    return out;
}

// The fixed ones stay in front; `waiting` is `from` without them.
Replanner::Order Replanner::improved(const Compiled& model, const Order& from,
                                     std::vector<uint32_t> waiting) {
    Sequencer seq(model, from.passes_max, effort_);
    const size_t fixed = from.order.size() - waiting.size();
    const auto head = std::span<const uint32_t>(from.order).first(fixed);
    const double start = seq.end_of(head, 0);
    Order best = from;
    best.score = score(model, best);
    const auto offer = [&](std::span<const uint32_t> tail) {
        Order other{{head.begin(), head.end()}, from.passes_max, {}};
        other.order.insert(other.order.end(), tail.begin(), tail.end());
        other.score = score(model, other);
        if (better(other.score, best.score)) best = std::move(other);
    };
    const bool deadline = std::isfinite(model.deadline_s());
    const bool choose = deadline && best.score.weight < weight_total_ - weight_away_;
    if (!choose) {  // otherwise the choice of whom to save starts from another order anyway
        std::vector<uint32_t> warm = waiting;
        seq.improve(warm, {start, {}, turns_max_ / 3});
        offer(warm);
    }
    if (choose && !effort_.cut) {
        const Selection chosen =
            select_on_time(seq, waiting, {start, model.deadline_s(), turns_max_ / 3});
        std::vector<uint32_t> tail = chosen.saved;
        std::vector<uint32_t> late = chosen.rest;
        const double late_start = seq.end_of(tail, start);
        seq.improve(late, {late_start, {}, turns_max_ / 6});
        tail.insert(tail.end(), late.begin(), late.end());
        offer(tail);
    } else if (!effort_.cut) {
        const double end = seq.end_of(waiting, start);
        offer(seq.legal_order(waiting, seq.ratio_keys(waiting, start, end)));
    }
    return best;
}

// All that wait frozen; those are left live again that the deadline does not need so.
void Replanner::freeze(const Compiled& model, const Order& live, Order& best,
                       const std::vector<uint32_t>& waiting) {
    Order all = live;
    for (const uint32_t i : waiting) all.passes_max[i] = 0;
    Order frozen = improved(model, all, waiting);
    const double gain = frozen.score.weight - best.score.weight;
    if (gain < kFreezeGainShareMin * weight_total_ || gain <= 0) return;
    std::vector<uint32_t> thaw = waiting;  // cheapest live passes first
    std::vector<double> cost(model.size(), 0);
    double now = 0;
    for (const uint32_t i : frozen.order) {
        const double link = turn_link_s(model.vm(i), now, 0);
        cost[i] = turn_link_s(model.vm(i), now, kLivePassesMax) - link;
        now += link;
    }
    std::sort(thaw.begin(), thaw.end(), [&](uint32_t a, uint32_t b) {
        return cost[a] != cost[b] ? cost[a] < cost[b] : a < b;
    });
    std::erase_if(thaw, [&](uint32_t i) { return live.passes_max[i] == 0; });
    size_t kept = 0, fails = thaw.size() + 1;
    while (fails - kept > 1) {
        const size_t middle = kept + (fails - kept) / 2;
        Order trial = frozen;
        for (size_t k = 0; k < middle; ++k) trial.passes_max[thaw[k]] = kLivePassesMax;
        (score(model, trial).weight >= frozen.score.weight ? kept : fails) = middle;
    }
    for (size_t k = 0; k < kept; ++k) frozen.passes_max[thaw[k]] = kLivePassesMax;
    frozen.score = score(model, frozen);
    best = std::move(frozen);
}

Result<Plan> Replanner::to_plan(const Compiled& model, const Order& chosen) {
    const size_t n = now_.vms.size();
    Plan plan;
    plan.schedule.mode.assign(n, Mode::abandon);
    plan.reason.assign(n, {});
    plan.away_host = host_;
    const std::vector<double> away = away_times(model, chosen.order, chosen.passes_max);
    Schedule part{{}, std::vector<Mode>(model.size(), Mode::abandon)};
    std::vector<bool> placed(n, false), endless(n, false);
    for (const uint32_t i : chosen.order) {
        const uint32_t own = model.original(i);
        part.order.push_back(own);
        if (away[i] > kHorizonS) {
            endless[rest_.whole[own]] = true;
            continue;
        }
        Mode& mode = part.mode[own];
        mode = rest_.mode[own];
        if (chosen.passes_max[i] == 0 && mode == Mode::live) {
            mode = options_.allow_post_copy ? Mode::post_copy : Mode::freeze;
        }
        plan.schedule.order.push_back(rest_.whole[own]);
        plan.schedule.mode[rest_.whole[own]] = mode;
        placed[rest_.whole[own]] = true;
    }
    Evaluation inner;
    if (!rest_.inventory.vms.empty()) {
        auto evaluated = evaluate(rest_.inventory, part);
        if (!evaluated.ok()) return evaluated.error();
        inner = std::move(*evaluated);
    }
    plan.evaluation = inner;
    plan.evaluation.vms.assign(n, {});
    plan.evaluation.weighted_total = weight_total_;
    plan.evaluation.weighted_rescued = inner.weighted_rescued + weight_away_;
    plan.evaluation.abandoned = 0;
    for (size_t k = 0; k < rest_.whole.size(); ++k)
        plan.evaluation.vms[rest_.whole[k]] = inner.vms[k];
    for (uint32_t i = 0; i < n; ++i) {
        if (placed[i]) continue;
        plan.schedule.order.push_back(i);
        VmOutcome& vm = plan.evaluation.vms[i];
        vm = {};
        vm.mode = Mode::abandon;
        if (progress_.state[i] == VmState::away) {
            vm.mode = Mode::live;
            vm.meets_deadline = vm.meets_downtime_limit = true;
        } else if (standing_mode(i) == Mode::recovery_point && now_.vms[i].recovery_point_age_s &&
                   progress_.state[i] != VmState::failed) {
            vm.mode = Mode::recovery_point;
            ++plan.evaluation.recovery_points;
            plan.evaluation.weighted_recovery_point += now_.vms[i].priority;
            plan.reason[i].miss = Miss::forced;
        } else {
            ++plan.evaluation.abandoned;
            const bool no_room = !host_.empty() && host_[i] == kNoHost;
            plan.reason[i].miss = progress_.state[i] == VmState::failed ? Miss::failed
                                  : no_room                             ? Miss::no_room
                                  : endless[i]                          ? Miss::never_drains
                                                                        : Miss::forced;
        }
        plan.schedule.mode[i] = vm.mode;
    }
    return plan;
}

Result<Replan> Replanner::run() {
    place();
    collect();
    turns_max_ = options_.turns_max != 0 ? options_.turns_max
                                         : std::max(kTurnsMin, kTurnsPerVm * rest_.whole.size());
    if (options_.time_budget_ms > 0) {
        effort_.stop_at_ns = clock_.now_ns() + static_cast<uint64_t>(options_.time_budget_ms * 1e6);
    }
    auto after = rules::resolve_after(rest_.inventory.vms);
    if (!after.ok()) return after.error();
    const Compiled model(rest_.inventory, *after, rest_.mode);
    Order standing{{}, std::vector<int>(model.size()), {}};
    std::vector<double> key(model.size());
    std::vector<uint32_t> members(model.size());
    std::iota(members.begin(), members.end(), 0U);
    for (uint32_t i = 0; i < model.size(); ++i) {
        key[i] = rest_.rank[model.original(i)];
        standing.passes_max[i] = passes_of(rest_.mode[model.original(i)]);
    }
    Sequencer seq(model, standing.passes_max, effort_);
    standing.order = seq.legal_order(members, key);
    standing.score = score(model, standing);
    std::vector<uint32_t> waiting = standing.order;
    std::erase_if(waiting, [&](uint32_t i) { return rest_.fixed[model.original(i)]; });
    // `after` may put one that waits before one that is under way: then nothing can be moved.
    const bool fixed_first = std::equal(waiting.rbegin(), waiting.rend(), standing.order.rbegin());

    Order best = standing;
    if (fixed_first && waiting.size() > 1) best = improved(model, standing, waiting);
    const double all =
        std::accumulate(rest_.inventory.vms.begin(), rest_.inventory.vms.end(), 0.0,
                        [](double sum, const VmInput& vm) { return sum + vm.priority; });
    if (fixed_first && options_.freeze_for_deadline && !waiting.empty() &&
        best.score.weight < all * (1 - 1e-12) && !effort_.cut) {
        freeze(model, standing, best, waiting);
    }
    Replan out;
    const bool more = best.score.weight > standing.score.weight * (1 + 1e-12);
    const bool same = best.score.weight >= standing.score.weight * (1 - 1e-12);
    const double sooner = standing.score.makespan_s - best.score.makespan_s;
    out.replaced =
        more || (same && sooner > 0 && sooner >= options_.margin * standing.score.makespan_s);
    if (!out.replaced) best = standing;
    auto plan = to_plan(model, best);
    if (!plan.ok()) return plan.error();
    out.plan = std::move(*plan);
    out.before = {standing.score.makespan_s, standing.score.weight + weight_away_};
    out.after = {best.score.makespan_s, best.score.weight + weight_away_};
    out.reason = what_changed(standing_.inventory, now_, progress_);

    SolveStats& stats = out.plan.stats;
    for (const uint32_t i : best.order) {
        if (moves(out.plan.schedule.mode[rest_.whole[model.original(i)]])) {
            stats.lower_bound_s += turn_link_s(model.vm(i), 0, best.passes_max[i]);
        }
    }
    stats.lower_bound_s =
        std::min(stats.lower_bound_s * (1 - 1e-9), out.plan.evaluation.makespan_s);
    if (stats.lower_bound_s > 0)
        stats.gap = out.plan.evaluation.makespan_s / stats.lower_bound_s - 1;
    stats.turns = effort_.turns;
    stats.cut_by_time = effort_.cut;
    return out;
}

}  // namespace

Result<Replan> replan(const Inventory& now, const Progress& progress, const Standing& standing,
                      const ReplanOptions& options, const Clock& clock) {
    EVAC_TRY(validate(now));
    if (progress.state.size() != now.vms.size()) {
        return rules::refuse("progress.state", std::to_string(progress.state.size()) + " entries",
                             "one for each of the " + std::to_string(now.vms.size()) + " VMs");
    }
    for (const auto& [name, value] :
         {std::pair<const char*, double>{"elapsed_s", progress.elapsed_s},
          {"margin", options.margin}}) {
        const std::string bad = rules::number_refusal(value, 0, false);
        if (!bad.empty()) return rules::refuse(name, rules::shown(value), bad);
    }
    const uint64_t started = clock.now_ns();
    auto result = Replanner(now, progress, standing, options, clock).run();
    if (!result.ok()) return result;
    // Late is late by what is left of the deadline.
    Inventory left = now;
    if (left.deadline_s) left.deadline_s = std::max(0.0, *left.deadline_s - progress.elapsed_s);
    auto after = rules::resolve_after(now.vms);
    if (!after.ok()) return after.error();
    explain_late(left, *after, result->plan);
    result->plan.stats.solve_ms = static_cast<double>(clock.now_ns() - started) / 1e6;
    return result;
}

}  // namespace evac::planner
