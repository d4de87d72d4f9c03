#pragma once
// The control socket: a Unix stream socket that takes lines and answers each with one line. Owner:
// the emulator's only thread. At most kClientsMax connections, kLineBytesMax per line; who exceeds
// them is disconnected.
#include <poll.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"

namespace wan_emulator {

class ControlServer {
  public:
    static constexpr size_t kClientsMax = 8;
    static constexpr size_t kLineBytesMax = 256;
    static constexpr size_t kPollFdsMax = 1 + kClientsMax;
    // Line without its newline -> answer without one.
    using Handler = std::function<std::string(std::string_view)>;

    // A socket file left by a dead emulator is replaced; anything else at `path` is an error.
    static evac::Result<std::unique_ptr<ControlServer>> open(const std::string& path,
                                                             Handler handler);
    ~ControlServer();
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;

    // For poll(): appends this server's descriptors.
    void add_poll_fds(std::vector<pollfd>& fds) const;
    // After poll() reported one of them.
    void serve();

  private:
    struct Client {
        evac::UniqueFd fd;
        std::string input;
    };
    ControlServer() = default;
    bool serve_client(Client& client);

    std::string path_;
    Handler handler_;
    evac::UniqueFd listener_;
    std::vector<Client> clients_;
};

}  // namespace wan_emulator
