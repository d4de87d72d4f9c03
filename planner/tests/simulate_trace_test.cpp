#include "simulate_trace.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "planner_fixture.hpp"

namespace evac::planner {
namespace {

// Integration and its inverse, over random traces, against small steps of the rate.
TEST(Simulate, TraceAgreesWithSmallSteps) {
    Random random(11);
    for (int round = 0; round < 40; ++round) {
        Scenario scenario;
        double at = 0;
        for (int k = 0; k < 6; ++k) {
            at += testing::between(random, 0.5, 8);
            BandwidthStep step{at, random.chance(0.2) ? 0 : testing::between(random, 1, 90), {}, 0};
            if (random.chance(0.6)) {
                step.half_life_s = testing::between(random, 0.5, 20);
                step.decay_to_mbit = random.chance(0.3) ? 0 : testing::between(random, 1, 90);
            }
            scenario.bandwidth.push_back(step);
        }
        scenario.outages = {{testing::between(random, 0, 8), 3}, {20, 4}, {24, 2}};
        const sim::Trace trace(40, scenario);
        Scenario whole = scenario;
        whole.outages.clear();
        const sim::Trace undisturbed(40, whole);
        const double dt = 1e-3;
        double sum = 0;
        for (int k = 0; k < 60'000; ++k) {
            const double t = k * dt;
            const double rate = trace.rate_mib_s(t + dt / 2);
            const bool dead = std::any_of(
                scenario.outages.begin(), scenario.outages.end(), [&](const Outage& outage) {
                    return t >= outage.at_s - dt && t < outage.at_s + outage.for_s;
                });
            if (!dead) ASSERT_NEAR(rate, undisturbed.rate_mib_s(t + dt / 2), 1e-9);
            sum += rate * dt;
            if (k % 1000 != 999) continue;
            const double total = trace.total_mib(t + dt);
            ASSERT_NEAR(total, sum, 0.02) << "round " << round << " t " << t;
            if (trace.rate_mib_s(t + dt) < 1e-4) continue;  // its inverse is all rounding
            const double back = trace.time_of(total);
            EXPECT_LE(back, t + dt + 1e-9);
            EXPECT_NEAR(trace.total_mib(back), total, 1e-9 * std::max(1.0, total));
        }
        EXPECT_EQ(trace.rate_mib_s(21), 0);
        EXPECT_GT(trace.known_rate_mib_s(21) + 1e-300, 0);
    }
}

}  // namespace
}  // namespace evac::planner
