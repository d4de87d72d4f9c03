// Who may connect, and what becomes of a session when the path or a peer goes away and comes back.
#include <gtest/gtest.h>

#include "endpoint_pair.hpp"
#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

TEST(Handshake, MutualCertificatesGiveBothTheSameSession) {
    Pair pair(site_a_context(), site_b_context());
    pair.run(200 * kNsPerMs);
    EXPECT_EQ(pair.client->state(), SessionState::up);
    EXPECT_EQ(pair.server->state(), SessionState::up);
    EXPECT_NE(pair.client->session(), SessionId::none);
    EXPECT_EQ(pair.client->session(), pair.server->session());
    EXPECT_TRUE(pair.client_refusals.empty());
    // The first hello was answered without keeping anything about it.
    const Stats stats = pair.server->stats(pair.now);
    EXPECT_EQ(stats.drops[static_cast<size_t>(DropReason::handshake_no_cookie)], 1u);
    EXPECT_EQ(stats.handshake_attempts, 1u);
}

TEST(Handshake, RefusesAForeignAuthorityOnceInWords) {
    const Identity other_ca = make_identity({.name = "other CA", .authority = true});
    const Identity impostor = make_identity({.name = "site-a"}, &other_ca);
    Pair pair(context_for(impostor, TestPki::get().ca, "site-b"), site_b_context());
    pair.run(5 * kNsPerSecond);  // several attempts
    EXPECT_EQ(pair.server->session(), SessionId::none);
    EXPECT_EQ(pair.client->session(), SessionId::none);
    ASSERT_EQ(pair.server_refusals.size(), 1u) << Pair::joined(pair.server_refusals);
    EXPECT_NE(pair.server_refusals[0].find("unable to get local issuer certificate"),
              std::string::npos)
        << pair.server_refusals[0];
    EXPECT_NE(pair.server_refusals[0].find("'site-a'"), std::string::npos);
    ASSERT_EQ(pair.client_refusals.size(), 1u);
    EXPECT_NE(pair.client_refusals[0].find("peer refuses"), std::string::npos)
        << pair.client_refusals[0];
    EXPECT_GT(pair.server->stats(pair.now).handshake_attempts, 1u);
}

TEST(Handshake, ClientRefusesAServerOfAForeignAuthority) {
    const Identity other_ca = make_identity({.name = "other CA", .authority = true});
    const Identity impostor = make_identity({.name = "site-b"}, &other_ca);
    Pair pair(site_a_context(), context_for(impostor, TestPki::get().ca, "site-a"));
    pair.run(2 * kNsPerSecond);
    EXPECT_EQ(pair.server->session(), SessionId::none);
    EXPECT_EQ(pair.client->session(), SessionId::none);
    ASSERT_EQ(pair.client_refusals.size(), 1u);
    EXPECT_NE(pair.client_refusals[0].find("we refuse"), std::string::npos)
        << pair.client_refusals[0];
}

TEST(Handshake, RefusesAnExpiredCertificate) {
    // The context refuses to load an expired certificate of its own, so this one expires while it
    // is used. On a slow machine it may expire before it is loaded: then it gets more time.
    Identity brief;
    std::shared_ptr<const TlsContext> context;
    for (long life_s = 1; context == nullptr && life_s <= 8; life_s *= 2) {
        brief = make_identity({.name = "site-a", .not_after_s = life_s}, &TestPki::get().ca);
        auto loaded = TlsContext::from_pem(pem_for(brief, TestPki::get().ca, "site-b"));
        if (loaded.ok()) context = *loaded;
    }
    ASSERT_NE(context, nullptr);
    while (X509_cmp_current_time(X509_get0_notAfter(brief.certificate.get())) > 0) {
        const timespec pause{0, 100'000'000};
        ::nanosleep(&pause, nullptr);
    }
    Pair pair(context, site_b_context());
    pair.run(2 * kNsPerSecond);
    EXPECT_EQ(pair.server->session(), SessionId::none);
    ASSERT_EQ(pair.server_refusals.size(), 1u);
    EXPECT_NE(pair.server_refusals[0].find("expired"), std::string::npos)
        << pair.server_refusals[0];
}

