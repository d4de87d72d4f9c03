// memif: the conformance suite between two ports of this process, and the other end in a process of
// its own that comes, dies and comes back. Its own program, and ports stay open until it ends:
// DPDK's memif driver has races between closing one end and another end in the same process (a
// gateway never has two).
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <chrono>
#include <map>
#include <thread>

#include "dpdk_pair.hpp"

namespace evac::wan_port::testing {
namespace {

// One pair for all tests.
PortPairMaker on_memif(const std::string& name, int mtu) {
    class Shared final : public PortPair {
      public:
        explicit Shared(DpdkPair& pair) : pair_(pair) {}
        DatagramPort& port() override { return pair_.port(); }
        DatagramPort& peer() override { return pair_.peer(); }

      private:
        DpdkPair& pair_;
    };
    return {name,
            [mtu](std::string& reason) -> std::unique_ptr<PortPair> {
                static std::map<int, DpdkPair*> pairs;
                DpdkPair*& pair = pairs[mtu];
                if (pair == nullptr)
                    pair = DpdkPair::make({.driver = "memif", .mtu = mtu}, reason).release();
                return pair == nullptr ? nullptr : std::make_unique<Shared>(*pair);
            },
            true};
}

INSTANTIATE_TEST_SUITE_P(Memif, DatagramPortConformance,
                         ::testing::Values(on_memif("memif", 1500), on_memif("memif_jumbo", 9000)),
                         [](const auto& info) { return info.param.name; });

// The echo program as a child; killed at the end of its scope.
class EchoProcess {
  public:
    EchoProcess(const std::string& device, const std::string& ip) {
        int input[2], output[2];
        EVAC_ASSERT(::pipe2(input, O_CLOEXEC) == 0 && ::pipe2(output, O_CLOEXEC) == 0);
        child_ = ::fork();
        EVAC_ASSERT(child_ >= 0);
        if (child_ == 0) {
            ::dup2(input[0], STDIN_FILENO);
            ::dup2(output[1], STDOUT_FILENO);
            ::execl(EVAC_PORT_ECHO, "wan_port_echo", device.c_str(), ip.c_str(), nullptr);
            ::_exit(127);
        }
        ::close(input[0]);
        ::close(output[1]);
        input_ = UniqueFd(input[1]);
        char word[6] = {};
        ready_ = ::read(output[0], word, sizeof word) == 6;
        ::close(output[0]);
    }
    ~EchoProcess() { kill(); }
    EchoProcess(const EchoProcess&) = delete;
    EchoProcess& operator=(const EchoProcess&) = delete;
    bool ready() const { return ready_; }
    void kill() {
        if (child_ <= 0) return;
        ::kill(child_, SIGKILL);
        ::waitpid(child_, nullptr, 0);
        child_ = -1;
    }

  private:
    pid_t child_ = -1;
    UniqueFd input_;
    bool ready_ = false;
};

class MemifTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "locked memory needs root";
    }
    DatagramPort* open(const std::string& role) {
        wan_dpdk::DpdkOptions options;
        options.device = "memif:" + folder_.socket() + ",role=" + role;
        options.local = {kUs, 4500};
        options.memory_mib = kTestMemoryMib;
        auto opened = wan_dpdk::open_dpdk_port(options, clock_);
        error_ = opened.ok() ? "" : opened.error().context;
        return opened.ok() ? opened->release() : nullptr;
    }
    // A datagram that was sent after the call began comes back. Old ones may be in the ring still.
    bool echoes(DatagramPort& port) {
        const Bytes payload = pattern(1400, ++round_);
        const ByteSpan view = payload;
        bool back = false;
        const DatagramHandler look = [&](const UdpAddress&, ByteSpan got) {
            back = back || std::ranges::equal(got, view);
        };
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (!back && std::chrono::steady_clock::now() < deadline) {
            port.send({kPeer, 4500}, {&view, 1});
            for (int i = 0; i < 10 && !back; ++i) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                port.receive(64, look);
            }
        }
        return back;
    }

    const Clock& clock_ = *new SystemClock;  // for as long as the ports
    TemporaryFolder folder_;
    std::string error_;
    uint8_t round_ = 0;
};

TEST_F(MemifTest, AClientFindsItsServerAgain) {
    const std::string device = "memif:" + folder_.socket() + ",role=server";
    EchoProcess first(device, "10.77.0.2");
    ASSERT_TRUE(first.ready());
    auto* port = open("client");
    ASSERT_NE(port, nullptr) << error_;
    EXPECT_TRUE(echoes(*port));
    first.kill();
    // A second server takes the place: the dead one's socket file does not hinder it.
    EchoProcess second(device, "10.77.0.2");
    ASSERT_TRUE(second.ready());
    EXPECT_TRUE(echoes(*port));
}

TEST_F(MemifTest, AServerTakesItsClientBack) {
    auto* port = open("server");
    ASSERT_NE(port, nullptr) << error_;
    const Bytes payload = pattern(100, 1);
    const ByteSpan view = payload;
    EXPECT_EQ(port->send({kPeer, 4500}, {&view, 1}), 1U);  // nobody there: a loss, not a stall
    EXPECT_EQ(port->counters().tx_dropped, 1U);
    for (int i = 0; i < 2; ++i) {
        EchoProcess client("memif:" + folder_.socket(), "10.77.0.2");
        ASSERT_TRUE(client.ready());
        EXPECT_TRUE(echoes(*port)) << i;
    }
}

TEST_F(MemifTest, SaysWhatIsWrongWithTheSocket) {
    EXPECT_EQ(open("client"), nullptr);
    EXPECT_EQ(error_, "memif socket '" + folder_.socket() +
                          "' does not exist: start the server first, or be it: role=server");
    const UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, folder_.socket().c_str());
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_EQ(open("server"), nullptr);
    EXPECT_EQ(error_,
              "memif socket '" + folder_.socket() + "': another server listens there already");
    ::unlink(folder_.socket().c_str());
    const UniqueFd file(::open(folder_.socket().c_str(), O_CREAT | O_WRONLY, 0600));
    EXPECT_EQ(open("server"), nullptr);
    EXPECT_EQ(error_, "memif socket '" + folder_.socket() +
                          "': expected a socket, not another kind of file");
}

}  // namespace
}  // namespace evac::wan_port::testing
