// Scavenger mode beside one modelled TCP flow (rate_world.hpp), in virtual time.
#include <gtest/gtest.h>

#include "rate_world.hpp"

namespace evac::wan::testing {
namespace {

constexpr double kRate = 100e6;
constexpr uint64_t kSeconds = 20;  // with the TCP flow

double share(uint64_t bytes, double seconds) {
    return static_cast<double>(bytes) * 8 / seconds / kRate;
}

double alone(const Path& path, bool cubic) {
    World world(options_for(path, 5));
    const uint64_t start = connect(world);
    TcpFlow tcp(world, cubic);
    tcp.start();
    world.run_until(start + kSeconds * kNsPerSecond);
    return share(tcp.delivered_bytes(), kSeconds);
}

struct Beside {
    double tcp, ours, after;
};

// `late`: our load starts 5 s after the TCP flow, else 3 s before it.
Beside beside(const Path& path, bool cubic, bool late, bool scavenger = true) {
    World world(options_for(path, 5));
    connect(world);
    world.a().set_scavenger(scavenger);
    Load load{world, Class::bulk, 128 * 1024};
    bool loaded = !late;
    world.on_step = [&] {
        if (loaded) load.step();
    };
    world.run_until(world.now_ns() + 3 * kNsPerSecond);
    TcpFlow tcp(world, cubic);
    const uint64_t start = world.now_ns();
    tcp.start();
    if (late) {
        world.run_until(start + 5 * kNsPerSecond);
        loaded = true;
    }
    const uint64_t before = load.delivered;
    world.run_until(start + kSeconds * kNsPerSecond);
    const double tcp_share = share(tcp.delivered_bytes(), kSeconds);
    const double ours = share(load.delivered - before, kSeconds);
    tcp.stop();
    // A second and ten round trips to come back, then one second measured.
    world.run_until(world.now_ns() + kNsPerSecond + static_cast<uint64_t>(10 * path.rtt_ms * 1e6));
    const uint64_t back = load.delivered;
    world.run_until(world.now_ns() + kNsPerSecond);
    return {tcp_share, ours, share(load.delivered - back, 1)};
}

TEST(Scavenger, LeavesTcpNineTenthsOfWhatItGetsAlone) {
    for (const double rtt : {20.0, 100.0, 200.0}) {
        for (const bool cubic : {true, false}) {
            if (!cubic && rtt > 20) continue;
            const Path path{.rtt_ms = rtt, .queue = queue_ms(kRate, 50)};
            const double tcp_alone = alone(path, cubic);
            for (const bool late : {false, true}) {
                const Beside b = beside(path, cubic, late);
                std::printf(
                    "%s, RTT %.0f ms, ours starts %s: alone %.1f%%, beside us %.1f%%; ours %.1f%%, "
                    "later %.1f%%\n",
                    cubic ? "cubic" : "reno", rtt, late ? "later" : "first", tcp_alone * 100,
                    b.tcp * 100, b.ours * 100, b.after * 100);
                EXPECT_GE(b.tcp, 0.9 * tcp_alone) << rtt << cubic << late;
                EXPECT_GE(b.after, rtt > 20 ? 0.6 : 0.8) << rtt << cubic << late;
            }
        }
    }
}

// In a queue of 5 ms we yield to a flow that is there; one that starts beside us may stay small
// (README, limits), so that is not asserted.
TEST(Scavenger, LeavesAFlowInASmallQueueAlone) {
    const Path path{.queue = 64 * 1024};
    const double tcp_alone = alone(path, true);
    const Beside b = beside(path, true, true);
    std::printf("queue 64 KiB: alone %.1f%%, beside us %.1f%%\n", tcp_alone * 100, b.tcp * 100);
    EXPECT_GE(b.tcp, 0.9 * tcp_alone);
}

// The other way round, so that the tests above mean something: without it we hold our share.
TEST(Scavenger, WithoutItWeDoNotYield) {
    const Beside b = beside({.queue = queue_ms(kRate, 50)}, true, false, false);
    std::printf("not scavenging beside cubic: cubic %.1f%%, ours %.1f%%\n", b.tcp * 100,
                b.ours * 100);
    EXPECT_GE(b.ours, 0.12);
}

TEST(Scavenger, YieldsWithinASecond) {
    World world(options_for({.queue = queue_ms(kRate, 50)}, 6));
    connect(world);
    world.a().set_scavenger(true);
    Load load{world, Class::bulk, 128 * 1024};
    world.on_step = [&] { load.step(); };
    world.run_until(world.now_ns() + 3 * kNsPerSecond);
    TcpFlow tcp(world, true);
    tcp.start();
    world.run_until(world.now_ns() + kNsPerSecond);
    const uint64_t before = load.delivered;
    world.run_until(world.now_ns() + kNsPerSecond);
    EXPECT_LE(share(load.delivered - before, 1), 0.3);
    world.run_until(world.now_ns() + 4 * kNsPerSecond);
    const Stats stats = world.a().stats(world.now_ns());
    EXPECT_EQ(stats.scavenging, 1u);
    EXPECT_GT(stats.queue_delay_ns, 3 * kNsPerMs);  // cubic's
}

TEST(Scavenger, AloneItFillsTheLink) {
    for (const double rtt : {20.0, 100.0, 200.0}) {
        for (const double loss : {0.0, 0.001, 0.01}) {
            World world(
                options_for({.rtt_ms = rtt, .queue = queue_ms(kRate, 50), .loss = loss}, 11));
            const uint64_t start = connect(world);
            world.a().set_scavenger(true);
            Load load{world, Class::bulk, 128 * 1024};
            world.on_step = [&] { load.step(); };
            world.run_until(start + 2 * kNsPerSecond);
            const uint64_t before = load.delivered;
            world.run_until(start + 12 * kNsPerSecond);
            const double held = share(load.delivered - before, 10);
            std::printf("alone, RTT %.0f ms, loss %.1f%%: %.1f%%\n", rtt, loss * 100, held * 100);
            // At 200 ms the start is not over within 2 s.
            EXPECT_GE(held, rtt > 100 ? 0.85 : 0.9) << rtt << " " << loss;
        }
    }
}

// The latecomer: the session itself begins while the queue stands, so the base delay is taken too
// high. The sawtooth of the other flow shows the true one.
TEST(Scavenger, ABaseDelayMeasuredInAStandingQueueIsCorrected) {
    const Path path{.queue = queue_ms(kRate, 50)};
    World world(options_for(path, 5));
    TcpFlow tcp(world, true);
    tcp.start();
    world.a().set_scavenger(true);
    Load load{world, Class::bulk, 128 * 1024};
    const uint64_t start = world.now_ns();
    world.run_until(start + 5 * kNsPerSecond);
    world.on_step = [&] { load.step(); };
    connect(world);
    world.run_until(start + 25 * kNsPerSecond);
    const double tcp_share = share(tcp.delivered_bytes(), 25);
    std::printf("session made in cubic's queue: cubic %.1f%%, ours %.1f%%\n", tcp_share * 100,
                share(load.delivered, 20) * 100);
    EXPECT_GE(tcp_share, 0.85 * alone(path, true));
}

TEST(Scavenger, ControlAndDemandDoNotStarve) {
    World world(options_for({.queue = queue_ms(kRate, 50)}, 8));
    connect(world);
    world.a().set_scavenger(true);
    Load bulk{world, Class::bulk, 128 * 1024};
    Load demand{world, Class::demand, 16 * 1024};
    std::vector<uint64_t> waits_ns;
    world.on_step = [&] {
        bulk.step();
        demand.step();
        while (auto m = world.b().take(Class::control)) {
            ByteReader reader(m->bytes);
            waits_ns.push_back(world.now_ns() - reader.le64());
        }
    };
    TcpFlow tcp(world, true);
    tcp.start();
    world.run_until(world.now_ns() + 3 * kNsPerSecond);
    const uint64_t before = demand.delivered;
    const uint64_t start = world.now_ns();
    for (uint64_t t = 0; t < 4500; t += 50) {
        world.at(start + t * kNsPerMs, [&] {
            Bytes m;
            ByteWriter(m).le64(world.now_ns());
            m.resize(1024);
            ASSERT_EQ(world.a().send(Class::control, world.a().session(), std::move(m)),
                      SendResult::ok);
        });
    }
    world.run_until(start + 5 * kNsPerSecond);
    const double rate = static_cast<double>(demand.delivered - before) * 8 / 5;
    std::sort(waits_ns.begin(), waits_ns.end());
    std::printf("beside cubic: demand %.1f Mbit/s, control median %.1f ms\n", rate / 1e6,
                static_cast<double>(waits_ns[waits_ns.size() / 2]) / 1e6);
    EXPECT_GE(rate, 3e6);  // 64 KiB per round trip of 70 ms is 7 Mbit/s
    ASSERT_EQ(waits_ns.size(), 90u);
    // The path's 10 ms, cubic's queue of 50 ms, and a little.
    EXPECT_LE(waits_ns[waits_ns.size() / 2], 70 * kNsPerMs);
}

}  // namespace
}  // namespace evac::wan::testing
