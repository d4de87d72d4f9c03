// Two endpoints under faults drawn from a seed. Survivable faults, and nothing else, are injected:
// loss, bursts, duplication, reordering, bit flips, outages of either direction, restarts of either
// endpoint. Safety phase: every message arrives at most once, in order per class, within its
// session. Liveness phase: once the faults end, everything accepted in the last session arrives.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

constexpr size_t kPrefixBytes = 24;  // session, class, sequence, then filler derived from them

Bytes make_message(SessionId session, Class c, uint64_t sequence, size_t size) {
    Bytes out;
    out.reserve(size);
    ByteWriter writer(out);
    writer.le64(static_cast<uint64_t>(session));
    writer.le64(index(c));
    writer.le64(sequence);
    static const Bytes pattern = [] {
        Bytes p(kMessageBytesMax + 256);
        for (size_t i = 0; i < p.size(); ++i)
            p[i] = static_cast<std::byte>((i * 31 + i / 251) & 0xff);
        return p;
    }();
    writer.put(ByteSpan(pattern).subspan(sequence % 256, size - out.size()));
    return out;
}

// What one side expects of the other. Empty = fine.
struct Checker {
    SessionId session = SessionId::none;
    std::array<uint64_t, kClasses> expected{};

    std::string accept(Class c, const Message& m) {
        if (m.session != session) {
            session = m.session;
            expected.fill(0);
        }
        if (m.bytes.size() < kPrefixBytes) return "short message";
        ByteReader reader(m.bytes);
        if (reader.le64() != static_cast<uint64_t>(m.session)) return "message of another session";
        if (reader.le64() != index(c)) return "message of another class";
        const uint64_t sequence = reader.le64();
        if (sequence != expected[index(c)]) {
            return "expected " + std::to_string(expected[index(c)]) + " got " +
                   std::to_string(sequence);
        }
        ++expected[index(c)];
        if (m.bytes != make_message(m.session, c, sequence, m.bytes.size()))
            return "altered content";
        return {};
    }
};

struct Sender {
    SessionId session = SessionId::none;
    std::array<uint64_t, kClasses> sent{};
};

struct Outcome {
    uint64_t hash = 0;
    std::string problem;
    uint64_t messages = 0;
    uint64_t sessions = 0;
    Stats a, b;
};

void draw_faults(Random& random, LinkModel& m) {
    m.rate_bits_per_s = 2e6 + random.unit() * 18e6;
    m.delay_ns = (1 + random.below(40)) * kNsPerMs;
    m.queue_bytes = 16 * 1024 + random.below(128 * 1024);
    if (random.chance(0.5)) m.loss = random.unit() * 0.05;
    if (random.chance(0.3)) m.burst_enter = random.unit() * 0.01;
    if (random.chance(0.3)) m.duplicate = random.unit() * 0.05;
    if (random.chance(0.3)) m.reorder = random.unit() * 0.1;
    if (random.chance(0.3)) m.corrupt = random.unit() * 0.01;
    if (random.chance(0.3)) m.jitter_ns = random.below(10) * kNsPerMs;
}

class Scenario {
  public:
    explicit Scenario(uint64_t seed) : random_(seed * 7919 + 1), world_(options(random_, seed)) {
        schedule_faults();
        world_.on_step = [this] { step(); };
    }

    Outcome run() {
        const uint64_t start = world_.now_ns();
        world_.run_until(start + kFaultsNs);
        world_.link(0) = world_.link(1) = LinkModel{};
        sending_ = false;
        const bool done =
            world_.run_until(start + kFaultsNs + 30 * kNsPerSecond, [this] { return finished(); });
        if (!done && problem_.empty())
            problem_ = "no progress after the faults ended: " + describe();
        Outcome out;
        out.hash = world_.trace_hash();
        out.problem = problem_;
        out.messages = messages_;
        out.a = world_.a().stats(world_.now_ns());
        out.b = world_.b().stats(world_.now_ns());
        out.sessions = out.b.sessions;
        return out;
    }

  private:
    static constexpr uint64_t kFaultsNs = 1200 * kNsPerMs;

