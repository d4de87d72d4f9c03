#include <algorithm>

#include "evac/planner/replan.hpp"

namespace evac::planner {
namespace {

constexpr double kRateFactors[] = {1.25, 1.5, 2, 3, 5, 10};
constexpr double kMakespanGainMin = 0.01;

Effect effect_of(const Plan& plan) {
    return {plan.evaluation.makespan_s, plan.evaluation.weighted_rescued};
}

bool gains(const Effect& before, const Effect& after) {
    if (after.weighted_rescued > before.weighted_rescued * (1 + 1e-12)) return true;
    return after.weighted_rescued >= before.weighted_rescued * (1 - 1e-12) &&
           after.makespan_s < before.makespan_s * (1 - kMakespanGainMin);
}

bool all_out(const Plan& plan) {
    return plan.evaluation.late == 0 && plan.evaluation.abandoned == 0 &&
           plan.evaluation.recovery_points == 0;
}

// Those that a better turn would save; without any, all that move (makespan).
std::vector<VmIndex> wanting(const Plan& plan) {
    std::vector<VmIndex> missed, moving;
    for (const VmIndex i : plan.schedule.order) {
        const Miss miss = plan.reason[i].miss;
        const bool time = miss == Miss::late || miss == Miss::waits || miss == Miss::never_drains;
        if (time) missed.push_back(i);
        if (moves(plan.schedule.mode[i])) moving.push_back(i);
    }
    return missed.empty() ? moving : missed;
}

}  // namespace

std::string_view to_string(Advice::Kind kind) {
    switch (kind) {
        case Advice::Kind::bandwidth:
            return "bandwidth";
        case Advice::Kind::stage:
            return "stage";
        case Advice::Kind::freeze:
            return "freeze";
    }
    return "?";
}

Result<std::vector<Advice>> advise(const Inventory& inventory, const Plan& plan,
                                   const SolveOptions& options, const Clock& clock) {
    std::vector<Advice> out;
    const Effect before = effect_of(plan);
    SolveOptions quick = options;
    quick.tight_bound = false;
    Advice rate{Advice::Kind::bandwidth, 0, {}, before, before};
    for (const double factor : kRateFactors) {
        Inventory changed = inventory;
        changed.link.goodput_mbit = std::min(kNumberMax, changed.link.goodput_mbit * factor);
        const auto other = solve(changed, quick, clock);
        if (!other.ok()) return other.error();
        rate.goodput_mbit = changed.link.goodput_mbit;
        rate.after = effect_of(*other);
        if (all_out(*other)) break;
    }
    if (gains(before, rate.after)) out.push_back(rate);

    const std::vector<VmIndex> vms = wanting(plan);
    Inventory staged = inventory;
    for (const VmIndex i : vms) staged.vms[i].unstaged_mib /= 2;
    const auto fresher = solve(staged, quick, clock);
    if (!fresher.ok()) return fresher.error();
    if (gains(before, effect_of(*fresher))) {
        out.push_back({Advice::Kind::stage, 0, vms, before, effect_of(*fresher)});
    }

    Advice freeze{Advice::Kind::freeze, 0, {}, before, before};
    SolveOptions frozen = quick;
    for (const VmIndex i : vms) {
        if (plan.schedule.mode[i] != Mode::live && plan.reason[i].miss != Miss::never_drains)
            continue;
        freeze.vms.push_back(i);
        frozen.forced_mode.emplace_back(inventory.vms[i].name, Mode::freeze);
    }
    if (freeze.vms.empty()) return out;
    const auto stopped = solve(inventory, frozen, clock);
    if (!stopped.ok()) return stopped.error();
    freeze.after = effect_of(*stopped);
    if (gains(before, freeze.after)) out.push_back(freeze);
    return out;
}

}  // namespace evac::planner
