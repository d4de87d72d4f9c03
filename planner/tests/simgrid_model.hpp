#pragma once
// The same flows in SimGrid: an implementation that shares nothing with ours.
#include <cstddef>
#include <utility>
#include <vector>

namespace evac::planner::testing {

struct FlowScenario {
    double mib_s = 0;                                // of the link, at first
    std::vector<std::pair<double, double>> changes;  // (time > 0, MiB/s), ascending
    size_t streams = 1;
    std::vector<double> flow_mib;  // sent in this order, `streams` at a time
};

// When each flow ends. All scenarios are played in one engine, each on a link of its own. Once per
// process (SimGrid's engine is a singleton).
std::vector<std::vector<double>> play_in_simgrid(const std::vector<FlowScenario>& scenarios);

}  // namespace evac::planner::testing
