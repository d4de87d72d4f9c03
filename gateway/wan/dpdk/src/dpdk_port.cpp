#include "evac/wan_dpdk/dpdk_port.hpp"

#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "dpdk_device.hpp"
#include "evac/core/assert.hpp"
#include "evac/core/units.hpp"
#include "evac/wan_port/ipv4_host.hpp"

namespace evac::wan_dpdk {
namespace {

using wan_port::DatagramHandler;
using wan_port::DatagramPort;
using wan_port::Ipv4Host;
using wan_port::PortCounters;
using wan_port::UdpAddress;
using wan_port::UdpFlow;

constexpr size_t kBatch = 32;
// receive() looks at so many frames beyond its budget at most, so that a flood of frames that are
// not ours cannot hold the packet loop.
constexpr size_t kForeignFramesMax = 64;
constexpr uint64_t kLookPeriodNs = kNsPerSecond;  // at ring drops, and at memif's other side
constexpr size_t kFrameBytesMax = 9216;

class DpdkPort final : public DatagramPort {
  public:
    DpdkPort(std::unique_ptr<DpdkDevice> device, const DpdkOptions& options, const Clock& clock)
        : device_(std::move(device)),
          clock_(clock),
          host_({device_->mac(),
                 options.local,
                 options.prefix_length,
                 options.gateway_ip,
                 {options.vlan_id, options.vlan_priority}}),
          payload_bytes_max_(device_->mtu() - wan_port::kIpv4HeaderBytes -
                             wan_port::kUdpHeaderBytes),
          name_("dpdk " + device_->name()) {
        looked_ns_ = clock_.now_ns();  // a connection being made is left alone
        announce();
    }

    size_t send(const UdpAddress& to,
                std::span<const std::span<const std::byte>> datagrams) override {
        const uint64_t now_ns = clock_.now_ns();
        const UdpFlow* flow = host_.flow_to(to, now_ns);
        send_due_requests(now_ns);
        if (flow == nullptr || !device_->link_up()) {
            counters_.tx_dropped += datagrams.size();
            return datagrams.size();
        }
        size_t taken = 0;
        while (taken < datagrams.size()) {
            const size_t batch = std::min(kBatch, datagrams.size() - taken);
            const size_t sent = send_batch(*flow, datagrams.subspan(taken, batch));
            taken += sent;
            if (sent < batch) break;
        }
        return taken;
    }

    size_t receive(size_t budget, const DatagramHandler& handler) override {
        const uint64_t now_ns = clock_.now_ns();
        send_due_requests(now_ns);
        size_t handed = 0, foreign = 0;
        while (handed < budget && foreign < kForeignFramesMax && device_->started()) {
            std::array<rte_mbuf*, kBatch> frames;
            const auto wanted = static_cast<uint16_t>(std::min(kBatch, budget - handed));
            const uint16_t got = rte_eth_rx_burst(device_->port_id(), 0, frames.data(), wanted);
            for (uint16_t i = 0; i < got; ++i) {
                const bool ours = take_frame(*frames[i], now_ns, handler);
                ++(ours ? handed : foreign);
                rte_pktmbuf_free(frames[i]);
            }
            if (got < wanted) break;
        }
        if (now_ns - looked_ns_ >= kLookPeriodNs) {
            looked_ns_ = now_ns;
            if (device_->watch_link(true)) announce();
            counters_.rx_ring_dropped = device_->read_ring_drops();
        } else if (!device_->link_up() && device_->watch_link(false)) {
            announce();
        }
        return handed;
    }

    int wait_fd() const override { return device_->wait_fd(); }
    size_t payload_bytes_max() const override { return payload_bytes_max_; }
    wan_port::PathMtuHint path_mtu_hint() const override { return host_.path_mtu_hint(); }
    UdpAddress local_address() const override { return host_.options().local; }
    const PortCounters& counters() const override { return counters_; }
    const char* name() const override { return name_.c_str(); }

