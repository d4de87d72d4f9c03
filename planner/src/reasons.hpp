#pragma once
// Fills in why VMs that move miss the deadline.
#include "evac/planner/solve.hpp"

namespace evac::planner {

// plan.reason of what does not move must be set; `after` as resolved for the inventory.
void explain_late(const Inventory& inventory, const std::vector<std::vector<uint32_t>>& after,
                  Plan& plan);

}  // namespace evac::planner