TEST(Handshake, RefusesTheWrongName) {
    const Identity stranger = make_identity({.name = "site-c"}, &TestPki::get().ca);
    Pair pair(context_for(stranger, TestPki::get().ca, "site-b"), site_b_context());
    pair.run(2 * kNsPerSecond);
    EXPECT_EQ(pair.server->session(), SessionId::none);
    ASSERT_EQ(pair.server_refusals.size(), 1u);
    EXPECT_NE(pair.server_refusals[0].find("mismatch"), std::string::npos)
        << pair.server_refusals[0];
    EXPECT_NE(pair.server_refusals[0].find("CN=site-c"), std::string::npos)
        << pair.server_refusals[0];
}

TEST(Handshake, IgnoresOtherAddresses) {
    EndpointConfig config;
    config.role = Role::listen;
    config.peer_address = World::kAddressA;
    config.allow_address_change = false;
    auto server = std::move(*Endpoint::create(config, site_b_context(), 1, 1));
    server->receive(1, {1, 2}, as_byte_span("\x01\x01something"));
    EXPECT_EQ(server->stats(1).drops[static_cast<size_t>(DropReason::wrong_address)], 1u);
}

bool both_up(World& w) {
    return w.a().session() != SessionId::none && w.a().session() == w.b().session() &&
           w.a().state() == SessionState::up && w.b().state() == SessionState::up;
}

TEST(Session, SurvivesOutagesWithoutANewHandshake) {
    World w({});
    ASSERT_TRUE(w.run_until(w.now_ns() + kNsPerSecond, [&] { return both_up(w); }));
    const SessionId before = w.a().session();
    for (const uint64_t seconds : {1u, 10u, 60u}) {
        w.link(0).outage = w.link(1).outage = true;
        ASSERT_EQ(w.a().send(Class::control, before, Bytes(100)), SendResult::ok);
        w.run_until(w.now_ns() + seconds * kNsPerSecond);
        EXPECT_EQ(w.a().state(), SessionState::silent);
        w.link(0).outage = w.link(1).outage = false;
        const uint64_t restored = w.now_ns();
        ASSERT_TRUE(w.run_until(restored + kNsPerSecond,
                                [&] { return w.b().take(Class::control).has_value(); }));
        // A probe goes out every 100 ms, whatever the outage lasted.
        EXPECT_LE(w.now_ns() - restored, 150 * kNsPerMs) << "after " << seconds << " s";
        w.run_until(w.now_ns() + 3 * kNsPerSecond);
        EXPECT_EQ(w.a().session(), before);
        EXPECT_EQ(w.b().session(), before);
    }
}

TEST(Session, EitherSideMayRestart) {
    for (const size_t side : {0u, 1u}) {
        World w({});
        ASSERT_TRUE(w.run_until(w.now_ns() + kNsPerSecond, [&] { return both_up(w); }));
        w.run_until(w.now_ns() + 300 * kNsPerMs);
        const SessionId before = w.a().session();
        ASSERT_EQ(w.end(1 - side).send(Class::control, before, Bytes(100)), SendResult::ok);
        w.run_until(w.now_ns() + 5 * kNsPerMs);
        w.restart(side);
        const uint64_t restarted = w.now_ns();
        const bool again = w.run_until(restarted + 10 * kNsPerSecond,
                                       [&] { return both_up(w) && w.a().session() != before; });
        ASSERT_TRUE(again) << "side " << side;
        std::printf("restart of side %zu: new session after %.0f ms\n", side,
                    static_cast<double>(w.now_ns() - restarted) / 1e6);
        EXPECT_EQ(w.end(1 - side).send(Class::control, before, Bytes(1)),
                  SendResult::session_changed);
        EXPECT_EQ(w.end(1 - side).send(Class::control, SessionId::none, Bytes(1)),
                  SendResult::not_connected);
        // What the old session held is given up and counted so.
        EXPECT_EQ(w.end(1 - side).released_bytes(Class::control), 100u);
        EXPECT_EQ(w.end(1 - side).departed_bytes(Class::control), 100u);
    }
}

