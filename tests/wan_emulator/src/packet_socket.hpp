#pragma once
// A raw socket on one Ethernet interface: frames in through a TPACKET_V2 ring with the kernel's
// arrival times, frames out in batches. Owner: the emulator's only thread. Nothing here blocks.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"

namespace wan_emulator {

struct PacketSocketCounters {
    uint64_t ring_drops = 0;  // the emulator was too slow: distrust the run
    uint64_t oversize =
        0;  // larger than the interface's MTU (offloads on at the sender): not carried
    uint64_t vlan_tagged = 0;  // not carried
    uint64_t checksum_pending =
        0;  // carried, but the sender left the checksum to hardware that does not exist
    uint64_t send_failed = 0;  // the kernel did not take it: an unintended loss
};

class PacketSocket {
  public:
    // The interface must be up, its MTU at most kMtuMax. Promiscuous, so that every frame passes.
    static constexpr size_t kMtuMax = 9216;
    static evac::Result<std::unique_ptr<PacketSocket>> open(const std::string& interface);
    ~PacketSocket();
    PacketSocket(const PacketSocket&) = delete;
    PacketSocket& operator=(const PacketSocket&) = delete;

    int fd() const { return fd_.get(); }
    size_t frame_bytes_max() const { return frame_bytes_max_; }

    struct Arrival {
        std::span<const std::byte> frame;  // in the ring, until release()
        int64_t unix_ns = 0;               // CLOCK_REALTIME
    };
    // The oldest frame in the ring, if any; then release() gives its place back.
    std::optional<Arrival> next();
    void release();

    // Sends the frames in order; those that the kernel refuses are counted and dropped.
    void send(std::span<const std::span<const std::byte>> frames);

    const PacketSocketCounters& counters();  // reads the ring drops from the kernel: a system call

  private:
    PacketSocket() = default;
    evac::Status set_up(const std::string& interface);
    evac::Status map_ring();

    evac::UniqueFd fd_;
    std::byte* ring_ = nullptr;
    size_t ring_bytes_ = 0, ring_frames_ = 0, ring_frame_bytes_ = 0, at_ = 0;
    size_t frame_bytes_max_ = 0;
    PacketSocketCounters counters_;
};

}  // namespace wan_emulator
