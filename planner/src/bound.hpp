#pragma once
// A certified lower bound on the makespan.
//
// Claim. Let the modes be fixed. No order of the VMs that go, legal for `after` or not, with or
// without idle time, meeting the deadline or not, has a makespan below makespan_lower_bound(),
// given that `known` is the makespan of some order (the bound is never above `known`).
//
// Write L(t) for a VM's link time when its turn starts at t, R(t) = unstaged + dirty(t), c =
// wire_ratio / B, g(R) = dirty(cR) (what is left after one live pass over R).
//
// 1. The rules of the live passes are a threshold on R. "No progress" is dirty(w) >= 0.9 R with w =
// cR, that
//    is c dirty(w)/w >= 0.9; dirty is concave with dirty(0) = 0, so dirty(w)/w does not grow with
//    w: it holds for all R up to some R_N (perhaps 0, perhaps infinity) and for none above. "Short
//    enough" holds for all R up to R_D. So a turn stops iff R <= R* = max(R_N, R_D), or after four
//    live passes. The number of live passes is m(R) = min(4, the first i with g^i(R) <= R*), and
//    since g does not decrease, neither does m.
// 2. With exactly i live passes the link time is L_i = c (R + g(R) + ... + g^i(R)): concave and not
// decreasing
//    in R (compositions of such functions are), so also in t. L = L_m(R(t)), L_i <= L_i+1 and m
//    does not decrease: L does not decrease in t. It is concave between at most four upward jumps.
// 3. Monotonicity: t + L(t) grows with t, so by exchange of whole prefixes no idle time helps, and
// if p(t) <=
//    L(t) for each VM and every t that matters, and t + p(t) does not decrease, then for every
//    order the end under p is not later than under L (induction along the order).
// 4. The line. p(t) = a + b t with a = L(0) and b = the least of (L(t) - a) / t over 0 < t <= T. On
// a piece
//    (p, q) between jumps L - a is concave, so {t: (L(t) - a) / t >= b} is convex there and the
//    quotient is least at an end of the piece; the left end of a later piece is no lower than the
//    right end of the one before it (upward jump), and on the first piece, where L - a is concave
//    and 0 at 0, the quotient does not grow. So it is enough to look just before every jump, and at
//    T. Without jumps this is the secant. A jump is only bracketed, lo < jump <= hi: (L(lo) - a) /
//    hi is not above the value just before it.
// 5. T = known. Every order that beats `known` starts all turns before T, so its end is bounded by
// (3); every
//    other order is not below `known`.
// 6. With p = a + b t on one machine, ascending a/b minimises the end (Browne and Yechiali,
// Scheduling
//    deteriorating jobs on a single processor, Operations Research 38, 1990; Gupta and Gupta 1988):
//    exchanging neighbours changes the end by a positive multiple of a_i b_j - a_j b_i. Legal
//    orders for `after` are a subset of all.
// 7. Switchover: of any set S of VMs one has its link end last, not before the a/b end of S alone
// (the others
//    only add time, by 3), and its own switchover follows. So end(S) + min over S of the switchover
//    is a bound; taken for the sets {VMs with switchover >= theta} for several theta. A hold by
//    `after` only delays.
// Arithmetic is in doubles: the result is lowered by 1e-9 of itself, far above the rounding of 10^5
// additions.
#include <span>

#include "compiled.hpp"
#include "evac/core/clock.hpp"

namespace evac::planner {

struct Line {
    double a = 0, b = 0;
};
// Step 4 for one VM, on [0, horizon_s].
Line line_below(const CompiledVm& vm, int passes_max, double horizon_s);

// `going`: canonical numbers of the VMs that go; passes_max by canonical number.
double secant_lower_bound(const Compiled& model, std::span<const uint32_t> going,
                          std::span<const int> passes_max, double known_s);

// The better of the secant and of relaxation.hpp; `order`: those that go, as in the known plan.
// `tight` false leaves the relaxation out.
double makespan_lower_bound(const Compiled& model, std::span<const uint32_t> order,
                            std::span<const int> passes_max, double known_s, bool tight,
                            const Clock& clock);

}  // namespace evac::planner
