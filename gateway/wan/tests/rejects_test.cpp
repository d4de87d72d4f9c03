// What an attacker on the path may send: each is dropped, counted under its reason, and changes
// nothing.
#include <gtest/gtest.h>

#include "packet.hpp"
#include "session.hpp"
#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

uint64_t drops(const Stats& s, DropReason r) {
    return s.drops[static_cast<size_t>(r)];
}

class Rejects : public ::testing::Test {
  protected:
    void SetUp() override {
        world_.tap = [this](size_t from, Bytes& bytes) {
            if (from == 0 && bytes[0] == std::byte{2} && bytes.size() > 200)
                captured_.push_back(bytes);
        };
        world_.run_until(world_.now_ns() + kNsPerSecond);
        ASSERT_NE(world_.a().session(), SessionId::none);
        for (int i = 0; i < 3; ++i) {
            ASSERT_EQ(world_.a().send(Class::disk, world_.a().session(), Bytes(1000, std::byte{7})),
                      SendResult::ok);
        }
        world_.run_until(world_.now_ns() + 100 * kNsPerMs);
        while (world_.b().take(Class::disk)) ++delivered_;
        ASSERT_EQ(delivered_, 3u);
        ASSERT_GE(captured_.size(), 2u);
    }
    // What the datagram was dropped for; none when it was taken.
    std::optional<DropReason> offer(Bytes datagram) {
        const Stats before = world_.b().stats(world_.now_ns());
        world_.b().receive(world_.now_ns(), World::kAddressA, datagram);
        const Stats after = world_.b().stats(world_.now_ns());
        EXPECT_EQ(after.packets_received, before.packets_received);
        EXPECT_FALSE(world_.b().take(Class::disk).has_value());
        for (size_t i = 0; i < kDropReasons; ++i) {
            if (after.drops[i] != before.drops[i]) return static_cast<DropReason>(i);
        }
        return std::nullopt;
    }

    World world_{{}};
    std::vector<Bytes> captured_;
    uint64_t delivered_ = 0;
};

TEST_F(Rejects, Replayed) {
    EXPECT_EQ(offer(captured_[0]), DropReason::replayed);
}

TEST_F(Rejects, Truncated) {
    const Bytes& whole = captured_[0];
    for (size_t size = 0; size < whole.size(); ++size) {
        Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
        if (size >= kDataHeaderBytes)
            cut[6] = std::byte{0x77};  // a fresh packet number, so that it is not a replay
        const auto reason = offer(cut);
        EXPECT_EQ(reason, size < kDataHeaderBytes + 1 + kTagBytes ? DropReason::too_short
                                                                  : DropReason::bad_tag)
            << size;
    }
}

TEST_F(Rejects, EveryBitFlipped) {
    const Bytes& whole = captured_[0];
    std::array<uint64_t, kDropReasons> count{};
    for (size_t bit = 0; bit < 8 * whole.size(); bit += bit < 8 * 40 ? 1 : 13) {
        Bytes bad = whole;
        bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
        const auto reason = offer(bad);
        ASSERT_TRUE(reason.has_value()) << "bit " << bit;
        ++count[static_cast<size_t>(*reason)];
    }
    EXPECT_GT(count[static_cast<size_t>(DropReason::unknown_session)], 0u);
    EXPECT_GT(count[static_cast<size_t>(DropReason::bad_tag)],
              0u);  // bits of the number that make it fresh
    EXPECT_GT(count[static_cast<size_t>(DropReason::replayed)], 0u);
}

TEST_F(Rejects, ForeignKeyPhase) {
    Bytes bad = captured_[0];
    bad[13] = std::byte{1};  // fresh number
    bad[1] = std::byte{1};   // the next phase: its key exists, and does not fit
    EXPECT_EQ(offer(bad), DropReason::bad_tag);
    bad[1] = std::byte{2};
    EXPECT_EQ(offer(bad), DropReason::bad_phase);
}

