#include "rate_control.hpp"

#include <algorithm>

namespace evac::wan {
namespace {

constexpr std::array<double, 8> kCycle{1.25, 0.75, 1, 1, 1, 1, 1, 1};
constexpr double kDrainGain = 1 / RateControl::kStartupGain;
constexpr double kFullGrowth = 1.25;
constexpr uint32_t kFullRounds = 3;
constexpr uint64_t kWindowMinBytes = 12'000;  // 8 packets
constexpr uint64_t kWindowAllowanceBytes =
    9'000;  // acknowledgements come for several packets at once
constexpr uint64_t kProbeRttNs = 60'000'000;
constexpr double kProbeRttGain = 0.5;
constexpr uint64_t kAckDelayNs = 3'000'000;
constexpr double kMargin = 0.99;  // pace a little below the path, so that a queue drains

uint64_t scaled(uint64_t value, double factor) {
    return static_cast<uint64_t>(static_cast<double>(value) * factor);
}

uint64_t bytes_in(uint64_t rate, uint64_t ns) {
    return static_cast<uint64_t>(static_cast<double>(rate) * static_cast<double>(ns) / 1e9);
}

}  // namespace

RateControl::RateControl(const RateLimits& limits, uint64_t now_ns)
    : limits_(limits), delivered_ns_(now_ns) {
    first_sent_ns_ = now_ns;
    min_rtt_at_ns_ = now_ns;
    next_send_ns_ = now_ns;
    update_outputs();
}

void RateControl::set_ceiling(uint64_t bytes_per_s) {
    limits_.ceiling_bytes_per_s = std::max(bytes_per_s, limits_.floor_bytes_per_s);
    update_outputs();
}

void RateControl::restart(uint64_t now_ns) {
    RateLimits limits = limits_;
    limits.start_bytes_per_s =
        std::clamp(rate_bytes_per_s() / 2, limits.floor_bytes_per_s, limits.ceiling_bytes_per_s);
    RateControl fresh(limits, now_ns);
    fresh.delivered_ = delivered_;
    fresh.first_sent_ns_ = first_sent_ns_;
    fresh.round_end_delivered_ = delivered_;
    fresh.restarted_ns_ = now_ns;
    fresh.loss_smoothed_ = loss_smoothed_;
    *this = fresh;
}

uint64_t RateControl::rate_bytes_per_s() const {
    const uint64_t best = *std::max_element(filter_.begin(), filter_.end());
    return best == 0 ? limits_.start_bytes_per_s : best;
}

uint64_t RateControl::bdp_bytes() const {
    return bytes_in(rate_bytes_per_s(), min_rtt_ns());
}

void RateControl::charge(uint64_t now_ns, uint64_t bytes) {
    const uint64_t earliest = now_ns > kBurstNs ? now_ns - kBurstNs : 0;
    next_send_ns_ =
        std::max(next_send_ns_, earliest) +
        static_cast<uint64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(pacing_));
}

DeliverySnapshot RateControl::on_sent(uint64_t now_ns, uint64_t inflight_before) {
    if (inflight_before == 0) {
        first_sent_ns_ = now_ns;
        delivered_ns_ = now_ns;
    }
    return {delivered_, delivered_ns_, first_sent_ns_, app_limited_until_ != 0};
}

void RateControl::on_app_limited(uint64_t inflight) {
    app_limited_until_ = std::max<uint64_t>(delivered_ + inflight, 1);
}

void RateControl::on_acked(uint64_t now_ns, uint64_t sent_ns, uint64_t bytes,
                           const DeliverySnapshot& snapshot) {
    delivered_ += bytes;
    delivered_ns_ = now_ns;
    round_acked_ += bytes;
    if (ack_bytes_ == 0 || sent_ns >= ack_sent_ns_) {
        ack_newest_ = snapshot;
        ack_sent_ns_ = sent_ns;
    }
    ack_bytes_ += bytes;
}

void RateControl::on_rtt(uint64_t now_ns, uint64_t rtt_ns) {
    if (mode_ == Mode::probe_rtt) probe_min_ns_ = std::min(probe_min_ns_, rtt_ns);
    if (rtt_ns <= min_rtt_ns_) {
        min_rtt_ns_ = rtt_ns;
        min_rtt_at_ns_ = now_ns;
    }
}

void RateControl::on_ack_end(uint64_t now_ns, uint64_t inflight, uint64_t lost_bytes,
                             bool after_outage) {
    round_lost_ += lost_bytes;
    round_outage_ = round_outage_ || after_outage;
    if (lost_bytes > 0) phase_lost_ = true;
    if (ack_bytes_ == 0) return;
    if (app_limited_until_ != 0 && delivered_ > app_limited_until_) app_limited_until_ = 0;

    const bool round_over = ack_newest_.delivered_bytes >= round_end_delivered_;
    if (round_over) end_round(after_outage);

    const uint64_t send_ns = ack_sent_ns_ - std::min(ack_newest_.first_sent_ns, ack_sent_ns_);
    const uint64_t ack_ns = now_ns - ack_newest_.delivered_ns;
    const uint64_t interval = std::max(send_ns, ack_ns);
    first_sent_ns_ = ack_sent_ns_;
    // Shorter than a round trip: the acknowledgements were bunched, the quotient means nothing.
    if (interval >= min_rtt_ns() && interval > 0 && ack_sent_ns_ >= restarted_ns_) {
        const uint64_t bytes = delivered_ - ack_newest_.delivered_bytes;
        const auto sample =
            static_cast<uint64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(interval));
        if (!ack_newest_.app_limited || sample > rate_bytes_per_s()) {
            uint64_t& slot = filter_[round_ % kFilterRounds];
            slot = std::max(slot, sample);
            round_sampled_ = true;
        }
    }
    ack_bytes_ = 0;
    update_mode(now_ns, inflight);
    update_outputs();
}

