// Forward error correction over modelled paths, in virtual time: deterministic, so it may be
// asserted.
#include <gtest/gtest.h>

#include <cstdio>

#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

struct Path {
    double rtt_ms = 20;
    double loss = 0;
    double burst_enter = 0;  // 3 % with a mean burst of 4: see kBurst3
    FecMode fec = FecMode::full;
    uint64_t ceiling = 97'000'000;
    uint64_t queue_ms = 50;
};
constexpr double kRate = 100e6;

// Gilbert-Elliott with loss 1 in the bad state: mean burst 1 / 0.25 = 4 packets, share of bad
// packets enter / (enter + 0.25) = 3 %.
constexpr double kBurst3 = 0.25 * 0.03 / 0.97;

World::Options options_for(const Path& path, uint64_t seed) {
    World::Options o;
    o.seed = seed;
    for (LinkModel* m : {&o.a_to_b, &o.b_to_a}) {
        m->rate_bits_per_s = kRate;
        m->delay_ns = static_cast<uint64_t>(path.rtt_ms * 5e5);
        m->queue_bytes = static_cast<size_t>(kRate / 8e3 * static_cast<double>(path.queue_ms));
        m->loss = path.loss;
        m->burst_enter = path.burst_enter;
        m->burst_loss = 1;
    }
    for (EndpointConfig* e : {&o.a, &o.b}) {
        e->ceiling_bits_per_s = path.ceiling;
        e->fec = path.fec;
    }
    return o;
}

void feed(World& world, Class c, size_t size) {
    while (world.a().stats(0).classes[index(c)].unsent_bytes < 256 * 1024) {
        if (world.a().send(c, world.a().session(), Bytes(size)) != SendResult::ok) return;
    }
}

uint64_t drain(World& world, Class c) {
    uint64_t bytes = 0;
    while (auto m = world.b().take(c)) bytes += m->bytes.size();
    return bytes;
}

void connect(World& world) {  // the loss may hit the handshake, too
    const bool up = world.run_until(world.now_ns() + 60 * kNsPerSecond, [&] {
        return world.a().session() != SessionId::none && world.a().session() == world.b().session();
    });
    ASSERT_TRUE(up);
}

double ms(uint64_t ns) {
    return static_cast<double>(ns) / 1e6;
}

struct Latency {
    double p50 = 0, p99 = 0, max = 0;  // ms above the one-way delay
    Stats stats;
    double goodput = 0;  // share of the link
};

// Messages of class `c` each `every_ms` from a to b while bulk saturates the line.
Latency latency_of(Class c, size_t size, const Path& path, uint64_t every_ms, double seconds,
                   uint64_t seed) {
    World world(options_for(path, seed));
    std::vector<double> above_ms;
    uint64_t delivered = 0;
    bool bulk = true;
    world.on_step = [&] {
        if (bulk) feed(world, Class::bulk, 128 * 1024);
        delivered += drain(world, Class::bulk);
        while (auto m = world.b().take(c)) {
            ByteReader reader(m->bytes);
            above_ms.push_back(ms(world.now_ns() - reader.le64()) - path.rtt_ms / 2);
        }
    };
    connect(world);
    world.run_until(world.now_ns() + 3 * kNsPerSecond);
    const uint64_t start = world.now_ns();
    const uint64_t before = delivered;
    uint64_t sent = 0;
    for (uint64_t t = 0; t < static_cast<uint64_t>(seconds * 1e3); t += every_ms, ++sent) {
        world.at(start + t * kNsPerMs, [&] {
            Bytes m;
            ByteWriter(m).le64(world.now_ns());
            m.resize(size);
            EXPECT_EQ(world.a().send(c, world.a().session(), std::move(m)), SendResult::ok);
        });
    }
    world.run_until(start + static_cast<uint64_t>(seconds * 1e9));
    const double goodput = static_cast<double>(delivered - before) * 8 / seconds / kRate;
    bulk = false;
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    EXPECT_EQ(above_ms.size(), sent);
    std::sort(above_ms.begin(), above_ms.end());
    if (above_ms.empty()) return {};
    return {above_ms[above_ms.size() / 2], above_ms[above_ms.size() * 99 / 100], above_ms.back(),
            world.a().stats(world.now_ns()), goodput};
}

// 1 KiB of control.
Latency control_latency(const Path& path, uint64_t every_ms, double seconds, uint64_t seed) {
    return latency_of(Class::control, 1024, path, every_ms, seconds, seed);
}

