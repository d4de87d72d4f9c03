#include "control_server.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

namespace wan_emulator {
namespace {

class ControlServerTest : public ::testing::Test {
  protected:
    void SetUp() override {
        path_ = "/tmp/evt-" + std::to_string(::getpid()) + "-control";
        ::unlink(path_.c_str());
        auto opened = ControlServer::open(
            path_, [](std::string_view line) { return "<" + std::string(line) + ">"; });
        ASSERT_TRUE(opened.ok()) << opened.error().message();
        server_ = std::move(*opened);
    }
    void TearDown() override {
        server_.reset();
        ::unlink(path_.c_str());
    }
    evac::UniqueFd connect() {
        evac::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path_.data(), path_.size());
        EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        return fd;
    }
    // What has been answered; "EOF" when the server closed the connection.
    static std::string read_some(const evac::UniqueFd& fd) {
        char bytes[1024];
        const ssize_t got = ::recv(fd.get(), bytes, sizeof bytes, MSG_DONTWAIT);
        if (got <= 0) return got == 0 || errno == ECONNRESET ? "EOF" : "";
        return {bytes, static_cast<size_t>(got)};
    }
    static void write(const evac::UniqueFd& fd, const std::string& text) {
        ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(text.size()));
    }

    std::string path_;
    std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, AnswersLinesAlsoInPieces) {
    const auto fd = connect();
    write(fd, "one\ntw");
    server_->serve();
    EXPECT_EQ(read_some(fd), "<one>\n");
    write(fd, "o\nthree\n");
    server_->serve();
    EXPECT_EQ(read_some(fd), "<two>\n<three>\n");
}

TEST_F(ControlServerTest, ALineThatDoesNotEndIsCutOff) {
    const auto fd = connect();
    write(fd, std::string(ControlServer::kLineBytesMax, 'x'));
    server_->serve();
    EXPECT_EQ(read_some(fd), "EOF");
}

TEST_F(ControlServerTest, ConnectionsAreBoundedAndAGoneOneMakesRoom) {
    std::vector<evac::UniqueFd> clients;
    for (size_t i = 0; i < ControlServer::kClientsMax; ++i) clients.push_back(connect());
    server_->serve();
    const auto waiting = connect();
    write(waiting, "hello\n");
    server_->serve();
    EXPECT_EQ(read_some(waiting), "");
    clients.clear();
    server_->serve();
    server_->serve();
    EXPECT_EQ(read_some(waiting), "<hello>\n");
}

TEST_F(ControlServerTest, RemovesItsSocketAndReplacesAStaleOne) {
    server_.reset();
    EXPECT_NE(::access(path_.c_str(), F_OK), 0);
    std::ofstream(path_) << "a file of somebody's";
    const auto refused = ControlServer::open(path_, {});
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().context.find("is not a socket"), std::string::npos);
}

}  // namespace
}  // namespace wan_emulator
