// CPU per packet of the DPDK port (af_packet over veth) and of kernel UDP, and what an idle loop
// costs.
//   wan_port_bench [PACKETS] [PAYLOAD_BYTES]      needs root
// Sender and receiver take turns on one thread, so that each side's CPU time is its own:
// RUSAGE_THREAD around the calls. Work that the kernel does in softirq context during the call is
// charged to it, as in real life.
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "evac/wan_dpdk/dpdk_port.hpp"
#include "evac/wan_port/kernel_udp_port.hpp"
#include "netns.hpp"

using namespace evac;
using namespace evac::wan_port;
using namespace evac::wan_port::testing;

namespace {

double cpu_us() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

[[noreturn]] void die(const std::string& text) {
    std::fprintf(stderr, "%s\n", text.c_str());
    std::exit(1);
}

void measure(const char* what, DatagramPort& from, DatagramPort& to, size_t packets,
             size_t payload_bytes) {
    const std::vector<std::byte> payload(payload_bytes, std::byte{0x5a});
    const std::vector<std::span<const std::byte>> batch(32, payload);
    size_t got = 0, sent = 0;
    double tx_us = 0, rx_us = 0;
    const DatagramHandler count = [&](const UdpAddress&, std::span<const std::byte>) { ++got; };
    while (got == 0) {  // resolve neighbours first
        from.send(to.local_address(), {batch.data(), 1});
        to.receive(256, count);
        from.receive(4, count);
    }
    got = 0;
    while (sent < packets) {
        const double t0 = cpu_us();
        sent += from.send(to.local_address(), batch);
        const double t1 = cpu_us();
        to.receive(256, count);
        const double t2 = cpu_us();
        from.receive(4, count);  // ARP
        tx_us += t1 - t0;
        rx_us += t2 - t1;
    }
    std::printf("%-28s %zu B: tx %.2f us/packet, rx %.2f us/packet, %zu of %zu received\n", what,
                payload_bytes, tx_us / static_cast<double>(sent),
                rx_us / static_cast<double>(got ? got : 1), got, sent);
}

void idle(const char* what, DatagramPort& port, int seconds) {
    const double start = cpu_us();
    timespec begin{}, now{};
    clock_gettime(CLOCK_MONOTONIC, &begin);
    const DatagramHandler ignore = [](const UdpAddress&, std::span<const std::byte>) {};
    size_t wakes = 0;
    do {
        pollfd wait{port.wait_fd(), POLLIN, 0};
        ::poll(&wait, 1, 10);  // as a packet loop with a 10 ms timer tick
        port.receive(64, ignore);
        ++wakes;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec < seconds);
    const double used = cpu_us() - start;
    std::printf("%-28s idle, poll with a 10 ms tick: %.3f %% of a core (%zu wakes)\n", what,
                used / (seconds * 1e4), wakes);
}

std::unique_ptr<DatagramPort> dpdk(const NetNamespace& ns, const char* interface, uint32_t ip,
                                   const Clock& clock) {
    const ScopedNetns inside(ns);
    wan_dpdk::DpdkOptions options;
    options.device = std::string("af_packet:") + interface;
    options.local = {ip, 4500};
    options.memory_mib = 128;
    auto port = wan_dpdk::open_dpdk_port(options, clock);
    if (!port.ok()) die(port.error().message());
    return std::move(*port);
}

std::unique_ptr<DatagramPort> kernel(const NetNamespace& ns, uint32_t ip, bool offload) {
    const ScopedNetns inside(ns);
    auto port = open_kernel_udp_port({.local = {ip, 4500}, .segmentation_offload = offload});
    if (!port.ok()) die(port.error().message());
    return std::move(*port);
}

void bench_kernel(const NetNamespace& a, const NetNamespace& b, bool offload, size_t packets,
                  size_t bytes) {
    auto from = kernel(a, 0x0a000001, offload);
    auto to = kernel(b, 0x0a000002, offload);
    measure(offload ? "kernel UDP, GSO/GRO" : "kernel UDP, sendmmsg", *from, *to, packets, bytes);
    if (!offload) idle("kernel UDP", *to, 2);
}

}  // namespace

int main(int argc, char** argv) {
    const size_t packets = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 200000;
    const size_t bytes = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1400;
    if (const std::string why = netns_unavailable_reason(); !why.empty()) die(why);
    auto a = NetNamespace::create(), b = NetNamespace::create();
    if (!a.ok() || !b.ok()) die("cannot make namespaces");
    const Status bare = make_veth({&*a, "va", ""}, {&*b, "vb", ""});
    const Status addressed = make_veth({&*a, "ka", "10.0.0.1/24"}, {&*b, "kb", "10.0.0.2/24"});
    if (!bare.ok() || !addressed.ok()) die("cannot make veth pairs");
    const SystemClock clock;
    const double before = cpu_us();
    auto from = dpdk(*a, "va", 0x0a4d0001, clock);
    std::printf("first open took %.0f ms of CPU\n", (cpu_us() - before) / 1e3);
    auto to = dpdk(*b, "vb", 0x0a4d0002, clock);
    measure("DPDK af_packet", *from, *to, packets, bytes);
    idle("DPDK af_packet", *to, 3);
    bench_kernel(*a, *b, false, packets, bytes);
    bench_kernel(*a, *b, true, packets, bytes);
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf("resident at most %ld MiB (two DPDK ports)\n", usage.ru_maxrss / 1024);
}
