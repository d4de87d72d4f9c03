#pragma once
// A counter that poll() can wait for. signal() by any thread; wait and clear by one.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

#include "evac/core/assert.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::daemon {

class EventFd {
  public:
    EventFd() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { EVAC_ASSERT(fd_.valid()); }
    int fd() const { return fd_.get(); }
    void signal() const {
        const uint64_t one = 1;
        // Fails only when the counter is full, and then it is readable already.
        const ssize_t n = ::write(fd_.get(), &one, sizeof(one));
        static_cast<void>(n);
    }
    // Before looking at what is announced, never after.
    void clear() const {
        uint64_t count = 0;
        const ssize_t n = ::read(fd_.get(), &count, sizeof(count));
        static_cast<void>(n);
    }

  private:
    UniqueFd fd_;
};

}  // namespace evac::daemon
