#include "evac/prestage/fair_turns.hpp"

#include <algorithm>

#include "evac/prestage/round_pacing.hpp"

namespace evac::prestage {
namespace {

constexpr double kAgeFactorMax = 4;
constexpr double kWeightMin = 1e-3;

}  // namespace

double turn_weight(double priority, double least_priority, double point_age_s, double target_s) {
    const double share = share_weight(priority, least_priority);
    if (point_age_s < 0 || !(target_s > 0)) return share;
    const double late = std::clamp(point_age_s / target_s - 0.5, 0.0, 1.0);
    return share * (1 + (kAgeFactorMax - 1) * late);
}

void FairTurns::charge(Turn& turn, uint64_t bytes, double weight) const {
    turn.paid = rank(turn) + static_cast<double>(bytes) / std::max(weight, kWeightMin);
}

}  // namespace evac::prestage
