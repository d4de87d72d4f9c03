#pragma once
// How lossy the line is, and how much parity pays. Plain arithmetic, no clock.
//
// When does another parity packet pay? A lost packet costs the one who waits for it about 1.1 round
// trips (it is found lost when a later one is acknowledged, plus an eighth). Parity costs the line
// m/k of the bytes that it covers.
//   bulk while more waits: the line is never idle, so a retransmission takes the slot that a parity
//     would have taken: cost p against m/k. At 3 % loss and k=16 a block needs m=4 for one failure
//     in 4,000: 25 % against 3 %. Never worth it.
//   the tail of a transfer: nothing else wants the line, so parity costs line time only. With O
//     packets unacknowledged in B = O/16 interleaved blocks it pays while
//     B * m * packet time < round trip * (1 - (1-p)^O). 100 Mbit/s, 200 ms, 3 %: O = 1,660 is
//     beyond the history (about 1,450 packets), so B = 91, m = 4: 364 packets = 44 ms against 200.
//   one control message (k=1): its copy costs it once more; a loss would hold up every message
//     behind it for a round trip (a class is delivered in order). With h urgent packets per round
//     trip a failure delays h of them: m is the least with failure * h / k <= kUrgentMissTarget.
//     3 %, one message each 10 ms, 200 ms: h = 21, p^2 * 21 = 1.9 % is too much for the 99th
//     percentile, p^3 * 21 = 0.06 % is not: m = 2.
// Bursts: a burst of mean length L hits about L / interleave members of one block, which count
// as one event; copies in time keep kBurstsApart mean bursts apart (0.75^32 = 1e-4 at L = 4).
#include <cstddef>
#include <cstdint>

namespace evac::wan {

inline constexpr double kUrgentMissTarget = 0.004;  // of urgent messages; p99 allows 0.01
inline constexpr double kTailMissTarget = 0.05;     // of tails that need a retransmission after all
inline constexpr uint64_t kTailRttMinNs = 10'000'000;  // below it a retransmission is quick enough
inline constexpr double kBurstsApart = 8;
inline constexpr uint64_t kSpacingMinNs = 1'000'000;
inline constexpr uint64_t kSpacingMaxNs = 4'000'000;
inline constexpr uint64_t kUrgentSpanNs = 12'000'000;  // first copy to last; 15 ms are promised

// Loss rate and mean burst length out of acknowledgements: packets that the sender's recovery
// found lost, in runs of consecutive numbers. A run longer than kRunMax is an outage: parity does
// not help there, so it is not counted. Forgets by halves every kWindow packets.
class LossMeter {
  public:
    static constexpr double kWindow = 2048;
    static constexpr uint64_t kRunMax = 64;
    static constexpr double kLossMin = 0.0003;  // below it the line counts as clean
    static constexpr double kLossMax = 0.3;
    static constexpr double kBurstMax = 16;

    void on_acked();
    void on_lost(uint64_t number);
    void on_spurious();  // thought lost, arrived

    bool lossy() const;
    double loss() const;   // 0..kLossMax
    double burst() const;  // 1..kBurstMax

  private:
    void end_run();
    void age();
    double acked_ = 0;
    double lost_ = 0;
    double runs_ = 0;
    uint64_t run_length_ = 0;
    uint64_t run_last_ = 0;
    uint64_t acked_since_ = 0;  // acknowledged since the run's last packet was found lost
};

struct FecBlockShape {
    double loss = 0;
    double burst = 1;
    size_t members = 1;     // k
    size_t interleave = 1;  // packets between two members of the block
};

// Probability that more packets of the block and its `parity` are lost than it can bear.
double fec_failure(const FecBlockShape& shape, size_t parity);
// Least parity with a failure of at most `target`, 0..parity_max (which may then not be enough).
size_t fec_parity(const FecBlockShape& shape, double target, size_t parity_max);
// Time between a packet and its copy.
uint64_t fec_spacing_ns(double burst, uint64_t packet_ns);
// Whether parity for a tail of `packets` costs less line time than it saves waiting.
bool fec_tail_pays(double loss, size_t packets, size_t parity_packets, uint64_t packet_ns,
                   uint64_t rtt_ns);

}  // namespace evac::wan
