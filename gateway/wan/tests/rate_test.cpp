// The rate control and the recovery on their own, and what of them shows in Stats.
#include <gtest/gtest.h>

#include "../src/rate_control.hpp"
#include "../src/recovery.hpp"
#include "rate_world.hpp"

namespace evac::wan::testing {
namespace {

TEST(QueueDelay, JitterIsNotAQueue) {
    QueueDelay delay;
    Random random(4);
    uint64_t now = kNsPerSecond;
    for (int i = 0; i < 1000; ++i, now += kNsPerMs)
        delay.on_sample(now, 20 * kNsPerMs + random.below(5 * kNsPerMs));
    EXPECT_LT(delay.standing_ns(), 2 * kNsPerMs);
    for (int i = 0; i < 100; ++i, now += kNsPerMs)
        delay.on_sample(now, 30 * kNsPerMs + random.below(5 * kNsPerMs));
    EXPECT_GE(delay.standing_ns(), 10 * kNsPerMs);
    EXPECT_LT(delay.standing_ns(), 13 * kNsPerMs);
}

struct Sender {  // one round trip per call of round(), nothing else
    RateControl rate{{12'500'000, 125'000, 12'500'000}, kNsPerSecond};
    Recovery recovery{rate, 100 * kNsPerMs, kNsPerSecond};
    uint64_t now = kNsPerSecond;
    RecoveryOutcome outcome;

    uint64_t send(size_t packets) {
        const uint64_t first = recovery.next_number();
        for (size_t i = 0; i < packets; ++i) {
            recovery.prepare();
            recovery.on_sent(now, 1500, true);
            now += 120'000;
        }
        return first;
    }
    void ack(uint64_t first, uint64_t last) {
        AckFrame ack;
        ack.range_count = 1;
        ack.ranges[0] = {first, last};
        outcome = {};
        EXPECT_TRUE(recovery.on_ack(
            now, ack, outcome, [](const SentPacket&) {}, [](const SentPacket&) {}));
    }
};

// Half of a round is declared lost, the rate is cut, and then it all arrives after all.
TEST(Rate, ACutThatProvesSpuriousIsUndone) {
    Sender s;
    for (int i = 0; i < 4; ++i) {
        const uint64_t first = s.send(80);
        s.now += 10 * kNsPerMs;
        s.ack(first, first + 79);
    }
    const uint64_t window = s.rate.window_bytes();
    const uint64_t first = s.send(80);
    s.now += 10 * kNsPerMs;
    s.ack(first + 60, first + 79);
    s.now += 100 * kNsPerMs;
    EXPECT_EQ(s.recovery.lost_packets(), 60u);
    const uint64_t next = s.send(20);
    s.now += 10 * kNsPerMs;
    s.ack(next, next + 19);
    EXPECT_LT(s.rate.window_bytes(), window / 2);
    EXPECT_EQ(s.rate.undone_cuts(), 0u);
    s.ack(first, next + 19);
    EXPECT_EQ(s.recovery.spurious_packets(), 60u);
    EXPECT_EQ(s.rate.undone_cuts(), 1u);
    EXPECT_GE(s.rate.window_bytes(), window);
}

TEST(Rate, TheMeanBurstIsMeasured) {
    for (const double leave : {1.0, 0.25}) {
        Path path{.queue = queue_ms(100e6, 50), .burst_enter = 0.01 * leave, .burst_loss = 1};
        World::Options options = options_for(path, 9);
        options.a_to_b.burst_leave = leave;
        World world(options);
        Load load{world, Class::bulk, 128 * 1024};
        world.on_step = [&] { load.step(); };
        world.run_until(world.now_ns() + 5 * kNsPerSecond);
        const Stats stats = world.a().stats(world.now_ns());
        EXPECT_NEAR(static_cast<double>(stats.loss_burst_milli), 1000 / leave, 400 / leave);
        EXPECT_NEAR(static_cast<double>(stats.loss_ppm), 10'000, 8'000);
    }
}

// Packets that overtake each other by up to 15 ms, always: few are taken for lost, and the rate
// stays.
TEST(Rate, PersistentReorderingIsTolerated) {
    World::Options options = options_for({.queue = queue_ms(100e6, 50)}, 9);
    options.a_to_b.reorder = 0.1;
    options.a_to_b.reorder_ns = 15 * kNsPerMs;
    World world(options);
    const uint64_t start = connect(world);
    Load load{world, Class::bulk, 128 * 1024};
    world.on_step = [&] { load.step(); };
    world.run_until(start + 2 * kNsPerSecond);
    const uint64_t before = load.delivered;
    const Stats early = world.a().stats(world.now_ns());
    world.run_until(start + 7 * kNsPerSecond);
    const Stats late = world.a().stats(world.now_ns());
    const double held = static_cast<double>(load.delivered - before) * 8 / 5 / 100e6;
    const double resent = static_cast<double>(late.packets_lost - early.packets_lost) /
                          static_cast<double>(late.packets_sent - early.packets_sent);
    std::printf("10%% late by up to 15 ms: %.1f%%, sent again %.2f%%\n", held * 100, resent * 100);
    EXPECT_GE(held, 0.9);
    EXPECT_LE(resent, 0.01);
}

// The last packet of a message is lost and nothing follows: a probe brings it, not a long timeout.
TEST(Rate, ALostTailIsProbedForSoon) {
    World world(options_for({}, 9));
    connect(world);
    world.run_until(world.now_ns() + kNsPerSecond);
    for (int i = 0; i < 20; ++i) {  // a settled estimate of the round trip
        ASSERT_EQ(world.a().send(Class::demand, world.a().session(), Bytes(1000)), SendResult::ok);
        world.run_until(world.now_ns() + 50 * kNsPerMs);
        ASSERT_TRUE(world.b().take(Class::demand));
    }
    const uint64_t start = world.now_ns();
    world.link(0).loss = 1;
    ASSERT_EQ(world.a().send(Class::demand, world.a().session(), Bytes(1000)), SendResult::ok);
    world.run_until(start + kNsPerMs);
    world.link(0).loss = 0;
    ASSERT_TRUE(world.run_until(start + kNsPerSecond,
                                [&] { return world.b().take(Class::demand).has_value(); }));
    // A round trip, its deviation, the peer's delay of 5 ms, and the way there.
    EXPECT_LE(world.now_ns() - start, 60 * kNsPerMs);
    EXPECT_GE(world.a().stats(world.now_ns()).probes_sent, 1u);
}

TEST(Rate, MemoryIsBoundedAndSaid) {
    World world(options_for({.loss = 0.01}, 9));
    connect(world);
    const uint64_t most = Endpoint::memory_bytes_max(EndpointConfig{});
    EXPECT_LT(most, 256u << 20);
    const uint64_t idle = world.a().stats(world.now_ns()).memory_bytes;
    Load load{world, Class::bulk, 128 * 1024};
    uint64_t peak = 0;
    world.on_step = [&] {
        load.step();
        peak = std::max(peak, world.a().stats(world.now_ns()).memory_bytes);
    };
    world.run_until(world.now_ns() + 300 * kNsPerMs);
    EXPECT_GT(peak, idle + 256 * 1024);
    EXPECT_LE(peak, most);
    EXPECT_EQ(world.a().stats(world.now_ns()).memory_bytes_max, most);
    std::printf("memory per connection: %.1f MiB idle, at most %.1f MiB\n",
                static_cast<double>(idle) / (1 << 20), static_cast<double>(most) / (1 << 20));
}

}  // namespace
}  // namespace evac::wan::testing
