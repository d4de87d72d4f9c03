#include "evac/planner/model.hpp"

#include <string>

#include "compiled.hpp"
#include "inventory_rules.hpp"

namespace evac::planner {
namespace {

struct ModeName {
    Mode mode;
    std::string_view name;
};
constexpr std::array<ModeName, 5> kModeNames{{{Mode::live, "live"},
                                              {Mode::freeze, "freeze"},
                                              {Mode::post_copy, "post-copy"},
                                              {Mode::recovery_point, "recovery-point"},
                                              {Mode::abandon, "abandon"}}};

Status check_schedule(const Inventory& inventory, const Schedule& schedule) {
    const size_t n = inventory.vms.size();
    if (schedule.order.size() != n || schedule.mode.size() != n) {
        return make_error(Errc::invalid_argument,
                          "schedule: order and modes must name every VM once");
    }
    std::vector<bool> seen(n, false);
    for (const VmIndex vm : schedule.order) {
        if (vm >= n || seen[vm]) {
            return make_error(Errc::invalid_argument, "schedule: order must name every VM once");
        }
        seen[vm] = true;
        const Mode mode = schedule.mode[vm];
        if (mode == Mode::recovery_point && !inventory.vms[vm].recovery_point_age_s) {
            return rules::refuse("mode of " + rules::shown(inventory.vms[vm].name), to_string(mode),
                                 "live, freeze, post-copy or abandon, as it has no recovery point");
        }
    }
    return {};
}

}  // namespace

std::string_view to_string(Mode mode) {
    for (const ModeName& entry : kModeNames) {
        if (entry.mode == mode) return entry.name;
    }
    return "?";
}

std::optional<Mode> mode_from(std::string_view text) {
    for (const ModeName& entry : kModeNames) {
        if (entry.name == text) return entry.mode;
    }
    return std::nullopt;
}

Result<Evaluation> evaluate(const Inventory& inventory, const Schedule& schedule) {
    EVAC_TRY(check_schedule(inventory, schedule));
    const auto after = rules::resolve_after(inventory.vms);
    if (!after.ok()) return after.error();

    const double goodput = goodput_mib_s(inventory.link);
    Evaluation out;
    out.vms.resize(inventory.vms.size());
    std::vector<bool> gone(inventory.vms.size(), false);
    double now = 0;
    for (const VmIndex i : schedule.order) {
        const VmInput& input = inventory.vms[i];
        VmOutcome& vm = out.vms[i];
        vm.mode = schedule.mode[i];
        out.weighted_total += input.priority;
        if (vm.mode == Mode::recovery_point) {
            ++out.recovery_points;
            out.weighted_recovery_point += input.priority;
        }
        if (vm.mode == Mode::abandon) ++out.abandoned;
        if (!moves(vm.mode)) continue;
        const CompiledVm compiled = compile_vm(input, goodput);
        const Turn turn = play_turn(compiled, now, passes_of(vm.mode));
        vm.start_s = now;
        now = std::min(now + turn.link_s, kTimeMaxS);
        vm.link_end_s = now;
        vm.live_passes = turn.live_passes;
        vm.bytes_mib = turn.link_s * goodput;
        const double ready = now + compiled.switchover_s;
        vm.away_s = ready;
        for (const uint32_t p : (*after)[i]) {
            if (!moves(schedule.mode[p])) continue;
            if (!gone[p]) {
                return rules::refuse("schedule: order of " + rules::shown(input.name),
                                     "before " + rules::shown(inventory.vms[p].name),
                                     "an order in which each VM comes behind those in its after");
            }
            vm.away_s = std::max(vm.away_s, out.vms[p].away_s);
        }
        gone[i] = true;
        const double stopped_s = vm.mode == Mode::post_copy ? 0 : turn.last_wire_s;
        vm.downtime_ms = (stopped_s + compiled.switchover_s + (vm.away_s - ready)) * 1000;
        vm.meets_deadline = !inventory.deadline_s || vm.away_s <= *inventory.deadline_s;
        vm.meets_downtime_limit = vm.downtime_ms <= input.max_downtime_ms * (1 + 1e-12);
        out.makespan_s = std::max(out.makespan_s, vm.away_s);
        out.downtime_total_ms += vm.downtime_ms;
        if (vm.meets_deadline) out.weighted_rescued += input.priority;
        if (!vm.meets_deadline) ++out.late;
    }
    return out;
}

}  // namespace evac::planner
