// Messages that are taken back or whose deadline passes before anything of them was sent.
#include <gtest/gtest.h>

#include <deque>

#include "evac/core/random.hpp"
#include "send_stream.hpp"
#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

constexpr size_t kPayload = 1442;

Bytes message_of(uint64_t ticket, size_t size) {
    Bytes m;
    ByteWriter(m).le64(ticket);
    m.resize(std::max<size_t>(size, 8), std::byte{0x5a});
    return m;
}

uint64_t ticket_of(ByteSpan bytes) {
    return ByteReader(bytes).le64();
}

SendOptions ticket(uint64_t t, uint64_t deadline_ns = 0) {
    return {.deadline_ns = deadline_ns, .ticket = t};
}

// Sends one chunk; when it begins a message, tells its number and ticket.
std::optional<std::pair<uint64_t, uint64_t>> send_chunk(SendStream& s) {
    const auto ref = s.next();
    if (!ref) return std::nullopt;
    const Fragment f = s.fragment(*ref);
    const uint64_t begun = ref->chunk == 0 ? ticket_of(f.bytes) : 0;
    s.mark_sent(*ref);
    s.mark_acked(*ref);  // frees the bytes of a message of one chunk
    return std::make_pair(f.message, begun);
}

TEST(Cancel, LeavesNoHoleAndSparesWhatIsBegun) {
    SendStream s(Class::demand, 1 << 20, kPayload);
    for (uint64_t t = 1; t <= 4; ++t) ASSERT_TRUE(s.push(message_of(t, 3000), ticket(t)));
    EXPECT_EQ(send_chunk(s), std::make_pair(uint64_t{0}, uint64_t{1}));
    EXPECT_EQ(s.cancel(1), std::nullopt) << "begun";
    EXPECT_EQ(s.cancel(3), 3000u);
    EXPECT_EQ(s.cancel(3), std::nullopt) << "gone";
    EXPECT_EQ(s.cancel(9), std::nullopt) << "never known";
    EXPECT_EQ(s.cancel(0), std::nullopt) << "no ticket names nothing";
    EXPECT_EQ(s.dropped_bytes(), 3000u);
    std::vector<std::pair<uint64_t, uint64_t>> begun;
    while (const auto chunk = send_chunk(s)) {
        if (chunk->second != 0) begun.push_back(*chunk);
    }
    EXPECT_EQ(begun, (std::vector<std::pair<uint64_t, uint64_t>>{{1, 2}, {2, 4}}));
    EXPECT_EQ(s.unacked_bytes(), 0u);
    EXPECT_EQ(s.unsent_bytes(), 0u);
    EXPECT_EQ(s.released_bytes(), 9000u);
    EXPECT_EQ(s.cancelled_messages(), 1u);
}

TEST(Cancel, TheNextToSendMayBeTakenBackWhileNothingOfItWent) {
    SendStream s(Class::control, 1 << 20, kPayload);
    ASSERT_TRUE(s.push(message_of(1, 500), ticket(1)));
    ASSERT_TRUE(s.next().has_value());
    EXPECT_EQ(s.cancel(1), 500u);
    EXPECT_FALSE(s.next().has_value());
    ASSERT_TRUE(s.push(message_of(2, 500), ticket(2)));
    EXPECT_EQ(send_chunk(s), std::make_pair(uint64_t{0}, uint64_t{2}));
}

TEST(Deadlines, DropOnlyWhatIsNotBegunAndKeepTheOrder) {
    SendStream s(Class::demand, 1 << 20, kPayload);
    ASSERT_TRUE(s.push(message_of(1, 3000), ticket(1, 100)));
    ASSERT_TRUE(s.push(message_of(2, 3000), ticket(2)));
    ASSERT_TRUE(s.push(message_of(3, 3000), ticket(3, 50)));
    ASSERT_TRUE(s.push(message_of(4, 3000), ticket(4, 200)));
    EXPECT_EQ(s.deadline_ns(), 50u);
    send_chunk(s);  // 1 is begun
    std::vector<uint64_t> dropped;
    const auto note = [&](uint64_t t, uint64_t size) {
        dropped.push_back(t);
        EXPECT_EQ(size, 3000u);
    };
    s.expire(49, note);
    EXPECT_TRUE(dropped.empty());
    s.expire(150, note);
    EXPECT_EQ(dropped, std::vector<uint64_t>{3});
    EXPECT_EQ(s.deadline_ns(), 200u);
    std::vector<uint64_t> begun;
    while (const auto chunk = send_chunk(s)) {
        if (chunk->second != 0) begun.push_back(chunk->second);
    }
    EXPECT_EQ(begun, (std::vector<uint64_t>{2, 4}));  // an earlier deadline does not overtake
    EXPECT_EQ(s.expired_messages(), 1u);
}

struct Model {
    struct Item {
        uint64_t ticket, size, deadline_ns;
    };
    std::deque<Item> waiting;  // not begun
    uint64_t unsent = 0;
};

