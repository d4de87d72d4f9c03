#pragma once
// A second certified lower bound, for guests whose writing saturates: a time-indexed assignment
// relaxation with Lagrangian multipliers.
//
// Claim. Let pi be any function on [0, T] that is at least 1 and does not increase. Then no order
// of the VMs (legal or not, idle or not) whose link ends at C <= T has C below
//     B(pi) = sum over VMs of min { L(s) pi(s + L(s)) : s >= 0, s + L(s) <= T }
//             - integral over [0, T] of (pi(t) - 1) dt .
// 1. Take such an order; VM j's turn is [s_j, c_j], c_j >= s_j + L_j(s_j). The turns are disjoint.
//    pi does not increase, so L_j pi(s_j + L_j) - integral of pi over its own turn <= 0, and
//        sum of L_j pi(c_j) <= integral over all turns of pi
//                           = (length of all turns) + integral over them of (pi - 1)
//                          <= C + integral over [0, T] of (pi - 1),  as pi >= 1.
//    The left side is at least the sum of the minima. (This is the dual of: each VM to one end
//    time, work ended by t at most t. Every pi is valid, so crude convergence costs tightness
//    only.)
// 2. The minimum over s. Let s(c) = sup {s : s + L(s) <= c} and P(c) = c - s(c), the link time as a
//    function of the end, defined also for ends that a jump of L leaps over (more ends: a smaller
//    minimum, so valid). Between jumps L is concave (bound.hpp, step 2), s + L(s) is concave and
//    grows, its inverse s(c) is convex, so P is concave and does not decrease. Over a jump at J, P
//    rises with slope 1, from c = J + L(J-): P is convex only in these points and in
//    c0 = L(0), where it starts. pi is linear between the nodes of a grid. The product of a concave
//    function that does not decrease and a linear one that does not increase, both >= 0, is concave
//    ((P pi)'' = P'' pi + 2 P' pi' <= 0). So the minimum is taken at a node, at c0, or at some
//    J + L(J-): no error is made by the grid.
// 3. Nodes: any lower bound of P(c) serves. With u = c - L(c), u + L(u) <= c, so s(c) >= u and
//    P(c) >= L(u); then v = c - L(u) >= s(c), and w = c - L(v) <= s(c) is nearer than u; and so on.
//    Jumps: bracketed, lo < J <= hi; P there is at least L(lo), and it ends not after hi + (the
//    link time at hi with the passes that precede the jump), where pi is least.
// 4. Switchover: the VM that is last on the link still has its own before it: C + min switchover.
// Rounding: sums of at most 10^5 positive terms in doubles (relative error below 10^-10); the
// result is lowered by 1e-9 of the two sums that it is the difference of. Prices fall fastest at
// first, so the nodes are dense there: node g of K at T (g/K)^3.
#include <cstdint>
#include <span>
#include <vector>

#include "sequence.hpp"

namespace evac::planner {

class Relaxation {
  public:
    // `order`: those that go, in an order that ends by horizon_s > 0. Its prices (what a second
    // lost at t costs at the end) are the first pi.
    Relaxation(const Sequencer& sequencer, std::span<const uint32_t> order, double horizon_s);

    // Newton steps on B with its minima smoothed and a barrier that keeps pi falling, over a sample
    // of the VMs; then B itself over all. Stops when within `enough` (relative) of target_s.
    void improve(double target_s, double enough);

    double link_bound_s() const { return std::max(0.0, best_); }  // of C

  private:
    struct Candidate {  // c0 and the jumps
        size_t node;
        double share;  // of node + 1 in pi
        double link_s;
    };

    size_t nodes() const { return pi_.size(); }
    std::span<const Candidate> candidates(size_t row) const {
        const size_t first = first_candidate_[row];
        return std::span(candidates_).subspan(first, first_candidate_[row + 1] - first);
    }
    double price(const Candidate& c) const {
        return (1 - c.share) * pi_[c.node] + c.share * pi_[c.node + 1];
    }
    void fill_row(size_t row, const CompiledVm& vm, int passes_max);
    void add_candidate(double link_s, double end_s);
    void first_prices(const Sequencer& sequencer, std::span<const uint32_t> order);
    double evaluate() const;  // B(pi)
    void keep_if_better();
    double capacity() const;  // integral of pi - 1

    struct Newton;  // gradient and Hessian of the smoothed B
    double smooth_minimum(size_t row, double heat, std::vector<double>& share) const;
    double smooth_value(std::span<const size_t> rows, double heat) const;
    double differentiate(std::span<const size_t> rows, double heat, Newton& at) const;
    bool smooth_step(std::span<const size_t> rows, double heat);

    double horizon_s_;
    size_t rows_;
    std::vector<double> node_s_;
    std::vector<double> link_;  // [row][node], lower bounds of P
    std::vector<Candidate> candidates_;
    std::vector<size_t> first_candidate_;  // by row, one more
    std::vector<double> pi_, best_pi_;
    double best_ = 0;
};

}  // namespace evac::planner