  private:
    size_t send_batch(const UdpFlow& flow, std::span<const std::span<const std::byte>> datagrams) {
        std::array<rte_mbuf*, kBatch> frames;
        const auto count = static_cast<unsigned>(datagrams.size());
        if (rte_pktmbuf_alloc_bulk(device_->pool(), frames.data(), count) != 0) return 0;
        for (size_t i = 0; i < count; ++i) {
            EVAC_ASSERT(datagrams[i].size() <= payload_bytes_max_);
            const size_t frame_bytes = flow.header_bytes() + datagrams[i].size();
            auto* start = reinterpret_cast<std::byte*>(
                rte_pktmbuf_append(frames[i], static_cast<uint16_t>(frame_bytes)));
            EVAC_ASSERT(start != nullptr);
            wan_port::encode_udp_frame(flow, host_.next_ip_id(), datagrams[i],
                                       {start, frame_bytes});
        }
        const size_t sent =
            rte_eth_tx_burst(device_->port_id(), 0, frames.data(), static_cast<uint16_t>(count));
        for (size_t i = sent; i < count; ++i) rte_pktmbuf_free(frames[i]);
        for (size_t i = 0; i < sent; ++i) counters_.tx_bytes += datagrams[i].size();
        counters_.tx_packets += sent;
        return sent;
    }

    // Frames of our own (ARP, ICMP): rare, best effort.
    void send_frame(ByteSpan frame) {
        if (!device_->started()) return;
        rte_mbuf* buffer = rte_pktmbuf_alloc(device_->pool());
        if (buffer == nullptr) return;
        char* start = rte_pktmbuf_append(buffer, static_cast<uint16_t>(frame.size()));
        if (start == nullptr) {
            rte_pktmbuf_free(buffer);
            return;
        }
        std::memcpy(start, frame.data(), frame.size());
        if (rte_eth_tx_burst(device_->port_id(), 0, &buffer, 1) == 0) rte_pktmbuf_free(buffer);
    }

    void announce() {
        std::array<std::byte, wan_port::kArpFrameBytesMax> frame;
        send_frame(ByteSpan(frame).first(host_.write_announcement(frame)));
    }

    void send_due_requests(uint64_t now_ns) {
        std::array<std::byte, wan_port::kArpFrameBytesMax> frame;
        while (const size_t size = host_.write_due_request(now_ns, frame)) {
            send_frame(ByteSpan(frame).first(size));
        }
    }

    // Whether it was a datagram for us.
    bool take_frame(const rte_mbuf& frame, uint64_t now_ns, const DatagramHandler& handler) {
        // Only a device that scatters makes more than one segment; that is never asked for.
        if (frame.nb_segs != 1) {
            ++counters_.rx_malformed;
            return false;
        }
        const ByteSpan bytes{rte_pktmbuf_mtod(&frame, const std::byte*), frame.data_len};
        const std::span<std::byte> reply{
            reply_.data(),
            device_->mtu() + wan_port::kEthernetHeaderBytes + wan_port::kVlanTagBytes};
        // Some drivers take the tag out of the frame.
        const bool stripped = (frame.ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0;
        const wan_port::VlanTag tag = wan_port::vlan_tag_of(frame.vlan_tci);
        const Ipv4Host::Input input =
            host_.handle(bytes, now_ns, reply, counters_, stripped ? &tag : nullptr);
        if (input.reply_bytes != 0) send_frame(ByteSpan(reply).first(input.reply_bytes));
        if (input.is_datagram) handler(input.from, input.payload);
        return input.is_datagram;
    }

    std::unique_ptr<DpdkDevice> device_;
    const Clock& clock_;
    Ipv4Host host_;
    const size_t payload_bytes_max_;
    const std::string name_;
    PortCounters counters_;
    uint64_t looked_ns_ = 0;
    std::array<std::byte, kFrameBytesMax> reply_{};
};

}  // namespace

Result<std::unique_ptr<DatagramPort>> open_dpdk_port(const DpdkOptions& options,
                                                     const Clock& clock) {
    auto device = DpdkDevice::open(options);
    if (!device.ok()) return device.error();
    return std::unique_ptr<DatagramPort>(
        std::make_unique<DpdkPort>(std::move(*device), options, clock));
}

}  // namespace evac::wan_dpdk