// Header of one, body of another: the tag binds them.
TEST_F(Rejects, Spliced) {
    Bytes spliced(captured_[1]);
    std::copy_n(captured_[0].begin(), kDataHeaderBytes, spliced.begin());
    spliced[13] = std::byte{1};  // fresh number
    EXPECT_EQ(offer(spliced), DropReason::bad_tag);
    Bytes tail(captured_[0]);
    std::copy(captured_[1].end() - 16, captured_[1].end(), tail.end() - 16);
    tail[13] = std::byte{1};
    EXPECT_EQ(offer(tail), DropReason::bad_tag);
}

// A packet of ours sent back to us: the directions have different keys.
TEST_F(Rejects, Reflected) {
    const Stats before = world_.a().stats(world_.now_ns());
    Bytes back = captured_[0];
    back[13] = std::byte{1};
    world_.a().receive(world_.now_ns(), World::kAddressB, back);
    const Stats after = world_.a().stats(world_.now_ns());
    EXPECT_EQ(drops(after, DropReason::bad_tag), drops(before, DropReason::bad_tag) + 1);
}

TEST_F(Rejects, NotOurs) {
    EXPECT_EQ(offer({}), DropReason::too_short);
    EXPECT_EQ(offer(Bytes(50, std::byte{0x77})), DropReason::unknown_type);
    EXPECT_EQ(offer(Bytes(3, std::byte{1})), DropReason::too_short);
    Bytes version(50, std::byte{1});
    version[1] = std::byte{9};
    EXPECT_EQ(offer(version), DropReason::bad_version);
    EXPECT_EQ(offer(Bytes(50, std::byte{1})), DropReason::handshake_malformed);
    Bytes hint(kHintBytes, std::byte{1});
    hint[0] = std::byte{3};
    EXPECT_EQ(offer(hint), DropReason::hint_ignored);  // the listening side never acts on one
}

