// The parts of a session against plain models under random operations.
#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "ack_tracker.hpp"
#include "evac/core/random.hpp"
#include "receive_stream.hpp"
#include "recovery.hpp"
#include "send_stream.hpp"

namespace evac::wan {
namespace {

TEST(IntervalSet, AgreesWithABitmap) {
    Random random(5);
    for (int round = 0; round < 200; ++round) {
        IntervalSet set;
        std::vector<bool> model(400);
        for (int i = 0; i < 60; ++i) {
            const auto begin = static_cast<uint32_t>(random.below(390));
            const auto end = static_cast<uint32_t>(
                begin + 1 + random.below(std::min<uint64_t>(10, 399 - begin)));
            bool touches = false;
            for (uint32_t k = begin == 0 ? 0 : begin - 1; k <= end && k < model.size(); ++k)
                touches = touches || model[k];
            EXPECT_EQ(set.separate(begin, end), !touches);
            ASSERT_TRUE(set.insert(begin, end));
            for (uint32_t k = begin; k < end; ++k) model[k] = true;
            size_t runs = 0, covered = 0;
            for (size_t k = 0; k < model.size(); ++k) {
                covered += model[k];
                runs += model[k] && (k == 0 || !model[k - 1]);
            }
            ASSERT_EQ(set.size(), runs);
            ASSERT_EQ(set.covered(), covered);
        }
    }
}

TEST(IntervalSet, RefusesOnePieceTooMany) {
    IntervalSet set;
    for (uint32_t i = 0; i < kIntervalsMax; ++i) ASSERT_TRUE(set.insert(10 * i, 10 * i + 5));
    EXPECT_FALSE(set.insert(10 * kIntervalsMax, 10 * kIntervalsMax + 1));
    EXPECT_EQ(set.size(), kIntervalsMax);
    EXPECT_TRUE(set.insert(5, 10));  // joins two
    EXPECT_EQ(set.size(), kIntervalsMax - 1);
}

TEST(AckTracker, AgreesWithASetOfNumbers) {
    Random random(6);
    for (int round = 0; round < 100; ++round) {
        AckTracker tracker;
        std::set<uint64_t> seen;
        uint64_t next = 0;
        for (int i = 0; i < 400; ++i) {
            next += random.chance(0.03) ? 2 : 1;
            uint64_t number = next;
            if (random.chance(0.05) && next > 20) number = next - random.below(20);
            if (!seen.insert(number).second) continue;
            tracker.on_received(i, number, true);
        }
        AckFrame ack;
        EXPECT_TRUE(tracker.pending());
        tracker.fill(400, ack);
        EXPECT_FALSE(tracker.pending());
        ASSERT_GE(ack.range_count, 1u);
        ASSERT_LE(ack.range_count, kAckRangesMax);
        EXPECT_EQ(ack.ranges[0].last, *seen.rbegin());
        for (size_t r = 0; r < ack.range_count; ++r) {
            for (uint64_t n = ack.ranges[r].first; n <= ack.ranges[r].last; ++n)
                EXPECT_EQ(seen.count(n), 1u);
            if (r > 0) {
                for (uint64_t n = ack.ranges[r].last + 1; n < ack.ranges[r - 1].first; ++n)
                    EXPECT_EQ(seen.count(n), 0u);
                EXPECT_LT(ack.ranges[r].last + 1, ack.ranges[r - 1].first);
            }
        }
    }
}

TEST(AckTracker, AcksAfterSomePacketsOrAtAGapOrAfterAWhile) {
    AckTracker tracker;
    tracker.on_received(1000, 0, true);
    EXPECT_EQ(tracker.due_ns(), 1000 + AckTracker::kAckDelayNs);
    tracker.on_received(1001, 2, true);  // 1 is missing
    EXPECT_EQ(tracker.due_ns(), 0u);
    AckFrame ack;
    tracker.fill(1002, ack);
    for (uint64_t n = 3; n < 3 + AckTracker::kAckEvery; ++n) tracker.on_received(2000, n, true);
    EXPECT_EQ(tracker.due_ns(), 0u);
    tracker.fill(2001, ack);
    tracker.on_received(3000, 3 + AckTracker::kAckEvery, false);
    EXPECT_FALSE(tracker.pending());  // acknowledgements are not acknowledged
    EXPECT_EQ(tracker.due_ns(), AckTracker::kNever);
}

Bytes pattern(size_t size, uint64_t salt) {
    Bytes out(size);
    for (size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>((i * 7 + salt) & 0xff);
    return out;
}

// A sender and a receiver joined by a bag that loses, repeats and reorders chunks.
TEST(Streams, DeliverEverythingOnceInOrderThroughABadBag) {
    for (uint64_t seed = 1; seed <= 12; ++seed) {
        Random random(seed);
        const size_t window = 600 * 1024;
        SendStream sender(Class::disk, 800 * 1024, 1442);
        ReceiveStream receiver(window);
        struct Flying {
            ChunkRef ref;
            Fragment fragment;  // views stay valid: unacknowledged bytes are not freed
            Bytes bytes;
        };
        std::deque<Flying> bag;
        uint64_t pushed = 0, taken = 0;
        const uint64_t total = 60;
        for (int i = 0; i < 2'000'000 && taken < total; ++i) {
            if (pushed < total) {
                Bytes m = pattern(1 + (pushed * 7717) % (pushed % 5 == 0 ? 200'000 : 3000), pushed);
                if (sender.push(std::move(m))) ++pushed;
            }
            if (const auto ref = sender.next(); ref && bag.size() < 50) {
                const Fragment f = sender.fragment(*ref);
                bag.push_back({*ref, f, Bytes(f.bytes.begin(), f.bytes.end())});
                sender.mark_sent(*ref);
            }
            if (!bag.empty() && random.chance(0.8)) {
                const size_t pick = random.below(bag.size());
                std::swap(bag[pick], bag.front());
                Flying f = std::move(bag.front());
                bag.pop_front();
                f.fragment.bytes = f.bytes;
                if (random.chance(0.1)) {
                    sender.mark_lost(f.ref);
                } else {
                    uint64_t planned = 0;
                    const auto verdict = receiver.check(f.fragment, planned);
                    ASSERT_TRUE(verdict == ReceiveStream::Verdict::ok ||
                                verdict == ReceiveStream::Verdict::duplicate ||
                                verdict == ReceiveStream::Verdict::full);
                    if (verdict == ReceiveStream::Verdict::full) {
                        sender.mark_lost(f.ref);
                    } else {
                        receiver.apply(f.fragment);
                        if (random.chance(0.1)) receiver.apply(f.fragment);
                        if (random.chance(0.1))
                            sender.mark_lost(f.ref);  // spurious: comes twice
                        else
                            sender.mark_acked(f.ref);
                    }
                }
            }
            ASSERT_LE(receiver.held_bytes(), window);
            ASSERT_LE(sender.unacked_bytes(), 800u * 1024);
            if (random.chance(0.3)) {
                if (auto m = receiver.take()) {
                    ASSERT_EQ(
                        *m, pattern(1 + (taken * 7717) % (taken % 5 == 0 ? 200'000 : 3000), taken));
                    ++taken;
                }
                sender.grant(receiver.credit());
            }
        }
        EXPECT_EQ(taken, total) << "seed " << seed;
        EXPECT_EQ(receiver.held_bytes(), 0u);
    }
}

TEST(Streams, SenderStopsAtTheCredit) {
    SendStream sender(Class::bulk, 64u << 20, 1442);
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(sender.push(Bytes(kMessageBytesMax)));
    uint64_t bytes = 0;
    while (const auto ref = sender.next()) {
        bytes += sender.fragment(*ref).bytes.size();
        sender.mark_sent(*ref);
    }
    EXPECT_EQ(bytes, kMessageBytesMax);  // two would cost 512 KiB plus their overhead
    EXPECT_TRUE(sender.blocked_by_credit());
    sender.grant({kInitialCreditBytes + kMessageBytesMax, 1000});
    EXPECT_TRUE(sender.next().has_value());
    sender.grant({0, 0});  // an old one does not take it back
    EXPECT_TRUE(sender.next().has_value());
}

TEST(Streams, SenderIsFullAtItsLimitAndTakesOneMessageWhenEmpty) {
    SendStream sender(Class::bulk, kMessageBytesMax, 1442);
    Bytes big(kMessageBytesMax);
    ASSERT_TRUE(sender.push(std::move(big)));
    Bytes more(1);
    EXPECT_FALSE(sender.push(std::move(more)));
    EXPECT_EQ(more.size(), 1u);  // untouched
    SendStream many(Class::control, 1u << 20, 1442);
    for (size_t i = 0; i < kSendMessagesMax; ++i) ASSERT_TRUE(many.push(Bytes(1)));
    EXPECT_FALSE(many.push(Bytes(1)));
}

TEST(Streams, ReceiverRefusesWhatIsBeyondItsWindowOrContradictsItself) {
    ReceiveStream receiver(kInitialCreditBytes);
    const Bytes body(100);
    const auto fragment = [&](uint64_t message, uint32_t total, uint32_t offset) {
        return Fragment{Class::bulk, message, total, offset, body};
    };
    uint64_t planned = 0;
    EXPECT_EQ(receiver.check(fragment(kReceiveMessagesMax, 100, 0), planned),
              ReceiveStream::Verdict::flow_violation);
    planned = 0;
    EXPECT_EQ(receiver.check(fragment(0, 200'000, 0), planned), ReceiveStream::Verdict::ok);
    EXPECT_EQ(receiver.check(fragment(1, 200'000, 0), planned), ReceiveStream::Verdict::ok);
    EXPECT_EQ(receiver.check(fragment(2, 200'000, 0), planned),
              ReceiveStream::Verdict::flow_violation);
    receiver.apply(fragment(0, 200'000, 0));
    planned = 0;
    EXPECT_EQ(receiver.check(fragment(0, 200'001, 100), planned),
              ReceiveStream::Verdict::inconsistent);
    // Scattered pieces: refused before the table could overflow.
    size_t accepted = 0;
    for (uint32_t offset = 1000; offset < 190'000; offset += 1000) {
        if (receiver.check(fragment(0, 200'000, offset), planned) != ReceiveStream::Verdict::ok)
            break;
        receiver.apply(fragment(0, 200'000, offset));
        ++accepted;
    }
    EXPECT_LT(accepted, kIntervalsMax);
    EXPECT_EQ(receiver.check(fragment(0, 200'000, 195'000), planned), ReceiveStream::Verdict::full);
    EXPECT_EQ(receiver.check(fragment(0, 200'000, 100), planned),
              ReceiveStream::Verdict::ok);  // merges
}

// Recovery against a plain record of what was sent.
TEST(Recovery, EveryPacketEndsAckedOrLost) {
    for (uint64_t seed = 1; seed <= 30; ++seed) {
        Random random(seed);
        uint64_t now = 1'000'000'000;
        RateControl rate({1'000'000'000, 1'000'000, 10'000'000}, now);
        Recovery recovery(rate, 100'000'000, now);
        std::vector<int> fate;  // 0 flying, 1 acked, 2 lost
        std::set<uint64_t> arrived;
        std::deque<uint64_t> wire;
        const auto acked = [&](const SentPacket& p) { fate[p.number] = 1; };
        const auto lost = [&](const SentPacket& p) {
            EXPECT_EQ(fate[p.number], 0);
            fate[p.number] = 2;
        };
        AckTracker tracker;
        for (int i = 0; i < 3000; ++i) {
            now += 200'000;
            if (recovery.room()) {
                recovery.prepare();
                fate.push_back(0);
                if (!random.chance(0.05)) wire.push_back(recovery.next_number());
                recovery.on_sent(now, 1500, true);
            }
            if (wire.size() > 50) {
                const size_t pick = random.chance(0.02) ? random.below(10) : 0;
                tracker.on_received(now, wire[pick], true);
                wire.erase(wire.begin() + static_cast<ptrdiff_t>(pick));
            }
            if (tracker.pending() && random.chance(0.2)) {
                AckFrame ack;
                tracker.fill(now, ack);
                RecoveryOutcome outcome;
                ASSERT_TRUE(recovery.on_ack(now, ack, outcome, acked, lost));
            }
            if (now >= recovery.loss_timer_ns()) {
                RecoveryOutcome outcome;
                recovery.detect(now, outcome, lost);
            }
            uint64_t flying = 0;
            for (const int f : fate) flying += f == 0;
            ASSERT_EQ(recovery.outstanding(), flying);
            ASSERT_EQ(recovery.inflight_bytes(), flying * 1500);
        }
        for (size_t n = 0; n + 600 < fate.size(); ++n) EXPECT_NE(fate[n], 0) << n;
    }
}

TEST(Recovery, RefusesAcknowledgementOfWhatWasNeverSent) {
    RateControl rate({1'000'000, 1'000, 10'000}, 0);
    Recovery recovery(rate, 100'000'000, 0);
    recovery.prepare();
    recovery.on_sent(0, 100, true);
    AckFrame ack;
    ack.range_count = 1;
    ack.ranges[0] = {0, 1};
    RecoveryOutcome outcome;
    const auto ignore = [](const SentPacket&) {};
    EXPECT_FALSE(recovery.on_ack(1, ack, outcome, ignore, ignore));
    EXPECT_EQ(recovery.outstanding(), 1u);
}

TEST(Recovery, ProbesAtAFixedIntervalDuringAnOutage) {
    RateControl rate({1'000'000, 1'000, 10'000}, 0);
    Recovery recovery(rate, 100'000'000, 0);
    uint64_t now = 0;
    const auto send = [&] {
        recovery.prepare();
        recovery.on_sent(now, 100, true);
    };
    send();
    std::vector<uint64_t> gaps;
    for (int i = 0; i < 50; ++i) {
        const uint64_t at = recovery.pto_timer_ns();
        gaps.push_back(at - now);
        now = at;
        recovery.on_pto(now);
        send();
    }
    for (size_t i = 2; i < gaps.size(); ++i) EXPECT_EQ(gaps[i], 100'000'000u);
}

}  // namespace
}  // namespace evac::wan
