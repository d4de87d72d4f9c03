// Any text: refused with a message, or read, and then it can be played, twice with the same end,
// and every VM ends in one state.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "evac/planner/simulate.hpp"
#include "evac/planner/simulate_report.hpp"

namespace {

using namespace evac::planner;

Inventory small_inventory() {
    Inventory inventory;
    inventory.link = {8.388608, 1};
    inventory.deadline_s = 30;
    for (size_t i = 0; i < 5; ++i) {
        VmInput vm;
        vm.name = "vm" + std::to_string(i);
        vm.memory_mib = 64;
        vm.unstaged_mib = 3 + static_cast<double>(i);
        vm.dirty = {{10, 0.3}};
        vm.disk_write_mib_s = 0.05;
        vm.wire_ratio = 0.7;
        vm.max_downtime_ms = 500;
        vm.switchover_ms = 200;
        vm.host = i < 2 ? "a" : "b";
        if (i == 3) vm.after = {"vm1"};
        inventory.vms.push_back(vm);
    }
    return inventory;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    auto scenario = parse_scenario({reinterpret_cast<const char*>(data), size});
    if (!scenario.ok()) {
        const std::string& said = scenario.error().context;
        if (said.empty() || said.size() > 3000) std::abort();
        return 0;
    }
    scenario->seeds = std::min<size_t>(scenario->seeds, 2);
    if (scenario->replan_interval_s > 0) {  // solving is another fuzzer's subject
        scenario->replan_interval_s = std::max(scenario->replan_interval_s, 5.0);
    }
    const Inventory inventory = small_inventory();
    const evac::ManualClock clock;
    const auto once = simulate(inventory, *scenario, clock);
    if (!once.ok()) {  // hosts that are not there
        if (once.error().context.find("power[") != 0) std::abort();
        return 0;
    }
    for (const PolicyRuns& policy : once->policies) {
        for (const RunSummary& run : policy.runs) {
            size_t ends = 0;
            for (const size_t count : run.ends) ends += count;
            if (ends != inventory.vms.size()) std::abort();
            if (!std::isfinite(run.makespan_s) || run.makespan_s > scenario->horizon_s)
                std::abort();
        }
    }
    const auto again = simulate(inventory, *scenario, clock);
    if (!again.ok() || simulation_to_json(*again) != simulation_to_json(*once)) std::abort();
    if (simulation_to_table(*once).empty() || simulation_to_html(*once).empty()) std::abort();
    return 0;
}