TEST_F(Rejects, TooOldAfterTheWindowMoved) {
    const Bytes old = captured_[0];
    uint64_t received = 0;
    world_.on_step = [&] {
        while (world_.b().take(Class::bulk)) ++received;
        if (world_.a().stats(0).classes[index(Class::bulk)].unsent_bytes > 100'000) return;
        world_.a().send(Class::bulk, world_.a().session(), Bytes(250'000));
    };
    while (world_.b().stats(0).packets_received < ReplayWindow::kNumbers + 1000) {
        world_.run_until(world_.now_ns() + 100 * kNsPerMs);
    }
    world_.on_step = nullptr;
    EXPECT_EQ(offer(old), DropReason::too_old);
}

// The same for the packets of path validation and of the MTU search, which are small or padded:
// none can be replayed, altered, cut or put together from two.
TEST(RejectsOfThePath, ReplayedAlteredCutAndSpliced) {
    World w({});
    std::vector<Bytes> probes;                      // MTU probes of the start
    std::array<std::vector<Bytes>, 2> path_frames;  // challenges of B, answers of A
    w.tap = [&](size_t from, Bytes& bytes) {
        if (bytes[0] != std::byte{kTypeData}) return;
        if (from == 0 && bytes.size() == 1472) probes.push_back(bytes);
        if (bytes.size() == kPathDatagramBytes) path_frames[from].push_back(bytes);
    };
    w.run_until(w.now_ns() + kNsPerSecond);
    ASSERT_NE(w.a().session(), SessionId::none);
    w.move(0, {0x0a000077, 999});
    ASSERT_EQ(w.a().send(Class::disk, w.a().session(), Bytes(100)), SendResult::ok);
    w.run_until(w.now_ns() + 2 * kNsPerSecond);
    ASSERT_EQ(w.b().stats(w.now_ns()).path_changes, 1u);
    ASSERT_FALSE(probes.empty());
    ASSERT_FALSE(path_frames[0].empty());
    ASSERT_FALSE(path_frames[1].empty());
    const auto offer = [&](size_t side, const Bytes& bytes) {
        Endpoint& end = w.end(side);
        const Stats before = end.stats(w.now_ns());
        end.receive(w.now_ns(), {0x0a000099, 1}, bytes);
        const Stats after = end.stats(w.now_ns());
        EXPECT_EQ(after.packets_received, before.packets_received);
        EXPECT_EQ(after.path_challenges, before.path_challenges);
        uint64_t dropped = 0;
        for (size_t i = 0; i < kDropReasons; ++i) dropped += after.drops[i] - before.drops[i];
        return dropped == 1;
    };
    for (const auto& [side, genuine] : {std::pair{size_t{1}, probes[0]},
                                        {size_t{1}, path_frames[0][0]},
                                        {size_t{0}, path_frames[1][0]}}) {
        EXPECT_TRUE(offer(side, genuine));  // replayed
        Bytes fresh = genuine;
        fresh[9] = std::byte{1};  // number + 2^24
        EXPECT_TRUE(offer(side, fresh));
        for (size_t bit = 0; bit < 8 * genuine.size(); bit += 7) {
            Bytes bad = fresh;
            bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
            EXPECT_TRUE(offer(side, bad));
        }
        for (size_t size = 0; size < genuine.size(); size += 5)
            EXPECT_TRUE(offer(side, Bytes(fresh.begin(), fresh.begin() + static_cast<long>(size))));
        Bytes spliced = probes[0];
        std::copy_n(fresh.begin(), kDataHeaderBytes, spliced.begin());
        EXPECT_TRUE(offer(side, spliced));
        EXPECT_TRUE(offer(1 - side, fresh));  // reflected
    }
    EXPECT_EQ(w.b().stats(w.now_ns()).path_changes, 1u);
}

// An authentic peer that breaks the rules (a bug of ours): the packet is dropped whole, not
// acknowledged, and counted.
TEST(AuthenticButWrong, DroppedWhole) {
    EndpointConfig config;
    SessionSecrets secrets;
    secrets.id = 1;
    Session session(config, secrets, 10'000'000, 1);
    const auto payload = [](auto&& write) {
        Bytes buffer(kDatagramBytesMax);
        PacketWriter writer(buffer);
        write(writer);
        EXPECT_TRUE(writer.ok());
        buffer.resize(writer.size());
        return buffer;
    };
    const Bytes body(10);
    EXPECT_EQ(session.receive_payload(2, 0, payload([](PacketWriter& w) { w.u8(0x03); })),
              DropReason::malformed_frame);
    EXPECT_EQ(
        session.receive_payload(
            2, 1, payload([&](PacketWriter& w) {
                write_fragment(w, {Class::bulk, 0, 10, 0, body});  // good, but in bad company
                write_fragment(w, {Class::bulk, 1u << 20, 10, 0, body});  // far beyond the window
            })),
        DropReason::flow_violation);
    EXPECT_FALSE(session.take(Class::bulk).has_value());
    EXPECT_EQ(session.receive_payload(2, 2, payload([](PacketWriter& w) {
                                          AckFrame ack;
                                          ack.range_count = 1;
                                          ack.ranges[0] = {500, 500};
                                          write_ack(w, ack);
                                      })),
              DropReason::malformed_frame);  // never sent
    // Path frames of another length than theirs, and cut ones.
    for (const uint8_t type : {kFramePathChallenge, kFramePathResponse, kFramePathMoved}) {
        EXPECT_EQ(session.receive_payload(2, 2, payload([&](PacketWriter& w) {
                                              w.u8(type);
                                              w.varint(7);
                                              w.le64(1);
                                          })),
                  DropReason::malformed_frame);
        EXPECT_EQ(session.receive_payload(2, 2, payload([&](PacketWriter& w) {
                                              w.u8(type);
                                              w.varint(8);
                                              w.le32(1);
                                          })),
                  DropReason::malformed_frame);
    }
    EXPECT_EQ(session.receive_payload(2, 3, payload([&](PacketWriter& w) {
                                          write_fragment(w, {Class::bulk, 0, 10, 0, body});
                                      })),
              std::nullopt);
    EXPECT_TRUE(session.take(Class::bulk).has_value());
}

}  // namespace
}  // namespace evac::wan::testing