void print_latency(const char* what, const Path& path, const Latency& l) {
    const ClassStats& control = l.stats.classes[index(Class::control)];
    std::printf(
        "%-22s rtt %3.0f fec %d  p50 %5.1f p99 %5.1f max %6.1f ms | parity %4llu rebuilt "
        "%3llu control overhead %3.0f%% bulk %4.2f%% loss %.2f%% burst %.1f goodput %.1f%%\n",
        what, path.rtt_ms, path.fec != FecMode::off, l.p50, l.p99, l.max,
        static_cast<unsigned long long>(l.stats.fec_packets_sent),
        static_cast<unsigned long long>(l.stats.fec_recovered_by_peer),
        100.0 * static_cast<double>(control.parity_bytes) /
            static_cast<double>(std::max<uint64_t>(control.sent_bytes, 1)),
        100.0 * static_cast<double>(l.stats.classes[index(Class::bulk)].parity_bytes) /
            static_cast<double>(
                std::max<uint64_t>(l.stats.classes[index(Class::bulk)].sent_bytes, 1)),
        static_cast<double>(l.stats.fec_loss_ppm) / 1e4,
        static_cast<double>(l.stats.fec_burst_milli) / 1e3, l.goodput * 100);
}

TEST(FecLatency, ControlUnderSaturatingBulk) {
    std::printf("ms above the one-way delay, 1 KiB of control each 10 ms\n");
    for (const double rtt : {20.0, 100.0, 200.0}) {
        const Path clean{.rtt_ms = rtt};
        const Path random{.rtt_ms = rtt, .loss = 0.03};
        const Path burst{.rtt_ms = rtt, .burst_enter = kBurst3};
        const Latency at_clean = control_latency(clean, 10, 4, 1);
        const Latency at_random = control_latency(random, 10, 8, 2);
        const Latency at_burst = control_latency(burst, 10, 8, 3);
        Path without = random;
        without.fec = FecMode::off;
        print_latency("no loss", clean, at_clean);
        print_latency("random 3 %", random, at_random);
        print_latency("bursts of 4, 3 %", burst, at_burst);
        print_latency("random 3 %, no FEC", without, control_latency(without, 10, 8, 2));
        Path unbounded = random;
        unbounded.ceiling = 10'000'000'000;
        const Latency lossy_unbounded = control_latency(unbounded, 10, 8, 2);
        print_latency("random 3 %, no ceiling", unbounded, lossy_unbounded);
        EXPECT_LE(lossy_unbounded.p99, 15) << rtt;
        unbounded.loss = 0;
        const Latency clean_unbounded = control_latency(unbounded, 10, 8, 2);
        print_latency("no loss, no ceiling", unbounded, clean_unbounded);
        EXPECT_LE(clean_unbounded.p99, 8) << rtt;
        EXPECT_LE(at_clean.p99, 8) << rtt;
        EXPECT_EQ(at_clean.stats.fec_packets_sent, 0u) << "parity on a line without loss";
        EXPECT_LE(at_random.p99, 15) << rtt;
        EXPECT_LE(at_burst.p99, 15) << rtt;
    }
}

// Pages fetched on demand: several packets each, covered by one block.
TEST(FecLatency, DemandUnderSaturatingBulk) {
    for (const double rtt : {20.0, 100.0, 200.0}) {
        std::array<Latency, 2> l;
        for (const bool on : {false, true}) {
            const Path path{
                .rtt_ms = rtt, .loss = 0.03, .fec = on ? FecMode::urgent : FecMode::off};
            l[on] = latency_of(Class::demand, 16 * 1024, path, 30, 9, 6);
        }
        const ClassStats& demand = l[1].stats.classes[index(Class::demand)];
        std::printf(
            "16 KiB of demand each 30 ms, 3 %%, rtt %3.0f: p99 without FEC %5.1f ms above "
            "one way, with %5.1f ms, overhead %.0f %%\n",
            rtt, l[0].p99, l[1].p99,
            100.0 * static_cast<double>(demand.parity_bytes) /
                static_cast<double>(demand.sent_bytes));
        EXPECT_LE(l[1].p99, 15);
        EXPECT_GT(l[0].p99, rtt) << "the path loses nothing: the test shows nothing";
    }
}

// ---- tails ----

struct Transfer {
    double ms = 0;  // from the first byte until all is delivered
    Stats stats;
};

