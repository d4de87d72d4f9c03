#pragma once
// How fast to send: delivery-rate based (after BBR, draft-cardwell-iccrg-bbr-congestion-control),
// so that random loss does not slow it down and the queue stays in our process. Bytes count
// kWireOverheadBytes per packet.
//
//   startup -> drain -> steady (gains 1.25, 0.75, then 1 x 6, one minimum RTT each) <-> probe_rtt
//   rate   = windowed maximum of delivery-rate samples over the last kFilterRounds rounds
//   pacing = gain x rate, within [floor, ceiling]      window = gain x rate x minimum RTT +
//   allowance
// A round in which much is lost (> kLossShrink: the path has become slower, or a policer) shortens
// the filter to the last two rounds. Losses that an outage explains are not counted.
#include <array>
#include <cstddef>
#include <cstdint>

namespace evac::wan {

// What a packet remembers of the moment it was sent.
struct DeliverySnapshot {
    uint64_t delivered_bytes = 0;
    uint64_t delivered_ns = 0;
    uint64_t first_sent_ns = 0;
    bool app_limited = false;
};

struct RateLimits {
    uint64_t ceiling_bytes_per_s = 0;
    uint64_t floor_bytes_per_s = 0;
    uint64_t start_bytes_per_s = 0;
};

class RateControl {
  public:
    static constexpr size_t kFilterRounds = 10;
    static constexpr double kStartupGain = 2.77;
    static constexpr double kWindowGain = 2.0;
    static constexpr double kLossShrink = 0.2;
    static constexpr uint64_t kRttWindowNs = 10'000'000'000;
    static constexpr uint64_t kInitialRttNs = 100'000'000;
    static constexpr uint64_t kBurstNs =
        2'000'000;  // pacing may catch up this much after a late wake-up

    RateControl(const RateLimits& limits, uint64_t now_ns);

    void set_ceiling(uint64_t bytes_per_s);
    // Another path: rate and RTT are learnt anew, beginning at half of the old rate. What is in
    // flight stays accounted.
    void restart(uint64_t now_ns);

    DeliverySnapshot on_sent(uint64_t now_ns, uint64_t inflight_before);
    // One packet newly acknowledged; call for each packet of an ack, then on_ack_end once.
    void on_acked(uint64_t now_ns, uint64_t sent_ns, uint64_t bytes,
                  const DeliverySnapshot& snapshot);
    void on_ack_end(uint64_t now_ns, uint64_t inflight, uint64_t lost_bytes, bool after_outage);
    void on_rtt(uint64_t now_ns, uint64_t rtt_ns);
    // Nothing more to send though the window had room: samples until this is delivered do not show
    // the path's limit.
    void on_app_limited(uint64_t inflight);

    uint64_t window_bytes() const { return window_bytes_; }
    uint64_t pacing_bytes_per_s() const { return pacing_; }
    uint64_t rate_bytes_per_s() const;  // the filter's maximum; start rate before the first sample
    uint64_t min_rtt_ns() const { return min_rtt_ns_ == UINT64_MAX ? kInitialRttNs : min_rtt_ns_; }
    uint64_t loss_ppm() const { return static_cast<uint64_t>(loss_smoothed_ * 1e6); }
    bool in_startup() const { return mode_ == Mode::startup; }

    // Pacing: the earliest time for the next packet, and charging for one sent.
    uint64_t next_send_ns() const { return next_send_ns_; }
    void charge(uint64_t now_ns, uint64_t bytes);

  private:
    enum class Mode : uint8_t { startup, drain, steady, probe_rtt };

    void end_round(bool after_outage);
    void update_mode(uint64_t now_ns, uint64_t inflight);
    void update_cycle(uint64_t now_ns, uint64_t inflight);
    void update_probe_rtt(uint64_t now_ns);
    void enter_steady(uint64_t now_ns);
    void update_outputs();
    uint64_t bdp_bytes() const;

    RateLimits limits_;
    Mode mode_ = Mode::startup;
    double pacing_gain_ = kStartupGain;
    double window_gain_ = kWindowGain;

    // Delivery accounting.
    uint64_t delivered_ = 0;
    uint64_t delivered_ns_ = 0;
    uint64_t first_sent_ns_ = 0;
    uint64_t restarted_ns_ = 0;       // packets sent before it say nothing about this path
    uint64_t app_limited_until_ = 0;  // delivered_ value; 0 = not limited

    // The ack being processed.
    uint64_t ack_bytes_ = 0;
    uint64_t ack_sent_ns_ = 0;
    DeliverySnapshot ack_newest_{};

    // Rounds and the filter: one maximum per round, newest at round_ % kFilterRounds.
    std::array<uint64_t, kFilterRounds> filter_{};
    uint64_t round_ = 0;
    uint64_t round_end_delivered_ = 0;
    bool round_sampled_ = false;  // has a sample that is not app-limited
    bool round_outage_ = false;
    uint64_t round_acked_ = 0;
    uint64_t round_lost_ = 0;
    double loss_smoothed_ = 0;

    // Startup.
    uint64_t full_rate_ = 0;
    uint32_t full_rounds_ = 0;

    // Minimum RTT.
    uint64_t min_rtt_ns_ = UINT64_MAX;
    uint64_t min_rtt_at_ns_ = 0;
    uint64_t probe_rtt_until_ns_ = 0;
    uint64_t probe_min_ns_ = UINT64_MAX;

    // Steady cycle.
    uint32_t phase_ = 0;
    uint64_t phase_at_ns_ = 0;
    bool phase_lost_ = false;

    uint64_t window_bytes_ = 0;
    uint64_t pacing_ = 0;
    uint64_t next_send_ns_ = 0;
};

}  // namespace evac::wan
