#pragma once
// The same evacuations as FlowScenario (for SimGrid) and as inventory and scenario (for ours):
// guests that do not write, so that a turn is one transfer.
#include <string>
#include <vector>

#include "evac/planner/simulate.hpp"
#include "planner_fixture.hpp"
#include "simgrid_model.hpp"

namespace evac::planner::testing {

inline constexpr double kMbitPerMibS = 8.388608;

struct SimgridCase {
    std::string name;
    FlowScenario flows;
    Inventory inventory;
    Scenario scenario;
};

// `changes` steps of the bandwidth, the deepest to 1 % of the first.
inline SimgridCase simgrid_case(Random& random, size_t vms, size_t streams, size_t changes) {
    SimgridCase out;
    out.name = std::to_string(vms) + " VMs, " + std::to_string(streams) + " streams, " +
               std::to_string(changes) + " steps";
    out.flows.mib_s = between(random, 50, 1500);
    out.flows.streams = out.scenario.streams = streams;
    out.inventory.link = {out.flows.mib_s * kMbitPerMibS, 0};
    double total = 0;
    for (size_t i = 0; i < vms; ++i) {
        VmInput vm;
        vm.name = "vm" + std::to_string(i);
        vm.memory_mib = 1024;
        vm.unstaged_mib = log_between(random, 1, 400);
        vm.wire_ratio = between(random, 0.2, 1);
        vm.max_downtime_ms = 1e9;
        out.flows.flow_mib.push_back(vm.unstaged_mib * vm.wire_ratio);
        total += out.flows.flow_mib.back();
        out.inventory.vms.push_back(std::move(vm));
    }
    double at = 0;
    for (size_t k = 0; k < changes; ++k) {
        at += total / out.flows.mib_s / static_cast<double>(changes) * between(random, 0.2, 1.5);
        const double mib_s = out.flows.mib_s * log_between(random, 0.01, 1.5);
        out.flows.changes.emplace_back(at, mib_s);
        out.scenario.bandwidth.push_back({at, mib_s * kMbitPerMibS, {}, 0});
    }
    out.scenario.horizon_s = kHorizonS;
    return out;
}

// The largest relative difference over all ends of flows, from 1 % of the makespan on.
inline double difference(const SimgridCase& test, const std::vector<double>& simgrid) {
    Schedule schedule;
    for (VmIndex i = 0; i < test.inventory.vms.size(); ++i) schedule.order.push_back(i);
    schedule.mode = all_live(test.inventory);
    const auto run = play(test.inventory, test.scenario, schedule, {Policy::fifo}, 1);
    if (!run.ok()) return 1;
    double worst = 0;
    for (size_t i = 0; i < simgrid.size(); ++i) {
        if (run->vms[i].end != End::away) return 1;
        const double floor_s = 0.01 * run->makespan_s;
        const double apart = std::abs(run->vms[i].away_s - simgrid[i]);
        worst = std::max(worst, apart / std::max(simgrid[i], floor_s));
    }
    return worst;
}

}  // namespace evac::planner::testing
