#pragma once
// The datagram port on a kernel UDP socket: the fallback where DPDK may not run, and the peer in
// tests. Owning thread: the packet loop.
#include <cstddef>
#include <memory>

#include "evac/core/result.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan_port {

struct KernelUdpOptions {
    UdpAddress local;   // port 0 = the kernel chooses; ip 0 = any
    size_t mtu = 1500;  // IP bytes, 576..65535; larger datagrams are refused by send()
    size_t socket_buffer_bytes = 4U
                                 << 20;  // asked for each way; the kernel may grant less (rmem_max)
    bool segmentation_offload = true;    // UDP_SEGMENT / UDP_GRO where the kernel has them
    uint16_t vlan_id = 0;  // must be 0: tags are the business of the kernel's interface
};

// Opens a non-blocking socket in the calling thread's network namespace. The Don't Fragment bit is
// set and the kernel's path MTU cache is ignored: the transport handles the path MTU, and gets the
// kernel's word as path_mtu_hint(). Errors: invalid_argument (mtu, vlan), io (address in use or not
// local).
//
// receive() keeps coalesced datagrams beyond `budget` for the next call, so poll wait_fd() only
// after a receive() that returned fewer than its budget.
Result<std::unique_ptr<DatagramPort>> open_kernel_udp_port(const KernelUdpOptions& options);

}  // namespace evac::wan_port
