#include "evac/prestage/stream_guard.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

namespace evac::prestage {
namespace {

// Each message on the control socket (SOCK_SEQPACKET): one of these, with a descriptor when hold
// is 1.
struct Message {
    uint64_t number = 0;
    uint64_t hold = 0;
};

Status send_message(int control, const Message& message, int fd) {
    iovec part{const_cast<Message*>(&message), sizeof(message)};  // NOLINT: sendmsg does not write
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
    while (::sendmsg(control, &header, MSG_NOSIGNAL) < 0) {
        if (errno != EINTR) return io_error("stream guard");
    }
    return {};
}

// ---- The child. After fork() in what may become a threaded program: system calls only, no
// allocation.

struct Held {
    uint64_t number;
    int fd;
};

struct Child {
    Held held[kGuardStreamsMax];
    uint32_t count = 0;

    void drop(uint32_t index) {
        ::close(held[index].fd);
        held[index] = held[--count];
    }
    // False when the parent is gone.
    bool receive(int control) {
        Message message;
        iovec part{&message, sizeof(message)};
        alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))];
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = space;
        header.msg_controllen = sizeof(space);
        const ssize_t n = ::recvmsg(control, &header, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR) return true;
        if (n != static_cast<ssize_t>(sizeof(message))) return false;
        const cmsghdr* rights = CMSG_FIRSTHDR(&header);
        if (message.hold == 1 && rights != nullptr) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(rights), sizeof(int));
            if (count == kGuardStreamsMax) {
                ::close(fd);
            } else {
                held[count++] = {message.number, fd};
            }
            return true;
        }
        for (uint32_t i = 0; i < count; ++i) {
            if (held[i].number == message.number) {
                drop(i);
                break;
            }
        }
        return true;
    }
    void drain_all() {
        static char bytes[256 * 1024];
        timespec start{}, now{};
        ::clock_gettime(CLOCK_MONOTONIC, &start);
        while (count != 0) {
            pollfd waiters[kGuardStreamsMax];
            for (uint32_t i = 0; i < count; ++i) waiters[i] = {held[i].fd, POLLIN, 0};
            ::poll(waiters, count, 1000);
            for (uint32_t i = count; i-- > 0;) {
                if (waiters[i].revents == 0) continue;
                const ssize_t n = ::recv(held[i].fd, bytes, sizeof(bytes), MSG_DONTWAIT);
                if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) drop(i);
            }
            ::clock_gettime(CLOCK_MONOTONIC, &now);
            if ((now.tv_sec - start.tv_sec) * 1000 > kGuardLimitMs) return;
        }
    }
};

[[noreturn]] void run_child(int control) {
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
    ::prctl(PR_SET_NAME, "evac-guard");
    // Nothing inherited but the control socket, moved to descriptor 0: other ends would be kept
    // open by us.
    ::dup2(control, 0);
    ::syscall(SYS_close_range, 1u, UINT_MAX, 0u);
    static Child child;
    while (child.receive(0)) {
    }
    child.drain_all();
    ::_exit(0);
}

}  // namespace

Result<StreamGuard> StreamGuard::start() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return io_error("stream guard: socketpair");
    UniqueFd ours(ends[0]);
    const UniqueFd theirs(ends[1]);
    const pid_t child = ::fork();
    if (child < 0) return io_error("stream guard: fork");
    if (child == 0) run_child(theirs.get());
    return StreamGuard(std::move(ours), child);
}

StreamGuard::~StreamGuard() {
    if (!control_.valid()) return;
    control_.reset();
    while (::waitpid(child_pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

Status StreamGuard::hold(uint64_t number, int stream_fd) {
    return send_message(control_.get(), {number, 1}, stream_fd);
}

void StreamGuard::release(uint64_t number) {
    // A guard that died holds nothing.
    static_cast<void>(send_message(control_.get(), {number, 0}, -1).ok());
}

}  // namespace evac::prestage
