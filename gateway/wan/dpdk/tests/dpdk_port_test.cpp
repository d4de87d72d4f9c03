// The DPDK port on af_packet over veth, in network namespaces of its own. Needs root; skipped
// without.
#include "evac/wan_dpdk/dpdk_port.hpp"

#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "dpdk_pair.hpp"
#include "evac/wan_port/frame_codec.hpp"

namespace evac::wan_port::testing {
namespace {

constexpr int kGiveUpMs = 5000;  // a bound on failure, not a requirement on speed

cpu_set_t own_affinity() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    EXPECT_EQ(::pthread_getaffinity_np(::pthread_self(), sizeof allowed, &allowed), 0);
    return allowed;
}
const cpu_set_t kAffinityAtStart = own_affinity();  // before any test opened a port

class DpdkPortTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string reason;
        pair_ = DpdkPair::make({}, reason);
        if (pair_ == nullptr) GTEST_SKIP() << reason;
        ASSERT_TRUE(warm_up(port(), pair_->peer()));
    }
    DatagramPort& port() { return pair_->port(); }

    // Runs the port until `done` or the bound.
    template <class Done>
    bool run_until(Done done) {
        const auto deadline =
            std::chrono::steady_clock::now() + std::chrono::milliseconds(kGiveUpMs);
        while (!done()) {
            if (std::chrono::steady_clock::now() > deadline) return false;
            port().receive(64, [this](const UdpAddress&, ByteSpan) { ++handed_; });
            readable(port(), 1);
        }
        return true;
    }

    // A raw socket on the peer's end, to send what no kernel would. Closing one takes the kernel
    // tens of ms, so a test keeps it.
    UniqueFd raw_socket() {
        const ScopedNetns inside(pair_->peer_ns());
        UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(0x0003)));
        sockaddr_ll to{};
        to.sll_family = AF_PACKET;
        to.sll_protocol = htons(0x0003);
        to.sll_ifindex = static_cast<int>(::if_nametoindex("vb"));
        EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
        return fd;
    }
    // The frame of a datagram that the port just sent, with its addresses turned round.
    Bytes frame_to_port(ByteSpan payload) {
        raw_ = raw_socket();
        EXPECT_TRUE(send_one(port(), {kPeer, 4500}, as_byte_span("tell me your address")));
        std::array<std::byte, 2048> seen;
        pollfd wait{raw_.get(), POLLIN, 0};
        while (::poll(&wait, 1, kGiveUpMs) == 1) {
            const ssize_t size = ::recv(raw_.get(), seen.data(), seen.size(), 0);
            const DecodedFrame decoded = decode_frame({seen.data(), static_cast<size_t>(size)});
            if (decoded.kind != FrameKind::udp || decoded.src_ip != kUs) continue;
            Bytes frame(kUdpFrameHeaderBytes + payload.size());
            encode_udp_frame({decoded.dst_mac, decoded.src_mac, {kPeer, 4500}, {kUs, 4500}}, 1,
                             payload, frame);
            return frame;
        }
        ADD_FAILURE() << "no frame seen";
        return Bytes(100);
    }
    void send_raw(const Bytes& frame) {
        ASSERT_EQ(::send(raw_.get(), frame.data(), frame.size(), 0),
                  static_cast<ssize_t>(frame.size()));
    }

    std::unique_ptr<DpdkPair> pair_;
    UniqueFd raw_;
    size_t handed_ = 0;
};

TEST_F(DpdkPortTest, ACorruptedChecksumIsDroppedAndCounted) {
    const Bytes good = frame_to_port(as_byte_span("payload"));
    for (const size_t at :
         {size_t{24}, size_t{40}, good.size() - 1}) {  // IP checksum, UDP checksum, payload
        SCOPED_TRACE(at);
        const uint64_t before = port().counters().rx_bad_checksum;
        handed_ = 0;
        Bytes bad = good;
        bad[at] ^= std::byte{0x10};
        send_raw(bad);
        send_raw(good);
        EXPECT_TRUE(run_until([&] { return handed_ == 1; }));
        EXPECT_EQ(port().counters().rx_bad_checksum, before + 1);
        EXPECT_EQ(handed_, 1U);
    }
}

