#pragma once
// How fast to send. The window follows the queueing delay, not the loss: it is moved so that a
// small queue stands at the narrowest link (after FAST TCP), which keeps that link busy whatever is
// lost, keeps control messages from waiting, and needs no exact rate. Delivery-rate samples (after
// BBR) bound it, resume it and replace it where the queue is not ours. Bytes count
// kWireOverheadBytes per packet.
//
//   startup: a train of packets shows the link's rate; without enough data the window doubles
//   steady:  each round  window += 1/2 (target queue - our queue); no queue seen: steps that grow
//   compete: a queue that does not drain when our share of it is taken out belongs to others:
//            hold our rate (gains 1.25, 0.75, 1 x 6, window 1.25 x rate x RTT) until it is gone
//   scavenging (set_scavenger): a queue above twice a smaller target halves the window each
//            round trip, and it grows again only when the queue has been gone for a while
//   drain:   one round now and then with our share of the queue taken out, so that the base delay
//            is seen
// A round in which more than kLossCut is lost (a path that became slower, a queue smaller than the
// target) cuts the window to what was delivered; undone when the losses prove spurious. Losses
// that an outage explains are not counted.
#include <array>
#include <cstddef>
#include <cstdint>

#include "evac/wan/types.hpp"
#include "queue_delay.hpp"

namespace evac::wan {

// What a packet remembers of the moment it was sent.
struct DeliverySnapshot {
    uint64_t delivered_bytes = 0;
    uint64_t delivered_ns = 0;
    uint64_t first_sent_ns = 0;
    uint32_t train = 0;  // belongs to this train of the start; 0 = none
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
    static constexpr double kLossCut = 0.2;
    static constexpr uint64_t kInitialRttNs = 100'000'000;
    // Pacing may catch up this much after a late wake-up.
    static constexpr uint64_t kBurstNs = 2'000'000;
    // Standing queue aimed at; halved for a queue that overflows earlier.
    static constexpr uint64_t kTargetNs = 3'000'000;
    static constexpr uint64_t kTargetMinNs = 500'000;
    // What control and demand may have in flight while scavenging, whatever the queue says.
    static constexpr uint64_t kUrgentWindowBytes = 64 * 1024;
    static constexpr uint64_t kAckGapNs = 6'000'000;
    // How far what is urgent may put off the rest.
    static constexpr uint64_t kUrgentDebtNs = 5'000'000;
    // Packets of the train that shows the path's rate at the start.
    static constexpr uint32_t kTrainPackets = 64;
    // Scavenging: a base delay is believed for this long.
    static constexpr uint64_t kBaseMemoryNs = 600'000'000'000;
    using Mode = RateMode;

    RateControl(const RateLimits& limits, uint64_t now_ns);

    void set_ceiling(uint64_t bytes_per_s);
    // Another path: rate and RTT are learnt anew, beginning at half of the old rate. What is in
    // flight stays accounted.
    void restart(uint64_t now_ns);
    void set_scavenger(bool on);
    bool scavenger() const { return scavenger_; }

    DeliverySnapshot on_sent(uint64_t now_ns, uint64_t inflight_before);
    // One packet newly acknowledged; call for each packet of an ack, then on_ack_end once.
    void on_acked(uint64_t now_ns, uint64_t sent_ns, uint64_t bytes,
                  const DeliverySnapshot& snapshot);
    void on_ack_end(uint64_t now_ns, uint64_t inflight, uint64_t lost_bytes, bool after_outage);
    // `bytes` counted as lost arrived after all.
    void on_spurious(uint64_t bytes);
    // Without the peer's own delay of the acknowledgement.
    void on_rtt(uint64_t now_ns, uint64_t rtt_ns) { delay_.on_sample(now_ns, rtt_ns); }
    // Nothing more to send though the window had room: samples until this is delivered do not show
    // the path's limit.
    void on_app_limited(uint64_t inflight);

    uint64_t window_bytes() const { return window_bytes_; }
    // When a packet may join `inflight`; UINT64_MAX: only after an acknowledgement. A gap in the
    // acknowledgements (some were lost) up to kAckGapNs is bridged at the measured rate.
    uint64_t open_ns(uint64_t inflight) const;
    uint64_t urgent_window_bytes() const { return std::max(window_bytes_, kUrgentWindowBytes); }
    uint64_t pacing_bytes_per_s() const { return pacing_; }
    uint64_t rate_bytes_per_s() const;  // the filter's maximum; start rate before the first sample
    uint64_t min_rtt_ns() const { return delay_.known() ? delay_.base_ns() : kInitialRttNs; }
    uint64_t queue_delay_ns() const { return delay_.known() ? delay_.standing_ns() : 0; }
    uint64_t loss_ppm() const { return static_cast<uint64_t>(loss_smoothed_ * 1e6); }
    uint64_t undone_cuts() const { return undone_; }
    Mode mode() const { return mode_; }
    bool in_startup() const { return mode_ == Mode::startup; }

