#include "evac/wan_port/memory_port.hpp"

#include "conformance.hpp"

namespace evac::wan_port::testing {
namespace {

class MemoryPortPair final : public PortPair {
  public:
    DatagramPort& port() override { return *pair_.a; }
    DatagramPort& peer() override { return *pair_.b; }

  private:
    MemoryPair pair_ = make_memory_pair({});
};

INSTANTIATE_TEST_SUITE_P(
    Memory, DatagramPortConformance,
    ::testing::Values(PortPairMaker{
        "memory", [](std::string&) { return std::make_unique<MemoryPortPair>(); }, true}));

TEST(MemoryPort, SendingToAPortThatIsGoneIsALoss) {
    MemoryPair pair = make_memory_pair({});
    const UdpAddress b = pair.b->local_address();
    pair.b.reset();
    const ByteSpan payload = as_byte_span("x");
    EXPECT_EQ(pair.a->send(b, {&payload, 1}), 1U);
    EXPECT_EQ(pair.a->counters().tx_dropped, 1U);
}

}  // namespace
}  // namespace evac::wan_port::testing
