// The wan-emulator binary between two kernels, in network namespaces of this test. Needs root;
// skipped without.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <thread>

#include "evac/core/bytes.hpp"
#include "evac/wan_port/kernel_udp_port.hpp"
#include "netns.hpp"

namespace {

using namespace evac;
using namespace evac::wan_port;
using namespace evac::wan_port::testing;
using SteadyClock = std::chrono::steady_clock;

constexpr auto kGiveUp =
    std::chrono::seconds(10);  // a bound on failure, not a requirement on speed
constexpr size_t kPayloadBytes = 1400;
constexpr size_t kFrameBytes = kPayloadBytes + 42;

double seconds_since(SteadyClock::time_point start) {
    return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

// A child process with its standard output in a pipe; killed when this object goes.
class Child {
  public:
    Child(const std::vector<std::string>& arguments, int netns_fd) {
        int pipe_fds[2];
        EXPECT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
        output_ = UniqueFd(pipe_fds[0]);
        const UniqueFd write_end(pipe_fds[1]);
        std::vector<std::string> words = {WAN_EMULATOR};
        words.insert(words.end(), arguments.begin(), arguments.end());
        std::vector<char*> argv;
        for (auto& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        pid_ = ::fork();
        if (pid_ == 0) {
            if (netns_fd >= 0 && ::setns(netns_fd, CLONE_NEWNET) != 0) ::_exit(126);
            ::dup2(write_end.get(), STDOUT_FILENO);
            ::dup2(write_end.get(), STDERR_FILENO);
            ::execv(argv[0], argv.data());
            ::_exit(127);
        }
    }
    ~Child() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
        }
    }
    // Exit code after `signal` (0 = none), and all output.
    int finish(int signal, std::string& output) {
        if (signal != 0) ::kill(pid_, signal);
        char bytes[4096];
        for (ssize_t got; (got = ::read(output_.get(), bytes, sizeof bytes)) > 0;) {
            output.append(bytes, static_cast<size_t>(got));
        }
        int status = 0;
        ::waitpid(pid_, &status, 0);
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

  private:
    pid_t pid_ = -1;
    UniqueFd output_;
};

// The number behind "key": in the part of the JSON that begins with "section".
double number(const std::string& json, const std::string& section, const std::string& key) {
    const size_t start = json.find("\"" + section + "\":");
    const size_t at = json.find("\"" + key + "\":", start);
    EXPECT_NE(at, std::string::npos) << key << " in " << json;
    return at == std::string::npos ? -1 : std::strtod(json.c_str() + at + key.size() + 3, nullptr);
}

class EmulatorTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (const std::string why = netns_unavailable_reason(); !why.empty()) GTEST_SKIP() << why;
        for (int i = 0; i < 3; ++i) {
            auto ns = NetNamespace::create();
            ASSERT_TRUE(ns.ok());
            namespaces_.push_back(std::move(*ns));
        }
        const NetNamespace &a = namespaces_[0], &wan = namespaces_[1], &b = namespaces_[2];
        ASSERT_TRUE(make_veth({&a, "va", "10.0.0.1/24"}, {&wan, "wa", ""}).ok());
        ASSERT_TRUE(make_veth({&b, "vb", "10.0.0.2/24"}, {&wan, "wb", ""}).ok());
        // Fixed neighbours: no ARP among the counted packets.
        ASSERT_TRUE(a.run({"ip", "link", "set", "va", "address", "02:00:00:00:00:01"}).ok());
        ASSERT_TRUE(b.run({"ip", "link", "set", "vb", "address", "02:00:00:00:00:02"}).ok());
        for (const auto& [ns, ip, mac, dev] :
             {std::tuple{&a, "10.0.0.2", "02:00:00:00:00:02", "va"},
              {&b, "10.0.0.1", "02:00:00:00:00:01", "vb"}}) {
            ASSERT_TRUE(ns->run({"ip", "neigh", "replace", ip, "lladdr", mac, "dev", dev, "nud",
                                 "permanent"})
                            .ok());
        }
        control_path_ = "/tmp/evt-" + std::to_string(::getpid()) + "-wan";
    }

