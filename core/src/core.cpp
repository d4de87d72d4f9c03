#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "evac/core/assert.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"
#include "evac/core/units.hpp"

namespace evac {

void assert_failed(const char* expression, const char* file, int line) {
    std::fprintf(stderr, "assertion failed: %s at %s:%d\n", expression, file, line);
    std::abort();
}

const char* to_string(Errc code) {
    switch (code) {
        case Errc::invalid_argument:
            return "invalid argument";
        case Errc::not_found:
            return "not found";
        case Errc::already_exists:
            return "already exists";
        case Errc::refused:
            return "refused";
        case Errc::corrupt:
            return "corrupt";
        case Errc::io:
            return "input/output";
        case Errc::unavailable:
            return "unavailable";
        case Errc::timeout:
            return "timeout";
        case Errc::cancelled:
            return "cancelled";
        case Errc::internal:
            return "internal";
    }
    return "unknown";
}

std::string Error::message() const {
    std::string text = context;
    if (sys_errno != 0) text += std::string(": ") + std::strerror(sys_errno);
    return text + " (" + to_string(code) + ")";
}

namespace {
uint64_t read_clock_ns(clockid_t id) {
    timespec ts{};
    clock_gettime(id, &ts);
    return static_cast<uint64_t>(ts.tv_sec) * kNsPerSecond + static_cast<uint64_t>(ts.tv_nsec);
}
}  // namespace

uint64_t SystemClock::now_ns() const {
    return read_clock_ns(CLOCK_MONOTONIC);
}
int64_t SystemClock::wall_unix_ms() const {
    return static_cast<int64_t>(read_clock_ns(CLOCK_REALTIME) / kNsPerMs);
}

void UniqueFd::reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

}  // namespace evac
