// Planted bugs: each must be caught by the same invariants, or the simulation proves nothing.
#include <gtest/gtest.h>

#include "sim_world.hpp"

namespace evac::evacuation::sim {
namespace {

using S = State;
using HE = HomeEventKind;
using AE = AwayEventKind;

Config harsh(uint64_t seed, Policy policy) {
    Config config;
    config.seed = seed;
    config.options.policy = policy;
    config.options.silence_ms = 3'000;
    config.options.stopped_max_ms = 2'500;
    config.down_ms = seed % 2 == 0 ? 200 : 8'000;
    config.fault_steps = 600;
    config.vms = 2;
    config.faults = {.message_loss = 0.1,
                     .message_repeat = 0.2,
                     .session_drop = 0.01,
                     .survive_drop = 0.3,
                     .crash = 0.02,
                     .act_fails = 0.03,
                     .abort = 0.02,
                     .give_back = 0.005};
    return config;
}

constexpr uint64_t kSeedsMax = 2'000;

// The seed that caught it by that invariant, or 0.
uint64_t caught(Policy policy, const std::function<void(Config&)>& plant, const char* invariant) {
    for (uint64_t seed = 1; seed <= kSeedsMax; ++seed) {
        Config config = harsh(seed, policy);
        plant(config);
        World world(config);
        const std::string violation = world.run();
        if (violation.find(invariant) != std::string::npos) return seed;
    }
    return 0;
}

std::vector<HomeRow> home_rows() {
    return {home_table().begin(), home_table().end()};
}
std::vector<AwayRow> away_rows() {
    return {away_table().begin(), away_table().end()};
}

HomeRow home_back(S from, HE on) {
    return {from,
            on,
            HomeGuard::always,
            S::aborted,
            Persist::durable,
            HomeNote::none,
            {HomeDo::stop_capture, HomeDo::resume_guest, HomeDo::send_abort},
            AbortReason::cancelled};
}

void expect_caught(Policy policy, const std::vector<HomeRow>& rows, const char* invariant) {
    const uint64_t seed = caught(
        policy, [&rows](Config& config) { config.home_rows = rows; }, invariant);
    EXPECT_NE(seed, 0u) << "not caught in " << kSeedsMax << " seeds";
}
void expect_caught(Policy policy, const std::vector<AwayRow>& rows, const char* invariant) {
    const uint64_t seed = caught(
        policy, [&rows](Config& config) { config.away_rows = rows; }, invariant);
    EXPECT_NE(seed, 0u) << "not caught in " << kSeedsMax << " seeds";
}

// For windows that are one act wide: a cancel while sealed, each daemon killed at each point, and
// the link cut for about as long as the silence.
bool caught_walking(const std::vector<AwayRow>& rows, double message_repeat = 0) {
    for (uint64_t k = 1; k <= 40; ++k) {
        for (uint64_t seed = 1; seed <= 60; ++seed) {
            Config config;
            config.seed = seed;
            config.options.policy = Policy::evacuation;
            config.options.silence_ms = 3'000;
            config.cancel_when_sealed = true;
            (seed % 2 == 0 ? config.kill_away_at : config.kill_home_at) = k;
            config.cut_ms = 2'500 + static_cast<uint32_t>(seed) * 50;
            config.faults.survive_drop = 1;  // ABORTED is under way when away dies
            config.faults.message_repeat = message_repeat;
            config.away_rows = rows;
            World world(config);
            if (world.run().find("two running copies") != std::string::npos) return true;
        }
    }
    return false;
}

TEST(Canary, WalkingFindsNothingInTheUnbrokenTable) {
    EXPECT_FALSE(caught_walking(away_rows()));
    EXPECT_FALSE(caught_walking(away_rows(), 0.5));
}

TEST(Canary, TheUnbrokenTablesPassTheSameRuns) {
    for (const Policy policy : {Policy::planned, Policy::evacuation}) {
        for (uint64_t seed = 1; seed <= 200; ++seed) {
            World world(harsh(seed, policy));
            ASSERT_EQ(world.run(), "") << "seed " << seed << "\n" << world.trace();
        }
    }
}

TEST(Canary, ActsBeforeTheJournalIsDurable) {
    const uint64_t seed = caught(
        Policy::evacuation, [](Config& config) { config.lying_sync = true; }, "two running copies");
    EXPECT_NE(seed, 0u);
}

TEST(Canary, HomeResumesFromSealedWithoutAsking) {
    std::vector<HomeRow> rows = home_rows();
    rows.insert(rows.begin(), home_back(S::sealed, HE::stop_limit));
    expect_caught(Policy::evacuation, rows, "two running copies");
}

TEST(Canary, HomeResumesFromCommittedOnAbort) {
    std::vector<HomeRow> rows = home_rows();
    rows.insert(rows.begin(), home_back(S::committed, HE::abort));
    expect_caught(Policy::planned, rows, "two running copies");
}

TEST(Canary, HomeSendsTheSealBeforeJournalingSealed) {
    std::vector<HomeRow> rows = home_rows();
    // captured: SEAL goes out while the journal still says frozen, from where home goes back by
    // itself.
    rows.insert(rows.begin(), {S::frozen,
                               HE::captured,
                               HomeGuard::always,
                               S::frozen,
                               Persist::no,
                               HomeNote::seal,
                               {HomeDo::send_final},
                               AbortReason::none});
    expect_caught(Policy::evacuation, rows, "two running copies");
}

TEST(Canary, HomeCommitsWithoutJournaling) {
    std::vector<HomeRow> rows = home_rows();
    for (HomeRow& row : rows) {
        if (row.from == S::sealed && row.to == S::committed) row.persist = Persist::no;
    }
    expect_caught(Policy::planned, rows, "two running copies");
}

TEST(Canary, HomeDestroysAtCommitted) {
    std::vector<HomeRow> rows = home_rows();
    for (HomeRow& row : rows) {
        if (row.from == S::sealed && row.on == HE::peer_sealed && row.to == S::committed) {
            row.acts[1] = HomeDo::destroy_source;
        }
    }
    expect_caught(Policy::planned, rows, "source destroyed although away never ran it");
}

TEST(Canary, AwayRunsAfterSilenceUnderPlanned) {
    std::vector<AwayRow> rows = away_rows();
    for (AwayRow& row : rows) {
        if (row.from == S::sealed && row.on == AE::silence) row.guard = AwayGuard::always;
    }
    expect_caught(Policy::planned, rows, "two running copies");
}

TEST(Canary, AwaySaysAbortedWithoutJournaling) {
    std::vector<AwayRow> rows = away_rows();
    for (AwayRow& row : rows) {
        if (row.from == S::sealed && row.on == AE::home_abort) row.persist = Persist::no;
    }
    EXPECT_TRUE(caught_walking(rows));
}

TEST(Canary, AwaySaysAbortedAfterItCommitted) {
    std::vector<AwayRow> rows = away_rows();
    for (AwayRow& row : rows) {
        if (row.from == S::committed && row.on == AE::home_abort)
            row.acts[0] = AwayDo::send_aborted;
    }
    EXPECT_TRUE(caught_walking(rows));
}

TEST(Canary, AwayRunsWhatItHasWithoutTheFinalSeal) {
    std::vector<AwayRow> rows = away_rows();
    rows.insert(rows.begin(), {S::armed,
                               AE::silence,
                               AwayGuard::evacuation,
                               S::committed,
                               Persist::durable,
                               AwayNote::silent,
                               {AwayDo::run_landing},
                               AbortReason::none});
    // The meter fires `silence` in sealed and committed only: plant it where PREPARED would be
    // repeated.
    rows.insert(rows.begin(), {S::armed,
                               AE::resend_due,
                               AwayGuard::evacuation,
                               S::committed,
                               Persist::durable,
                               AwayNote::silent,
                               {AwayDo::run_landing},
                               AbortReason::none});
    expect_caught(Policy::evacuation, rows, "landed something else");
}

TEST(Canary, AwayForgetsTheIdItGaveUp) {
    std::vector<AwayRow> rows = away_rows();
    // A late copy of PREPARE arms away again in a handover that it gave up; a late SEAL and silence
    // follow.
    rows.insert(rows.begin(), {S::protected_,
                               AE::home_prepare,
                               AwayGuard::always,
                               S::armed,
                               Persist::durable,
                               AwayNote::take_prepare,
                               {AwayDo::prepare_landing},
                               AbortReason::none});
    EXPECT_TRUE(caught_walking(rows, 0.5));
}

TEST(Canary, HomeNeverAsksAgain) {
    std::vector<HomeRow> rows = home_rows();
    std::erase_if(rows, [](const HomeRow& row) {
        return row.on == HE::resend_due || row.on == HE::session_up || row.on == HE::restarted;
    });
    expect_caught(Policy::evacuation, rows, "does not converge");
}

}  // namespace
}  // namespace evac::evacuation::sim
