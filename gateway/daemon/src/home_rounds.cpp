// When rounds run, and what becomes of them.
#include <algorithm>
#include <cmath>
#include <ctime>

#include "home_service.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kSealPatienceNs = 120 * kNsPerSecond;
// QEMU's own thread works as long on a stream as ours does.
constexpr double kStreamCpuFactor = 2;
constexpr double kWireRatioDefault = 0.5;
constexpr uint64_t kSharesNs = kNsPerSecond;  // between looks at who gets what share
constexpr double kGuaranteedShare = 0.5;      // of the queues' room; who comes first has the rest
constexpr double kRatioBytesMin = 1e6;        // fewer say nothing about it
constexpr uint32_t kFailuresMax = 5;          // passes in a row, then the VM is examined anew

double thread_cpu_s() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

double age_s(uint64_t now_ns, uint64_t then_ns) {
    return then_ns == 0 ? -1 : static_cast<double>(now_ns - then_ns) / 1e9;
}

double wire_ratio(uint64_t raw_bytes, uint64_t wire_bytes) {
    if (static_cast<double>(raw_bytes) < kRatioBytesMin) return kWireRatioDefault;
    return std::clamp(static_cast<double>(wire_bytes) / static_cast<double>(raw_bytes), 0.01, 1.1);
}

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
        if (vm->phase == VmPhase::syncing && !vm->busy && ports_.link.up() &&
            now_ns - vm->sync_heard_ns > kSealPatienceNs) {
            ports_.log.warning("vm " + vm->name + ": the peer does not tell what it has; again");
            ++vm->generation;
            offer(*vm);
        }
    }
    for (auto& [id, vm] : vms_) {
        look_at_heat(*vm, now_ns);
        // Last passes do not wait for a continuous round to grow old.
        if (urgent_ && vm->busy && vm->examined.capture) vm->examined.capture->seal_now = true;
        pump_acts(*vm);
    }
    share_out();
    schedule_rounds();
    const auto stage = ports_.coordinator.stage();
    const bool over = stage == evacuation::Stage::idle || stage == evacuation::Stage::done ||
                      stage == evacuation::Stage::cancelled;
    if (over) evacuating_ = false;
    const bool urgent = stage == evacuation::Stage::armed || stage == evacuation::Stage::evacuating;
    if (urgent != urgent_) ports_.reducer.command(to_reducer::Urgent{urgent});
    urgent_ = urgent;
}

void HomeService::observe_rpo(HomeVm& vm) const {
    const auto* handover = ports_.coordinator.find(vm.id);
    const bool gone = vm.phase == VmPhase::moved || (handover != nullptr && handover->away_runs());
    if (gone) return vm.rpo_record.stop();
    const double age = rpo_s(vm);
    vm.rpo_record.observe(ports_.clock.now_ns(),
                          age < 0 ? std::nullopt : std::optional<double>(age), rpo_target_s(vm));
}

// Shares of the line and of the queues' room: by priority, of the line also by the points' age.
void HomeService::share_out() {
    const uint64_t now_ns = ports_.clock.now_ns();
    if (now_ns < next_shares_ns_) return;
    next_shares_ns_ = now_ns + kSharesNs;
    for (auto& [id, vm] : vms_) observe_rpo(*vm);
    double least = INFINITY, sum = 0;
    for (const auto& [id, vm] : vms_) least = std::min(least, vm->priority);
    const auto holds = [](const HomeVm& vm) { return vm.phase == VmPhase::active; };
    for (const auto& [id, vm] : vms_) {
        if (holds(*vm)) sum += prestage::share_weight(vm->priority, least);
    }
    auto& budget = ports_.reducer.budget();
    const double guaranteed = kGuaranteedShare * static_cast<double>(budget.budget_pages());
    // Shares that shrink make room for those that grow.
    for (const bool grow : {false, true}) {
        for (const auto& [id, vm] : vms_) {
            const double share = prestage::share_weight(vm->priority, least) / std::max(sum, 1.0);
            const auto pages = holds(*vm) ? static_cast<uint64_t>(guaranteed * share) : 0;
            if ((pages > budget.guaranteed_pages(vm->flow->account)) == grow)
                budget.guarantee(vm->flow->account, pages);
            vm->flow->weight.store(
                prestage::turn_weight(vm->priority, least, rpo_s(*vm), rpo_target_s(*vm)),
                std::memory_order_relaxed);
        }
    }
}