    void TearDown() override {
        emulator_.reset();  // killed, unless it has ended, so it may leave its socket
        ::unlink(control_path_.c_str());
    }

    void start(std::vector<std::string> arguments) {
        a_.reset();  // before the fork, which would keep their addresses in use for a moment
        b_.reset();
        for (const char* word : {"--a", "wa", "--b", "wb", "--control"})
            arguments.emplace_back(word);
        arguments.push_back(control_path_);
        emulator_ = std::make_unique<Child>(arguments, namespaces_[1].fd());
        a_ = open_port(namespaces_[0], 0x0a000001);
        b_ = open_port(namespaces_[2], 0x0a000002);
        const auto deadline = SteadyClock::now() + kGiveUp;
        while (command("help").substr(0, 2) != "ok" && SteadyClock::now() < deadline) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
    }
    static std::unique_ptr<DatagramPort> open_port(const NetNamespace& ns, uint32_t ip) {
        const ScopedNetns inside(ns);
        auto port = open_kernel_udp_port({.local = {ip, 4500}, .segmentation_offload = false});
        EXPECT_TRUE(port.ok()) << port.error().message();
        return std::move(*port);
    }

    std::string command(const std::string& line) {
        const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, control_path_.data(), control_path_.size());
        if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
            return "";
        const std::string text = line + "\n";
        if (::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return "";
        std::string answer;
        char bytes[4096];
        while (answer.find('\n') == std::string::npos) {
            const ssize_t got = ::recv(fd.get(), bytes, sizeof bytes, 0);
            if (got <= 0) break;
            answer.append(bytes, static_cast<size_t>(got));
        }
        return answer;
    }

