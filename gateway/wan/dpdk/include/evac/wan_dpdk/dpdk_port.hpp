#pragma once
// The datagram port on DPDK. The only library that includes rte_*; none of its types appear here.
//
// Owning thread: the packet loop, for every method of the port; open may be called from another
// thread before the loop starts. DPDK's EAL is initialised once per process by the first open and
// stays; memory_mib, file_prefix, hugepages and whether PCI devices are allowed are fixed by that
// first open.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "evac/core/clock.hpp"
#include "evac/core/result.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan_dpdk {

struct DpdkOptions {
    // "af_packet:IFACE" or "af_xdp:IFACE" (no hardware needed, MTU 1500 at most for af_xdp);
    // "memif:SOCKET[,role=server|client]" (shared memory with a virtual switch on this host; client
    // by default); a PCI address "0000:3b:00.0"; or any EAL virtual device, passed through as it
    // is, e.g. "net_virtio_user0,...".
    std::string device;
    wan_port::UdpAddress
        local;  // both parts set. The interface itself must have no kernel IP address, else
                // the kernel answers our peer with "port unreachable"
    uint8_t prefix_length = 24;  // 0..32: what is on-link
    uint32_t gateway_ip = 0;     // next hop for the rest; 0 = none
    // IP bytes, 576..9000; 0 = the device's (memif: 1500). Must not exceed the device's.
    size_t mtu = 0;
    uint16_t vlan_id = 0;       // 802.1Q: 1..4094, 0 = untagged. Other frames are not ours
    uint8_t vlan_priority = 0;  // 0..7, only with vlan_id
    size_t memory_mib =
        64;  // EAL's memory, 32..65536; a port takes about 6 MiB (24 MiB above MTU 1500)
    std::string file_prefix = "evacgw";  // letters, digits, '-', '_', '.'
    bool hugepages = false;
};

// Opens the device in the calling thread's network namespace; the interface must be up. The calling
// thread's CPU affinity is left as it was. DPDK's log goes nowhere but into the error's text (last
// 2 KiB). Errors: invalid_argument names the field, the value and what is accepted; io and
// unavailable carry what DPDK said. `clock` outlives the port.
//
// The operator switches the offloads of both ends of a veth off (ethtool -K IF tx off rx off sg off
// tso off gso off gro off): a kernel sender otherwise leaves UDP checksums to hardware that does
// not exist, and its datagrams count as rx_bad_checksum here.
Result<std::unique_ptr<wan_port::DatagramPort>> open_dpdk_port(const DpdkOptions& options,
                                                               const Clock& clock);

}  // namespace evac::wan_dpdk
