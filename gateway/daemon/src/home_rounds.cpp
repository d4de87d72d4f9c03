// When rounds run, and what becomes of them.
#include <algorithm>

#include "home_service.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kSealPatienceNs = 120 * kNsPerSecond;
constexpr size_t kRoundsAtOnce = 1;
constexpr double kRpoShare =
    0.6;  // of the RPO target: an older copy is refreshed before any other work
constexpr uint32_t kFailuresMax = 5;  // passes in a row, then the VM is examined anew

}  // namespace

void HomeService::tick() {
    const uint64_t now_ns = ports_.clock.now_ns();
    for (auto& [id, vm] : vms_) {
        const bool due = !vm->busy && now_ns >= vm->retry_ns;
        const bool refused_here = vm->phase == VmPhase::refused && !vm->examined.capture;
        if (due && (vm->phase == VmPhase::offline || (refused_here && !urgent_))) connect(*vm);
        if (due && vm->phase == VmPhase::refused && vm->examined.capture && !urgent_) offer(*vm);
        if (vm->phase == VmPhase::active && raw(vm->awaiting) != 0 && vm->seal_sent &&
            ports_.link.up() && now_ns - vm->awaiting_since_ns > kSealPatienceNs) {
            ports_.log.warning("vm " + vm->name +
                               ": the peer does not answer a seal; synchronising again");
            begin_sync(*vm);
        }
    }
    for (auto& [id, vm] : vms_) pump_acts(*vm);
    schedule_rounds();
    const auto stage = ports_.coordinator.stage();
    const bool over = stage == evacuation::Stage::idle || stage == evacuation::Stage::done ||
                      stage == evacuation::Stage::cancelled;
    if (over) evacuating_ = false;
    const bool urgent = stage == evacuation::Stage::armed || stage == evacuation::Stage::evacuating;
    if (urgent != urgent_) ports_.reducer.command(to_reducer::Urgent{urgent});
    urgent_ = urgent;
}

void HomeService::schedule_rounds() {
    const uint64_t now_ns = ports_.clock.now_ns();
    if (!ports_.link.up() || now_ns < next_round_ns_) return;
    // In an evacuation only first copies are made, and not in the way of the last passes.
    const size_t idle_needed = evacuating_ ? 2 : 1;
    while (rounds_running_ < kRoundsAtOnce && ports_.workers.idle() >= idle_needed) {
        HomeVm* vm = next_due(now_ns);
        if (vm == nullptr) return;
        start_round(*vm);
    }
}

HomeVm* HomeService::next_due(uint64_t now_ns) {
    const auto interval_ns = static_cast<uint64_t>(ports_.config.prestage.interval_s *
                                                   static_cast<double>(kNsPerSecond));
    const auto& budget = ports_.reducer.budget();
    HomeVm* best = nullptr;
    double best_worth = 0;
    for (auto& [id, vm] : vms_) {
        if (vm->phase != VmPhase::active || vm->busy || raw(vm->awaiting) != 0) continue;
        if (evacuating_ && vm->sealed_once()) continue;
        const auto* handover = ports_.coordinator.find(id);
        if (handover == nullptr || !handover->may_prestage()) continue;
        // After a pass that did not fit, the next begins when most of the queue has gone.
        if (vm->last_incomplete && budget.used_pages() * 4 > budget.budget_pages()) continue;
        if (!vm->last_incomplete && vm->last_start_ns != 0 &&
            now_ns - vm->last_start_ns < interval_ns)
            continue;
        const double worth = round_worth(*vm, now_ns);
        if (best != nullptr && worth <= best_worth) continue;
        best = vm.get();
        best_worth = worth;
    }
    return best;
}

// What a round of this VM would take off the evacuation, per second of this host's work: bytes
// written since its last point by the time that a round takes. A copy that nears its RPO target
// goes first, the stalest before all.
double HomeService::round_worth(const HomeVm& vm, uint64_t now_ns) const {
    const double age_s =
        vm.last_point_ns == 0 ? 1e6 : static_cast<double>(now_ns - vm.last_point_ns) / 1e9;
    if (age_s > kRpoShare * ports_.config.prestage.rpo_target_s || vm.history.entries.empty())
        return 1e9 + age_s;
    const auto& last = vm.history.entries.back();
    const double rate_mib_s = last.interval_s > 0 ? last.changed_mib / last.interval_s : 1;
    return age_s * (rate_mib_s + 0.01) / std::max(last.duration_s, 0.01);
}

Epoch HomeService::next_epoch(HomeVm& vm) {
    ++vm.epoch;
    if (vm.epoch >= vm.epoch_reserved) {
        vm.epoch_reserved = vm.epoch + kEpochsReserved;
        const Status saved = save(vm);
        if (!saved.ok()) ports_.log.error("registry: " + saved.error().message());
    }
    return Epoch{vm.epoch};
}

