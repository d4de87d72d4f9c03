#include "plan_desk.hpp"

#include <algorithm>
#include <cstdio>

namespace evac::daemon {

planner::PlanOptions daemon_plan_options() {
    planner::PlanOptions options;
    // Live passes over KVM guests are pending; a pass over the stopped guest is right everywhere.
    options.solve.forced_mode_all = planner::Mode::freeze;
    return options;
}

PlanDesk::PlanDesk(Ports ports)
    : ports_(std::move(ports)), worker_(std::make_unique<WorkerPool>(1, "planner")) {}

double PlanDesk::recent_age_s() const {
    return static_cast<double>(ports_.clock.now_ns() - recent_ns_) / 1e9;
}

void PlanDesk::tick(bool evacuating) {
    const uint64_t now_ns = ports_.clock.now_ns();
    if (!evacuating) {
        standing_.reset();
    } else if (!standing_) {
        standing_ = recent_;
    }
    if (planning_) return;
    if (standing_ && now_ns >= next_replan_ns_) {
        look_again(now_ns);
    } else if (now_ns >= next_ns_ && !standing_) {
        refresh(now_ns);
    }
}

void PlanDesk::follow(planner::PlanOutput plan) {
    if (!standing_) changes_ = nlohmann::json::array();
    standing_ = std::make_shared<const planner::PlanOutput>(std::move(plan));
    next_replan_ns_ = ports_.clock.now_ns() + kReplanNs;
    ++follows_;
}

// Has the line, a guest or a failure changed so much that another order is better?
void PlanDesk::look_again(uint64_t now_ns) {
    auto facts = std::make_shared<Evacuating>(ports_.evacuating());
    const uint64_t measured_ns = ports_.clock.now_ns() - now_ns;
    next_replan_ns_ = now_ns + std::max(kReplanNs, kMeasureShare * measured_ns);
    const auto waits = std::count(facts->progress.state.begin(), facts->progress.state.end(),
                                  planner::VmState::waiting);
    if (waits < 2) return;  // one order only
    planning_ = worker_->submit(
        [this, facts, standing = standing_, follows = follows_](size_t) -> Completion {
            auto replan = std::make_shared<Result<planner::Replan>>(
                planner::replan(facts->inventory, facts->progress,
                                {standing->inventory, standing->plan}, {}, ports_.clock));
            return [this, facts, replan, follows] {
                planning_ = false;
                if (!replan->ok()) {
                    ports_.log.warning("the rest cannot be planned again: " +
                                       replan->error().message());
                } else if ((*replan)->replaced && standing_ && follows == follows_) {
                    take(**replan, std::move(facts->inventory), facts->progress.elapsed_s);
                }
            };
        });
}

void PlanDesk::take(const planner::Replan& replan, planner::Inventory&& inventory,
                    double elapsed_s) {
    std::vector<std::string> names;
    for (const auto index : replan.plan.schedule.order) names.push_back(inventory.vms[index].name);
    ports_.reorder(names);
    char effect[160];
    std::snprintf(effect, sizeof effect,
                  "the rest takes %.1f s instead of %.1f s, weight in time %.0f instead of %.0f",
                  replan.after.makespan_s, replan.before.makespan_s, replan.after.weighted_rescued,
                  replan.before.weighted_rescued);
    const std::string text = replan.reason + ": " + effect;
    ports_.log.warning("planned again, " + text);
    if (changes_.size() == kNotesMax) changes_.erase(changes_.begin());
    changes_.push_back({{"at_s", elapsed_s},
                        {"text", text},
                        {"before",
                         {{"makespan_s", replan.before.makespan_s},
                          {"weighted_rescued", replan.before.weighted_rescued}}},
                        {"after",
                         {{"makespan_s", replan.after.makespan_s},
                          {"weighted_rescued", replan.after.weighted_rescued}}}});
    follow({std::move(inventory), replan.plan, {}});
}

void PlanDesk::refresh(uint64_t now_ns) {
    auto inventory = std::make_shared<planner::Inventory>(ports_.inventory());
    const uint64_t measured_ns = ports_.clock.now_ns() - now_ns;
    next_ns_ = now_ns + std::max(kFreshNs, kMeasureShare * measured_ns);
    if (inventory->vms.empty()) {
        recent_.reset();
        return;
    }
    planner::PlanOptions options = daemon_plan_options();
    options.solve.time_budget_ms = kPlanMs;  // an evacuation must not wait for it
    options.solve.tight_bound = false;
    planning_ = worker_->submit([this, inventory, options, now_ns](size_t) -> Completion {
        auto plan = planner::plan_from_inventory(std::move(*inventory), options, ports_.clock);
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
