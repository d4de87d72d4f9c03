#pragma once
// One started ethdev port with one receive and one transmit queue, and its packet buffers.
// Owning thread: the packet loop (open and close elsewhere while the loop does not run).
#include <cstdint>
#include <memory>
#include <string>

#include "dpdk_options.hpp"
#include "evac/core/result.hpp"
#include "evac/wan_port/frame_codec.hpp"

struct rte_mempool;

namespace evac::wan_dpdk {

class DpdkDevice {
  public:
    static Result<std::unique_ptr<DpdkDevice>> open(const DpdkOptions& options);
    ~DpdkDevice();
    DpdkDevice(const DpdkDevice&) = delete;
    DpdkDevice& operator=(const DpdkDevice&) = delete;

    uint16_t port_id() const { return port_id_; }
    rte_mempool* pool() const { return pool_; }
    const wan_port::MacAddress& mac() const { return mac_; }
    size_t mtu() const { return mtu_; }
    int wait_fd() const { return wait_fd_; }
    const std::string& name() const { return name_; }
    // Packets that the device's ring had no room for since open. A system call: not per packet.
    uint64_t read_ring_drops();

  private:
    DpdkDevice() = default;
    Status probe(const DpdkOptions& options, const DevicePlan& plan, size_t interface_mtu);
    Status configure();
    Status start();

    std::string name_;
    bool probed_ = false, started_ = false;
    uint16_t port_id_ = 0;
    rte_mempool* pool_ = nullptr;
    wan_port::MacAddress mac_{};
    size_t mtu_ = 0;
    int wait_fd_ = -1;
    bool wait_fd_is_packet_ = false;
    uint64_t ring_drops_ = 0;
};

}  // namespace evac::wan_dpdk
