// Arm, evacuate, cancel: from an alert or an operator to the state machines.
#include <algorithm>
#include <map>
#include <set>

#include "app.hpp"
#include "status_json.hpp"

namespace evac::daemon {
namespace {

constexpr int64_t kReturnedPauseMs = 10'000;  // before a VM that came back gets new turns
constexpr int64_t kReturnedPauseMaxMs = 320'000;
constexpr uint64_t kPursuitNs = kNsPerSecond;  // looks whether more VMs can follow an order
constexpr double kDeadlineMinS = 0.001;        // one that has passed
constexpr uint64_t kPlanShare = 20;            // planning takes at most 1/20 of this thread
constexpr double kFirstPlanMs = 250;  // the best order found by then is good enough to begin with
constexpr double kSwitchoverBaseMs = 150;  // loading device state and cont, on a loaded host
constexpr double kPassBytesPerS = 5e8;     // of a stopped guest, where nothing was measured
constexpr size_t kPassRounds = 8;
constexpr double kPassShare = 0.4;  // of a live round: what a pass over a stopped guest takes

}  // namespace

double App::switchover_ms(const HomeVm& vm) const {
    const double rtt_ms = static_cast<double>(transport_->stats().rtt_smoothed_ns) / 1e6;
    // The quickest of the last rounds: the others waited for the link or for other guests' rounds.
    double pass_s = static_cast<double>(vm.total_bytes()) / kPassBytesPerS;
    const auto& rounds = vm.history.entries;
    for (size_t i = rounds.size() - std::min(rounds.size(), kPassRounds); i < rounds.size(); ++i)
        pass_s = std::min(pass_s, rounds[i].duration_s * kPassShare);
    if (vm.final_pass_s > 0) pass_s = vm.final_pass_s;
    return kSwitchoverBaseMs + 2 * rtt_ms + pass_s * 1000;
}

Status App::evacuate(const EvacuateRequest& request) {
    const bool everything = request.vms.empty() && !request.planned && !request.hold_landing;
    if (!everything) {
        EvacuateRequest chosen = request;
        // Named VMs join what runs, under its name; an operator who names one that came back means
        // it.
        if (!request.vms.empty()) chosen.again = evacuation::Again::all;
        if (!request.vms.empty() && coordinator_->stage() == evacuation::Stage::evacuating) {
            chosen.event_id = coordinator_->event_id();
        }
        return begin_evacuation(chosen);
    }
    if (request.event_id.empty() || request.event_id.size() > evacuation::kTextMax) {
        return make_error(Errc::invalid_argument,
                          "event: " + std::to_string(request.event_id.size()) +
                              " bytes are refused; accepted: 1 to " +
                              std::to_string(evacuation::kTextMax));
    }
    if (home_->vms().empty())
        return make_error(Errc::refused, "no VM is enrolled: there is nothing that could be moved");
    if (request.deadline_s > 0) {
        ordered_until_ns_ = clock_.now_ns() + static_cast<uint64_t>(request.deadline_s * 1e9);
    } else if (standing_order() == nullptr) {
        ordered_until_ns_ = 0;
    }
    const auto stands_ms = static_cast<int64_t>(config_.evacuation.standing_s * 1000);
    const int64_t now_unix_ms = clock_.wall_unix_ms();
    const Status given =
        orders_->give({request.event_id, request.reason, now_unix_ms, now_unix_ms + stands_ms});
    if (!given.ok()) log_.error("standing order: " + given.error().message());
    for (const auto& [id, vm] : home_->vms()) vm->retry_wait_ms = 0;
    waits_for_.clear();
    pursue_order();
    return {};
}

// Moves what can be moved now and is not yet part of it.
void App::pursue_order() {
    const uint64_t begun_ns = clock_.now_ns();
    next_pursuit_ns_ = begun_ns + kPursuitNs;
    for (const Order& ended : orders_->expire(clock_.wall_unix_ms())) {
        log_.error("the order to evacuate (" + ended.event_id +
                   ") has stood too long and ends; what has not moved stays");
        waits_for_.clear();
    }
    const Order* order = standing_order();
    if (order == nullptr) return;
    if (!machines_started_) {
        waits_for_ = "the gateway is starting";
        return;
    }
    std::set<VmId> taken, returned;
    const auto progress = coordinator_->progress(now());
    const bool ours = progress.event_id == order->event_id && coordinator_->joins(order->event_id);
    for (const auto& vm : progress.vms) {
        if (!ours || vm.outcome == evacuation::Outcome::none) continue;
        // One that came back, because the line failed in its turn, tries again, ever more rarely.
        HomeVm* home = home_->find(vm.vm);
        const bool again = home != nullptr && vm.outcome == evacuation::Outcome::returned &&
                           !vm.kept_home &&
                           clock_.wall_unix_ms() - vm.since_unix_ms >
                               std::max(home->retry_wait_ms, kReturnedPauseMs);
        (again ? returned : taken).insert(vm.vm);
    }
    EvacuateRequest request;
    request.event_id = order->event_id;
    request.reason = order->reason;
    request.again = evacuation::Again::came_back;
    if (ordered_until_ns_ != 0) {
        const uint64_t left_ns = ordered_until_ns_ - std::min(ordered_until_ns_, begun_ns);
        request.deadline_s = std::max(kDeadlineMinS, static_cast<double>(left_ns) / 1e9);
    }
    for (const auto& [id, vm] : home_->vms()) {
        const bool may_move = home_->protected_now(*vm) && coordinator_->is_at_home(id);
        if (may_move && taken.count(id) == 0) request.vms.push_back(vm->name);
    }
    std::string waits_for;
    if (!peer_connected()) {
        waits_for = "the peer is not connected";
    } else if (!request.vms.empty()) {
        const Status begun = begin_evacuation(request);
        if (!begun.ok()) waits_for = begun.error().message();
        for (const VmId id : returned) {
            int64_t& wait_ms = home_->find(id)->retry_wait_ms;
            wait_ms = std::clamp(wait_ms * 2, kReturnedPauseMs, kReturnedPauseMaxMs);
        }
    } else if (taken.empty()) {
        waits_for = "no VM is protected yet";
    }
    if (!waits_for.empty() && waits_for != waits_for_) {
        log_.warning("the order to evacuate (" + order->event_id +
                     ") stands, but waits: " + waits_for);
    }
    waits_for_ = waits_for;
    // Planning for very many VMs takes a while: a small share of this thread, whatever comes.
    next_pursuit_ns_ =
        std::max(next_pursuit_ns_, begun_ns + kPlanShare * (clock_.now_ns() - begun_ns));
}

Status App::begin_evacuation(const EvacuateRequest& request) {
    std::set<VmId> chosen;
    if (request.vms.empty()) {
        for (const auto& [id, vm] : home_->vms()) {
            if (home_->protected_now(*vm)) chosen.insert(id);
        }
    }
    for (const auto& name : request.vms) {
        const HomeVm* vm = home_->find(name);
        if (vm == nullptr) return make_error(Errc::not_found, "vm '" + name + "' is not enrolled");
        if (home_->protected_now(*vm)) chosen.insert(vm->id);
    }
    if (chosen.empty())
        return make_error(Errc::refused,
                          "no VM is protected: there is nothing that could be moved");
    if (!peer_connected()) return make_error(Errc::unavailable, "the peer is not connected");
    link_desk_->stop("an evacuation began");
    planner::PlanOptions options = daemon_plan_options();
    options.solve.time_budget_ms = kFirstPlanMs;
    options.solve.tight_bound = false;
    // Joining one that runs: its clock goes on, and all turns that have not begun are put in the
    // new plan's order.
    const bool joins = coordinator_->joins(request.event_id);
    const double elapsed_s =
        joins
            ? std::max(
                  0.0,
                  static_cast<double>(clock_.wall_unix_ms() - coordinator_->since_unix_ms()) / 1000)
            : 0;
    double window_s = request.deadline_s > 0 ? request.deadline_s : config_.evacuation.window_s;
    if (joins && request.deadline_s <= 0) {
        window_s =
            meter_.deadline_s > 0 ? std::max(kDeadlineMinS, meter_.deadline_s - elapsed_s) : 0;
    }
    planner::Inventory measured = inventory();
    measured.deadline_s = window_s > 0 ? std::optional<double>(window_s) : std::nullopt;
    auto plan = planner::plan_from_inventory(std::move(measured), options, clock_);
    EVAC_TRY(plan);
    evacuation::EvacuationRequest move;
    move.event_id = request.event_id;
    move.reason = request.reason;
    move.again = request.again;
    move.options.policy = request.planned || !config_.evacuation.silence_may_run
                              ? evacuation::Policy::planned
                              : evacuation::Policy::evacuation;
    move.options.silence_ms = static_cast<uint32_t>(config_.evacuation.silence_s * 1000);
    move.options.hold_landing = request.hold_landing;
    std::vector<evacuation::Turn> planned;
    for (const auto index : plan->plan.schedule.order) {
        const auto& entry = plan->inventory.vms[index];
        HomeVm* vm = home_->find(entry.name);
        if (vm == nullptr) continue;
        const auto& outcome = plan->plan.evaluation.vms[index];
        planned.push_back({vm->id, static_cast<uint32_t>((elapsed_s + outcome.away_s) * 1000),
                           static_cast<uint32_t>(outcome.downtime_ms)});
        if (chosen.count(vm->id) == 0) continue;
        move.order.push_back(planned.back());
        vm->backlog_at_alert_bytes =
            static_cast<uint64_t>(entry.unstaged_mib * static_cast<double>(kMiB));
    }
    log_.warning(std::string(joins ? "evacuation goes on: " : "evacuation begins: ") +
                 request.reason + " (" + request.event_id + "), " +
                 std::to_string(move.order.size()) + " VMs, predicted " +
                 std::to_string(elapsed_s + plan->plan.evaluation.makespan_s) + " s");
    auto acts = coordinator_->evacuate(move, now());
    EVAC_TRY(acts);
    if (!joins) {
        meter_ = {};
        meter_.wire_bytes_before = transport_->stats().bytes_sent;
    }
    meter_.predicted_makespan_s = elapsed_s + plan->plan.evaluation.makespan_s;
    if (window_s > 0 && (!joins || request.deadline_s > 0))
        meter_.deadline_s = elapsed_s + window_s;
    if (joins) {
        const Status reordered = coordinator_->reorder(planned);
        if (!reordered.ok()) execute(reordered.error());
    }
    plans_->follow(std::move(*plan));
    home_->begin_evacuation(chosen);
    send_heartbeat();
    execute(std::move(acts));
    execute(coordinator_->advance(reducer_->final_bytes_waiting(), now()));
    return {};
}

Status App::arm(const std::string& event_id, const std::string& reason) {
    link_desk_->stop("an alert came");
    auto acts = coordinator_->arm(event_id, reason, now());
    EVAC_TRY(acts);
    log_.warning("armed: " + reason + " (" + event_id + ")");
    send_heartbeat();
    execute(std::move(acts));
    return {};
}

Status App::cancel_evacuation(const std::string& event_id) {
    const auto cancelled = orders_->cancel(event_id);
    if (!cancelled.ok()) log_.error("standing order: " + cancelled.error().message());
    const bool stood = !cancelled.ok() || *cancelled;
    const std::string who = event_id.empty() ? "by the operator" : event_id;
    waits_for_.clear();
    if (const Order* other = standing_order(); stood && other != nullptr) {
        log_.warning("cancelled: " + who + ", but the order " + other->event_id + " still stands");
        return {};
    }
    const auto stage = coordinator_->stage();
    const bool moves = stage == evacuation::Stage::armed ||
                       stage == evacuation::Stage::evacuating ||
                       stage == evacuation::Stage::cancelling;
    if (stood && !moves) {  // before anything could be moved, or after all of it was
        log_.warning("cancelled: " + who);
        return {};
    }
    // What follows an order goes by the order's name or by that of a move that it has joined.
    auto acts = coordinator_->cancel(stood ? std::string() : event_id, now());
    EVAC_TRY(acts);
    log_.warning("cancelled: " + who);
    execute(std::move(acts));
    return {};
}

// What was predicted at the alert stays the prediction; only the order changes.
void App::reorder(const std::vector<std::string>& names) {
    std::map<VmId, evacuation::Turn> turns;
    for (const auto& p : coordinator_->progress(now()).vms)
        turns[p.vm] = {p.vm, p.predicted_away_ms, p.predicted_downtime_ms};
    std::vector<evacuation::Turn> order;
    for (const auto& name : names) {
        const HomeVm* vm = home_->find(name);
        if (vm != nullptr && turns.count(vm->id) != 0) order.push_back(turns[vm->id]);
    }
    const Status reordered = coordinator_->reorder(order);
    if (!reordered.ok()) execute(reordered.error());
}

// The plan's predictions beside what came, once nothing of the evacuation is under way.
void App::report_evacuation() {
    meter_.reported = true;
    if (coordinator_->stage() != evacuation::Stage::done) return;
    const Status saved = reports_->save(make_report(progress_json(*this)));
    if (!saved.ok()) log_.error("report of the evacuation: " + saved.error().message());
}

}  // namespace evac::daemon
