// The acts of a handover that home does, and how jobs take their turns on one VM.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "home_service.hpp"

namespace evac::daemon {

using evacuation::Act;
using evacuation::ActKind;
using evacuation::HomeEventKind;

namespace {

constexpr uint64_t kDrainPatienceNs =
    60 * kNsPerSecond;  // for the copy to be synchronised, with a link

}  // namespace

void HomeService::with_capture(HomeVm& vm, std::function<Completion(CaptureSet&, size_t)> body) {
    const VmId id = vm.id;
    auto start = [this, id, body = std::move(body)](HomeVm& idle) {
        idle.busy = true;
        auto capture = idle.examined.capture;
        const bool submitted =
            ports_.workers.submit([this, id, capture, body](size_t worker) -> Completion {
                Completion then = body(*capture, worker);
                return [this, id, then] {
                    HomeVm* found = find(id);
                    if (found != nullptr) found->busy = false;
                    if (then) then();
                    run_next(id);
                };
            });
        if (!submitted) {
            idle.busy = false;
            ports_.log.error("vm " + idle.name + ": no worker takes the job");
        }
    };
    if (vm.busy || !waiting_[id].empty()) {
        waiting_[id].push_back(std::move(start));
    } else {
        start(vm);
    }
}

void HomeService::run_next(VmId id) {
    HomeVm* vm = find(id);
    const auto queue = waiting_.find(id);
    if (vm == nullptr || vm->busy || queue == waiting_.end() || queue->second.empty()) return;
    auto start = std::move(queue->second.front());
    queue->second.pop_front();
    if (queue->second.empty()) waiting_.erase(queue);
    if (vm->examined.capture) start(*vm);
}

void HomeService::answer(const Act& act, HomeEventKind kind, const std::string& text, Epoch epoch) {
    if (HomeVm* vm = find(act.vm)) vm->act_running = false;
    ports_.execute(
        ports_.coordinator.handle(act.vm, evacuation::answer(act, kind, epoch, text), now()));
    if (HomeVm* vm = find(act.vm)) pump_acts(*vm);
}

void HomeService::begin_evacuation(const std::set<VmId>& chosen) {
    evacuating_ = true;
    for (const VmId id : chosen) {
        HomeVm* vm = find(id);
        if (vm == nullptr) continue;
        vm->wire_at_alert_bytes = vm->flow->wire_bytes;
        // A round that is half-way is of no use now; its pages stay queued.
        if (vm->busy && vm->examined.capture) vm->examined.capture->cancel = true;
    }
}

// Acts of one VM happen one after the other, in the order in which they were issued; one that
// cannot happen yet (the VM is not reachable after a restart, its copy is not synchronised) holds
// back those behind it.
void HomeService::execute(const Act& act) {
    HomeVm* vm = find(act.vm);
    if (vm == nullptr) {
        ports_.log.error("handover act for a VM that is not here");
        return;
    }
    if (act.kind == ActKind::send_final) {
        vm->final_epoch = act.epoch;
        ports_.reducer.command(
            to_reducer::AllowFinal{act.vm, act.epoch, evacuation::raw(act.handover)});
        return;
    }
    if (act.kind == ActKind::stop_capture) {
        std::erase_if(vm->acts, [](const Act& a) {
            return a.kind == ActKind::capture_final || a.kind == ActKind::start_drain;
        });
        vm->drain_waits_since_ns = 0;
        if (vm->busy && vm->examined.capture) vm->examined.capture->cancel = true;
        ports_.reducer.command(to_reducer::FinalMode{act.vm, false, 0});
        forget_unsealed(*vm);
        return;
    }
    vm->acts.push_back(act);
    pump_acts(*vm);
}

void HomeService::pump_acts(HomeVm& vm) {
    if (vm.act_running || vm.acts.empty()) return;
    const Act act = vm.acts.front();
    const auto& capture = vm.examined.capture;
    const bool reachable = capture && capture->client && capture->client->usable() &&
                           vm.phase != VmPhase::offline && vm.phase != VmPhase::enrolling;
    if (!reachable && vm.socket_dead) {
        vm.acts.pop_front();
        if (act.kind == ActKind::destroy_source) {
            moved_away(vm);
            return answer(act, HomeEventKind::source_destroyed);
        }
        return answer(act, HomeEventKind::guest_gone, "nobody listens on its QMP socket");
    }
    const bool needs_copy = act.kind == ActKind::capture_final;
    if (act.kind == ActKind::start_drain) {
        if (drain_must_wait(vm)) return;
    } else if (!reachable || (needs_copy && vm.phase != VmPhase::active)) {
        return;
    }
    vm.acts.pop_front();
    vm.act_running = true;
    switch (act.kind) {
        case ActKind::start_drain:
            return act_drain(act, vm);
        case ActKind::stop_guest:
            return act_stop(act, vm);
        case ActKind::capture_final:
            return act_capture(act, vm);
        case ActKind::resume_guest:
            ports_.reducer.command(to_reducer::FinalMode{act.vm, false, 0});
            forget_unsealed(vm);
            return act_resume(act, vm);
        case ActKind::destroy_source:
            return act_destroy(act, vm);
        default:
            vm.act_running = false;
            ports_.log.error(std::string("home cannot do ") + evacuation::to_string(act.kind));
    }
}

// After a restart or a new session the copy is synchronised first: a turn that failed for that
// would be wasted. Time without a link does not count, a refused VM does not wait.
bool HomeService::drain_must_wait(HomeVm& vm) const {
    const uint64_t now_ns = ports_.clock.now_ns();
    if (vm.drain_waits_since_ns == 0 || !ports_.link.up()) vm.drain_waits_since_ns = now_ns;
    const bool over = vm.phase == VmPhase::active || vm.phase == VmPhase::refused ||
                      vm.phase == VmPhase::moved ||
                      now_ns - vm.drain_waits_since_ns > kDrainPatienceNs;
    if (over) vm.drain_waits_since_ns = 0;
    return !over;
}

// A round under way is read to its end (prestage says why) before the guest is stopped for good.
void HomeService::act_drain(const Act& act, HomeVm& vm) {
    if (vm.phase != VmPhase::active) {
        return answer(act, HomeEventKind::drain_failed,
                      "its copy is not synchronised (" + std::string(to_string(vm.phase)) + ")");
    }
    if (vm.busy) vm.examined.capture->cancel = true;
    with_capture(vm, [this, act](CaptureSet&, size_t) -> Completion {
        return [this, act] { answer(act, HomeEventKind::drained); };
    });
}

void HomeService::act_stop(const Act& act, HomeVm& vm) {
    with_capture(vm, [this, act](CaptureSet& set, size_t) -> Completion {
        auto status = std::make_shared<Status>(stop_guest(set));
        return [this, act, status] {
            if (status->ok()) return answer(act, HomeEventKind::guest_stopped);
            answer(act, HomeEventKind::stop_failed, status->error().message());
        };
    });
}

void HomeService::act_capture(const Act& act, HomeVm& vm) {
    PassRequest request;
    request.vm = vm.id;
    request.generation = vm.generation;
    request.epoch = next_epoch(vm);
    request.account = vm.flow->account;
    request.kind = PassKind::final_pass;
    request.method = vm.choice.method;
    request.tag = vm.name;
    ports_.reducer.command(
        to_reducer::FinalMode{vm.id, true, static_cast<uint32_t>(now().ns / 1'000'000)});
    const JobContext context = job_context();
    with_capture(
        vm, [this, act, request, context](CaptureSet& set, size_t worker) mutable -> Completion {
            request.lane = worker;
            auto result = std::make_shared<Result<PassResult>>(make_error(Errc::internal, ""));
            const auto begin_ns = context.clock.now_ns();
            const Status ready = make_capturable(set);
            if (ready.ok()) {
                *result = run_pass(context, set, false, request);
            } else {
                *result = ready.error();
            }
            const double took_s = static_cast<double>(context.clock.now_ns() - begin_ns) / 1e9;
            return [this, act, request, result, took_s] {
                if (!result->ok())
                    return answer(act, HomeEventKind::capture_failed, result->error().message());
                if (!(*result)->complete)
                    return answer(act, HomeEventKind::capture_failed, "pages had to be dropped");
                if (HomeVm* found = find(request.vm)) {
                    found->final_pass_s = took_s;
                    found->final_changed_mib = static_cast<double>(((*result)->round.pages_changed +
                                                                    (*result)->disk_pages_changed) *
                                                                   kPageBytes) /
                                               static_cast<double>(kMiB);
                    if (found->generation != request.generation) {
                        return answer(act, HomeEventKind::capture_failed,
                                      "the session to the peer was lost meanwhile");
                    }
                }
                answer(act, HomeEventKind::captured, {}, request.epoch);
            };
        });
}

void HomeService::act_resume(const Act& act, HomeVm& vm) {
    with_capture(vm, [this, act](CaptureSet& set, size_t) -> Completion {
        auto status = std::make_shared<Status>(resume_guest(set));
        return [this, act, status] {
            if (status->ok()) return answer(act, HomeEventKind::guest_resumed);
            answer(act, HomeEventKind::resume_failed, status->error().message());
        };
    });
}

// A round whose seal had not gone out when the final pass took its place: rounds go on without it.
void HomeService::forget_unsealed(HomeVm& vm) {
    if (!vm.seal_sent) vm.awaiting = Epoch{};
}

// Its pages are the landed guest's now: other VMs' pages may not refer to them any more.
void HomeService::moved_away(HomeVm& vm) {
    vm.phase = VmPhase::moved;
    ports_.reducer.command(to_reducer::CloseContent{vm.id});
    ports_.reducer.command(to_reducer::ResetVm{vm.id, ++vm.generation});
}

void HomeService::act_destroy(const Act& act, HomeVm& vm) {
    with_capture(vm, [this, act](CaptureSet& set, size_t) -> Completion {
        auto status = std::make_shared<Status>(destroy_guest(set));
        return [this, act, status] {
            if (!status->ok())
                return answer(act, HomeEventKind::destroy_failed, status->error().message());
            if (HomeVm* found = find(act.vm)) {
                moved_away(*found);
                found->detail = "runs at " + ports_.config.peer_site;
            }
            answer(act, HomeEventKind::source_destroyed);
        };
    });
}

}  // namespace evac::daemon
