#pragma once
// Two datagram ports joined in memory: a perfect link with a bounded queue each way, for
// simulations and unit tests. Owning thread: one thread for both ends. wait_fd() is -1.
#include <cstddef>
#include <memory>

#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan_port {

struct MemoryPairOptions {
    UdpAddress a{0x0a4d0001, 4500};  // 10.77.0.1:4500
    UdpAddress b{0x0a4d0002, 4500};
    size_t payload_bytes_max = 1472;
    size_t queue_datagrams_max = 256;  // each way; full means that send() takes fewer
};

struct MemoryPair {
    std::unique_ptr<DatagramPort> a,
        b;  // either may be destroyed first; sending to the gone one is a loss
};

MemoryPair make_memory_pair(const MemoryPairOptions& options);

}  // namespace evac::wan_port
