// Whatever arrives before anybody is authenticated, at both roles, with and without a session.
// Input: records of control(1) length(le16) bytes. control: bit 0 = to the client (else the
// listener), bit 1 = put the client's present attempt id in, bit 2 = put the live session's tag in,
// bit 3 = let 300 ms pass, bit 4 = from an address where nobody is.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "evac/core/assert.hpp"
#include "evac/core/units.hpp"
#include "evac/wan/endpoint.hpp"
#include "packet.hpp"
#include "test_certs.hpp"

using namespace evac;
using namespace evac::wan;
using namespace evac::wan::testing;

namespace {

constexpr wan_port::UdpAddress kClientAddress{1, 1};
constexpr wan_port::UdpAddress kServerAddress{2, 2};
constexpr wan_port::UdpAddress kStranger{3, 3};

struct Ends {
    std::unique_ptr<Endpoint> client, server;
    uint64_t now_ns = kNsPerSecond;
    std::array<std::byte, 8> attempt{};
    std::array<std::byte, 4> tag{};

    Ends() {
        EndpointConfig config;
        config.role = Role::connect;
        config.peer_address = kServerAddress;
        client = std::move(*Endpoint::create(config, site_a_context(), 1, now_ns));
        config.role = Role::listen;
        config.peer_address = {};
        server = std::move(*Endpoint::create(config, site_b_context(), 2, now_ns));
    }
    // Carries datagrams both ways for a while, or throws away what both say.
    void pump(uint64_t for_ns, bool deliver) {
        std::array<std::byte, 2000> buffer;
        wan_port::UdpAddress to;
        for (const uint64_t end = now_ns + for_ns; now_ns < end; now_ns += 10 * kNsPerMs) {
            for (Endpoint* e : {client.get(), server.get()}) {
                e->tick(now_ns);
                for (int i = 0; i < 200; ++i) {
                    const size_t n = e->transmit(now_ns, buffer, to);
                    if (n == 0) break;
                    if (e == client.get() && buffer[0] == std::byte{kTypeHandshake}) {
                        std::copy_n(buffer.begin() + 2, attempt.size(), attempt.begin());
                    }
                    if (buffer[0] == std::byte{kTypeData})
                        std::copy_n(buffer.begin() + 2, tag.size(), tag.begin());
                    const ByteSpan datagram = ByteSpan(buffer).first(n);
                    if (!deliver) continue;
                    (e == client.get() ? *server : *client)
                        .receive(now_ns, e == client.get() ? kClientAddress : kServerAddress,
                                 datagram);
                }
            }
        }
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Ends live = [] {
        Ends ends;
        ends.pump(kNsPerSecond, true);
        EVAC_ASSERT(ends.client->session() != SessionId::none);
        return ends;
    }();
    const SessionId session = live.client->session();
    Ends fresh;
    fresh.pump(30 * kNsPerMs, false);  // the client has said its hello

    ByteReader reader({reinterpret_cast<const std::byte*>(data), size});
    for (int records = 0; records < 64 && reader.remaining() > 0; ++records) {
        const uint8_t control = reader.u8();
        const ByteSpan body = reader.take(std::min<size_t>(reader.le16(), reader.remaining()));
        for (Ends* ends : {&fresh, &live}) {
            Bytes datagram(body.begin(), body.end());
            if ((control & 2) != 0 && datagram.size() >= 10)
                std::copy(ends->attempt.begin(), ends->attempt.end(), datagram.begin() + 2);
            if ((control & 4) != 0 && datagram.size() >= 6)
                std::copy(live.tag.begin(), live.tag.end(), datagram.begin() + 2);
            const bool stranger = (control & 16) != 0;
            if ((control & 1) != 0) {
                ends->client->receive(ends->now_ns, stranger ? kStranger : kServerAddress,
                                      datagram);
            } else {
                ends->server->receive(ends->now_ns, stranger ? kStranger : kClientAddress,
                                      datagram);
            }
        }
        fresh.pump((control & 8) != 0 ? 300 * kNsPerMs : 10 * kNsPerMs, false);
        live.pump(10 * kNsPerMs, true);
    }
    // Nothing unauthenticated makes a session or ends one.
    EVAC_ASSERT(fresh.client->session() == SessionId::none &&
                fresh.server->session() == SessionId::none);
    EVAC_ASSERT(live.client->session() == session && live.server->session() == session);
    // Nor makes it us look for the peer elsewhere.
    EVAC_ASSERT(live.client->stats(live.now_ns).path_challenges == 0 &&
                live.server->stats(live.now_ns).path_challenges == 0);
    return 0;
}
