#include "plan_desk.hpp"

#include <algorithm>

namespace evac::daemon {

planner::SolveOptions daemon_solve_options() {
    planner::SolveOptions options;
    // Live passes over KVM guests are pending; a pass over the stopped guest is right everywhere.
    options.forced_mode_all = planner::Mode::freeze;
    return options;
}

PlanDesk::PlanDesk(Ports ports)
    : ports_(std::move(ports)), worker_(std::make_unique<WorkerPool>(1, "planner")) {}

double PlanDesk::recent_age_s() const {
    return static_cast<double>(ports_.clock.now_ns() - recent_ns_) / 1e9;
}

void PlanDesk::tick() {
    const uint64_t now_ns = ports_.clock.now_ns();
    if (!planning_ && now_ns >= next_ns_) refresh(now_ns);
}

void PlanDesk::refresh(uint64_t now_ns) {
    auto inventory = std::make_shared<planner::Inventory>(ports_.inventory());
    const uint64_t measured_ns = ports_.clock.now_ns() - now_ns;
    next_ns_ = now_ns + std::max(kFreshNs, kMeasureShare * measured_ns);
    if (inventory->vms.empty()) {
        recent_.reset();
        return;
    }
    planning_ = worker_->submit([this, inventory, now_ns](size_t) -> Completion {
        auto plan = planner::plan_from_inventory(std::move(*inventory),
                                                 {{}, daemon_solve_options()}, ports_.clock);
        auto shared = std::make_shared<Result<planner::PlanOutput>>(std::move(plan));
        return [this, shared, now_ns] {
            planning_ = false;
            if (shared->ok()) {
                recent_ = std::make_shared<const planner::PlanOutput>(std::move(**shared));
                recent_ns_ = now_ns;
                refused_.clear();
                return;
            }
            recent_.reset();
            const std::string why = shared->error().message();
            if (why != refused_) ports_.log.warning("the evacuation cannot be planned: " + why);
            refused_ = why;
        };
    });
}

}  // namespace evac::daemon
