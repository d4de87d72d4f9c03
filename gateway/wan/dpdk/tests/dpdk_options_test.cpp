#include "dpdk_options.hpp"

#include <gtest/gtest.h>

namespace evac::wan_dpdk {
namespace {

DpdkOptions good() {
    DpdkOptions options;
    options.device = "af_packet:eth0";
    options.local = {0x0a4d0001, 4500};
    return options;
}

void expect_refused(const DpdkOptions& options, const std::string& field,
                    const std::string& value) {
    const Status status = check_options(options);
    ASSERT_FALSE(status.ok()) << field;
    EXPECT_EQ(status.error().code, Errc::invalid_argument);
    EXPECT_TRUE(status.error().context.starts_with(field + " '" + value + "': expected "))
        << status.error().context;
}

TEST(DpdkOptions, AcceptsTheKindsOfDevice) {
    EXPECT_TRUE(check_options(good()).ok());
    EXPECT_EQ(plan_device("af_packet:veth-a.1")->interface, "veth-a.1");
    EXPECT_EQ(plan_device("0000:3b:00.0")->kind, DeviceKind::pci);
    EXPECT_EQ(plan_device("net_af_xdp0,iface=eth1")->kind, DeviceKind::other_vdev);
    EXPECT_EQ(plan_device("af_xdp:eth1")->kind, DeviceKind::af_xdp);
    EXPECT_EQ(plan_device("af_xdp:eth1")->interface, "eth1");
    const auto memif = plan_device("memif:/run/evac/wan.sock");
    EXPECT_EQ(memif->kind, DeviceKind::memif);
    EXPECT_EQ(memif->socket, "/run/evac/wan.sock");
    EXPECT_FALSE(memif->memif_server);
    EXPECT_FALSE(plan_device("memif:/run/m.sock,role=client")->memif_server);
    EXPECT_TRUE(plan_device("memif:/run/m.sock,role=server")->memif_server);
}

TEST(DpdkOptions, NamesTheFieldTheValueAndWhatIsAccepted) {
    for (const std::string device :
         {"", "eth0", "af_packet:", "af_packet:a,iface=b", "af_packet:a b",
          "af_packet:0123456789abcdef", "0000:3b:00", "crypto_null0", "af_xdp:", "af_xdp:a,b=c",
          "memif:", "memif:relative.sock", "memif:/a b", "memif:/a,role=both", "memif:/a,mac=x",
          "memif:/a,role=server,"}) {
        DpdkOptions options = good();
        options.device = device;
        expect_refused(options, "device", device);
    }
    DpdkOptions options = good();
    options.local.port = 0;
    expect_refused(options, "local", "10.77.0.1:0");
    options = good();
    options.prefix_length = 33;
    expect_refused(options, "prefix_length", "33");
    options = good();
    options.mtu = 575;
    expect_refused(options, "mtu", "575");
    options.mtu = 9001;
    expect_refused(options, "mtu", "9001");
    options = good();
    options.vlan_id = 4095;
    expect_refused(options, "vlan", "4095");
    options = good();
    options.vlan_priority = 1;
    expect_refused(options, "vlan_priority", "1");
    options.vlan_id = 1;
    options.vlan_priority = 8;
    expect_refused(options, "vlan_priority", "8");
    options = good();
    options.memory_mib = 1;
    expect_refused(options, "memory_mib", "1");
    options = good();
    options.file_prefix = "../x";
    expect_refused(options, "file_prefix", "../x");
}

TEST(DpdkOptions, RingFramesHoldTheLargestPacketAndFillTheirBlocks) {
    for (const size_t mtu : {576U, 1500U, 1501U, 9000U}) {
        const RingGeometry ring = ring_geometry(mtu);
        // TPACKET2_HDRLEN is 52, aligned to 16: 64; Ethernet 14 and a VLAN tag 4 come on top.
        EXPECT_GE(ring.frame_bytes, mtu + 64 + 18);
        EXPECT_EQ(ring.block_bytes % ring.frame_bytes, 0U);
        EXPECT_EQ(ring.block_bytes % 4096, 0U);
        EXPECT_EQ(ring.frames % (ring.block_bytes / ring.frame_bytes), 0U);
    }
    EXPECT_EQ(
        af_packet_devargs("net_af_packet0", "v0", 1500),
        "net_af_packet0,iface=v0,qpairs=1,qdisc_bypass=1,blocksz=65536,framesz=2048,framecnt=4096");
}

TEST(DpdkOptions, DeviceArgumentsOfXdpAndMemif) {
    EXPECT_EQ(af_xdp_devargs("net_af_xdp3", "v0"),
              "net_af_xdp3,iface=v0,busy_budget=0,force_copy=1");
    EXPECT_EQ(memif_devargs("net_memif0", *plan_device("memif:/run/m.sock,role=server"), 9000,
                            0x0a4d0001),
              "net_memif0,role=server,socket=/run/m.sock,socket-abstract=no,rsize=10,bsize=9216,"
              "mac=02:4d:0a:4d:00:01");
}

TEST(DpdkOptions, AMissingInterfaceIsNamed) {
    const auto facts = resolve_interface("no-such-if");
    ASSERT_FALSE(facts.ok());
    EXPECT_NE(facts.error().context.find("'no-such-if'"), std::string::npos);
}

}  // namespace
}  // namespace evac::wan_dpdk