void HomeService::schedule_rounds() {
    const uint64_t now_ns = ports_.clock.now_ns();
    if (!ports_.link.up() || now_ns < next_ask_ns_) return;
    // In an evacuation only first copies are made, and not in the way of the last passes.
    const size_t idle_needed = evacuating_ ? 2 : 1;
    while (ports_.workers.idle() >= idle_needed) {
        const auto next = pacing_.next(paced_vms(now_ns), pacing_now(now_ns));
        next_ask_ns_ = next.ask_again_ns;
        HomeVm* vm = next.vm ? find(*next.vm) : nullptr;
        if (vm == nullptr || !start_round(*vm, next.kind)) return;
    }
}

// What is known of every VM whose rounds may run.
std::vector<prestage::PacedVm> HomeService::paced_vms(uint64_t now_ns) const {
    std::vector<prestage::PacedVm> out;
    for (const auto& [id, vm] : vms_) {
        const auto* handover = ports_.coordinator.find(id);
        if (vm->phase != VmPhase::active || handover == nullptr || !handover->may_prestage())
            continue;
        prestage::PacedVm paced;
        paced.vm = id;
        paced.priority = vm->priority;
        paced.rpo_target_s = rpo_target_s(*vm);
        paced.point_age_s = vm->sealed_once() ? std::max(rpo_s(*vm), 0.0) : -1;
        paced.pass_age_s = age_s(now_ns, vm->last_start_ns);
        paced.ready = !vm->busy && raw(vm->awaiting) == 0;
        paced.last_incomplete = vm->last_incomplete;
        paced.can_refresh = vm->choice.method == prestage::CaptureMethod::mapped &&
                            vm->examined.mapping_refused.empty();
        paced.measured = !vm->dirty_model.empty();
        paced.dirty = vm->dirty_terms;
        paced.seal_s = vm->seal_time.safe();
        paced.refresh_s = vm->refresh_time.safe();
        paced.drain_s = vm->drain_time.safe();
        paced.cpu_s = vm->cpu_time.typical();
        paced.pause_s = vm->pause_time.typical();
        out.push_back(std::move(paced));
    }
    return out;
}

prestage::PacingNow HomeService::pacing_now(uint64_t now_ns) const {
    const auto& budget = ports_.reducer.budget();
    uint64_t raw_bytes = 0, wire_bytes = 0;
    for (const auto& [id, vm] : vms_) {
        raw_bytes += vm->flow->raw_bytes;
        wire_bytes += vm->flow->wire_bytes;
    }
    prestage::PacingNow now;
    now.now_ns = now_ns;
    now.link_bytes_per_s = line_bytes_per_s_;
    now.waiting_bytes = budget.used_pages() * kPageBytes;
    now.queue_bytes = budget.budget_pages() * kPageBytes;
    now.wire_ratio = wire_ratio(raw_bytes, wire_bytes);
    now.first_copies_only = evacuating_;
    return now;
}

