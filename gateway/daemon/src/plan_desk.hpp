#pragma once
// Plans beside the control thread: planning for very many VMs takes a second, and the state
// machines must not wait for it. One worker; the control thread measures (the inventory) and takes
// the result.
//
// Idle: every kFreshNs, or rarer when measuring is dear: "if the alert came now".
// Evacuating: every kReplanNs: is another order better than the one that is being followed?
//
// Owner: the control thread.
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"
#include "evac/planner/plan.hpp"
#include "evac/planner/replan.hpp"
#include "worker_pool.hpp"

namespace evac::daemon {

// What the daemon does at an evacuation, as options of the planner.
planner::PlanOptions daemon_plan_options();

class PlanDesk {
  public:
    static constexpr uint64_t kFreshNs = 3'000'000'000;
    static constexpr uint64_t kMeasureShare = 50;  // measuring takes at most 1/50 of this thread

    static constexpr double kPlanMs = 2000;
    static constexpr uint64_t kReplanNs = 2'000'000'000;
    static constexpr size_t kNotesMax = 100;  // the newest changes of an order

    // An evacuation as it stands: what has not moved yet, measured now.
    struct Evacuating {
        planner::Inventory inventory;
        planner::Progress progress;
    };
    struct Ports {
        std::function<planner::Inventory()> inventory;
        std::function<Evacuating()> evacuating;
        // Turns that have not begun follow this order from now on.
        std::function<void(const std::vector<std::string>& names)> reorder;
        const Clock& clock;
        Logger& log;
    };
    explicit PlanDesk(Ports ports);

    int completions_fd() const { return worker_->completions_fd(); }
    void run_completions() { worker_->run_completions(); }
    void tick(bool evacuating);
    // `plan` is what the evacuation follows; a plan of its own is made when none is given (a daemon
    // that was started anew).
    void follow(planner::PlanOutput plan);
    // Changes of its order, oldest first: {"at_s", "text", and before and after: "makespan_s",
    // "weighted_rescued"}.
    const nlohmann::json& changes() const { return changes_; }
    void stop() { worker_.reset(); }

    // The newest plan of all VMs that could move; null before the first and without VMs.
    const planner::PlanOutput* recent() const { return recent_ ? recent_.get() : nullptr; }
    double recent_age_s() const;

  private:
    void refresh(uint64_t now_ns);
    void look_again(uint64_t now_ns);
    void take(const planner::Replan& replan, planner::Inventory&& inventory, double elapsed_s);

    Ports ports_;
    std::unique_ptr<WorkerPool> worker_;
    bool planning_ = false;
    std::shared_ptr<const planner::PlanOutput> recent_;
    uint64_t recent_ns_ = 0;  // of its measurements
    uint64_t next_ns_ = 0;
    std::shared_ptr<const planner::PlanOutput> standing_;  // null: no evacuation is followed
    uint64_t next_replan_ns_ = 0;
    uint64_t follows_ = 0;  // plans followed so far: an answer about an older one is void
    nlohmann::json changes_ = nlohmann::json::array();
    std::string refused_;  // why planning failed, to say it once
};

}  // namespace evac::daemon
