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

void add_reason(const Inventory& inventory, const Plan& plan, VmIndex i, Json& out) {
    const MissReason reason = i < plan.reason.size() ? plan.reason[i] : MissReason{};
    out["miss"] = reason.miss == Miss::none ? Json(nullptr) : Json(to_string(reason.miss));
    if (reason.miss == Miss::waits) out["waits_for"] = inventory.vms[reason.waits_for].name;
    if (plan.away_host.empty()) return;
    const int32_t host = plan.away_host[i];
    out["away_host"] =
        host < 0 ? Json(nullptr) : Json(inventory.away_hosts[static_cast<size_t>(host)].name);
}

Json effect_json(const Effect& effect) {
    Json out;
    out["makespan_s"] = effect.makespan_s;
    out["weighted_rescued"] = effect.weighted_rescued;
    return out;
}

Json advice_json(const Inventory& inventory, const std::vector<Advice>& advice) {
    Json out = Json::array();
    for (const Advice& a : advice) {
        Json entry;
        entry["kind"] = to_string(a.kind);
        if (a.kind == Advice::Kind::bandwidth) {
            entry["goodput_mbit"] = a.goodput_mbit;
        } else {
            entry["vms"] = Json::array();
            for (const VmIndex i : a.vms) entry["vms"].push_back(inventory.vms[i].name);
        }
        entry["before"] = effect_json(a.before);
        entry["after"] = effect_json(a.after);
        out.push_back(std::move(entry));
    }
    return out;
}

}  // namespace

std::string plan_to_json(const Inventory& inventory, const Plan& plan,
                         const std::vector<Advice>& advice) {
    Json root;
    root["schema"] = kPlanSchema;
    root["order"] = Json::array();
    root["vms"] = Json::array();
    for (const VmIndex i : plan.schedule.order) {
        root["order"].push_back(inventory.vms[i].name);
        root["vms"].push_back(vm_json(inventory.vms[i].name, plan.evaluation.vms[i]));
        add_reason(inventory, plan, i, root["vms"].back());
    }
    root["advice"] = advice_json(inventory, advice);
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
    if (plan.evaluation.recovery_points > 0) {
        root["recovery_points"] = plan.evaluation.recovery_points;
        root["weighted_recovery_point"] = plan.evaluation.weighted_recovery_point;
    }
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
