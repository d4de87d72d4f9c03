#include "evac/wan_port/kernel_udp_port.hpp"

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "evac/core/assert.hpp"
#include "evac/core/unique_fd.hpp"
#include "evac/wan_port/frame_codec.hpp"

namespace evac::wan_port {
namespace {

constexpr size_t kMessagesMax = 32;  // per sendmmsg / recvmmsg
// A UDP_SEGMENT message may carry 64 segments on the oldest kernels that have it, and one IP
// packet's worth.
constexpr size_t kSegmentsMax = 64;
constexpr size_t kGsoBytesMax = 65000;
constexpr size_t kDatagramBytesMax = 65536;
// With UDP_GRO each message may bring 64 KiB, so few messages are enough; without, one datagram
// each.
constexpr size_t kGroMessages = 8;
// Errors (ICMP about earlier datagrams) read at a time: a flood of them must not hold the loop.
constexpr int kErrorsMax = 16;

sockaddr_in to_sockaddr(const UdpAddress& address) {
    sockaddr_in result{};
    result.sin_family = AF_INET;
    result.sin_addr.s_addr = htonl(address.ip);
    result.sin_port = htons(address.port);
    return result;
}

UdpAddress from_sockaddr(const sockaddr_in& address) {
    return {ntohl(address.sin_addr.s_addr), ntohs(address.sin_port)};
}

Status set_option(int fd, int level, int option, int value, const char* what) {
    if (::setsockopt(fd, level, option, &value, sizeof value) == 0) return {};
    return io_error(std::string("kernel UDP socket: cannot set ") + what);
}

class KernelUdpPort final : public DatagramPort {
  public:
    KernelUdpPort(UniqueFd fd, const UdpAddress& local, const KernelUdpOptions& options, bool gso,
                  bool gro)
        : fd_(std::move(fd)),
          local_(local),
          payload_bytes_max_(options.mtu - kIpv4HeaderBytes - kUdpHeaderBytes),
          gso_(gso),
          rx_messages_(gro ? kGroMessages : kMessagesMax),
          rx_buffer_bytes_(gro ? kDatagramBytesMax : std::min(options.mtu, kDatagramBytesMax)),
          rx_bytes_(rx_messages_ * rx_buffer_bytes_) {
        prepare_receive();
    }

    size_t send(const UdpAddress& to,
                std::span<const std::span<const std::byte>> datagrams) override {
        size_t taken = 0;
        while (taken < datagrams.size()) {
            const size_t now = send_some(to, datagrams.subspan(taken));
            if (now == 0) break;
            taken += now;
        }
        return taken;
    }

    size_t receive(size_t budget, const DatagramHandler& handler) override {
        size_t handed = 0;
        while (handed < budget) {
            if (rx_next_ == rx_filled_ && !receive_some()) break;
            handed += hand_out(budget - handed, handler);
        }
        return handed;
    }

    int wait_fd() const override { return fd_.get(); }
    PathMtuHint path_mtu_hint() const override { return hint_; }
    size_t payload_bytes_max() const override { return payload_bytes_max_; }
    UdpAddress local_address() const override { return local_; }
    const PortCounters& counters() const override { return counters_; }
    const char* name() const override { return "kernel-udp"; }

  private:
    using Control = std::array<std::byte, CMSG_SPACE(sizeof(int))>;

    void prepare_receive() {
        for (size_t i = 0; i < rx_messages_; ++i) {
            rx_iov_[i] = {&rx_bytes_[i * rx_buffer_bytes_], rx_buffer_bytes_};
        }
    }

    // How many datagrams from the front of `datagrams` fit one message: equal sizes, the last may
    // be shorter.
    size_t run_length(std::span<const std::span<const std::byte>> datagrams) const {
        const size_t segment_bytes = datagrams[0].size();
        if (!gso_ || segment_bytes == 0) return 1;
        size_t run = 1, bytes = segment_bytes;
        while (run < datagrams.size() && run < kSegmentsMax &&
               datagrams[run].size() <= segment_bytes && !datagrams[run].empty() &&
               bytes + datagrams[run].size() <= kGsoBytesMax) {
            bytes += datagrams[run].size();
            ++run;
            if (datagrams[run - 1].size() < segment_bytes) break;
        }
        return run;
    }

    void add_segment_size(msghdr& message, Control& control, size_t segment_bytes) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(sizeof(uint16_t));
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_UDP;
        header->cmsg_type = UDP_SEGMENT;
        header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        const auto value = static_cast<uint16_t>(segment_bytes);
        std::memcpy(CMSG_DATA(header), &value, sizeof value);
    }

