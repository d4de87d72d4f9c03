#include "dpdk_options.hpp"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "evac/core/unique_fd.hpp"

namespace evac::wan_dpdk {
namespace {

constexpr size_t kMtuMin = 576, kMtuMax = 9000;
constexpr size_t kMemoryMibMin = 32, kMemoryMibMax = 65536;
constexpr size_t kDeviceTextMax = 512;
constexpr std::string_view kAfPacketPrefix = "af_packet:";

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

Result<DevicePlan> plan_device(const std::string& device) {
    const char* accepted =
        "'af_packet:IFACE', a PCI address such as 0000:3b:00.0, or 'net_DRIVERn,...'";
    if (device.size() > kDeviceTextMax) return not_accepted("device", device, accepted);
    if (device.starts_with(kAfPacketPrefix)) {
        std::string interface = device.substr(kAfPacketPrefix.size());
        // A comma would end the device argument that the name is pasted into.
        if (!is_word(interface, IFNAMSIZ - 1, "-_.@")) {
            return not_accepted("device", device, "af_packet: followed by an interface's name");
        }
        return DevicePlan{DeviceKind::af_packet, std::move(interface)};
    }
    if (is_pci_address(device)) return DevicePlan{DeviceKind::pci, ""};
    if (device.starts_with("net_")) return DevicePlan{DeviceKind::other_vdev, ""};
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

}  // namespace evac::wan_dpdk
