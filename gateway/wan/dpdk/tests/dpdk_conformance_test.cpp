// The conformance suite on the DPDK drivers that use a kernel's interface; memif has its own
// program (memif_test.cpp). A physical device by PCI address runs the same code behind another
// driver; there is none here.
#include "dpdk_pair.hpp"

namespace evac::wan_port::testing {
namespace {

PortPairMaker on(const std::string& name, const DpdkPairOptions& options) {
    return {name, [options](std::string& reason) -> std::unique_ptr<PortPair> {
                return DpdkPair::make(options, reason);
            }};
}

INSTANTIATE_TEST_SUITE_P(
    Dpdk, DatagramPortConformance,
    ::testing::Values(on("to_kernel", {}), on("to_dpdk", {.dpdk_peer = true}),
                      on("jumbo", {.mtu = 9000}), on("xdp_to_kernel", {.driver = "af_xdp"}),
                      on("xdp_to_xdp", {.driver = "af_xdp", .dpdk_peer = true}),
                      on("vlan", {.dpdk_peer = true, .vlan_id = 5}),
                      on("vlan_jumbo", {.dpdk_peer = true, .mtu = 9000, .vlan_id = 4094}),
                      on("xdp_vlan", {.driver = "af_xdp", .dpdk_peer = true, .vlan_id = 5})),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace evac::wan_port::testing
