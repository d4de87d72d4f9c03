// The planner's inventory from live measurements.
#include <algorithm>

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
        const double since_s =
            vm->last_point_ns == 0 ? 0 : static_cast<double>(now_ns - vm->last_point_ns) / 1e9;
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

}  // namespace evac::daemon
