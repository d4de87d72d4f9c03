#include "mapped_fault.hpp"

#include <signal.h>
#include <sys/mman.h>

#include <cstdint>
#include <mutex>

#include "evac/core/assert.hpp"

namespace evac::prestage {
namespace {

struct Range {
    uintptr_t begin = 0;
    size_t size = 0;
    volatile sig_atomic_t hit = 0;
};

constinit thread_local Range t_range;
struct sigaction g_previous;  // written once, before the handler can run

// Async-signal-safe: one system call and this thread's own variables. The signal is synchronous, so
// that the interrupted code is the reading of the range itself.
void on_sigbus(int number, siginfo_t* info, void* context) {
    Range& range = t_range;
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (range.size != 0 && address >= range.begin && address - range.begin < range.size) {
        void* const begin = reinterpret_cast<void*>(range.begin);
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
        if (::mmap(begin, range.size, PROT_READ, flags, -1, 0) == begin) {
            range.hit = 1;
            return;
        }
    }
    if ((g_previous.sa_flags & SA_SIGINFO) != 0) {
        g_previous.sa_sigaction(number, info, context);
    } else if (g_previous.sa_handler == SIG_DFL || g_previous.sa_handler == SIG_IGN) {
        ::sigaction(SIGBUS, &g_previous, nullptr);  // it faults again, and that is the end
    } else {
        g_previous.sa_handler(number);
    }
}

void install() {
    struct sigaction action {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, nullptr, &g_previous);
    const int installed = ::sigaction(SIGBUS, &action, nullptr);
    EVAC_ASSERT(installed == 0);
}

}  // namespace

FaultGuard::FaultGuard(std::byte* base, size_t size) {
    static std::once_flag once;
    std::call_once(once, install);
    EVAC_ASSERT(t_range.size == 0);
    t_range.begin = reinterpret_cast<uintptr_t>(base);
    t_range.hit = 0;
    t_range.size = size;
}

FaultGuard::~FaultGuard() {
    t_range.size = 0;
}

bool FaultGuard::hit() const {
    return t_range.hit != 0;
}

}  // namespace evac::prestage
