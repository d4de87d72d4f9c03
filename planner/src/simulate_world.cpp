#include "simulate_world.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <string_view>

namespace evac::planner::sim {
namespace {

constexpr double kSigmasMax = 3;

double exponential(Random& random, double mean) {
    return -mean * std::log1p(-random.unit());
}

// exp(error z), z standard normal (Box and Muller) within +-kSigmasMax. Two draws, always.
double misjudgement(Random& random, double error) {
    const double radius = std::sqrt(-2 * std::log1p(-random.unit()));
    const double z = radius * std::cos(2 * std::numbers::pi * random.unit());
    return std::exp(error * std::clamp(z, -kSigmasMax, kSigmasMax));
}

}  // namespace

double dirty_mib(const VmInput& vm, double activity_s) {
    if (activity_s <= 0) return 0;
    double sum = vm.disk_write_mib_s * activity_s;
    for (const DirtyScale& scale : vm.dirty) {
        const double x = scale.rate_mib_s / scale.working_set_mib * activity_s;
        sum += scale.working_set_mib * (1 - std::exp(-x));
    }
    return sum;
}

World::World(const Inventory& inventory, const Scenario& scenario, uint64_t seed)
    : scenario_(scenario), seed_(seed) {
    if (scenario.dirty_phases.mean_interval_s > 0) {
        phases_.reserve(inventory.vms.size());
        for (size_t i = 0; i < inventory.vms.size(); ++i) {
            Phase phase{stream(Purpose::phase, i)};
            phase.until_s = exponential(phase.random, scenario.dirty_phases.mean_interval_s);
            phases_.push_back(phase);
        }
    }
    draw_losses(inventory);
}

Random World::stream(Purpose purpose, uint64_t index) const {
    Random of_seed(seed_);
    Random of_purpose(of_seed.next() + static_cast<uint64_t>(purpose) * 0xd1342543de82ef95ULL);
    return Random(of_purpose.next() ^ Random(index).next());
}

void World::draw_losses(const Inventory& inventory) {
    std::map<std::string_view, std::vector<VmIndex>> on;
    for (VmIndex i = 0; i < inventory.vms.size(); ++i) {
        if (!inventory.vms[i].host.empty()) on[inventory.vms[i].host].push_back(i);
    }
    for (size_t k = 0; k < scenario_.power.size(); ++k) {
        const PowerLoss& power = scenario_.power[k];
        const double width = power.latest_s.value_or(power.at_s) - power.at_s;
        Loss loss;
        loss.at_s = power.at_s + width * stream(Purpose::power, k).unit();
        loss.site = power.hosts.empty();
        for (const std::string& host : power.hosts) {
            const std::vector<VmIndex>& vms = on[host];
            loss.vms.insert(loss.vms.end(), vms.begin(), vms.end());
        }
        losses_.push_back(std::move(loss));
    }
    if (scenario_.failures.host_probability <= 0) return;
    uint64_t k = 0;
    for (const auto& [host, vms] : on) {
        Random random = stream(Purpose::host, k++);
        if (!random.chance(scenario_.failures.host_probability)) continue;
        losses_.push_back({scenario_.failures.host_within_s * random.unit(), false, vms});
    }
}

double World::activity_s(VmIndex vm, double t) {
    if (phases_.empty()) return t;
    const DirtyPhases& law = scenario_.dirty_phases;
    Phase& phase = phases_[vm];
    while (phase.until_s <= t && phase.changes < kPhaseChangesMax) {
        phase.activity_s += phase.factor * (phase.until_s - phase.at_s);
        phase.at_s = phase.until_s;
        phase.factor =
            law.factor_min * std::pow(law.factor_max / law.factor_min, phase.random.unit());
        phase.until_s += exponential(phase.random, law.mean_interval_s);
        ++phase.changes;
    }
    return phase.activity_s + phase.factor * (t - phase.at_s);
}

double World::fails_after(VmIndex vm, int turn) const {
    if (scenario_.failures.turn_probability <= 0) return 1;
    const uint64_t index = static_cast<uint64_t>(vm) * kTurnsMax + static_cast<uint64_t>(turn);
    Random random = stream(Purpose::turn, index);
    if (!random.chance(scenario_.failures.turn_probability)) return 1;
    return random.unit();
}

double World::recovery_age_s(VmIndex vm, double t) const {
    const double interval = *scenario_.recovery_interval_s;
    return std::fmod(t + interval * stream(Purpose::recovery, vm).unit(), interval);
}

Misjudged World::misjudged(VmIndex vm) const {
    const MeasurementError& error = scenario_.measurement_error;
    Random random = stream(Purpose::measure, vm);
    Misjudged out;
    out.unstaged = misjudgement(random, error.unstaged);
    out.dirty = misjudgement(random, error.dirty);
    out.wire_ratio = misjudgement(random, error.wire_ratio);
    return out;
}

double World::misjudged_goodput() const {
    Random random = stream(Purpose::goodput, 0);
    return misjudgement(random, scenario_.measurement_error.goodput);
}

}  // namespace evac::planner::sim

namespace evac::planner {

Inventory as_measured(const Inventory& inventory, const Scenario& scenario, uint64_t seed) {
    const sim::World world(inventory, scenario, seed);
    Inventory seen = inventory;
    const auto within = [](double value) { return std::min(value, kNumberMax); };
    const auto positive = [](double value) {
        return std::clamp(value, std::numeric_limits<double>::min(), kNumberMax);
    };
    seen.link.goodput_mbit = std::clamp(inventory.link.goodput_mbit * world.misjudged_goodput(),
                                        kGoodputMbitMin, kNumberMax);
    for (VmIndex i = 0; i < seen.vms.size(); ++i) {
        VmInput& vm = seen.vms[i];
        const sim::Misjudged by = world.misjudged(i);
        vm.unstaged_mib = within(vm.unstaged_mib * by.unstaged);
        vm.wire_ratio = within(vm.wire_ratio * by.wire_ratio);
        vm.disk_write_mib_s = within(vm.disk_write_mib_s * by.dirty);
        for (DirtyScale& scale : vm.dirty) {
            scale.working_set_mib = positive(scale.working_set_mib * by.dirty);
            scale.rate_mib_s = positive(scale.rate_mib_s * by.dirty);
        }
    }
    return seen;
}

}  // namespace evac::planner
