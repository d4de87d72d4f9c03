#include "conformance.hpp"

#include <poll.h>

#include <chrono>
#include <thread>

namespace evac::wan_port::testing {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr auto kGiveUp = std::chrono::seconds(5);  // a bound on failure, not a requirement on speed

void drain(DatagramPort& port) {
    const DatagramHandler ignore = [](const UdpAddress&, ByteSpan) {};
    while (port.receive(64, ignore) == 64) {
    }
}

}  // namespace

Bytes pattern(size_t size, uint8_t seed) {
    Bytes bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i * 131 + seed * 17) >> 1);
    return bytes;
}

bool send_one(DatagramPort& port, const UdpAddress& to, ByteSpan payload) {
    const auto deadline = SteadyClock::now() + kGiveUp;
    do {
        if (port.send(to, {&payload, 1}) == 1) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } while (SteadyClock::now() < deadline);
    return false;
}

bool readable(const DatagramPort& port, int timeout_ms) {
    pollfd wait{port.wait_fd(), POLLIN, 0};
    return ::poll(&wait, 1, timeout_ms) == 1 && (wait.revents & POLLIN) != 0;
}

std::vector<Received> receive_n(DatagramPort& port, DatagramPort& other, size_t count) {
    std::vector<Received> received;
    const DatagramHandler keep = [&](const UdpAddress& from, ByteSpan payload) {
        received.push_back({from, Bytes(payload.begin(), payload.end())});
    };
    const auto deadline = SteadyClock::now() + kGiveUp;
    while (received.size() < count && SteadyClock::now() < deadline) {
        if (port.receive(count - received.size(), keep) > 0) continue;
        if (port.wait_fd() >= 0) readable(port, 2);
        if (port.wait_fd() < 0) drain(other);
    }
    return received;
}

PathMtuHint hint_after_sending(DatagramPort& port, const UdpAddress& to, size_t payload_bytes) {
    const Bytes payload = pattern(payload_bytes, 1);
    const std::vector<ByteSpan> batch(3, ByteSpan(payload));
    const auto deadline = SteadyClock::now() + kGiveUp;
    while (port.path_mtu_hint().count == 0 && SteadyClock::now() < deadline) {
        port.send(to, batch);
        readable(port, 20);
        drain(port);
    }
    return port.path_mtu_hint();
}

bool warm_up(DatagramPort& a, DatagramPort& b) {
    const std::byte probe{0x55};
    const ByteSpan payload(&probe, 1);
    bool a_heard = false, b_heard = false;
    const DatagramHandler to_a = [&](const UdpAddress&, ByteSpan) { a_heard = true; };
    const DatagramHandler to_b = [&](const UdpAddress&, ByteSpan) { b_heard = true; };
    const auto deadline = SteadyClock::now() + kGiveUp;
    while (!(a_heard && b_heard) && SteadyClock::now() < deadline) {
        if (!b_heard) a.send(b.local_address(), {&payload, 1});
        if (!a_heard) b.send(a.local_address(), {&payload, 1});
        for (int i = 0; i < 10; ++i) {
            a.receive(64, to_a);
            b.receive(64, to_b);
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
    }
    // What is still on the way must not be counted by the test that follows.
    for (int i = 0; i < 5; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        drain(a);
        drain(b);
    }
    return a_heard && b_heard;
}

void DatagramPortConformance::SetUp() {
    std::string skip_reason;
    pair_ = GetParam().make(skip_reason);
    if (pair_ == nullptr) GTEST_SKIP() << skip_reason;
    ASSERT_TRUE(warm_up(port(), peer()));
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DatagramPortConformance);

TEST_P(DatagramPortConformance, DeliversBothWaysWithTheSendersAddress) {
    const Bytes there = pattern(100, 1), back = pattern(200, 2);
    ASSERT_TRUE(send_one(port(), peer().local_address(), there));
    auto at_peer = receive_n(peer(), port(), 1);
    ASSERT_EQ(at_peer.size(), 1U);
    EXPECT_EQ(at_peer[0].payload, there);
    EXPECT_EQ(at_peer[0].from, port().local_address());
    ASSERT_TRUE(send_one(peer(), at_peer[0].from, back));
    auto at_port = receive_n(port(), peer(), 1);
    ASSERT_EQ(at_port.size(), 1U);
    EXPECT_EQ(at_port[0].payload, back);
    EXPECT_EQ(at_port[0].from, peer().local_address());
}

TEST_P(DatagramPortConformance, CarriesEverySizeUpToTheLargest) {
    const size_t max = port().payload_bytes_max();
    ASSERT_EQ(max, peer().payload_bytes_max());
    for (const size_t size : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{17}, size_t{18},
                              size_t{575}, max - 1, max}) {
        SCOPED_TRACE(size);
        const Bytes payload = pattern(size, 3);
        ASSERT_TRUE(send_one(port(), peer().local_address(), payload));
        auto at_peer = receive_n(peer(), port(), 1);
        ASSERT_EQ(at_peer.size(), 1U);
        EXPECT_EQ(at_peer[0].payload, payload);
        ASSERT_TRUE(send_one(peer(), port().local_address(), payload));
        auto at_port = receive_n(port(), peer(), 1);
        ASSERT_EQ(at_port.size(), 1U);
        EXPECT_EQ(at_port[0].payload, payload);
    }
}

