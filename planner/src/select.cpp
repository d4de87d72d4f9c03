#include "select.hpp"

#include <algorithm>
#include <cmath>

namespace evac::planner {
namespace {

constexpr int kFillRounds = 3;
constexpr size_t kExchangesMax = 400;
constexpr uint64_t kSeed = 0x6576616373656c65;

class Selector {
  public:
    Selector(Sequencer& sequencer, std::span<const uint32_t> members, const SelectionTask& task)
        : sequencer_(sequencer),
          model_(sequencer.model()),
          members_(members),
          task_(task),
          turns_at_start_(sequencer.effort().turns),
          in_(model_.size(), State::foreign) {}

    Selection run();

  private:
    enum class State : uint8_t { foreign, out, barred, in };  // barred: out, and not to be taken

    bool spent() const {
        return sequencer_.effort().cut ||
               sequencer_.effort().turns - turns_at_start_ >= task_.turns_max;
    }
    uint64_t turns_left() const {
        const uint64_t used = sequencer_.effort().turns - turns_at_start_;
        return used >= task_.turns_max ? 0 : task_.turns_max - used;
    }
    std::vector<double> density_keys(double at_s);
    std::vector<uint32_t> longest_prefix(const std::vector<uint32_t>& wanted);
    std::vector<uint32_t> pack(std::span<const uint32_t> set);
    void mark(const std::vector<uint32_t>& saved);
    bool ready(uint32_t vm) const;
    bool fill(std::vector<uint32_t>& saved, const std::vector<uint32_t>& wanted);
    void exchange(std::vector<uint32_t>& saved, const std::vector<uint32_t>& wanted);
    double weight_of(const std::vector<uint32_t>& saved) const {
        double sum = 0;
        for (const uint32_t vm : saved) sum += model_.vm(vm).weight;
        return sum;
    }