// `bytes` of disk data at once, then nothing.
Transfer transfer(const Path& path, size_t bytes, uint64_t seed) {
    World world(options_for(path, seed));
    uint64_t delivered = 0, wanted = 0;
    world.on_step = [&] { delivered += drain(world, Class::disk); };
    connect(world);
    const auto send = [&](size_t size) {
        for (; size > 0; size -= std::min<size_t>(size, 64 * 1024)) {
            const size_t part = std::min<size_t>(size, 64 * 1024);
            EXPECT_EQ(world.a().send(Class::disk, world.a().session(), Bytes(part)),
                      SendResult::ok);
            wanted += part;
        }
    };
    send(12u << 20);  // finds the rate and the loss
    world.run_until(world.now_ns() + 60 * kNsPerSecond, [&] { return delivered == wanted; });
    world.run_until(world.now_ns() + 500 * kNsPerMs);
    const uint64_t start = world.now_ns();
    send(bytes);
    EXPECT_TRUE(world.run_until(start + 60 * kNsPerSecond, [&] { return delivered == wanted; }));
    const Transfer out{ms(world.now_ns() - start), world.a().stats(world.now_ns())};
    return out;
}

// The end of a transfer does not wait for a retransmission: mean over seeds, FEC on against off.
TEST(FecTail, EndsOfTransfersAreNotHeldUp) {
    std::printf("transfer of 1 MiB at 100 Mbit/s, ms, mean of 6 seeds\n");
    for (const double rtt : {20.0, 100.0, 200.0}) {
        for (const bool bursts : {false, true}) {
            std::array<double, 2> mean{};
            double parity = 0;
            constexpr uint64_t kSeeds = 6;
            for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
                for (const bool on : {false, true}) {
                    Path path{.rtt_ms = rtt, .fec = on ? FecMode::full : FecMode::off};
                    (bursts ? path.burst_enter : path.loss) = bursts ? kBurst3 : 0.03;
                    const Transfer t = transfer(path, 1u << 20, seed);
                    mean[on] += t.ms / kSeeds;
                    const ClassStats& disk = t.stats.classes[index(Class::disk)];
                    if (on)
                        parity += static_cast<double>(disk.parity_bytes) /
                                  static_cast<double>(disk.sent_bytes) / kSeeds;
                }
            }
            std::printf(
                "rtt %3.0f %-16s without FEC %6.1f with %6.1f, saved %4.2f round trips, "
                "parity %.1f %% of all\n",
                rtt, bursts ? "bursts of 4, 3 %" : "random 3 %", mean[0], mean[1],
                (mean[0] - mean[1]) / rtt, parity * 100);
            // 100 ms and more: most of a round trip. 20 ms: at least no harm.
            EXPECT_GT((mean[0] - mean[1]) / rtt, rtt >= 100 ? 0.4 : -0.1);
        }
    }
}

// What FEC costs bulk that saturates the line: packets leave kFecReserveBytes free.
TEST(FecTail, GoodputOfSaturatingBulkIsTheSame) {
    for (const double loss : {0.0, 0.001, 0.01, 0.03}) {
        std::array<double, 2> goodput{};
        for (const bool on : {false, true}) {
            constexpr uint64_t kSeeds = 2;
            for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
                Path path{.loss = loss, .fec = on ? FecMode::full : FecMode::off};
                path.ceiling = 10'000'000'000;
                World world(options_for(path, seed));
                uint64_t delivered = 0;
                world.on_step = [&] {
                    feed(world, Class::bulk, 128 * 1024);
                    delivered += drain(world, Class::bulk);
                };
                connect(world);
                world.run_until(world.now_ns() + kNsPerSecond);
                const uint64_t before = delivered;
                world.run_until(world.now_ns() + 4 * kNsPerSecond);
                goodput[on] += static_cast<double>(delivered - before) * 8 / 4 / kRate / kSeeds;
            }
        }
        std::printf("loss %.1f %%: goodput without FEC %.2f %%, with %.2f %% of the link\n",
                    loss * 100, goodput[0] * 100, goodput[1] * 100);
        EXPECT_GT(goodput[1], goodput[0] - 0.01);
    }
}

TEST(FecTail, NoneWhileBulkSaturatesTheLine) {
    const Path path{.rtt_ms = 100, .loss = 0.03};
    World world(options_for(path, 4));
    world.on_step = [&] {
        feed(world, Class::bulk, 128 * 1024);
        drain(world, Class::bulk);
    };
    connect(world);
    world.run_until(world.now_ns() + 5 * kNsPerSecond);
    const Stats s = world.a().stats(world.now_ns());
    EXPECT_EQ(s.fec_active, 1u);
    EXPECT_EQ(s.classes[index(Class::bulk)].parity_bytes, 0u);
}

// ---- what it does to the rest ----

