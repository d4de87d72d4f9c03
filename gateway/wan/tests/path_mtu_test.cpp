// Path MTU: the search and the black hole as a unit, messages cut anew, and both over the modelled
// path.
#include "path_mtu.hpp"

#include <gtest/gtest.h>

#include <deque>

#include "receive_stream.hpp"
#include "send_stream.hpp"
#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

// Answers probes as a path of `carries` bytes would, until nothing is left to try.
uint64_t search(PathMtu& mtu, size_t carries, uint64_t now_ns) {
    uint64_t probes = 0;
    static uint64_t number = 0;
    while (const size_t bytes = mtu.probe_bytes(now_ns)) {
        mtu.on_probe_sent(++number);
        EXPECT_EQ(mtu.probe_bytes(now_ns), 0u);  // one at a time
        if (bytes <= carries) {
            mtu.on_acked(now_ns, number, bytes, true);
        } else {
            mtu.on_lost(now_ns, number, bytes, true);
        }
        ++probes;
    }
    return probes;
}

TEST(PathMtu, FindsEverySizeWithBoundedProbes) {
    for (const size_t max :
         {size_t{1200}, size_t{1201}, size_t{1472}, size_t{8972}, size_t{9000}}) {
        for (size_t carries = 1200; carries <= max + 20; carries += max > 2000 ? 97 : 7) {
            PathMtu mtu(max);
            EXPECT_EQ(mtu.datagram_bytes(), 1200u);
            const uint64_t probes = search(mtu, carries, 1);
            EXPECT_LE(probes, 33u);
            EXPECT_LE(mtu.datagram_bytes(), carries);
            EXPECT_LE(mtu.datagram_bytes(), max);
            EXPECT_GE(mtu.datagram_bytes() + PathMtu::kGapBytes, std::min(carries, max));
            if (carries >= max) EXPECT_LE(probes, 1u);
        }
    }
}

TEST(PathMtu, LooksUpwardAgainAfterMinutes) {
    PathMtu mtu(1472);
    search(mtu, 1300, 1000);
    const size_t before = mtu.datagram_bytes();
    ASSERT_LT(before, 1472u);
    EXPECT_EQ(mtu.next_timeout_ns(), 1000 + PathMtu::kRaiseNs);
    EXPECT_EQ(search(mtu, 1472, 999 + PathMtu::kRaiseNs), 0u);
    EXPECT_EQ(search(mtu, 1472, 1000 + PathMtu::kRaiseNs), 1u);
    EXPECT_EQ(mtu.datagram_bytes(), 1472u);
    EXPECT_EQ(mtu.next_timeout_ns(), UINT64_MAX);  // nothing above the maximum
}

TEST(PathMtu, BlackHoleOnlyWhenLargePacketsAloneVanish) {
    PathMtu mtu(1472);
    mtu.on_probe_sent(1);
    mtu.on_acked(1, 1, 1472, true);
    ASSERT_EQ(mtu.datagram_bytes(), 1472u);
    // Small ones lost: congestion, not size.
    for (uint64_t n = 1000; n < 1100; ++n) mtu.on_lost(2, n, 600, false);
    EXPECT_EQ(mtu.datagram_bytes(), 1472u);
    // A burst of large ones lost, but a later one as large arrived: not size either.
    mtu.on_acked(2, 1200, 1472, false);
    for (uint64_t n = 1100; n < 1200; ++n) mtu.on_lost(2, n, 1472, false);
    EXPECT_EQ(mtu.datagram_bytes(), 1472u);
    // One arriving between the losses starts the count again.
    for (uint64_t n = 1300; n < 1305; ++n) mtu.on_lost(2, n, 1472, false);
    mtu.on_acked(2, 1310, 1472, false);
    for (uint64_t n = 1311; n < 1316; ++n) mtu.on_lost(2, n, 1472, false);
    EXPECT_EQ(mtu.datagram_bytes(), 1472u);
    EXPECT_EQ(mtu.black_holes(), 0u);
    // Medium ones still arrive, large ones do not.
    mtu.on_acked(2, 1330, 1250, false);
    mtu.on_lost(2, 1320, 1472, false);
    EXPECT_EQ(mtu.datagram_bytes(), 1200u);
    EXPECT_EQ(mtu.black_holes(), 1u);
    // The rest of the same window changes nothing more, and the search begins at once.
    for (uint64_t n = 1400; n < 1500; ++n) mtu.on_lost(2, n, 1472, false);
    EXPECT_EQ(mtu.black_holes(), 1u);
    EXPECT_EQ(mtu.probe_bytes(2), 1472u);
}

