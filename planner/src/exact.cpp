#include "exact.hpp"

#include <algorithm>
#include <cmath>

#include "evac/planner/solve.hpp"

namespace evac::planner {
namespace {

constexpr size_t kLabelsMax = 400'000;  // 40 bytes each

struct Label {
    double end_s = 0;
    double away_s = 0;  // latest so far, raised to what any completion reaches
    double weight = 0;
    uint32_t late = 0;    // mask, kept only where `after` is used
    uint32_t parent = 0;  // index of a label of the set without `vm`
    uint32_t vm = 0;      // last to go, index into `going`
};

class SubsetSearch {
  public:
    SubsetSearch(Sequencer& sequencer, std::span<const uint32_t> going, double deadline_s)
        : sequencer_(sequencer),
          going_(going),
          deadline_s_(deadline_s),
          count_(static_cast<uint32_t>(going.size())),
          before_(count_, 0),
          least_s_(count_, 0),
          any_after_(sequencer.model().any_after() && std::isfinite(deadline_s)) {
        for (uint32_t i = 0; i < count_; ++i) {
            least_s_[i] = sequencer.link_s(going[i], 0);
            for (const uint32_t p : sequencer.model().before(going[i])) {
                for (uint32_t k = 0; k < count_; ++k) {
                    if (going[k] == p) before_[i] |= 1U << k;
                }
            }
        }
    }

    std::optional<ExactResult> run() {
        sets_.assign(size_t{1} << count_, {});
        sets_[0].push_back({});
        for (uint32_t set = 0; set + 1 < sets_.size(); ++set) {
            for (uint32_t i = 0; i < count_; ++i) {
                const uint32_t bit = 1U << i;
                if ((set & bit) != 0 || (before_[i] & ~set) != 0) continue;
                extend(set, i);
            }
            if (labels_ > kLabelsMax) return std::nullopt;
        }
        return best();
    }

  private:
    void extend(uint32_t set, uint32_t i) {
        const CompiledVm& vm = sequencer_.model().vm(going_[i]);
        const uint32_t grown = set | 1U << i;
        double rest_s = 0;  // no completion ends before end + this
        for (uint32_t k = 0; k < count_; ++k) {
            if ((grown >> k & 1) == 0) rest_s += least_s_[k];
        }
        sequencer_.effort().charge(sets_[set].size());
        for (uint32_t from = 0; from < sets_[set].size(); ++from) {
            const Label& label = sets_[set][from];
            Label next;
            next.end_s = label.end_s + sequencer_.link_s(going_[i], label.end_s);
            const double away = next.end_s + vm.switchover_s;
            next.away_s = std::max({label.away_s, away, next.end_s + rest_s});
            const bool late = away > deadline_s_ || (before_[i] & label.late) != 0;
            next.weight = label.weight + (late ? 0 : vm.weight);
            next.late = any_after_ ? label.late | (late ? 1U << i : 0) : 0;
            next.parent = from;
            next.vm = i;
            insert(sets_[grown], next);
        }
    }

    static bool dominates(const Label& a, const Label& b) {
        return a.end_s <= b.end_s && a.away_s <= b.away_s && a.weight >= b.weight &&
               (a.late & ~b.late) == 0;
    }

    void insert(std::vector<Label>& set, const Label& label) {
        for (const Label& old : set) {
            if (dominates(old, label)) return;
        }
        const size_t before = set.size();
        std::erase_if(set, [&label](const Label& old) { return dominates(label, old); });
        set.push_back(label);
        labels_ += set.size() - before;  // may shrink: unsigned wrap-around cancels out
    }

    std::optional<ExactResult> best() const {
        const std::vector<Label>& full = sets_.back();
        const auto it =
            std::min_element(full.begin(), full.end(), [](const Label& a, const Label& b) {
                return a.weight != b.weight ? a.weight > b.weight : a.away_s < b.away_s;
            });
        if (it == full.end()) return std::nullopt;
        ExactResult result{{}, it->weight, it->away_s};
        uint32_t set = static_cast<uint32_t>(sets_.size()) - 1;
        for (Label label = *it; set != 0;) {
            result.order.push_back(going_[label.vm]);
            set &= ~(1U << label.vm);
            label = sets_[set][label.parent];
        }
        std::reverse(result.order.begin(), result.order.end());
        return result;
    }

    Sequencer& sequencer_;
    std::span<const uint32_t> going_;
    const double deadline_s_;
    const uint32_t count_;
    std::vector<uint32_t> before_;  // masks over `going`
    std::vector<double> least_s_;   // link time at the alert: never less later
    const bool any_after_;
    std::vector<std::vector<Label>>
        sets_;  // by set; a set is final before it is extended (larger number)
    size_t labels_ = 1;
};

}  // namespace

std::optional<ExactResult> solve_exactly(Sequencer& sequencer, std::span<const uint32_t> going,
                                         double deadline_s) {
    if (going.empty() || going.size() > kExactVmsMax) return std::nullopt;
    return SubsetSearch(sequencer, going, deadline_s).run();
}

}  // namespace evac::planner
