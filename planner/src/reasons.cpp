#include "reasons.hpp"

namespace evac::planner {

std::string_view to_string(Miss miss) {
    switch (miss) {
        case Miss::none:
            return "none";
        case Miss::late:
            return "late";
        case Miss::waits:
            return "waits";
        case Miss::never_drains:
            return "never-drains";
        case Miss::no_room:
            return "no-room";
        case Miss::forced:
            return "forced";
        case Miss::failed:
            return "failed";
    }
    return "?";
}

void explain_late(const Inventory& inventory, const std::vector<std::vector<uint32_t>>& after,
                  Plan& plan) {
    plan.reason.resize(inventory.vms.size());
    for (const VmIndex i : plan.schedule.order) {
        const VmOutcome& vm = plan.evaluation.vms[i];
        if (!moves(vm.mode)) continue;
        plan.reason[i] = {};
        if (vm.meets_deadline) continue;
        plan.reason[i].miss = Miss::late;
        const double ready = vm.link_end_s + inventory.vms[i].switchover_ms / 1000;
        if (!inventory.deadline_s || ready > *inventory.deadline_s) continue;
        plan.reason[i].miss = Miss::waits;
        double last = -1;
        for (const uint32_t p : after[i]) {
            if (!moves(plan.schedule.mode[p]) || plan.evaluation.vms[p].away_s <= last) continue;
            last = plan.evaluation.vms[p].away_s;
            plan.reason[i].waits_for = p;
        }
    }
}

}  // namespace evac::planner
