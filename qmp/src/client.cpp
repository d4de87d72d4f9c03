#include "evac/qmp/client.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "evac/core/clock.hpp"
#include "evac/core/units.hpp"

namespace evac::qmp {
namespace {

uint64_t deadline_after(int timeout_ms) {
    return SystemClock().now_ns() + static_cast<uint64_t>(std::max(timeout_ms, 0)) * kNsPerMs;
}

// Milliseconds left, at least 0; rounded up so that poll() does not spin in the last one.
int left_ms(uint64_t deadline_ns) {
    const uint64_t now_ns = SystemClock().now_ns();
    if (now_ns >= deadline_ns) return 0;
    return static_cast<int>((deadline_ns - now_ns + kNsPerMs - 1) / kNsPerMs);
}

// send() that does not wait, with a file descriptor unless it is -1.
ssize_t send_some(int socket, std::string_view bytes, int fd) {
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};  // NOLINT: sendmsg does not write
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (fd >= 0) {
        header.msg_control = space;
        header.msg_controllen = sizeof(space);
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(rights), &fd, sizeof(int));
    }
    return ::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// What a QEMU monitor would never send, shortened for a message.
std::string excerpt(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, 80)) out += (c >= ' ' && c < 127) ? c : '.';
    return out;
}

}  // namespace

Result<std::unique_ptr<Client>> Client::connect(const std::string& socket_path, int timeout_ms) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket_path.empty() || socket_path.size() >= sizeof(address.sun_path)) {
        return make_error(Errc::invalid_argument, "QMP socket '" + socket_path +
                                                      "': a path of 1 to " +
                                                      std::to_string(sizeof(address.sun_path) - 1) +
                                                      " characters is accepted");
    }
    std::copy(socket_path.begin(), socket_path.end(), address.sun_path);
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return io_error("socket for QMP");
    // A monitor that serves another client leaves us in its backlog; the greeting's time-out covers
    // that.
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return io_error("connect to QMP socket '" + socket_path + "'");
    }
    std::unique_ptr<Client> client(new Client(std::move(fd), socket_path));
    ucred peer{};
    socklen_t peer_size = sizeof(peer);
    if (::getsockopt(client->fd_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) == 0) {
        client->peer_pid_ = peer.pid;
    }
    auto greeting = client->read_message(deadline_after(timeout_ms));
    if (!greeting.ok()) {
        Error error = std::move(greeting).error();
        if (error.code == Errc::timeout) {
            error.context +=
                "; it accepted the connection but sent no QMP greeting (another client, or not "
                "QMP)";
        }
        return error;
    }
    if (!greeting->is_object() || !greeting->contains("QMP")) {
        return make_error(Errc::corrupt,
                          "'" + socket_path + "' is not a QMP monitor: its first message was '" +
                              excerpt(greeting->dump()) + "', expected a QMP greeting");
    }
    client->greeting_ = std::move(*greeting);
    EVAC_TRY(client->execute("qmp_capabilities", Json::object(), timeout_ms));
    return client;
}

Result<Json> Client::execute(std::string_view command, Json arguments, int timeout_ms) {
    return call(command, std::move(arguments), -1, timeout_ms);
}

Result<Json> Client::execute_with_fd(std::string_view command, Json arguments, int fd,
                                     int timeout_ms) {
    return call(command, std::move(arguments), fd, timeout_ms);
}

Result<Json> Client::call(std::string_view command, Json arguments, int fd, int timeout_ms) {
    if (!usable()) return make_error(Errc::io, "QMP " + path_ + ": connection is closed");
    const uint64_t deadline_ns = deadline_after(timeout_ms);
    const uint64_t id = next_id_++;
    Json request{{"execute", command}, {"id", id}};
    if (!arguments.empty()) request["arguments"] = std::move(arguments);
    EVAC_TRY(send_line(request.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n", fd,
                       deadline_ns));
    while (true) {
        auto message = read_message(deadline_ns);
        if (!message.ok()) {
            Error error = std::move(message).error();
            error.context += " while waiting for " + std::string(command);
            return error;
        }
        if (!message->is_object()) continue;
        if (message->contains("event")) {
            keep_event(std::move(*message));
            continue;
        }
        if (message->value("id", uint64_t{0}) != id) continue;
        if (message->contains("error")) {
            const Json& error = (*message)["error"];
            const std::string text =
                error.is_object() ? error.value("desc", error.dump()) : error.dump();
            return make_error(Errc::refused, "QMP " + std::string(command) + ": " + text);
        }
        return message->value("return", Json::object());
    }
}

