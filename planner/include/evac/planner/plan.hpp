#pragma once
// The whole job in one call, for evacctl and the daemon.
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/planner/report.hpp"
#include "evac/planner/solve.hpp"

namespace evac::planner {

// Changes to an inventory before it is planned. Names that do not exist are refused.
struct WhatIf {
    std::optional<double> goodput_mbit;
    std::optional<double> deadline_s;
    std::vector<std::string> exclude;                      // taken out; they hold nobody
    std::vector<std::pair<std::string, double>> priority;  // name, weight >= 1
};
Result<Inventory> apply(Inventory inventory, const WhatIf& what_if);

struct PlanOptions {
    WhatIf what_if;
    bool advise = false;  // also plan what would help: a few plans more
    SolveOptions solve;   // `--freeze NAME` is solve.forced_mode.push_back({NAME, Mode::freeze})
};

struct PlanOutput {
    Inventory inventory;  // after what_if
    Plan plan;
    std::vector<Advice> advice;  // with PlanOptions::advise

    // Everything goes and, where there is a deadline, is away by it. False is exit code 3.
    bool feasible() const {
        const Evaluation& e = plan.evaluation;
        return e.late == 0 && e.abandoned == 0 && e.recovery_points == 0;
    }
    std::string json() const { return plan_to_json(inventory, plan, advice); }
    std::string table() const { return plan_to_table(inventory, plan, advice); }
    std::string svg() const { return plan_to_svg(inventory, plan, advice); }
};

// invalid_argument (exit code 2): the text, the changes or the options; the context says what and
// where.
Result<PlanOutput> plan_from_text(std::string_view inventory_text, const PlanOptions& options,
                                  const Clock& clock);
Result<PlanOutput> plan_from_inventory(Inventory inventory, const PlanOptions& options,
                                       const Clock& clock);

}  // namespace evac::planner
