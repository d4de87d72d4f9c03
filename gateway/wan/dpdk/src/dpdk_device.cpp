#include "dpdk_device.hpp"

#include <dirent.h>
#include <linux/if_packet.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "eal.hpp"

namespace evac::wan_dpdk {
namespace {

// A physical NIC keeps up to kRxDescriptors + kTxDescriptors buffers, a batch each way comes on
// top; af_packet copies and keeps none. 2047 is the size DPDK stores best (2^n - 1).
constexpr uint16_t kRxDescriptors = 512;
constexpr uint16_t kTxDescriptors = 512;
constexpr unsigned kBuffers = 2047;
constexpr auto kAnyNode = static_cast<unsigned>(SOCKET_ID_ANY);
constexpr int kSocketDomainPacket = 17;  // AF_PACKET
constexpr int kSocketDomainXdp = 44;     // AF_XDP

Error dpdk_error(const std::string& what, int code) {
    std::string text = what + ": " + rte_strerror(code < 0 ? -code : code);
    if (const std::string tail = eal_log_tail(); !tail.empty()) text += "; DPDK said: " + tail;
    return make_error(Errc::unavailable, std::move(text));
}

int socket_domain(int fd) {
    int domain = 0;
    socklen_t size = sizeof domain;
    return ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 ? domain : -1;
}

// The driver's own sockets: DPDK does not hand them out (its rx interrupts answer -ENOTSUP for
// these drivers).
std::vector<int> packet_sockets() {
    std::vector<int> fds;
    DIR* folder = ::opendir("/proc/self/fd");
    if (folder == nullptr) return fds;
    while (const dirent* entry = ::readdir(folder)) {
        const int fd = std::atoi(entry->d_name);
        if (fd <= 0) continue;
        const int domain = socket_domain(fd);
        if (domain == kSocketDomainPacket || domain == kSocketDomainXdp) fds.push_back(fd);
    }
    ::closedir(folder);
    return fds;
}

// The socket among those that came with the device; for af_packet it must be bound to the right
// interface.
int find_wait_fd(const std::vector<int>& before, unsigned interface_index) {
    for (const int fd : packet_sockets()) {
        if (std::ranges::find(before, fd) != before.end()) continue;
        if (socket_domain(fd) == kSocketDomainXdp) return fd;
        sockaddr_ll bound{};
        socklen_t size = sizeof bound;
        if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) == 0 &&
            (interface_index == 0 || bound.sll_ifindex == static_cast<int>(interface_index))) {
            return fd;
        }
    }
    return -1;
}

// DPDK's names must differ within a process.
std::string next_af_packet_name() {
    static unsigned count = 0;
    return "net_af_packet" + std::to_string(count++);
}

}  // namespace

Result<std::unique_ptr<DpdkDevice>> DpdkDevice::open(const DpdkOptions& options) {
    EVAC_TRY(check_options(options));
    const DevicePlan plan = *plan_device(options.device);
    InterfaceFacts interface;
    if (plan.kind == DeviceKind::af_packet) {
        auto facts = resolve_interface(plan.interface);
        if (!facts.ok()) return facts.error();
        interface = *facts;
        if (options.mtu > interface.mtu) {
            return make_error(Errc::invalid_argument,
                              "mtu '" + std::to_string(options.mtu) + "': expected at most " +
                                  std::to_string(interface.mtu) + ", the MTU of " + plan.interface);
        }
    }
    EVAC_TRY(eal_init_once({options.memory_mib, options.file_prefix, options.hugepages,
                            plan.kind == DeviceKind::pci ? options.device : ""}));
    eal_log_clear();
    const std::vector<int> before = packet_sockets();
    std::unique_ptr<DpdkDevice> device(new DpdkDevice);
    EVAC_TRY(device->probe(options, plan, interface.mtu));
    EVAC_TRY(device->configure());
    EVAC_TRY(device->start());
    device->wait_fd_ = find_wait_fd(before, interface.index);
    device->wait_fd_is_packet_ =
        device->wait_fd_ >= 0 && socket_domain(device->wait_fd_) == kSocketDomainPacket;
    return Result<std::unique_ptr<DpdkDevice>>(std::move(device));
}