    static World::Options options(Random& random, uint64_t seed) {
        World::Options o;
        o.seed = seed;
        draw_faults(random, o.a_to_b);
        draw_faults(random, o.b_to_a);
        o.a.rekey_after_packets = o.b.rekey_after_packets = 100 + random.below(1000);
        o.a.reconnect_after_ns = o.b.reconnect_after_ns = 500 * kNsPerMs;
        for (size_t i = 0; i < kClasses; ++i) {
            o.a.classes[i] = o.b.classes[i] = {512 * 1024, 512 * 1024 + random.below(512 * 1024)};
        }
        return o;
    }

    void schedule_faults() {
        const uint64_t start = world_.now_ns();
        for (size_t i = random_.below(3); i > 0; --i) {
            const size_t side = random_.below(3);  // 2 = both directions
            const uint64_t at = start + random_.below(kFaultsNs);
            const uint64_t length = random_.below(500) * kNsPerMs;
            const auto set = [this, side](bool on) {
                for (size_t s = 0; s < 2; ++s) {
                    if (side == s || side == 2) world_.link(s).outage = on;
                }
            };
            world_.at(at, [set] { set(true); });
            world_.at(std::min(at + length, start + kFaultsNs - 1), [set] { set(false); });
        }
        if (random_.chance(0.4)) {
            const size_t side = random_.below(2);
            world_.at(start + random_.below(kFaultsNs), [this, side] { restart(side); });
        }
    }

    void restart(size_t side) {
        world_.restart(side);
        senders_[side] = {};
        checkers_[side] = {};
    }

    void step() {
        for (size_t side = 0; side < 2; ++side) {
            Endpoint& end = world_.end(side);
            for (size_t i = 0; i < kClasses; ++i) {
                const auto c = static_cast<Class>(i);
                // A slow consumer now and then: flow control must hold the sender back.
                if (sending_ && random_.chance(0.3)) continue;
                while (auto m = end.take(c)) {
                    const std::string problem = checkers_[side].accept(c, *m);
                    if (!problem.empty() && problem_.empty())
                        problem_ = "side " + std::to_string(side) + ": " + problem;
                    world_.note(side, i, m->bytes.size());
                    ++messages_;
                }
            }
            produce(side);
        }
    }

