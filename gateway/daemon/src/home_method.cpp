// Which way each of our VMs is captured.
#include <algorithm>

#include "home_service.hpp"

namespace evac::daemon {
namespace {

using prestage::CaptureMethod;

constexpr uint64_t kHeatLookNs = 180 * kNsPerSecond;
constexpr double kLiveMibS = 128;      // of a continuous round after its first pass
constexpr double kLiveRpoShare = 0.5;  // of the RPO target: so long it stays open
constexpr double kLiveMinS = 5;

double live_s(double rpo_target_s) {
    return std::max(kLiveMinS, kLiveRpoShare * rpo_target_s);
}

}  // namespace

// What is impossible was refused by the examination; after a reattachment in a handover it is not
// asked again, and the method of before stays.
void HomeService::choose_method(HomeVm& vm) {
    auto choice = prestage::choose_method(
        {vm.examined.facts, vm.examined.mapping_refused, vm.capture_wanted, vm.hot});
    if (!choice.ok()) {
        ports_.log.warning("vm " + vm.name + ": " + choice.error().message());
        return;
    }
    const bool news = vm.choice.why.empty() || vm.choice.method != choice->method;
    vm.choice = std::move(*choice);
    if (news) {
        ports_.log.info("vm " + vm.name + ": captured by method " + to_string(vm.choice.method) +
                        ": " + vm.choice.why);
    }
}

void HomeService::look_at_heat(HomeVm& vm, uint64_t now_ns) {
    if (vm.phase != VmPhase::active || vm.busy || vm.dirty_model.empty() || evacuating_) return;
    if (vm.method_looked_ns != 0 && now_ns - vm.method_looked_ns < kHeatLookNs) return;
    vm.method_looked_ns = now_ns;
    prestage::HeatInputs in;
    in.memory_mib = static_cast<double>(vm.examined.facts.memory_bytes) / static_cast<double>(kMiB);
    in.round_interval_s = ports_.config.prestage.interval_s;
    if (!vm.history.entries.empty()) in.round_interval_s += vm.history.entries.back().duration_s;
    if (vm.choice.method == CaptureMethod::continuous)
        in.round_interval_s = ports_.config.prestage.interval_s;
    in.live_s = live_s(rpo_target_s(vm));
    in.live_mib_s = kLiveMibS;
    in.was_hot = vm.hot;
    const bool hot = prestage::is_hot(vm.dirty_terms, in);
    if (hot == vm.hot) return;
    vm.hot = hot;
    choose_method(vm);
}

// A continuous round keeps a worker for as long as it is open: one at a time, and another worker
// must be left for rounds and last passes. Who cannot have it gets a round of the next best kind.
void HomeService::set_method(PassRequest& request, HomeVm& vm) {
    request.method = vm.choice.method;
    if (request.method == CaptureMethod::continuous) {
        const bool another = std::any_of(vms_.begin(), vms_.end(), [&](const auto& entry) {
            return entry.second.get() != &vm && entry.second->busy &&
                   entry.second->choice.method == CaptureMethod::continuous;
        });
        if (another || vm.failures != 0 || ports_.workers.idle() < 2 || evacuating_) {
            request.method = vm.examined.facts.background_snapshot ? CaptureMethod::sealed
                                                                   : CaptureMethod::stopped;
        }
    }
    request.epoch = next_epoch(vm);
    if (request.method == CaptureMethod::mapped) {
        // Its scans may bring a page three times (to measure, live, stopped), each in an epoch of
        // its own.
        next_epoch(vm);
        next_epoch(vm);
    }
    if (request.method != CaptureMethod::continuous) return;
    request.epochs = prestage::kPrecopyEpochs;
    request.live_limit_ms = static_cast<int>(live_s(rpo_target_s(vm)) * 1000);
    request.live_bandwidth = static_cast<uint64_t>(kLiveMibS) * kMiB;
    // The range is persisted as used up before a page of it goes out.
    vm.epoch += request.epochs - 2;
    next_epoch(vm);
}

}  // namespace evac::daemon
