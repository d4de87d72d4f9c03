#pragma once
// The local search of Sequencer::improve; see sequence.hpp for what it rests on.
#include <cstdint>
#include <vector>

#include "sequence.hpp"

namespace evac::planner {

class Descent {
  public:
    Descent(Sequencer& sequencer, const Stretch& stretch, std::vector<uint32_t> order);
    void run();
    const std::vector<uint32_t>& order() const { return order_; }

  private:
    bool spent() const;
    double link(uint32_t vm, double start_s) { return sequencer_.link_s(vm, start_s); }
    bool late(uint32_t vm, double end_s) const {
        return !stretch_.due_s.empty() &&
               end_s + sequencer_.model().vm(vm).switchover_s > stretch_.due_s[vm];
    }
    // All starts, ends and prices of order_.
    void play();
    bool accept(std::vector<uint32_t> order);

    bool guided_round();
    void fill_wishes();
    double sweep(size_t forward, size_t backward, double long_share);
    bool try_forward(size_t i, size_t window);
    bool try_backward(size_t i, size_t window);
    bool try_long(size_t i);
    void perturb();

    size_t forward_limit(size_t i, size_t window) const;
    bool may_come_forward(size_t k, size_t i) const;
    void rotate(size_t first, size_t middle, size_t last);

    Sequencer& sequencer_;
    const Stretch stretch_;
    const uint64_t turns_at_start_;
    const bool any_after_;
    Random random_;
    std::vector<uint32_t> order_;
    std::vector<uint32_t> at_;       // canonical number -> position
    std::vector<double> start_s_;    // by position; one more for the end
    std::vector<double> log_price_;  // by position: of a second gained after its turn
    std::vector<double> grid_s_;     // times at which link times are cached
    std::vector<double> grid_link_;  // [member's first position][grid]
    std::vector<uint32_t> members_;  // rows of grid_link_
};

}  // namespace evac::planner