double HomeService::drain_s(const HomeVm& vm) const {
    const double wire_bytes = static_cast<double>(vm.flow->queued_bytes) *
                              wire_ratio(vm.flow->raw_bytes, vm.flow->wire_bytes);
    return line_bytes_per_s_ > 0 ? wire_bytes / line_bytes_per_s_ : -1;
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

bool HomeService::start_round(HomeVm& vm, prestage::RoundKind kind) {
    PassRequest request;
    request.vm = vm.id;
    request.generation = vm.generation;
    set_method(request, vm);
    request.account = vm.flow->account;
    request.kind = kind == prestage::RoundKind::refresh ? PassKind::refresh : PassKind::seal;
    request.tag = vm.name;
    const JobContext context = job_context();
    RoundRun run{ports_.clock.now_ns(), 0, kind};
    auto capture = vm.examined.capture;
    const bool live = vm.examined.facts.background_snapshot;
    const bool submitted = ports_.workers.submit(
        [this, context, request, capture, live, run](size_t worker) mutable -> Completion {
            request.lane = worker;
            const double before_s = thread_cpu_s();
            auto result =
                std::make_shared<Result<PassResult>>(run_pass(context, *capture, live, request));
            run.cpu_s = thread_cpu_s() - before_s;
            return [this, request, result, run] {
                round_done(request.vm, request.generation, std::move(*result), run);
            };
        });
    if (!submitted) return false;
    vm.busy = true;
    // A continuous round is open for long and costs little: it is not one of those at once.
    if (request.method != prestage::CaptureMethod::continuous)
        pacing_.started(vm.id, vm.cpu_time.typical());
    return true;
}

void HomeService::round_done(VmId id, uint32_t generation, Result<PassResult> result,
                             const RoundRun& run) {
    const uint64_t now_ns = ports_.clock.now_ns();
    const uint64_t started_ns = run.started_ns;
    const bool refresh = run.kind == prestage::RoundKind::refresh;
    const double took_s = static_cast<double>(now_ns - started_ns) / 1e9;
    // QEMU works beside us when it streams its memory.
    const bool streamed = !result.ok() || !prestage::uses_mapping(result->round.method);
    const double cpu_s = run.cpu_s * (refresh || !streamed ? 1 : kStreamCpuFactor);
    pacing_.finished(id, cpu_s);
    next_ask_ns_ = 0;
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
    if (vm->examined.mapping_refused.empty() && !vm->examined.capture->mapped) {
        vm->examined.mapping_refused = "its mapped memory was lost";
        choose_method(*vm);
    }
    if (!result.ok()) {
        vm->last_incomplete = false;  // not at once again
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
    vm->last_incomplete = result->cut_short();
    vm->detail.clear();
    remember_round(*vm, *result, run, {interval_s, took_s, cpu_s});
    if (vm->lost_in_pass) {  // its point can not be completed, and away would not say so
        begin_sync(*vm);
        run_next(id);
        return;
    }
    if (!refresh && result->complete) {
        vm->last_point_ns = started_ns;
        vm->awaiting = result->round.epoch;
        vm->awaiting_since_ns = now_ns;
        vm->awaiting_point_unix_ms = result->point_unix_ms;
        vm->seal_sent = false;
    }
    run_next(id);
}

void HomeService::remember_round(HomeVm& vm, const PassResult& result, const RoundRun& run,
                                 const RoundTimes& times) {
    PassHistory::Entry entry;
    entry.interval_s = times.interval_s;
    entry.changed_mib =
        static_cast<double>((result.round.pages_changed + result.disk_pages_changed) * kPageBytes) /
        static_cast<double>(kMiB);
    entry.pause_ms = static_cast<double>(result.round.pause_ns) / 1e6;
    entry.pause_upper_ms = static_cast<double>(result.round.pause_upper_ns) / 1e6;
    entry.duration_s = times.took_s;
    entry.kind = run.kind;
    vm.history.add(entry);
    const bool refresh = run.kind == prestage::RoundKind::refresh;
    if (!refresh) vm.pause_time.add(entry.pause_ms / 1000);
    if (vm.sealed_once()) {
        (refresh ? vm.refresh_time : vm.seal_time).add(times.took_s);
        vm.cpu_time.add(times.cpu_s);
    }
    // A refresh brings no disks: what they wrote since the last seal is spread over that time.
    const double disk_mib =
        static_cast<double>(result.disk_pages_changed * kPageBytes) / static_cast<double>(kMiB);
    if (!refresh) {
        const double since_s = age_s(run.started_ns, vm.last_seal_start_ns);
        if (since_s > 0) vm.disk_rate_mib_s = disk_mib / since_s;
        vm.last_seal_start_ns = run.started_ns;
    }
    vm.dirty_model.add(entry.interval_s,
                       entry.changed_mib - disk_mib + vm.disk_rate_mib_s * entry.interval_s);
    vm.dirty_terms =
        vm.dirty_model.fit(static_cast<double>(vm.total_bytes()) / static_cast<double>(kMiB));
}

void HomeService::on_seal_result(const protocol::SealResult& m) {
    HomeVm* vm = find(m.vm);
    if (vm == nullptr) return;
    ports_.reducer.command(to_reducer::SealAnswered{m.vm, m.epoch});
    if (vm->awaiting != m.epoch) return;
    vm->awaiting = Epoch{};
    next_ask_ns_ = 0;
    if (m.ok) {
        // A first copy says nothing of what later ones take.
        if (vm->sealed_once())
            vm->drain_time.add(age_s(ports_.clock.now_ns(), vm->awaiting_since_ns));
        note_sealed(*vm, m.epoch);
        vm->sealed = m.epoch;
        vm->sealed_point_unix_ms = vm->awaiting_point_unix_ms;
        observe_rpo(*vm);
        return;
    }
    ports_.log.warning("vm " + vm->name + ": the peer could not seal: " + m.reason +
                       "; synchronising again");
    vm->detail = "the peer could not seal: " + m.reason;
    if (vm->phase == VmPhase::active) begin_sync(*vm);
}

}  // namespace evac::daemon
