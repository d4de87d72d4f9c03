// Deadlines and cancelling through the threaded transport: requests and reports cross the threads
// in bounded rings.
#include <gtest/gtest.h>
#include <poll.h>

#include <map>
#include <thread>

#include "evac/core/units.hpp"
#include "evac/wan/transport.hpp"
#include "evac/wan_port/kernel_udp_port.hpp"
#include "test_certs.hpp"

namespace evac::wan::testing {
namespace {

constexpr int kPatienceMs = 60'000;
constexpr size_t kMessageBytes = 100 * 1024;

struct Site {
    SystemClock clock;
    std::unique_ptr<wan_port::DatagramPort> port;
    std::unique_ptr<Transport> transport;
    std::jthread thread;

    Site() {
        wan_port::KernelUdpOptions options;
        options.local = {0x7f000001, 0};
        port = std::move(*wan_port::open_kernel_udp_port(options));
    }
    void start(Role role, const Site& peer, std::shared_ptr<const TlsContext> tls) {
        TransportConfig config;
        config.endpoint.role = role;
        config.endpoint.peer_address = peer.port->local_address();
        // Slow, so that messages wait; a small endpoint before a large ring, so that they wait in
        // both.
        config.endpoint.ceiling_bits_per_s = config.endpoint.start_bits_per_s = 8'000'000;
        config.endpoint.classes[index(Class::demand)].send_bytes_max = kMessageBytesMax;
        config.send_buffer_bytes = 16u << 20;
        transport = std::move(*Transport::create(config, std::move(tls), *port, clock, 7));
        thread = std::jthread([this](std::stop_token stop) { transport->run(stop); });
    }
};

class TransportCancel : public ::testing::Test {
  protected:
    void SetUp() override {
        b_.start(Role::listen, a_, site_a_context());
        a_.start(Role::connect, b_, site_b_context());
        ASSERT_TRUE(eventually([&] {
            return a_.transport->connected() && a_.transport->session() == b_.transport->session();
        }));
    }
    void TearDown() override {
        for (Site* s : {&a_, &b_}) s->thread.request_stop();
        for (Site* s : {&a_, &b_}) s->thread.join();
    }
    template <class Done>
    bool eventually(Done&& done) {
        for (int i = 0; i < kPatienceMs && !done(); ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return done();
    }
    void send(uint64_t ticket, uint64_t deadline_ns = 0) {
        Bytes m;
        ByteWriter(m).le64(ticket);
        m.resize(kMessageBytes);
        ASSERT_EQ(a_.transport->try_send(Class::demand, a_.transport->session(), std::move(m),
                                         {.deadline_ns = deadline_ns, .ticket = ticket}),
                  SendResult::ok);
    }
    void collect() {
        while (const auto m = b_.transport->try_receive(Class::demand))
            received_.push_back(ByteReader(m->bytes).le64());
        while (const auto d = a_.transport->try_dropped(Class::demand)) {
            EXPECT_EQ(d->c, Class::demand);
            EXPECT_EQ(d->bytes, d->reason == Dropped::Reason::too_late ? 0 : kMessageBytes);
            EXPECT_TRUE(answers_.emplace(d->ticket, d->reason).second) << d->ticket;
        }
    }
    Site a_, b_;
    std::vector<uint64_t> received_;
    std::map<uint64_t, Dropped::Reason> answers_;
};

TEST_F(TransportCancel, WhereverTheMessageWaits) {
    for (uint64_t t = 1; t <= 20; ++t) send(t);
    const SessionId session = a_.transport->session();
    // In the endpoint, stalled, in the ring; and never known.
    for (const uint64_t t : {2u, 3u, 4u, 9u, 20u, 77u})
        ASSERT_TRUE(a_.transport->try_cancel(Class::demand, session, t));
    pollfd writable{a_.transport->writable_fd(Class::demand), POLLIN, 0};
    EXPECT_EQ(::poll(&writable, 1, kPatienceMs), 1);
    ASSERT_TRUE(eventually([&] {
        collect();
        return answers_.size() == 6 && a_.transport->queued_bytes(Class::demand) == 0;
    }));
    collect();
    std::vector<uint64_t> expected;
    for (uint64_t t = 1; t <= 20; ++t) {
        const auto answer = answers_.find(t);
        if (answer == answers_.end() || answer->second == Dropped::Reason::too_late)
            expected.push_back(t);
    }
    ASSERT_TRUE(eventually([&] {
        collect();
        return received_.size() >= expected.size();
    }));
    EXPECT_EQ(received_, expected);
    EXPECT_EQ(answers_.at(77), Dropped::Reason::too_late);
    // 800 KB were ahead of it at 8 Mbit/s.
    EXPECT_EQ(answers_.at(9), Dropped::Reason::cancelled);
    EXPECT_EQ(answers_.at(20), Dropped::Reason::cancelled);
    EXPECT_EQ(a_.transport->unsent_bytes(Class::demand), 0u);
}

TEST_F(TransportCancel, DeadlinesPassWhereverTheMessageWaits) {
    const uint64_t past = a_.clock.now_ns();  // over already when the packet thread sees it
    send(1);
    for (uint64_t t = 2; t <= 9; ++t) send(t, t % 2 == 0 ? past : 0);
    ASSERT_TRUE(eventually([&] {
        collect();
        return received_.size() == 5 && answers_.size() == 4;
    }));
    EXPECT_EQ(received_, (std::vector<uint64_t>{1, 3, 5, 7, 9}));
    for (const uint64_t t : {2u, 4u, 6u, 8u}) EXPECT_EQ(answers_.at(t), Dropped::Reason::expired);
    ASSERT_TRUE(eventually([&] {
        return a_.transport->queued_bytes(Class::demand) == 0 &&
               a_.transport->stats().classes[index(Class::demand)].expired_messages == 4;
    }));
}

// More requests than the ring holds: the producer is told, nothing is lost or unbounded.
TEST_F(TransportCancel, RequestsAreBounded) {
    const SessionId session = a_.transport->session();
    uint64_t accepted = 0;
    for (uint64_t t = 1; t <= 5000; ++t)
        accepted += a_.transport->try_cancel(Class::demand, session, 1000 + t) ? 1 : 0;
    uint64_t answers = 0;
    ASSERT_TRUE(eventually([&] {
        while (a_.transport->try_dropped(Class::demand)) ++answers;
        return answers + a_.transport->stats().drop_reports_lost == accepted;
    }));
    EXPECT_GT(accepted, 0u);
}

}  // namespace
}  // namespace evac::wan::testing