    void produce(size_t side) {
        Endpoint& end = world_.end(side);
        Sender& sender = senders_[side];
        if (end.session() != sender.session) {
            sender.session = end.session();
            sender.sent.fill(0);
        }
        if (!sending_ || sender.session == SessionId::none || !random_.chance(0.2)) return;
        const auto c = static_cast<Class>(random_.below(kClasses));
        const size_t size =
            kPrefixBytes + (random_.chance(0.7) ? random_.below(3000) : random_.below(100'000));
        const SendResult result = end.send(
            c, sender.session, make_message(sender.session, c, sender.sent[index(c)], size));
        if (result == SendResult::ok) ++sender.sent[index(c)];
        const Stats stats = end.stats(world_.now_ns());
        if (stats.classes[index(c)].queued_bytes > 512 * 1024 && problem_.empty())
            problem_ = "send queue over its limit";
    }

    bool finished() const {
        if (!problem_.empty()) return true;
        for (size_t side = 0; side < 2; ++side) {
            const Sender& sender = senders_[side];
            const Checker& checker = checkers_[1 - side];
            uint64_t sent = 0;
            for (const uint64_t n : sender.sent) sent += n;
            if (sender.session == SessionId::none) return false;
            if (sent > 0 && (checker.session != sender.session || checker.expected != sender.sent))
                return false;
        }
        return senders_[0].session == senders_[1].session;
    }

    std::string describe() {
        std::string text;
        for (size_t side = 0; side < 2; ++side) {
            const Stats s = world_.end(side).stats(world_.now_ns());
            text += "\n side " + std::to_string(side) + " " + to_string(world_.end(side).state()) +
                    " sessions " + std::to_string(s.sessions) + " inflight " +
                    std::to_string(s.inflight_bytes) + " window " + std::to_string(s.window_bytes);
            for (size_t i = 0; i < kClasses; ++i) {
                text += " [" + std::to_string(senders_[side].sent[i]) + " sent, " +
                        std::to_string(checkers_[1 - side].expected[i]) + " seen, unsent " +
                        std::to_string(s.classes[i].unsent_bytes) + " queued " +
                        std::to_string(s.classes[i].queued_bytes) + "]";
            }
            for (size_t i = 0; i < kDropReasons; ++i) {
                if (s.drops[i] > 0)
                    text += std::string(" ") + to_string(static_cast<DropReason>(i)) + "=" +
                            std::to_string(s.drops[i]);
            }
        }
        return text;
    }

    Random random_;
    World world_;
    bool sending_ = true;
    std::array<Sender, 2> senders_;
    std::array<Checker, 2> checkers_;
    std::string problem_;
    uint64_t messages_ = 0;
};

uint64_t seed_count() {
    const char* text = std::getenv("EVAC_SIM_SEEDS");
    return text == nullptr ? 100 : std::strtoull(text, nullptr, 10);
}

TEST(Simulation, EveryMessageOnceInOrderUnderFaultsAndProgressAfterwards) {
    uint64_t messages = 0, sessions = 0, lost = 0, spurious = 0, rekeys = 0;
    uint64_t rebuilt = 0;  // by forward error correction, which is on by default
    std::array<uint64_t, kDropReasons> drops{};
    for (uint64_t seed = 1; seed <= seed_count(); ++seed) {
        const Outcome out = Scenario(seed).run();
        ASSERT_EQ(out.problem, "") << "seed " << seed;
        messages += out.messages;
        sessions += out.sessions;
        lost += out.a.packets_lost + out.b.packets_lost;
        spurious += out.a.packets_spurious + out.b.packets_spurious;
        rekeys += out.a.rekeys + out.b.rekeys;
        rebuilt += out.a.fec_recovered + out.b.fec_recovered;
        for (size_t i = 0; i < kDropReasons; ++i) drops[i] += out.a.drops[i] + out.b.drops[i];
    }
    std::printf("%llu messages, %llu sessions, %llu lost, %llu spurious, %llu key phases\n",
                static_cast<unsigned long long>(messages),
                static_cast<unsigned long long>(sessions), static_cast<unsigned long long>(lost),
                static_cast<unsigned long long>(spurious), static_cast<unsigned long long>(rekeys));
    for (size_t i = 0; i < kDropReasons; ++i) {
        std::printf("  %s %llu\n", to_string(static_cast<DropReason>(i)),
                    static_cast<unsigned long long>(drops[i]));
    }
    // The faults really happened.
    EXPECT_GT(messages, seed_count() * 10);
    EXPECT_GT(lost, 0u);
    EXPECT_GT(rekeys, 0u);
    EXPECT_GT(rebuilt, 0u);
    EXPECT_GT(drops[static_cast<size_t>(DropReason::bad_tag)], 0u);
    EXPECT_GT(drops[static_cast<size_t>(DropReason::replayed)], 0u);
    EXPECT_GT(sessions, seed_count());
}

TEST(Simulation, SameSeedSameTrace) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
        const Outcome first = Scenario(seed).run();
        const Outcome second = Scenario(seed).run();
        EXPECT_EQ(first.hash, second.hash) << "seed " << seed;
        EXPECT_EQ(first.messages, second.messages);
    }
    EXPECT_NE(Scenario(1).run().hash, Scenario(2).run().hash);
}

// The checker would notice each fault that it exists for.
TEST(Simulation, CheckerCatchesPlantedFaults) {
    const SessionId s{5};
    const auto message = [&](uint64_t sequence, Class c = Class::disk) {
        return Message{s, make_message(s, c, sequence, 100)};
    };
    Checker twice;
    EXPECT_EQ(twice.accept(Class::disk, message(0)), "");
    EXPECT_NE(twice.accept(Class::disk, message(0)), "");
    Checker gap;
    EXPECT_NE(gap.accept(Class::disk, message(1)), "");
    Checker crossed;
    EXPECT_NE(crossed.accept(Class::bulk, message(0)), "");
    Checker altered;
    Message bad = message(0);
    bad.bytes.back() ^= std::byte{1};
    EXPECT_NE(altered.accept(Class::disk, bad), "");
    Checker foreign;
    EXPECT_NE(foreign.accept(Class::disk, Message{SessionId{6}, message(0).bytes}), "");
}

}  // namespace
}  // namespace evac::wan::testing
