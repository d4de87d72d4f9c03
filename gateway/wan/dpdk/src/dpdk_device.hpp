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
    // False only while a memif client has no server. DPDK allows no bursts then.
    bool started() const { return started_; }
    rte_mempool* pool() const { return pool_; }
    const wan_port::MacAddress& mac() const { return mac_; }
    size_t mtu() const { return mtu_; }
    int wait_fd() const { return wait_fd_; }
    const std::string& name() const { return name_; }
    // Packets that the device's ring had no room for since open. A system call: not per packet.
    uint64_t read_ring_drops();
    // memif: the other side may come and go. Looks whether it is there, and connects a client again
    // when it is gone and `may_connect`. True when a connection has come up since the last call
    // (then our address wants announcing). Nothing to do for the other devices. Not per packet.
    bool watch_link(bool may_connect);
    bool link_up() const { return link_up_; }

  private:
    DpdkDevice() = default;
    Status plan_mtu(const DpdkOptions& options, size_t interface_mtu);
    std::string device_arguments(const DpdkOptions& options);
    Status probe(const DpdkOptions& options);
    Status take_device_mtu(const DpdkOptions& options);
    Status make_pool();
    Status configure();
    Status start();

    DevicePlan plan_;
    std::string name_;
    bool probed_ = false, started_ = false;
    uint16_t port_id_ = 0;
    rte_mempool* pool_ = nullptr;
    wan_port::MacAddress mac_{};
    size_t mtu_ = 0;
    int wait_fd_ = -1;
    int wait_domain_ = 0;  // of wait_fd_
    bool link_up_ = true;  // memif starts without
    uint64_t ring_drops_ = 0;
};

}  // namespace evac::wan_dpdk