TEST(Cancel, AgreesWithAModelUnderRandomOperations) {
    for (uint64_t seed = 1; seed <= 30; ++seed) {
        Random random(seed);
        SendStream s(Class::disk, 4 << 20, kPayload);
        Model m;
        uint64_t now = 1, next_ticket = 1, next_number = 0;
        for (int i = 0; i < 4000; ++i) {
            s.grant({uint64_t{1} << 40, uint64_t{1} << 20});
            switch (random.below(6)) {
                case 0:
                case 1: {
                    const size_t size = 8 + random.below(random.chance(0.1) ? 200'000 : 5000);
                    const uint64_t deadline = random.chance(0.3) ? now + random.below(300) : 0;
                    if (!s.push(message_of(next_ticket, size), ticket(next_ticket, deadline)))
                        break;
                    m.waiting.push_back({next_ticket++, size, deadline});
                    m.unsent += size;
                    break;
                }
                case 2: {
                    const uint64_t asked = random.below(next_ticket + 1);
                    const auto found =
                        std::find_if(m.waiting.begin(), m.waiting.end(),
                                     [&](const auto& w) { return w.ticket == asked; });
                    const auto size = s.cancel(asked);
                    ASSERT_EQ(size.has_value(), found != m.waiting.end()) << "seed " << seed;
                    if (!size) break;
                    ASSERT_EQ(*size, found->size);
                    m.unsent -= found->size;
                    m.waiting.erase(found);
                    break;
                }
                case 3: {
                    now += random.below(50);
                    std::vector<uint64_t> want, got;
                    for (const auto& w : m.waiting) {
                        if (w.deadline_ns != 0 && w.deadline_ns <= now) want.push_back(w.ticket);
                    }
                    s.expire(now, [&](uint64_t t, uint64_t) { got.push_back(t); });
                    ASSERT_EQ(got, want) << "seed " << seed;
                    std::erase_if(m.waiting, [&](const auto& w) {
                        const bool gone = w.deadline_ns != 0 && w.deadline_ns <= now;
                        if (gone) m.unsent -= w.size;
                        return gone;
                    });
                    break;
                }
                default: {
                    const uint64_t before = s.unsent_bytes();
                    const auto chunk = send_chunk(s);
                    if (!chunk) break;
                    m.unsent -= before - s.unsent_bytes();
                    if (chunk->second == 0) break;
                    ASSERT_FALSE(m.waiting.empty());
                    ASSERT_EQ(chunk->second, m.waiting.front().ticket) << "seed " << seed;
                    ASSERT_EQ(chunk->first, next_number++) << "seed " << seed;
                    m.waiting.pop_front();
                }
            }
            ASSERT_EQ(s.unsent_bytes(), m.unsent) << "seed " << seed;
        }
    }
}

// The whole way: what was not dropped arrives once and in order, what was dropped does not.
TEST(Cancel, EndToEndUnderLoss) {
    World::Options o;
    o.seed = 11;
    o.a_to_b.loss = 0.03;
    o.a_to_b.rate_bits_per_s = 5e6;
    World world(o);
    world.run_until(world.now_ns() + 30 * kNsPerSecond, [&] {
        return world.a().session() != SessionId::none && world.a().session() == world.b().session();
    });
    Random random(3);
    std::vector<uint64_t> expected, got;
    uint64_t next = 1, cancelled = 0, expired = 0;
    const auto take = [&] {
        while (auto m = world.b().take(Class::demand)) got.push_back(ticket_of(m->bytes));
        while (const auto d = world.a().take_dropped()) {
            EXPECT_EQ(d->reason, Dropped::Reason::expired);
            EXPECT_EQ(d->c, Class::demand);
            EXPECT_EQ(std::erase(expected, d->ticket), 1u) << d->ticket;
            ++expired;
        }
    };
    world.on_step = take;
    for (int i = 0; i < 400; ++i) {
        const uint64_t deadline =
            random.chance(0.2) ? world.now_ns() + random.below(100) * kNsPerMs : 0;
        const uint64_t t = next++;
        ASSERT_EQ(world.a().send(Class::demand, world.a().session(),
                                 message_of(t, 100 + random.below(20'000)), ticket(t, deadline)),
                  SendResult::ok);
        expected.push_back(t);
        if (random.chance(0.2)) {
            const uint64_t asked = 1 + random.below(t);
            if (world.a().cancel(Class::demand, world.a().session(), asked) ==
                Dropped::Reason::cancelled) {
                EXPECT_EQ(std::erase(expected, asked), 1u);
                ++cancelled;
            }
        }
        world.run_until(world.now_ns() + 10 * kNsPerMs);
    }
    world.run_until(world.now_ns() + 30 * kNsPerSecond);
    EXPECT_EQ(got, expected);
    EXPECT_GT(cancelled, 10u);
    EXPECT_GT(expired, 10u);
    const Stats s = world.a().stats(world.now_ns());
    EXPECT_EQ(s.classes[index(Class::demand)].cancelled_messages, cancelled);
    EXPECT_EQ(s.classes[index(Class::demand)].expired_messages, expired);
    EXPECT_EQ(s.classes[index(Class::demand)].queued_bytes, 0u);
    EXPECT_EQ(world.a().departed_bytes(Class::demand), world.a().released_bytes(Class::demand));
    EXPECT_EQ(world.a().cancel(Class::demand, SessionId{1234}, 1), Dropped::Reason::too_late);
}

TEST(Deadlines, ReportsAreBounded) {
    World::Options o;
    o.seed = 12;
    World world(o);
    world.run_until(world.now_ns() + kNsPerSecond);
    world.link(0).outage = world.link(1).outage = true;
    const SessionId session = world.a().session();
    uint64_t sent = 0;
    // The window of an outage fills first; what waits behind it expires, again and again.
    for (int round = 0; round < 20; ++round) {
        while (world.a().send(Class::bulk, session, message_of(sent + 1, 16 * 1024),
                              ticket(sent + 1, world.now_ns() + kNsPerMs)) == SendResult::ok)
            ++sent;
        world.run_until(world.now_ns() + 10 * kNsPerMs);
    }
    uint64_t reports = 0;
    while (world.a().take_dropped()) ++reports;
    const Stats s = world.a().stats(world.now_ns());
    EXPECT_EQ(reports, kDropReportsMax);
    EXPECT_GT(s.drop_reports_lost, 0u);
    EXPECT_EQ(reports + s.drop_reports_lost, s.classes[index(Class::bulk)].expired_messages);
}

}  // namespace
}  // namespace evac::wan::testing
