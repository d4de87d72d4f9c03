#include "rpo_record.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "evac/core/random.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kStartNs = 12'345 * kNsPerSecond;
constexpr uint64_t kDayNs = RpoRecord::kSlots * RpoRecord::kSlotNs;

uint64_t at(double seconds) {
    return kStartNs + static_cast<uint64_t>(seconds * 1e9);
}

// A point every `every_s`, each `least_s` old when it is sealed; looked at each 0.5 s.
double saw(RpoRecord& record, double from_s, double to_s, double every_s, double least_s,
           double target_s) {
    double age_s = least_s;
    double t = from_s;
    for (; t < to_s; t += 0.5) {
        record.observe(at(t), age_s, target_s);
        age_s += 0.5;
        if (age_s >= every_s + least_s) age_s = least_s;
    }
    return t;
}

TEST(RpoRecord, SharesAndPercentilesOfASawtooth) {
    RpoRecord record;
    saw(record, 0, 7200, 20, 2, 17);  // ages 2 to 22, evenly
    const auto s = record.summary(at(7200));
    EXPECT_NEAR(s.covered_s, 7200, 1);
    EXPECT_EQ(s.unprotected_s, 0);
    EXPECT_NEAR(s.within_s / s.covered_s, 0.75, 0.02);
    EXPECT_NEAR(s.p50_s, 12, 12 * 0.1);
    EXPECT_NEAR(s.p95_s, 21, 21 * 0.1);
    EXPECT_NEAR(s.max_s, 22, 0.6);
}

TEST(RpoRecord, TimeWithoutAPointCountsAgainstTheTarget) {
    RpoRecord record;
    record.observe(at(0), std::nullopt, 30);
    record.observe(at(600), 5.0, 30);
    record.observe(at(1200), 5.0, 30);  // grew to 605 meanwhile, then a new point
    const auto s = record.summary(at(1200));
    EXPECT_NEAR(s.covered_s, 1200, 0.1);
    EXPECT_NEAR(s.unprotected_s, 600, 0.1);
    EXPECT_NEAR(s.within_s, 25, 0.1);
    EXPECT_NEAR(s.max_s, 605, 0.1);
}

TEST(RpoRecord, WhatIsNotObservedIsNotCovered) {
    RpoRecord record;
    EXPECT_EQ(record.summary(at(0)).covered_s, 0);
    record.observe(at(0), 1.0, 30);
    record.observe(at(10), 1.0, 30);
    record.stop();
    record.observe(at(4000), 1.0, 30);
    record.observe(at(4010), 1.0, 30);
    const auto s = record.summary(at(4010));
    EXPECT_NEAR(s.covered_s, 20, 0.01);
    EXPECT_NEAR(s.max_s, 11, 0.01);
}

TEST(RpoRecord, ForgetsWhatIsOlderThanADay) {
    RpoRecord record;
    record.observe(at(0), 0.0, 30);
    record.observe(at(1000), 0.0, 30);  // an outage of 1000 s
    double t = saw(record, 1000, 86'400 - 900, 10, 1, 30);
    EXPECT_NEAR(record.summary(at(t)).max_s, 1000, 1);
    t = saw(record, t, 86'400 + 1500, 10, 1, 30);
    auto s = record.summary(at(t));
    EXPECT_NEAR(s.max_s, 11, 1);
    EXPECT_GE(s.covered_s, 86'400 - 301);
    EXPECT_LE(s.covered_s, 86'400);
    EXPECT_NEAR(s.within_s, s.covered_s, 30);
    // Nothing observed for two days: only what the last observation says.
    s = record.summary(at(t + 200'000));
    EXPECT_EQ(s.covered_s, 0);
    EXPECT_EQ(s.p95_s, 0);
    record.observe(at(t + 200'000), 3.0, 30);
    s = record.summary(at(t + 200'000));
    EXPECT_LE(s.covered_s, 86'401);
    EXPECT_NEAR(s.max_s, 200'000, 20);
    EXPECT_LE(s.within_s, 1);
}

// Against every observed second kept.
TEST(RpoRecord, AgreesWithAPlainModel) {
    for (uint64_t seed = 1; seed <= 5; ++seed) {
        Random random(seed);
        RpoRecord record;
        std::vector<double> ages;
        double within_s = 0, age_s = 1;
        const double target_s = 5 + static_cast<double>(random.below(60));
        const int end_s = 3000 + static_cast<int>(random.below(30'000));
        for (int t = 0; t < end_s; ++t) {
            record.observe(at(t), age_s, target_s);
            ages.push_back(age_s + 0.5);
            within_s += std::clamp(target_s - age_s, 0.0, 1.0);
            age_s += 1;
            if (random.chance(0.03)) age_s = 0.5 + static_cast<double>(random.below(30)) / 10;
        }
        record.observe(at(end_s), 0.0, target_s);
        std::sort(ages.begin(), ages.end());
        const auto s = record.summary(at(end_s));
        EXPECT_NEAR(s.within_s, within_s, within_s * 0.001) << "seed " << seed;
        EXPECT_NEAR(s.max_s, ages.back() + 0.5, 0.01) << "seed " << seed;
        EXPECT_NEAR(s.p50_s / ages[ages.size() / 2], 1, 0.1) << "seed " << seed;
        EXPECT_NEAR(s.p95_s / ages[ages.size() * 95 / 100], 1, 0.1) << "seed " << seed;
    }
}

TEST(RpoRecord, AClockThatStandsStillOrAnAbsurdAgeHarmsNothing) {
    RpoRecord record;
    record.observe(at(0), 1e12, 30);
    record.observe(at(0), 1e12, 30);
    record.observe(at(10), 0.0, 30);
    record.observe(at(5), 0.0, 30);
    const auto s = record.summary(at(10));
    EXPECT_NEAR(s.covered_s, 10, 0.01);
    EXPECT_EQ(s.within_s, 0);
    EXPECT_GT(s.max_s, 1e11);
    record.observe(at(20) + kDayNs * 100, 0.0, 30);
}

}  // namespace
}  // namespace evac::daemon
