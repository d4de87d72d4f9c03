#include "evac/planner/plan.hpp"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "inventory_rules.hpp"

namespace evac::planner {
namespace {

using NameIndex = std::unordered_map<std::string, size_t>;

Result<size_t> find_vm(const NameIndex& by_name, const std::string& name, std::string_view option) {
    const auto it = by_name.find(name);
    if (it == by_name.end())
        return rules::refuse(option, rules::shown(name), "the name of a VM in vms");
    return it->second;
}

}  // namespace

Result<Inventory> apply(Inventory inventory, const WhatIf& what_if) {
    if (what_if.goodput_mbit) {
        const std::string bad =
            rules::number_refusal(*what_if.goodput_mbit, kGoodputMbitMin, false);
        if (!bad.empty()) return rules::refuse("rate", rules::shown(*what_if.goodput_mbit), bad);
        inventory.link.goodput_mbit = *what_if.goodput_mbit;
    }
    if (what_if.deadline_s) {
        const std::string bad =
            rules::number_refusal(*what_if.deadline_s, rules::kDeadlineMin, false);
        if (!bad.empty()) return rules::refuse("deadline", rules::shown(*what_if.deadline_s), bad);
        inventory.deadline_s = what_if.deadline_s;
    }
    if (what_if.priority.empty() && what_if.exclude.empty()) return inventory;

    NameIndex by_name;
    for (size_t i = 0; i < inventory.vms.size(); ++i) by_name.emplace(inventory.vms[i].name, i);
    for (const auto& [name, weight] : what_if.priority) {
        const auto vm = find_vm(by_name, name, "priority");
        if (!vm.ok()) return vm.error();
        const std::string bad = rules::number_refusal(weight, 1, false);
        if (!bad.empty()) {
            return rules::refuse("priority of " + rules::shown(name), rules::shown(weight), bad);
        }
        inventory.vms[*vm].priority = weight;
    }
    std::unordered_set<std::string> out;
    for (const std::string& name : what_if.exclude) {
        const auto vm = find_vm(by_name, name, "exclude");
        if (!vm.ok()) return vm.error();
        out.insert(name);
    }
    const auto excluded = [&out](const std::string& name) { return out.count(name) != 0; };
    std::erase_if(inventory.vms, [&](const VmInput& vm) { return excluded(vm.name); });
    for (VmInput& vm : inventory.vms) std::erase_if(vm.after, excluded);
    if (inventory.vms.empty())
        return rules::refuse("exclude", "every VM", "one VM at least must be left");
    return inventory;
}

Result<PlanOutput> plan_from_inventory(Inventory inventory, const PlanOptions& options,
                                       const Clock& clock) {
    EVAC_TRY(validate(inventory));
    auto changed = apply(std::move(inventory), options.what_if);
    if (!changed.ok()) return changed.error();
    auto plan = solve(*changed, options.solve, clock);
    if (!plan.ok()) return plan.error();
    std::vector<Advice> advice;
    if (options.advise) {
        auto found = advise(*changed, *plan, options.solve, clock);
        if (!found.ok()) return found.error();
        advice = std::move(*found);
    }
    return PlanOutput{std::move(*changed), std::move(*plan), std::move(advice)};
}

Result<PlanOutput> plan_from_text(std::string_view inventory_text, const PlanOptions& options,
                                  const Clock& clock) {
    auto inventory = parse_inventory(inventory_text);
    if (!inventory.ok()) return inventory.error();
    return plan_from_inventory(std::move(*inventory), options, clock);
}

}  // namespace evac::planner
