#pragma once
// Two endpoints joined without delay or loss, for tests of who may connect.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "sim_world.hpp"

namespace evac::wan::testing {

// Two endpoints with the given contexts, joined without loss; returns the refusals of both.
struct Pair {
    std::unique_ptr<Endpoint> client, server;
    std::vector<std::string> client_refusals, server_refusals;
    uint64_t now = kNsPerSecond;

    Pair(std::shared_ptr<const TlsContext> a, std::shared_ptr<const TlsContext> b) {
        EndpointConfig ca, cb;
        ca.role = Role::connect;
        ca.peer_address = World::kAddressB;
        cb.role = Role::listen;
        client = std::move(*Endpoint::create(ca, std::move(a), 1, now));
        server = std::move(*Endpoint::create(cb, std::move(b), 2, now));
    }
    void run(uint64_t for_ns) {
        std::vector<std::byte> buffer(2000);
        wan_port::UdpAddress to;
        for (const uint64_t end = now + for_ns; now < end; now += kNsPerMs) {
            for (int i = 0; i < 4; ++i) {
                client->tick(now);
                while (const size_t n = client->transmit(now, buffer, to)) {
                    server->receive(now, World::kAddressA, ByteSpan(buffer).first(n));
                }
                server->tick(now);
                while (const size_t n = server->transmit(now, buffer, to)) {
                    EXPECT_EQ(to, World::kAddressA);
                    client->receive(now, World::kAddressB, ByteSpan(buffer).first(n));
                }
            }
            if (auto r = client->take_refusal()) client_refusals.push_back(*r);
            if (auto r = server->take_refusal()) server_refusals.push_back(*r);
        }
    }
    static std::string joined(const std::vector<std::string>& texts) {
        std::string all;
        for (const std::string& t : texts) all += t + "\n";
        return all;
    }
};

}  // namespace evac::wan::testing
