#include "packet_socket.hpp"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

namespace wan_emulator {
namespace {

using evac::Errc;
using evac::io_error;
using evac::Result;
using evac::Status;

constexpr size_t kEthernetBytes = 14;
constexpr size_t kSendBatch = 64;
constexpr size_t kRingBytes =
    16U << 20;  // 8192 frames at MTU 1500: 90 ms of 1 Gbit/s in full frames
constexpr size_t kBlockBytes = 64U << 10;
constexpr int kSendBufferBytes = 16 << 20;

template <class T>
Status set_option(int fd, int level, int option, const T& value, const std::string& what) {
    if (::setsockopt(fd, level, option, &value, sizeof value) == 0) return {};
    return io_error("cannot set " + what);
}

}  // namespace

Result<std::unique_ptr<PacketSocket>> PacketSocket::open(const std::string& interface) {
    std::unique_ptr<PacketSocket> socket(new PacketSocket);
    EVAC_TRY(socket->set_up(interface));
    return Result<std::unique_ptr<PacketSocket>>(std::move(socket));
}

Status PacketSocket::set_up(const std::string& interface) {
    const std::string named = "interface '" + interface + "'";
    // Protocol 0 until bound: no frame of another interface gets in.
    fd_ = evac::UniqueFd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd_.valid()) return io_error("AF_PACKET socket (needs CAP_NET_RAW)");
    ifreq request{};
    std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
    if (::ioctl(fd_.get(), SIOCGIFFLAGS, &request) != 0) return io_error(named);
    if ((request.ifr_flags & IFF_UP) == 0) {
        return evac::make_error(Errc::unavailable,
                                named + " is down: ip link set " + interface + " up");
    }
    if (::ioctl(fd_.get(), SIOCGIFMTU, &request) != 0) return io_error("MTU of " + named);
    const auto mtu = static_cast<size_t>(request.ifr_mtu);
    if (mtu > kMtuMax) {
        return evac::make_error(Errc::invalid_argument, named + " has MTU " + std::to_string(mtu) +
                                                            ": expected at most " +
                                                            std::to_string(kMtuMax));
    }
    frame_bytes_max_ = mtu + kEthernetBytes;
    EVAC_TRY(map_ring());
    // Without this the frames that we send would come back as if they had arrived.
    EVAC_TRY(
        set_option(fd_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING"));
    EVAC_TRY(set_option(fd_.get(), SOL_PACKET, PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS"));
    EVAC_TRY(set_option(fd_.get(), SOL_SOCKET, SO_SNDBUFFORCE, kSendBufferBytes, "SO_SNDBUFFORCE"));
    sockaddr_ll bound{};
    bound.sll_family = AF_PACKET;
    bound.sll_protocol = htons(ETH_P_ALL);
    bound.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
    if (::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&bound), sizeof bound) != 0) {
        return io_error("cannot bind to " + named);
    }
    packet_mreq membership{};
    membership.mr_ifindex = bound.sll_ifindex;
    membership.mr_type = PACKET_MR_PROMISC;
    return set_option(fd_.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership, "promiscuous mode");
}

Status PacketSocket::map_ring() {
    EVAC_TRY(set_option(fd_.get(), SOL_PACKET, PACKET_VERSION, int{TPACKET_V2}, "TPACKET_V2"));
    // The kernel's header and alignment take up to 100 bytes of a ring frame.
    ring_frame_bytes_ = 2048;
    while (ring_frame_bytes_ < frame_bytes_max_ + 128) ring_frame_bytes_ *= 2;
    tpacket_req request{};
    request.tp_block_size = kBlockBytes;
    request.tp_block_nr = kRingBytes / kBlockBytes;
    request.tp_frame_size = static_cast<unsigned>(ring_frame_bytes_);
    request.tp_frame_nr = static_cast<unsigned>(kRingBytes / ring_frame_bytes_);
    EVAC_TRY(set_option(fd_.get(), SOL_PACKET, PACKET_RX_RING, request, "PACKET_RX_RING"));
    ring_frames_ = request.tp_frame_nr;
    void* mapped = ::mmap(nullptr, kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (mapped == MAP_FAILED) return io_error("mmap of the packet ring");
    ring_ = static_cast<std::byte*>(mapped);
    ring_bytes_ = kRingBytes;
    return {};
}

PacketSocket::~PacketSocket() {
    if (ring_ != nullptr) ::munmap(ring_, ring_bytes_);
}

std::optional<PacketSocket::Arrival> PacketSocket::next() {
    // Bounded by the ring: every frame that is not carried is released on the way.
    for (size_t seen = 0; seen < ring_frames_; ++seen) {
        auto* header = reinterpret_cast<tpacket2_hdr*>(ring_ + at_ * ring_frame_bytes_);
        const uint32_t status = std::atomic_ref(header->tp_status).load(std::memory_order_acquire);
        if ((status & TP_STATUS_USER) == 0) return std::nullopt;
        if ((status & TP_STATUS_VLAN_VALID) != 0) {
            ++counters_.vlan_tagged;
        } else if (header->tp_len > header->tp_snaplen || header->tp_len > frame_bytes_max_) {
            ++counters_.oversize;
        } else {
            if ((status & TP_STATUS_CSUMNOTREADY) != 0) ++counters_.checksum_pending;
            const auto* bytes = reinterpret_cast<const std::byte*>(header) + header->tp_mac;
            return Arrival{{bytes, header->tp_len},
                           int64_t{header->tp_sec} * 1'000'000'000 + header->tp_nsec};
        }
        release();
    }
    return std::nullopt;
}

void PacketSocket::release() {
    auto* header = reinterpret_cast<tpacket2_hdr*>(ring_ + at_ * ring_frame_bytes_);
    std::atomic_ref(header->tp_status).store(TP_STATUS_KERNEL, std::memory_order_release);
    at_ = (at_ + 1) % ring_frames_;
}

void PacketSocket::send(std::span<const std::span<const std::byte>> frames) {
    std::array<mmsghdr, kSendBatch> messages;
    std::array<iovec, kSendBatch> parts;
    while (!frames.empty()) {
        const size_t count = std::min(frames.size(), kSendBatch);
        for (size_t i = 0; i < count; ++i) {
            // sendmsg does not write through iov_base.
            parts[i] = {const_cast<std::byte*>(frames[i].data()), frames[i].size()};
            messages[i] = {};
            messages[i].msg_hdr.msg_iov = &parts[i];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        const int sent =
            ::sendmmsg(fd_.get(), messages.data(), static_cast<unsigned>(count), MSG_DONTWAIT);
        if (sent > 0) {
            frames = frames.subspan(static_cast<size_t>(sent));
        } else {
            ++counters_.send_failed;  // the first one is refused: go on behind it
            frames = frames.subspan(1);
        }
    }
}

const PacketSocketCounters& PacketSocket::counters() {
    tpacket_stats stats{};  // reading resets them
    socklen_t size = sizeof stats;
    if (::getsockopt(fd_.get(), SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0) {
        counters_.ring_drops += stats.tp_drops;
    }
    return counters_;
}

}  // namespace wan_emulator
