#include <gtest/gtest.h>

#include <cstdlib>

#include "sim_world.hpp"

namespace evac::evacuation::sim {
namespace {

// EVAC_SIM_SEED=n replays one seed with its trace; EVAC_SIM_RUNS=n runs longer.
uint64_t from_environment(const char* name, uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

Config plain(Policy policy) {
    Config config;
    config.options.policy = policy;
    config.options.silence_ms = 3'000;
    config.options.away_patience_ms = 5'000;
    config.fault_steps = 200;
    return config;
}

Config random_config(uint64_t seed) {
    Random random(seed ^ 0x5eed);
    Config config = plain(random.chance(0.6) ? Policy::evacuation : Policy::planned);
    config.seed = seed;
    config.vms = 1 + static_cast<uint32_t>(random.below(3));
    config.options.hold_landing = random.chance(0.2);
    config.options.stopped_max_ms = random.chance(0.3) ? 4'000 : 0;
    config.fault_steps = 300 + static_cast<uint32_t>(random.below(900));
    config.down_ms = random.chance(0.5) ? 200 : 8'000;
    Faults& f = config.faults;
    f.message_loss = random.chance(0.5) ? 0.15 : 0;
    f.message_repeat = random.chance(0.5) ? 0.3 : 0;
    f.session_drop = random.chance(0.7) ? 0.01 : 0;
    f.survive_drop = random.chance(0.5) ? 0.5 : 0;
    f.crash = random.chance(0.7) ? 0.02 : 0;
    f.act_fails = random.chance(0.4) ? 0.08 : 0;
    f.seal_fails = random.chance(0.3) ? 0.3 : 0;
    f.landing_dies = random.chance(0.1) ? 0.2 : 0;
    f.cancel = random.chance(0.3) ? 0.02 : 0;
    f.abort = random.chance(0.3) ? 0.02 : 0;
    f.give_back = random.chance(0.3) ? 0.02 : 0;
    f.force = random.chance(0.1) ? 0.02 : 0;
    return config;
}

void expect_clean(const Config& config, const char* what) {
    World world(config);
    const std::string violation = world.run();
    ASSERT_EQ(violation, "") << what << ": seed " << config.seed << ", policy "
                             << to_string(config.options.policy) << ", kill home at "
                             << config.kill_home_at << ", away at " << config.kill_away_at
                             << ", faults:" << config.faults.describe() << "\n"
                             << world.trace();
}

TEST(CrashSimulation, RandomFaults) {
    const uint64_t one = from_environment("EVAC_SIM_SEED", 0);
    if (one != 0) {
        World world(random_config(one));
        EXPECT_EQ(world.run(), "");
        std::printf("%s", world.trace().c_str());
        return;
    }
    const uint64_t runs = from_environment("EVAC_SIM_RUNS", 3'000);
    uint64_t crashes = 0, moved = 0, stayed = 0;
    for (uint64_t seed = 1; seed <= runs; ++seed) {
        const Config config = random_config(seed);
        World world(config);
        const std::string violation = world.run();
        ASSERT_EQ(violation, "") << "seed " << seed << ", faults:" << config.faults.describe()
                                 << "\n"
                                 << world.trace();
        crashes += world.crashes();
        for (uint32_t i = 0; i < config.vms; ++i) {
            ++(world.vm(i).landing == Landing::running ? moved : stayed);
        }
    }
    std::printf("%llu seeds: %llu daemons killed, %llu VMs moved, %llu stayed\n",
                static_cast<unsigned long long>(runs), static_cast<unsigned long long>(crashes),
                static_cast<unsigned long long>(moved), static_cast<unsigned long long>(stayed));
    // The faults must not make the simulation vacuous.
    EXPECT_GT(moved, stayed / 4);
    EXPECT_GT(stayed, 0u);
    EXPECT_GT(crashes, runs);
}

struct Scenario {
    const char* name;
    Config config;
};

std::vector<Scenario> scenarios() {
    std::vector<Scenario> out;
    for (const Policy policy : {Policy::planned, Policy::evacuation}) {
        Config config = plain(policy);
        out.push_back({"plain", config});
        config.options.hold_landing = true;
        out.push_back({"held", config});
        config = plain(policy);
        config.cancel_when_sealed = true;
        out.push_back({"cancelled when sealed", config});
        config = plain(policy);
        config.landing_failures = 3;
        out.push_back({"landing fails three times", config});
        config = plain(policy);
        config.seal_failures = 1;
        out.push_back({"first seal fails", config});
    }
    return out;
}

TEST(CrashSimulation, EachDaemonKilledAtEachPoint) {
    uint64_t runs = 0;
    for (const Scenario& scenario : scenarios()) {
        World baseline(scenario.config);
        ASSERT_EQ(baseline.run(), "") << scenario.name << "\n" << baseline.trace();
        // Shorter and longer than the silence; and back soon, but cut off for longer than the
        // silence.
        for (const auto& [down_ms, cut_ms] : {std::pair{200u, 0u}, {8'000u, 0u}, {200u, 12'000u}}) {
            Config config = scenario.config;
            config.down_ms = down_ms;
            config.cut_ms = cut_ms;
            for (uint64_t k = 1; k <= baseline.home_points() + 8; ++k, ++runs) {
                config.kill_home_at = k;
                ASSERT_NO_FATAL_FAILURE(expect_clean(config, scenario.name));
            }
            config.kill_home_at = 0;
            for (uint64_t k = 1; k <= baseline.away_points() + 8; ++k, ++runs) {
                config.kill_away_at = k;
                ASSERT_NO_FATAL_FAILURE(expect_clean(config, scenario.name));
            }
        }
    }
    std::printf("%llu runs\n", static_cast<unsigned long long>(runs));
    EXPECT_GT(runs, 500u);
}

TEST(CrashSimulation, BothDaemonsKilledAtEachPairOfPoints) {
    uint64_t runs = 0;
    for (const Policy policy : {Policy::planned, Policy::evacuation}) {
        Config config = plain(policy);
        config.fault_steps = 100;
        World baseline(config);
        ASSERT_EQ(baseline.run(), "");
        for (uint64_t home = 1; home <= baseline.home_points(); ++home) {
            for (uint64_t away = 1; away <= baseline.away_points(); ++away, ++runs) {
                config.kill_home_at = home;
                config.kill_away_at = away;
                config.down_ms = (home + away) % 2 == 0 ? 200 : 8'000;
                ASSERT_NO_FATAL_FAILURE(expect_clean(config, "pair"));
            }
        }
    }
    std::printf("%llu runs\n", static_cast<unsigned long long>(runs));
    EXPECT_GT(runs, 500u);
}

// A peer that is dead for good: every VM waits in a documented state (README.md) or runs.
TEST(CrashSimulation, PeerDeadForGood) {
    for (const Policy policy : {Policy::planned, Policy::evacuation}) {
        Config config = plain(policy);
        World baseline(config);
        ASSERT_EQ(baseline.run(), "");
        for (uint64_t k = 1; k <= baseline.away_points(); ++k) {
            Config dead = config;
            dead.kill_away_at = k;
            dead.away_dies = true;
            World world(dead);
            ASSERT_EQ(world.run(), "") << world.trace();
            const State home = world.home()->find(VmId{0})->state();
            const bool runs_at_home = world.vm(0).guest == Guest::running;
            const bool may_wait =
                home == State::committed || (home == State::sealed && policy == Policy::evacuation);
            EXPECT_TRUE(runs_at_home || may_wait || home == State::released)
                << "away dead at " << k << ", " << to_string(policy) << ": home " << to_string(home)
                << "\n"
                << world.trace();
        }
        for (uint64_t k = 1; k <= baseline.home_points(); ++k) {
            Config dead = config;
            dead.kill_home_at = k;
            dead.home_dies = true;
            World world(dead);
            ASSERT_EQ(world.run(), "") << world.trace();
            const State away = world.away()->find(VmId{0})->state();
            const bool runs_at_away = world.vm(0).landing == Landing::running;
            if (policy == Policy::evacuation) {
                EXPECT_NE(away, State::sealed) << "home dead at " << k << ": away waits for nobody";
            }
            const bool may_wait = away == State::protected_ || away == State::armed ||
                                  (away == State::sealed && policy == Policy::planned);
            EXPECT_TRUE(runs_at_away || may_wait)
                << "home dead at " << k << ", " << to_string(policy) << ": away " << to_string(away)
                << "\n"
                << world.trace();
        }
    }
}

}  // namespace
}  // namespace evac::evacuation::sim
