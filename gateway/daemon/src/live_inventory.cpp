// The planner's inventory from live measurements.
#include <algorithm>
#include <cmath>

#include "app.hpp"

namespace evac::daemon {
namespace {

constexpr double kWireRatioDefault = 0.5;

// One scale, from the passes kept: with D the mean change per interval T and W a working set
// somewhat above the largest change seen, D = W (1 - exp(-r T / W)) gives r. (Two scales, fitted
// online, are pending.)
std::vector<planner::DirtyScale> dirty_scales(const PassHistory& history) {
    double intervals_s = 0, changed_mib = 0, largest_mib = 0;
    size_t count = 0;
    const size_t begin = history.entries.size() > 8 ? history.entries.size() - 8 : 0;
    for (size_t i = begin; i < history.entries.size(); ++i) {
        const auto& entry = history.entries[i];
        if (entry.interval_s <= 0) continue;
        intervals_s += entry.interval_s;
        changed_mib += entry.changed_mib;
        largest_mib = std::max(largest_mib, entry.changed_mib);
        ++count;
    }
    if (count == 0 || changed_mib <= 0) return {};
    const double interval_s = intervals_s / static_cast<double>(count);
    const double mean_mib = changed_mib / static_cast<double>(count);
    const double working_set_mib = 1.25 * largest_mib;
    const double rate = -working_set_mib / interval_s * std::log(1 - mean_mib / working_set_mib);
    return {{working_set_mib, rate}};
}

double grown_mib(const std::vector<planner::DirtyScale>& scales, double seconds) {
    double total = 0;
    for (const auto& s : scales)
        total += s.working_set_mib * (1 - std::exp(-s.rate_mib_s * seconds / s.working_set_mib));
    return total;
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
        input.dirty = dirty_scales(vm->history);
        const double queued_mib =
            static_cast<double>(vm->flow->queued_bytes) / static_cast<double>(kMiB);
        const double since_s =
            vm->last_point_ns == 0 ? 0 : static_cast<double>(now_ns - vm->last_point_ns) / 1e9;
        input.unstaged_mib = queued_mib + grown_mib(input.dirty, since_s);
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
