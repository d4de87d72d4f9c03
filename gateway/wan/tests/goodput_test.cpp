// Goodput and latency over modelled paths, in virtual time: deterministic, so they may be asserted.
#include <gtest/gtest.h>

#include <cstdio>

#include "rate_world.hpp"

namespace evac::wan::testing {
namespace {

struct Figures {
    double hold_share;  // after the first second
    double reached_85_ms;
    Stats stats;
};

Figures measure(const Path& path, double seconds, uint64_t seed = 7) {
    World world(options_for(path, seed));
    Load load{world, Class::bulk, 128 * 1024};
    world.on_step = [&] { load.step(); };
    const uint64_t start = world.now_ns();
    double reached = -1;
    uint64_t before = 0;
    uint64_t first_second = 0;
    const uint64_t slice = 50 * kNsPerMs;
    for (uint64_t t = start + slice; t <= start + static_cast<uint64_t>(seconds * 1e9);
         t += slice) {
        world.run_until(t);
        const double share = static_cast<double>(load.delivered - before) * 8e9 /
                             static_cast<double>(slice) / path.rate;
        if (reached < 0 && share > 0.85) reached = static_cast<double>(t - start) / 1e6;
        before = load.delivered;
        if (t <= start + kNsPerSecond) first_second = load.delivered;
    }
    return {static_cast<double>(load.delivered - first_second) * 8 / (seconds - 1) / path.rate,
            reached, world.a().stats(world.now_ns())};
}

void print_row(const char* name, const Figures& f) {
    std::printf("%-42s %6.1f%% %10.0f %7llu %8llu %7.1f\n", name, f.hold_share * 100,
                f.reached_85_ms, static_cast<unsigned long long>(f.stats.packets_lost),
                static_cast<unsigned long long>(f.stats.packets_spurious),
                static_cast<double>(f.stats.rtt_smoothed_ns) / 1e6);
}

void report(const char* name, const Path& path, double seconds, double share_min) {
    const Figures f = measure(path, seconds);
    print_row(name, f);
    EXPECT_GT(f.hold_share, share_min) << name;
}

TEST(Goodput, ReachesAndHoldsTheLinkDespiteRandomLoss) {
    std::printf("%-42s %7s %10s %7s %8s %7s\n", "path (goodput after 1 s, share of the link)",
                "goodput", "85% at ms", "lost", "spurious", "rtt ms");
    for (const size_t queue : {64u * 1024, 256u * 1024}) {
        for (const double loss : {0.0, 0.001, 0.01, 0.03}) {
            Path path;
            path.queue = queue;
            path.loss = loss;
            const Figures f = measure(path, 2.5);
            char name[64];
            std::snprintf(name, sizeof name, "100 Mbit/s 20 ms queue %3zu KiB loss %.1f%%",
                          queue / 1024, loss * 100);
            print_row(name, f);
            EXPECT_GT(f.hold_share, loss >= 0.03 ? 0.85 : 0.90) << name;
            EXPECT_GT(f.reached_85_ms, 0) << name;
            EXPECT_LT(f.reached_85_ms, 600) << name;
        }
    }
}

// The figures of the product: 14 s from the session's start, and 2 to 30 s. In order, as the
// receiver's user gets it, so the last round trip of a run does not count.
TEST(Goodput, HoldsTheLinkAtAllDelaysAndLosses) {
    struct Loss {
        const char* name;
        double random, burst, least;
    };
    std::printf("%-42s %7s %9s\n", "path (100 Mbit/s)", "0-14 s", "2-30 s");
    for (const double rtt : {20.0, 100.0, 200.0}) {
        for (const Loss& loss :
             {Loss{"0", 0, 0, 0.93}, Loss{"0.1%", 0.001, 0, 0.93}, Loss{"1%", 0.01, 0, 0.93},
              Loss{"3%", 0.03, 0, 0.90}, Loss{"1% in bursts of 4", 0, 0.01, 0.93},
              Loss{"3% in bursts of 4", 0, 0.03, 0.90}}) {
            for (const size_t queue : {queue_ms(100e6, 50), size_t{64 * 1024}}) {
                if (queue == 64 * 1024 && rtt > 20) continue;
                // Bursts are rare: two runs, so that what is lost comes near the share asked for.
                const uint64_t last_seed = loss.burst > 0 ? 12 : 11;
                double whole = 0, held = 0;
                for (uint64_t seed = 11; seed <= last_seed; ++seed) {
                    World world(options_for({.rtt_ms = rtt,
                                             .queue = queue,
                                             .loss = loss.random,
                                             .burst_enter = burst_enter_for(loss.burst),
                                             .burst_loss = 1},
                                            seed));
                    const uint64_t start = connect(world);
                    Load load{world, Class::bulk, 128 * 1024};
                    world.on_step = [&] { load.step(); };
                    world.run_until(start + 2 * kNsPerSecond);
                    const uint64_t at_2 = load.delivered;
                    world.run_until(start + 14 * kNsPerSecond);
                    whole += static_cast<double>(load.delivered) * 8 / 14 / 100e6;
                    world.run_until(start + 30 * kNsPerSecond);
                    held += static_cast<double>(load.delivered - at_2) * 8 / 28 / 100e6;
                }
                whole /= static_cast<double>(last_seed - 10);
                held /= static_cast<double>(last_seed - 10);
                char name[80];
                std::snprintf(name, sizeof name, "%3.0f ms queue %3zu KiB loss %s", rtt,
                              queue / 1024, loss.name);
                std::printf("%-42s %6.1f%% %8.1f%%\n", name, whole * 100, held * 100);
                EXPECT_GE(held, loss.least) << name;
                // A start of three round trips, and one under way (or waiting for one) at the end.
                EXPECT_GE(whole, loss.least - 0.005 - 5 * rtt / 14e3) << name;
            }
        }
    }
}

TEST(Goodput, AnOutageCostsLittleMoreThanItself) {
    for (const double rtt : {20.0, 100.0, 200.0}) {
        for (const double loss : {0.0, 0.01}) {
            for (const uint64_t seconds : {2u, 10u}) {
                World world(
                    options_for({.rtt_ms = rtt, .queue = queue_ms(100e6, 50), .loss = loss}, 5));
                const uint64_t start = connect(world);
                Load load{world, Class::bulk, 128 * 1024};
                world.on_step = [&] { load.step(); };
                world.run_until(start + 6 * kNsPerSecond);
                world.link(0).outage = world.link(1).outage = true;
                const uint64_t back = start + (6 + seconds) * kNsPerSecond + 37 * kNsPerMs;
                world.run_until(back);
                world.link(0).outage = world.link(1).outage = false;
                // Full rate within 300 ms and two round trips of the line's return.
                world.run_until(back + 300 * kNsPerMs + static_cast<uint64_t>(2 * rtt * 1e6));
                const uint64_t before = world.link_bytes(0);
                const uint64_t lost = world.dropped_by_queue();
                world.run_until(world.now_ns() + 200 * kNsPerMs);
                const double full =
                    static_cast<double>(world.link_bytes(0) - before) * 8 / 0.2 / 100e6;
                EXPECT_GE(full, 0.95) << rtt << " ms, outage " << seconds << " s";
                EXPECT_EQ(world.dropped_by_queue(), lost);
                if (seconds == 10) continue;
                world.run_until(start + 14 * kNsPerSecond);
                const double share = static_cast<double>(load.delivered) * 8 / 14 / 100e6;
                std::printf("%3.0f ms, loss %.0f%%, 2 s outage in 14 s: %.1f%%\n", rtt, loss * 100,
                            share * 100);
                // 12 of 14 s at 94 %; start, return and end cost a few round trips.
                EXPECT_GE(share, rtt < 50 ? 0.78 : 0.80 - 5 * rtt / 14e3) << rtt;
            }
        }
    }
}

// 1 KiB of control every 7 ms behind saturated bulk, once the start is over: after one second, at
// 200 ms after four (the bursts of the start take round trips to smooth: 12 ms from 1 s on).
TEST(Classes, ControlWaitsAtMost8MsBehindBulk) {
    for (const double rtt : {20.0, 100.0, 200.0}) {
        for (const double rate : {20e6, 100e6}) {
            World world(options_for({.rate = rate, .rtt_ms = rtt, .queue = queue_ms(rate, 50)}, 3));
            const uint64_t start = connect(world);
            const uint64_t first = rtt > 100 ? 4000 : 1000;
            Load bulk{world, Class::bulk, 128 * 1024};
            std::vector<double> waits_ms;
            world.on_step = [&] {
                bulk.step();
                while (auto m = world.b().take(Class::control)) {
                    ByteReader reader(m->bytes);
                    waits_ms.push_back(static_cast<double>(world.now_ns() - reader.le64()) / 1e6 -
                                       rtt / 2);
                }
            };
            for (uint64_t t = first; t < first + 12'000; t += 7) {
                world.at(start + t * kNsPerMs, [&] {
                    Bytes m;
                    ByteWriter(m).le64(world.now_ns());
                    m.resize(1024);
                    ASSERT_EQ(world.a().send(Class::control, world.a().session(), std::move(m)),
                              SendResult::ok);
                });
            }
            world.run_until(start + (first + 13'000) * kNsPerMs);
            std::sort(waits_ms.begin(), waits_ms.end());
            ASSERT_GT(waits_ms.size(), 1700u);
            const double p99 = waits_ms[waits_ms.size() * 99 / 100];
            std::printf("control, %.0f Mbit/s, RTT %.0f ms: median +%.1f ms, 99%% +%.1f ms\n",
                        rate / 1e6, rtt, waits_ms[waits_ms.size() / 2], p99);
            EXPECT_LE(p99, 8) << rtt << " ms " << rate;
        }
    }
}

TEST(Goodput, OtherPaths) {
    report("jitter 5 ms", {.jitter_ns = 5 * kNsPerMs}, 3, 0.85);
    report("ceiling = link, loss 1%", {.loss = 0.01, .ceiling = 100'000'000}, 3, 0.88);
    report("bursts of 4, 2%", {.burst_enter = 0.005}, 3, 0.85);
    report("200 ms, loss 1%", {.rtt_ms = 200, .queue = 512 * 1024, .loss = 0.01}, 6, 0.6);
    report("1 Gbit/s, loss 1%", {.rate = 1e9, .queue = 512 * 1024, .loss = 0.01}, 1.3, 0.85);
    report("2 Mbit/s, loss 1%", {.rate = 2e6, .queue = 64 * 1024, .loss = 0.01}, 10, 0.85);
    report("RTT 1 ms, loss 0.1%", {.rtt_ms = 1, .queue = 64 * 1024, .loss = 0.001}, 2, 0.85);
}

TEST(Goodput, TheCeilingHolds) {
    const Path path{.loss = 0.001, .ceiling = 40'000'000};
    World world(options_for(path, 3));
    Load load{world, Class::bulk, 128 * 1024};
    world.on_step = [&] { load.step(); };
    world.run_until(world.now_ns() + kNsPerSecond);
    const uint64_t before = world.link_bytes(0);
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    const double rate = static_cast<double>(world.link_bytes(0) - before) * 8 / 2;
    EXPECT_LE(rate, 40.5e6);
    EXPECT_GE(rate, 38e6);
    world.a().set_ceiling_bits_per_s(80'000'000);  // an alert raises the budget
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    const uint64_t raised = world.link_bytes(0);
    world.run_until(world.now_ns() + kNsPerSecond);
    EXPECT_GE(static_cast<double>(world.link_bytes(0) - raised) * 8, 72e6);
}

TEST(Goodput, FollowsTheLinkDownAndUp) {
    World world(options_for({}, 4));
    Load load{world, Class::bulk, 128 * 1024};
    world.on_step = [&] { load.step(); };
    const auto rate_over_second = [&] {
        const uint64_t before = load.delivered;
        world.run_until(world.now_ns() + kNsPerSecond);
        return static_cast<double>(load.delivered - before) * 8;
    };
    world.run_until(world.now_ns() + kNsPerSecond);
    EXPECT_GT(rate_over_second(), 88e6);
    world.link(0).rate_bits_per_s = 20e6;
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    EXPECT_GT(rate_over_second(), 17e6);
    EXPECT_LT(world.a().stats(world.now_ns()).delivery_rate_bits_per_s, 30'000'000u);
    world.link(0).rate_bits_per_s = 100e6;
    world.run_until(world.now_ns() + 3 * kNsPerSecond);
    EXPECT_GT(rate_over_second(), 80e6);
}

// A 2 s outage costs 2 s and little more: no reset, no exponential stall, near the last rate at
// once.
TEST(Goodput, ResumesAfterAnOutageNearTheLastRate) {
    World world(options_for({.loss = 0.001}, 5));
    Load load{world, Class::bulk, 128 * 1024};
    world.on_step = [&] { load.step(); };
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    world.link(0).outage = world.link(1).outage = true;
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    world.link(0).outage = world.link(1).outage = false;
    const uint64_t before = load.delivered;
    world.run_until(world.now_ns() + 500 * kNsPerMs);
    const double share = static_cast<double>(load.delivered - before) * 8 / 0.5 / 100e6;
    std::printf("goodput in the first 500 ms after a 2 s outage: %.0f%%\n", share * 100);
    EXPECT_GT(share, 0.6);
    EXPECT_EQ(world.a().stats(world.now_ns()).sessions, 1u);
}

// Control every 20 ms while everything else is saturated: it must not queue behind bulk in our
// process.
TEST(Classes, ControlAndDemandPassSaturatedBulk) {
    World world(options_for({.loss = 0.001}, 6));
    Load bulk{world, Class::bulk, 256 * 1024};
    Load disk{world, Class::disk, 256 * 1024};
    std::array<std::vector<double>, 2> latency_ms;
    const std::array<Class, 2> urgent{Class::control, Class::demand};
    world.on_step = [&] {
        bulk.step();
        disk.step();
        for (size_t i = 0; i < 2; ++i) {
            while (auto m = world.b().take(urgent[i])) {
                ByteReader reader(m->bytes);
                latency_ms[i].push_back(static_cast<double>(world.now_ns() - reader.le64()) / 1e6);
            }
        }
    };
    const uint64_t start = world.now_ns();
    for (uint64_t t = 500; t < 3000; t += 20) {
        world.at(start + t * kNsPerMs, [&] {
            for (const Class c : urgent) {
                Bytes m;
                ByteWriter(m).le64(world.now_ns());
                m.resize(200);
                ASSERT_EQ(world.a().send(c, world.a().session(), std::move(m)), SendResult::ok);
            }
        });
    }
    world.run_until(start + 3500 * kNsPerMs);
    for (size_t i = 0; i < 2; ++i) {
        auto& l = latency_ms[i];
        ASSERT_EQ(l.size(), 125u);
        std::sort(l.begin(), l.end());
        std::printf(
            "%s under saturated bulk, one way: median %.1f ms, 95%% %.1f ms, max %.1f ms (path 10 "
            "ms)\n",
            to_string(urgent[i]), l[l.size() / 2], l[l.size() * 95 / 100], l.back());
        EXPECT_LT(l[l.size() / 2], 25);
        EXPECT_LT(l.back(), 80);  // a lost one comes again within about two round trips
    }
    EXPECT_GT(bulk.delivered + disk.delivered, 20u << 20);
}

// Control may run ahead of the pacing, but only a little: saturated with control the ceiling still
// holds, and what waits behind it goes on at once when it ends.
TEST(Classes, SaturatedControlObeysTheCeiling) {
    World world(options_for({.rate = 1e9, .queue = 512 * 1024, .ceiling = 50'000'000}, 10));
    Load control{world, Class::control, 10 * 1024};
    Load bulk{world, Class::bulk, 64 * 1024};
    bool saturate = true;
    world.on_step = [&] {
        if (saturate) control.step();
        bulk.step();
    };
    world.run_until(world.now_ns() + kNsPerSecond);
    const uint64_t before = world.link_bytes(0);
    world.run_until(world.now_ns() + kNsPerSecond);
    EXPECT_LE(static_cast<double>(world.link_bytes(0) - before) * 8, 51e6);
    saturate = false;
    const uint64_t bulk_before = bulk.delivered;
    world.run_until(world.now_ns() + 300 * kNsPerMs);
    EXPECT_GT(static_cast<double>(bulk.delivered - bulk_before) * 8 / 0.3, 25e6);
}

TEST(Classes, DiskAndBulkShareByWeight) {
    World world(options_for({}, 8));
    Load bulk{world, Class::bulk, 64 * 1024};
    Load disk{world, Class::disk, 64 * 1024};
    world.on_step = [&] {
        bulk.step();
        disk.step();
    };
    world.run_until(world.now_ns() + 3 * kNsPerSecond);
    const double ratio = static_cast<double>(disk.delivered) / static_cast<double>(bulk.delivered);
    std::printf("disk : bulk = %.2f\n", ratio);
    EXPECT_NEAR(ratio, 2.0, 0.1);
}

TEST(Classes, DemandStarvesTheRestWhileItLasts) {
    World world(options_for({}, 9));
    Load demand{world, Class::demand, 128 * 1024};
    Load bulk{world, Class::bulk, 128 * 1024};
    world.on_step = [&] {
        bulk.step();
        demand.step();
    };
    world.run_until(world.now_ns() + 2 * kNsPerSecond);
    EXPECT_LT(static_cast<double>(bulk.delivered), 0.05 * static_cast<double>(demand.delivered));
}

}  // namespace
}  // namespace evac::wan::testing
