// Transport over kernel UDP on loopback: two packet threads, producers and consumers, as the daemon
// uses it.
#include "evac/wan/transport.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <time.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "evac/core/units.hpp"
#include "evac/wan_port/kernel_udp_port.hpp"
#include "test_certs.hpp"

namespace evac::wan::testing {
namespace {

constexpr int kPatienceMs = 20'000;  // generous: a hang fails, a slow machine does not

const Clock& system_clock() {
    static const SystemClock clock;
    return clock;
}

std::unique_ptr<wan_port::DatagramPort> open_port(uint16_t port) {
    wan_port::KernelUdpOptions options;
    options.local = {0x7f000001, port};
    auto made = wan_port::open_kernel_udp_port(options);
    EVAC_ASSERT(made.ok());
    return std::move(*made);
}

// Hides the descriptor: the loop must then sleep by the clock.
class BlindPort final : public wan_port::DatagramPort {
  public:
    explicit BlindPort(wan_port::DatagramPort& inner) : inner_(inner) {}
    size_t send(const wan_port::UdpAddress& to,
                std::span<const std::span<const std::byte>> datagrams) override {
        // Takes little at a time: the transport must keep the rest.
        return datagrams.empty()
                   ? 0
                   : inner_.send(to, datagrams.first(std::min<size_t>(datagrams.size(), 3)));
    }
    size_t receive(size_t budget, const wan_port::DatagramHandler& handler) override {
        return inner_.receive(budget, handler);
    }
    int wait_fd() const override { return -1; }
    size_t payload_bytes_max() const override { return inner_.payload_bytes_max(); }
    wan_port::UdpAddress local_address() const override { return inner_.local_address(); }
    const wan_port::PortCounters& counters() const override { return inner_.counters(); }
    const char* name() const override { return "blind"; }

  private:
    wan_port::DatagramPort& inner_;
};

struct Site {
    std::unique_ptr<wan_port::DatagramPort> owned;
    wan_port::DatagramPort* port = nullptr;
    std::unique_ptr<Transport> transport;
    std::atomic<int64_t> cpu_ns{0};
    std::jthread thread;

