// Certificates, revocation lists and keys that change while the link is used.
#include <gtest/gtest.h>
#include <time.h>

#include <set>

#include "endpoint_pair.hpp"
#include "sim_world.hpp"

namespace evac::wan::testing {
namespace {

bool up(const Pair& pair) {
    return pair.client->session() != SessionId::none &&
           pair.client->session() == pair.server->session();
}
bool contains(const std::vector<std::string>& texts, const std::string& part) {
    return Pair::joined(texts).find(part) != std::string::npos;
}

std::shared_ptr<const TlsContext> loaded(const TlsPem& pem) {
    auto context = TlsContext::from_pem(pem);
    EXPECT_TRUE(context.ok()) << context.error().message();
    return *context;
}
std::string refusal(const TlsPem& pem) {
    auto context = TlsContext::from_pem(pem);
    return context.ok() ? std::string() : context.error().message();
}

TlsPem pem_a() {
    return pem_for(TestPki::get().site_a, TestPki::get().ca, "site-b");
}
TlsPem pem_b() {
    return pem_for(TestPki::get().site_b, TestPki::get().ca, "site-a");
}

// ---- rotation ----

TEST(Rotation, LivingSessionGoesOnAndTheNextHandshakeUsesTheNewCertificate) {
    const Identity new_ca = make_identity({.name = "new CA", .authority = true});
    const Identity new_a = make_identity({.name = "site-a", .serial = 77}, &new_ca);
    Pair pair(site_a_context(), site_b_context());
    pair.run(200 * kNsPerMs);
    ASSERT_TRUE(up(pair));
    const SessionId before = pair.client->session();
    // The listener learns the new authority first, then the other side changes its certificate.
    TlsPem both = pem_b();
    both.ca += pem_of(new_ca.certificate.get());
    pair.server->set_tls(pair.now, loaded(both));
    pair.client->set_tls(pair.now, context_for(new_a, TestPki::get().ca, "site-b"));
    ASSERT_EQ(pair.client->send(Class::control, before, Bytes(100)), SendResult::ok);
    pair.run(500 * kNsPerMs);
    EXPECT_EQ(pair.client->session(), before);
    EXPECT_EQ(pair.server->session(), before);
    EXPECT_TRUE(pair.server->take(Class::control).has_value());
    // A server that trusts the new authority only shows which certificate is used now.
    EndpointConfig config;
    config.role = Role::listen;
    pair.server = std::move(*Endpoint::create(
        config, context_for(TestPki::get().site_b, new_ca, "site-a"), 9, pair.now));
    pair.run(8 * kNsPerSecond);
    ASSERT_TRUE(up(pair)) << Pair::joined(pair.server_refusals);
    EXPECT_NE(pair.client->session(), before);
    EXPECT_TRUE(pair.server_refusals.empty());
}

TEST(Rotation, AHandshakeUnderWayBeginsAnew) {
    // The context changes after each datagram of the first half second.
    Pair pair(site_a_context(), site_b_context());
    for (int i = 0; i < 20; ++i) {
        pair.run(2 * kNsPerMs);
        pair.client->set_tls(pair.now, loaded(pem_a()));
        pair.server->set_tls(pair.now, loaded(pem_b()));
    }
    pair.run(8 * kNsPerSecond);
    EXPECT_TRUE(up(pair));
}

// ---- revocation ----

TEST(Revocation, RevokedPeerIsRefusedWithTheReasonOnce) {
    TlsPem pem = pem_b();
    pem.crl = make_list({.revoked = {2}}, TestPki::get().ca);  // site-a's serial number
    Pair pair(site_a_context(), loaded(pem));
    pair.run(5 * kNsPerSecond);
    EXPECT_FALSE(up(pair));
    ASSERT_EQ(pair.server_refusals.size(), 1u) << Pair::joined(pair.server_refusals);
    EXPECT_TRUE(contains(pair.server_refusals, "certificate revoked (wan.crl)"));
    EXPECT_TRUE(contains(pair.server_refusals, "CN=site-a"));
    ASSERT_EQ(pair.client_refusals.size(), 1u);
    EXPECT_TRUE(contains(pair.client_refusals, "peer refuses the handshake"));
    EXPECT_TRUE(contains(pair.client_refusals, "revoked"));
    EXPECT_GT(pair.server->stats(pair.now).handshake_attempts, 1u);
}

TEST(Revocation, OthersOnTheListDoNotMatter) {
    TlsPem pem = pem_b();
    pem.crl = make_list({.revoked = {3, 99}}, TestPki::get().ca);
    Pair pair(site_a_context(), loaded(pem));
    pair.run(kNsPerSecond);
    EXPECT_TRUE(up(pair)) << Pair::joined(pair.server_refusals);
}

TEST(Revocation, NoListOfThePeersAuthorityIsARefusal) {
    const Identity other = make_identity({.name = "other CA", .authority = true});
    TlsPem pem = pem_b();
    pem.ca += pem_of(other.certificate.get());
    pem.crl = make_list({}, other);
    Pair pair(site_a_context(), loaded(pem));
    pair.run(2 * kNsPerSecond);
    EXPECT_FALSE(up(pair));
    EXPECT_TRUE(contains(pair.server_refusals, "unable to get certificate CRL"));
}

TEST(Revocation, AListThatExpiredOrIsForeignIsNamed) {
    TlsPem pem = pem_b();
    pem.crl = make_list({.last_update_s = -7200, .next_update_s = -3600}, TestPki::get().ca);
    EXPECT_NE(refusal(pem).find("wan.crl: the revocation list of /CN=evacgw test CA expired on"),
              std::string::npos)
        << refusal(pem);
    Identity impostor = make_identity({.name = "evacgw test CA", .authority = true});
    while (impostor.key == TestPki::get().ca.key)  // keys come from a pool
        impostor = make_identity({.name = "evacgw test CA", .authority = true});
    pem.crl = make_list({}, impostor);
    EXPECT_NE(refusal(pem).find("not signed by that authority"), std::string::npos) << refusal(pem);
    pem.crl = "hello";
    EXPECT_NE(refusal(pem).find("holds no revocation list"), std::string::npos) << refusal(pem);
}

// A list may expire while the gateway runs: new handshakes are refused and say so, the living
// session stays.
TEST(Revocation, AListThatExpiresInUseStopsNewHandshakesOnly) {
    std::shared_ptr<const TlsContext> context;
    TlsPem pem = pem_b();
    time_t expires = 0;
    for (long life_s = 1; context == nullptr && life_s <= 8; life_s *= 2) {
        pem.crl = make_list({.next_update_s = life_s}, TestPki::get().ca);
        expires = ::time(nullptr) + life_s;
        auto made = TlsContext::from_pem(pem);
        if (made.ok()) context = *made;
    }
    ASSERT_NE(context, nullptr);
    Pair living(site_a_context(), site_b_context());
    living.run(200 * kNsPerMs);
    ASSERT_TRUE(up(living));
    while (::time(nullptr) <= expires) {
        const timespec pause{0, 100'000'000};
        ::nanosleep(&pause, nullptr);
    }
    living.server->set_tls(living.now, context);
    living.run(kNsPerSecond);
    EXPECT_TRUE(up(living));
    Pair fresh(site_a_context(), context);
    fresh.run(2 * kNsPerSecond);
    EXPECT_FALSE(up(fresh));
    EXPECT_TRUE(contains(fresh.server_refusals, "CRL has expired (wan.crl)"))
        << Pair::joined(fresh.server_refusals);
}

TEST(Revocation, AnewListEndsALivingSession) {
    for (const bool listener : {true, false}) {
        Pair pair(site_a_context(), site_b_context());
        pair.run(200 * kNsPerMs);
        ASSERT_TRUE(up(pair));
        Endpoint& judge = listener ? *pair.server : *pair.client;
        TlsPem pem = listener ? pem_b() : pem_a();
        const SessionId before = judge.session();
        ASSERT_EQ(judge.send(Class::bulk, before, Bytes(10'000)), SendResult::ok);
        pem.crl = make_list({.revoked = {50}}, TestPki::get().ca);
        judge.set_tls(pair.now, loaded(pem));
        EXPECT_EQ(judge.session(), before);  // somebody else was revoked
        pem.crl = make_list({.revoked = {2, 3}}, TestPki::get().ca);
        judge.set_tls(pair.now, loaded(pem));
        EXPECT_EQ(judge.session(), SessionId::none);
        EXPECT_EQ(judge.state(), SessionState::down);
        EXPECT_EQ(judge.send(Class::bulk, before, Bytes(10)), SendResult::not_connected);
        EXPECT_EQ(judge.released_bytes(Class::bulk), 10'000u);  // given up, and counted so
        pair.run(6 * kNsPerSecond);
        EXPECT_EQ(judge.session(), SessionId::none);
        const auto& said = listener ? pair.server_refusals : pair.client_refusals;
        EXPECT_TRUE(contains(said, "not accepted any more: certificate revoked"))
            << Pair::joined(said);
        EXPECT_LE(said.size(), 2u);  // the session's end, and why there is no new one
    }
}

TEST(Revocation, AnAuthorityThatIsGoneEndsALivingSession) {
    const Identity other = make_identity({.name = "other CA", .authority = true});
    Pair pair(site_a_context(), site_b_context());
    pair.run(200 * kNsPerMs);
    ASSERT_TRUE(up(pair));
    pair.server->set_tls(pair.now, context_for(TestPki::get().site_b, other, "site-a"));
    EXPECT_EQ(pair.server->session(), SessionId::none);
    pair.run(10 * kNsPerMs);
    EXPECT_TRUE(contains(pair.server_refusals, "not accepted any more: "))
        << Pair::joined(pair.server_refusals);
}

TEST(Revocation, TimeAloneEndsNoSession) {
    Identity brief;
    std::shared_ptr<const TlsContext> context;
    for (long life_s = 1; context == nullptr && life_s <= 8; life_s *= 2) {
        brief = make_identity({.name = "site-a", .not_after_s = life_s}, &TestPki::get().ca);
        auto made = TlsContext::from_pem(pem_for(brief, TestPki::get().ca, "site-b"));
        if (!made.ok()) continue;
        Pair pair(*made, site_b_context());
        pair.run(200 * kNsPerMs);
        if (!up(pair)) continue;  // expired on the way, on a slow machine
        context = *made;
        while (X509_cmp_current_time(X509_get0_notAfter(brief.certificate.get())) > 0) {
            const timespec pause{0, 100'000'000};
            ::nanosleep(&pause, nullptr);
        }
        pair.server->set_tls(pair.now, loaded(pem_b()));
        pair.run(kNsPerSecond);
        EXPECT_TRUE(up(pair)) << Pair::joined(pair.server_refusals);
    }
    EXPECT_NE(context, nullptr);
}

// ---- pairs ----

struct PairNames {
    const char* client;
    const char* server;
};

TEST(PairName, BothSitesMustBelongToTheSamePair) {
    for (const PairNames names : {PairNames{"tokyo+osaka", "tokyo+osaka"},
                                  {"tokyo+osaka", "tokyo+sendai"},
                                  {"", "tokyo+osaka"},
                                  {"tokyo+osaka", ""},
                                  {"", ""}}) {
        TlsPem a = pem_a();
        TlsPem b = pem_b();
        a.pair = names.client;
        b.pair = names.server;
        Pair pair(loaded(a), loaded(b));
        pair.run(3 * kNsPerSecond);
        if (std::string(names.client) == names.server) {
            EXPECT_TRUE(up(pair)) << names.client;
            continue;
        }
        EXPECT_FALSE(up(pair));
        ASSERT_EQ(pair.server_refusals.size(), 1u);
        ASSERT_EQ(pair.client_refusals.size(), 1u);
        EXPECT_TRUE(contains(pair.server_refusals, "of another pair: it offers 'evacgw/1"))
            << Pair::joined(pair.server_refusals);
        EXPECT_TRUE(contains(pair.server_refusals,
                             names.server[0] == 0 ? "no pair configured" : names.server));
        EXPECT_TRUE(contains(pair.client_refusals, "must be the same at both sites"))
            << Pair::joined(pair.client_refusals);
    }
}

TEST(PairName, IsNotSentInTheClear) {
    TlsPem a = pem_a();
    TlsPem b = pem_b();
    a.pair = b.pair = "tokyo+osaka";
    auto config = [](Role role) {
        EndpointConfig c;
        c.role = role;
        c.peer_address = World::kAddressB;
        return c;
    };
    auto client = std::move(*Endpoint::create(config(Role::connect), loaded(a), 1, 1));
    std::vector<std::byte> buffer(2000);
    wan_port::UdpAddress to;
    uint64_t hellos = 0;
    for (uint64_t now = 1; now < kNsPerSecond; now += kNsPerMs) {
        client->tick(now);
        while (const size_t n = client->transmit(now, buffer, to)) {
            const std::string text(reinterpret_cast<const char*>(buffer.data()), n);
            EXPECT_EQ(text.find("tokyo"), std::string::npos);
            hellos += text.find("evacgw/1-") != std::string::npos;
        }
    }
    EXPECT_GT(hellos, 0u);
}

// ---- rekeying ----

// Hundreds of key phases under load on a bad line: the eight-bit phase wraps twice, no packet is
// called a forgery, and everything arrives.
TEST(Rekey, UnderLoadWithLossAndReordering) {
    World::Options o;
    o.a.rekey_after_packets = o.b.rekey_after_packets = 200;
    for (LinkModel* m : {&o.a_to_b, &o.b_to_a}) {
        m->rate_bits_per_s = 500e6;
        m->delay_ns = 500'000;
        m->queue_bytes = 1u << 20;
        m->loss = 0.02;
        m->duplicate = 0.01;
        m->reorder = 0.02;
        m->reorder_ns = 2 * kNsPerMs;
    }
    World w(o);
    ASSERT_TRUE(
        w.run_until(w.now_ns() + kNsPerSecond, [&] { return w.a().session() != SessionId::none; }));
    const SessionId session = w.a().session();
    uint64_t sent = 0, received = 0;
    w.on_step = [&] {
        while (auto m = w.b().take(Class::bulk)) {
            ByteReader reader(m->bytes);
            ASSERT_EQ(reader.le64(), received);
            ++received;
        }
        while (sent < 8000) {
            Bytes message;
            ByteWriter(message).le64(sent);
            message.resize(40'000);
            if (w.a().send(Class::bulk, session, std::move(message)) != SendResult::ok) break;
            ++sent;
        }
    };
    ASSERT_TRUE(w.run_until(w.now_ns() + 60 * kNsPerSecond, [&] { return received == 8000; }));
    const Stats a = w.a().stats(w.now_ns());
    const Stats b = w.b().stats(w.now_ns());
    std::printf(
        "%llu packets, %llu key phases, %llu of a phase two back\n",
        static_cast<unsigned long long>(a.packets_sent), static_cast<unsigned long long>(a.rekeys),
        static_cast<unsigned long long>(b.drops[static_cast<size_t>(DropReason::bad_phase)]));
    EXPECT_GT(a.packets_sent, 200'000u);
    EXPECT_GT(a.rekeys, 600u);
    EXPECT_EQ(b.drops[static_cast<size_t>(DropReason::bad_tag)], 0u);
    EXPECT_EQ(a.drops[static_cast<size_t>(DropReason::bad_tag)], 0u);
    EXPECT_EQ(w.a().session(), session);
    EXPECT_EQ(w.b().session(), session);
}

}  // namespace
}  // namespace evac::wan::testing