// A sender whose packets change size while messages are under way, against a plain model: the
// receiver gets every byte once and in order, and the counters end where they must.
TEST(SendStreamCutting, RandomSizesLossesAndLateAcknowledgements) {
    for (uint64_t seed = 1; seed <= 200; ++seed) {
        Random random(seed);
        SendStream out(Class::bulk, 1u << 20, 1170);
        ReceiveStream in(1u << 20);
        std::deque<Bytes> expected;
        std::vector<ChunkRef> flying;
        uint64_t pushed = 0, total = 0;
        size_t room = 1170;
        for (int steps = 0; steps < 200'000 && (pushed < 30 || out.unacked_bytes() > 0); ++steps) {
            if (pushed < 30 && random.chance(0.05)) {
                Bytes message(1 + random.below(random.chance(0.1) ? kMessageBytesMax : 20'000));
                for (std::byte& b : message) b = static_cast<std::byte>(random.next());
                const Bytes copy = message;
                if (out.push(std::move(message))) {
                    expected.push_back(copy);
                    total += copy.size();
                    ++pushed;
                }
            }
            if (random.chance(0.01)) {
                room = 1170 + random.below(random.chance(0.2) ? 7800 : 300);
                out.set_payload_max(room);
            }
            if (const auto ref = out.next()) {
                const Fragment f = out.fragment(*ref);
                ASSERT_LE(fragment_header_bytes(f, f.bytes.size()) + f.bytes.size(), room);
                uint64_t planned = 0;
                if (!random.chance(0.2) && in.check(f, planned) == ReceiveStream::Verdict::ok)
                    in.apply(f);
                out.mark_sent(*ref);
                flying.push_back(*ref);
            }
            while (auto message = in.take()) {
                ASSERT_FALSE(expected.empty());
                ASSERT_EQ(*message, expected.front()) << "seed " << seed;
                expected.pop_front();
            }
            out.grant(in.credit());
            // Anything under way, acknowledged or declared lost in any order. What was delivered
            // may be called lost; what was lost is never acknowledged: the model cannot tell, so it
            // only acknowledges what the receiver would repeat as a duplicate.
            if (!flying.empty() && random.chance(0.9)) {
                const size_t at = random.below(flying.size());
                const ChunkRef ref = flying[at];
                flying.erase(flying.begin() + static_cast<ptrdiff_t>(at));
                bool arrived = false;
                if (ref.message < out.messages() && out.holds(ref)) {
                    const Fragment f = out.fragment(ref);
                    uint64_t planned = 0;
                    arrived = in.check(f, planned) == ReceiveStream::Verdict::duplicate;
                }
                if (arrived) {
                    out.mark_acked(ref);
                } else {
                    out.mark_lost(ref);
                }
            }
        }
        EXPECT_TRUE(expected.empty()) << "seed " << seed;
        EXPECT_EQ(pushed, 30u) << "seed " << seed;
        EXPECT_EQ(out.unacked_bytes(), 0u) << "seed " << seed;
        EXPECT_EQ(out.unsent_bytes(), 0u);
        EXPECT_EQ(out.departed_bytes(), total);
        EXPECT_EQ(out.released_bytes(), total);
    }
}

// Bulk from A to B; the bytes that have arrived.
struct Flow {
    World& world;
    uint64_t delivered = 0;

    explicit Flow(World& w) : world(w) {
        world.on_step = [this] {
            while (auto m = world.b().take(Class::bulk)) delivered += m->bytes.size();
            const SessionId session = world.a().session();
            while (world.a().stats(0).classes[index(Class::bulk)].unsent_bytes < 500'000 &&
                   world.a().send(Class::bulk, session, Bytes(60'000)) == SendResult::ok) {
            }
        };
    }
};

size_t mtu_of(World& w, size_t side) {
    return w.end(side).stats(w.clock_ns(side)).path_mtu_bytes;
}

TEST(PathMtuOnPath, FullSizeAfterOneRoundTrip) {
    World w({});
    ASSERT_TRUE(
        w.run_until(w.now_ns() + kNsPerSecond, [&] { return w.a().session() != SessionId::none; }));
    const uint64_t up = w.now_ns();
    ASSERT_TRUE(w.run_until(up + kNsPerSecond, [&] { return mtu_of(w, 0) == 1472; }));
    EXPECT_LE(w.now_ns() - up, 30 * kNsPerMs);  // RTT 20 ms and an acknowledgement's delay
}

TEST(PathMtuOnPath, SmallPathIsFoundAndProbesAreNoCongestion) {
    World::Options o;
    o.a_to_b.mtu_bytes = o.b_to_a.mtu_bytes = 1400;
    o.a_to_b.queue_bytes = o.b_to_a.queue_bytes = 4u << 20;
    World w(o);
    Flow flow(w);
    uint64_t worst_loss_ppm = 0;
    for (int i = 0; i < 300; ++i) {
        w.run_until(w.now_ns() + 10 * kNsPerMs);
        worst_loss_ppm = std::max(worst_loss_ppm, w.a().stats(w.now_ns()).loss_ppm);
    }
    for (const size_t side : {0u, 1u}) {
        EXPECT_LE(mtu_of(w, side), 1400u);
        EXPECT_GE(mtu_of(w, side), 1384u);
    }
    const Stats a = w.a().stats(w.now_ns());
    EXPECT_GE(a.path_mtu_probes, 4u);
    EXPECT_EQ(a.packets_lost, 0u);
    EXPECT_EQ(worst_loss_ppm, 0u);
    EXPECT_EQ(a.path_mtu_black_holes, 0u);
    EXPECT_GT(flow.delivered, 25'000'000u);
}

TEST(PathMtuOnPath, ShrinkingIsNoticedWithinAFewRoundTripsAndGrowthWithinMinutes) {
    World w({});
    Flow flow(w);
    w.run_until(w.now_ns() + 2 * kNsPerSecond);
    ASSERT_EQ(mtu_of(w, 0), 1472u);
    const SessionId session = w.a().session();
    w.link(0).mtu_bytes = 1300;
    const uint64_t shrunk = w.now_ns();
    ASSERT_TRUE(w.run_until(shrunk + 5 * kNsPerSecond, [&] { return mtu_of(w, 0) <= 1300; }));
    std::printf("path shrunk under load: packets follow after %.1f round trips of 20 ms\n",
                static_cast<double>(w.now_ns() - shrunk) / 20e6);
    EXPECT_LE(w.now_ns() - shrunk, 10 * 20 * kNsPerMs);
    w.run_until(w.now_ns() + kNsPerSecond);
    const uint64_t before = flow.delivered;
    w.run_until(w.now_ns() + 2 * kNsPerSecond);
    EXPECT_GT(flow.delivered - before, 15'000'000u);  // 25 MB is the link
    EXPECT_GE(mtu_of(w, 0), 1284u);
    EXPECT_EQ(w.a().session(), session);
    w.on_step = [&] {
        while (w.b().take(Class::bulk)) {
        }
    };
    w.link(0).mtu_bytes = kDatagramBytesMax;
    w.run_until(w.now_ns() + PathMtu::kRaiseNs + 5 * kNsPerSecond);
    EXPECT_EQ(mtu_of(w, 0), 1472u);
    EXPECT_EQ(w.a().session(), session);
}

// Only acknowledgements flow in one direction: the outage of large packets must not look like an
// outage of the line, also when the sender has nothing small to say.
TEST(PathMtuOnPath, JumboPathThatLosesItsJumboFrames) {
    World::Options o;
    o.a.datagram_bytes_max = o.b.datagram_bytes_max = 8972;
    World w(o);
    Flow flow(w);
    w.run_until(w.now_ns() + 2 * kNsPerSecond);
    ASSERT_EQ(mtu_of(w, 0), 8972u);
    w.link(0).mtu_bytes = w.link(1).mtu_bytes = 1472;
    w.run_until(w.now_ns() + 3 * kNsPerSecond);
    EXPECT_LE(mtu_of(w, 0), 1472u);
    EXPECT_GE(mtu_of(w, 0), 1456u);
    const uint64_t before = flow.delivered;
    w.run_until(w.now_ns() + 2 * kNsPerSecond);
    EXPECT_GT(flow.delivered - before, 15'000'000u);
}

}  // namespace
}  // namespace evac::wan::testing
