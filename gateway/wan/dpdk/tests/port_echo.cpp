// The other process of a test: opens a DPDK port and sends every datagram back.
//   wan_port_echo DEVICE LOCAL_IP     ends when its standard input does
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "evac/core/clock.hpp"
#include "evac/wan_dpdk/dpdk_port.hpp"
#include "evac/wan_port/address.hpp"

int main(int argc, char** argv) {
    using namespace evac;
    const auto ip = argc == 3 ? wan_port::parse_ipv4(argv[2])
                              : Result<uint32_t>(make_error(Errc::invalid_argument, "usage"));
    if (!ip.ok()) return 2;
    const SystemClock clock;
    wan_dpdk::DpdkOptions options;
    options.device = argv[1];
    options.local = {*ip, 4500};
    auto port = wan_dpdk::open_dpdk_port(options, clock);
    if (!port.ok()) {
        std::fprintf(stderr, "%s\n", port.error().message().c_str());
        return 1;
    }
    std::puts("ready");
    std::fflush(stdout);
    pollfd input{STDIN_FILENO, POLLIN, 0};
    while (::poll(&input, 1, 1) == 0) {
        (*port)->receive(64,
                         [&](const wan_port::UdpAddress& from, std::span<const std::byte> payload) {
                             (*port)->send(from, {&payload, 1});
                         });
    }
    // Without closing: as a process that is killed.
    ::_exit(0);
}
