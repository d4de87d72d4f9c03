// wan-flow: one end of a measured flow over the WAN transport, one process per site. It is the
// daemon's data path without the gateway: Transport over the DPDK port, loaded with bulk and
// stamped control messages. flow.hpp lists what it prints. Exit codes: 0 ended, 1 failed, 2 usage.
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "evac/core/unique_fd.hpp"
#include "evac/wan_dpdk/dpdk_port.hpp"
#include "evac/wan_port/kernel_udp_port.hpp"
#include "flow.hpp"
#include "options.hpp"
#include "report.hpp"

namespace wan_flow {

using evac::Errc;
using evac::Result;
using evac::wan::Transport;
using evac::wan_port::DatagramPort;

void say(const nlohmann::json& line) {
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
}

StopSignal::StopSignal() : fd_(-1) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

StopSignal::~StopSignal() {
    ::close(fd_);
}

// A signal that came stays in the descriptor, so every later call says so too.
bool StopSignal::wait_ms(int timeout_ms) const {
    pollfd wait{fd_, POLLIN, 0};
    return ::poll(&wait, 1, timeout_ms) > 0;
}

void await_event(int fd) {
    pollfd wait{fd, POLLIN, 0};
    if (::poll(&wait, 1, 50) > 0) Transport::clear(fd);
}

void drain_events(Transport& transport) {
    while (auto event = transport.try_event()) say({{"event", "transport"}, {"text", event->text}});
}

namespace {

// Scavenger mode of a transport that has it; false for one that does not.
template <class T>
bool set_scavenger(T& transport) {
    if constexpr (requires { transport.set_scavenger(true); }) {
        transport.set_scavenger(true);
        return true;
    }
    return false;
}

Result<std::unique_ptr<DatagramPort>> open_port(const Options& options, const evac::Clock& clock) {
    if (options.port == "kernel")
        return evac::wan_port::open_kernel_udp_port({.local = options.local});
    evac::wan_dpdk::DpdkOptions dpdk;
    dpdk.device = options.port.substr(5);  // behind "dpdk:"
    dpdk.local = options.local;
    dpdk.file_prefix = "wan-flow-" + std::to_string(::getpid());
    return evac::wan_dpdk::open_dpdk_port(dpdk, clock);
}

evac::wan::TransportConfig transport_config(const Options& options) {
    evac::wan::TransportConfig config;
    config.endpoint.role =
        options.role == Role::send ? evac::wan::Role::connect : evac::wan::Role::listen;
    config.endpoint.peer_address = options.peer;
    if (options.ceiling_mbit > 0)
        config.endpoint.ceiling_bits_per_s = static_cast<uint64_t>(options.ceiling_mbit * 1e6);
    return config;
}

double thread_cpu_s(std::jthread& thread) {
    clockid_t clock{};
    timespec used{};
    if (::pthread_getcpuclockid(thread.native_handle(), &clock) != 0) return 0;
    ::clock_gettime(clock, &used);
    return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

Result<nlohmann::json> run(const Options& options, const StopSignal& stop) {
    const evac::SystemClock clock;
    auto tls = evac::wan::TlsContext::load(options.tls);
    EVAC_TRY(tls);
    auto port = open_port(options, clock);
    EVAC_TRY(port);
    const size_t rss_before = rss_bytes();
    reset_peak_rss();
    const auto config = transport_config(options);
    auto made = Transport::create(config, *tls, **port, clock, clock.now_ns());
    EVAC_TRY(made);
    Transport& transport = **made;
    const bool scavenger = options.scavenger && set_scavenger(transport);
    say({{"event", "ready"}, {"port", (*port)->name()}, {"scavenger", scavenger}});
    std::jthread loop([&](std::stop_token token) { transport.run(std::move(token)); });
    auto report = options.role == Role::send
                      ? run_sender(options, transport, clock, stop)
                      : Result<nlohmann::json>(run_receiver(options, transport, clock, stop));
    EVAC_TRY(report);
    nlohmann::json end = std::move(*report);
    end["event"] = "end";
    end["scavenger"] = scavenger;
    end["cpu_s"] = process_cpu_s();
    end["packet_thread_cpu_s"] = thread_cpu_s(loop);
    end["stats"] = stats_json(transport.stats());
    end["rss_growth_bytes"] = peak_rss_bytes() - std::min(rss_before, peak_rss_bytes());
    end["memory_limit_bytes"] = memory_limit_bytes(config);
    loop.request_stop();
    loop.join();  // the port's counters belong to its thread
    end["port"] = port_json((*port)->counters());
    return end;
}

}  // namespace
}  // namespace wan_flow

int main(int argc, char** argv) {
    const wan_flow::StopSignal stop;
    // The default slack of 50 us would show in every latency.
    ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    int exit_code = 2;
    const auto options = wan_flow::parse_options(argc, argv, exit_code);
    if (!options) return exit_code;
    const auto report = wan_flow::run(*options, stop);
    if (!report.ok()) {
        std::fprintf(stderr, "wan-flow: %s\n", report.error().message().c_str());
        return report.error().code == evac::Errc::invalid_argument ? 2 : 1;
    }
    wan_flow::say(*report);
    return 0;
}
