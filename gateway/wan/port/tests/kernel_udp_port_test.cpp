#include "evac/wan_port/kernel_udp_port.hpp"

#include <poll.h>

#include "conformance.hpp"
#include "netns.hpp"

namespace evac::wan_port::testing {
namespace {

constexpr uint32_t kLoopback = 0x7f000001;

struct KernelPair final : PortPair {
    DatagramPort& port() override { return *a; }
    DatagramPort& peer() override { return *b; }
    std::vector<NetNamespace> namespaces;
    std::unique_ptr<DatagramPort> a, b;
};

std::unique_ptr<DatagramPort> open_or_null(const KernelUdpOptions& options, std::string& reason) {
    auto port = open_kernel_udp_port(options);
    if (port.ok()) return std::move(*port);
    reason = port.error().message();
    return nullptr;
}

std::unique_ptr<PortPair> loopback_pair(bool offload, std::string& reason) {
    auto pair = std::make_unique<KernelPair>();
    const KernelUdpOptions options{.local = {kLoopback, 0}, .segmentation_offload = offload};
    pair->a = open_or_null(options, reason);
    pair->b = open_or_null(options, reason);
    if (pair->a == nullptr || pair->b == nullptr) return nullptr;
    return pair;
}

// Two namespaces joined by a veth whose sender is shaped, so that its socket buffer fills.
std::unique_ptr<PortPair> shaped_pair(std::string& reason) {
    reason = netns_unavailable_reason();
    if (!reason.empty()) return nullptr;
    auto pair = std::make_unique<KernelPair>();
    for (int i = 0; i < 2; ++i) pair->namespaces.push_back(std::move(*NetNamespace::create()));
    const Status veth = make_veth({&pair->namespaces[0], "va", "10.0.0.1/24"},
                                  {&pair->namespaces[1], "vb", "10.0.0.2/24"});
    const Status shaper =
        pair->namespaces[0].run({"tc", "qdisc", "add", "dev", "va", "root", "tbf", "rate",
                                 "200mbit", "burst", "16kb", "limit", "8mb"});
    if (!veth.ok() || !shaper.ok()) {
        reason = !veth.ok() ? veth.error().message() : shaper.error().message();
        return nullptr;
    }
    for (size_t i = 0; i < 2; ++i) {
        const ScopedNetns inside(pair->namespaces[i]);
        auto& port = i == 0 ? pair->a : pair->b;
        port = open_or_null({.local = {static_cast<uint32_t>(0x0a000001 + i), 4500},
                             .socket_buffer_bytes = i == 0 ? 128U << 10 : 4U << 20},
                            reason);
        if (port == nullptr) return nullptr;
    }
    return pair;
}

INSTANTIATE_TEST_SUITE_P(
    KernelUdp, DatagramPortConformance,
    ::testing::Values(
        PortPairMaker{"segments", [](std::string& why) { return loopback_pair(true, why); }},
        PortPairMaker{"plain", [](std::string& why) { return loopback_pair(false, why); }},
        PortPairMaker{"shaped", shaped_pair, true}),
    [](const auto& info) { return info.param.name; });

TEST(KernelUdpPort, SaysWhatItDoesNotAccept) {
    const auto bad_mtu = open_kernel_udp_port({.local = {kLoopback, 0}, .mtu = 100});
    ASSERT_FALSE(bad_mtu.ok());
    EXPECT_EQ(bad_mtu.error().context, "mtu 100: expected 576 to 65535");
    const auto tagged = open_kernel_udp_port({.local = {kLoopback, 0}, .vlan_id = 5});
    ASSERT_FALSE(tagged.ok());
    EXPECT_TRUE(tagged.error().context.starts_with("vlan '5': expected 0, as kernel UDP cannot"))
        << tagged.error().context;
    const auto not_local = open_kernel_udp_port({.local = {0x08080808, 4500}});
    ASSERT_FALSE(not_local.ok());
    EXPECT_EQ(not_local.error().code, Errc::io);
    EXPECT_NE(not_local.error().context.find("8.8.8.8:4500"), std::string::npos);
}

TEST(KernelUdpPort, AnUnreachableNetworkIsALossNotAStall) {
    if (const std::string why = netns_unavailable_reason(); !why.empty()) GTEST_SKIP() << why;
    auto ns = NetNamespace::create();
    ASSERT_TRUE(ns.ok());
    const ScopedNetns inside(*ns);
    auto port = open_kernel_udp_port({.local = {kLoopback, 0}});
    ASSERT_TRUE(port.ok());
    const ByteSpan payload = as_byte_span("x");
    const std::vector<ByteSpan> batch(5, payload);
    EXPECT_EQ((*port)->send({0x0a000001, 1}, batch), 5U);
    EXPECT_EQ((*port)->counters().tx_dropped, 5U);
    EXPECT_EQ((*port)->counters().tx_packets, 0U);
}

TEST(KernelUdpPort, ARouterWithASmallerMtuGivesAHintAndNothingElseBreaks) {
    if (const std::string why = netns_unavailable_reason(); !why.empty()) GTEST_SKIP() << why;
    const auto path = make_routed_path(true, 1300);
    ASSERT_TRUE(path.ok()) << path.error().message();
    const UdpAddress far{RoutedPath::kFar, 4500};
    for (const bool offload : {true, false}) {
        const ScopedNetns inside(path->us());
        auto port = open_kernel_udp_port(
            {.local = {RoutedPath::kUs, 4500}, .segmentation_offload = offload});
        ASSERT_TRUE(port.ok());
        const PathMtuHint hint = hint_after_sending(**port, far, 1400);
        EXPECT_GE(hint.count, 1U);
        EXPECT_EQ(hint.payload_bytes, 1272U);
        EXPECT_EQ(hint.to, far);
        EXPECT_EQ((*port)->counters().rx_mtu_hints, hint.count);
        // The errors were no losses, and leave the descriptor quiet.
        EXPECT_EQ((*port)->counters().tx_dropped, 0U);
        EXPECT_FALSE(readable(**port, 0));
        pollfd wait{(*port)->wait_fd(), POLLIN, 0};
        EXPECT_EQ(::poll(&wait, 1, 0), 0);
        EXPECT_TRUE(send_one(**port, far, pattern(1272, 1)));
        EXPECT_EQ((*port)->counters().tx_dropped, 0U);
    }
}

TEST(KernelUdpPort, AnInterfaceThatShrinksGivesAHint) {
    if (const std::string why = netns_unavailable_reason(); !why.empty()) GTEST_SKIP() << why;
    const auto path = make_routed_path(true, 1500);
    ASSERT_TRUE(path.ok()) << path.error().message();
    ASSERT_TRUE(path->us().run({"ip", "link", "set", "dev", "va", "mtu", "1300"}).ok());
    const ScopedNetns inside(path->us());
    auto port = open_kernel_udp_port({.local = {RoutedPath::kUs, 4500}});
    ASSERT_TRUE(port.ok());
    EXPECT_EQ(hint_after_sending(**port, {RoutedPath::kFar, 4500}, 1400).payload_bytes, 1272U);
    EXPECT_GT((*port)->counters().tx_dropped, 0U);
}

}  // namespace
}  // namespace evac::wan_port::testing
