#pragma once
#include <cstdint>
#include <ctime>

#include "evac/core/units.hpp"

namespace evac::daemon {

// Of the calling thread.
inline uint64_t thread_cpu_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace evac::daemon
