#pragma once
// The emulator: two packet sockets, a link model each way, and the loop that sleeps between their
// events. Owner: one thread, all of it.
//
// A frame waits in the kernel's ring with its arrival time until the loop looks: a stall of the
// loop makes frames late but takes no link time from them. While frames flow the loop wakes every
// grain_ns, however many there are; without traffic it sleeps until something arrives.
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "control_server.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/result.hpp"
#include "link_model.hpp"
#include "packet_socket.hpp"
#include "settings.hpp"

namespace wan_emulator {

// Frames on their way, in slots of one size; the most recently freed is used first, so that memory
// in use follows what is really on the way.
class FrameStore {
  public:
    FrameStore(size_t frames, size_t frame_bytes_max);
    ~FrameStore();
    FrameStore(const FrameStore&) = delete;
    FrameStore& operator=(const FrameStore&) = delete;

    bool valid() const { return memory_ != nullptr; }
    bool full() const { return free_.empty(); }
    uint32_t put(std::span<const std::byte> frame);  // precondition: not full
    std::span<const std::byte> get(uint32_t handle) const;
    void free(uint32_t handle) { free_.push_back(handle); }

  private:
    size_t slot_bytes_, mapped_bytes_;
    std::byte* memory_ = nullptr;
    std::vector<uint32_t> sizes_, free_;
};

class Emulator {
  public:
    static evac::Result<std::unique_ptr<Emulator>> open(const Options& options,
                                                        const evac::Clock& clock);

    // Runs until `stop_fd` becomes readable (a signalfd or an eventfd).
    evac::Status run(int stop_fd);

    // One line of the control socket.
    std::string command(std::string_view line);
    // Settings and counters, one line of JSON.
    std::string stats_json();

  private:
    struct Direction {
        const char* name;
        PacketSocket& in;
        PacketSocket& out;
        LinkModel model;
        FrameStore store;
        uint64_t late_ns_max = 0;
        uint64_t late_ns_sum = 0;
    };

    Emulator(const Options& options, const evac::Clock& clock, std::unique_ptr<PacketSocket> a,
             std::unique_ptr<PacketSocket> b);
    size_t take_arrivals(Direction& direction, uint64_t now_ns);
    size_t deliver(Direction& direction, uint64_t now_ns);
    void sleep(int stop_fd, bool busy, uint64_t now_ns);
    void add_direction(std::string& json, Direction& direction);

    const Options options_;
    const evac::Clock& clock_;
    std::unique_ptr<PacketSocket> a_, b_;
    Direction a_to_b_, b_to_a_;
    std::unique_ptr<ControlServer> control_;
    std::vector<pollfd> poll_fds_;
    int64_t unix_minus_monotonic_ns_ = 0;
    uint64_t started_ns_ = 0;
    uint64_t wakes_ = 0;
    bool stop_ = false;
};

}  // namespace wan_emulator
