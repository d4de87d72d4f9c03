// The parts of forward error correction: code, frames, history, policy, sender and receiver.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "evac/core/random.hpp"
#include "fec_receiver.hpp"
#include "fec_sender.hpp"

namespace evac::wan {
namespace {

constexpr size_t kPayload = 1442;

Bytes random_bytes(Random& random, size_t size) {
    Bytes out(size);
    for (std::byte& b : out) b = static_cast<std::byte>(random.below(256));
    return out;
}

Bytes shard_of(ByteSpan payload) {
    Bytes out{static_cast<std::byte>(payload.size() & 0xff),
              static_cast<std::byte>(payload.size() >> 8)};
    out.insert(out.end(), payload.begin(), payload.end());
    return out;
}

Bytes written(const ParityFrame& f) {
    Bytes out(3000);
    PacketWriter writer(out);
    write_parity(writer, f);
    EXPECT_TRUE(writer.ok());
    out.resize(writer.size());
    return out;
}

// ---- the code ----

// Multiplication in GF(2^8) mod 0x11d, bit by bit.
uint8_t slow_mul(uint8_t a, uint8_t b) {
    unsigned product = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
        if ((b >> bit & 1) != 0) product ^= static_cast<unsigned>(a) << bit;
    }
    for (unsigned bit = 15; bit >= 8; --bit) {
        if ((product >> bit & 1) != 0) product ^= 0x11du << (bit - 8);
    }
    return static_cast<uint8_t>(product);
}

TEST(FecCode, CoefficientsAreTheStatedCauchyMatrix) {
    for (size_t row = 0; row < kFecParityMax; ++row) {
        for (size_t member = 0; member < kFecMembersMax; ++member) {
            const auto sum = static_cast<uint8_t>((128 | row) ^ member);
            EXPECT_EQ(slow_mul(fec_coefficient(row, member), sum), 1);
        }
    }
}

TEST(FecCode, AddingAgreesWithSlowArithmeticAtEveryLength) {
    Random random(1);
    for (size_t size = 1; size < 200; ++size) {
        const Bytes shard = random_bytes(random, size);
        const Bytes before = random_bytes(random, size + 3);
        const size_t row = random.below(kFecParityMax), member = random.below(kFecMembersMax);
        Bytes parity = before;
        fec_add(parity, row, member, shard);
        for (size_t i = 0; i < parity.size(); ++i) {
            const uint8_t term = i < size ? slow_mul(fec_coefficient(row, member),
                                                     std::to_integer<uint8_t>(shard[i]))
                                          : uint8_t{0};
            ASSERT_EQ(std::to_integer<uint8_t>(parity[i]),
                      std::to_integer<uint8_t>(before[i]) ^ term);
        }
    }
}

std::vector<uint8_t> shuffled(Random& random, size_t count) {
    std::vector<uint8_t> out;
    for (size_t i = 0; i < count; ++i) {
        out.push_back(static_cast<uint8_t>(i));
        std::swap(out.back(), out[random.below(i + 1)]);
    }
    return out;
}

// Any e parities recover any e members, whatever the lengths.
TEST(FecCode, AnyParitiesRecoverAnyMembers) {
    Random random(2);
    for (int round = 0; round < 500; ++round) {
        const size_t k = 1 + random.below(kFecMembersMax);
        const size_t e = 1 + random.below(std::min<size_t>(k, kFecParityMax));
        std::vector<Bytes> shards;
        size_t length = 0;
        for (size_t i = 0; i < k; ++i) {
            shards.push_back(random_bytes(random, 3 + random.below(kPayload)));
            length = std::max(length, shards.back().size());
        }
        const std::vector<uint8_t> all_rows = shuffled(random, kFecParityMax);
        const std::vector<uint8_t> members = shuffled(random, k);
        const std::vector<uint8_t> rows(all_rows.begin(),
                                        all_rows.begin() + static_cast<ptrdiff_t>(e));
        const std::vector<uint8_t> missing(members.begin(),
                                           members.begin() + static_cast<ptrdiff_t>(e));
        std::vector<Bytes> syndromes(e, Bytes(length)), out(e, Bytes(length));
        std::vector<std::byte*> from, to;
        for (size_t r = 0; r < e; ++r) {
            for (size_t i = 0; i < k; ++i) fec_add(syndromes[r], rows[r], i, shards[i]);
            for (size_t i = e; i < k; ++i)
                fec_add(syndromes[r], rows[r], members[i], shards[members[i]]);
            from.push_back(syndromes[r].data());
            to.push_back(out[r].data());
        }
        fec_solve(rows, missing, from, to, length);
        for (size_t j = 0; j < e; ++j) {
            Bytes want = shards[missing[j]];
            want.resize(length);
            ASSERT_EQ(out[j], want) << "round " << round;
        }
    }
}

// ---- frames ----

TEST(FecFrames, GoldenBytes) {
    const Bytes shard{std::byte{3}, std::byte{0}, std::byte{0xaa}, std::byte{0xbb},
                      std::byte{0xcc}};
    ParityFrame p;
    p.block = 300;
    p.carrier = 1010;
    p.row = 1;
    p.rows = 3;
    p.members = 3;
    p.numbers = {1000, 1001, 1005};
    p.shard = shard;
    const Bytes bytes = written(p);
    const std::array<uint8_t, 15> golden{0x40, 0x0d, 0x41, 0x2c, 0x03, 0x03, 0x01, 0x0a,
                                         0x00, 0x03, 0x03, 0x00, 0xaa, 0xbb, 0xcc};
    ASSERT_EQ(bytes.size(), golden.size());
    for (size_t i = 0; i < golden.size(); ++i)
        EXPECT_EQ(std::to_integer<uint8_t>(bytes[i]), golden[i]) << i;
    EXPECT_EQ(parity_frame_bytes(p, p.carrier), bytes.size());
    Frames frames;
    ASSERT_TRUE(parse_frames(bytes, frames));
    ASSERT_TRUE(frames.has_parity);
    ASSERT_TRUE(place_parity(frames.parity, 1010));
    EXPECT_EQ(frames.parity.block, 300u);
    EXPECT_EQ(frames.parity.rows, 3);
    EXPECT_EQ(frames.parity.row, 1);
    EXPECT_EQ(frames.parity.members, 3u);
    EXPECT_EQ(frames.parity.numbers[0], 1000u);
    EXPECT_EQ(frames.parity.numbers[2], 1005u);
    EXPECT_TRUE(std::equal(shard.begin(), shard.end(), frames.parity.shard.begin()));
    EXPECT_FALSE(frames.elicits_ack);
    ASSERT_TRUE(parse_frames(bytes, frames));
    EXPECT_FALSE(place_parity(frames.parity, 9)) << "covers packets before the first";

    RecoveredFrame r;
    r.total = 70;
    r.count = 2;
    r.numbers = {5, 16383};
    Bytes told(100);
    PacketWriter writer(told);
    write_recovered(writer, r);
    told.resize(writer.size());
    const std::array<uint8_t, 7> told_golden{0x41, 0x05, 0x40, 0x46, 0x05, 0x7f, 0xff};
    ASSERT_EQ(told.size(), told_golden.size());
    for (size_t i = 0; i < told.size(); ++i)
        EXPECT_EQ(std::to_integer<uint8_t>(told[i]), told_golden[i]) << i;
    EXPECT_EQ(recovered_frame_bytes(r), told.size());
    ASSERT_TRUE(parse_frames(told, frames));
    ASSERT_TRUE(frames.has_recovered);
    EXPECT_EQ(frames.recovered.total, 70u);
    ASSERT_EQ(frames.recovered.count, 2u);
    EXPECT_EQ(frames.recovered.numbers[1], 16383u);
}

Bytes hex(std::string_view text) {
    Bytes out;
    for (size_t i = 0; i + 1 < text.size(); i += 2)
        out.push_back(
            static_cast<std::byte>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16)));
    return out;
}