    Sequencer& sequencer_;
    const Compiled& model_;
    std::span<const uint32_t> members_;
    const SelectionTask task_;
    const uint64_t turns_at_start_;
    std::vector<State> in_;
};

// Ascending keys = descending weight per second, where a VM that others wait for may count with the
// best of them: otherwise a light VM in front of a heavy one would hold it back.
std::vector<double> Selector::density_keys(double at_s) {
    std::vector<double> key = sequencer_.link_keys(members_, at_s);
    struct Group {
        double weight, seconds;
        double density() const { return weight / std::max(seconds, 1e-12); }
    };
    std::vector<Group> group(model_.size(), Group{0, 0});
    const std::vector<uint32_t> topological = sequencer_.legal_order(members_, key);
    std::vector<char> member(model_.size(), 0);
    for (const uint32_t vm : members_) member[vm] = 1;
    for (size_t p = topological.size(); p-- > 0;) {
        const uint32_t vm = topological[p];
        const Group own{model_.vm(vm).weight, key[vm]};
        Group best = own;
        for (const uint32_t next : model_.behind(vm)) {
            if (member[next] == 0) continue;
            const Group with{own.weight + group[next].weight, own.seconds + group[next].seconds};
            if (with.density() > best.density()) best = with;
        }
        group[vm] = best;
    }
    for (const uint32_t vm : members_) key[vm] = -group[vm].density();
    return key;
}

// The set in the order that ends soonest, near enough for a first fit.
std::vector<uint32_t> Selector::pack(std::span<const uint32_t> set) {
    return sequencer_.legal_order(set, sequencer_.ratio_keys(set, task_.start_s, task_.due_s));
}

std::vector<uint32_t> Selector::longest_prefix(const std::vector<uint32_t>& wanted) {
    std::vector<uint32_t> best;
    size_t fits = 0, fails = wanted.size() + 1;
    while (fails - fits > 1) {
        const size_t middle = fits + (fails - fits) / 2;
        std::vector<uint32_t> order = pack(std::span<const uint32_t>(wanted).first(middle));
        if (sequencer_.on_time(order, task_.start_s, task_.due_s)) {
            fits = middle;
            best = std::move(order);
        } else {
            fails = middle;
        }
    }
    return best;
}

void Selector::mark(const std::vector<uint32_t>& saved) {
    for (const uint32_t vm : members_) in_[vm] = State::out;
    for (const uint32_t vm : saved) in_[vm] = State::in;
}

bool Selector::ready(uint32_t vm) const {
    const auto before = model_.before(vm);
    return std::none_of(before.begin(), before.end(), [this](uint32_t p) {
        return in_[p] == State::out || in_[p] == State::barred;
    });
}

// Appends whatever still fits, in the wanted order. in_ must be marked.
bool Selector::fill(std::vector<uint32_t>& saved, const std::vector<uint32_t>& wanted) {
    double end = sequencer_.end_of(saved, task_.start_s);
    bool any = false;
    for (const uint32_t vm : wanted) {
        if (in_[vm] != State::out || !ready(vm)) continue;
        const double next = end + sequencer_.link_s(vm, end);
        sequencer_.effort().charge(1);
        if (next + model_.vm(vm).switchover_s > task_.due_s) continue;
        saved.push_back(vm);
        in_[vm] = State::in;
        end = next;
        any = true;
    }
    return any;
}

// Takes one out that nobody in the set waits for, puts others in its place, keeps what weighs more.
void Selector::exchange(std::vector<uint32_t>& saved, const std::vector<uint32_t>& wanted) {
    Random random(kSeed);
    double weight = weight_of(saved);
    for (size_t k = 0; k < kExchangesMax && !spent() && !saved.empty(); ++k) {
        const size_t p = k < saved.size() ? saved.size() - 1 - k : random.below(saved.size());
        const uint32_t out = saved[p];
        const auto behind = model_.behind(out);
        if (std::any_of(behind.begin(), behind.end(),
                        [this](uint32_t next) { return in_[next] == State::in; })) {
            continue;
        }
        std::vector<uint32_t> trial = saved;
        trial.erase(trial.begin() + static_cast<std::ptrdiff_t>(p));
        in_[out] = State::barred;  // not to be put straight back
        fill(trial, wanted);
        in_[out] = State::out;
        fill(trial, wanted);
        const double trial_weight = weight_of(trial);
        if (trial_weight > weight && sequencer_.on_time(trial, task_.start_s, task_.due_s)) {
            saved = std::move(trial);
            weight = trial_weight;
        }
        mark(saved);
    }
}

Selection Selector::run() {
    Selection best;
    std::vector<uint32_t> best_wanted;
    const double span = task_.due_s - task_.start_s;
    for (const double share : {0.0, 0.5, 1.0}) {
        if (!best_wanted.empty() && spent()) break;
        const std::vector<uint32_t> wanted =
            sequencer_.legal_order(members_, density_keys(task_.start_s + share * span));
        std::vector<uint32_t> saved = longest_prefix(wanted);
        mark(saved);
        fill(saved, wanted);
        const double weight = weight_of(saved);
        if (!best_wanted.empty() && weight <= best.weight) continue;
        best = {std::move(saved), {}, weight};
        best_wanted = wanted;
    }
    mark(best.saved);
    const std::vector<double> due(model_.size(), task_.due_s);
    for (int round = 0; round < kFillRounds && !spent(); ++round) {
        const Stretch inner{task_.start_s, due, turns_left() / 3};
        sequencer_.improve(best.saved, inner);
        if (!fill(best.saved, best_wanted)) break;
    }
    exchange(best.saved, best_wanted);
    best.weight = weight_of(best.saved);
    mark(best.saved);
    for (const uint32_t vm : best_wanted) {
        if (in_[vm] == State::out) best.rest.push_back(vm);
    }
    return best;
}

}  // namespace

Selection select_on_time(Sequencer& sequencer, std::span<const uint32_t> members,
                         const SelectionTask& task) {
    return Selector(sequencer, members, task).run();
}

}  // namespace evac::planner
