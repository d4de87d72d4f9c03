#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "exact.hpp"
#include "select.hpp"

namespace evac::planner {
namespace {

constexpr double kSame = 1e-12;       // relative; below this two makespans are one
constexpr size_t kPolishAllMax = 40;  // VMs up to which every insertion is scored in full
constexpr int kPolishRoundsMax = 30;
constexpr size_t kCriticalTriesMax = 24;  // places tried for the VM that is away last
constexpr int kAimRoundsMax = 14;         // makespans aimed at
constexpr int kAimPasses = 3;             // each moves who the one before has made late
constexpr double kAimShare = 0.01;        // of the effort, per makespan
// Of all weight. On a large site a smaller gain may be the noise of two searches, and would stop
// thousands of guests; on a small one the lightest VM weighs more than this.
constexpr double kFreezeGainShareMin = 0.005;
constexpr uint64_t kSeed = 0x706f6c697368;
constexpr size_t kUnfreezeTriesMax = 200;

void move_vm(std::vector<uint32_t>& order, size_t from, size_t to) {
    const auto at = [&order](size_t p) { return order.begin() + static_cast<std::ptrdiff_t>(p); };
    if (from < to)
        std::rotate(at(from), at(from + 1), at(to + 1));
    else
        std::rotate(at(to), at(from), at(from + 1));
}

class Search {
  public:
    Search(const Compiled& model, const SearchInput& input, Effort& effort)
        : model_(model),
          input_(input),
          effort_(effort),
          passes_max_(input.passes_max),
          away_(model.size(), 0) {}

    Arrangement run();

  private:
    // Orders with passes_max_ as it is.
    std::vector<uint32_t> arrange(double share);
    std::vector<uint32_t> arrange_exactly();
    std::vector<uint32_t> by_deadline(std::vector<uint32_t> all, double share);
    std::vector<uint32_t> to_horizon(std::vector<uint32_t> order, double start_s, double share);
    void freeze_for_deadline(std::vector<uint32_t>& order);
    void unfreeze(std::vector<uint32_t>& order, double weight);
    std::vector<uint32_t> best_rule();
    void polish(std::vector<uint32_t>& order);
    bool polish_all(std::vector<uint32_t>& order, Score& score);
    bool polish_critical(std::vector<uint32_t>& order, Score& score);
    void polish_switchovers(std::vector<uint32_t>& order, Score& score);
    std::vector<uint32_t> aimed_at(const std::vector<uint32_t>& order, double makespan_s);
    void restart_small(std::vector<uint32_t>& order, Score& score);
    bool legal_move(const std::vector<uint32_t>& order, size_t from, size_t to) const;
    Score score(std::span<const uint32_t> order);
    bool offer(std::vector<uint32_t>& best, Score& best_score, std::vector<uint32_t> candidate);
    uint64_t turns(double share) const {
        return static_cast<uint64_t>(share * static_cast<double>(input_.turns_max));
    }
    Sequencer sequencer() { return {model_, passes_max_, effort_}; }

