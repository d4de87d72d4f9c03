#include <nlohmann/json.hpp>

#include "evac/planner/report.hpp"

namespace evac::planner {
namespace {

using Json = nlohmann::ordered_json;

Json vm_json(const std::string& name, const VmOutcome& vm) {
    const bool goes = moves(vm.mode);
    const auto number = [goes](double value) { return goes ? Json(value) : Json(nullptr); };
    Json out;
    out["name"] = name;
    out["mode"] = to_string(vm.mode);
    out["start_s"] = number(vm.start_s);
    out["link_end_s"] = number(vm.link_end_s);
    out["away_s"] = number(vm.away_s);
    out["downtime_ms"] = number(vm.downtime_ms);
    out["bytes_mib"] = vm.bytes_mib;
    out["live_passes"] = vm.live_passes;
    out["meets_deadline"] = vm.meets_deadline;
    out["meets_downtime_limit"] = goes ? Json(vm.meets_downtime_limit) : Json(nullptr);
    return out;
}

}  // namespace

std::string plan_to_json(const Inventory& inventory, const Plan& plan) {
    Json root;
    root["schema"] = kPlanSchema;
    root["order"] = Json::array();
    root["vms"] = Json::array();
    for (const VmIndex i : plan.schedule.order) {
        root["order"].push_back(inventory.vms[i].name);
        root["vms"].push_back(vm_json(inventory.vms[i].name, plan.evaluation.vms[i]));
    }
    root["makespan_s"] = plan.evaluation.makespan_s;
    root["lower_bound_s"] = plan.stats.lower_bound_s;
    root["gap"] = plan.stats.gap;
    root["weighted_rescued"] = plan.evaluation.weighted_rescued;
    root["weighted_total"] = plan.evaluation.weighted_total;
    root["downtime_total_ms"] = plan.evaluation.downtime_total_ms;
    root["deadline_s"] = inventory.deadline_s ? Json(*inventory.deadline_s) : Json(nullptr);
    root["goodput_mbit"] = inventory.link.goodput_mbit;
    root["late"] = plan.evaluation.late;
    root["abandoned"] = plan.evaluation.abandoned;
    root["exact"] = plan.stats.exact;
    root["solve_ms"] = plan.stats.solve_ms;
    return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

AwayBy away_by(const Inventory& inventory, const Plan& plan, double seconds) {
    AwayBy out;
    for (size_t i = 0; i < inventory.vms.size(); ++i) {
        const VmOutcome& vm = plan.evaluation.vms[i];
        if (!moves(vm.mode) || vm.away_s > seconds) continue;
        ++out.vms;
        out.weight += inventory.vms[i].priority;
    }
    return out;
}

}  // namespace evac::planner