Status DpdkDevice::probe(const DpdkOptions& options, const DevicePlan& plan, size_t interface_mtu) {
    std::string arguments = options.device;
    name_ = options.device.substr(0, options.device.find(','));
    if (plan.kind == DeviceKind::af_packet) {
        name_ = next_af_packet_name();
        mtu_ = options.mtu != 0 ? options.mtu : std::min<size_t>(interface_mtu, 9000);
        arguments = af_packet_devargs(name_, plan.interface, mtu_);
    }
    // A PCI device was probed by the EAL's start already.
    if (rte_eth_dev_get_port_by_name(name_.c_str(), &port_id_) != 0) {
        if (const int result = rte_dev_probe(arguments.c_str()); result < 0) {
            return dpdk_error("DPDK device '" + options.device + "'", result);
        }
        if (const int result = rte_eth_dev_get_port_by_name(name_.c_str(), &port_id_);
            result != 0) {
            return dpdk_error("DPDK device '" + options.device + "' has no network port", result);
        }
    }
    probed_ = true;
    if (mtu_ == 0) {
        uint16_t device_mtu = 0;
        if (rte_eth_dev_get_mtu(port_id_, &device_mtu) != 0 || device_mtu == 0) device_mtu = 1500;
        if (options.mtu > device_mtu) {
            return make_error(Errc::invalid_argument,
                              "mtu '" + std::to_string(options.mtu) + "': expected at most " +
                                  std::to_string(device_mtu) + ", the device's");
        }
        mtu_ = options.mtu != 0 ? options.mtu : std::min<size_t>(device_mtu, 9000);
    }
    return {};
}

Status DpdkDevice::configure() {
    rte_eth_conf configuration{};
    uint16_t rx_descriptors = kRxDescriptors, tx_descriptors = kTxDescriptors;
    if (int result = rte_eth_dev_configure(port_id_, 1, 1, &configuration); result != 0) {
        return dpdk_error("DPDK cannot configure " + name_, result);
    }
    if (int result = rte_eth_dev_adjust_nb_rx_tx_desc(port_id_, &rx_descriptors, &tx_descriptors);
        result != 0) {
        return dpdk_error("DPDK descriptor counts of " + name_, result);
    }
    // af_packet wants the data room to hold a whole ring frame, else the rx queue set-up returns
    // -12.
    const size_t room = ring_geometry(mtu_).frame_bytes + RTE_PKTMBUF_HEADROOM;
    const std::string pool_name = "evac_" + name_;
    // One thread takes and returns all buffers, so the ring needs no atomics.
    pool_ = rte_pktmbuf_pool_create_by_ops(pool_name.substr(0, RTE_MEMPOOL_NAMESIZE - 1).c_str(),
                                           kBuffers, 0, 0, static_cast<uint16_t>(room),
                                           SOCKET_ID_ANY, "ring_sp_sc");
    if (pool_ == nullptr) return dpdk_error("DPDK packet buffers (raise memory_mib)", rte_errno);
    if (int result = rte_eth_rx_queue_setup(port_id_, 0, rx_descriptors, kAnyNode, nullptr, pool_);
        result != 0) {
        return dpdk_error("DPDK receive queue of " + name_, result);
    }
    if (int result = rte_eth_tx_queue_setup(port_id_, 0, tx_descriptors, kAnyNode, nullptr);
        result != 0) {
        return dpdk_error("DPDK transmit queue of " + name_, result);
    }
    return {};
}

Status DpdkDevice::start() {
    if (int result = rte_eth_dev_start(port_id_); result != 0) {
        return dpdk_error("DPDK cannot start " + name_, result);
    }
    started_ = true;
    rte_ether_addr address{};
    if (int result = rte_eth_macaddr_get(port_id_, &address); result != 0) {
        return dpdk_error("DPDK hardware address of " + name_, result);
    }
    std::memcpy(mac_.data(), address.addr_bytes, mac_.size());
    return {};
}

uint64_t DpdkDevice::read_ring_drops() {
    if (wait_fd_is_packet_) {
        tpacket_stats stats{};  // reading resets the kernel's counters
        socklen_t size = sizeof stats;
        if (::getsockopt(wait_fd_, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0) {
            ring_drops_ += stats.tp_drops;
        }
        return ring_drops_;
    }
    rte_eth_stats stats{};
    if (rte_eth_stats_get(port_id_, &stats) == 0) ring_drops_ = stats.imissed;
    return ring_drops_;
}

DpdkDevice::~DpdkDevice() {
    if (probed_) {
        rte_eth_dev_info info{};
        const bool has_info = rte_eth_dev_info_get(port_id_, &info) == 0;
        if (started_) rte_eth_dev_stop(port_id_);
        rte_eth_dev_close(port_id_);
        if (has_info && info.device != nullptr) rte_dev_remove(info.device);
    }
    rte_mempool_free(pool_);
}

}  // namespace evac::wan_dpdk
