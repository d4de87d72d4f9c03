#include "eal.hpp"

#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <sched.h>

#include <cstdio>
#include <mutex>
#include <optional>
#include <vector>

namespace evac::wan_dpdk {
namespace {

constexpr size_t kLogTailBytes = 2048;

// DPDK logs from its own threads too, hence the lock; nothing of ours logs through here.
class LogTail {
  public:
    void append(const char* text, size_t size) {
        const std::lock_guard lock(mutex_);
        text_.append(text, size);
        if (text_.size() > kLogTailBytes) text_.erase(0, text_.size() - kLogTailBytes);
    }
    std::string get() {
        const std::lock_guard lock(mutex_);
        return text_;
    }
    void clear() {
        const std::lock_guard lock(mutex_);
        text_.clear();
    }

  private:
    std::mutex mutex_;
    std::string text_;
};

// Process-wide because the EAL is; leaked on purpose, since EAL threads may log until the very end.
LogTail& log_tail() {
    static auto* tail = new LogTail;
    return *tail;
}

ssize_t write_log(void*, const char* text, size_t size) {
    log_tail().append(text, size);
    return static_cast<ssize_t>(size);
}

Status redirect_log() {
    FILE* stream = ::fopencookie(nullptr, "w", {nullptr, write_log, nullptr, nullptr});
    if (stream == nullptr) return io_error("fopencookie");
    ::setvbuf(stream, nullptr, _IOLBF, 512);
    rte_openlog_stream(stream);
    rte_log_set_global_level(RTE_LOG_NOTICE);
    return {};
}

std::vector<std::string> eal_arguments(const EalOptions& options, size_t cpu) {
    std::vector<std::string> words = {"evacgwd",
                                      "--no-telemetry",
                                      "--file-prefix",
                                      options.file_prefix,
                                      "-m",
                                      std::to_string(options.memory_mib),
                                      "-l",
                                      std::to_string(cpu)};
    // --no-huge with --in-memory fails; see facts in README.md.
    if (options.hugepages) {
        words.emplace_back("--in-memory");
    } else {
        words.emplace_back("--no-huge");
        words.emplace_back("--no-shconf");
    }
    if (options.pci_address.empty()) {
        words.emplace_back("--no-pci");
    } else {
        words.emplace_back("-a");
        words.push_back(options.pci_address);
    }
    return words;
}

Status eal_init(const EalOptions& options) {
    EVAC_TRY(redirect_log());
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (::pthread_getaffinity_np(::pthread_self(), sizeof allowed, &allowed) != 0) {
        return io_error("pthread_getaffinity_np");
    }
    size_t cpu = 0;
    while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, &allowed)) ++cpu;

    // The EAL keeps pointers into argv.
    static std::vector<std::string> words;
    static std::vector<char*> argv;
    words = eal_arguments(options, cpu);
    argv.clear();
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);

    char thread_name[16] = {};
    ::pthread_getname_np(::pthread_self(), thread_name, sizeof thread_name);
    const int result = rte_eal_init(static_cast<int>(words.size()), argv.data());
    // The EAL pins the calling thread to its main core; the loop's thread is ours to place.
    ::pthread_setaffinity_np(::pthread_self(), sizeof allowed, &allowed);
    ::pthread_setname_np(::pthread_self(), thread_name);
    if (result < 0) {
        return make_error(Errc::unavailable, std::string("DPDK EAL cannot start: ") +
                                                 rte_strerror(rte_errno) +
                                                 "; it said: " + eal_log_tail());
    }
    return {};
}

}  // namespace

Status eal_init_once(const EalOptions& options) {
    static std::optional<Status> outcome;
    if (!outcome.has_value()) outcome = eal_init(options);
    return *outcome;
}

std::string eal_log_tail() {
    return log_tail().get();
}
void eal_log_clear() {
    log_tail().clear();
}

}  // namespace evac::wan_dpdk