    void open() {
        owned = open_port(0);
        port = owned.get();
    }
    void start(Role role, wan_port::UdpAddress peer, std::shared_ptr<const TlsContext> tls) {
        TransportConfig config;
        config.endpoint.role = role;
        config.endpoint.peer_address = peer;
        config.endpoint.ceiling_bits_per_s = 2'000'000'000;
        config.endpoint.start_bits_per_s = 100'000'000;
        auto made = Transport::create(config, std::move(tls), *port, system_clock(), 7);
        EVAC_ASSERT(made.ok());
        transport = std::move(*made);
        thread = std::jthread([this](std::stop_token stop) {
            transport->run(stop);
            timespec t{};
            ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
            cpu_ns = int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
        });
    }
    void stop() {
        thread.request_stop();
        thread.join();
    }
};

// A listens, B connects.
struct Sites {
    Site a, b;
    explicit Sites(bool blind = false) {
        a.open();
        b.open();
        if (blind) {
            blind_a = std::make_unique<BlindPort>(*a.owned);
            blind_b = std::make_unique<BlindPort>(*b.owned);
            a.port = blind_a.get();
            b.port = blind_b.get();
        }
        a.start(Role::listen, b.port->local_address(), site_a_context());
        b.start(Role::connect, a.port->local_address(), site_b_context());
    }
    std::unique_ptr<BlindPort> blind_a, blind_b;
};

bool wait_readable(int fd) {
    pollfd p{fd, POLLIN, 0};
    return ::poll(&p, 1, kPatienceMs) == 1;
}

template <class Done>
bool eventually(Done&& done) {
    for (int i = 0; i < kPatienceMs; ++i) {
        if (done()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
}

Bytes numbered(uint64_t number, size_t size) {
    Bytes m;
    ByteWriter(m).le64(number);
    m.resize(size, static_cast<std::byte>(number & 0xff));
    return m;
}

// Sends `count` messages, waiting for room on the descriptor.
void produce(Transport& t, Class c, SessionId session, uint64_t count, size_t size) {
    for (uint64_t n = 0; n < count; ++n) {
        Bytes m = numbered(n, size);
        for (;;) {
            const SendResult r = t.try_send(c, session, std::move(m));
            if (r == SendResult::ok) break;
            ASSERT_EQ(r, SendResult::full);
            ASSERT_EQ(m.size(), size);  // untouched
            ASSERT_TRUE(wait_readable(t.writable_fd(c)));
            Transport::clear(t.writable_fd(c));
        }
    }
}

void consume(Transport& t, std::span<const Class> classes, int fd, SessionId session,
             uint64_t count, size_t size) {
    std::array<uint64_t, kClasses> next{};
    uint64_t left = count * classes.size();
    while (left > 0) {
        Transport::clear(fd);
        bool any = false;
        for (const Class c : classes) {
            while (auto m = t.try_receive(c)) {
                any = true;
                ASSERT_EQ(m->session, session);
                ASSERT_EQ(m->bytes, numbered(next[index(c)]++, size)) << to_string(c);
                --left;
            }
        }
        if (!any && left > 0) ASSERT_TRUE(wait_readable(fd)) << left << " messages missing";
    }
}

void exchange_all_classes(Sites& sites) {
    ASSERT_TRUE(eventually(
        [&] { return sites.a.transport->connected() && sites.b.transport->connected(); }));
    const SessionId session = sites.a.transport->session();
    ASSERT_EQ(session, sites.b.transport->session());
    constexpr uint64_t kCount = 80;
    constexpr size_t kSize = 60'000;
    constexpr std::array<Class, 1> kControl{Class::control};
    constexpr std::array<Class, 3> kData{Class::demand, Class::disk, Class::bulk};
    std::vector<std::jthread> threads;
    for (Site* site : {&sites.a, &sites.b}) {
        for (size_t i = 0; i < kClasses; ++i) {
            threads.emplace_back(
                [=] { produce(*site->transport, static_cast<Class>(i), session, kCount, kSize); });
        }
        threads.emplace_back([=] {
            consume(*site->transport, kControl, site->transport->control_fd(), session, kCount,
                    kSize);
        });
        threads.emplace_back([=] {
            consume(*site->transport, kData, site->transport->data_fd(), session, kCount, kSize);
        });
    }
    threads.clear();
    for (size_t i = 0; i < kClasses; ++i) {
        const auto c = static_cast<Class>(i);
        EXPECT_TRUE(eventually([&] { return sites.a.transport->queued_bytes(c) == 0; }));
        EXPECT_EQ(sites.a.transport->unsent_bytes(c), 0u);
    }
    sites.a.stop();
    sites.b.stop();
    const Stats stats = sites.a.transport->stats();
    for (const ClassStats& c : stats.classes) {
        EXPECT_EQ(c.sent_bytes, kCount * kSize);
        EXPECT_EQ(c.received_bytes, kCount * kSize);
        EXPECT_EQ(c.received_messages, kCount);
    }
    std::printf(
        "loopback: %llu packets sent, %llu lost, rtt %.2f ms, cpu of both packet threads %.2f s "
        "for %.0f MB each way\n",
        static_cast<unsigned long long>(stats.packets_sent),
        static_cast<unsigned long long>(stats.packets_lost),
        static_cast<double>(stats.rtt_smoothed_ns) / 1e6,
        static_cast<double>(sites.a.cpu_ns + sites.b.cpu_ns) / 1e9,
        kCount * kSize * kClasses / 1e6);
}

TEST(Transport, AllClassesBothWaysOverKernelUdp) {
    Sites sites;
    exchange_all_classes(sites);
}

TEST(Transport, WorksWithoutADescriptorAndWithASlowDevice) {
    Sites sites(true);
    exchange_all_classes(sites);
}

TEST(Transport, SaysFullAtItsLimitAndKeepsTheMessage) {
    Sites sites;
    ASSERT_TRUE(eventually([&] { return sites.b.transport->connected(); }));
    sites.a.stop();  // the peer answers nothing any more
    const SessionId session = sites.b.transport->session();
    SendResult result = SendResult::ok;
    uint64_t accepted = 0;
    Bytes m;
    while (result == SendResult::ok) {
        m = numbered(accepted, 100'000);
        result = sites.b.transport->try_send(Class::bulk, session, std::move(m));
        accepted += result == SendResult::ok;
        ASSERT_LT(accepted, 400u);
    }
    EXPECT_EQ(result, SendResult::full);
    EXPECT_EQ(m, numbered(accepted, 100'000));
    EXPECT_EQ(sites.b.transport->queued_bytes(Class::bulk), accepted * 100'000);
    EXPECT_EQ(sites.b.transport->try_send(Class::bulk, session, Bytes()), SendResult::invalid);
    EXPECT_EQ(sites.b.transport->try_send(Class::bulk, session, Bytes(kMessageBytesMax + 1)),
              SendResult::invalid);
    // Another class still has room.
    EXPECT_EQ(sites.b.transport->try_send(Class::control, session, Bytes(10)), SendResult::ok);
    ASSERT_TRUE(eventually([&] { return sites.b.transport->state() == SessionState::silent; }));
    EXPECT_TRUE(sites.b.transport->connected());
}

TEST(Transport, EveryoneLearnsThatTheSessionChanged) {
    Sites sites;
    ASSERT_TRUE(eventually(
        [&] { return sites.a.transport->connected() && sites.b.transport->connected(); }));
    const SessionId before = sites.b.transport->session();
    sites.a.stop();
    for (int i = 0; i < 5; ++i) {
        ASSERT_EQ(sites.b.transport->try_send(Class::disk, before, Bytes(10'000)), SendResult::ok);
    }
    Transport::clear(sites.b.transport->writable_fd(Class::disk));
    Transport::clear(sites.b.transport->control_fd());
    Transport::clear(sites.b.transport->data_fd());
    // The listening site restarts on the same port.
    sites.a.transport.reset();
    sites.a.start(Role::listen, sites.b.port->local_address(), site_a_context());
    ASSERT_TRUE(eventually([&] { return sites.b.transport->session() != before; }));
    EXPECT_EQ(sites.b.transport->try_send(Class::disk, before, Bytes(1)),
              SendResult::session_changed);
    EXPECT_EQ(sites.b.transport->try_send(Class::disk, SessionId::none, Bytes(1)),
              SendResult::not_connected);
    EXPECT_TRUE(wait_readable(sites.b.transport->writable_fd(Class::disk)));
    EXPECT_TRUE(wait_readable(sites.b.transport->control_fd()));
    EXPECT_TRUE(wait_readable(sites.b.transport->data_fd()));
    // What the old session held is void, not stuck.
    EXPECT_TRUE(eventually([&] { return sites.b.transport->queued_bytes(Class::disk) == 0; }));
    const SessionId now = sites.b.transport->session();
    ASSERT_EQ(sites.b.transport->try_send(Class::disk, now, numbered(42, 100)), SendResult::ok);
    std::optional<Message> got;
    ASSERT_TRUE(eventually(
        [&] { return (got = sites.a.transport->try_receive(Class::disk)).has_value(); }));
    EXPECT_EQ(got->session, now);
    EXPECT_EQ(got->bytes, numbered(42, 100));
    uint64_t ups = 0;
    while (auto event = sites.b.transport->try_event())
        ups += event->kind == TransportEvent::Kind::session_up;
    EXPECT_EQ(ups, 2u);
}

TEST(Transport, ReportsARefusalAsAnEvent) {
    Site a, b;
    a.open();
    b.open();
    const Identity stranger = make_identity({.name = "site-c"}, &TestPki::get().ca);
    a.start(Role::listen, b.port->local_address(), site_a_context());
    b.start(Role::connect, a.port->local_address(),
            context_for(stranger, TestPki::get().ca, "site-a"));
    std::optional<TransportEvent> event;
    ASSERT_TRUE(eventually([&] { return (event = a.transport->try_event()).has_value(); }));
    EXPECT_EQ(event->kind, TransportEvent::Kind::refused);
    EXPECT_NE(event->text.find("mismatch"), std::string::npos) << event->text;
    EXPECT_FALSE(a.transport->connected());
    EXPECT_EQ(a.transport->try_send(Class::control, SessionId{1}, Bytes(1)),
              SendResult::not_connected);
}

TEST(Transport, CertificatesAreRenewedAndAPeerRevokedWhileItRuns) {
    Sites sites;
    ASSERT_TRUE(eventually(
        [&] { return sites.a.transport->connected() && sites.b.transport->connected(); }));
    const SessionId before = sites.b.transport->session();
    for (int i = 0; i < 50; ++i) {  // from another thread than the packet thread
        sites.a.transport->set_tls(site_a_context());
        sites.b.transport->set_tls(site_b_context());
    }
    ASSERT_EQ(sites.b.transport->try_send(Class::control, before, numbered(1, 100)),
              SendResult::ok);
    ASSERT_TRUE(
        eventually([&] { return sites.a.transport->try_receive(Class::control).has_value(); }));
    EXPECT_EQ(sites.b.transport->session(), before);
    while (sites.b.transport->try_event()) {
    }
    TlsPem pem = pem_for(TestPki::get().site_b, TestPki::get().ca, "site-a");
    pem.crl = make_list({.revoked = {2}}, TestPki::get().ca);  // site-a
    sites.b.transport->set_tls(*TlsContext::from_pem(pem));
    ASSERT_TRUE(eventually([&] { return !sites.b.transport->connected(); }));
    std::optional<TransportEvent> event;
    bool down = false, reason = false;
    ASSERT_TRUE(eventually([&] {
        while ((event = sites.b.transport->try_event())) {
            down = down || event->kind == TransportEvent::Kind::session_down;
            reason = reason || event->text.find("revoked") != std::string::npos;
        }
        return down && reason;
    }));
    EXPECT_EQ(sites.b.transport->try_send(Class::control, before, Bytes(1)),
              SendResult::not_connected);
}

TEST(Transport, IdleCostIsPrinted) {
    Sites sites;
    ASSERT_TRUE(eventually(
        [&] { return sites.a.transport->connected() && sites.b.transport->connected(); }));
    std::this_thread::sleep_for(std::chrono::seconds(2));
    sites.a.stop();
    sites.b.stop();
    std::printf("idle for 2 s after one handshake: packet threads used %.2f ms and %.2f ms\n",
                static_cast<double>(sites.a.cpu_ns) / 1e6,
                static_cast<double>(sites.b.cpu_ns) / 1e6);
    EXPECT_GT(sites.a.cpu_ns, 0);
}

}  // namespace
}  // namespace evac::wan::testing