    const Compiled& model_;
    const SearchInput& input_;
    Effort& effort_;
    std::vector<int> passes_max_;
    std::vector<double> away_;  // scratch of score()
    bool exact_ = false;
};

Score Search::score(std::span<const uint32_t> order) {
    effort_.charge(order.size());
    Score out;
    double now = 0;
    for (const uint32_t i : order) {
        const CompiledVm& vm = model_.vm(i);
        const Turn turn = play_turn(vm, now, passes_max_[i]);
        now = std::min(now + turn.link_s, kTimeMaxS);
        const double ready = now + vm.switchover_s;
        away_[i] = ready;
        for (const uint32_t p : model_.before(i)) away_[i] = std::max(away_[i], away_[p]);
        if (away_[i] <= model_.deadline_s()) out.weight += vm.weight;
        out.makespan_s = std::max(out.makespan_s, away_[i]);
        out.downtime_s += turn.last_wire_s + vm.switchover_s + (away_[i] - ready);
    }
    for (const uint32_t i : order) away_[i] = 0;  // who is not in the order holds nobody
    return out;
}

bool Search::offer(std::vector<uint32_t>& best, Score& best_score,
                   std::vector<uint32_t> candidate) {
    const Score candidate_score = score(candidate);
    // More VMs that go at all count before everything else.
    if (candidate.size() < best.size()) return false;
    if (candidate.size() == best.size() && !better(candidate_score, best_score)) return false;
    best = std::move(candidate);
    best_score = candidate_score;
    return true;
}

// Drops what cannot be away by the horizon, keeping as much weight as is found to fit.
std::vector<uint32_t> Search::to_horizon(std::vector<uint32_t> order, double start_s,
                                         double share) {
    Sequencer seq = sequencer();
    if (seq.on_time(order, start_s, kHorizonS)) return order;
    return select_on_time(seq, order, {start_s, kHorizonS, turns(share)}).saved;
}

std::vector<uint32_t> Search::by_deadline(std::vector<uint32_t> all, double share) {
    Sequencer seq = sequencer();
    Selection chosen =
        select_on_time(seq, input_.going, {0, model_.deadline_s(), turns(share * 0.6)});
    const std::vector<uint32_t> saved = std::move(chosen.saved);
    std::vector<uint32_t> order = saved;
    if (!chosen.rest.empty()) {
        const double start = seq.end_of(order, 0);
        std::vector<uint32_t> rest = seq.starting_order(chosen.rest, start);
        seq.improve(rest, {start, {}, turns(share * 0.2)});
        rest = to_horizon(std::move(rest), start, share * 0.1);
        order.insert(order.end(), rest.begin(), rest.end());
    }
    // The late ones may also go between the saved ones, where that costs nobody the deadline.
    std::vector<double> due(model_.size(), std::numeric_limits<double>::infinity());
    for (const uint32_t i : saved) due[i] = model_.deadline_s();
    seq.improve(order, {0, due, turns(share * 0.2)});
    Score best = score(order);
    if (all.size() >= order.size()) offer(order, best, std::move(all));
    return order;
}

std::vector<uint32_t> Search::arrange_exactly() {
    Sequencer seq = sequencer();
    const auto result = solve_exactly(seq, input_.going, model_.deadline_s());
    exact_ = result && result->makespan_s <= kHorizonS;
    return exact_ ? result->order : std::vector<uint32_t>{};
}

std::vector<uint32_t> Search::arrange(double share) {
    exact_ = false;
    if (input_.exact_small && input_.going.size() <= kExactVmsMax) {
        std::vector<uint32_t> order = arrange_exactly();
        if (exact_) return order;
    }
    Sequencer seq = sequencer();
    const bool deadline = std::isfinite(model_.deadline_s());
    std::vector<uint32_t> order = seq.starting_order(input_.going, 0);
    seq.improve(order, {0, {}, turns(deadline ? share / 3 : share * 0.9)});
    order = to_horizon(std::move(order), 0, share * 0.1);
    if (!deadline ||
        (order.size() == input_.going.size() && seq.on_time(order, 0, model_.deadline_s()))) {
        return order;
    }
    return by_deadline(std::move(order), share * 2 / 3);
}

// The largest set of guests is left live that keeps `weight` rescued in this order: those first
// whose live passes cost the link least.
void Search::unfreeze(std::vector<uint32_t>& order, double weight) {
    struct Saving {
        double link_s;
        uint32_t vm;
    };
    std::vector<Saving> savings;
    double now = 0;
    for (const uint32_t i : order) {
        const double link = turn_link_s(model_.vm(i), now, passes_max_[i]);
        if (passes_max_[i] == 0 && input_.passes_max[i] != 0) {
            savings.push_back({turn_link_s(model_.vm(i), now, kLivePassesMax) - link, i});
        }
        now += link;
    }
    std::sort(savings.begin(), savings.end(), [](const Saving& a, const Saving& b) {
        return a.link_s != b.link_s ? a.link_s < b.link_s : a.vm < b.vm;
    });
    const auto thaw = [&](size_t first, size_t last, int passes) {
        for (size_t k = first; k < last; ++k) passes_max_[savings[k].vm] = passes;
    };
    const auto keeps = [&] { return score(order).weight >= weight * (1 - kSame); };
    size_t kept = 0, fails = savings.size() + 1;
    while (fails - kept > 1) {
        const size_t middle = kept + (fails - kept) / 2;
        thaw(kept, middle, kLivePassesMax);
        if (keeps()) {
            kept = middle;
        } else {
            thaw(kept, middle, 0);
            fails = middle;
        }
    }
    for (size_t k = kept; k < savings.size() && k < kept + kUnfreezeTriesMax; ++k) {
        passes_max_[savings[k].vm] = kLivePassesMax;
        if (!keeps()) passes_max_[savings[k].vm] = 0;
    }
}

void Search::freeze_for_deadline(std::vector<uint32_t>& order) {
    const Score live = score(order);
    double total = 0;
    bool any = false;
    for (const uint32_t i : input_.going) {
        total += model_.vm(i).weight;
        any = any || (input_.may_freeze[i] && passes_max_[i] != 0);
    }
    if (!any || live.weight >= total * (1 - kSame) || effort_.cut) return;
    const bool live_exact = exact_;
    for (const uint32_t i : input_.going) {
        if (input_.may_freeze[i]) passes_max_[i] = 0;
    }
    std::vector<uint32_t> frozen = arrange(0.5);
    const double weight = score(frozen).weight;
    if (weight - live.weight < kFreezeGainShareMin * total || frozen.size() < order.size()) {
        passes_max_ = input_.passes_max;
        exact_ = live_exact;
        return;
    }
    unfreeze(frozen, weight);
    order = frozen;
    // The order was made for other modes.
    Score best = score(order);
    const std::vector<uint32_t> again = arrange(0.25);
    if (!offer(order, best, again)) exact_ = exact_ && !better(best, score(again));
}

bool Search::legal_move(const std::vector<uint32_t>& order, size_t from, size_t to) const {
    if (!model_.any_after()) return true;
    const auto blocks = [&](std::span<const uint32_t> list, size_t first, size_t last) {
        for (size_t p = first; p <= last; ++p) {
            if (std::find(list.begin(), list.end(), order[p]) != list.end()) return true;
        }
        return false;
    };
    return from < to ? !blocks(model_.behind(order[from]), from + 1, to)
                     : from == to || !blocks(model_.before(order[from]), to, from - 1);
}

// Every insertion and every exchange, scored in full: also gains on switchover and on downtime, and
// one VM saved in another's place, which end times do not show. True when any was found.
bool Search::polish_all(std::vector<uint32_t>& order, Score& best) {
    bool any = false;
    for (size_t from = 0; from < order.size() && !effort_.cut; ++from) {
        for (size_t to = 0; to < order.size(); ++to) {
            if (from == to || !legal_move(order, from, to)) continue;
            std::vector<uint32_t> trial = order;
            move_vm(trial, from, to);
            if (from + 1 < to && legal_move(trial, to - 1, from)) {
                std::vector<uint32_t> exchanged = trial;
                move_vm(exchanged, to - 1, from);
                any = offer(order, best, std::move(exchanged)) || any;
            }
            any = offer(order, best, std::move(trial)) || any;
        }
    }
    return any;
}

// The makespan is one VM's away time: its link end and its switchover. It goes earlier, or, where
// it is the last, another takes its place.
bool Search::polish_critical(std::vector<uint32_t>& order, Score& best) {
    double now = 0, latest = 0;
    size_t critical = 0;
    for (size_t p = 0; p < order.size(); ++p) {
        now += turn_link_s(model_.vm(order[p]), now, passes_max_[order[p]]);
        const double away = now + model_.vm(order[p]).switchover_s;
        if (away > latest) {
            latest = away;
            critical = p;
        }
    }
    effort_.charge(order.size());
    for (size_t step = 1; step <= kCriticalTriesMax && step <= critical; ++step) {
        for (const bool earlier : {true, false}) {
            const size_t from = earlier ? critical : critical - step;
            const size_t to = earlier ? critical - step : critical;
            if (effort_.cut || !legal_move(order, from, to)) continue;
            std::vector<uint32_t> trial = order;
            move_vm(trial, from, to);
            if (offer(order, best, std::move(trial))) return true;
        }
    }
    return false;
}

// `order` with those VMs moved forward that would be away after makespan_s: each to the last place
// from where it still makes it.
std::vector<uint32_t> Search::aimed_at(const std::vector<uint32_t>& order, double makespan_s) {
    std::vector<double> start(order.size());
    std::vector<double> key(model_.size(), 0);
    double now = 0;
    for (size_t p = 0; p < order.size(); ++p) {
        const uint32_t i = order[p];
        key[i] = static_cast<double>(p);
        start[p] = now;
        now += turn_link_s(model_.vm(i), now, passes_max_[i]);
        if (now + model_.vm(i).switchover_s <= makespan_s) continue;
        const auto makes_it = [&](double start_s) {
            return start_s + turn_link_s(model_.vm(i), start_s, passes_max_[i]) +
                       model_.vm(i).switchover_s <=
                   makespan_s;
        };
        const auto first = start.begin();
        const auto late =
            std::partition_point(first, first + static_cast<std::ptrdiff_t>(p), makes_it);
        // Just in front of whom it overtakes; those that go to one place, longest switchover first.
        key[i] = static_cast<double>(late - first) - 1.5 + 0.5 / (1 + model_.vm(i).switchover_s);
    }
    effort_.charge(2 * order.size());
    return sequencer().legal_order(order, key);
}

// Long switchovers want to go early, which end times do not show: aims at ever lower makespans, and
// lets the local search use what room each leaves.
void Search::polish_switchovers(std::vector<uint32_t>& order, Score& best) {
    double low = 0;
    for (int round = 0; round < kAimRoundsMax && !effort_.cut; ++round) {
        const double aim = low + (best.makespan_s - low) * (low == 0 ? 0.98 : 0.5);
        if (best.makespan_s - aim < 1e-6 * best.makespan_s) break;
        std::vector<uint32_t> trial = order;
        for (int pass = 0; pass < kAimPasses; ++pass) trial = aimed_at(trial, aim);
        Sequencer seq = sequencer();
        const Score trial_score = score(trial);
        if (trial_score.makespan_s < best.makespan_s) {
            const std::vector<double> due(model_.size(), trial_score.makespan_s);
            seq.improve(trial, {0, due, turns(kAimShare)});
        }
        if (!offer(order, best, std::move(trial))) low = aim;
    }
}

// Few VMs: away from the local optimum by a few random moves, down again, the better one kept.
void Search::restart_small(std::vector<uint32_t>& order, Score& best) {
    Random random(kSeed);
    const uint64_t until = effort_.turns + turns(0.4);
    while (effort_.turns < until && !effort_.cut) {
        std::vector<uint32_t> trial = order;
        for (uint64_t k = 2 + random.below(4); k > 0; --k) {
            const size_t from = random.below(trial.size()), to = random.below(trial.size());
            if (legal_move(trial, from, to)) move_vm(trial, from, to);
        }
        Score trial_score = score(trial);
        while (polish_all(trial, trial_score) && effort_.turns < until) {
        }
        offer(order, best, std::move(trial));
    }
}

void Search::polish(std::vector<uint32_t>& order) {
    if (order.size() < 2) return;
    Score best = score(order);
    const bool all = order.size() <= kPolishAllMax;
    polish_switchovers(order, best);
    const uint64_t until = effort_.turns + turns(0.3);
    for (int round = 0; round < kPolishRoundsMax && effort_.turns < until && !effort_.cut;
         ++round) {
        if (!(all ? polish_all(order, best) : polish_critical(order, best))) break;
    }
    if (all && !exact_) restart_small(order, best);
}

// No plan is worse than a simple rule's. (fifo is not among them: the plan would depend on the
// order in which VMs are listed.) The order with the least link end is the better start for
// polishing even where a rule has the better makespan, so both are polished.
std::vector<uint32_t> Search::best_rule() {
    Sequencer seq = sequencer();
    std::vector<uint32_t> order = seq.legal_order(input_.going, seq.link_keys(input_.going, 0));
    Score best = score(order);
    for (const Policy policy : {Policy::ratio, Policy::priority, Policy::priority_per_second}) {
        offer(order, best, seq.legal_order(input_.going, policy_keys(seq, input_.going, policy)));
    }
    return order;
}

Arrangement Search::run() {
    std::vector<uint32_t> order = arrange(1.0);
    const bool try_rules = !exact_ && order.size() == input_.going.size() && !effort_.cut;
    if (std::isfinite(model_.deadline_s())) freeze_for_deadline(order);
    std::vector<uint32_t> rule;
    if (try_rules) rule = best_rule();
    const bool rule_leads = try_rules && better(score(rule), score(order));
    polish(order);
    if (rule_leads) {
        polish(rule);
        Score best = score(order);
        offer(order, best, std::move(rule));
    }
    Arrangement out{order, passes_max_, exact_, std::nullopt};
    if (exact_) {
        Sequencer seq = sequencer();
        const auto least = solve_exactly(seq, order, std::numeric_limits<double>::infinity());
        if (least) out.least_makespan_s = least->makespan_s;
    }
    return out;
}

}  // namespace

bool better(const Score& a, const Score& b) {
    const auto differ = [](double x, double y) {
        return std::abs(x - y) > kSame * std::max(std::abs(x), std::abs(y));
    };
    if (differ(a.weight, b.weight)) return a.weight > b.weight;
    if (differ(a.makespan_s, b.makespan_s)) return a.makespan_s < b.makespan_s;
    return differ(a.downtime_s, b.downtime_s) && a.downtime_s < b.downtime_s;
}

Arrangement search(const Compiled& model, const SearchInput& input, Effort& effort) {
    if (input.going.empty()) return {{}, input.passes_max, true, 0.0};
    return Search(model, input, effort).run();
}

std::vector<double> away_times(const Compiled& model, std::span<const uint32_t> order,
                               std::span<const int> passes_max) {
    std::vector<double> away(model.size(), 0);
    double now = 0;
    for (const uint32_t i : order) {
        now = std::min(now + turn_link_s(model.vm(i), now, passes_max[i]), kTimeMaxS);
        away[i] = now + model.vm(i).switchover_s;
        for (const uint32_t p : model.before(i)) away[i] = std::max(away[i], away[p]);
    }
    return away;
}

std::vector<double> policy_keys(Sequencer& sequencer, std::span<const uint32_t> members,
                                Policy policy) {
    const Compiled& model = sequencer.model();
    std::vector<double> key = sequencer.link_keys(members, 0);
    switch (policy) {
        case Policy::fifo:
            for (const uint32_t i : members) key[i] = model.original(i);
            break;
        case Policy::shortest_first:
            break;
        case Policy::ratio: {
            const double end = sequencer.end_of(sequencer.legal_order(members, key), 0);
            return sequencer.ratio_keys(members, 0, end);
        }
        case Policy::priority: {
            std::vector<uint32_t> rank(members.begin(), members.end());
            std::sort(rank.begin(), rank.end(), [&](uint32_t a, uint32_t b) {
                const double wa = model.vm(a).weight, wb = model.vm(b).weight;
                if (wa != wb) return wa > wb;
                return key[a] != key[b] ? key[a] < key[b] : a < b;
            });
            for (size_t k = 0; k < rank.size(); ++k) key[rank[k]] = static_cast<double>(k);
            break;
        }
        case Policy::priority_per_second:
            for (const uint32_t i : members) {
                key[i] = -model.vm(i).weight / std::max(key[i], 1e-12);
            }
            break;
    }
    return key;
}

}  // namespace evac::planner
