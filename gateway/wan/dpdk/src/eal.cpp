#include "eal.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <rte_alarm.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <semaphore>
#include <string_view>
#include <utility>
#include <vector>

namespace evac::wan_dpdk {
namespace {

constexpr size_t kLogTailBytes = 2048;
constexpr auto kInterruptThreadPatience = std::chrono::seconds(1);

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
    // The last words of a process that DPDK aborts; the reason comes in a second write.
    static std::atomic<bool> panic = false;
    if (std::string_view(text, size).find("PANIC in") != std::string_view::npos) panic = true;
    if (panic) {
        [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, size);
    }
    log_tail().append(text, size);
    return static_cast<ssize_t>(size);
}

// libbpf and libxdp (of the af_xdp driver) print to standard error by themselves. They are loaded
// by DPDK's plugin, or not at all, so they are asked by name.
int keep_text(int, const char* format, std::va_list arguments) {
    std::array<char, 512> text;
    const int size = std::vsnprintf(text.data(), text.size(), format, arguments);
    if (size > 0)
        log_tail().append(text.data(), std::min(static_cast<size_t>(size), text.size() - 1));
    return size;
}

void redirect_bpf_libraries() {
    using Printer = int (*)(int, const char*, std::va_list);
    using SetPrinter = Printer (*)(Printer);
    constexpr std::pair<const char*, const char*> kSetters[] = {
        {"libbpf.so.1", "libbpf_set_print"}, {"libxdp.so.1", "libxdp_set_print"}};
    for (const auto& [library, function] : kSetters) {
        void* loaded = ::dlopen(library, RTLD_NOLOAD | RTLD_LAZY);
        if (loaded == nullptr) continue;
        if (void* set = ::dlsym(loaded, function)) reinterpret_cast<SetPrinter>(set)(keep_text);
        ::dlclose(loaded);
    }
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
    redirect_bpf_libraries();
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

bool run_on_interrupt_thread(const std::function<void()>& work) {
    struct Call {
        std::function<void()> work;
        std::binary_semaphore done{0};
    };
    using Shared = std::shared_ptr<Call>;
    const auto run = [](void* argument) {
        const std::unique_ptr<Shared> waiting(static_cast<Shared*>(argument));
        (*waiting)->work();
        (*waiting)->done.release();
    };
    // The second, empty call returns in a later round of the thread's loop: until then it may hold
    // events of descriptors that `work` closed, and whose numbers the caller must not use again.
    for (const std::function<void()>& each : {work, std::function<void()>([] {})}) {
        const auto call = std::make_shared<Call>();
        call->work = each;
        auto argument = std::make_unique<Shared>(call);
        if (rte_eal_alarm_set(1, run, argument.get()) != 0) return false;
        [[maybe_unused]] const auto* handed_over = argument.release();
        if (!call->done.try_acquire_for(kInterruptThreadPatience)) return false;
    }
    return true;
}

std::string eal_log_tail() {
    return log_tail().get();
}
void eal_log_clear() {
    log_tail().clear();
}

}  // namespace evac::wan_dpdk
