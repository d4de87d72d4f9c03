// Against a real QEMU without a guest, and against sockets that are not QMP.
#include "evac/qmp/client.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

namespace evac::qmp {
namespace {

std::string temporary_folder() {
    char pattern[] = "/tmp/evac-qmp-XXXXXX";
    return mkdtemp(pattern);
}

class Qemu {
  public:
    explicit Qemu(const std::string& folder) : path_(folder + "/qmp") {
        pid_ = fork();
        if (pid_ == 0) {
            const std::string monitor = "unix:" + path_ + ",server=on,wait=off";
            execlp("qemu-system-x86_64", "qemu-system-x86_64", "-M", "none", "-nodefaults",
                   "-display", "none", "-qmp", monitor.c_str(), nullptr);
            _exit(127);
        }
        for (int i = 0; i < 500 && !std::filesystem::exists(path_); ++i) usleep(10000);
    }
    ~Qemu() {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    const std::string& path() const { return path_; }
    pid_t pid() const { return pid_; }

  private:
    std::string path_;
    pid_t pid_ = 0;
};

class QmpClient : public testing::Test {
  protected:
    std::string folder_ = temporary_folder();
    ~QmpClient() override { std::filesystem::remove_all(folder_); }
};

TEST_F(QmpClient, TalksToRealQemu) {
    Qemu qemu(folder_);
    auto client = Client::connect(qemu.path());
    ASSERT_TRUE(client.ok()) << client.error().message();
    EXPECT_EQ((*client)->peer_pid(), qemu.pid());
    auto version = (*client)->execute("query-version");
    ASSERT_TRUE(version.ok());
    EXPECT_GE((*version)["qemu"]["major"].get<int>(), 5);

    auto refused = (*client)->execute("no-such-command");
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, Errc::refused);
    EXPECT_NE(refused.error().context.find("no-such-command"), std::string::npos);

    int ends[2] = {-1, -1};
    ASSERT_EQ(pipe(ends), 0);
    EXPECT_TRUE((*client)->execute_with_fd("getfd", {{"fdname", "mine"}}, ends[1]).ok());
    EXPECT_FALSE((*client)->execute("getfd", {{"fdname", "none"}}).ok());
    close(ends[1]);
    pollfd hung{ends[0], POLLIN, 0};
    EXPECT_EQ(poll(&hung, 1, 0), 0) << "QEMU does not hold the other end";
    EXPECT_TRUE((*client)->execute("closefd", {{"fdname", "mine"}}).ok());
    EXPECT_EQ(poll(&hung, 1, 5000), 1);
    close(ends[0]);

    auto none = (*client)->wait_event("STOP", 20);
    ASSERT_FALSE(none.ok());
    EXPECT_EQ(none.error().code, Errc::timeout);
    ASSERT_TRUE((*client)->usable());
    ASSERT_TRUE((*client)->execute("quit").ok());
    EXPECT_TRUE((*client)->wait_event("SHUTDOWN", 2000).ok());
    auto gone = (*client)->wait_event("STOP", 2000);
    EXPECT_EQ(gone.error().code, Errc::io);
    EXPECT_FALSE((*client)->usable());
}

TEST_F(QmpClient, RefusesWhatIsNotThere) {
    EXPECT_EQ(Client::connect(folder_ + "/absent").error().code, Errc::io);
    EXPECT_EQ(Client::connect("").error().code, Errc::invalid_argument);
    EXPECT_EQ(Client::connect(std::string(300, 'x')).error().code, Errc::invalid_argument);
}

TEST_F(QmpClient, SaysWhatIsNotQmp) {
    for (const std::string& reply :
         {std::string("SSH-2.0-OpenSSH_9.2\r\n"), std::string("{\"hello\":1}\n")}) {
        const std::string path = folder_ + "/fake" + std::to_string(reply.size());
        const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof(address.sun_path) - 1);
        ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
        ASSERT_EQ(listen(listener, 1), 0);
        std::thread server([listener, reply] {
            const int peer = accept(listener, nullptr, nullptr);
            EXPECT_EQ(write(peer, reply.data(), reply.size()), static_cast<ssize_t>(reply.size()));
            close(peer);
        });
        auto client = Client::connect(path, 2000);
        ASSERT_FALSE(client.ok());
        EXPECT_EQ(client.error().code, Errc::corrupt);
        EXPECT_NE(client.error().context.find("is not a QMP monitor"), std::string::npos);
        server.join();
        close(listener);
    }
}

}  // namespace
}  // namespace evac::qmp
