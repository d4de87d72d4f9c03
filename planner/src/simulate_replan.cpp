// What the gateway does every replan_interval_s: measures what is left, asks the policy again, and
// takes the new order only where it is clearly better.
#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "evac/core/clock.hpp"
#include "simulate_player.hpp"

namespace evac::planner::sim {
namespace {

constexpr double kWorkingSetMinMib = 1e-6;  // a scale that has saturated down to this is left out
constexpr uint64_t kTurnsPerVm = 20;        // effort of a re-plan, evaluated turns
constexpr uint64_t kTurnsFloor = 20'000;

bool better(const Evaluation& now, const Evaluation& than, double total_weight) {
    const double margin = kReplanMargin * total_weight;
    if (now.weighted_rescued > than.weighted_rescued + margin) return true;
    if (now.weighted_rescued < than.weighted_rescued - 1e-9 * total_weight) return false;
    if (now.abandoned != than.abandoned) return now.abandoned < than.abandoned;
    return now.makespan_s < than.makespan_s * (1 - kReplanMargin);
}

// The one place that asks for a new order; the index is that of `left`.
Result<Plan> ask_again(const Inventory& left, const Scenario& scenario, PolicyChoice policy) {
    SolveOptions options;
    options.forced_mode_all = scenario.mode;
    options.turns_max = kTurnsPerVm * left.vms.size() + kTurnsFloor;
    const ManualClock clock;  // no budget in time: the result must not depend on the machine
    return policy.rule ? plan_by_policy(left, *policy.rule, options, clock)
                       : solve(left, options, clock);
}

}  // namespace

// The backlog of now, and growth from now on: W e^-x and r e^-x, where x = r a / W after the
// guest's own time a. Seen with the same errors as the first measurement.
Inventory Player::what_is_left(const std::vector<VmIndex>& vms) {
    Inventory left;
    left.link = inventory_.link;
    const double mbit = trace_.known_rate_mib_s(now_) * 1048576.0 * 8 / 1e6;
    left.link.goodput_mbit = std::clamp(mbit * misjudged_goodput_, kGoodputMbitMin, kNumberMax);
    if (inventory_.deadline_s && *inventory_.deadline_s > now_) {
        left.deadline_s = *inventory_.deadline_s - now_;
    }
    std::unordered_set<VmIndex> there(vms.begin(), vms.end());
    for (const VmIndex i : vms) {
        VmInput vm = inventory_.vms[i];
        const Misjudged by = world_.misjudged(i);
        const double activity = world_.activity_s(i, now_);
        const double written = dirty_mib(vm, activity);
        const double pace = by.dirty * world_.factor(i);
        vm.unstaged_mib = std::min(vm.unstaged_mib * by.unstaged + written * by.dirty, kNumberMax);
        vm.wire_ratio = std::min(vm.wire_ratio * by.wire_ratio, kNumberMax);
        vm.disk_write_mib_s = std::min(vm.disk_write_mib_s * pace, kNumberMax);
        for (DirtyScale& scale : vm.dirty) {
            const double fresh = std::exp(-scale.rate_mib_s / scale.working_set_mib * activity);
            scale.working_set_mib = std::min(scale.working_set_mib * fresh * by.dirty, kNumberMax);
            scale.rate_mib_s = std::min(scale.rate_mib_s * fresh * pace, kNumberMax);
        }
        std::erase_if(vm.dirty, [](const DirtyScale& scale) {
            return !(scale.working_set_mib > kWorkingSetMinMib) || !(scale.rate_mib_s > 0);
        });
        vm.after.clear();
        for (const uint32_t p : links_.after[i]) {
            if (there.count(p) != 0) vm.after.push_back(inventory_.vms[p].name);
        }
        left.vms.push_back(std::move(vm));
    }
    return left;
}

Status Player::replan() {
    if (!under_way()) return {};
    // What stands in line now, first, then what was given up without a turn.
    std::vector<VmIndex> vms;
    std::vector<bool> listed(state_.size(), false);
    const auto list = [&](VmIndex i) {
        const Stage stage = state_[i].stage;
        const bool abandoned = stage == Stage::given_up && run_.vms[i].end == End::abandoned;
        const bool candidate = run_.vms[i].turns == 0 &&
                               (stage == Stage::waiting || stage == Stage::parked || abandoned);
        if (!candidate || listed[i]) return;
        listed[i] = true;
        vms.push_back(i);
    };
    for (const VmIndex i : first_in_line_) list(i);
    for (const VmIndex i : order_) list(i);
    if (!vms.empty()) {
        const Inventory left = what_is_left(vms);
        Schedule current;
        for (VmIndex k = 0; k < vms.size(); ++k) {
            current.order.push_back(k);
            current.mode.push_back(state_[vms[k]].mode);
        }
        auto fresh = ask_again(left, scenario_, policy_);
        if (!fresh.ok()) return fresh.error();
        // The present order can be illegal only where parking has broken it: then it is replaced.
        const auto kept = evaluate(left, current);
        const auto judged = evaluate(left, fresh->schedule);
        if (!judged.ok()) return judged.error();
        if (!kept.ok() || better(*judged, *kept, judged->weighted_total)) {
            load(fresh->schedule, vms);
            ++run_.replans_taken;
        }
        ++run_.replans;
    }
    const bool dead = timers_.empty() && !std::isfinite(next_flow_s());
    if (run_.replans < kReplansMax && waiting_ > 0 && !dead) {
        add_timer(now_ + scenario_.replan_interval_s, Kind::replan, 0);
    }
    return {};
}

}  // namespace evac::planner::sim
