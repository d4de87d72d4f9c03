#include "measures.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace wan_flow {
namespace {

constexpr uint64_t kMs = 1'000'000;

TEST(Timeline, CountsByTheBinAndNeverBeyondItsEnd) {
    Timeline timeline(1000 * kMs, 0.05);
    EXPECT_TRUE(timeline.bins().empty());
    timeline.add(1000 * kMs, 1);
    timeline.add(1009 * kMs, 2);
    timeline.add(1020 * kMs, 4);
    EXPECT_EQ(timeline.bins(), (std::vector<uint64_t>{3, 0, 4}));
    timeline.add(999 * kMs, 8);  // before the base: into the first
    timeline.add(3'600'000 * kMs, 16);
    const auto bins = timeline.bins();
    EXPECT_EQ(bins.size(), 7u);  // 50 ms and two to spare
    EXPECT_EQ(bins.front(), 11u);
    EXPECT_EQ(std::accumulate(bins.begin(), bins.end(), uint64_t{0}), 31u);
}

TEST(LatencyHistogram, GivesUpperEdges) {
    LatencyHistogram latency;
    latency.add(99'999);
    latency.add(100'000);
    latency.add(10 * kMs);
    latency.add(60'000 * kMs);
    const std::vector<std::pair<uint64_t, uint64_t>> expected{
        {100, 1}, {200, 1}, {10'100, 1}, {10'000'000, 1}};
    EXPECT_EQ(latency.steps(), expected);
    EXPECT_EQ(latency.total(), 4u);
    EXPECT_EQ(latency.max_ns(), 60'000 * kMs);
}

evac::wan::Message message(uint64_t session, uint64_t sequence) {
    evac::wan::Message made{static_cast<evac::wan::SessionId>(session), {}};
    evac::ByteWriter(made.bytes).le64(sequence);
    return made;
}

TEST(BulkCount, SeesWhatIsMissingOrMisplacedWithinASession) {
    BulkCount count;
    for (const uint64_t sequence : {0, 1, 2}) count.add(message(7, sequence));
    EXPECT_EQ(count.out_of_order, 0u);
    count.add(message(7, 4));  // 3 is missing
    EXPECT_EQ(count.out_of_order, 1u);
    count.add(message(7, 5));
    EXPECT_EQ(count.out_of_order, 1u);
    count.add(message(7, 5));  // twice
    EXPECT_EQ(count.out_of_order, 2u);
    EXPECT_EQ(count.messages, 6u);
    EXPECT_EQ(count.bytes, 48u);
}

TEST(BulkCount, ANewSessionMayHaveLostMessages) {
    BulkCount count;
    count.add(message(7, 0));
    count.add(message(8, 40));
    count.add(message(8, 41));
    EXPECT_EQ(count.out_of_order, 0u);
    EXPECT_EQ(count.sessions, 2u);
    count.add(message(8, 43));
    EXPECT_EQ(count.out_of_order, 1u);
}

}  // namespace
}  // namespace wan_flow
