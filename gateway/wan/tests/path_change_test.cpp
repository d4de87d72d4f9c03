// The peer moves to another address, and attackers who would like us to believe it.
#include <gtest/gtest.h>

#include "path_validator.hpp"
#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

constexpr wan_port::UdpAddress kElsewhere{0x0a000063, 7777};

class PathChange : public ::testing::Test {
  protected:
    void start(World::Options options = {}) {
        world_ = std::make_unique<World>(options);
        World& w = *world_;
        ASSERT_TRUE(w.run_until(w.now_ns() + kNsPerSecond, [&] {
            return w.a().session() != SessionId::none && w.a().session() == w.b().session();
        }));
        session_ = w.a().session();
        w.on_step = [this] { step(); };
        w.run_until(w.now_ns() + 500 * kNsPerMs);
    }
    // Bulk in both directions.
    void step() {
        for (const size_t side : {0u, 1u}) {
            Endpoint& end = world_->end(side);
            while (auto m = end.take(Class::bulk)) delivered_[side] += m->bytes.size();
            while (sending_ && end.stats(0).classes[index(Class::bulk)].unsent_bytes < 200'000 &&
                   end.send(Class::bulk, session_, Bytes(40'000)) == SendResult::ok) {
            }
        }
    }
    Stats stats(size_t side) { return world_->end(side).stats(world_->clock_ns(side)); }
    void expect_same_session() {
        EXPECT_EQ(world_->a().session(), session_);
        EXPECT_EQ(world_->b().session(), session_);
        EXPECT_EQ(stats(1).sessions, 1u);
    }
    void expect_flow(uint64_t for_ns, uint64_t at_least) {
        const auto before = delivered_;
        world_->run_until(world_->now_ns() + for_ns);
        for (const size_t side : {0u, 1u})
            EXPECT_GT(delivered_[side] - before[side], at_least) << "side " << side;
    }

    std::unique_ptr<World> world_;
    SessionId session_{};
    bool sending_ = true;
    std::array<uint64_t, 2> delivered_{};
};

// NAT rebinding (another port) and another uplink (another address and path), of either side.
TEST_F(PathChange, SessionFollowsThePeerWithoutAHandshake) {
    for (const size_t side : {0u, 1u}) {
        for (const bool new_route : {false, true}) {
            start();
            wan_port::UdpAddress to = world_->address(side);
            to.port = 40'000;
            if (new_route) to.ip += 0x100;
            const uint64_t moved = world_->now_ns();
            world_->move(side, to);
            ASSERT_TRUE(world_->run_until(moved + 5 * kNsPerSecond,
                                          [&] { return stats(1 - side).path_changes == 1; }));
            std::printf("side %zu moved (%s): followed after %.1f ms at 20 ms round trip\n", side,
                        new_route ? "new route" : "new port",
                        static_cast<double>(world_->now_ns() - moved) / 1e6);
            EXPECT_LE(world_->now_ns() - moved, 300 * kNsPerMs);
            EXPECT_EQ(stats(1 - side).peer_port, to.port);
            world_->run_until(world_->now_ns() + kNsPerSecond);
            expect_flow(kNsPerSecond, 6'000'000);
            expect_same_session();
            EXPECT_EQ(stats(1 - side).path_changes, 1u);
            EXPECT_EQ(stats(1 - side).path_mtu_bytes, 1472u);  // found again
        }
    }
}

TEST_F(PathChange, SlowerPathIsMetCarefully) {
    start();
    ASSERT_GT(stats(1).pacing_rate_bits_per_s, 80'000'000u);
    uint64_t paced = 0;
    wan_port::UdpAddress to = World::kAddressA;
    to.ip += 1;
    world_->link(0).rate_bits_per_s = world_->link(1).rate_bits_per_s = 5e6;
    world_->link(0).delay_ns = world_->link(1).delay_ns = 80 * kNsPerMs;
    world_->move(0, to);
    ASSERT_TRUE(world_->run_until(world_->now_ns() + 5 * kNsPerSecond, [&] {
        if (stats(1).path_changes == 0) return false;
        paced = stats(1).delivery_rate_bits_per_s;
        return true;
    }));
    EXPECT_LE(paced, 60'000'000u);  // half of the old rate, not all of it
    world_->run_until(world_->now_ns() + 8 * kNsPerSecond);
    EXPECT_GT(stats(1).rtt_smoothed_ns, 150 * kNsPerMs);
    EXPECT_GT(stats(1).rtt_min_ns, 150 * kNsPerMs);  // nothing of the old path is left in it
    expect_flow(4 * kNsPerSecond, 1'000'000);        // of 2.5 MB
    expect_same_session();
}

TEST_F(PathChange, IdlePeerIsFoundByItsKeepalive) {
    start();
    sending_ = false;
    world_->run_until(world_->now_ns() + 2 * kNsPerSecond);
    world_->move(0, kElsewhere);
    world_->run_until(world_->now_ns() + 3 * kNsPerSecond);
    EXPECT_EQ(stats(1).path_changes, 1u);
    EXPECT_EQ(world_->b().state(), SessionState::up);
    EXPECT_EQ(world_->a().state(), SessionState::up);
    expect_same_session();
}

TEST_F(PathChange, MovingAgainAndBackIsFollowed) {
    start();
    wan_port::UdpAddress to = World::kAddressA;
    for (uint16_t i = 1; i <= 6; ++i) {
        to.port = i == 6 ? World::kAddressA.port : static_cast<uint16_t>(50'000 + i);
        world_->move(0, to);
        world_->run_until(world_->now_ns() + kNsPerSecond);
        EXPECT_EQ(stats(1).path_changes, i);
    }
    // Both ways are saturated: the round trip shows both queues, so the two share unevenly
    // (README).
    expect_flow(kNsPerSecond, 2'500'000);
    expect_same_session();
}

// He sees every packet of A and repeats it from his own address before the original arrives. He
// even brings our challenges to A. The direct path still speaks, so nothing moves, and he gets at
// most three times what he sent.
TEST_F(PathChange, AFasterForwarderDoesNotDivertTheSession) {
    World::Options options;  // his line has no limit, so we need one
    options.a.ceiling_bits_per_s = options.b.ceiling_bits_per_s = 150'000'000;
    start(options);
    uint64_t forwarded = 0, to_him = 0;
    world_->tap = [&](size_t from, Bytes& bytes) {
        if (from != 0 || bytes[0] != std::byte{2}) return;
        forwarded += bytes.size();
        world_->inject_from(1, kElsewhere, bytes, 3 * kNsPerMs);
    };
    world_->stray = [&](size_t, const wan_port::UdpAddress& to, const Bytes& bytes) {
        EXPECT_EQ(to, kElsewhere);
        to_him += bytes.size();
        world_->inject_from(0, World::kAddressB, bytes, 3 * kNsPerMs);
    };
    expect_flow(5 * kNsPerSecond, 30'000'000);
    EXPECT_EQ(stats(1).path_changes, 0u);
    EXPECT_GT(stats(1).path_challenges, 0u);
    EXPECT_GT(stats(1).path_refused, 0u);
    EXPECT_GT(to_him, 0u);
    EXPECT_LE(to_him, 3 * forwarded);
    EXPECT_LE(to_him, 10'000u);  // a challenge per pause, not per packet
    expect_same_session();
}

// Whoever also cuts the direct path is on the path; when he stops, the session returns by itself.
TEST_F(PathChange, ASessionDivertedOnThePathReturns) {
    World::Options options;
    options.a.ceiling_bits_per_s = options.b.ceiling_bits_per_s = 150'000'000;
    start(options);
    bool active = true;
    world_->tap = [&](size_t from, Bytes& bytes) {
        if (!active || bytes[0] != std::byte{2}) return;
        if (from == 0) {
            world_->inject_from(1, kElsewhere, bytes, 5 * kNsPerMs);
            bytes.clear();
        }
    };
    world_->stray = [&](size_t, const wan_port::UdpAddress&, const Bytes& bytes) {
        if (active) world_->inject_from(0, World::kAddressB, bytes, 5 * kNsPerMs);
    };
    world_->run_until(world_->now_ns() + kNsPerSecond);
    EXPECT_EQ(stats(1).path_changes, 1u);
    active = false;
    world_->run_until(world_->now_ns() + kNsPerSecond);
    EXPECT_EQ(stats(1).path_changes, 2u);
    EXPECT_EQ(stats(1).peer_ip, World::kAddressA.ip);
    expect_flow(kNsPerSecond, 6'000'000);
    expect_same_session();
}

TEST_F(PathChange, ReplayedPacketsFromElsewhereRaiseNoChallenge) {
    std::vector<Bytes> seen;
    start();
    world_->tap = [&](size_t from, Bytes& bytes) {
        if (from == 0 && seen.size() < 500) seen.push_back(bytes);
    };
    world_->run_until(world_->now_ns() + kNsPerSecond);
    world_->tap = nullptr;
    for (const Bytes& bytes : seen) world_->inject_from(1, kElsewhere, bytes);
    world_->run_until(world_->now_ns() + kNsPerSecond);
    EXPECT_EQ(seen.size(), 500u);
    EXPECT_EQ(stats(1).path_challenges, 0u);
    EXPECT_EQ(world_->stray_bytes(), 0u);
}

// Altered on the way: not authentic, so no reason to challenge anybody.
TEST_F(PathChange, ForgedPacketsFromElsewhereRaiseNoChallenge) {
    start();
    world_->tap = [&](size_t from, Bytes& bytes) {
        if (from != 0) return;
        Bytes forged = bytes;
        forged[6 + 4] ^= std::byte{1};  // a number far ahead
        world_->inject_from(1, kElsewhere, forged);
    };
    expect_flow(kNsPerSecond, 6'000'000);
    EXPECT_EQ(stats(1).path_challenges, 0u);
    EXPECT_EQ(world_->stray_bytes(), 0u);
    EXPECT_GT(stats(1).drops[static_cast<size_t>(DropReason::bad_tag)], 100u);
}

TEST_F(PathChange, MayBeForbidden) {
    World::Options options;
    options.a.allow_address_change = options.b.allow_address_change = false;
    options.a.reconnect_after_ns = 10 * kNsPerSecond;
    start(options);
    world_->move(0, kElsewhere);
    world_->run_until(world_->now_ns() + 3 * kNsPerSecond);
    EXPECT_EQ(stats(1).path_changes, 0u);
    EXPECT_EQ(stats(1).path_challenges, 0u);
    EXPECT_GT(stats(1).drops[static_cast<size_t>(DropReason::wrong_address)], 0u);
    EXPECT_EQ(world_->a().state(), SessionState::silent);
    world_->move(0, World::kAddressA);
    expect_flow(2 * kNsPerSecond, 6'000'000);
    expect_same_session();
}

// A restarted peer at another address than the configured one may handshake.
TEST_F(PathChange, AHandshakeFromAnotherAddressIsAnswered) {
    start();
    world_->move(0, kElsewhere);
    world_->restart(0);
    ASSERT_TRUE(world_->run_until(world_->now_ns() + 5 * kNsPerSecond, [&] {
        return world_->a().session() != SessionId::none &&
               world_->a().session() == world_->b().session();
    }));
    EXPECT_NE(world_->b().session(), session_);
    EXPECT_EQ(stats(1).peer_ip, kElsewhere.ip);
}

// A paused guest or a clock that jumps: the pause is not taken for a round-trip time, and nobody is
// called silent for it.
TEST_F(PathChange, ClockJumpsAreNotTheNetworksFault) {
    for (const size_t side : {0u, 1u}) {
        start();
        for (const uint64_t seconds : {1u, 10u, 90u, 600u}) {
            world_->jump_clock(side, seconds * kNsPerSecond);
            expect_flow(kNsPerSecond, 6'000'000);
            EXPECT_LT(stats(side).rtt_smoothed_ns, 200 * kNsPerMs) << seconds;
            EXPECT_EQ(world_->end(side).state(), SessionState::up);
        }
        expect_same_session();
    }
}

// ---- the validator alone ----

uint64_t counter() {
    static uint64_t value = 0;
    return ++value;
}

TEST(PathValidator, SendsAtMostThreeTimesWhatCame) {
    PathValidator paths(&counter);
    EXPECT_TRUE(paths.on_elsewhere(1000, kElsewhere, 5, true, 31, 10));
    EXPECT_EQ(paths.next_timeout_ns(), 1000u);
    size_t sent = 0;
    uint64_t now = 1000;
    for (int i = 0; i < 100; ++i) {
        while (paths.take_challenge(now)) sent += kPathDatagramBytes;
        now += 1000;
    }
    EXPECT_EQ(sent, 2 * kPathDatagramBytes);
    EXPECT_LE(sent, 3 * 31u);
    paths.tick(now);
    EXPECT_FALSE(paths.pending());
    EXPECT_EQ(paths.refused(), 1u);
}

TEST(PathValidator, OnlyTheRightAnswerFromTheRightPlaceInTime) {
    PathValidator paths(&counter);
    ASSERT_TRUE(paths.on_elsewhere(1000, kElsewhere, 5, true, 1000, 50));
    EXPECT_FALSE(paths.on_response(kElsewhere, 0));  // nothing was asked yet
    const auto challenge = paths.take_challenge(1000);
    ASSERT_TRUE(challenge);
    EXPECT_EQ(challenge->to, kElsewhere);
    EXPECT_FALSE(paths.on_response(World::kAddressB, challenge->value));
    EXPECT_FALSE(paths.on_response(kElsewhere, challenge->value + 1));
    EXPECT_TRUE(paths.on_response(kElsewhere, challenge->value));
    EXPECT_FALSE(paths.take_validated(
        999 + PathValidator::kDecideMinNs));  // the old path still has time to speak
    paths.on_active(2000, 4);                 // older than the move: reordered, says nothing
    EXPECT_EQ(paths.take_validated(1000 + PathValidator::kDecideMinNs), kElsewhere);
    EXPECT_FALSE(paths.pending());
}

TEST(PathValidator, AWordFromTheKnownAddressEndsIt) {
    PathValidator paths(&counter);
    ASSERT_TRUE(paths.on_elsewhere(1000, kElsewhere, 5, true, 1000, 50));
    const auto challenge = paths.take_challenge(1000);
    ASSERT_TRUE(paths.on_response(kElsewhere, challenge->value));
    paths.on_active(1040, 5);
    EXPECT_FALSE(paths.take_validated(1 + kNsPerSecond));
    EXPECT_EQ(paths.refused(), 1u);
    // And there is a pause before the next.
    EXPECT_FALSE(paths.on_elsewhere(1041, kElsewhere, 6, true, 1000, 50));
    EXPECT_TRUE(paths.on_elsewhere(1040 + PathValidator::kPauseNs, kElsewhere, 7, true, 1000, 50));
}

TEST(PathValidator, HoldsFewCandidatesAndOnlyForNewestPackets) {
    PathValidator paths(&counter);
    EXPECT_FALSE(paths.on_elsewhere(1, kElsewhere, 5, false, 1000, 50));
    for (uint16_t i = 0; i < 100; ++i) {
        const bool taken = paths.on_elsewhere(1, {1, i}, 5u + i, true, 1000, 50);
        EXPECT_EQ(taken, i < PathValidator::kCandidatesMax);
    }
    // All fail in bounded time.
    uint64_t now = 1;
    for (int i = 0; i < 100; ++i, now += 100) {
        while (paths.take_challenge(now)) {
        }
        paths.tick(now);
    }
    EXPECT_FALSE(paths.pending());
    EXPECT_EQ(paths.challenges(), PathValidator::kCandidatesMax * PathValidator::kTries);
}

}  // namespace
}  // namespace evac::wan::testing
