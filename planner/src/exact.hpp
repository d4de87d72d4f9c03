#pragma once
// Dynamic programming over subsets, for few VMs.
//
// For a set of VMs that have gone, an order is dominated by one that ends no later, has no later
// latest away, no less weight on time and, where `after` is used, no late VM that the other has on
// time (a VM that waits for a late one is late). By monotonicity (bound.hpp, step 3) whatever
// follows is then no worse either. The labels of a set are what is not dominated; the best label of
// the full set is optimal for (weight, makespan).
#include <optional>
#include <vector>

#include "sequence.hpp"

namespace evac::planner {

struct ExactResult {
    std::vector<uint32_t> order;
    double weight = 0;
    double makespan_s = 0;
};

// `going` has at most kExactVmsMax VMs, closed under predecessors. nullopt when there would be too
// many labels (exact.cpp, kLabelsMax).
std::optional<ExactResult> solve_exactly(Sequencer& sequencer, std::span<const uint32_t> going,
                                         double deadline_s);

}  // namespace evac::planner
