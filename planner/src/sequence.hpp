#pragma once
// Orders a set of VMs so that the link is free again soonest: starting orders, then local search.
//
// Everything rests on one property (bound.hpp, step 3): t + L(t) grows with t. So a change within
// positions i..k that ends that stretch sooner ends the whole sequence sooner, and is judged by
// re-evaluating the stretch alone. Sweeps run from left to right, so that the start of the stretch
// is always exact.
//
// Long moves are found by prices: a second gained after position k is worth price(k) = product over
// later turns of (1 + dL/dt) seconds at the end. A VM would best stand where price(k) L(t_k) is
// least; the VMs with most to gain are moved together and the result is evaluated exactly, kept
// only if it is better.
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "compiled.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/random.hpp"

namespace evac::planner {

// The effort spent so far, in evaluated turns; shared by all steps of one solve().
struct Effort {
    explicit Effort(const Clock& clock) : clock_(clock) {}

    uint64_t stop_at_ns = 0;  // 0 = no time budget
    uint64_t turns = 0;
    bool cut = false;

    void charge(uint64_t count) {
        turns += count;
        if (stop_at_ns == 0 || turns < next_look_) return;
        next_look_ = turns + kTurnsPerLook;
        cut = cut || clock_.now_ns() >= stop_at_ns;
    }

  private:
    static constexpr uint64_t kTurnsPerLook = 4096;  // below a millisecond
    const Clock& clock_;
    uint64_t next_look_ = 0;
};

struct Stretch {
    double start_s = 0;
    std::span<const double>
        due_s;               // by VM: its link end + switchover by then; empty = no due times
    uint64_t turns_max = 0;  // effort for this call
};

class Sequencer {
  public:
    Sequencer(const Compiled& model, std::span<const int> passes_max, Effort& effort)
        : model_(model), passes_max_(passes_max), effort_(effort), wanted_(model.size(), 0) {}

    double link_s(uint32_t vm, double start_s) const {
        return turn_link_s(model_.vm(vm), start_s, passes_max_[vm]);
    }
    double end_of(std::span<const uint32_t> order, double start_s);
    bool on_time(std::span<const uint32_t> order, double start_s, std::span<const double> due_s);
    bool on_time(std::span<const uint32_t> order, double start_s, double due_s);  // one for all

    // Members by ascending key (indexed by canonical number), each behind its predecessors among
    // the members.
    std::vector<uint32_t> legal_order(std::span<const uint32_t> members,
                                      std::span<const double> key);

    // The rules' orders, e.g. for a policy; keys by canonical number for members only.
    std::vector<double> ratio_keys(std::span<const uint32_t> members, double start_s,
                                   double horizon_s);
    std::vector<double> link_keys(std::span<const uint32_t> members, double start_s);

    // Best of the starting orders; not improved, `due_s` not looked at.
    std::vector<uint32_t> starting_order(std::span<const uint32_t> members, double start_s);
    // Local search from `order`, which must be legal and on time; stays so.
    void improve(std::vector<uint32_t>& order, const Stretch& stretch);

    const Compiled& model() const { return model_; }
    std::span<const int> passes_max() const { return passes_max_; }
    Effort& effort() { return effort_; }

  private:
    template <class DueOf>
    bool on_time_by(std::span<const uint32_t> order, double start_s, DueOf due_of);
    std::vector<uint32_t> dispatch_order(std::span<const uint32_t> members, double start_s);

    const Compiled& model_;
    std::span<const int> passes_max_;
    Effort& effort_;
    std::vector<uint32_t> wanted_;  // scratch of legal_order: predecessors still to come
};

}  // namespace evac::planner