    size_t drain(DatagramPort& port) {
        return port.receive(100000, [](const UdpAddress&, ByteSpan) {});
    }
    // Sends `count` from a to b, at most 16 at a time and 200 us apart so that no kernel queue
    // overflows, and receives meanwhile. Returns how many came.
    size_t send_paced(size_t count) {
        const Bytes payload(kPayloadBytes, std::byte{1});
        const std::vector<ByteSpan> batch(16, ByteSpan(payload));
        size_t received = 0;
        for (size_t sent = 0; sent < count;) {
            sent += a_->send(b_->local_address(),
                             std::span(batch).first(std::min(batch.size(), count - sent)));
            received += drain(*b_);
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
        return received;
    }
    // Receives at b until `done(received)`.
    template <class Done>
    size_t receive_until(size_t received, Done done) {
        const auto deadline = SteadyClock::now() + kGiveUp;
        while (!done(received) && SteadyClock::now() < deadline) {
            pollfd wait{b_->wait_fd(), POLLIN, 0};
            ::poll(&wait, 1, 5);
            received += drain(*b_);
        }
        return received;
    }
    std::string stats() { return command("stats"); }
    // Every packet offered from a to b has met its fate.
    std::string settled_stats(size_t offered) {
        std::string json;
        const auto deadline = SteadyClock::now() + kGiveUp;
        do {
            json = stats();
            double fates = 0;
            for (const char* key : {"delivered_packets", "dropped_queue", "lost_random",
                                    "lost_burst", "lost_outage"}) {
                fates += number(json, "a_to_b", key);
            }
            if (fates >= static_cast<double>(offered)) break;
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        } while (SteadyClock::now() < deadline);
        return json;
    }
    void expect_no_unintended_loss(const std::string& json) {
        for (const char* section : {"a_to_b", "b_to_a"}) {
            for (const char* key :
                 {"ring_drops", "oversize", "send_failed", "dropped_memory", "checksum_pending"}) {
                EXPECT_EQ(number(json, section, key), 0) << section << "." << key;
            }
        }
    }

    std::vector<NetNamespace> namespaces_;
    std::string control_path_;
    std::unique_ptr<Child> emulator_;
    std::unique_ptr<DatagramPort> a_, b_;
};

TEST_F(EmulatorTest, TheRateIsKeptAndEveryBitIsAccountedFor) {
    start({"--rate", "50mbit", "--rtt-ms", "10", "--queue-kib", "8192"});
    constexpr size_t n = 1500;
    const double link_s = n * kFrameBytes * 8 / 50e6;  // 0.346 s
    const auto begin = SteadyClock::now();
    size_t received = send_paced(n);
    received = receive_until(received, [](size_t got) { return got >= n; });
    const double took_s = seconds_since(begin);
    ASSERT_EQ(received, n);
    // Never faster than the link and its delay, however the machine schedules us.
    EXPECT_GE(took_s, link_s + 0.005);
    const std::string json = settled_stats(n);
    EXPECT_NEAR(number(json, "a_to_b", "link_busy_s"), link_s, 0.03 * link_s);
    EXPECT_EQ(number(json, "a_to_b", "delivered_packets"), n);
    EXPECT_EQ(number(json, "a_to_b", "delivered_bytes"), n * kFrameBytes);
    expect_no_unintended_loss(json);
}

TEST_F(EmulatorTest, ASmallQueueDropsAndTheRestPassesAtTheRate) {
    start({"--rate", "20mbit", "--rtt-ms", "0", "--queue-kib", "64"});
    constexpr size_t n = 1000;
    size_t received = send_paced(n);
    const std::string json = settled_stats(n);
    const double delivered = number(json, "a_to_b", "delivered_packets");
    received =
        receive_until(received, [&](size_t got) { return static_cast<double>(got) >= delivered; });
    EXPECT_EQ(static_cast<double>(received), delivered);
    EXPECT_GT(number(json, "a_to_b", "dropped_queue"), 0);
    EXPECT_LE(number(json, "a_to_b", "queued_bytes_peak"), 64 * 1024);
    EXPECT_NEAR(number(json, "a_to_b", "link_busy_s"), delivered * kFrameBytes * 8 / 20e6, 0.001);
    expect_no_unintended_loss(json);
}

TEST_F(EmulatorTest, RandomAndBurstLossHaveTheirShares) {
    start({"--rate", "0", "--rtt-ms", "0", "--loss", "5", "--queue-kib", "8192"});
    constexpr size_t n = 4000;
    size_t received = send_paced(n);
    std::string json = settled_stats(n);
    const double random = number(json, "a_to_b", "lost_random");
    received =
        receive_until(received, [&](size_t got) { return static_cast<double>(got) >= n - random; });
    EXPECT_EQ(static_cast<double>(received), n - random);
    EXPECT_NEAR(random, n * 0.05, 5 * std::sqrt(n * 0.05 * 0.95));

    ASSERT_EQ(command("loss 0"), "ok\n");
    ASSERT_EQ(command("ge 10:4 a-b"), "ok\n");
    received = send_paced(n);
    json = settled_stats(2 * n);
    const double burst = number(json, "a_to_b", "lost_burst");
    received =
        receive_until(received, [&](size_t got) { return static_cast<double>(got) >= n - burst; });
    EXPECT_EQ(static_cast<double>(received), n - burst);
    EXPECT_EQ(number(json, "a_to_b", "lost_random"), random);
    EXPECT_NEAR(burst, n * 0.1, 5 * std::sqrt(n * 0.1 * 2 * 4));
    EXPECT_EQ(number(json, "b_to_a", "ge_loss_pct"), 0);
    expect_no_unintended_loss(json);
}

TEST_F(EmulatorTest, TheDelayIsThereBothWays) {
    start({"--rate", "100mbit", "--rtt-ms", "30"});
    const Bytes payload(100, std::byte{2});
    const ByteSpan span = payload;
    double shortest_s = 1e9;
    for (int i = 0; i < 10; ++i) {
        const auto begin = SteadyClock::now();
        bool back = false;
        ASSERT_EQ(a_->send(b_->local_address(), {&span, 1}), 1U);
        while (!back && SteadyClock::now() - begin < kGiveUp) {
            pollfd wait[] = {{a_->wait_fd(), POLLIN, 0}, {b_->wait_fd(), POLLIN, 0}};
            ::poll(wait, 2, 100);
            b_->receive(16, [&](const UdpAddress& from, ByteSpan) { b_->send(from, {&span, 1}); });
            a_->receive(16, [&](const UdpAddress&, ByteSpan) { back = true; });
        }
        ASSERT_TRUE(back);
        const double took_s = seconds_since(begin);
        EXPECT_GE(took_s, 0.030);
        shortest_s = std::min(shortest_s, took_s);
    }
    EXPECT_LT(shortest_s, 0.060);  // the best of ten
}

TEST_F(EmulatorTest, AnOutageTakesEverythingThenTheLinkIsBack) {
    start({"--rate", "100mbit", "--rtt-ms", "2", "--queue-kib", "8192"});
    ASSERT_EQ(command("outage 60s"), "ok\n");
    EXPECT_EQ(send_paced(200), 0U);
    std::string json = settled_stats(200);
    EXPECT_EQ(number(json, "a_to_b", "lost_outage"), 200);
    EXPECT_EQ(number(json, "a_to_b", "delivered_packets"), 0);

    // A scripted one, seen from outside: what is sent in it is lost, what is sent after it passes.
    emulator_.reset();
    start({"--rate", "100mbit", "--rtt-ms", "2", "--queue-kib", "8192", "--outage", "0:400ms"});
    const Bytes payload(kPayloadBytes, std::byte{1});
    const ByteSpan span = payload;
    size_t sent = 0;
    const auto deadline = SteadyClock::now() + kGiveUp;
    while (drain(*b_) == 0 && SteadyClock::now() < deadline) {
        sent += a_->send(b_->local_address(), {&span, 1});
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    json = settled_stats(sent);
    const double lost = number(json, "a_to_b", "lost_outage");
    EXPECT_GT(number(json, "a_to_b", "delivered_packets"), 0);
    EXPECT_EQ(lost + number(json, "a_to_b", "delivered_packets"), static_cast<double>(sent));
    expect_no_unintended_loss(json);
}

TEST_F(EmulatorTest, CommandsAreCheckedAndSigtermEndsItWithASummary) {
    start({"--rate", "100mbit"});
    EXPECT_EQ(command("rate 10mbit"), "ok\n");
    EXPECT_EQ(command("rtt-ms 50"), "ok\n");
    EXPECT_EQ(command("rate fast").substr(0, 20), "error: rate 'fast': ");
    EXPECT_EQ(command("format disk").substr(0, 15), "error: command ");
    EXPECT_EQ(number(stats(), "a_to_b", "rate_bit_per_s"), 10'000'000);
    EXPECT_EQ(number(stats(), "b_to_a", "delay_ms"), 25);
    std::string output;
    EXPECT_EQ(emulator_->finish(SIGTERM, output), 0);
    EXPECT_NE(output.find("wan-emulator: ready\n"), std::string::npos);
    const size_t json_at = output.find('{');
    ASSERT_NE(json_at, std::string::npos) << output;
    EXPECT_EQ(number(output.substr(json_at), "b_to_a", "offered_packets"), 0);
    EXPECT_TRUE(output.ends_with("}}\n")) << output;
    EXPECT_NE(::access(control_path_.c_str(), F_OK), 0);
}

TEST(EmulatorArguments, BadOnesAreNamedAndEndWithTwo) {
    std::string output;
    EXPECT_EQ(Child({"--a", "x", "--b", "y", "--loss", "200"}, -1).finish(0, output), 2);
    EXPECT_EQ(output, "wan-emulator: --loss '200': expected a number from 0 to 100\n");
    output.clear();
    EXPECT_EQ(Child({}, -1).finish(0, output), 2);
    EXPECT_EQ(output, "wan-emulator: --a '': expected an interface's name\n");
    output.clear();
    EXPECT_EQ(Child({"--a", "no-such-1", "--b", "no-such-2"}, -1).finish(0, output), 1);
    EXPECT_TRUE(output.find("no-such-1") != std::string::npos ||
                output.find("CAP_NET_RAW") != std::string::npos);
    output.clear();
    EXPECT_EQ(Child({"--help"}, -1).finish(0, output), 0);
    EXPECT_NE(output.find("usage: wan-emulator"), std::string::npos);
}

}  // namespace