void HomeService::start_round(HomeVm& vm) {
    vm.busy = true;
    ++rounds_running_;
    PassRequest request;
    request.vm = vm.id;
    request.generation = vm.generation;
    request.epoch = next_epoch(vm);
    request.tag = vm.name;
    const JobContext context = job_context();
    const uint64_t started_ns = ports_.clock.now_ns();
    auto capture = vm.examined.capture;
    const bool live = vm.examined.facts.background_snapshot;
    const bool submitted = ports_.workers.submit(
        [this, context, request, capture, live, started_ns](size_t worker) mutable -> Completion {
            request.lane = worker;
            auto result =
                std::make_shared<Result<PassResult>>(run_pass(context, *capture, live, request));
            return [this, request, result, started_ns] {
                round_done(request.vm, request.generation, std::move(*result), started_ns);
            };
        });
    if (!submitted) {
        vm.busy = false;
        --rounds_running_;
    }
}

void HomeService::round_done(VmId id, uint32_t generation, Result<PassResult> result,
                             uint64_t started_ns) {
    --rounds_running_;
    const uint64_t now_ns = ports_.clock.now_ns();
    const uint64_t took_ns = now_ns - started_ns;
    bool first_staging = false;
    for (const auto& [other_id, other] : vms_)
        first_staging = first_staging || (other->phase == VmPhase::active && !other->sealed_once());
    const double share = first_staging ? std::max(0.8, ports_.config.prestage.cpu_share)
                                       : ports_.config.prestage.cpu_share;
    const double rest = share >= 1 ? 0 : static_cast<double>(took_ns) * (1 / share - 1);
    next_round_ns_ = now_ns + static_cast<uint64_t>(rest);
    HomeVm* vm = find(id);
    if (vm == nullptr) return;
    vm->busy = false;
    const double interval_s =
        vm->last_start_ns == 0 ? 0 : static_cast<double>(started_ns - vm->last_start_ns) / 1e9;
    vm->last_start_ns = started_ns;
    if (vm->generation != generation || vm->phase != VmPhase::active) {
        run_next(id);
        return;
    }
    if (!result.ok()) {
        vm->detail = result.error().message();
        if (result.error().code != Errc::cancelled) {
            ports_.log.warning("vm " + vm->name + ": round failed: " + vm->detail);
            ++vm->failures;
        }
        const bool gone = !vm->examined.capture->client->usable();
        if (gone || vm->failures >= kFailuresMax) lose_vm(*vm, vm->detail);
        run_next(id);
        return;
    }
    vm->failures = 0;
    vm->last_incomplete = !result->complete;
    vm->detail.clear();
    PassHistory::Entry entry;
    entry.interval_s = interval_s;
    entry.changed_mib =
        static_cast<double>((result->round.pages_changed + result->disk_pages_changed) *
                            kPageBytes) /
        static_cast<double>(kMiB);
    entry.pause_ms = static_cast<double>(result->round.pause_ns) / 1e6;
    entry.pause_upper_ms = static_cast<double>(result->round.pause_upper_ns) / 1e6;
    entry.duration_s = static_cast<double>(took_ns) / 1e9;
    vm->history.add(entry);
    vm->dirty_model.add(entry.interval_s, entry.changed_mib);
    vm->dirty_terms =
        vm->dirty_model.fit(static_cast<double>(vm->total_bytes()) / static_cast<double>(kMiB));
    if (result->complete) {
        vm->last_point_ns = started_ns;
        vm->awaiting = result->round.epoch;
        vm->awaiting_since_ns = now_ns;
        vm->awaiting_point_unix_ms = result->point_unix_ms;
        vm->seal_sent = false;
    }
    run_next(id);
}

void HomeService::on_seal_result(const protocol::SealResult& m) {
    HomeVm* vm = find(m.vm);
    if (vm == nullptr) return;
    ports_.reducer.command(to_reducer::SealAnswered{m.vm, m.epoch});
    if (vm->awaiting != m.epoch) return;
    vm->awaiting = Epoch{};
    if (m.ok) {
        note_sealed(*vm, m.epoch);
        vm->sealed = m.epoch;
        vm->sealed_point_unix_ms = vm->awaiting_point_unix_ms;
        return;
    }
    ports_.log.warning("vm " + vm->name + ": the peer could not seal: " + m.reason +
                       "; synchronising again");
    vm->detail = "the peer could not seal: " + m.reason;
    if (vm->phase == VmPhase::active) begin_sync(*vm);
}

}  // namespace evac::daemon