// A rebuilt packet is still a lost one for recovery, rate and statistics; it is only not sent
// again.
TEST(Fec, LossIsStillSeenAndNothingIsSentTwiceWithoutNeed) {
    const Path path{.rtt_ms = 100, .loss = 0.03};
    Path without = path;
    without.fec = FecMode::off;
    const Latency on = control_latency(path, 5, 6, 9);
    const Latency off = control_latency(without, 5, 6, 9);
    std::printf(
        "loss seen with FEC %.2f %%, without %.2f %%; control retransmitted %llu of %llu "
        "bytes, without FEC %llu\n",
        static_cast<double>(on.stats.loss_ppm) / 1e4, static_cast<double>(off.stats.loss_ppm) / 1e4,
        static_cast<unsigned long long>(on.stats.classes[0].retransmitted_bytes),
        static_cast<unsigned long long>(on.stats.classes[0].sent_bytes),
        static_cast<unsigned long long>(off.stats.classes[0].retransmitted_bytes));
    EXPECT_NEAR(static_cast<double>(on.stats.fec_loss_ppm), 30'000, 9'000);
    EXPECT_GT(on.stats.fec_recovered_by_peer, 20u);
    EXPECT_LT(on.stats.classes[0].retransmitted_bytes * 4,
              off.stats.classes[0].retransmitted_bytes);
    EXPECT_GT(on.stats.packets_lost * 10, off.stats.packets_lost * 8);
}

// Control alone, nearly every loss rebuilt: recovery and rate control must still count it.
TEST(Fec, RebuiltPacketsCountAsLost) {
    World world(options_for({.rtt_ms = 40, .loss = 0.05}, 31));
    uint64_t got = 0;
    world.on_step = [&] {
        while (world.b().take(Class::control)) ++got;
    };
    connect(world);
    constexpr uint64_t kMessages = 4000;
    for (uint64_t n = 0; n < kMessages; ++n) {
        ASSERT_EQ(world.a().send(Class::control, world.a().session(), Bytes(1024)), SendResult::ok);
        world.run_until(world.now_ns() + 5 * kNsPerMs);
    }
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    EXPECT_EQ(got, kMessages);
    const Stats a = world.a().stats(world.now_ns());
    const Stats b = world.b().stats(world.now_ns());
    EXPECT_GT(b.fec_recovered, kMessages / 30);  // of about 200 lost
    EXPECT_LE(b.fec_recovered, a.packets_lost);
    EXPECT_NEAR(static_cast<double>(b.fec_recovered), static_cast<double>(a.fec_recovered_by_peer),
                5);
    // One or the other, never both.
    EXPECT_NEAR(static_cast<double>(b.packets_received + a.packets_lost),
                static_cast<double>(a.packets_sent), 30);
    EXPECT_NEAR(static_cast<double>(a.packets_lost) / static_cast<double>(a.packets_sent), 0.05,
                0.008);
    EXPECT_NEAR(static_cast<double>(a.fec_loss_ppm), 50'000, 20'000);
}

// The original of a rebuilt packet comes late: a duplicate, delivered once, and found spurious.
TEST(Fec, LateOriginalsAreHarmless) {
    World world(options_for({.rtt_ms = 40, .loss = 0.02}, 21));
    std::vector<uint64_t> got;
    world.on_step = [&] {
        feed(world, Class::bulk, 64 * 1024);
        drain(world, Class::bulk);
        while (auto m = world.b().take(Class::control)) got.push_back(ByteReader(m->bytes).le64());
    };
    connect(world);
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    world.link(0).loss = 0;
    uint64_t held = 0, n = 0;
    Random random(5);
    world.tap = [&](size_t from, Bytes& bytes) {
        // Whole packets with a control message (and parities of them) are about 1.1 KB.
        if (from != 0 || bytes.size() < 1050 || bytes.size() > 1110 || !random.chance(0.1)) return;
        ++held;
        world.inject(1, std::move(bytes), 45 * kNsPerMs);
        bytes.clear();
    };
    for (; n < 600; ++n) {
        Bytes m;
        ByteWriter(m).le64(n);
        m.resize(1024);
        ASSERT_EQ(world.a().send(Class::control, world.a().session(), std::move(m)),
                  SendResult::ok);
        world.run_until(world.now_ns() + 7 * kNsPerMs);
    }
    world.tap = nullptr;
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    ASSERT_EQ(got.size(), n);
    for (uint64_t i = 0; i < n; ++i) EXPECT_EQ(got[i], i);
    const Stats b = world.b().stats(world.now_ns());
    EXPECT_GT(held, 30u);
    EXPECT_GT(b.fec_recovered, 10u);
    EXPECT_EQ(b.drops[static_cast<size_t>(DropReason::replayed)], 0u) << "the original is fresh";
    EXPECT_EQ(b.drops[static_cast<size_t>(DropReason::malformed_frame)], 0u);
    EXPECT_EQ(b.classes[0].received_messages, n);
    EXPECT_GT(world.a().stats(world.now_ns()).packets_spurious, 10u);
}

}  // namespace
}  // namespace evac::wan::testing
