#pragma once
// How large a datagram the path carries (after RFC 8899), without asking the network: padded probes
// that the peer acknowledges. Sizes are UDP payload.
//
//   start, path changed:  data at kBaseBytes; probe bytes_max at once, so that a path without a
//                         bottleneck is used in full after one round trip
//   probe acknowledged:   data at its size
//   kTriesPerSize lost:   the path does not carry that size: bisect between what passed and what
//                         did not, until kGapBytes are left. At most 3 x (2 + log2(7800 / 16)),
//                         33 probes.
//   black hole:           kBlackHolePackets data packets larger than kBaseBytes lost, and nothing
//                         as large sent after them arrived, while later small ones did: back to
//                         kBaseBytes and search again
//   below bytes_max:      search again every kRaiseNs
//
// A lost probe is no sign of congestion, so it must not slow the sender down.
#include <array>
#include <cstddef>
#include <cstdint>

#include "evac/wan/endpoint.hpp"

namespace evac::wan {

class PathMtu {
  public:
    static constexpr size_t kBaseBytes = kDatagramBytesMin;
    static constexpr size_t kGapBytes = 16;
    static constexpr uint32_t kTriesPerSize = 3;
    static constexpr uint32_t kBlackHolePackets = 6;
    static constexpr uint64_t kRaiseNs = 120'000'000'000;

    explicit PathMtu(size_t bytes_max);

    // What data packets may have now.
    size_t datagram_bytes() const { return present_; }
    // Size of the probe that should go out now; 0 = none.
    size_t probe_bytes(uint64_t now_ns) const;
    uint64_t next_timeout_ns() const;  // UINT64_MAX = never
    bool probe_waits(uint64_t now_ns) const { return probe_bytes(now_ns) != 0; }

    void on_probe_sent(uint64_t number);
    void on_acked(uint64_t now_ns, uint64_t number, size_t datagram_bytes, bool probe);
    void on_lost(uint64_t now_ns, uint64_t number, size_t datagram_bytes, bool probe);
    // The peer has another address: nothing is known any more.
    void restart();

    uint64_t probes() const { return probes_; }
    uint64_t black_holes() const { return black_holes_; }

  private:
    static constexpr size_t kClasses16 = (kDatagramBytesMax - kBaseBytes) / kGapBytes + 1;
    static size_t class_of(size_t bytes) { return (bytes - kBaseBytes) / kGapBytes; }
    void choose_next(uint64_t now_ns);
    bool larger_arrived_after(uint64_t number, size_t bytes) const;

    const size_t max_;
    size_t present_ = kBaseBytes;
    size_t too_large_;  // smallest size known not to pass; max_ + 1 when none is
    size_t probing_;    // size under test; 0 = the search is over
    uint32_t tries_ = 0;
    bool in_flight_ = false;
    uint64_t probe_number_ = 0;
    uint64_t raise_ns_ = UINT64_MAX;

    // Black hole: for each size class, 1 + the newest packet of it that arrived.
    std::array<uint64_t, kClasses16> arrived_{};
    uint32_t missing_ = 0;  // large packets lost since one arrived
    size_t missing_bytes_ = 0;
    uint64_t missing_first_ = 0;

    uint64_t probes_ = 0;
    uint64_t black_holes_ = 0;
};

}  // namespace evac::wan
