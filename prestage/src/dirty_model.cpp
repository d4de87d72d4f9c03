#include "evac/prestage/dirty_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace evac::prestage {
namespace {

constexpr double kTauMinS = 0.05;
constexpr double kTauMaxS = 1e5;
constexpr size_t kGrid = 48;               // time constants tried, a factor of 1.36 apart
constexpr double kErrorFloorMib = 0.5;     // relative errors below this size mean nothing
constexpr double kGuessWorkingSet = 1.25;  // of what an interval wrote, where samples leave it open
constexpr double kGuessWeight = 0.01;      // of one sample: decides only what samples do not
constexpr double kAlike = 2;               // intervals within this factor of each other
constexpr double kGoodEnough = 0.05;       // relative error at which one scale will do
constexpr double kNothingMib = 1e-6;

struct Weighted {
    double interval_s, changed_mib, weight;
};

struct Fit {
    double error = INFINITY;
    std::array<double, 2> w{}, tau{1, 1};
};

// 1 - exp(-interval / tau) of each sample, for one tau.
struct Column {
    double tau = 1;
    std::vector<double> grown;
};

double grown(double tau_s, double seconds) {
    return -std::expm1(-seconds / tau_s);
}

// Least squares of one or two amplitudes that may not be negative.
Fit solve(const std::vector<Weighted>& samples, const Column& x, const Column* y, double cap_mib) {
    double a11 = 0, a12 = 0, a22 = 0, b1 = 0, b2 = 0;
    for (size_t i = 0; i < samples.size(); ++i) {
        const Weighted& s = samples[i];
        const double gy = y == nullptr ? 0 : y->grown[i];
        a11 += s.weight * x.grown[i] * x.grown[i];
        a12 += s.weight * x.grown[i] * gy;
        a22 += s.weight * gy * gy;
        b1 += s.weight * x.grown[i] * s.changed_mib;
        b2 += s.weight * gy * s.changed_mib;
    }
    Fit fit;
    fit.tau = {x.tau, y == nullptr ? 1 : y->tau};
    const double det = a11 * a22 - a12 * a12;
    const bool two = y != nullptr && det > 1e-9 * a11 * a22;
    if (two) fit.w = {(b1 * a22 - b2 * a12) / det, (b2 * a11 - b1 * a12) / det};
    if (!two || fit.w[0] <= 0 || fit.w[1] <= 0) fit.w = {a11 > 0 ? b1 / a11 : 0, 0};
    for (double& w : fit.w) w = std::clamp(w, 0.0, cap_mib);
    fit.error = 0;
    for (size_t i = 0; i < samples.size(); ++i) {
        const double e = fit.w[0] * x.grown[i] + (y == nullptr ? 0 : fit.w[1] * y->grown[i]) -
                         samples[i].changed_mib;
        fit.error += samples[i].weight * e * e;
    }
    return fit;
}

double tau_at(size_t i) {
    const double share = static_cast<double>(i) / (kGrid - 1);
    return kTauMinS * std::pow(kTauMaxS / kTauMinS, share);
}

std::vector<Weighted> weighted(const std::deque<std::pair<double, double>>& newest_first) {
    std::vector<Weighted> out;
    double recency = 1;
    for (const auto& [interval_s, changed_mib] : newest_first) {
        const double size = std::max(changed_mib, kErrorFloorMib);
        out.push_back({interval_s, changed_mib, recency / (size * size)});
        recency *= std::exp2(-1 / DirtyModel::kHalfLife);
    }
    // The guess, as a sample far away; intervals that differ tell by themselves how it goes on.
    const auto [least, most] = std::minmax_element(newest_first.begin(), newest_first.end());
    if (most->first < kAlike * least->first) {
        const double now = std::max(newest_first.front().second, kErrorFloorMib);
        out.push_back({1e9, kGuessWorkingSet * now, kGuessWeight / (now * now)});
    }
    return out;
}

}  // namespace

double dirty_mib(const std::vector<DirtyTerm>& terms, double seconds) {
    double total = 0;
    for (const DirtyTerm& t : terms)
        total += t.working_set_mib * grown(t.working_set_mib / t.rate_mib_s, seconds);
    return total;
}

void DirtyModel::add(double interval_s, double changed_mib) {
    if (!std::isfinite(interval_s) || !std::isfinite(changed_mib) || interval_s <= 0 ||
        changed_mib < 0)
        return;
    if (samples_.size() == kSamplesMax) samples_.pop_front();
    samples_.push_back({interval_s, changed_mib});
}

std::vector<DirtyTerm> DirtyModel::fit(double memory_mib) const {
    if (samples_.empty() || !(memory_mib > 0)) return {};
    std::deque<std::pair<double, double>> newest_first;
    for (const Sample& s : samples_) newest_first.emplace_front(s.interval_s, s.changed_mib);
    const std::vector<Weighted> data = weighted(newest_first);
    std::array<Column, kGrid> columns;
    for (size_t i = 0; i < kGrid; ++i) {
        columns[i].tau = tau_at(i);
        for (const Weighted& d : data)
            columns[i].grown.push_back(grown(columns[i].tau, d.interval_s));
    }
    Fit one, two;
    for (size_t i = 0; i < kGrid; ++i) {
        const Fit fit = solve(data, columns[i], nullptr, memory_mib);
        if (fit.error < one.error) one = fit;
        for (size_t j = i + 2; j < kGrid; ++j) {
            const Fit pair = solve(data, columns[i], &columns[j], memory_mib);
            if (pair.error < two.error) two = pair;
        }
    }
    double recency = 0;
    for (const Weighted& d : data)
        recency += d.weight * std::pow(std::max(d.changed_mib, kErrorFloorMib), 2);
    const bool one_will_do =
        one.error < kGoodEnough * kGoodEnough * recency || two.error > kSecondScaleGain * one.error;
    const Fit& best = one_will_do ? one : two;
    std::vector<DirtyTerm> terms;
    for (size_t k = 0; k < 2; ++k) {
        if (best.w[k] > kNothingMib) terms.push_back({best.w[k], best.w[k] / best.tau[k]});
    }
    return terms;
}

}  // namespace evac::prestage