TEST_F(DpdkPortTest, FramesThatAreNotOursAreCountedAndTheLoopGoesOn) {
    const Bytes good = frame_to_port(as_byte_span("payload"));
    const PortCounters before = port().counters();
    for (int i = 0; i < 300; ++i) {
        Bytes foreign = good;
        foreign[12] = std::byte{0x88};  // not IPv4
        send_raw(foreign);
    }
    Bytes cut(good.begin(), good.begin() + 30);
    send_raw(cut);
    send_raw(good);
    handed_ = 0;
    EXPECT_TRUE(run_until([&] { return handed_ == 1; }));
    EXPECT_EQ(port().counters().rx_not_ours - before.rx_not_ours, 300U);
    EXPECT_EQ(port().counters().rx_malformed - before.rx_malformed, 1U);
}

TEST_F(DpdkPortTest, AFragmentedDatagramIsNotDelivered) {
    UniqueFd fd;
    {
        const ScopedNetns inside(pair_->peer_ns());
        fd = UniqueFd(::socket(AF_INET, SOCK_DGRAM, 0));
    }
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(kUs);
    to.sin_port = htons(4500);
    const int allow_fragments = IP_PMTUDISC_DONT;
    ASSERT_EQ(::setsockopt(fd.get(), IPPROTO_IP, IP_MTU_DISCOVER, &allow_fragments,
                           sizeof allow_fragments),
              0);
    const Bytes large = pattern(2000, 1);
    handed_ = 0;
    const uint64_t before = port().counters().rx_malformed;
    ASSERT_EQ(::sendto(fd.get(), large.data(), large.size(), 0, reinterpret_cast<sockaddr*>(&to),
                       sizeof to),
              2000);
    EXPECT_TRUE(run_until([&] { return port().counters().rx_malformed > before; }));
    EXPECT_EQ(handed_, 0U);
}

TEST_F(DpdkPortTest, AnswersAPingFromAKernel) {
    UniqueFd fd;
    {
        const ScopedNetns inside(pair_->peer_ns());
        fd = UniqueFd(::socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_ICMP));
    }
    for (const size_t data_bytes : {size_t{0}, size_t{56}, size_t{1472}}) {
        SCOPED_TRACE(data_bytes);
        Bytes request = pattern(8 + data_bytes, 5);
        request[0] = std::byte{8};
        request[1] = request[2] = request[3] = std::byte{0};
        const uint16_t sum = checksum_fold(checksum_sum(request));
        request[2] = static_cast<std::byte>(sum >> 8);
        request[3] = static_cast<std::byte>(sum & 0xff);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_addr.s_addr = htonl(kUs);
        ASSERT_GT(::sendto(fd.get(), request.data(), request.size(), 0,
                           reinterpret_cast<sockaddr*>(&to), sizeof to),
                  0);
        std::array<std::byte, 2048> answer;
        ssize_t got = -1;
        EXPECT_TRUE(run_until(
            [&] { return (got = ::recv(fd.get(), answer.data(), answer.size(), 0)) > 0; }));
        ASSERT_EQ(got, static_cast<ssize_t>(20 + request.size()));
        EXPECT_EQ(answer[20], std::byte{0});  // echo reply
        EXPECT_EQ(checksum_fold(checksum_sum({answer.data() + 20, request.size()})), 0);
        EXPECT_TRUE(std::equal(request.begin() + 4, request.end(), answer.begin() + 24));
    }
}