    // Pacing: the earliest time for the next packet, and charging for one sent.
    uint64_t next_send_ns() const { return next_send_ns_; }
    void charge(uint64_t now_ns, uint64_t bytes, bool urgent);
    // The same for control and demand, which scavenging does not slow down below
    // kUrgentWindowBytes per round trip.
    uint64_t next_urgent_ns() const { return next_urgent_ns_; }
    uint64_t urgent_rate_bytes_per_s() const;

  private:
    struct Train {
        uint32_t id = 1;
        uint32_t left = kTrainPackets;
        uint32_t sent = 0;
        uint32_t seen = 0;
        uint64_t first_ns = 0;
        uint64_t last_ns = 0;
        uint64_t bytes = 0;  // acknowledged after the first acknowledgement
        uint32_t next_id = 2;
        void restart() {
            const uint32_t fresh = next_id;
            *this = Train{};
            id = fresh;
            next_id = fresh + 1;
        }
    };
    struct Undo {  // what a cut replaced; no bytes: nothing to undo
        double window = 0;
        uint64_t overflow_ns = 0;
        uint64_t lost_bytes = 0;
        uint64_t total_bytes = 0;
        std::array<uint64_t, kFilterRounds> filter{};
        Mode mode{};
        uint64_t at_ns = 0;
    };

    void take_sample(uint64_t now_ns);
    void watch_train(uint64_t now_ns, uint64_t bytes, const DeliverySnapshot& snapshot);
    void end_round(uint64_t now_ns, bool after_outage);
    void cut(uint64_t now_ns);
    void enter_steady();
    void step(uint64_t now_ns);
    void step_steady();
    void step_scavenger(uint64_t now_ns);
    void yield(uint64_t now_ns);
    uint64_t yield_above_ns() const;
    void follow_queue();
    void probe_growth(double first);
    void maybe_drain(uint64_t now_ns);
    void finish_drain(uint64_t now_ns);
    void refresh_base(uint64_t now_ns);
    void update_outputs();
    uint64_t target_ns() const;
    double scavenger_floor() const;

    RateLimits limits_;
    Mode mode_ = Mode::startup;
    bool scavenger_ = false;
    QueueDelay delay_;
    double window_ = 0;

    // Delivery accounting.
    uint64_t delivered_ = 0;
    uint64_t delivered_ns_ = 0;
    uint64_t first_sent_ns_ = 0;
    uint64_t restarted_ns_ = 0;       // packets sent before it say nothing about this path
    uint64_t app_limited_until_ = 0;  // delivered_ value; 0 = not limited

    // The ack being processed.
    uint64_t ack_bytes_ = 0;
    uint64_t ack_at_ns_ = 0;  // when the last acknowledgement came
    uint64_t ack_sent_ns_ = 0;
    DeliverySnapshot ack_newest_{};

    // Rounds and the filter: one maximum per round, newest at round_ % kFilterRounds.
    std::array<uint64_t, kFilterRounds> filter_{};
    uint64_t round_ = 0;
    uint64_t round_end_delivered_ = 0;
    bool round_sampled_ = false;  // has a sample that is not app-limited
    bool round_outage_ = false;
    bool round_limited_ = false;  // the window was full in this round
    uint64_t round_acked_ = 0;
    uint64_t round_lost_ = 0;
    uint64_t round_peak_ns_ = 0;  // longest queueing delay in this round
    uint64_t last_peak_ns_ = 0;
    double loss_smoothed_ = 0;

    Train train_;
    uint64_t train_rate_ = 0;  // what the train showed; 0 = nothing yet

    // Steady.
    uint32_t empty_rounds_ = 0;  // in a row, with a full window and no queue
    uint32_t stuck_rounds_ = 0;  // in a row, with a queue that stays though we took ours out
    bool grown_ = false;         // in the last round
    double before_cut_ = 0;      // the window before that
    uint64_t overflow_ns_ = UINT64_MAX;  // queueing delay at which the path's queue overflowed
    uint64_t overflow_at_ns_ = 0;
    uint64_t reference_rate_ = 0;  // the best rate known, slowly forgotten
    // Scavenging.
    uint64_t scavenger_peak_ns_ = 50'000'000;  // longest queueing delay, slowly forgotten
    uint64_t yielded_ns_ = 0;
    uint32_t yields_ = 0;  // in a row, after the first
    uint64_t hold_until_ns_ = 0;

    Undo undo_;
    uint64_t undone_ = 0;

    double drained_window_ = 0;
    uint64_t drain_until_ns_ = 0;
    uint32_t phase_ = 0;        // of the cycle, when competing
    uint64_t range_at_ns_ = 0;  // since when the delay's range is watched; 0 = it is not

    uint64_t window_bytes_ = 0;
    uint64_t pacing_ = 0;
    uint64_t next_send_ns_ = 0;
    uint64_t next_urgent_ns_ = 0;
};

}  // namespace evac::wan