TEST_P(DatagramPortConformance, KeepsOrderWithinAndAcrossBatches) {
    // Batches of mixed sizes, so that an implementation that coalesces equal ones is exercised.
    std::vector<Bytes> payloads;
    for (size_t i = 0; i < 600; ++i) {
        Bytes payload = pattern(i % 7 == 0 ? 300 : 1200, static_cast<uint8_t>(i));
        payload[0] = static_cast<std::byte>(i & 0xff);
        payload[1] = static_cast<std::byte>(i >> 8);
        payloads.push_back(std::move(payload));
    }
    for (const bool forward : {true, false}) {
        DatagramPort& from = forward ? port() : peer();
        DatagramPort& to = forward ? peer() : port();
        std::vector<Received> received;
        size_t sent = 0;
        const auto deadline = SteadyClock::now() + kGiveUp;
        while (received.size() < payloads.size() && SteadyClock::now() < deadline) {
            std::vector<ByteSpan> batch;
            while (batch.size() < 40 && sent + batch.size() < payloads.size()) {
                batch.emplace_back(payloads[sent + batch.size()]);
            }
            sent += from.send(to.local_address(), batch);
            for (auto& datagram : receive_n(to, from, sent - received.size())) {
                received.push_back(std::move(datagram));
            }
        }
        ASSERT_EQ(received.size(), payloads.size());
        for (size_t i = 0; i < payloads.size(); ++i)
            ASSERT_EQ(received[i].payload, payloads[i]) << i;
    }
}

TEST_P(DatagramPortConformance, CarriesManyMoreDatagramsThanItHasBuffers) {
    // A port that leaks a buffer, or has one that the device refuses, stops in the middle.
    constexpr size_t kBatch = 32, kRounds = 500;
    for (size_t round = 0; round < kRounds; ++round) {
        std::vector<Bytes> payloads;
        for (size_t i = 0; i < kBatch; ++i)
            payloads.push_back(pattern(40 + i, static_cast<uint8_t>(round + i)));
        const std::vector<ByteSpan> batch(payloads.begin(), payloads.end());
        ASSERT_EQ(port().send(peer().local_address(), batch), kBatch) << round;
        const auto received = receive_n(peer(), port(), kBatch);
        ASSERT_EQ(received.size(), kBatch) << round;
        for (size_t i = 0; i < kBatch; ++i) ASSERT_EQ(received[i].payload, payloads[i]) << round;
    }
}

TEST_P(DatagramPortConformance, CountsPacketsAndPayloadBytes) {
    const PortCounters tx_before = port().counters(), rx_before = peer().counters();
    const PortCounters rx2_before = port().counters();
    for (uint8_t i = 0; i < 5; ++i) {
        ASSERT_TRUE(send_one(port(), peer().local_address(), pattern(100 + i, i)));
    }
    ASSERT_EQ(receive_n(peer(), port(), 5).size(), 5U);
    EXPECT_EQ(port().counters().tx_packets - tx_before.tx_packets, 5U);
    EXPECT_EQ(port().counters().tx_bytes - tx_before.tx_bytes, 510U);
    EXPECT_EQ(port().counters().tx_dropped, tx_before.tx_dropped);
    EXPECT_EQ(peer().counters().rx_packets - rx_before.rx_packets, 5U);
    EXPECT_EQ(peer().counters().rx_bytes - rx_before.rx_bytes, 510U);
    ASSERT_TRUE(send_one(peer(), port().local_address(), pattern(77, 9)));
    ASSERT_EQ(receive_n(port(), peer(), 1).size(), 1U);
    EXPECT_EQ(port().counters().rx_packets - rx2_before.rx_packets, 1U);
    EXPECT_EQ(port().counters().rx_bytes - rx2_before.rx_bytes, 77U);
}

