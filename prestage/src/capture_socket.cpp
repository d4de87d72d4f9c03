#include "capture_socket.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "evac/core/units.hpp"
#include "write_protection.hpp"

namespace evac::prestage {
namespace {

constexpr size_t kReadBytes = kMiB;

}  // namespace

Status WaitLimits::check(uint64_t now_ns, uint64_t last_byte_ns) const {
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        return make_error(Errc::cancelled, "the capture was cancelled");
    }
    if (now_ns >= deadline_ns)
        return make_error(Errc::timeout, "the capture exceeded its time limit");
    if (now_ns - last_byte_ns >= silence_ns) {
        return make_error(Errc::timeout,
                          "QEMU sent nothing for " + std::to_string(silence_ns / kNsPerMs) + " ms");
    }
    return {};
}

Result<CaptureSocket> CaptureSocket::listen(const std::string& run_dir, const std::string& tag) {
    const std::string path = run_dir + "/capture-" + tag + ".sock";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (run_dir.empty() || path.size() >= sizeof(address.sun_path)) {
        return make_error(Errc::invalid_argument,
                          "run directory '" + run_dir + "': the socket path '" + path + "' has " +
                              std::to_string(path.size()) + " bytes, at most " +
                              std::to_string(sizeof(address.sun_path) - 1) + " are accepted");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) return io_error("socket for a capture");
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return io_error("bind '" + path + "'");
    }
    CaptureSocket out(std::move(fd), path);  // removes the file from here on
    // Nobody can connect before listen(), so the mode is in force in time.
    if (::chmod(path.c_str(), 0600) != 0) return io_error("chmod '" + path + "'");
    if (::listen(out.fd_.get(), 1) != 0) return io_error("listen on '" + path + "'");
    return out;
}

CaptureSocket::CaptureSocket(CaptureSocket&& other) noexcept
    : fd_(std::move(other.fd_)), path_(std::exchange(other.path_, std::string())) {}

CaptureSocket::~CaptureSocket() {
    if (!path_.empty()) ::unlink(path_.c_str());
}

Result<UniqueFd> CaptureSocket::accept(const Clock& clock, const WaitLimits& limits,
                                       const std::function<Status()>& refused) {
    const uint64_t start_ns = clock.now_ns();
    while (true) {
        UniqueFd connection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (connection.valid()) return connection;
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            return io_error("accept on '" + path_ + "'");
        EVAC_TRY(limits.check(clock.now_ns(), start_ns));
        pollfd waiter{fd_.get(), POLLIN, 0};
        if (::poll(&waiter, 1, kPollMs) == 0) EVAC_TRY(refused());
    }
}

Result<int> listener_pid(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path)) {
        return make_error(Errc::invalid_argument,
                          "socket path '" + path + "' is empty or too long");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) return io_error("socket");
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return io_error("connect to '" + path + "'");
    }
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return io_error("SO_PEERCRED");
    return static_cast<int>(peer.pid);
}

Status drain(int fd, const Clock& clock, const WaitLimits& limits,
             const std::function<Result<bool>(ByteSpan)>& take, const std::function<void()>& idle) {
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kReadBytes);
    uint64_t last_byte_ns = clock.now_ns();
    while (true) {
        const ssize_t n = ::recv(fd, buffer.get(), kReadBytes, 0);
        const int failure = errno;
        const uint64_t now_ns = clock.now_ns();
        if (n == 0) return {};
        if (n > 0) {
            last_byte_ns = now_ns;
            const Result<bool> more = take({buffer.get(), static_cast<size_t>(n)});
            if (!more.ok()) return more.error();
            if (!*more) return {};
        } else if (failure != EAGAIN && failure != EINTR) {
            return io_error("reading the migration stream", failure);
        }
        EVAC_TRY(limits.check(now_ns, last_byte_ns));
        idle();
        if (n < 0) {
            pollfd waiter{fd, POLLIN, 0};
            ::poll(&waiter, 1, kPollMs);
        }
    }
}

void abandon(UniqueFd& stream, int qemu_pid) {
    if (!stream.valid()) return;
    ::shutdown(stream.get(), SHUT_RD);
    const auto closed_within = [&stream](int limit_ms) {
        pollfd waiter{stream.get(), 0, 0};  // POLLHUP is always reported: the other side is closed
        int ready = 0;
        while ((ready = ::poll(&waiter, 1, limit_ms)) < 0 && errno == EINTR) {
        }
        return ready > 0;
    };
    if (!closed_within(kHangMs)) {
        static_cast<void>(lift_write_protection(qemu_pid).ok());  // recover() reports what it finds
        closed_within(kAbandonMs);
    }
    stream.reset();
}

Status discard(UniqueFd stream, int qemu_pid, const Clock& clock) {
    WaitLimits limits;
    limits.deadline_ns = UINT64_MAX;  // silence is the limit: a stream that flows ends by itself
    limits.silence_ns = uint64_t{kDiscardSilenceMs} * kNsPerMs;
    const Status outcome = drain(
        stream.get(), clock, limits, [](ByteSpan) -> Result<bool> { return true; }, [] {});
    abandon(stream, qemu_pid);
    return outcome;
}

}  // namespace evac::prestage
