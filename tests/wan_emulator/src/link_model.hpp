#pragma once
// One direction of an emulated WAN link, in virtual time: a drop-tail queue, a transmitter of a
// given rate, then outages and losses, then propagation delay with jitter. The order of packets is
// kept.
//
//   arrive -> [queue, at most queue_bytes waiting] -> transmitter (bytes * 8 / rate) -> lost? ->
//   delay + jitter -> due
//
// Losses are behind the transmitter: a lost packet has used link time, as on a real link. Pure:
// time comes in by argument and the same seed and arrivals give the same result. Memory is bounded
// by packets_max, taken at construction. Owner: the emulator's only thread.
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "evac/core/random.hpp"

namespace wan_emulator {

inline constexpr uint64_t kNever = UINT64_MAX;

struct LinkSettings {
    uint64_t rate_bits_per_s =
        100'000'000;  // of Ethernet frames without preamble and checksum; 0 = unlimited
    uint64_t delay_ns = 10'000'000;  // one way
    uint64_t jitter_ns = 0;  // adds 0 to this much, uniformly; order is kept, so bursts bunch up
    double loss = 0;         // probability per packet, independent
    double ge_loss = 0;      // Gilbert-Elliott: mean share lost, 0 = off
    double ge_burst = 1;     // mean length of a loss burst, packets
    uint64_t queue_bytes = 256 * 1024;  // waiting, without the packet being transmitted

    bool operator==(const LinkSettings&) const = default;
};

struct LinkCounters {
    uint64_t offered_packets = 0, offered_bytes = 0;
    uint64_t delivered_packets = 0, delivered_bytes = 0;
    uint64_t dropped_queue = 0;  // the queue was full
    uint64_t dropped_memory =
        0;  // more than packets_max on the way: raise --packets-max or distrust the run
    uint64_t lost_random = 0, lost_burst = 0, lost_outage = 0;
    uint64_t queue_bytes_peak = 0;
    uint64_t busy_ns = 0;  // transmitter time used, lost packets included
};

// A bounded FIFO with its memory made at construction.
template <class T>
class FixedFifo {
  public:
    explicit FixedFifo(size_t capacity) : slots_(capacity) {}
    size_t size() const { return count_; }
    bool empty() const { return count_ == 0; }
    T& front() { return slots_[first_]; }
    const T& front() const { return slots_[first_]; }
    void push(const T& value) { slots_[(first_ + count_++) % slots_.size()] = value; }
    void pop() {
        first_ = (first_ + 1) % slots_.size();
        --count_;
    }

  private:
    std::vector<T> slots_;
    size_t first_ = 0, count_ = 0;
};

class LinkModel {
  public:
    static constexpr size_t kOutagesMax = 64;  // scripted and running ones together

    LinkModel(const LinkSettings& settings, uint64_t seed, size_t packets_max);

    // From now_ns on. A packet whose transmission has started keeps its schedule.
    void change(const LinkSettings& settings, uint64_t now_ns);
    const LinkSettings& settings() const { return settings_; }

    // Packets whose transmission ends in [start_ns, start_ns + length_ns) are lost. False: too many
    // outages.
    bool add_outage(uint64_t start_ns, uint64_t length_ns, uint64_t now_ns);

    // Offers a packet. False: dropped and counted, `handle` stays with the caller. Times of calls
    // do not decrease; one that does (clocks) counts as the latest.
    bool arrive(uint64_t at_ns, uint32_t bytes, uint32_t handle);

    struct Due {
        uint32_t handle = 0;
        uint32_t bytes = 0;
        bool deliver = false;  // false: lost on the way, only give the handle back
        uint64_t due_ns = 0;
    };
    // The next packet that is through by now_ns, in order.
    std::optional<Due> pop_due(uint64_t now_ns);
    // When pop_due has something next, kNever when empty; not later than the truth.
    uint64_t next_due_ns() const;

    const LinkCounters& counters() const { return counters_; }
    uint64_t queued_bytes() const { return queued_bytes_; }
    size_t packets() const { return waiting_.size() + flying_.size(); }

  private:
    struct Waiting {
        uint64_t arrived_ns;
        uint32_t bytes, handle;
    };
    struct Outage {
        uint64_t start_ns, end_ns;
    };

    void transmit_until(uint64_t now_ns);
    uint64_t transmit_ns(uint32_t bytes) const;
    bool is_lost(uint64_t sent_ns);
    bool in_outage(uint64_t at_ns) const;
    bool burst_takes();

    LinkSettings settings_;
    const size_t packets_max_;
    // Streams of their own, so that changing one setting does not shift another's draws.
    evac::Random loss_random_, burst_random_, jitter_random_;
    bool in_burst_ = false;
    FixedFifo<Waiting> waiting_;
    FixedFifo<Due> flying_;
    uint64_t queued_bytes_ = 0;
    uint64_t last_arrival_ns_ = 0;
    uint64_t free_at_ns_ = 0;  // when the transmitter ends what it has
    uint64_t last_due_ns_ = 0;
    std::array<Outage, kOutagesMax> outages_{};
    size_t outage_count_ = 0;
    LinkCounters counters_;
};

}  // namespace wan_emulator
