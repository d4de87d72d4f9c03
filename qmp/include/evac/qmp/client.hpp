#pragma once
// A QMP monitor connection over a Unix socket; the only code that speaks QMP.
// Owned by one thread at a time (it may be handed over between uses). Blocking, with a limit on
// every call. QEMU serves one client per monitor socket: the gateway wants a socket of its own
// (-qmp unix:...,server=on,wait=off).
#include <cstdint>
#include <deque>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::qmp {

using Json = nlohmann::json;

inline constexpr int kDefaultTimeoutMs = 10'000;
inline constexpr size_t kMessageBytesMax = 8 * 1024 * 1024;  // one QMP line; larger is corrupt
inline constexpr size_t kEventsMax = 256;                    // kept; the oldest are dropped beyond

class Client {
  public:
    // Connects and negotiates capabilities. Errors: io (socket), timeout, corrupt (not QMP: says
    // what came).
    static Result<std::unique_ptr<Client>> connect(const std::string& socket_path,
                                                   int timeout_ms = kDefaultTimeoutMs);

    // Runs one command and returns its "return" value. Errors: refused (QMP error; context holds
    // command, class and QEMU's own words), io (connection lost), timeout, corrupt. After
    // io/timeout/corrupt the client is unusable.
    Result<Json> execute(std::string_view command, Json arguments = Json::object(),
                         int timeout_ms = kDefaultTimeoutMs);

    // The same; a duplicate of `fd` goes along (for getfd, add-fd).
    Result<Json> execute_with_fd(std::string_view command, Json arguments, int fd,
                                 int timeout_ms = kDefaultTimeoutMs);

    // Oldest kept event of that name, or waits for one. Other events stay kept.
    Result<Json> wait_event(std::string_view name, int timeout_ms);
    // Forgets kept events (before an operation whose events are then waited for).
    void drop_events() { events_.clear(); }

    bool usable() const { return fd_.valid(); }
    int peer_pid() const { return peer_pid_; }  // QEMU's process id (SO_PEERCRED); 0 if unknown
    const Json& greeting() const { return greeting_; }
    const std::string& path() const { return path_; }

  private:
    Client(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
    Result<Json> read_message(uint64_t deadline_ns);
    Result<Json> call(std::string_view command, Json arguments, int fd, int timeout_ms);
    // `fd` goes along with the first byte; -1 = none.
    Status send_line(const std::string& line, int fd, uint64_t deadline_ns);
    void keep_event(Json event);

    UniqueFd fd_;
    std::string path_;
    std::string buffer_;
    std::deque<Json> events_;
    Json greeting_;
    int peer_pid_ = 0;
    uint64_t next_id_ = 1;
};

}  // namespace evac::qmp
