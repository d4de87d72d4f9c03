#pragma once
// One suite for every DatagramPort (testing/conformance.cpp, compiled into each implementation's
// test program). An implementation instantiates it:
//   INSTANTIATE_TEST_SUITE_P(Memory, DatagramPortConformance,
//   ::testing::Values(PortPairMaker{...}), ...)
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan_port::testing {

// Two joined ports on a clean link. `port` is the one under test; `peer` may be another
// implementation.
class PortPair {
  public:
    virtual ~PortPair() = default;
    virtual DatagramPort& port() = 0;
    virtual DatagramPort& peer() = 0;
};

struct PortPairMaker {
    std::string name;
    // Null with `skip_reason` set: the machine lacks something (root, namespaces).
    std::function<std::unique_ptr<PortPair>(std::string& skip_reason)> make;
    bool bounded_queue = false;  // the pair refuses datagrams when nobody drains it
};

struct Received {
    UdpAddress from;
    Bytes payload;
};

// `size` bytes that differ by position and by `seed`.
Bytes pattern(size_t size, uint8_t seed);
// Sends one datagram, again and again while the port refuses it, for at most 5 s.
bool send_one(DatagramPort& port, const UdpAddress& to, ByteSpan payload);
// Drains `port` (and lets `other` answer ARP meanwhile) until `count` datagrams have come, for at
// most 5 s.
std::vector<Received> receive_n(DatagramPort& port, DatagramPort& other, size_t count);
// Sends until the port has a hint about the path's MTU, for at most 5 s; the hint.
PathMtuHint hint_after_sending(DatagramPort& port, const UdpAddress& to, size_t payload_bytes);
// Exchanges datagrams until both directions have worked once: afterwards neighbours are resolved.
bool warm_up(DatagramPort& a, DatagramPort& b);
// Whether poll() reports the port readable within `timeout_ms`.
bool readable(const DatagramPort& port, int timeout_ms);

class DatagramPortConformance : public ::testing::TestWithParam<PortPairMaker> {
  protected:
    void SetUp() override;
    DatagramPort& port() { return pair_->port(); }
    DatagramPort& peer() { return pair_->peer(); }
    std::unique_ptr<PortPair> pair_;
};

}  // namespace evac::wan_port::testing