TEST(FecFrames, WhatBreaksTheGrammarIsRefused) {
    Frames frames;
    ASSERT_TRUE(parse_frames(hex("4008010101000101 00aa"), frames) ||
                parse_frames(hex("4008010101000101"
                                 "00aa"),
                             frames));
    for (const char* bad : {
             "40070001010001"
             "01",  // shorter than its length
             "4008010001000101"
             "00aa",  // no members
             "4008011101000101"
             "00aa",  // 17 members
             "4008010100000101"
             "00aa",  // m = 0
             "4008010109000101"
             "00aa",  // m = 9
             "4008010101010101"
             "00aa",  // row = m
             "4008010101000001"
             "00aa",  // back = 0
             "4007010101000101"
             "00",  // a shard of nothing but its length
             "400901020100010001"
             "00aa",  // second member is the carrier
             "4008010101000101"
             "00aa"
             "4008010101000101"
             "00aa",  // twice
             "4100",  // no total
             "411201"
             "0101010101010101010101010101010101",  // 17 numbers
             "41020140",                            // cut varint
         }) {
        EXPECT_FALSE(parse_frames(hex(bad), frames)) << bad;
    }
}

// kFecReserveBytes is what a full block's parity needs over its largest member.
TEST(FecFrames, ParityOverTheLargestMembersFitsAPacket) {
    ParityFrame p;
    const Bytes shard(kPayload - kFecReserveBytes + kFecLengthBytes);
    p.block = (1u << 30) - 1;
    p.members = kFecMembersMax;
    p.rows = kFecParityMax;
    p.numbers[0] = 1u << 20;
    for (size_t i = 1; i < p.members; ++i) p.numbers[i] = p.numbers[i - 1] + 64;
    p.carrier = p.numbers[0] + kParitySpanMax;
    p.shard = shard;
    EXPECT_EQ(parity_frame_bytes(p, p.carrier) + 1, kPayload);  // and a PING
}

