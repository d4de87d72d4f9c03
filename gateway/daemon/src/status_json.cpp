#include "status_json.hpp"

#include <algorithm>
#include <set>

#include "app.hpp"
#include "index_json.hpp"

namespace evac::daemon {
namespace {

using Json = nlohmann::json;

double mib(uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(kMiB);
}
double rounded(double value) {
    return static_cast<double>(static_cast<int64_t>(value * 1000 + (value < 0 ? -0.5 : 0.5))) /
           1000;
}

template <class Member>
double percentile(const PassHistory& history, Member member, double share) {
    std::vector<double> values;
    for (const auto& entry : history.entries) values.push_back(entry.*member);
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

// The peer says that it runs it, by a forced act, and it is ours to run.
bool in_conflict(App& app, const HomeVm& vm) {
    const auto* handover = app.coordinator().find(vm.id);
    return handover != nullptr && handover->away_runs() && app.coordinator().is_at_home(vm.id);
}

std::string detail_of(App& app, const HomeVm& vm) {
    if (!in_conflict(app, vm)) return vm.detail;
    return "it runs at " + app.config().peer_site +
           " by a forced act; the copy to stay is decided by `evacctl vm force`";
}

// What an operator reads: words known from other products.
std::string state_of(App& app, const HomeVm& vm) {
    const auto* handover = app.coordinator().find(vm.id);
    if (in_conflict(app, vm)) return "conflict";
    if (handover != nullptr && handover->state() != evacuation::State::protected_) {
        return evacuation::to_string(handover->state());
    }
    if (vm.phase != VmPhase::active) return to_string(vm.phase);
    if (!vm.sealed_once()) return "initialising";
    return app.home().rpo_s(vm) <= app.home().rpo_target_s(vm) ? "protected" : "behind";
}

Json rungs_json(const std::array<dedup::RungStats, dedup::kRungCount>& rungs) {
    Json out;
    for (size_t i = 0; i < dedup::kRungCount; ++i) {
        out[dedup::to_string(static_cast<dedup::Rung>(i))] = {
            {"pages", rungs[i].pages},
            {"raw_mib", rounded(mib(rungs[i].raw_bytes))},
            {"wire_mib", rounded(mib(rungs[i].wire_bytes))}};
    }
    return out;
}

// VMs that an order for all does not move, and why.
Json left_behind(App& app, const evacuation::Progress* progress) {
    std::set<VmId> listed;
    if (progress != nullptr) {
        for (const auto& vm : progress->vms) {
            if (vm.outcome != evacuation::Outcome::none) listed.insert(vm.vm);
        }
    }
    Json left = Json::array();
    for (const auto& [id, vm] : app.home().vms()) {
        if (listed.count(id) != 0 || vm->phase == VmPhase::moved) continue;
        const std::string state = state_of(app, *vm);
        left.push_back(
            {{"name", vm->name},
             {"why", detail_of(app, *vm).empty() ? state : state + ": " + detail_of(app, *vm)}});
    }
    return left;
}

// Ordered, but nothing could be begun yet.
Json standing_json(App& app, const Order& order) {
    return {{"stage", "standing"},
            {"event", order.event_id},
            {"reason", order.reason},
            {"until_unix_ms", order.until_unix_ms},
            {"waits_for", app.waits_for()},
            {"waiting", 0},
            {"moving", 0},
            {"moved", 0},
            {"returned", 0},
            {"stuck", 0},
            {"finished", false},
            {"left", left_behind(app, nullptr)},
            {"vms", Json::array()}};
}

}  // namespace

Json vm_json(App& app, const HomeVm& vm) {
    const double rpo_s = app.home().rpo_s(vm);
    Json out{
        {"name", vm.name},
        {"id", raw(vm.id)},
        {"state", state_of(app, vm)},
        {"phase", to_string(vm.phase)},
        {"detail", detail_of(app, vm)},
        {"qmp", vm.qmp_path},
        {"priority", vm.priority},
        {"max_downtime_ms", vm.max_downtime_ms},
        {"memory_mib", rounded(mib(vm.examined.facts.memory_bytes))},
        {"staged_mib", vm.sealed_once() ? rounded(mib(vm.total_bytes())) : 0.0},
        {"backlog_mib", rounded(mib(vm.flow->queued_bytes))},
        {"sent_mib", rounded(mib(vm.flow->raw_bytes))},
        {"wire_mib", rounded(mib(vm.flow->wire_bytes))},
        {"rounds", vm.history.count},
        {"sealed_epoch", raw(vm.sealed)},
        {"capture", vm.capture_wanted ? to_string(*vm.capture_wanted) : "auto"},
        {"method", vm.choice.why.empty() ? "unknown" : to_string(vm.choice.method)},
        {"method_why", vm.choice.why},
        {"pause_ms_median", rounded(percentile(vm.history, &PassHistory::Entry::pause_ms, 0.5))},
        {"pause_ms_max", rounded(percentile(vm.history, &PassHistory::Entry::pause_ms, 1))},
        {"pause_upper_ms_max",
         rounded(percentile(vm.history, &PassHistory::Entry::pause_upper_ms, 1))},
        {"pause_ms_p99", rounded(percentile(vm.history, &PassHistory::Entry::pause_ms, 0.99))},
        {"round_s_median", rounded(percentile(vm.history, &PassHistory::Entry::duration_s, 0.5))}};
    out["rpo_target_s"] = app.home().rpo_target_s(vm);
    out["rpo_s"] = rpo_s < 0 ? Json() : Json(rounded(rpo_s));
    out["method_rejected"] = Json::array();
    for (const auto& r : vm.choice.rejected)
        out["method_rejected"].push_back({{"method", to_string(r.method)}, {"why", r.why}});
    out["sync"] = {{"count", vm.sync.count},   {"all", vm.sync.all},
                   {"ranges", vm.sync.ranges}, {"pages", vm.sync.pages},
                   {"bytes", vm.sync.bytes},   {"reread_pages", vm.sync.changed}};
    Json disks = Json::array();
    for (const auto& region : vm.regions()) {
        if (region.kind == RegionKind::disk)
            disks.push_back({{"name", region.name}, {"mib", mib(region.size_bytes)}});
    }
    out["disks"] = disks;
    add_measures(app, vm, out);
    return out;
}

Json evacuation_json(App& app) {
    const Order* order = app.standing_order();
    if (order != nullptr && !app.coordinator().joins(order->event_id))
        return standing_json(app, *order);
    return progress_json(app);
}

Json progress_json(App& app) {
    const auto progress = app.coordinator().progress(app.now());
    const Order* order = app.standing_order();
    if (progress.stage == evacuation::Stage::idle) return {};
    Json vms = Json::array();
    uint64_t last_ms = 0;
    for (const auto& p : progress.vms) {
        if (p.outcome == evacuation::Outcome::none) continue;
        const HomeVm* vm = app.home().find(p.vm);
        last_ms = std::max(last_ms, p.away_ms);
        Json entry{
            {"name", vm == nullptr ? std::to_string(raw(p.vm)) : vm->name},
            {"state", evacuation::to_string(p.state)},
            {"outcome", evacuation::to_string(p.outcome)},
            {"turns", p.turns},
            {"downtime_ms", p.downtime_ms},
            {"predicted_downtime_ms", p.predicted_downtime_ms},
            {"predicted_away_s", static_cast<double>(p.predicted_away_ms) / 1000},
            {"away_s", p.away_ms == 0 ? Json() : Json(static_cast<double>(p.away_ms) / 1000)},
            {"landed_paused", p.landed_paused},
            {"stop_ms", static_cast<double>(p.parts.stop_ns) / 1e6},
            {"capture_ms", static_cast<double>(p.parts.capture_ns) / 1e6},
            {"seal_ms", static_cast<double>(p.parts.seal_ns) / 1e6},
            {"landing_ms", static_cast<double>(p.parts.landing_ns) / 1e6},
            {"detail", p.detail}};
        if (vm != nullptr) {
            entry["backlog_mib"] = rounded(mib(vm->backlog_at_alert_bytes));
            entry["wire_mib"] = rounded(mib(vm->flow->wire_bytes - vm->wire_at_alert_bytes));
            entry["final_changed_mib"] = rounded(vm->final_changed_mib);
            entry["final_pass_s"] = rounded(vm->final_pass_s);
            entry["staged_mib"] = rounded(mib(vm->total_bytes()));
        }
        vms.push_back(std::move(entry));
    }
    const bool running = progress.waiting + progress.moving != 0;
    return {{"left", order == nullptr ? Json::array() : left_behind(app, &progress)},
            {"waits_for", app.waits_for()},
            {"replans", app.plans().changes()},
            {"deadline_s", app.meter().deadline_s > 0 ? Json(app.meter().deadline_s) : Json()},
            {"stage", evacuation::to_string(progress.stage)},
            {"event", progress.event_id},
            {"reason", progress.reason},
            {"policy", evacuation::to_string(progress.policy)},
            {"silence_ms", progress.silence_ms},
            {"since_unix_ms", progress.since_unix_ms},
            {"waiting", progress.waiting},
            {"moving", progress.moving},
            {"moved", progress.moved},
            {"returned", progress.returned},
            {"stuck", progress.stuck},
            {"finished", !running},
            {"predicted_makespan_s", rounded(app.meter().predicted_makespan_s)},
            {"alert_to_last_running_s", static_cast<double>(last_ms) / 1000},
            {"wire_mib_after_alert",
             rounded(mib(app.meter().wire_bytes_after - app.meter().wire_bytes_before))},
            {"vms", vms}};
}

Json status_json(App& app) {
    Json vms = Json::array();
    size_t protected_vms = 0;
    for (const auto& [id, vm] : app.home().vms()) {
        vms.push_back(vm_json(app, *vm));
        protected_vms += app.home().protected_now(*vm) ? size_t{1} : size_t{0};
    }
    Json staged = Json::array();
    const int64_t now_unix_ms = app.clock().wall_unix_ms();
    for (const auto& [id, vm] : app.away().vms()) {
        const auto* handover = app.desk().find(id);
        staged.push_back(
            {{"name", vm->name},
             {"id", raw(id)},
             {"state", handover == nullptr ? "unknown" : evacuation::to_string(handover->state())},
             {"landed_paused", handover != nullptr && handover->landed_paused()},
             {"own", vm->adopted},
             {"sealed_epoch", raw(vm->sealed)},
             {"point_unix_ms", vm->point_unix_ms},
             {"point_age_s",
              vm->point_unix_ms == 0 ? Json() : Json((now_unix_ms - vm->point_unix_ms) / 1000)},
             {"qmp",
              app.config().site.run_dir + "/landing-" + std::to_string(raw(id)) + "/qmp.sock"},
             {"detail", vm->detail}});
    }
    Json out{{"site", app.config().site.name},
             {"peer", app.config().peer_site},
             {"peer_connected", app.peer_connected()},
             {"policy", app.config().evacuation.silence_may_run ? "evacuation" : "planned"},
             {"silence_s", app.config().evacuation.silence_s},
             {"protected", protected_vms},
             {"vms", vms},
             {"staged", staged},
             {"evacuation", evacuation_json(app)}};
    const Order* order = app.standing_order();
    out["order"] = order == nullptr ? Json()
                                    : Json{{"event", order->event_id},
                                           {"reason", order->reason},
                                           {"until_unix_ms", order->until_unix_ms},
                                           {"waits_for", app.waits_for()}};
    out["rpo_stretch"] = rounded(app.home().rpo_stretch());
    out["link"] = app.link_desk().link_json(app.peer_port_name());
    const auto& reduction = app.reducer().stats();
    Json settings = Json::object();
    for (size_t i = 0; i < dedup::kSettings; ++i)
        settings[dedup::name_of(i)] = rounded(mib(app.reducer().content_bytes(i)));
    out["reduction"] = {{"memory", rungs_json(reduction.memory)},
                        {"disk", rungs_json(reduction.disk)},
                        {"content_mib_by_setting", std::move(settings)},
                        {"batches", reduction.batches},
                        {"naks", reduction.naks},
                        {"stale_hits", reduction.stale_hits},
                        {"references_to_memory", reduction.references_to_memory},
                        {"references_to_disk", reduction.references_to_disk},
                        {"index", index_json(app.index().stats())},
                        {"reindex", reindex_json(app.reducer().reindex(), reduction)},
                        {"message_mib", rounded(mib(reduction.message_bytes))}};
    if (!app.home().vms().empty()) {
        if (const auto* plan = app.plans().recent()) {
            Json windows = Json::array();
            for (const double window_s : {60.0, 300.0, 1800.0}) {
                const auto away = planner::away_by(plan->inventory, plan->plan, window_s);
                windows.push_back(
                    {{"window_s", window_s}, {"vms", away.vms}, {"weight", away.weight}});
            }
            out["evacuability"] = {{"makespan_s", rounded(plan->plan.evaluation.makespan_s)},
                                   {"age_s", rounded(app.plans().recent_age_s())},
                                   {"vms", plan->inventory.vms.size()},
                                   {"weight", plan->plan.evaluation.weighted_total},
                                   {"windows", windows}};
        }
    }
    return out;
}

Json doctor_json(App& app) {
    Json checks = Json::array();
    auto add = [&checks](const std::string& what, bool ok, const std::string& detail) {
        checks.push_back({{"check", what}, {"ok", ok}, {"detail", detail}});
    };
    const auto stats = app.transport().stats();
    add("peer", app.peer_connected(),
        app.peer_connected()
            ? app.config().peer_site + " answers, round trip " +
                  std::to_string(static_cast<double>(stats.rtt_smoothed_ns) / 1e6) + " ms"
            : "no session with " + app.config().peer_site + " at " + app.config().wan.peer);
    for (const auto& [id, vm] : app.home().vms()) {
        const bool ok = app.home().protected_now(*vm) || vm->phase == VmPhase::moved;
        add("vm " + vm->name, ok,
            ok ? state_of(app, *vm) : std::string(to_string(vm->phase)) + ": " + vm->detail);
    }
    auto test = app.alerts().self_test();
    add("alert path", test.ok(), test.ok() ? *test : test.error().message());
    add("alert rules", !app.config().alert_rules.empty(),
        std::to_string(app.config().alert_rules.size()) + " configured");
    add("webhook", app.config().webhook.enabled,
        app.config().webhook.enabled ? app.config().webhook.listen : "not configured");
    return {{"checks", checks}};
}

}  // namespace evac::daemon
