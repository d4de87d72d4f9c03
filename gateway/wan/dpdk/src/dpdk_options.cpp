#include "dpdk_options.hpp"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <fstream>
#include <sstream>

#include "evac/core/unique_fd.hpp"

namespace evac::wan_dpdk {
namespace {

constexpr size_t kMtuMin = 576, kMtuMax = 9000;
constexpr size_t kMemoryMibMin = 32, kMemoryMibMax = 65536;
constexpr size_t kDeviceTextMax = 512;
constexpr std::string_view kAfPacketPrefix = "af_packet:";
constexpr std::string_view kAfXdpPrefix = "af_xdp:";
constexpr std::string_view kMemifPrefix = "memif:";

Error not_accepted(const std::string& field, const std::string& value,
                   const std::string& accepted) {
    return make_error(Errc::invalid_argument,
                      field + " '" + value.substr(0, 64) + "': expected " + accepted);
}

bool is_word(const std::string& text, size_t size_max, std::string_view also) {
    return !text.empty() && text.size() <= size_max && std::ranges::all_of(text, [&](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
               also.find(c) != std::string_view::npos;
    });
}

// "0000:3b:00.0"
bool is_pci_address(const std::string& text) {
    if (text.size() != 12 || text[4] != ':' || text[7] != ':' || text[10] != '.') return false;
    for (const unsigned i : {0U, 1U, 2U, 3U, 5U, 6U, 8U, 9U, 11U}) {
        if (std::isxdigit(static_cast<unsigned char>(text[i])) == 0) return false;
    }
    return true;
}

}  // namespace

Status check_options(const DpdkOptions& options) {
    if (options.local.ip == 0 || options.local.port == 0) {
        return not_accepted("local", wan_port::to_string(options.local),
                            "an address and a port, both set");
    }
    if (options.prefix_length > 32) {
        return not_accepted("prefix_length", std::to_string(options.prefix_length), "0 to 32");
    }
    if (options.mtu != 0 && (options.mtu < kMtuMin || options.mtu > kMtuMax)) {
        return not_accepted("mtu", std::to_string(options.mtu),
                            "576 to 9000, or 0 for the device's");
    }
    if (options.vlan_id > 4094) {
        return not_accepted("vlan", std::to_string(options.vlan_id), "1 to 4094, or 0 for no tag");
    }
    if (options.vlan_priority > 7 || (options.vlan_priority != 0 && options.vlan_id == 0)) {
        return not_accepted("vlan_priority", std::to_string(options.vlan_priority),
                            "0 to 7, and 0 without vlan");
    }
    if (options.memory_mib < kMemoryMibMin || options.memory_mib > kMemoryMibMax) {
        return not_accepted("memory_mib", std::to_string(options.memory_mib), "32 to 65536");
    }
    if (!is_word(options.file_prefix, 64, "-_.")) {
        return not_accepted("file_prefix", options.file_prefix,
                            "1 to 64 letters, digits, '-', '_', '.'");
    }
    const auto plan = plan_device(options.device);
    if (!plan.ok()) return plan.error();
    return {};
}

namespace {

Result<DevicePlan> plan_interface(DeviceKind kind, const std::string& device,
                                  std::string_view prefix) {
    DevicePlan plan;
    plan.kind = kind;
    plan.interface = device.substr(prefix.size());
    // A comma would end the device argument that the name is pasted into.
    if (!is_word(plan.interface, IFNAMSIZ - 1, "-_.@")) {
        return not_accepted("device", device,
                            std::string(prefix) + " followed by an interface's name");
    }
    return plan;
}

// "memif:/run/x.sock", "memif:/run/x.sock,role=server"
Result<DevicePlan> plan_memif(const std::string& device) {
    DevicePlan plan;
    plan.kind = DeviceKind::memif;
    const size_t comma = std::min(device.find(','), device.size());
    plan.socket = device.substr(kMemifPrefix.size(), comma - kMemifPrefix.size());
    const std::string role = device.substr(comma);
    constexpr size_t kPathMax = sizeof(sockaddr_un::sun_path) - 1;
    if (!is_word(plan.socket, kPathMax, "/-_.@:+") || plan.socket[0] != '/') {
        return not_accepted("device", device,
                            "memif: followed by an absolute path of at most " +
                                std::to_string(kPathMax) + " letters, digits and /-_.@:+");
    }
    if (role == ",role=server") {
        plan.memif_server = true;
    } else if (!role.empty() && role != ",role=client") {
        return not_accepted("device", device, "after the socket only ',role=server|client'");
    }
    return plan;
}

}  // namespace

Result<DevicePlan> plan_device(const std::string& device) {
    const char* accepted =
        "'af_packet:IFACE', 'af_xdp:IFACE', 'memif:SOCKET[,role=server|client]', a PCI address "
        "such as 0000:3b:00.0, or 'net_DRIVERn,...'";
    if (device.size() > kDeviceTextMax) return not_accepted("device", device, accepted);
    if (device.starts_with(kAfPacketPrefix)) {
        return plan_interface(DeviceKind::af_packet, device, kAfPacketPrefix);
    }
    if (device.starts_with(kAfXdpPrefix)) {
        return plan_interface(DeviceKind::af_xdp, device, kAfXdpPrefix);
    }
    if (device.starts_with(kMemifPrefix)) return plan_memif(device);
    DevicePlan plan;
    plan.kind = is_pci_address(device) ? DeviceKind::pci : DeviceKind::other_vdev;
    if (plan.kind == DeviceKind::pci || device.starts_with("net_")) return plan;
    return not_accepted("device", device, accepted);
}

Result<InterfaceFacts> resolve_interface(const std::string& interface) {
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return io_error("socket");
    ifreq request{};
    std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
    if (::ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0)
        return io_error("interface '" + interface + "'");
    if ((request.ifr_flags & IFF_UP) == 0) {
        return make_error(Errc::unavailable, "interface '" + interface + "' is down: ip link set " +
                                                 interface + " up");
    }
    InterfaceFacts facts;
    facts.index = ::if_nametoindex(interface.c_str());
    if (::ioctl(fd.get(), SIOCGIFMTU, &request) != 0) return io_error("MTU of '" + interface + "'");
    facts.mtu = static_cast<size_t>(request.ifr_mtu);
    return facts;
}

RingGeometry ring_geometry(size_t mtu) {
    // 2048 leaves 1932 bytes behind the ring's header, 9216 leaves 9100: enough for Ethernet and a
    // VLAN tag.
    if (mtu <= 1500) return {2048, 65536, 4096};
    return {9216, 36864, 1024};
}

std::string af_packet_devargs(const std::string& name, const std::string& interface, size_t mtu) {
    const RingGeometry ring = ring_geometry(mtu);
    return name + ",iface=" + interface +
           ",qpairs=1,qdisc_bypass=1,blocksz=" + std::to_string(ring.block_bytes) +
           ",framesz=" + std::to_string(ring.frame_bytes) +
           ",framecnt=" + std::to_string(ring.frames);
}

std::string af_xdp_devargs(const std::string& name, const std::string& interface) {
    return name + ",iface=" + interface + ",busy_budget=0,force_copy=1";
}

wan_port::MacAddress memif_mac(uint32_t ip) {
    const auto byte = [ip](int shift) { return static_cast<std::byte>((ip >> shift) & 0xff); };
    return {std::byte{0x02}, std::byte{0x4d}, byte(24), byte(16), byte(8), byte(0)};
}

std::string memif_devargs(const std::string& name, const DevicePlan& plan, size_t mtu,
                          uint32_t local_ip) {
    std::string mac;
    for (const std::byte b : memif_mac(local_ip)) {
        constexpr std::string_view kDigits = "0123456789abcdef";
        if (!mac.empty()) mac += ':';
        mac += kDigits[std::to_integer<size_t>(b) >> 4];
        mac += kDigits[std::to_integer<size_t>(b) & 15];
    }
    return name + ",role=" + (plan.memif_server ? "server" : "client") + ",socket=" + plan.socket +
           ",socket-abstract=no,rsize=10,bsize=" + std::to_string(ring_geometry(mtu).frame_bytes) +
           ",mac=" + mac;
}

namespace {

// Whether a socket that listens under this path is known to the kernel (within this network
// namespace). Not by connecting: DPDK's memif server panics its process when a connection ends
// before it has introduced itself.
bool somebody_listens(const std::string& path) {
    std::ifstream list("/proc/net/unix");
    std::string line;
    while (std::getline(list, line)) {
        // Num RefCount Protocol Flags Type St Inode Path
        std::istringstream words(line);
        std::string number, references, protocol, flags, type, state, inode, bound;
        words >> number >> references >> protocol >> flags >> type >> state >> inode >> bound;
        if (bound == path && flags == "00010000") return true;  // SO_ACCEPTCON
    }
    return false;
}

}  // namespace

Status prepare_memif_socket(const DevicePlan& plan) {
    struct stat found {};
    const bool exists = ::lstat(plan.socket.c_str(), &found) == 0;
    if (exists && !S_ISSOCK(found.st_mode)) {
        return not_accepted("memif socket", plan.socket, "a socket, not another kind of file");
    }
    if (!plan.memif_server) {
        if (exists) return {};
        return make_error(Errc::unavailable,
                          "memif socket '" + plan.socket +
                              "' does not exist: start the server first, or be it: role=server");
    }
    if (!exists) return {};
    if (somebody_listens(plan.socket)) {
        return make_error(Errc::unavailable, "memif socket '" + plan.socket +
                                                 "': another server listens there already");
    }
    if (::unlink(plan.socket.c_str()) != 0) {
        return io_error("memif socket '" + plan.socket + "' of an earlier server");
    }
    return {};
}

}  // namespace evac::wan_dpdk