    // One sendmmsg; returns how many datagrams were taken or dropped, 0 = try again later.
    size_t send_some(const UdpAddress& to, std::span<const std::span<const std::byte>> datagrams) {
        sockaddr_in address = to_sockaddr(to);
        last_to_ = to;
        size_t messages = 0, used = 0;
        while (messages < kMessagesMax && used < datagrams.size() && used < tx_iov_.size()) {
            EVAC_ASSERT(datagrams[used].size() <= payload_bytes_max_);
            const size_t run = std::min(run_length(datagrams.subspan(used)), tx_iov_.size() - used);
            mmsghdr& message = tx_headers_[messages];
            message = {};
            message.msg_hdr.msg_name = &address;
            message.msg_hdr.msg_namelen = sizeof address;
            message.msg_hdr.msg_iov = &tx_iov_[used];
            message.msg_hdr.msg_iovlen = run;
            if (run > 1) {
                add_segment_size(message.msg_hdr, tx_control_[messages], datagrams[used].size());
            }
            for (size_t i = 0; i < run; ++i) {
                const auto& payload = datagrams[used + i];
                EVAC_ASSERT(payload.size() <= payload_bytes_max_);
                // sendmsg does not write through iov_base.
                tx_iov_[used + i] = {const_cast<std::byte*>(payload.data()), payload.size()};
            }
            tx_runs_[messages++] = run;
            used += run;
        }
        int sent = ::sendmmsg(fd_.get(), tx_headers_.data(), static_cast<unsigned>(messages),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && !is_try_later(errno)) {
            // The error may be an ICMP message's, about an earlier datagram: then it is gone now.
            read_errors();
            sent = ::sendmmsg(fd_.get(), tx_headers_.data(), static_cast<unsigned>(messages),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        if (sent < 0) return after_send_error(errno, tx_runs_[0]);
        return count_sent(static_cast<size_t>(sent), datagrams);
    }

    size_t count_sent(size_t messages, std::span<const std::span<const std::byte>> datagrams) {
        size_t taken = 0;
        for (size_t i = 0; i < messages; ++i) {
            for (size_t j = 0; j < tx_runs_[i]; ++j)
                counters_.tx_bytes += datagrams[taken + j].size();
            taken += tx_runs_[i];
        }
        counters_.tx_packets += taken;
        return taken;
    }

    static bool is_try_later(int error) {
        return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS || error == EINTR;
    }

    // Empties the socket's error queue and keeps the latest word about the path's MTU.
    void read_errors() {
        for (int i = 0; i < kErrorsMax; ++i) {
            sockaddr_in to{};
            alignas(cmsghdr) std::array<std::byte, 512> control;
            msghdr message{};
            message.msg_name = &to;
            message.msg_namelen = sizeof to;
            message.msg_control = control.data();
            message.msg_controllen = control.size();
            if (::recvmsg(fd_.get(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return;
            for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
                 header = CMSG_NXTHDR(&message, header)) {
                if (header->cmsg_level != SOL_IP || header->cmsg_type != IP_RECVERR) continue;
                sock_extended_err error{};
                std::memcpy(&error, CMSG_DATA(header), sizeof error);
                take_hint(error, from_sockaddr(to));
            }
        }
    }

    void take_hint(const sock_extended_err& error, UdpAddress to) {
        // The kernel's own word, about a datagram that it refused just now, names no port.
        if (error.ee_origin == SO_EE_ORIGIN_LOCAL) to.port = last_to_.port;
        constexpr size_t kHeaders = kIpv4HeaderBytes + kUdpHeaderBytes;
        if (error.ee_errno != EMSGSIZE || !(to == last_to_) ||
            error.ee_info < kPathMtuHintMin + kHeaders ||
            error.ee_info - kHeaders > payload_bytes_max_) {
            return;
        }
        hint_ = {to, error.ee_info - kHeaders, hint_.count + 1};
        ++counters_.rx_mtu_hints;
    }

    size_t after_send_error(int error, size_t run) {
        if (is_try_later(error)) return 0;
        if (gso_ && run > 1 && (error == EIO || error == EINVAL || error == EMSGSIZE)) {
            // The device or the path does not take segments: go on one by one, with the same
            // datagrams.
            gso_ = false;
            return 0;
        }
        // Unreachable network, link down, refused by a firewall: to the transport that is a loss.
        counters_.tx_dropped += run;
        return run;
    }

    bool receive_some() {
        for (size_t i = 0; i < rx_messages_; ++i) {
            msghdr& message = rx_headers_[i].msg_hdr;
            message = {};
            message.msg_name = &rx_from_[i];
            message.msg_namelen = sizeof(sockaddr_in);
            message.msg_iov = &rx_iov_[i];
            message.msg_iovlen = 1;
            message.msg_control = rx_control_[i].data();
            message.msg_controllen = rx_control_[i].size();
        }
        // A pending socket error (an ICMP message for an earlier send) is reported once and then
        // gone.
        int got = -1;
        for (int attempt = 0; attempt < 4 && got < 0; ++attempt) {
            got = ::recvmmsg(fd_.get(), rx_headers_.data(), static_cast<unsigned>(rx_messages_),
                             MSG_DONTWAIT, nullptr);
            if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
            if (got < 0) read_errors();
        }
        if (got <= 0) return false;
        rx_next_ = 0;
        rx_offset_ = 0;
        rx_filled_ = static_cast<size_t>(got);
        return true;
    }

    size_t segment_bytes(msghdr& message, size_t message_bytes) const {
        for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
             header = CMSG_NXTHDR(&message, header)) {
            if (header->cmsg_level == SOL_UDP && header->cmsg_type == UDP_GRO) {
                int value = 0;
                std::memcpy(&value, CMSG_DATA(header), sizeof value);
                if (value > 0) return static_cast<size_t>(value);
            }
        }
        return message_bytes;
    }

    // Hands datagrams from the filled messages; what the budget leaves stays for the next call.
    size_t hand_out(size_t budget, const DatagramHandler& handler) {
        size_t handed = 0;
        while (handed < budget && rx_next_ < rx_filled_) {
            mmsghdr& message = rx_headers_[rx_next_];
            const ByteSpan bytes{&rx_bytes_[rx_next_ * rx_buffer_bytes_], message.msg_len};
            if ((message.msg_hdr.msg_flags & MSG_TRUNC) != 0) {
                ++counters_.rx_malformed;  // larger than the MTU that both sides agreed on
                ++rx_next_;
                continue;
            }
            const UdpAddress from = from_sockaddr(rx_from_[rx_next_]);
            const size_t segment = segment_bytes(message.msg_hdr, bytes.size());
            do {
                const ByteSpan payload =
                    bytes.subspan(rx_offset_, std::min(segment, bytes.size() - rx_offset_));
                rx_offset_ += payload.size();
                ++handed;
                ++counters_.rx_packets;
                counters_.rx_bytes += payload.size();
                handler(from, payload);
            } while (handed < budget && rx_offset_ < bytes.size());
            if (rx_offset_ == bytes.size()) {
                ++rx_next_;
                rx_offset_ = 0;
            }
        }
        return handed;
    }

    UniqueFd fd_;
    const UdpAddress local_;
    const size_t payload_bytes_max_;
    bool gso_;
    const size_t rx_messages_, rx_buffer_bytes_;

    std::array<mmsghdr, kMessagesMax> tx_headers_{};
    std::array<size_t, kMessagesMax> tx_runs_{};
    std::array<Control, kMessagesMax> tx_control_{};
    std::array<iovec, kMessagesMax * 8> tx_iov_{};

    std::vector<std::byte> rx_bytes_;
    std::array<iovec, kMessagesMax> rx_iov_{};
    std::array<mmsghdr, kMessagesMax> rx_headers_{};
    std::array<sockaddr_in, kMessagesMax> rx_from_{};
    std::array<Control, kMessagesMax> rx_control_{};
    size_t rx_next_ = 0, rx_filled_ = 0, rx_offset_ = 0;  // what is left of the last recvmmsg

    PortCounters counters_;
    UdpAddress last_to_;
    PathMtuHint hint_;
};

}  // namespace

Result<std::unique_ptr<DatagramPort>> open_kernel_udp_port(const KernelUdpOptions& options) {
    if (options.mtu < 576 || options.mtu > 65535) {
        return make_error(Errc::invalid_argument,
                          "mtu " + std::to_string(options.mtu) + ": expected 576 to 65535");
    }
    if (options.vlan_id != 0) {
        return make_error(Errc::invalid_argument,
                          "vlan '" + std::to_string(options.vlan_id) +
                              "': expected 0, as kernel UDP cannot tag; make the kernel do it: ip "
                              "link add link IF name IF.ID type vlan id ID, and give that "
                              "interface the local address");
    }
    UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return io_error("kernel UDP socket");
    const auto buffer_bytes =
        static_cast<int>(std::min<size_t>(options.socket_buffer_bytes, 1U << 30));
    EVAC_TRY(set_option(fd.get(), SOL_SOCKET, SO_SNDBUF, buffer_bytes, "SO_SNDBUF"));
    EVAC_TRY(set_option(fd.get(), SOL_SOCKET, SO_RCVBUF, buffer_bytes, "SO_RCVBUF"));
    EVAC_TRY(
        set_option(fd.get(), IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE, "IP_MTU_DISCOVER"));
    EVAC_TRY(set_option(fd.get(), IPPROTO_IP, IP_RECVERR, 1, "IP_RECVERR"));
    // Old kernels lack these two: then one datagram per message.
    const bool gso = options.segmentation_offload &&
                     set_option(fd.get(), SOL_UDP, UDP_SEGMENT, 0, "UDP_SEGMENT").ok();
    const bool gro =
        options.segmentation_offload && set_option(fd.get(), SOL_UDP, UDP_GRO, 1, "UDP_GRO").ok();
    const sockaddr_in wanted = to_sockaddr(options.local);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&wanted), sizeof wanted) != 0) {
        return io_error("cannot bind UDP " + to_string(options.local));
    }
    sockaddr_in bound{};
    socklen_t bound_bytes = sizeof bound;
    if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &bound_bytes) != 0) {
        return io_error("getsockname of UDP " + to_string(options.local));
    }
    return std::unique_ptr<DatagramPort>(
        std::make_unique<KernelUdpPort>(std::move(fd), from_sockaddr(bound), options, gso, gro));
}

}  // namespace evac::wan_port
