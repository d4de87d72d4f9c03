#pragma once
// Guests that do not write, on a link of 1 MiB/s: times are MiB.
#include <initializer_list>
#include <string>
#include <utility>

#include "evac/planner/simulate.hpp"

namespace evac::planner::testing {

inline constexpr double kMibitMbit = 8.388608;  // 1 MiB/s

inline VmInput plain_vm(std::string name, double unstaged_mib) {
    VmInput vm;
    vm.name = std::move(name);
    vm.memory_mib = 512;
    vm.unstaged_mib = unstaged_mib;
    vm.max_downtime_ms = 1e9;
    return vm;
}

inline Inventory plain_inventory(std::initializer_list<double> unstaged_mib) {
    Inventory inventory;
    inventory.link = {kMibitMbit, 1};
    for (const double mib : unstaged_mib) {
        inventory.vms.push_back(plain_vm("vm" + std::to_string(inventory.vms.size()), mib));
    }
    return inventory;
}

inline Schedule as_listed(const Inventory& inventory, Mode mode = Mode::live) {
    Schedule schedule;
    for (VmIndex i = 0; i < inventory.vms.size(); ++i) schedule.order.push_back(i);
    schedule.mode.assign(inventory.vms.size(), mode);
    return schedule;
}

}  // namespace evac::planner::testing
