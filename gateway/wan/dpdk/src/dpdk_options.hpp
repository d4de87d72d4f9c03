#pragma once
// What an operator's DpdkOptions mean, worked out before DPDK is touched: pure except for
// resolve_interface.
#include <cstddef>
#include <string>

#include "evac/core/result.hpp"
#include "evac/wan_dpdk/dpdk_port.hpp"

namespace evac::wan_dpdk {

enum class DeviceKind : unsigned char { af_packet, pci, other_vdev };

struct DevicePlan {
    DeviceKind kind = DeviceKind::af_packet;
    std::string interface;  // af_packet only
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

}  // namespace evac::wan_dpdk
