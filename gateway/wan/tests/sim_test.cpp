// Two endpoints under faults drawn from a seed. Survivable faults, and nothing else, are injected:
// loss, bursts, duplication, reordering, bit flips, outages of either direction (up to half a
// minute), restarts of either endpoint, paths that carry only small datagrams and change that,
// clocks that jump forward by up to minutes, and moves of either side to other addresses (the
// listening side is back at its configured address when the faults end: a connecting side that
// restarts knows no other). Safety phase: every message arrives at most once, in order per class,
// within its session; no queue exceeds its limit. Liveness phase: once the faults end, everything
// accepted in the last session arrives.
//
//   EVAC_SIM_SEEDS=N   how many seeds (default 200)        EVAC_SIM_FIRST=N   the first one
// ctest runs 1..10000 in four parts; a failure names its seed: EVAC_SIM_FIRST=seed EVAC_SIM_SEEDS=1
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <tuple>

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

// Messages that their sender was told will not be sent: expired or cancelled.
using Droppings = std::set<std::tuple<SessionId, size_t, uint64_t>>;

// What one side expects of the other. Empty = fine.
struct Checker {
    SessionId session = SessionId::none;
    std::array<uint64_t, kClasses> expected{};

    void skip(const Droppings& dropped) {
        for (size_t c = 0; c < kClasses; ++c) {
            while (dropped.count({session, c, expected[c]}) != 0) ++expected[c];
        }
    }
    std::string accept(Class c, const Message& m, const Droppings& dropped = {}) {
        if (m.session != session) {
            session = m.session;
            expected.fill(0);
        }
        skip(dropped);
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

// What the harness does wrong on purpose, to show that the checks would notice.
enum class Planted : uint8_t {
    nothing,
    deliver_twice,
    lose_a_message,
    swap_two_messages,
    alter_a_byte,
    stop_taking,     // the receiver's application hangs: no progress
    line_stays_cut,  // no progress
    exceed_queues,   // the limit is taken to be lower than it is
};

struct Outcome {
    uint64_t hash = 0;
    std::string problem;
    uint64_t messages = 0;
    uint64_t sessions = 0;
    uint64_t droppings = 0;
    Stats a, b;
};

// Switched on for some seeds: features that must not change what is promised. A new feature gets a
// line here and one in Scenario::options() or Scenario::step().
struct Features {
    bool rekey_often = false;
    bool scavenge = false;   // switched on and off all the time
    bool droppable = false;  // messages with deadlines, messages that are cancelled
    FecMode fec = FecMode::full;
    explicit Features(Random& random) {
        rekey_often = random.chance(0.5);
        scavenge = random.chance(0.3);
        droppable = random.chance(0.3);
        fec = static_cast<FecMode>(random.below(3));
    }
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
    if (random.chance(0.3)) m.mtu_bytes = 1200 + random.below(300);
}

class Scenario {
  public:
    explicit Scenario(uint64_t seed, Planted planted = Planted::nothing)
        : random_(seed * 7919 + 1),
          planted_(planted),
          features_(random_),
          long_(random_.chance(0.02)),
          faults_ns_(long_                  ? 4000 * kNsPerMs
                     : random_.chance(0.25) ? 1000 * kNsPerMs
                                            : 350 * kNsPerMs),
          world_(options(seed)) {
        schedule_faults();
        world_.on_step = [this] { step(); };
    }

    Outcome run() {
        const uint64_t start = world_.now_ns();
        const uint64_t outage_ns = long_ ? 30 * kNsPerSecond : 0;
        world_.run_until(start + faults_ns_ + outage_ns);
        world_.link(0) = world_.link(1) = LinkModel{};
        world_.link(0).outage = planted_ == Planted::line_stays_cut;
        world_.move(1, World::kAddressB);
        sending_ = false;
        const bool done =
            world_.run_until(world_.now_ns() + 30 * kNsPerSecond, [this] { return finished(); });
        if (!done && problem_.empty())
            problem_ = "no progress after the faults ended: " + describe();
        Outcome out;
        out.hash = world_.trace_hash();
        out.problem = problem_;
        out.messages = messages_;
        out.droppings = droppings_;
        out.a = world_.a().stats(world_.clock_ns(0));
        out.b = world_.b().stats(world_.clock_ns(1));
        out.sessions = out.b.sessions;
        return out;
    }

  private:
    static constexpr size_t kQueueBytesMax = 512 * 1024;
    static constexpr size_t kEventsMax = 20'000;  // datagrams on the way

    World::Options options(uint64_t seed) {
        World::Options o;
        o.seed = seed;
        draw_faults(random_, o.a_to_b);
        draw_faults(random_, o.b_to_a);
        if (features_.rekey_often)
            o.a.rekey_after_packets = o.b.rekey_after_packets = 20 + random_.below(300);
        o.a.fec = o.b.fec = features_.fec;
        o.a.reconnect_after_ns = o.b.reconnect_after_ns = 500 * kNsPerMs;
        for (size_t i = 0; i < kClasses; ++i) {
            o.a.classes[i] =
                o.b.classes[i] = {kQueueBytesMax, kQueueBytesMax + random_.below(kQueueBytesMax)};
        }
        return o;
    }

    uint64_t some_time() { return world_.now_ns() + random_.below(faults_ns_); }

    void schedule_faults() {
        for (size_t i = random_.below(3); i > 0; --i) {
            const size_t side = random_.below(3);  // 2 = both directions
            const uint64_t at = some_time();
            const uint64_t length =
                long_ ? random_.below(25'000) * kNsPerMs : random_.below(faults_ns_ / 2);
            const auto set = [this, side](bool on) {
                for (size_t s = 0; s < 2; ++s) {
                    if (side == s || side == 2) world_.link(s).outage = on;
                }
            };
            world_.at(at, [set] { set(true); });
            world_.at(at + length, [set] { set(false); });
        }
        if (random_.chance(0.2)) {
            const size_t side = random_.below(2);
            world_.at(some_time(), [this, side] { restart(side); });
        }
        while (random_.chance(0.3)) {
            const size_t side = random_.below(2);
            const size_t bytes = 1200 + random_.below(300);
            world_.at(some_time(), [this, side, bytes] { world_.link(side).mtu_bytes = bytes; });
        }
        while (random_.chance(0.2)) {
            const size_t side = random_.below(2);
            const uint64_t by = random_.below(random_.chance(0.5) ? 500 : 300'000) * kNsPerMs;
            world_.at(some_time(), [this, side, by] { world_.jump_clock(side, by); });
        }
        while (random_.chance(0.3)) {
            const size_t side = random_.below(2);
            const wan_port::UdpAddress to{
                world_.address(side).ip + (random_.chance(0.5) ? 0x100u : 0u),
                static_cast<uint16_t>(10'000 + random_.below(100))};
            world_.at(some_time(), [this, side, to] { world_.move(side, to); });
        }
    }

    void restart(size_t side) {
        world_.restart(side);
        senders_[side] = {};
        checkers_[side] = {};
    }

    void fail(const std::string& problem) {
        if (problem_.empty()) problem_ = problem;
    }

    void accept(size_t side, Class c, const Message& m) {
        const std::string problem = checkers_[side].accept(c, m, dropped_[1 - side]);
        if (!problem.empty()) fail("side " + std::to_string(side) + ": " + problem);
        world_.note(side, index(c), m.bytes.size());
        ++messages_;
    }

    // Hands a message to the checker, by way of the planted bug if it is its turn.
    void deliver(size_t side, Class c, Message&& m) {
        const bool turn = ++taken_ % 8 == 0;
        if (held_ && held_->first == c && held_side_ == side) {
            accept(side, c, m);
            accept(side, c, held_->second);
            held_.reset();
            return;
        }
        if (turn && planted_ == Planted::lose_a_message) return;
        if (turn && planted_ == Planted::alter_a_byte) m.bytes.back() ^= std::byte{1};
        if (turn && planted_ == Planted::swap_two_messages && !held_) {
            held_.emplace(c, std::move(m));
            held_side_ = side;
            return;
        }
        accept(side, c, m);
        if (turn && planted_ == Planted::deliver_twice) accept(side, c, m);
    }

    void step() {
        for (size_t side = 0; side < 2; ++side) {
            Endpoint& end = world_.end(side);
            for (size_t i = 0; i < kClasses; ++i) {
                const auto c = static_cast<Class>(i);
                // A slow consumer now and then: flow control must hold the sender back.
                if (sending_ && random_.chance(0.3)) continue;
                if (planted_ == Planted::stop_taking && taken_ >= 3) continue;
                while (auto m = end.take(c)) deliver(side, c, std::move(*m));
            }
            if (features_.scavenge && random_.chance(0.01)) end.set_scavenger(random_.chance(0.5));
            while (auto gone = end.take_dropped()) drop(side, *gone);
            produce(side);
        }
        if (world_.events() > kEventsMax) fail("more datagrams on the way than queues allow");
    }

    void produce(size_t side) {
        Endpoint& end = world_.end(side);
        Sender& sender = senders_[side];
        if (end.session() != sender.session) {
            sender.session = end.session();
            sender.sent.fill(0);
        }
        if (!sending_ || sender.session == SessionId::none || !random_.chance(long_ ? 0.01 : 0.2))
            return;
        const auto c = static_cast<Class>(random_.below(kClasses));
        const size_t size =
            kPrefixBytes + (random_.chance(0.9)    ? random_.below(3000)
                            : random_.chance(0.95) ? random_.below(50'000)
                                                   : random_.below(kMessageBytesMax - 100));
        const uint64_t sequence = sender.sent[index(c)];
        SendOptions options;
        if (features_.droppable) {
            options.ticket = sequence + 1;
            if (random_.chance(0.3))
                options.deadline_ns = world_.clock_ns(side) + random_.below(200) * kNsPerMs;
        }
        const SendResult result =
            end.send(c, sender.session, make_message(sender.session, c, sequence, size), options);
        if (result == SendResult::ok) ++sender.sent[index(c)];
        if (features_.droppable && random_.chance(0.2)) {
            const uint64_t ticket = 1 + random_.below(sequence + 1);
            if (end.cancel(c, sender.session, ticket) == Dropped::Reason::cancelled)
                drop(side, {c, Dropped::Reason::cancelled, sender.session, ticket, 0});
        }
        const size_t limit = planted_ == Planted::exceed_queues ? 1000 : kQueueBytesMax;
        const Stats stats = end.stats(world_.clock_ns(side));
        if (stats.classes[index(c)].queued_bytes > limit) fail("send queue over its limit");
    }

    void drop(size_t side, const Dropped& gone) {
        if (gone.reason == Dropped::Reason::too_late) return;
        const bool first =
            dropped_[side].insert({gone.session, index(gone.c), gone.ticket - 1}).second;
        if (!first) fail("a message was dropped twice");
        ++droppings_;
    }

    bool finished() {
        if (!problem_.empty()) return true;
        for (size_t side = 0; side < 2; ++side) {
            const Sender& sender = senders_[side];
            Checker& checker = checkers_[1 - side];
            // All of a session may be dropped before the other side sees any of it.
            if (checker.session == sender.session) checker.skip(dropped_[side]);
            uint64_t sent = 0;
            for (const uint64_t n : sender.sent) sent += n;
            if (sender.session == SessionId::none) return false;
            for (size_t c = 0; c < kClasses && checker.session != sender.session; ++c) {
                for (uint64_t n = 0; n < sender.sent[c]; ++n)
                    sent -= dropped_[side].count({sender.session, c, n});
            }
            if (sent > 0 && (checker.session != sender.session || checker.expected != sender.sent))
                return false;
        }
        return senders_[0].session == senders_[1].session;
    }

    std::string describe() {
        std::string text;
        for (size_t side = 0; side < 2; ++side) {
            const Stats s = world_.end(side).stats(world_.clock_ns(side));
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
    const Planted planted_;
    const Features features_;
    const bool long_;
    const uint64_t faults_ns_;
    World world_;
    bool sending_ = true;
    uint64_t taken_ = 0;
    std::optional<std::pair<Class, Message>> held_;
    size_t held_side_ = 0;
    std::array<Sender, 2> senders_;
    std::array<Checker, 2> checkers_;
    std::string problem_;
    std::array<Droppings, 2> dropped_;  // by the side that sent
    uint64_t droppings_ = 0;
    uint64_t messages_ = 0;
};

uint64_t number_from(const char* variable, uint64_t otherwise) {
    const char* text = std::getenv(variable);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Sums over all seeds, printed: whoever changes the faults sees whether they still happen.
struct Tally {
    uint64_t seeds = 0, messages = 0, sessions = 0, lost = 0, spurious = 0, rekeys = 0;
    uint64_t droppings = 0;
    uint64_t rebuilt = 0;  // by forward error correction, which is on by default
    uint64_t moves = 0, false_moves = 0, black_holes = 0, mtu_probes = 0;
    std::array<uint64_t, kDropReasons> drops{};

    void add(const Outcome& out) {
        ++seeds;
        messages += out.messages;
        droppings += out.droppings;
        sessions += out.sessions;
        for (const Stats* s : {&out.a, &out.b}) {
            lost += s->packets_lost;
            spurious += s->packets_spurious;
            rekeys += s->rekeys;
            rebuilt += s->fec_recovered;
            moves += s->path_changes;
            false_moves += s->path_refused;
            black_holes += s->path_mtu_black_holes;
            mtu_probes += s->path_mtu_probes;
            for (size_t i = 0; i < kDropReasons; ++i) drops[i] += s->drops[i];
        }
    }
    void print() const {
        const auto line = [](const char* name, uint64_t value) {
            std::printf("  %-22s %llu\n", name, static_cast<unsigned long long>(value));
        };
        line("seeds", seeds);
        line("messages", messages);
        line("sessions", sessions);
        line("packets lost", lost);
        line("spurious losses", spurious);
        line("key phases", rekeys);
        line("rebuilt from parity", rebuilt);
        line("expired or cancelled", droppings);
        line("path changes", moves);
        line("path changes refused", false_moves);
        line("MTU probes", mtu_probes);
        line("MTU black holes", black_holes);
        for (size_t i = 0; i < kDropReasons; ++i)
            line(to_string(static_cast<DropReason>(i)), drops[i]);
    }
};

TEST(Simulation, EveryMessageOnceInOrderUnderFaultsAndProgressAfterwards) {
    const uint64_t first = number_from("EVAC_SIM_FIRST", 1);
    const uint64_t count = number_from("EVAC_SIM_SEEDS", 200);
    Tally tally;
    for (uint64_t seed = first; seed < first + count; ++seed) {
        const Outcome out = Scenario(seed).run();
        ASSERT_EQ(out.problem, "") << "seed " << seed;
        tally.add(out);
    }
    tally.print();
    if (count < 200) return;
    // The faults really happened.
    EXPECT_GT(tally.messages, count * 10);
    EXPECT_GT(tally.lost, count);
    EXPECT_GT(tally.rekeys, count);
    EXPECT_GT(tally.rebuilt, count);
    EXPECT_GT(tally.droppings, count);
    EXPECT_GT(tally.moves, count / 20);
    EXPECT_GT(tally.black_holes, 0u);
    EXPECT_GT(tally.drops[static_cast<size_t>(DropReason::bad_tag)], 0u);
    EXPECT_GT(tally.drops[static_cast<size_t>(DropReason::replayed)], 0u);
    EXPECT_GT(tally.sessions, count);
}

// Each bug that the checks exist for is found by them within a few seeds.
TEST(Simulation, PlantedBugsAreCaught) {
    for (const auto& [planted, words] : std::initializer_list<std::pair<Planted, const char*>>{
             {Planted::deliver_twice, "expected"},
             {Planted::lose_a_message, ""},  // a gap, or the last one never comes
             {Planted::swap_two_messages, ""},
             {Planted::alter_a_byte, "altered"},
             {Planted::stop_taking, "no progress"},
             {Planted::line_stays_cut, "no progress"},
             {Planted::exceed_queues, "over its limit"}}) {
        std::string found;
        for (uint64_t seed = 1; seed <= 20 && found.empty(); ++seed)
            found = Scenario(seed, planted).run().problem;
        EXPECT_TRUE(!found.empty() && found.find(words) != std::string::npos)
            << static_cast<int>(planted) << " gave: " << found;
    }
}

TEST(Simulation, SameSeedSameTrace) {
    for (uint64_t seed = 1; seed <= 30; ++seed) {
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