// ---- history ----

TEST(FecHistory, HoldsTheNewestOfEachSlot) {
    FecHistory h(64 * 1024, kPayload);
    EXPECT_EQ(h.memory_bytes(), 0u);
    EXPECT_TRUE(h.shard(3).empty());
    Random random(3);
    std::map<uint64_t, std::pair<uint64_t, Bytes>> model;  // slot -> number, shard
    uint64_t newest = 0, late = 0;
    for (int i = 0; i < 20'000; ++i) {
        newest += 1 + random.below(3);  // the numbers left out may come late
        const bool is_late = random.chance(0.2);
        const uint64_t number = is_late ? newest - std::min(newest, random.below(100)) : newest;
        const Bytes payload = random_bytes(random, 1 + random.below(100));
        h.put(number, payload);
        auto& slot = model[number % h.slots()];
        if (slot.second.empty() || slot.first <= number) {
            slot = {number, shard_of(payload)};
        } else {
            ++late;
        }
        const uint64_t asked = newest - std::min(newest, random.below(3 * h.slots()));
        const auto held = model.find(asked % h.slots());
        const ByteSpan got = h.shard(asked);
        if (held == model.end() || held->second.first != asked) {
            ASSERT_TRUE(got.empty()) << asked;
        } else {
            ASSERT_TRUE(std::ranges::equal(got, held->second.second)) << asked;
        }
    }
    EXPECT_GT(late, 100u);
    EXPECT_LE(h.memory_bytes(), 64u * 1024 + h.slots() * 16);
    h.put(newest + 1, Bytes(kPayload + 1));
    EXPECT_TRUE(h.shard(newest + 1).empty()) << "too long";
}

// ---- policy ----

TEST(FecPolicy, FailureIsTheBinomialTail) {
    // facts: k=20, m=4, 3 %: 6e-4
    EXPECT_NEAR(fec_failure({0.03, 1, 20, 1}, 4), 6e-4, 1e-4);
    EXPECT_NEAR(fec_failure({0.03, 1, 1, 1}, 1), 9e-4, 1e-9);
    EXPECT_NEAR(fec_failure({0.03, 1, 1, 1}, 0), 0.03, 1e-9);
    // A burst of 4 inside a block of neighbours takes four parities at once.
    EXPECT_GT(fec_failure({0.03, 4, 16, 1}, 3), 0.1);
    EXPECT_LT(fec_failure({0.03, 4, 16, 8}, 3), 5e-3);
}

