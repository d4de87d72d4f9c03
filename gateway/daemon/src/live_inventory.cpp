// The planner's inventory from live measurements.
#include <algorithm>
#include <map>

#include "app.hpp"

namespace evac::daemon {
namespace {

constexpr double kWireRatioDefault = 0.5;

std::vector<planner::DirtyScale> scales(const std::vector<prestage::DirtyTerm>& terms) {
    std::vector<planner::DirtyScale> out;
    for (const auto& t : terms) out.push_back({t.working_set_mib, t.rate_mib_s});
    return out;
}

}  // namespace

planner::Inventory App::inventory() const {
    planner::Inventory inventory;
    const auto stats = transport_->stats();
    inventory.link.goodput_mbit = goodput_mbit_ > 1
                                      ? std::min(goodput_mbit_, config_.wan.ceiling_mbit)
                                      : config_.wan.ceiling_mbit;
    inventory.link.rtt_ms = static_cast<double>(stats.rtt_smoothed_ns) / 1e6;
    const double window_s = coordinator_->stage() == evacuation::Stage::evacuating
                                ? meter_.deadline_s
                                : config_.evacuation.window_s;
    if (window_s > 0) inventory.deadline_s = window_s;
    const uint64_t now_ns = clock_.now_ns();
    for (const auto& [id, vm] : home_->vms()) {
        if (vm->phase == VmPhase::refused || vm->phase == VmPhase::moved || vm->regions().empty())
            continue;
        planner::VmInput input;
        input.name = vm->name;
        input.memory_mib =
            static_cast<double>(vm->examined.facts.memory_bytes) / static_cast<double>(kMiB);
        input.priority = vm->priority;
        input.dirty = scales(vm->dirty_terms);
        const double queued_mib =
            static_cast<double>(vm->flow->queued_bytes) / static_cast<double>(kMiB);
        // A refresh makes the copy fresher, too, unless it was cut short.
        const uint64_t fresh_ns = vm->last_incomplete
                                      ? vm->last_point_ns
                                      : std::max(vm->last_point_ns, vm->last_start_ns);
        const double since_s =
            vm->last_point_ns == 0 ? 0 : static_cast<double>(now_ns - fresh_ns) / 1e9;
        input.unstaged_mib = queued_mib + prestage::dirty_mib(vm->dirty_terms, since_s);
        if (!vm->sealed_once()) input.unstaged_mib = std::max(input.unstaged_mib, input.memory_mib);
        const double raw_bytes = static_cast<double>(vm->flow->raw_bytes);
        input.wire_ratio =
            raw_bytes < 1e6
                ? kWireRatioDefault
                : std::clamp(static_cast<double>(vm->flow->wire_bytes) / raw_bytes, 0.01, 1.1);
        input.max_downtime_ms = vm->max_downtime_ms;
        input.switchover_ms = switchover_ms(*vm);
        inventory.vms.push_back(std::move(input));
    }
    return inventory;
}

double App::prestage_bytes_per_s() const {
    double mbit = goodput_mbit_ > 1 ? std::min(goodput_mbit_, config_.wan.ceiling_mbit) : 0;
    const double ceiling_mbit = config_.prestage.ceiling_mbit;
    if (ceiling_mbit > 0) mbit = mbit > 0 ? std::min(mbit, ceiling_mbit) : ceiling_mbit;
    return mbit * 1e6 / 8;
}

PlanDesk::Evacuating App::evacuating() const {
    const auto progress = coordinator_->progress(now());
    std::map<std::string, planner::VmState> states;
    for (const auto& p : progress.vms) {
        const HomeVm* vm = home_->find(p.vm);
        if (vm == nullptr) continue;
        if (p.outcome == evacuation::Outcome::waiting) {
            states[vm->name] = planner::VmState::waiting;
        } else if (p.outcome == evacuation::Outcome::moving) {
            states[vm->name] = p.state == evacuation::State::draining ? planner::VmState::in_flight
                                                                      : planner::VmState::frozen;
        }
    }
    PlanDesk::Evacuating out;
    out.inventory = inventory();
    // Who is away, came back or is stuck is not the plan's any more; nobody waits for him.
    std::erase_if(out.inventory.vms,
                  [&](const planner::VmInput& vm) { return states.count(vm.name) == 0; });
    for (const auto& vm : out.inventory.vms) out.progress.state.push_back(states[vm.name]);
    out.progress.elapsed_s =
        std::max(0.0, static_cast<double>(clock_.wall_unix_ms() - progress.since_unix_ms) / 1000);
    return out;
}

}  // namespace evac::daemon
