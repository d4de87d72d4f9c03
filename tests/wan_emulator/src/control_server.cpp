#include "control_server.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace wan_emulator {

using evac::Errc;
using evac::io_error;
using evac::Result;
using evac::UniqueFd;

Result<std::unique_ptr<ControlServer>> ControlServer::open(const std::string& path,
                                                           Handler handler) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return evac::make_error(Errc::invalid_argument,
                                "--control '" + path + "': expected a path of 1 to 107 bytes");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    struct stat existing {};
    if (::lstat(path.c_str(), &existing) == 0) {
        if (!S_ISSOCK(existing.st_mode)) {
            return evac::make_error(Errc::already_exists,
                                    "--control '" + path + "' exists and is not a socket");
        }
        ::unlink(path.c_str());
    }
    std::unique_ptr<ControlServer> server(new ControlServer);
    server->handler_ = std::move(handler);
    server->listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int fd = server->listener_.get();
    if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(fd, static_cast<int>(kClientsMax)) != 0) {
        return io_error("--control '" + path + "'");
    }
    server->path_ = path;
    return Result<std::unique_ptr<ControlServer>>(std::move(server));
}

ControlServer::~ControlServer() {
    if (!path_.empty()) ::unlink(path_.c_str());
}

void ControlServer::add_poll_fds(std::vector<pollfd>& fds) const {
    if (clients_.size() < kClientsMax) fds.push_back({listener_.get(), POLLIN, 0});
    for (const Client& client : clients_) fds.push_back({client.fd.get(), POLLIN, 0});
}

void ControlServer::serve() {
    while (clients_.size() < kClientsMax) {
        UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (!fd.valid()) break;
        clients_.push_back({std::move(fd), {}});
    }
    std::erase_if(clients_, [this](Client& client) { return !serve_client(client); });
}

// False: the connection is over.
bool ControlServer::serve_client(Client& client) {
    char bytes[kLineBytesMax];
    const ssize_t got = ::recv(client.fd.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (got == 0) return false;
    client.input.append(bytes, static_cast<size_t>(got));
    for (size_t newline; (newline = client.input.find('\n')) != std::string::npos;) {
        const std::string answer =
            handler_(std::string_view(client.input).substr(0, newline)) + "\n";
        client.input.erase(0, newline + 1);
        // A client that does not read its answers is not waited for.
        const ssize_t sent =
            ::send(client.fd.get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent != static_cast<ssize_t>(answer.size())) return false;
    }
    return client.input.size() < kLineBytesMax;
}

}  // namespace wan_emulator