Result<Json> Client::wait_event(std::string_view name, int timeout_ms) {
    const uint64_t deadline_ns = deadline_after(timeout_ms);
    while (true) {
        const auto found = std::find_if(events_.begin(), events_.end(), [name](const Json& event) {
            return event["event"].is_string() &&
                   event["event"].get_ref<const std::string&>() == name;
        });
        if (found != events_.end()) {
            Json event = std::move(*found);
            events_.erase(found);
            return event;
        }
        if (!usable()) return make_error(Errc::io, "QMP " + path_ + ": connection is closed");
        auto message = read_message(deadline_ns);
        if (!message.ok()) {
            Error error = std::move(message).error();
            error.context += " while waiting for event " + std::string(name);
            return error;
        }
        if (message->is_object() && message->contains("event")) keep_event(std::move(*message));
    }
}

void Client::keep_event(Json event) {
    if (events_.size() >= kEventsMax) events_.pop_front();
    events_.push_back(std::move(event));
}

Status Client::send_line(const std::string& line, int fd, uint64_t deadline_ns) {
    size_t sent = 0;
    while (sent < line.size()) {
        const ssize_t n = send_some(fd_.get(), std::string_view(line).substr(sent), fd);
        if (n > 0) {
            sent += static_cast<size_t>(n);
            fd = -1;
            continue;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            Error error = io_error("QMP " + path_ + ": send");
            fd_.reset();
            return error;
        }
        pollfd waiter{fd_.get(), POLLOUT, 0};
        if (::poll(&waiter, 1, left_ms(deadline_ns)) == 0) {
            fd_.reset();  // half a line was written: nothing more can be said on this connection
            return make_error(Errc::timeout, "QMP " + path_ + ": send");
        }
    }
    return {};
}

// A time-out leaves the connection usable (the answer to an abandoned command is skipped by its
// id).
Result<Json> Client::read_message(uint64_t deadline_ns) {
    while (true) {
        const size_t line_end = buffer_.find('\n');
        if (line_end != std::string::npos) {
            const std::string line = buffer_.substr(0, line_end);
            buffer_.erase(0, line_end + 1);
            if (line.find_first_not_of(" \r\t") == std::string::npos) continue;
            Json message = Json::parse(line, nullptr, false);
            if (message.is_discarded()) {
                fd_.reset();
                return make_error(Errc::corrupt, "'" + path_ + "' is not a QMP monitor: it sent '" +
                                                     excerpt(line) + "', expected a JSON message");
            }
            return message;
        }
        if (buffer_.size() > kMessageBytesMax) {
            fd_.reset();
            return make_error(Errc::corrupt, "QMP " + path_ + ": a line of more than " +
                                                 std::to_string(kMessageBytesMax) + " bytes");
        }
        pollfd waiter{fd_.get(), POLLIN, 0};
        const int ready = ::poll(&waiter, 1, left_ms(deadline_ns));
        if (ready < 0 && errno == EINTR) continue;
        if (ready == 0) return make_error(Errc::timeout, "QMP " + path_);
        char chunk[16384];
        const ssize_t n = ::recv(fd_.get(), chunk, sizeof(chunk), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            Error error = n == 0 ? make_error(Errc::io, "QMP " + path_ + ": closed by QEMU")
                                 : io_error("QMP " + path_ + ": receive");
            fd_.reset();
            return error;
        }
        buffer_.append(chunk, static_cast<size_t>(n));
    }
}

}  // namespace evac::qmp