void RateControl::end_round(bool after_outage) {
    const uint64_t total = round_acked_ + round_lost_;
    const double loss =
        total == 0 ? 0 : static_cast<double>(round_lost_) / static_cast<double>(total);
    const bool counted = !round_outage_ && total > 0;
    if (counted) loss_smoothed_ += 0.1 * (loss - loss_smoothed_);

    if (mode_ == Mode::startup && round_sampled_) {
        const uint64_t rate = rate_bytes_per_s();
        if (static_cast<double>(rate) >= kFullGrowth * static_cast<double>(full_rate_)) {
            full_rate_ = rate;
            full_rounds_ = 0;
        } else {
            ++full_rounds_;
        }
    }
    // The filter moves on only when a round showed what the path can do.
    if (round_sampled_) {
        if (counted && loss > kLossShrink && mode_ != Mode::startup) {
            const uint64_t newest = filter_[round_ % kFilterRounds];
            const uint64_t before = filter_[(round_ + kFilterRounds - 1) % kFilterRounds];
            filter_.fill(0);
            filter_[round_ % kFilterRounds] = newest;
            filter_[(round_ + kFilterRounds - 1) % kFilterRounds] = before;
        }
        ++round_;
        filter_[round_ % kFilterRounds] = 0;
    }
    if (mode_ == Mode::startup && counted && loss > kLossShrink && round_acked_ > 0)
        full_rounds_ = kFullRounds;
    round_sampled_ = false;
    round_outage_ = after_outage;
    round_acked_ = round_lost_ = 0;
    round_end_delivered_ = delivered_;
}

void RateControl::enter_steady(uint64_t now_ns) {
    mode_ = Mode::steady;
    phase_ = 2;
    phase_at_ns_ = now_ns;
    phase_lost_ = false;
    pacing_gain_ = kCycle[phase_];
    window_gain_ = kWindowGain;
}

void RateControl::update_mode(uint64_t now_ns, uint64_t inflight) {
    if (mode_ == Mode::startup && full_rounds_ >= kFullRounds) {
        mode_ = Mode::drain;
        pacing_gain_ = kDrainGain;
    }
    if (mode_ == Mode::drain && inflight <= bdp_bytes()) enter_steady(now_ns);
    if (mode_ == Mode::steady) update_cycle(now_ns, inflight);
    update_probe_rtt(now_ns);
}

void RateControl::update_cycle(uint64_t now_ns, uint64_t inflight) {
    const uint64_t elapsed = now_ns - phase_at_ns_;
    const uint64_t rtt = min_rtt_ns();
    bool over = elapsed >= rtt;
    if (pacing_gain_ > 1) {
        // Push until the extra is really in flight, or the path objects.
        over = over &&
               (phase_lost_ || inflight >= scaled(bdp_bytes(), pacing_gain_) || elapsed >= 2 * rtt);
    } else if (pacing_gain_ < 1) {
        over = over || inflight <= bdp_bytes();
    }
    if (!over) return;
    phase_ = (phase_ + 1) % kCycle.size();
    phase_at_ns_ = now_ns;
    phase_lost_ = false;
    pacing_gain_ = kCycle[phase_];
}

void RateControl::update_probe_rtt(uint64_t now_ns) {
    if (mode_ == Mode::probe_rtt) {
        if (now_ns < probe_rtt_until_ns_) return;
        if (probe_min_ns_ != UINT64_MAX) min_rtt_ns_ = probe_min_ns_;
        min_rtt_at_ns_ = now_ns;
        if (full_rounds_ >= kFullRounds) {
            enter_steady(now_ns);
        } else {
            mode_ = Mode::startup;
            pacing_gain_ = kStartupGain;
            window_gain_ = kWindowGain;
        }
        return;
    }
    if (min_rtt_ns_ == UINT64_MAX || now_ns - min_rtt_at_ns_ < kRttWindowNs) return;
    // The minimum is old: let the queue run dry for a moment and measure again.
    mode_ = Mode::probe_rtt;
    pacing_gain_ = 1;
    window_gain_ = kProbeRttGain;
    probe_min_ns_ = UINT64_MAX;
    probe_rtt_until_ns_ = now_ns + std::max(kProbeRttNs, 2 * min_rtt_ns_);
}

void RateControl::update_outputs() {
    const uint64_t wanted = scaled(rate_bytes_per_s(), pacing_gain_ * kMargin);
    pacing_ = std::clamp(wanted, std::max<uint64_t>(limits_.floor_bytes_per_s, 1),
                         limits_.ceiling_bytes_per_s);
    const uint64_t rate =
        std::clamp(rate_bytes_per_s(), limits_.floor_bytes_per_s, limits_.ceiling_bytes_per_s);
    window_bytes_ =
        std::max(kWindowMinBytes, scaled(bytes_in(rate, min_rtt_ns()), window_gain_) +
                                      kWindowAllowanceBytes + bytes_in(rate, kAckDelayNs));
}

}  // namespace evac::wan
