#include "dpdk_device.hpp"

#include <dirent.h>
#include <linux/if_packet.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "eal.hpp"

namespace evac::wan_dpdk {
namespace {

// A physical NIC keeps up to kRxDescriptors + kTxDescriptors buffers, a batch each way comes on
// top; af_packet and memif copy and keep none. 2047 is the size DPDK stores best (2^n - 1).
constexpr uint16_t kRxDescriptors = 512;
constexpr uint16_t kTxDescriptors = 512;
constexpr unsigned kBuffers = 2047;
// af_xdp's sockets share the buffers with the kernel: its rings hold 2048 each way.
constexpr unsigned kBuffersXdp = 5119;
constexpr size_t kXdpMtuMax = 1500;
constexpr const char* kPoolOps = "ring_sp_sc";
constexpr auto kAnyNode = static_cast<unsigned>(SOCKET_ID_ANY);
constexpr int kSocketDomainPacket = 17;  // AF_PACKET
constexpr int kSocketDomainXdp = 44;     // AF_XDP

Error dpdk_error(const std::string& what, int code) {
    std::string text = what + ": " + rte_strerror(code < 0 ? -code : code);
    if (const std::string tail = eal_log_tail(); !tail.empty()) text += "; DPDK said: " + tail;
    return make_error(Errc::unavailable, std::move(text));
}

// The driver gives the kernel one stretch of memory of "number of buffers times size of a buffer",
// and DPDK leaves a gap where a buffer would cross a page (4 KiB without hugepages): the buffers
// behind that stretch would be refused one by one, unnoticed. So each buffer is a page exactly,
// which is also the largest that the kernel accepts.
rte_mempool* make_xdp_pool(const char* name) {
    constexpr unsigned kPage = 4096;
    rte_mempool_objsz sizes{};
    constexpr unsigned kNoSpread = RTE_MEMPOOL_F_NO_SPREAD;
    const unsigned overhead = rte_mempool_calc_obj_size(kPage, kNoSpread, &sizes) - kPage;
    const unsigned element = kPage - overhead;
    rte_mempool* pool = rte_mempool_create_empty(
        name, kBuffersXdp, element, 0, sizeof(rte_pktmbuf_pool_private), SOCKET_ID_ANY, kNoSpread);
    if (pool == nullptr) return nullptr;
    rte_pktmbuf_pool_private own{};
    own.mbuf_data_room_size = static_cast<uint16_t>(element - sizeof(rte_mbuf));
    if (rte_mempool_set_ops_byname(pool, kPoolOps, nullptr) == 0) {
        rte_pktmbuf_pool_init(pool, &own);
        if (rte_mempool_populate_default(pool) >= 0 && pool->nb_mem_chunks == 1) {
            rte_mempool_obj_iter(pool, rte_pktmbuf_init, nullptr);
            return pool;
        }
        rte_errno = ENOMEM;
    }
    rte_mempool_free(pool);
    return nullptr;
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
std::string next_name(const char* driver) {
    static unsigned count = 0;
    return driver + std::to_string(count++);
}

Error mtu_too_large(size_t mtu, size_t accepted, const std::string& whose) {
    return make_error(Errc::invalid_argument, "mtu '" + std::to_string(mtu) +
                                                  "': expected at most " +
                                                  std::to_string(accepted) + ", " + whose);
}

}  // namespace

Result<std::unique_ptr<DpdkDevice>> DpdkDevice::open(const DpdkOptions& options) {
    EVAC_TRY(check_options(options));
    std::unique_ptr<DpdkDevice> device(new DpdkDevice);
    DevicePlan& plan = device->plan_;
    plan = *plan_device(options.device);
    device->link_up_ = plan.kind != DeviceKind::memif;
    InterfaceFacts interface;
    if (!plan.interface.empty()) {
        auto facts = resolve_interface(plan.interface);
        if (!facts.ok()) return facts.error();
        interface = *facts;
    }
    EVAC_TRY(device->plan_mtu(options, interface.mtu));
    if (plan.kind == DeviceKind::memif) EVAC_TRY(prepare_memif_socket(plan));
    EVAC_TRY(eal_init_once({options.memory_mib, options.file_prefix, options.hugepages,
                            plan.kind == DeviceKind::pci ? options.device : ""}));
    eal_log_clear();
    const std::vector<int> before = packet_sockets();
    EVAC_TRY(device->probe(options));
    EVAC_TRY(device->take_device_mtu(options));
    EVAC_TRY(device->configure());
    EVAC_TRY(device->start());
    device->wait_fd_ = find_wait_fd(before, interface.index);
    device->wait_domain_ = device->wait_fd_ >= 0 ? socket_domain(device->wait_fd_) : 0;
    return Result<std::unique_ptr<DpdkDevice>>(std::move(device));
}

// What is known about the MTU before the device exists; 0 = ask the device.
Status DpdkDevice::plan_mtu(const DpdkOptions& options, size_t interface_mtu) {
    if (interface_mtu != 0 && options.mtu > interface_mtu) {
        return mtu_too_large(options.mtu, interface_mtu, "the MTU of " + plan_.interface);
    }
    if (plan_.kind == DeviceKind::af_packet) {
        mtu_ = options.mtu != 0 ? options.mtu : std::min<size_t>(interface_mtu, 9000);
    } else if (plan_.kind == DeviceKind::af_xdp) {
        if (options.mtu > kXdpMtuMax) {
            return mtu_too_large(options.mtu, kXdpMtuMax, "what af_xdp carries");
        }
        mtu_ = options.mtu != 0 ? options.mtu : std::min(interface_mtu, kXdpMtuMax);
    } else if (plan_.kind == DeviceKind::memif) {
        mtu_ = options.mtu != 0 ? options.mtu : 1500;  // both sides must agree; nobody tells us
    }
    return {};
}

std::string DpdkDevice::device_arguments(const DpdkOptions& options) {
    switch (plan_.kind) {
        case DeviceKind::af_packet:
            name_ = next_name("net_af_packet");
            return af_packet_devargs(name_, plan_.interface, mtu_);
        case DeviceKind::af_xdp:
            name_ = next_name("net_af_xdp");
            return af_xdp_devargs(name_, plan_.interface);
        case DeviceKind::memif:
            name_ = next_name("net_memif");
            return memif_devargs(name_, plan_, mtu_, options.local.ip);
        case DeviceKind::pci:
        case DeviceKind::other_vdev:
            break;
    }
    name_ = options.device.substr(0, options.device.find(','));
    return options.device;
}

Status DpdkDevice::probe(const DpdkOptions& options) {
    const std::string arguments = device_arguments(options);
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
    return {};
}

Status DpdkDevice::take_device_mtu(const DpdkOptions& options) {
    if (mtu_ != 0) return {};
    uint16_t device_mtu = 0;
    if (rte_eth_dev_get_mtu(port_id_, &device_mtu) != 0 || device_mtu == 0) device_mtu = 1500;
    if (options.mtu > device_mtu) return mtu_too_large(options.mtu, device_mtu, "the device's");
    mtu_ = options.mtu != 0 ? options.mtu : std::min<size_t>(device_mtu, 9000);
    return {};
}

Status DpdkDevice::make_pool() {
    const std::string name = ("evac_" + name_).substr(0, RTE_MEMPOOL_NAMESIZE - 1);
    // One thread takes and returns all buffers, so the ring needs no atomics.
    if (plan_.kind == DeviceKind::af_xdp) {
        pool_ = make_xdp_pool(name.c_str());
    } else {
        // af_packet wants the data room to hold a whole ring frame, else the rx queue set-up
        // returns -12.
        const size_t room = ring_geometry(mtu_).frame_bytes + RTE_PKTMBUF_HEADROOM;
        pool_ = rte_pktmbuf_pool_create_by_ops(
            name.c_str(), kBuffers, 0, 0, static_cast<uint16_t>(room), SOCKET_ID_ANY, kPoolOps);
    }
    if (pool_ == nullptr) return dpdk_error("DPDK packet buffers (raise memory_mib)", rte_errno);
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
    EVAC_TRY(make_pool());
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
    if (wait_domain_ == kSocketDomainPacket) {
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

bool DpdkDevice::watch_link(bool may_connect) {
    if (plan_.kind != DeviceKind::memif) return false;
    const bool was_up = link_up_;
    rte_eth_link link{};
    link_up_ = started_ && rte_eth_link_get_nowait(port_id_, &link) == 0 &&
               link.link_status == RTE_ETH_LINK_UP;
    if (!link_up_ && !plan_.memif_server && may_connect) {
        // The driver connects at start only.
        started_ = false;  // no bursts meanwhile
        auto connected = std::make_shared<std::atomic<bool>>(false);
        const bool done = run_on_interrupt_thread([connected, port = port_id_] {
            rte_eth_dev_stop(port);
            *connected = rte_eth_dev_start(port) == 0;
        });
        started_ = done && *connected;
    }
    return link_up_ && !was_up;
}

DpdkDevice::~DpdkDevice() {
    const auto close = [probed = probed_, started = started_, port = port_id_] {
        if (!probed) return;
        rte_eth_dev_info info{};
        const bool has_info = rte_eth_dev_info_get(port, &info) == 0;
        if (started) rte_eth_dev_stop(port);
        rte_eth_dev_close(port);
        if (has_info && info.device != nullptr) rte_dev_remove(info.device);
    };
    if (plan_.kind == DeviceKind::memif && probed_) {
        // On a hanging driver: rather leak the buffers than free what it may still use.
        if (!run_on_interrupt_thread(close)) return;
    } else {
        close();
    }
    rte_mempool_free(pool_);
}

}  // namespace evac::wan_dpdk
