#include "evac/wan_port/memory_port.hpp"

#include <cstring>
#include <vector>

#include "evac/core/assert.hpp"
#include "evac/core/bytes.hpp"

namespace evac::wan_port {
namespace {

// A bounded FIFO of datagrams with all its memory made at construction.
class DatagramQueue {
  public:
    DatagramQueue(size_t datagrams_max, size_t payload_bytes_max)
        : payload_bytes_max_(payload_bytes_max),
          sizes_(datagrams_max),
          bytes_(datagrams_max * payload_bytes_max) {}

    bool push(ByteSpan payload) {
        if (count_ == sizes_.size()) return false;
        const size_t slot = (first_ + count_) % sizes_.size();
        sizes_[slot] = payload.size();
        if (!payload.empty()) {
            std::memcpy(&bytes_[slot * payload_bytes_max_], payload.data(), payload.size());
        }
        ++count_;
        return true;
    }
    bool empty() const { return count_ == 0; }
    ByteSpan front() const { return {&bytes_[first_ * payload_bytes_max_], sizes_[first_]}; }
    void pop() {
        first_ = (first_ + 1) % sizes_.size();
        --count_;
    }

  private:
    const size_t payload_bytes_max_;
    std::vector<size_t> sizes_;
    std::vector<std::byte> bytes_;
    size_t first_ = 0, count_ = 0;
};

// Shared by both ends, so that either may go first.
struct Wire {
    Wire(const MemoryPairOptions& options)
        : towards{{options.queue_datagrams_max, options.payload_bytes_max},
                  {options.queue_datagrams_max, options.payload_bytes_max}} {}
    DatagramQueue towards[2];
    bool alive[2] = {true, true};
};

class MemoryPort final : public DatagramPort {
  public:
    MemoryPort(std::shared_ptr<Wire> wire, size_t end, const MemoryPairOptions& options)
        : wire_(std::move(wire)),
          end_(end),
          local_(end == 0 ? options.a : options.b),
          peer_(end == 0 ? options.b : options.a),
          payload_bytes_max_(options.payload_bytes_max) {}
    ~MemoryPort() override { wire_->alive[end_] = false; }

    size_t send(const UdpAddress& to,
                std::span<const std::span<const std::byte>> datagrams) override {
        const bool reaches_peer = to == peer_ && wire_->alive[1 - end_];
        size_t taken = 0;
        for (const ByteSpan payload : datagrams) {
            EVAC_ASSERT(payload.size() <= payload_bytes_max_);
            if (!reaches_peer) {
                ++counters_.tx_dropped;
            } else if (wire_->towards[1 - end_].push(payload)) {
                ++counters_.tx_packets;
                counters_.tx_bytes += payload.size();
            } else {
                break;
            }
            ++taken;
        }
        return taken;
    }

    size_t receive(size_t budget, const DatagramHandler& handler) override {
        DatagramQueue& queue = wire_->towards[end_];
        size_t handed = 0;
        for (; handed < budget && !queue.empty(); ++handed) {
            const ByteSpan payload = queue.front();
            ++counters_.rx_packets;
            counters_.rx_bytes += payload.size();
            handler(peer_, payload);
            queue.pop();  // after the handler, whose span points into the queue
        }
        return handed;
    }

    int wait_fd() const override { return -1; }
    size_t payload_bytes_max() const override { return payload_bytes_max_; }
    UdpAddress local_address() const override { return local_; }
    const PortCounters& counters() const override { return counters_; }
    const char* name() const override { return "memory"; }

  private:
    std::shared_ptr<Wire> wire_;
    const size_t end_;
    const UdpAddress local_, peer_;
    const size_t payload_bytes_max_;
    PortCounters counters_;
};

}  // namespace

MemoryPair make_memory_pair(const MemoryPairOptions& options) {
    EVAC_ASSERT(options.payload_bytes_max > 0 && options.queue_datagrams_max > 0);
    auto wire = std::make_shared<Wire>(options);
    return {std::make_unique<MemoryPort>(wire, 0, options),
            std::make_unique<MemoryPort>(wire, 1, options)};
}

}  // namespace evac::wan_port