TEST_P(DatagramPortConformance, ReceiveKeepsToItsBudgetAndLosesNothing) {
    for (uint8_t i = 0; i < 20; ++i) {
        ASSERT_TRUE(send_one(peer(), port().local_address(), pattern(400, i)));
    }
    std::vector<Bytes> received;
    const DatagramHandler keep = [&](const UdpAddress&, ByteSpan payload) {
        received.emplace_back(payload.begin(), payload.end());
    };
    const auto deadline = SteadyClock::now() + kGiveUp;
    while (received.size() < 20 && SteadyClock::now() < deadline) {
        const size_t before = received.size();
        const size_t handed = port().receive(3, keep);
        ASSERT_LE(handed, 3U);
        ASSERT_EQ(received.size() - before, handed);
    }
    ASSERT_EQ(received.size(), 20U);
    for (uint8_t i = 0; i < 20; ++i) EXPECT_EQ(received[i], pattern(400, i));
    EXPECT_EQ(port().receive(0, keep), 0U);
}

TEST_P(DatagramPortConformance, TheHandlerMaySend) {
    for (uint8_t i = 0; i < 10; ++i) {
        ASSERT_TRUE(send_one(peer(), port().local_address(), pattern(50, i)));
    }
    size_t echoed = 0;
    const DatagramHandler echo = [&](const UdpAddress& from, ByteSpan payload) {
        echoed += port().send(from, {&payload, 1});
    };
    const auto deadline = SteadyClock::now() + kGiveUp;
    while (echoed < 10 && SteadyClock::now() < deadline) port().receive(4, echo);
    const auto back = receive_n(peer(), port(), 10);
    ASSERT_EQ(back.size(), 10U);
    for (uint8_t i = 0; i < 10; ++i) EXPECT_EQ(back[i].payload, pattern(50, i));
}

TEST_P(DatagramPortConformance, AnotherPortNumberIsNotDelivered) {
    UdpAddress elsewhere = peer().local_address();
    elsewhere.port = static_cast<uint16_t>(elsewhere.port ^ 1);
    const Bytes wrong = pattern(10, 1), right = pattern(10, 2);
    ASSERT_TRUE(send_one(port(), elsewhere, wrong));
    ASSERT_TRUE(send_one(port(), peer().local_address(), right));
    const auto received = receive_n(peer(), port(), 1);
    ASSERT_EQ(received.size(), 1U);
    EXPECT_EQ(received[0].payload, right);
}

TEST_P(DatagramPortConformance, WaitFdTellsWhenThereIsWork) {
    if (port().wait_fd() < 0) return;  // allowed: the loop then sleeps by itself
    drain(port());
    EXPECT_FALSE(readable(port(), 0));
    ASSERT_TRUE(send_one(peer(), port().local_address(), pattern(64, 1)));
    EXPECT_TRUE(readable(port(), 5000));
    ASSERT_EQ(receive_n(port(), peer(), 1).size(), 1U);
    drain(port());
    EXPECT_FALSE(readable(port(), 0));
}

TEST_P(DatagramPortConformance, AFullQueueTakesAPrefixAndRecovers) {
    if (!GetParam().bounded_queue) GTEST_SKIP() << "this pair's link does not push back";
    const Bytes payload = pattern(port().payload_bytes_max(), 1);
    const std::vector<ByteSpan> batch(64, ByteSpan(payload));
    const uint64_t dropped_before = port().counters().tx_dropped;
    size_t sent = 0, took = 64;
    for (int i = 0; i < 10000 && took == 64; ++i)
        sent += took = port().send(peer().local_address(), batch);
    EXPECT_LT(took, 64U);
    EXPECT_EQ(receive_n(peer(), port(), sent).size(), sent);
    EXPECT_EQ(port().counters().tx_dropped, dropped_before);
    EXPECT_TRUE(send_one(port(), peer().local_address(), payload));
    EXPECT_EQ(receive_n(peer(), port(), 1).size(), 1U);
}

TEST_P(DatagramPortConformance, ALargerPayloadIsAProgrammerError) {
    const Bytes payload = pattern(port().payload_bytes_max() + 1, 1);
    const ByteSpan span = payload;
    EXPECT_DEATH(port().send(peer().local_address(), {&span, 1}), "payload");
}

TEST_P(DatagramPortConformance, ACleanLinkGivesNoHintAboutItsMtu) {
    const Bytes payload = pattern(port().payload_bytes_max(), 1);
    ASSERT_TRUE(send_one(port(), peer().local_address(), payload));
    ASSERT_EQ(receive_n(peer(), port(), 1).size(), 1U);
    drain(port());
    EXPECT_EQ(port().path_mtu_hint().count, 0U);
    EXPECT_EQ(port().counters().rx_mtu_hints, 0U);
}

TEST_P(DatagramPortConformance, HasAName) {
    EXPECT_STRNE(port().name(), "");
}

}  // namespace evac::wan_port::testing
