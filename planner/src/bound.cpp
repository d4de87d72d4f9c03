#include "bound.hpp"

#include <algorithm>

#include "relaxation.hpp"

namespace evac::planner {
namespace {

constexpr int kBracketSteps = 18;
constexpr size_t kSwitchoverSets = 8;
constexpr double kRounding = 1e-9;
constexpr double kEnough = 1e-3;  // a gap that nobody can act on

int passes_at(const CompiledVm& vm, double start_s, int passes_max) {
    return play_turn(vm, start_s, passes_max).live_passes;
}

double ratio(const Line& line) {
    return line.b > 0 ? line.a / line.b : std::numeric_limits<double>::infinity();
}

struct Member {
    Line line;
    double switchover_s;
};

// End of the members with switchover >= threshold, in the given (a/b) order.
double end_of(const std::vector<Member>& members, double threshold, double cap) {
    double end = 0;
    for (const Member& m : members) {
        if (m.switchover_s < threshold) continue;
        end += m.line.a + m.line.b * end;
        if (end > cap) return cap;
    }
    return end;
}

}  // namespace

Line line_below(const CompiledVm& vm, int passes_max, double horizon_s) {
    const double a = turn_link_s(vm, 0, passes_max);
    if (!(horizon_s > 0)) return {a, 0};
    double slope = (turn_link_s(vm, horizon_s, passes_max) - a) / horizon_s;
    const int last = passes_at(vm, horizon_s, passes_max);
    double from = 0;
    for (int level = passes_at(vm, 0, passes_max); level < last; ++level) {
        double lo = from, hi = horizon_s;  // passes(lo) <= level < passes(hi)
        for (int step = 0; step < kBracketSteps; ++step) {
            const double mid = lo + (hi - lo) / 2;
            (passes_at(vm, mid, passes_max) <= level ? lo : hi) = mid;
        }
        slope = std::min(slope, (turn_link_s(vm, lo, passes_max) - a) / hi);
        from = lo;
    }
    return {a, std::max(slope, 0.0)};
}

double secant_lower_bound(const Compiled& model, std::span<const uint32_t> going,
                          std::span<const int> passes_max, double known_s) {
    if (going.empty()) return 0;
    std::vector<Member> members;
    std::vector<double> switchovers;
    members.reserve(going.size());
    for (const uint32_t i : going) {
        const CompiledVm& vm = model.vm(i);
        members.push_back({line_below(vm, passes_max[i], known_s), vm.switchover_s});
        switchovers.push_back(vm.switchover_s);
    }
    std::stable_sort(members.begin(), members.end(), [](const Member& x, const Member& y) {
        return ratio(x.line) < ratio(y.line);
    });
    std::sort(switchovers.begin(), switchovers.end());
    double best = 0;
    for (size_t k = 0; k < kSwitchoverSets; ++k) {  // quantiles: the least, ..., the greatest
        const double threshold = switchovers[(switchovers.size() - 1) * k / (kSwitchoverSets - 1)];
        best = std::max(best, end_of(members, threshold, known_s) + threshold);
    }
    for (const Member& m : members) best = std::max(best, m.line.a + m.switchover_s);
    return std::min(best * (1 - kRounding), known_s);
}

double makespan_lower_bound(const Compiled& model, std::span<const uint32_t> order,
                            std::span<const int> passes_max, double known_s, bool tight,
                            const Clock& clock) {
    const double secant = secant_lower_bound(model, order, passes_max, known_s);
    if (!tight || order.empty() || secant >= known_s * (1 - kEnough)) return secant;
    Effort effort(clock);
    Sequencer sequencer(model, passes_max, effort);
    Relaxation relaxation(sequencer, order, known_s);
    double switchover = std::numeric_limits<double>::infinity();
    for (const uint32_t i : order) switchover = std::min(switchover, model.vm(i).switchover_s);
    relaxation.improve(sequencer.end_of(order, 0), kEnough);
    const double bound = (relaxation.link_bound_s() + switchover) * (1 - kRounding);
    return std::min(known_s, std::max(secant, bound));
}

}  // namespace evac::planner
