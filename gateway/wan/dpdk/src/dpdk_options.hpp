#pragma once
// What an operator's DpdkOptions mean, worked out before DPDK is touched: pure except for
// resolve_interface and prepare_memif_socket.
#include <cstddef>
#include <string>

#include "evac/core/result.hpp"
#include "evac/wan_dpdk/dpdk_port.hpp"
#include "evac/wan_port/frame_codec.hpp"

namespace evac::wan_dpdk {

enum class DeviceKind : unsigned char { af_packet, af_xdp, memif, pci, other_vdev };

struct DevicePlan {
    DeviceKind kind = DeviceKind::af_packet;
    std::string interface;      // af_packet, af_xdp
    std::string socket;         // memif: absolute path
    bool memif_server = false;  // memif: we make the socket; else the server must be there first
};

// Fields that can be judged without looking at the machine.
Status check_options(const DpdkOptions& options);
Result<DevicePlan> plan_device(const std::string& device);

struct InterfaceFacts {
    unsigned index = 0;
    size_t mtu = 0;
};
// The kernel's view of an interface in the calling thread's namespace; it must exist and be up.
Result<InterfaceFacts> resolve_interface(const std::string& interface);

// af_packet's ring geometry for an MTU: the frame must hold the largest packet behind the ring's
// own header, a block is a whole number of frames and of pages. Larger packets would be freed
// silently and counted as sent.
struct RingGeometry {
    size_t frame_bytes = 0, block_bytes = 0, frames = 0;
};
RingGeometry ring_geometry(size_t mtu);
std::string af_packet_devargs(const std::string& name, const std::string& interface, size_t mtu);
// One queue, copies (zero-copy drivers may block for a second inside a receive burst), no busy
// polling: the loop sleeps on the socket instead.
std::string af_xdp_devargs(const std::string& name, const std::string& interface);
// A locally administered hardware address that is the same after every restart: 02:4d and the IP.
wan_port::MacAddress memif_mac(uint32_t ip);
std::string memif_devargs(const std::string& name, const DevicePlan& plan, size_t mtu,
                          uint32_t local_ip);

// Before a memif port opens: a client needs a server's socket; a server removes the socket that a
// killed one left behind, and refuses one that is alive.
Status prepare_memif_socket(const DevicePlan& plan);

}  // namespace evac::wan_dpdk