// An attacker on the path claims that the session is gone: the session is probed, found alive, and
// stays.
TEST(Session, AForgedHintDoesNotEndASession) {
    World w({});
    ASSERT_TRUE(w.run_until(w.now_ns() + kNsPerSecond, [&] { return both_up(w); }));
    const SessionId before = w.a().session();
    Bytes header;
    w.tap = [&](size_t from, Bytes& bytes) {
        if (from == 0 && bytes[0] == std::byte{2}) header.assign(bytes.begin(), bytes.begin() + 14);
    };
    w.run_until(w.now_ns() + 2 * kNsPerSecond);
    ASSERT_EQ(header.size(), 14u);
    header[0] = std::byte{3};
    header[1] = std::byte{1};
    for (int i = 0; i < 20; ++i) {
        w.inject(0, header);
        w.run_until(w.now_ns() + 300 * kNsPerMs);
    }
    EXPECT_EQ(w.a().session(), before);
    EXPECT_EQ(w.b().session(), before);
    EXPECT_EQ(w.b().stats(w.now_ns()).sessions, 1u);
}

TEST(Session, RekeysOnSchedule) {
    World::Options o;
    o.a.rekey_after_packets = o.b.rekey_after_packets = 50;
    World w(o);
    ASSERT_TRUE(w.run_until(w.now_ns() + kNsPerSecond, [&] { return both_up(w); }));
    uint64_t got = 0;
    w.on_step = [&] {
        while (w.b().take(Class::bulk)) ++got;
    };
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(w.a().send(Class::bulk, w.a().session(), Bytes(200'000)), SendResult::ok);
        w.run_until(w.now_ns() + 100 * kNsPerMs);
    }
    EXPECT_EQ(got, 20u);
    EXPECT_GT(w.a().stats(w.now_ns()).rekeys, 20u);
    EXPECT_EQ(w.b().stats(w.now_ns()).drops[static_cast<size_t>(DropReason::bad_tag)], 0u);
}

TEST(Session, IdleIsQuiet) {
    World w({});
    ASSERT_TRUE(w.run_until(w.now_ns() + kNsPerSecond, [&] { return both_up(w); }));
    w.run_until(w.now_ns() + kNsPerSecond);
    const uint64_t before = w.a().stats(w.now_ns()).packets_sent;
    const uint64_t steps = w.steps();
    w.run_until(w.now_ns() + 60 * kNsPerSecond);
    EXPECT_LE(w.a().stats(w.now_ns()).packets_sent - before, 60u * 3);
    EXPECT_LE(w.steps() - steps, 60u * 20);
}

TEST(EndpointConfig, NamesTheFieldThatIsWrong) {
    const auto refusal = [](auto change) {
        EndpointConfig config;
        config.peer_address = World::kAddressB;
        change(config);
        auto made = Endpoint::create(config, site_a_context(), 1, 1);
        return made.ok() ? std::string() : made.error().message();
    };
    EXPECT_EQ(refusal([](EndpointConfig&) {}), "");
    EXPECT_NE(refusal([](EndpointConfig& c) { c.peer_address = {}; }).find("peer_address"),
              std::string::npos);
    EXPECT_NE(refusal([](EndpointConfig& c) { c.datagram_bytes_max = 576; }).find("1200 to 9000"),
              std::string::npos);
    EXPECT_NE(refusal([](EndpointConfig& c) {
                  c.floor_bits_per_s = c.ceiling_bits_per_s + 1;
              }).find("floor"),
              std::string::npos);
    EXPECT_NE(refusal([](EndpointConfig& c) { c.disk_weight = 0; }).find("disk_weight"),
              std::string::npos);
    EXPECT_NE(refusal([](EndpointConfig& c) { c.classes[3].receive_bytes_max = 1; }).find("bulk"),
              std::string::npos);
}

}  // namespace
}  // namespace evac::wan::testing
