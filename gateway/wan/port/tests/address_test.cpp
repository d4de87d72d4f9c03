#include "evac/wan_port/address.hpp"

#include <gtest/gtest.h>

#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan_port {
namespace {

TEST(Address, ReadsAndWritesUdpAddresses) {
    const auto address = parse_udp_address("10.77.0.1:4500");
    ASSERT_TRUE(address.ok());
    EXPECT_EQ(address->ip, 0x0a4d0001U);
    EXPECT_EQ(address->port, 4500);
    EXPECT_EQ(to_string(*address), "10.77.0.1:4500");
    EXPECT_EQ(to_string(UdpAddress{0xffffffff, 65535}), "255.255.255.255:65535");
}

TEST(Address, RefusesWhatIsNotOneAndQuotesIt) {
    for (const char* text :
         {"", ":", "10.77.0.1", "10.77.0.1:", "10.77.0.1:65536", "10.77.0.256:1", "10.77.0:1",
          "10.77.0.1.2:1", "010.77.0.1:1", "10.77.0.1:-1", "10.77.0.1: 1", " 10.77.0.1:1",
          "10.77.0.1:1 ", "a.b.c.d:1", "10..0.1:1", "10.77.0.1:1:2", "::1:80", "10.77.0.+1:1",
          "4294967297.0.0.1:1"}) {
        const auto address = parse_udp_address(text);
        ASSERT_FALSE(address.ok()) << text;
        EXPECT_EQ(address.error().code, Errc::invalid_argument);
        EXPECT_NE(address.error().context.find("'" + std::string(text) + "'"), std::string::npos);
    }
    EXPECT_LT(parse_udp_address(std::string(100000, 'x')).error().context.size(), 200U);
}

TEST(Address, ReadsPrefixes) {
    ASSERT_TRUE(parse_ipv4_prefix("10.77.0.1/24").ok());
    EXPECT_EQ(*parse_ipv4_prefix("10.77.0.1/24"), (Ipv4Prefix{0x0a4d0001, 24}));
    EXPECT_EQ(*parse_ipv4_prefix("0.0.0.0/0"), (Ipv4Prefix{0, 0}));
    for (const char* text :
         {"10.77.0.1", "10.77.0.1/33", "10.77.0.1/", "/24", "10.77.0.1/-1", "10.77.0.1/024"}) {
        EXPECT_FALSE(parse_ipv4_prefix(text).ok()) << text;
    }
    EXPECT_EQ(*parse_ipv4("192.168.1.254"), 0xc0a801feU);
    EXPECT_FALSE(parse_ipv4("192.168.1").ok());
    EXPECT_EQ(ipv4_to_string(0xc0a801fe), "192.168.1.254");
}

}  // namespace
}  // namespace evac::wan_port