TEST_F(DpdkPortTest, AnUnknownNeighbourIsALossAndOthersStillWork) {
    const ByteSpan payload = as_byte_span("x");
    const uint64_t before = port().counters().tx_dropped;
    for (int i = 0; i < 3; ++i) EXPECT_EQ(port().send({0x0a4d0063, 4500}, {&payload, 1}), 1U);
    EXPECT_EQ(port().send({0x08080808, 4500}, {&payload, 1}), 1U);  // off-link, no gateway
    EXPECT_EQ(port().counters().tx_dropped, before + 4);
    EXPECT_TRUE(send_one(port(), {kPeer, 4500}, payload));
    EXPECT_EQ(receive_n(pair_->peer(), port(), 1).size(), 1U);
}

TEST_F(DpdkPortTest, SurvivesTheLinkGoingDownAndUp) {
    ASSERT_TRUE(pair_->peer_ns().run({"ip", "link", "set", "vb", "down"}).ok());
    const Bytes payload = pattern(1000, 1);
    const std::vector<ByteSpan> batch(32, ByteSpan(payload));
    for (int i = 0; i < 10; ++i) {
        port().send({kPeer, 4500}, batch);
        port().receive(64, [](const UdpAddress&, ByteSpan) {});
    }
    ASSERT_TRUE(pair_->peer_ns().run({"ip", "link", "set", "vb", "up"}).ok());
    EXPECT_TRUE(warm_up(port(), pair_->peer()));
}

TEST_F(DpdkPortTest, OpeningLeavesTheThreadWhereItWas) {
    const cpu_set_t now = own_affinity();
    EXPECT_TRUE(CPU_EQUAL(&now, &kAffinityAtStart));
    EXPECT_GE(port().wait_fd(), 0);
    EXPECT_TRUE(std::string(port().name()).starts_with("dpdk net_af_packet"));
}

TEST(DpdkPort, ARouterWithASmallerMtuGivesAHint) {
    if (const std::string why = netns_unavailable_reason(); !why.empty()) GTEST_SKIP() << why;
    const auto path = make_routed_path(false, 1300);
    ASSERT_TRUE(path.ok()) << path.error().message();
    const SystemClock clock;
    const ScopedNetns inside(path->us());
    for (const std::string driver : {"af_packet:va", "af_xdp:va"}) {
        SCOPED_TRACE(driver);
        auto port = DpdkPair::open_alone(driver, RoutedPath::kRouter, clock);
        ASSERT_TRUE(port.ok()) << port.error().message();
        const UdpAddress far{RoutedPath::kFar, 4500};
        const PathMtuHint hint = hint_after_sending(**port, far, 1400);
        EXPECT_EQ(hint.count, 1U);
        EXPECT_EQ(hint.payload_bytes, 1272U);
        EXPECT_EQ(hint.to, far);
        EXPECT_EQ((*port)->counters().rx_mtu_hints, 1U);
    }
}

TEST_F(DpdkPortTest, SaysWhyADeviceCannotBeOpened) {
    const SystemClock clock;
    const ScopedNetns inside(pair_->our_ns());
    wan_dpdk::DpdkOptions options;
    options.local = {kUs, 4500};
    options.device = "af_packet:missing0";
    auto opened = wan_dpdk::open_dpdk_port(options, clock);
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.error().message().find("'missing0'"), std::string::npos)
        << opened.error().message();

    options.device = "af_packet:va";
    options.mtu = 2000;
    opened = wan_dpdk::open_dpdk_port(options, clock);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().context, "mtu '2000': expected at most 1500, the MTU of va");

    options.mtu = 0;
    options.device = "net_no_such_driver0";
    opened = wan_dpdk::open_dpdk_port(options, clock);
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.error().context.find("net_no_such_driver0"), std::string::npos);

    ASSERT_TRUE(pair_->our_ns().run({"ip", "link", "set", "va", "down"}).ok());
    options.device = "af_packet:va";
    opened = wan_dpdk::open_dpdk_port(options, clock);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().context, "interface 'va' is down: ip link set va up");
}

}  // namespace
}  // namespace evac::wan_port::testing