TEST(FecPolicy, ParityFollowsLossAndTarget) {
    EXPECT_EQ(fec_parity({0, 1, 1, 1}, 0.004, 4), 0u);
    EXPECT_EQ(fec_parity({0.001, 1, 1, 1}, 0.004, 4), 0u);  // 99.9 % arrive anyway
    EXPECT_EQ(fec_parity({0.03, 1, 1, 1}, 0.004 / 3, 4), 1u);
    EXPECT_EQ(fec_parity({0.03, 1, 1, 1}, 0.004 / 21, 4), 2u);
    EXPECT_EQ(fec_parity({0.3, 1, 16, 1}, 1e-9, 4), 4u);  // the most there is
    EXPECT_TRUE(fec_tail_pays(0.03, 1660, 364, 120'000, 200'000'000));
    EXPECT_FALSE(fec_tail_pays(0.03, 16, 4, 120'000, 400'000));
    EXPECT_EQ(fec_spacing_ns(4, 120'000), 3'840'000u);
    EXPECT_EQ(fec_spacing_ns(1, 1000), kSpacingMinNs);
    EXPECT_EQ(fec_spacing_ns(16, 1'000'000), kSpacingMaxNs);
}

TEST(LossMeter, FindsLossAndMeanBurstAndForgets) {
    for (const double leave : {1.0, 0.25}) {
        Random random(4);
        LossMeter meter;
        bool bad = false;
        const double enter = leave * 0.03 / 0.97;
        for (uint64_t n = 0; n < 20'000; ++n) {
            bad = bad ? !random.chance(leave) : random.chance(enter);
            bad ? meter.on_lost(n) : meter.on_acked();
        }
        EXPECT_TRUE(meter.lossy());
        EXPECT_NEAR(meter.loss(), 0.03, 0.012);
        EXPECT_NEAR(meter.burst(), 1 / leave, 0.25 / leave);
        for (uint64_t n = 0; n < 40'000; ++n) meter.on_acked();
        EXPECT_FALSE(meter.lossy());
    }
}

TEST(LossMeter, AnOutageIsNotLoss) {
    LossMeter meter;
    for (int i = 0; i < 1000; ++i) meter.on_acked();
    for (uint64_t n = 0; n < 500; ++n) meter.on_lost(n);
    for (int i = 0; i < 1000; ++i) meter.on_acked();
    EXPECT_FALSE(meter.lossy());
    meter.on_lost(9000);
    for (int i = 0; i < 100; ++i) meter.on_acked();
    EXPECT_TRUE(meter.lossy());
    meter.on_spurious();
    EXPECT_FALSE(meter.lossy());
}

// ---- sender and receiver ----

struct Rig {
    FecSender sender{FecMode::full, 256 * 1024, kPayload};
    FecReceiver receiver{256 * 1024, kPayload};
    FecPath path;
    std::map<uint64_t, Bytes> payloads;  // sent
    std::map<uint64_t, int> taken;       // by arrival or rebuilt
    std::map<uint64_t, int> rebuilt;
    std::vector<Bytes> parities;  // frames; the carrier is 1 more each time
    uint64_t now = 1'000'000'000;
    uint64_t next = 100;
    uint64_t first_parity = 0;

    Rig() {
        path.rtt_ns = 100'000'000;
        path.packet_ns = 120'000;
        path.dry = {true, true, true};
        lossy(0.03);
    }
    void lossy(double p) {
        Random random(7);
        for (uint64_t n = 0; n < 4000; ++n)
            random.chance(p) ? sender.meter().on_lost(2 * n) : sender.meter().on_acked();
    }
    FecSender::InFlight in_flight = [this](uint64_t n) { return payloads.count(n) != 0; };
    void send(Random& random, FecGroup group, Class c, bool arrives) {
        const uint64_t number = next++;
        payloads[number] = random_bytes(random, 20 + random.below(1300));
        sender.on_packet(now, number, payloads[number], group, c, 9000);
        if (arrives) arrive(number);
    }
    void arrive(uint64_t number) {
        receiver.on_packet(now, number, payloads[number], true);
        ++taken[number];
    }
    // Runs the clock and gathers the parity frames that come due.
    void run(uint64_t for_ns) {
        for (const uint64_t end = now + for_ns; now < end; now += 100'000) {
            sender.plan(now, path, in_flight);
            for (const bool tail : {false, true}) {
                while (sender.prepare(now, tail, next, kPayload, in_flight)) {
                    if (parities.empty()) first_parity = now;
                    Bytes out(kPayload);
                    PacketWriter writer(out);
                    sender.write(writer);
                    ASSERT_TRUE(writer.ok());
                    out.resize(writer.size());
                    parities.push_back(std::move(out));
                    carriers.push_back(next++);
                }
            }
        }
    }
    void deliver(size_t i) {
        Frames frames;
        ASSERT_TRUE(parse_frames(parities[i], frames));
        ASSERT_TRUE(place_parity(frames.parity, carriers[i]));
        receiver.on_parity(now, frames.parity, [&](uint64_t number, ByteSpan payload) {
            if (taken.count(number) != 0) return false;
            EXPECT_TRUE(std::equal(payload.begin(), payload.end(), payloads[number].begin(),
                                   payloads[number].end()))
                << number;
            ++taken[number];
            ++rebuilt[number];
            return true;
        });
    }
    std::vector<uint64_t> carriers;
};

TEST(Fec, NothingOnACleanLine) {
    Rig rig;
    FecSender clean(FecMode::full, 256 * 1024, kPayload);
    for (int i = 0; i < 5000; ++i) clean.meter().on_acked();
    Random random(1);
    const Bytes payload(500);
    for (uint64_t n = 0; n < 50; ++n)
        clean.on_packet(rig.now, n, payload, FecGroup::control, Class::control, 9000);
    clean.plan(rig.now + 1'000'000'000, rig.path, [](uint64_t) { return true; });
    EXPECT_EQ(clean.urgent_due_ns(rig.path), UINT64_MAX);
    EXPECT_FALSE(clean.wants_room(Class::control, 1'000'000'000));
    EXPECT_EQ(clean.memory_bytes(), 0u);
}

TEST(Fec, CopiesOfOneControlMessageAreSpaced) {
    Rig rig;
    rig.path.urgent_in_flight = 20;
    Random random(1);
    rig.receiver.on_packet(rig.now, 90, Bytes(1), true);  // the gap to 100 makes it keep copies
    const uint64_t sent = rig.now;
    rig.send(random, FecGroup::control, Class::control, true);
    rig.send(random, FecGroup::control, Class::control, false);  // lost
    rig.send(random, FecGroup::tail, Class::bulk, true);
    rig.path.dry[static_cast<size_t>(FecGroup::tail)] = false;
    rig.run(20'000'000);
    ASSERT_EQ(rig.parities.size(), 2u);
    EXPECT_GE(rig.first_parity - sent, kSpacingMinNs);
    EXPECT_LE(rig.first_parity - sent, kUrgentWaitNs);
    rig.deliver(0);
    EXPECT_EQ(rig.rebuilt.size(), 1u);
    EXPECT_EQ(rig.rebuilt[101], 1);
    rig.deliver(1);  // not needed any more
    EXPECT_EQ(rig.rebuilt[101], 1);
    EXPECT_EQ(rig.receiver.recovered(), 1u);
    EXPECT_EQ(rig.receiver.waiting(), 0u);
    // The report is repeated, then silent.
    for (uint32_t i = 0; i <= FecReceiver::kReportTimes; ++i) {
        Bytes out(100);
        PacketWriter writer(out);
        rig.receiver.write_report(writer, 0);
        Frames frames;
        ASSERT_TRUE(parse_frames(ByteSpan(out).first(writer.size()), frames));
        EXPECT_EQ(frames.has_recovered, i < FecReceiver::kReportTimes);
        if (!frames.has_recovered) continue;
        EXPECT_EQ(frames.recovered.total, 1u);
        ASSERT_EQ(frames.recovered.count, 1u);
        EXPECT_EQ(frames.recovered.numbers[0], 101u);
    }
}

// Random losses of members and parities, in random order, with late originals: what is rebuilt is
// right, once, and whatever lost no more than the parities that came is rebuilt.
TEST(Fec, RebuildsWhatTheArithmeticAllows) {
    uint64_t rebuilt = 0, lost = 0;
    for (uint64_t seed = 1; seed <= 200; ++seed) {
        Rig rig;
        Random random(seed);
        const size_t count = 1 + random.below(150);
        // The receiver starts to keep copies at the first gap.
        rig.send(random, FecGroup::control, Class::control, true);
        rig.next += 2;
        std::vector<uint64_t> missing;
        for (size_t i = 0; i < count; ++i) {
            const bool arrives = i == 0 || !random.chance(0.03);
            if (!arrives) missing.push_back(rig.next);
            rig.send(random, FecGroup::tail, Class::bulk, arrives);
            rig.now += rig.path.packet_ns;
        }
        rig.run(50'000'000);
        ASSERT_FALSE(rig.parities.empty());
        std::vector<size_t> order;
        for (size_t i = 0; i < rig.parities.size(); ++i) {
            if (!random.chance(0.03)) order.push_back(i);
        }
        for (size_t i = order.size(); i > 1; --i)
            std::swap(order[i - 1], order[i - 1 - random.below(std::min<size_t>(i, 3))]);
        for (const size_t i : order) {
            if (!missing.empty() && random.chance(0.05)) {
                const uint64_t late = missing[random.below(missing.size())];
                if (rig.taken.count(late) == 0) rig.arrive(late);
            }
            rig.deliver(i);
        }
        for (const auto& [number, times] : rig.taken) ASSERT_EQ(times, 1) << number;
        lost += missing.size();
        for (const uint64_t number : missing) rebuilt += rig.taken.count(number);
        EXPECT_LE(rig.receiver.waiting(), FecReceiver::kParitiesMax);
    }
    std::printf("%llu lost, %llu rebuilt or late\n", static_cast<unsigned long long>(lost),
                static_cast<unsigned long long>(rebuilt));
    EXPECT_GT(lost, 100u);
    EXPECT_GT(static_cast<double>(rebuilt), 0.95 * static_cast<double>(lost));
}

TEST(Fec, TailWaitsUntilDryAndIsGivenUpForNewData) {
    Rig rig;
    Random random(5);
    rig.path.dry[static_cast<size_t>(FecGroup::tail)] = false;
    for (int i = 0; i < 40; ++i) rig.send(random, FecGroup::tail, Class::disk, true);
    rig.run(50'000'000);
    EXPECT_TRUE(rig.parities.empty()) << "bulk while more waits gets none";
    rig.path.dry[static_cast<size_t>(FecGroup::tail)] = true;
    rig.sender.plan(rig.now, rig.path, rig.in_flight);
    EXPECT_LE(rig.sender.tail_due_ns(rig.path), rig.now);
    rig.sender.abandon_tail();
    rig.run(50'000'000);
    EXPECT_TRUE(rig.parities.empty());
    for (int i = 0; i < 40; ++i) rig.send(random, FecGroup::tail, Class::disk, true);
    rig.run(50'000'000);
    EXPECT_GE(rig.parities.size(), 6u);
    EXPECT_GT(rig.sender.parity_bytes(Class::disk), 0u);
    EXPECT_EQ(rig.sender.parity_bytes(Class::control), 0u);
}

TEST(Fec, WhatIsAcknowledgedNeedsNoParity) {
    Rig rig;
    Random random(6);
    for (int i = 0; i < 10; ++i) rig.send(random, FecGroup::demand, Class::demand, true);
    rig.payloads.clear();  // all acknowledged
    rig.run(50'000'000);
    EXPECT_TRUE(rig.parities.empty());
}

// Parities of a peer that contradict each other or repeat: dropped, bounded, no crash.
TEST(Fec, ReceiverBearsContradictions) {
    FecReceiver receiver(64 * 1024, kPayload);
    Random random(8);
    uint64_t taken = 0;
    const auto deliver = [&](uint64_t, ByteSpan payload) {
        EXPECT_FALSE(payload.empty());
        EXPECT_LE(payload.size(), kPayload);
        ++taken;
        return random.chance(0.5);
    };
    for (int i = 0; i < 20'000; ++i) {
        if (random.chance(0.3)) {
            receiver.on_packet(1, random.below(400), random_bytes(random, 1 + random.below(1442)),
                               true);
            continue;
        }
        const Bytes shard = random_bytes(random, 3 + random.below(1500));
        ParityFrame p;
        p.block = random.below(4);
        p.rows = static_cast<uint8_t>(1 + random.below(kFecParityMax));
        p.row = static_cast<uint8_t>(random.below(p.rows));
        p.members = 1 + random.below(3);
        p.numbers[0] = random.below(300);
        for (size_t k = 1; k < p.members; ++k)
            p.numbers[k] = p.numbers[k - 1] + 1 + random.below(3);
        p.shard = shard;
        receiver.on_parity(1, p, deliver);
        ASSERT_LE(receiver.waiting(), FecReceiver::kParitiesMax);
    }
    EXPECT_GT(taken, 0u);
    EXPECT_LE(receiver.memory_bytes(), 64u * 1024 + 2000 + 150u * 1500);
}

}  // namespace
}  // namespace evac::wan
