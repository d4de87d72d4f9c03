// The acts of a handover that away does, and how jobs take their turns on one VM.
#include <filesystem>

#include "away_service.hpp"
#include "evac/protocol/device_state.hpp"
#include "landing_jobs.hpp"

namespace evac::daemon {

using evacuation::Act;
using evacuation::ActKind;
using evacuation::AwayEventKind;

void AwayService::with_vm(AwayVm& vm, std::function<void(AwayVm&)> start) {
    if (vm.busy) {
        vm.waiting.push_back(std::move(start));
        return;
    }
    vm.busy = true;
    start(vm);
}

void AwayService::finish(VmId id) {
    AwayVm* vm = find(id);
    if (vm == nullptr) return;
    vm->busy = false;
    if (vm->waiting.empty()) return;
    auto start = std::move(vm->waiting.front());
    vm->waiting.pop_front();
    vm->busy = true;
    start(*vm);
}

void AwayService::answer(const Act& act, AwayEventKind kind, const std::string& text) {
    if (!text.empty()) ports_.log.warning("landing: " + text);
    ports_.execute(ports_.desk.handle(act.vm, evacuation::answer(act, kind, text),
                                      evacuation::Now::of(ports_.clock)));
}

void AwayService::execute(const Act& act) {
    AwayVm* vm = find(act.vm);
    if (vm == nullptr) {
        ports_.log.error("landing act for a VM that is not staged here");
        return;
    }
    switch (act.kind) {
        case ActKind::prepare_landing:
            return with_vm(*vm, [this, act](AwayVm& idle) { act_prepare(act, idle); });
        case ActKind::run_landing:
            return with_vm(*vm, [this, act](AwayVm& idle) { act_run(act, idle); });
        case ActKind::cancel_landing:
            return with_vm(*vm, [this, act](AwayVm& idle) { act_cancel(act, idle); });
        case ActKind::adopt_vm: {
            vm->adopted = true;
            const Status saved = save(*vm);
            if (!saved.ok())
                ports_.log.error("record of vm " + vm->name + ": " + saved.error().message());
            ports_.ingest.command(to_ingest::Close{vm->id});
            ports_.log.info("vm " + vm->name + " is this site's own now");
            return;
        }
        default:
            ports_.log.error(std::string("away cannot do ") + evacuation::to_string(act.kind));
    }
}

void AwayService::act_prepare(const Act& act, AwayVm& vm) {
    const VmId id = vm.id;
    if (!vm.open) {
        answer(act, AwayEventKind::landing_refused, "its staged copy is not open: " + vm.detail);
        return finish(id);
    }
    if (!vm.lander) {
        auto lander = make_lander(vm);
        if (!lander.ok()) {
            answer(act, AwayEventKind::landing_refused, lander.error().message());
            return finish(id);
        }
        vm.lander = *lander;
    }
    ports_.workers.submit(
        [this, id, act, lander = vm.lander, facts = vm.facts](size_t) -> Completion {
            auto outcome = std::make_shared<std::string>();
            const bool there =
                (lander->monitor() != nullptr && lander->run_state().ok()) || lander->attach().ok();
            const Status ready = there ? Status() : lander->launch();
            if (!ready.ok()) {
                *outcome = ready.error().message();
            } else {
                auto text = differences(*lander, facts, ports_.clock, ports_.log);
                *outcome = text.ok() ? *text : text.error().message();
            }
            return [this, id, act, outcome] {
                if (outcome->empty()) {
                    answer(act, AwayEventKind::landing_prepared);
                } else {
                    answer(act, AwayEventKind::landing_refused, *outcome);
                }
                finish(id);
            };
        });
}

// The files become QEMU's before anything may write to them; then device state is fetched, loaded,
// and the guest runs.
void AwayService::act_run(const Act& act, AwayVm& vm) {
    const VmId id = vm.id;
    if (!vm.lander) {
        auto lander = make_lander(vm);
        if (!lander.ok()) return fail_run(act, vm, lander.error().message());
        vm.lander = *lander;
    }
    if (!vm.open) return fail_run(act, vm, "its staged copy is not open: " + vm.detail);
    vm.on_landed = [this, act, id](const Status& status) {
        AwayVm* found = find(id);
        if (found == nullptr) return;
        if (!status.ok()) return fail_run(act, *found, status.error().message());
        found->on_state = [this, act, id](Result<Bytes> state) {
            AwayVm* ready = find(id);
            if (ready == nullptr) return;
            if (!state.ok()) return fail_run(act, *ready, state.error().message());
            load_and_run(act, *ready, std::move(*state));
        };
        ports_.ingest.command(to_ingest::LoadState{id});
    };
    ports_.ingest.command(to_ingest::MarkLanded{id});
}

void AwayService::fail_run(const Act& act, AwayVm& vm, const std::string& text) {
    const VmId id = vm.id;
    ports_.workers.submit(
        [this, id, act, text, lander = vm.lander, dir = dir_of(id)](size_t) -> Completion {
            const LandingOutcome outcome = end_landing(lander.get(), dir, text);
            return [this, id, act, outcome] {
                answer(act, outcome.kind, outcome.text);
                finish(id);
            };
        });
}

void AwayService::load_and_run(const Act& act, AwayVm& vm, Bytes packed) {
    const VmId id = vm.id;
    auto blob = protocol::unpack_device_state(packed);
    if (!blob.ok()) return fail_run(act, vm, blob.error().message());
    std::vector<landing::SmallBlock> blocks;
    for (size_t i = 0; i < vm.regions.size(); ++i) {
        if (vm.regions[i].kind == RegionKind::small_ram) {
            blocks.push_back({vm.regions[i].name, vm.files[i], vm.regions[i].bytes});
        }
    }
    auto state = std::make_shared<landing::LandingState>();
    state->ram_section_id = blob->ram_section_id;
    state->prefix = std::move(blob->prefix);
    state->tail = std::move(blob->tail);
    ports_.workers.submit(
        [this, id, act, state, blocks, lander = vm.lander, dir = dir_of(id)](size_t) -> Completion {
            const LandingOutcome outcome = land(*lander, dir, *state, blocks, act.paused);
            return [this, id, act, outcome] {
                answer(act, outcome.kind, outcome.text);
                finish(id);
            };
        });
}

void AwayService::act_cancel(const Act& act, AwayVm& vm) {
    const VmId id = vm.id;
    auto lander = vm.lander;
    if (!lander) {
        auto made = make_lander(vm);
        if (made.ok()) lander = *made;
    }
    ports_.workers.submit([this, id, act, lander](size_t) -> Completion {
        auto status = std::make_shared<Status>(lander ? lander->kill() : Status());
        return [this, id, act, status] {
            AwayVm* found = find(id);
            if (found == nullptr) return;
            if (!status->ok()) {
                // Still alive: it must not be forgotten. The act comes again with the next tick of
                // the machine.
                ports_.log.error("vm " + found->name +
                                 ": its landing cannot be ended: " + status->error().message());
                return finish(id);
            }
            found->lander.reset();
            const bool may_have_run = std::filesystem::exists(marker_of(dir_of(id)));
            found->on_landed = [this, act, id, may_have_run](const Status& unmarked) {
                AwayVm* given_back = find(id);
                if (given_back == nullptr) return;
                if (!unmarked.ok()) {
                    // The act comes again; after a restart the copy is opened or staged anew first.
                    ports_.log.error(
                        "vm " + given_back->name +
                        ": its copy cannot be given back: " + unmarked.error().message());
                    return finish(id);
                }
                if (may_have_run) {
                    given_back->sealed = {};
                    given_back->point_unix_ms = 0;
                    std::error_code error;
                    std::filesystem::remove(marker_of(dir_of(id)), error);
                }
                answer(act, AwayEventKind::landing_cancelled);
                finish(id);
            };
            ports_.ingest.command(to_ingest::UnmarkLanded{id, may_have_run});
        };
    });
}

}  // namespace evac::daemon
