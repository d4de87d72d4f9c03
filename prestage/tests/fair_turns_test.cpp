#include "evac/prestage/fair_turns.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "evac/core/random.hpp"

namespace evac::prestage {
namespace {

struct Flow {
    double weight = 1;
    Turn turn{};
    uint64_t bytes = 0, waiting = UINT64_MAX;
};

// The reducer's loop: least rank first, in turn among equals.
size_t next(const FairTurns& turns, const std::vector<Flow>& flows, size_t cursor) {
    size_t best = flows.size();
    for (size_t i = 1; i <= flows.size(); ++i) {
        const size_t at = (cursor + i) % flows.size();
        if (flows[at].waiting == 0) continue;
        if (best == flows.size() || turns.rank(flows[at].turn) < turns.rank(flows[best].turn))
            best = at;
    }
    return best;
}

void serve(FairTurns& turns, std::vector<Flow>& flows, size_t times, Random& random) {
    size_t cursor = 0;
    for (size_t i = 0; i < times; ++i) {
        cursor = next(turns, flows, cursor);
        if (cursor == flows.size()) return;
        Flow& f = flows[cursor];
        const uint64_t bytes = std::min<uint64_t>(1000 + random.below(64'000), f.waiting);
        turns.serve(f.turn);
        turns.charge(f.turn, bytes, f.weight);
        f.bytes += bytes;
        if (f.waiting != UINT64_MAX) f.waiting -= bytes;
    }
}

TEST(FairTurns, BytesFollowWeights) {
    Random random(3);
    FairTurns turns;
    std::vector<Flow> flows{{1}, {2}, {4}, {8}};
    serve(turns, flows, 20'000, random);
    for (const Flow& f : flows) {
        EXPECT_NEAR(static_cast<double>(f.bytes) / f.weight, static_cast<double>(flows[0].bytes),
                    130'000);
    }
}

TEST(FairTurns, AFloodDelaysASmallFlowByOneTurnOfEach) {
    Random random(5);
    FairTurns turns;
    std::vector<Flow> flows{{8}, {8}, {1}};  // two floods, one that comes now and then
    flows[2].waiting = 0;
    serve(turns, flows, 1000, random);
    for (int burst = 0; burst < 50; ++burst) {
        flows[2].waiting = 1;
        serve(turns, flows, 3, random);
        EXPECT_EQ(flows[2].waiting, 0u);
        serve(turns, flows, 100, random);
    }
}

TEST(FairTurns, WhoWasIdleIsNotOwedForIt) {
    Random random(7);
    FairTurns turns;
    std::vector<Flow> flows{{1}, {1}};
    flows[1].waiting = 0;
    serve(turns, flows, 10'000, random);
    const uint64_t before = flows[0].bytes;
    flows[1].waiting = UINT64_MAX;
    serve(turns, flows, 1000, random);
    const double gained = static_cast<double>(flows[0].bytes - before);
    EXPECT_NEAR(gained / static_cast<double>(flows[1].bytes), 1, 0.02);
}

TEST(FairTurns, WeightsGrowWithPriorityAndWithTheAgeOfThePoint) {
    EXPECT_EQ(turn_weight(1, 1, -1, 30), 1);
    EXPECT_EQ(turn_weight(3, 1, 0, 30), 3);
    EXPECT_EQ(turn_weight(1e6, 1, 0, 30), 8);
    EXPECT_EQ(turn_weight(1, 1, 15, 30), 1);
    EXPECT_EQ(turn_weight(1, 1, 30, 30), 2.5);
    EXPECT_EQ(turn_weight(1, 1, 1e9, 30), 4);
    EXPECT_EQ(turn_weight(2, 1, 45, 30), 8);
}

}  // namespace
}  // namespace evac::prestage
