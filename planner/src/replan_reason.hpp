#pragma once
// What is different now, in words for the log.
#include <string>

#include "evac/planner/replan.hpp"

namespace evac::planner {

std::string what_changed(const Inventory& before, const Inventory& now, const Progress& progress);

}  // namespace evac::planner
