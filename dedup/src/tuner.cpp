#include "evac/dedup/tuner.hpp"

#include <algorithm>
#include <cmath>

#include "evac/core/assert.hpp"

namespace evac::dedup {

namespace {

// Light to heavy. Prior: seconds and wire bytes per byte of content, as measured on mixed content
// (bench_partial_dedup); only their proportions matter once one setting was measured.
struct Setting {
    Effort effort;
    const char* name;
    double prior_cpu;
    double prior_wire;
};
constexpr double kNs = 1e-9;
constexpr std::array<Setting, kSettings> kTable{{
    {{false, false, false, 1}, "zero", 0.12 * kNs, 1.0},
    {{true, false, false, 1}, "references", 0.4 * kNs, 0.72},
    {{true, true, false, 1}, "similar", 0.9 * kNs, 0.60},
    {{true, true, true, -5}, "zstd -5", 1.9 * kNs, 0.28},
    {{true, true, true, -1}, "zstd -1", 2.2 * kNs, 0.25},
    {{true, true, true, 1}, "zstd 1", 2.6 * kNs, 0.225},
    {{true, true, true, 3}, "zstd 3", 3.4 * kNs, 0.22},
    {{true, true, true, 6}, "zstd 6", 7.5 * kNs, 0.215},
    {{true, true, true, 9}, "zstd 9", 11.0 * kNs, 0.212},
}};
constexpr size_t kUnknownLink = 1;  // until the rate is known: little CPU, few bytes
constexpr double kPriorWeight = 512.0 * 1024;
constexpr double kHalfLife = 64.0 * 1024 * 1024;  // of content, over all settings
constexpr double kExploreShare = 0.015;           // of the time to drain
constexpr uint64_t kSolveEvery = 8;
constexpr double kSlowMachine = 6;    // against the one of the priors
constexpr uint64_t kFirstTouch = 96;  // batches, 6 MiB of content
constexpr double kStarvedSmoothing = 1.0 / 32;
constexpr double kStarvedMost = 0.9;  // a mix that fits finds the link starved about half the time
constexpr double kGainUp = 1.05;
constexpr double kGainDown = 0.9;
constexpr double kGainMax = 4096;

}  // namespace

const Effort& effort_of(size_t setting) {
    EVAC_ASSERT(setting < kSettings);
    return kTable[setting].effort;
}

const char* name_of(size_t setting) {
    EVAC_ASSERT(setting < kSettings);
    return kTable[setting].name;
}

ReductionTuner::ReductionTuner() {
    estimate();
}

void ReductionTuner::record(size_t setting, uint64_t content_bytes, uint64_t wire_bytes,
                            uint64_t cpu_ns) {
    EVAC_ASSERT(setting < kSettings);
    double cpu_s = static_cast<double>(cpu_ns) * kNs;
    // The first batches touch the tables' memory for the first time, which costs many times what
    // a setting does: theirs is believed up to a factor for a slow machine.
    if (recorded_ < kFirstTouch) {
        ++recorded_;
        cpu_s = std::min(
            cpu_s, kSlowMachine * kTable[setting].prior_cpu * static_cast<double>(content_bytes));
    }
    const double took_s = std::max(cpu_s, static_cast<double>(wire_bytes) / rate_);
    took_s_ += took_s;
    if (exploring_) explored_s_ += took_s;
    if (content_bytes == 0) return;
    const auto content = static_cast<double>(content_bytes);
    const double keep = std::exp2(-content / kHalfLife);
    for (Evidence& one : evidence_) {
        one.content *= keep;
        one.cpu_s *= keep;
        one.wire *= keep;
    }
    evidence_[setting].content += content;
    evidence_[setting].cpu_s += cpu_s;
    evidence_[setting].wire += static_cast<double>(wire_bytes);
}

// What was measured, weighed against the prior scaled by how the nearest measured setting compares
// with its own prior: content that is harder than the priors' is harder for all settings.
void ReductionTuner::estimate() {
    for (size_t i = 0; i < kSettings; ++i) {
        double weight = 0;
        double cpu_scale = 0;
        double wire_scale = 0;
        for (size_t j = 0; j < kSettings; ++j) {
            const Evidence& from = evidence_[j];
            if (from.content < 1) continue;
            const double distance = std::abs(static_cast<double>(i) - static_cast<double>(j));
            const double nearness = from.content / (1 + distance * distance * distance);
            weight += nearness;
            cpu_scale += nearness * from.cpu_s / from.content / kTable[j].prior_cpu;
            wire_scale += nearness * from.wire / from.content / kTable[j].prior_wire;
        }
        const double cpu = kTable[i].prior_cpu * (weight > 0 ? cpu_scale / weight : 1);
        const double wire = kTable[i].prior_wire * (weight > 0 ? wire_scale / weight : 1);
        const Evidence& own = evidence_[i];
        estimates_[i].cpu = (own.cpu_s + cpu * kPriorWeight) / (own.content + kPriorWeight);
        estimates_[i].wire = (own.wire + wire * kPriorWeight) / (own.content + kPriorWeight);
    }
}

double ReductionTuner::seconds(size_t setting, double bytes_per_s) const {
    return std::max(estimates_[setting].cpu, estimates_[setting].wire / bytes_per_s);
}

void ReductionTuner::solve(double bytes_per_s) {
    TunedMix best;
    best.seconds_per_byte = seconds(0, bytes_per_s);
    for (size_t i = 1; i < kSettings; ++i) {
        const double alone = seconds(i, bytes_per_s);
        if (alone < best.seconds_per_byte) best = TunedMix{i, i, 0, alone};
    }
    // A setting that waits for the link with one that waits for the CPU: the share x of the latter
    // at which both take equally long.
    for (size_t i = 0; i < kSettings; ++i) {
        const double link_i = estimates_[i].wire / bytes_per_s - estimates_[i].cpu;
        if (link_i <= 0) continue;
        for (size_t j = 0; j < kSettings; ++j) {
            const double link_j = estimates_[j].wire / bytes_per_s - estimates_[j].cpu;
            if (link_j >= 0) continue;
            const double x = link_i / (link_i - link_j);
            const double both = (1 - x) * estimates_[i].cpu + x * estimates_[j].cpu;
            if (both < best.seconds_per_byte) best = TunedMix{i, j, x, both};
        }
    }
    mix_ = best;
}

// A neighbour of what is in use, when learning has not had its share of the time yet. What does
// badly stays unmeasured for longer, as its batches take more of the share.
size_t ReductionTuner::explore_candidate() {
    const size_t low = std::min(mix_.light, mix_.heavy);
    const size_t high = std::max(mix_.light, mix_.heavy);
    try_heavier_ = !try_heavier_;
    size_t candidate = try_heavier_ ? high + 1 : low - 1;
    if (candidate >= kSettings) return kSettings;  // also below 0
    const double batch_s = seconds(candidate, rate_) * static_cast<double>(kBatchLiteralBytesMax);
    if (explored_s_ + batch_s > kExploreShare * took_s_) return kSettings;
    return candidate;
}

size_t ReductionTuner::choose(const LinkState& link) {
    exploring_ = false;
    if (link.bytes_per_s <= 0) return kUnknownLink;
    starved_ += ((link.starved ? 1.0 : 0.0) - starved_) * kStarvedSmoothing;
    gain_ = std::clamp(gain_ * (starved_ > kStarvedMost ? kGainUp : kGainDown), 1.0, kGainMax);
    if (chosen_++ % kSolveEvery == 0) {
        estimate();
        rate_ = link.bytes_per_s * gain_;
        solve(rate_);
        const size_t candidate = explore_candidate();
        if (candidate < kSettings) {
            exploring_ = true;
            ++explored_;
            return candidate;
        }
    }
    owed_to_heavy_ += mix_.heavy_share;
    if (owed_to_heavy_ < 1 - 1e-9) return mix_.light;
    owed_to_heavy_ -= 1;
    return mix_.heavy;
}

}  // namespace evac::dedup
