#include "link_model.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace wan_emulator {
namespace {

constexpr uint64_t kMs = 1'000'000, kSecond = 1'000'000'000;

LinkSettings clean() {
    LinkSettings settings;
    settings.rate_bits_per_s = 100'000'000;
    settings.delay_ns = 10 * kMs;
    settings.queue_bytes = 1 << 20;
    return settings;
}

std::vector<LinkModel::Due> pop_all(LinkModel& model, uint64_t now_ns = kNever - 1) {
    std::vector<LinkModel::Due> all;
    while (const auto due = model.pop_due(now_ns)) all.push_back(*due);
    return all;
}

TEST(LinkModel, ALonePacketTakesItsTransmissionAndTheDelay) {
    LinkModel model(clean(), 1, 100);
    EXPECT_EQ(model.next_due_ns(), kNever);
    ASSERT_TRUE(model.arrive(kSecond, 1250, 7));  // 100 us at 100 Mbit/s
    EXPECT_EQ(model.next_due_ns(), kSecond + 10'100'000);
    EXPECT_FALSE(model.pop_due(kSecond + 10'099'999).has_value());
    const auto due = model.pop_due(kSecond + 10'100'000);
    ASSERT_TRUE(due.has_value());
    EXPECT_EQ(due->handle, 7U);
    EXPECT_TRUE(due->deliver);
    EXPECT_EQ(due->due_ns, kSecond + 10'100'000);
    EXPECT_EQ(model.packets(), 0U);
}

TEST(LinkModel, TheRateIsExactHoweverHardItIsPushed) {
    LinkModel model(clean(), 1, 10000);
    // Twice the link's rate for 10 s of virtual time.
    std::vector<LinkModel::Due> due;
    for (uint64_t i = 0; i < 200'000; ++i) {
        model.arrive(i * 50'000, 1250, 0);
        while (const auto next = model.pop_due(i * 50'000)) due.push_back(*next);
    }
    for (const auto& next : pop_all(model)) due.push_back(next);
    for (size_t i = 1; i < due.size(); ++i) ASSERT_EQ(due[i].due_ns - due[i - 1].due_ns, 100'000U);
    // 10 s of link time and then the queue's content (1 MiB = 838 packets).
    EXPECT_NEAR(static_cast<double>(due.size()), 100'838, 2);
    EXPECT_EQ(model.counters().busy_ns, due.size() * 100'000);
    EXPECT_EQ(model.counters().dropped_queue + due.size(), 200'000U);
}

TEST(LinkModel, TheQueueDropsItsTailAtItsSizeInBytes) {
    LinkSettings settings = clean();
    settings.queue_bytes = 10'000;
    LinkModel model(settings, 1, 1000);
    int accepted = 0;
    for (int i = 0; i < 100; ++i) accepted += model.arrive(kSecond, 1000, 0) ? 1 : 0;
    EXPECT_EQ(accepted, 11);  // one in transmission, ten waiting
    EXPECT_EQ(model.queued_bytes(), 10'000U);
    EXPECT_EQ(model.counters().queue_bytes_peak, 10'000U);
    EXPECT_EQ(model.counters().dropped_queue, 89U);
    EXPECT_TRUE(model.arrive(kSecond + 80'000, 1000, 0));  // one has been transmitted since
    EXPECT_FALSE(model.arrive(kSecond + 80'000, 1000, 0));
}

TEST(LinkModel, AQueueOfZeroBytesStillCarriesAnIdleLinksPacket) {
    LinkSettings settings = clean();
    settings.queue_bytes = 0;
    LinkModel model(settings, 1, 1000);
    EXPECT_TRUE(model.arrive(kSecond, 1250, 0));
    EXPECT_FALSE(model.arrive(kSecond + 50'000, 1250, 0));
    EXPECT_TRUE(model.arrive(kSecond + 100'000, 1250, 0));
}

TEST(LinkModel, AStalledLoopChangesNothing) {
    // The same arrivals, looked at promptly or all at the end, are due at the same times.
    evac::Random random(3);
    LinkSettings settings = clean();
    settings.jitter_ns = 5 * kMs;
    settings.loss = 0.05;
    settings.queue_bytes = 20'000;
    LinkModel prompt(settings, 9, 10000), stalled(settings, 9, 10000);
    std::vector<LinkModel::Due> from_prompt;
    uint64_t at_ns = 0;
    for (uint32_t i = 0; i < 5000; ++i) {
        const uint64_t gap_ns = random.below(110'000);
        for (uint64_t t = 0; t <= gap_ns; t += 10'000) {  // the prompt one looks every 10 us
            while (const auto due = prompt.pop_due(at_ns + t)) from_prompt.push_back(*due);
        }
        at_ns += gap_ns;
        const auto bytes = static_cast<uint32_t>(60 + random.below(1455));
        ASSERT_EQ(prompt.arrive(at_ns, bytes, i), stalled.arrive(at_ns, bytes, i));
    }
    for (const auto& due : pop_all(prompt)) from_prompt.push_back(due);
    const auto from_stalled = pop_all(stalled);
    ASSERT_GT(prompt.counters().dropped_queue, 0U);
    ASSERT_GT(prompt.counters().lost_random, 0U);
    ASSERT_EQ(from_prompt.size(), from_stalled.size());
    for (size_t i = 0; i < from_prompt.size(); ++i) {
        ASSERT_EQ(from_prompt[i].due_ns, from_stalled[i].due_ns);
        ASSERT_EQ(from_prompt[i].handle, from_stalled[i].handle);
        ASSERT_EQ(from_prompt[i].deliver, from_stalled[i].deliver);
    }
}

TEST(LinkModel, JitterStaysInItsRangeAndKeepsOrder) {
    LinkSettings settings = clean();
    settings.jitter_ns = 3 * kMs;
    LinkModel model(settings, 5, 1000);
    uint64_t last_ns = 0, low_ns = kNever, high_ns = 0;
    for (uint32_t i = 0; i < 2000; ++i) {
        const uint64_t at_ns = (i + 1) * 10 * kMs;  // far apart: order does not push
        ASSERT_TRUE(model.arrive(at_ns, 1250, i));
        const auto due = pop_all(model, at_ns + 14 * kMs);
        ASSERT_EQ(due.size(), 1U);
        const uint64_t extra_ns = due[0].due_ns - at_ns - 10'100'000;
        low_ns = std::min(low_ns, extra_ns);
        high_ns = std::max(high_ns, extra_ns);
        ASSERT_GE(due[0].due_ns, last_ns);
        last_ns = due[0].due_ns;
    }
    EXPECT_LT(low_ns, 100'000U);
    EXPECT_GT(high_ns, 2'900'000U);
    EXPECT_LE(high_ns, 3'000'000U);
}

// Runs `packets` through and tells which were lost.
std::vector<bool> losses(const LinkSettings& settings, uint64_t seed, uint32_t packets) {
    LinkModel model(settings, seed, 16);
    std::vector<bool> lost;
    for (uint32_t i = 0; i < packets; ++i) {
        EXPECT_TRUE(model.arrive((i + 1) * kMs, 1250, i));
        for (const auto& due : pop_all(model)) lost.push_back(!due.deliver);
    }
    return lost;
}

TEST(LinkModel, RandomLossHasItsShareAndRepeatsWithItsSeed) {
    LinkSettings settings = clean();
    settings.loss = 0.01;
    constexpr uint32_t n = 200'000;
    const auto lost = losses(settings, 1, n);
    const double count = static_cast<double>(std::count(lost.begin(), lost.end(), true));
    EXPECT_NEAR(count, n * 0.01, 5 * std::sqrt(n * 0.01 * 0.99));
    EXPECT_EQ(lost, losses(settings, 1, n));
    EXPECT_NE(lost, losses(settings, 2, n));
}

TEST(LinkModel, GilbertElliottHasItsShareAndItsBursts) {
    LinkSettings settings = clean();
    settings.ge_loss = 0.03;
    settings.ge_burst = 4;
    constexpr uint32_t n = 400'000;
    const auto lost = losses(settings, 1, n);
    double count = 0, bursts = 0;
    for (size_t i = 0; i < lost.size(); ++i) {
        count += lost[i] ? 1 : 0;
        bursts += lost[i] && (i == 0 || !lost[i - 1]) ? 1 : 0;
    }
    // Losses come in bursts, so their count spreads about sqrt(2 * burst) times wider than
    // independent ones.
    EXPECT_NEAR(count, n * 0.03, 5 * std::sqrt(n * 0.03 * 2 * 4));
    EXPECT_NEAR(count / bursts, 4, 0.3);
}

TEST(LinkModel, AnOutageTakesWhatIsSentInItAndUsesLinkTime) {
    LinkModel model(clean(), 1, 1000);
    ASSERT_TRUE(model.add_outage(5 * kSecond, 2 * kSecond, 0));
    uint64_t lost = 0, delivered = 0;
    for (uint32_t i = 1; i <= 100; ++i) {
        const uint64_t at_ns = i * 100 * kMs;
        ASSERT_TRUE(model.arrive(at_ns, 1250, i));
        for (const auto& due : pop_all(model, at_ns + 50 * kMs)) {
            ++(due.deliver ? delivered : lost);
            EXPECT_EQ(due.deliver, at_ns < 5 * kSecond || at_ns >= 7 * kSecond) << at_ns;
        }
    }
    EXPECT_EQ(lost, 20U);
    EXPECT_EQ(delivered, 80U);
    EXPECT_EQ(model.counters().lost_outage, 20U);
    EXPECT_EQ(model.counters().busy_ns, 100U * 100'000);
}

TEST(LinkModel, OutagesAreBoundedAndOldOnesMakeRoom) {
    LinkModel model(clean(), 1, 1000);
    for (size_t i = 0; i < LinkModel::kOutagesMax; ++i) {
        ASSERT_TRUE(model.add_outage(kSecond, kSecond, 0));
    }
    EXPECT_FALSE(model.add_outage(kSecond, kSecond, 0));
    EXPECT_TRUE(model.add_outage(3 * kSecond, kSecond, 2 * kSecond));
}

TEST(LinkModel, ANewRateAppliesToWhatWaits) {
    LinkModel model(clean(), 1, 1000);
    for (uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(model.arrive(kSecond, 1250, i));
    LinkSettings slower = clean();
    slower.rate_bits_per_s = 10'000'000;
    model.change(slower, kSecond + 150'000);  // the second packet is half through
    const auto due = pop_all(model);
    ASSERT_EQ(due.size(), 3U);
    EXPECT_EQ(due[0].due_ns, kSecond + 10'100'000);
    EXPECT_EQ(due[1].due_ns, kSecond + 10'200'000);
    EXPECT_EQ(due[2].due_ns, kSecond + 11'200'000);
}

TEST(LinkModel, UnlimitedRateAndBoundedMemory) {
    LinkSettings settings = clean();
    settings.rate_bits_per_s = 0;
    LinkModel model(settings, 1, 100);
    for (uint32_t i = 0; i < 150; ++i) EXPECT_EQ(model.arrive(kSecond, 1500, i), i < 100);
    EXPECT_EQ(model.counters().dropped_memory, 50U);
    EXPECT_EQ(model.next_due_ns(), kSecond + 10 * kMs);
    EXPECT_EQ(pop_all(model).size(), 100U);
    EXPECT_TRUE(model.arrive(kSecond, 1500, 0));
}

TEST(LinkModel, EveryAcceptedPacketComesOutOnceInOrder) {
    evac::Random random(11);
    LinkSettings settings = clean();
    settings.queue_bytes = 30'000;
    settings.jitter_ns = kMs;
    settings.ge_loss = 0.1;
    settings.ge_burst = 3;
    LinkModel model(settings, 4, 64);
    uint32_t next_in = 0, next_out = 0;
    uint64_t now_ns = 0;
    for (int step = 0; step < 50'000; ++step) {
        now_ns += random.below(200'000);
        if (random.chance(0.6) &&
            model.arrive(now_ns, static_cast<uint32_t>(64 + random.below(1450)), next_in)) {
            ++next_in;
        }
        if (random.chance(0.01)) {
            settings.rate_bits_per_s = 1'000'000 * (1 + random.below(200));
            settings.delay_ns = random.below(20 * kMs);
            model.change(settings, now_ns);
        }
        if (random.chance(0.3)) {
            while (const auto due = model.pop_due(now_ns)) ASSERT_EQ(due->handle, next_out++);
        }
        ASSERT_EQ(model.packets(), next_in - next_out);
    }
    for (const auto& due : pop_all(model)) ASSERT_EQ(due.handle, next_out++);
    EXPECT_EQ(next_in, next_out);
    const LinkCounters& c = model.counters();
    EXPECT_EQ(c.offered_packets,
              c.delivered_packets + c.lost_burst + c.dropped_queue + c.dropped_memory);
    EXPECT_GT(c.dropped_queue, 0U);
    EXPECT_GT(c.dropped_memory, 0U);
}

}  // namespace
}  // namespace wan_emulator
