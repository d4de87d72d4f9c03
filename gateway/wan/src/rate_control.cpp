#include "rate_control.hpp"

#include <algorithm>
#include <cmath>

namespace evac::wan {
namespace {

constexpr double kWindowMinBytes = 12'000;   // 8 packets
constexpr uint64_t kFullSlackBytes = 3'000;  // the window is full when less than this is left
constexpr double kAllowanceBytes = 12'000;   // acknowledgements come for several packets at once
constexpr double kPacingGain = 1.1;          // the window limits; pacing only spreads
constexpr double kFilterRoom = 2.5;  // the window stays below this much of the measured rate
constexpr uint64_t kRoundBytesMin = 24'000;  // fewer say nothing about loss

constexpr uint32_t kTrainPacketsMin = 24;
constexpr uint64_t kTrainSpeed = 40;  // the train goes out at this many times the start rate
constexpr double kTrainShare = 0.97;  // of the rate that the train showed

constexpr double kGrowthStep = 2;
constexpr uint32_t kGrowthStepsMax = 12;
constexpr double kScavengerStep = 0.15;          // of the rate known, per round
constexpr uint64_t kYieldMemoryNs = 20'000'000;  // and three round trips
constexpr uint64_t kPeakMemoryNs = 20'000'000'000;
constexpr double kScavengerPacingGain = 1.03;
constexpr uint64_t kScavengerBlindNs = 5'000'000;  // of the queue: full before we see it
constexpr double kScavengerQueueShare = 0.5;
constexpr double kScavengerGrowth = 0.02;  // first step beyond the rate known
constexpr uint64_t kScavengerTargetNs = 600'000;
constexpr uint64_t kHoldRounds = 3;
constexpr uint64_t kHoldMinNs = 200'000'000;
constexpr uint64_t kHoldMaxNs = 600'000'000;
constexpr uint32_t kStuckRounds = 4;
constexpr std::array<double, 8> kCompeteCycle{1.25, 0.75, 1, 1, 1, 1, 1, 1};
constexpr uint64_t kUndoRounds = 4;
constexpr uint64_t kUndoExtraNs = 1'000'000'000;
constexpr uint64_t kFirstPeakNs = 50'000'000;  // queueing delay expected before any was seen
constexpr double kCompeteWindow = 1.25;        // of what the rate keeps under way, queue included
constexpr uint64_t kBaseFreshNs = 10'000'000'000;
constexpr uint64_t kDrainExtraNs = 1'000'000;  // taken out beyond our queue, so that it runs dry
constexpr uint64_t kOverflowMemoryNs = 60'000'000'000;

uint64_t scaled(uint64_t value, double factor) {
    return static_cast<uint64_t>(static_cast<double>(value) * factor);
}

double bytes_in(uint64_t rate, uint64_t ns) {
    return static_cast<double>(rate) * static_cast<double>(ns) / 1e9;
}

}  // namespace

RateControl::RateControl(const RateLimits& limits, uint64_t now_ns)
    : limits_(limits), delivered_ns_(now_ns) {
    first_sent_ns_ = now_ns;
    next_send_ns_ = now_ns;
    window_ = 2 * bytes_in(limits.start_bytes_per_s, kInitialRttNs);
    update_outputs();
}

void RateControl::set_ceiling(uint64_t bytes_per_s) {
    limits_.ceiling_bytes_per_s = std::max(bytes_per_s, limits_.floor_bytes_per_s);
    update_outputs();
}

void RateControl::set_scavenger(bool on) {
    if (scavenger_ == on) return;
    scavenger_ = on;
    undo_ = {};  // of another way to share
    if (mode_ == Mode::compete) {
        mode_ = Mode::steady;
        window_ = bytes_in(rate_bytes_per_s(), min_rtt_ns());
    }
    stuck_rounds_ = empty_rounds_ = 0;
    update_outputs();
}

void RateControl::restart(uint64_t now_ns) {
    limits_.start_bytes_per_s =
        std::clamp(rate_bytes_per_s() / 2, limits_.floor_bytes_per_s, limits_.ceiling_bytes_per_s);
    delay_.forget();
    filter_.fill(0);
    overflow_ns_ = UINT64_MAX;
    undo_ = {};
    mode_ = Mode::startup;
    train_.restart();
    window_ = bytes_in(limits_.start_bytes_per_s, kInitialRttNs);
    reference_rate_ = 0;
    scavenger_peak_ns_ = kFirstPeakNs;
    yields_ = 0;
    hold_until_ns_ = range_at_ns_ = 0;
    empty_rounds_ = stuck_rounds_ = 0;
    round_acked_ = round_lost_ = round_peak_ns_ = last_peak_ns_ = 0;
    restarted_ns_ = now_ns;
    next_send_ns_ = next_urgent_ns_ = now_ns;
    update_outputs();
}

uint64_t RateControl::rate_bytes_per_s() const {
    const uint64_t best = *std::max_element(filter_.begin(), filter_.end());
    return best == 0 ? limits_.start_bytes_per_s : best;
}

uint64_t RateControl::open_ns(uint64_t inflight) const {
    if (inflight < window_bytes_) return 0;
    const uint64_t gap = static_cast<uint64_t>(static_cast<double>(inflight - window_bytes_ + 1) *
                                               1e9 / static_cast<double>(rate_bytes_per_s()));
    return gap > kAckGapNs ? UINT64_MAX : ack_at_ns_ + gap;
}

// ---- pacing ----

void RateControl::charge(uint64_t now_ns, uint64_t bytes, bool urgent) {
    const uint64_t earliest = now_ns > kBurstNs ? now_ns - kBurstNs : 0;
    const auto cost = [bytes](uint64_t rate) {
        return static_cast<uint64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(rate));
    };
    next_send_ns_ = std::max(next_send_ns_, earliest) + cost(pacing_);
    if (!scavenger_ || !urgent) return;
    // What is urgent delays bulk, but not for longer than it may itself run ahead.
    next_urgent_ns_ = std::max(next_urgent_ns_, earliest) + cost(urgent_rate_bytes_per_s());
    next_send_ns_ = std::min(next_send_ns_, std::max(next_urgent_ns_, now_ns + kUrgentDebtNs));
}

uint64_t RateControl::urgent_rate_bytes_per_s() const {
    const uint64_t wanted = kUrgentWindowBytes * 1'000'000'000 / (min_rtt_ns() + queue_delay_ns());
    return std::min(std::max(pacing_, wanted), limits_.ceiling_bytes_per_s);
}

// ---- accounting ----

DeliverySnapshot RateControl::on_sent(uint64_t now_ns, uint64_t inflight_before) {
    if (inflight_before == 0) {
        first_sent_ns_ = now_ns;
        delivered_ns_ = now_ns;
    }
    if (inflight_before + kFullSlackBytes >= window_bytes_) round_limited_ = true;
    uint32_t train = 0;
    if (mode_ == Mode::startup && train_.left > 0) {
        train = train_.id;
        ++train_.sent;
        if (--train_.left == 0) update_outputs();
    }
    return {delivered_, delivered_ns_, first_sent_ns_, train, app_limited_until_ != 0};
}

void RateControl::on_app_limited(uint64_t inflight) {
    app_limited_until_ = std::max<uint64_t>(delivered_ + inflight, 1);
    if (train_.left == 0 || train_.sent == 0) return;
    // Too short a train shows the application's rate, not the path's: the next data starts another.
    if (train_.sent < kTrainPackets / 2) {
        train_.restart();
    } else {
        train_.left = 0;
    }
    update_outputs();
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
    if (mode_ == Mode::startup) watch_train(now_ns, bytes, snapshot);
}

// The train left faster than the path can carry it; the spacing of what arrived is the path's rate.
void RateControl::watch_train(uint64_t now_ns, uint64_t bytes, const DeliverySnapshot& snapshot) {
    if (train_.id == 0) return;  // judged
    if (snapshot.train == train_.id) {
        ++train_.seen;
        if (train_.first_ns == 0) train_.first_ns = now_ns;
        if (now_ns > train_.first_ns) train_.bytes += bytes;
        train_.last_ns = now_ns;
        if (train_.left > 0 || train_.seen < train_.sent) return;
    } else if (train_.left > 0 || train_.seen == 0 || snapshot.train != 0) {
        return;
    }
    const bool usable = train_.seen >= kTrainPacketsMin && train_.last_ns > train_.first_ns &&
                        delay_.known() && train_.bytes > 0;
    train_.id = 0;  // judged once
    if (!usable) return;
    const double rate = static_cast<double>(train_.bytes) * 1e9 /
                        static_cast<double>(train_.last_ns - train_.first_ns);
    const double most = static_cast<double>(limits_.start_bytes_per_s * kTrainSpeed);
    train_rate_ = static_cast<uint64_t>(kTrainShare * std::min(rate, most));
}

void RateControl::on_ack_end(uint64_t now_ns, uint64_t inflight, uint64_t lost_bytes,
                             bool after_outage) {
    (void)inflight;
    round_lost_ += lost_bytes;
    round_outage_ = round_outage_ || after_outage;
    if (after_outage) delay_.forget_standing();
    if (ack_bytes_ == 0) return;
    ack_at_ns_ = now_ns;
    if (app_limited_until_ != 0 && delivered_ > app_limited_until_) app_limited_until_ = 0;
    if (delay_.known()) round_peak_ns_ = std::max(round_peak_ns_, delay_.newest_ns());

    const bool round_over = ack_newest_.delivered_bytes >= round_end_delivered_;
    take_sample(now_ns);
    if (mode_ == Mode::startup) {
        if (train_rate_ > 0) {
            window_ = bytes_in(train_rate_, min_rtt_ns());
            reference_rate_ = train_rate_;
            yielded_ns_ = now_ns;  // the queue that the train left is our own
            enter_steady();
        } else if (round_limited_ && train_.left == 0) {
            window_ += static_cast<double>(ack_bytes_);
        }
    }
    if (scavenger_ && mode_ == Mode::steady && delay_.known() && !after_outage) yield(now_ns);
    if (round_over) end_round(now_ns, after_outage);
    ack_bytes_ = 0;
    if (mode_ == Mode::drain && now_ns >= drain_until_ns_) finish_drain(now_ns);
    update_outputs();
}

void RateControl::take_sample(uint64_t now_ns) {
    const uint64_t send_ns = ack_sent_ns_ - std::min(ack_newest_.first_sent_ns, ack_sent_ns_);
    const uint64_t ack_ns = now_ns - ack_newest_.delivered_ns;
    const uint64_t interval = std::max(send_ns, ack_ns);
    first_sent_ns_ = ack_sent_ns_;
    // Shorter than a round trip: the acknowledgements were bunched, the quotient means nothing.
    // A packet of another path says nothing about this one.
    if (interval < min_rtt_ns() || interval == 0 || ack_sent_ns_ < restarted_ns_) return;
    const uint64_t bytes = delivered_ - ack_newest_.delivered_bytes;
    const auto sample =
        static_cast<uint64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(interval));
    if (ack_newest_.app_limited && sample <= rate_bytes_per_s()) return;
    uint64_t& slot = filter_[round_ % kFilterRounds];
    slot = std::max(slot, sample);
    round_sampled_ = true;
}

void RateControl::end_round(uint64_t now_ns, bool after_outage) {
    const uint64_t total = round_acked_ + round_lost_;
    const double loss =
        total == 0 ? 0 : static_cast<double>(round_lost_) / static_cast<double>(total);
    const bool counted = !round_outage_ && total > 0;
    if (counted) loss_smoothed_ += 0.1 * (loss - loss_smoothed_);
    // What was lost so long ago does not come any more.
    const uint64_t undo_ns = 2 * kUndoRounds * (min_rtt_ns() + last_peak_ns_) + kUndoExtraNs;
    if (undo_.total_bytes > 0 && now_ns - undo_.at_ns > undo_ns) undo_ = {};
    // The filter moves on only when a round showed what the path can do.
    if (round_sampled_) {
        ++round_;
        filter_[round_ % kFilterRounds] = 0;
    }
    if (overflow_ns_ != UINT64_MAX) {
        overflow_ns_ = std::max(overflow_ns_, round_peak_ns_);
        if (now_ns - overflow_at_ns_ > kOverflowMemoryNs) overflow_ns_ = UINT64_MAX;
    }
    if (counted && loss > kLossCut && total >= kRoundBytesMin) {
        cut(now_ns);
    } else if (delay_.known() && !round_outage_) {
        step(now_ns);
    }
    last_peak_ns_ = round_peak_ns_;
    round_peak_ns_ = 0;
    round_sampled_ = round_limited_ = false;
    round_outage_ = after_outage;
    round_acked_ = round_lost_ = 0;
    round_end_delivered_ = delivered_;
}

// ---- the window ----

// More was lost than chance explains: back to what arrived, and the queue must stay shorter.
void RateControl::cut(uint64_t now_ns) {
    const uint64_t total = round_acked_ + round_lost_;
    if (undo_.total_bytes > 0 &&
        now_ns - undo_.at_ns < kUndoRounds * (min_rtt_ns() + last_peak_ns_)) {
        // One event cut in several rounds is undone as one.
        undo_.lost_bytes += round_lost_;
        undo_.total_bytes += total;
    } else {
        undo_ = {window_, overflow_ns_, round_lost_, total, filter_, mode_, now_ns};
    }
    const uint64_t newest = filter_[(round_ + kFilterRounds - 1) % kFilterRounds];
    if (newest > 0) {
        filter_.fill(0);
        filter_[(round_ + kFilterRounds - 1) % kFilterRounds] = newest;
    }
    if (delay_.known()) {
        overflow_ns_ = std::max(round_peak_ns_, last_peak_ns_);
        overflow_at_ns_ = now_ns;
    }
    window_ = std::max(std::min(window_, static_cast<double>(round_acked_)), kWindowMinBytes);
    if (mode_ == Mode::startup && delay_.known()) enter_steady();
    if (mode_ == Mode::drain) mode_ = Mode::steady;
    empty_rounds_ = stuck_rounds_ = 0;
}

void RateControl::on_spurious(uint64_t bytes) {
    round_lost_ -= std::min(round_lost_, bytes);
    if (undo_.total_bytes == 0) return;
    undo_.lost_bytes -= std::min(undo_.lost_bytes, bytes);
    if (static_cast<double>(undo_.lost_bytes) >
        kLossCut / 2 * static_cast<double>(undo_.total_bytes))
        return;
    window_ = std::max(window_, undo_.window);
    overflow_ns_ = undo_.overflow_ns;
    for (size_t i = 0; i < kFilterRounds; ++i) filter_[i] = std::max(filter_[i], undo_.filter[i]);
    if (undo_.mode == Mode::compete) mode_ = Mode::compete;
    undo_ = {};
    ++undone_;
    update_outputs();
}

void RateControl::enter_steady() {
    mode_ = Mode::steady;
    train_.left = 0;
    train_rate_ = 0;
    empty_rounds_ = stuck_rounds_ = 0;
}

uint64_t RateControl::target_ns() const {
    // Unevenness of the hosts must not look like somebody else's queue.
    if (scavenger_ && mode_ != Mode::startup) return kScavengerTargetNs + delay_.spread_ns();
    return std::clamp(overflow_ns_ / 2, kTargetMinNs, kTargetNs);
}

void RateControl::step(uint64_t now_ns) {
    reference_rate_ = std::max(
        rate_bytes_per_s(),
        scaled(reference_rate_, 1 - std::min(0.5, static_cast<double>(delay_.base_ns()) / 1e12)));
    switch (mode_) {
        case Mode::startup:
            if (delay_.standing_ns() > target_ns()) enter_steady();
            break;
        case Mode::steady:
            if (scavenger_) {
                step_scavenger(now_ns);
            } else {
                step_steady();
            }
            if (mode_ == Mode::steady) maybe_drain(now_ns);
            break;
        case Mode::compete:
            phase_ = (phase_ + 1) % kCompeteCycle.size();
            if (delay_.base_age_ns(now_ns) > kBaseFreshNs) refresh_base(now_ns);
            if (delay_.standing_ns() <= target_ns()) {
                window_ = bytes_in(rate_bytes_per_s(), delay_.base_ns() + target_ns());
                enter_steady();
            }
            break;
        case Mode::drain:
            break;
    }
}

// Half of the way to where our queue is the target.
void RateControl::follow_queue() {
    const auto queue = static_cast<double>(delay_.standing_ns());
    const double rtt = static_cast<double>(delay_.base_ns()) + queue;
    const double wanted = window_ / rtt * static_cast<double>(target_ns());
    const double change = 0.5 * (wanted - window_ / rtt * queue);
    empty_rounds_ = 0;
    grown_ = false;
    if (change < 0 || round_limited_) window_ += change;
}

// A full window and no queue: the path carries more than we thought. Each step is twice the
// one before.
void RateControl::probe_growth(double first) {
    if (!round_limited_) return;
    // What is sent after a step shows in the queue only a round after the next acknowledgement;
    // no need to look below a rate that the path has carried before.
    const bool known = window_ < 0.5 * bytes_in(reference_rate_, min_rtt_ns());
    grown_ = known || !grown_;
    if (!grown_) return;
    const double most = kFilterRoom * bytes_in(rate_bytes_per_s(), min_rtt_ns()) + kAllowanceBytes;
    if (window_ >= most) return;
    const double step = std::min(1.0, first * std::pow(kGrowthStep, empty_rounds_));
    empty_rounds_ = std::min(empty_rounds_ + 1, kGrowthStepsMax);
    window_ = std::min(window_ * (1 + step), most);
}

void RateControl::step_steady() {
    const uint64_t queue = delay_.standing_ns();
    if (queue <= 2 * target_ns()) {
        stuck_rounds_ = 0;
        if (queue >= target_ns() / 4) return follow_queue();
        const auto rtt = static_cast<double>(delay_.base_ns() + queue);
        return probe_growth(0.5 * static_cast<double>(target_ns()) / rtt);
    }
    // Take out our share at once. If the queue stays, it is not ours.
    empty_rounds_ = 0;
    if (++stuck_rounds_ == 1) before_cut_ = window_;
    if (stuck_rounds_ % 2 == 1) {
        window_ *= static_cast<double>(delay_.base_ns() + target_ns()) /
                   static_cast<double>(delay_.base_ns() + queue);
    }
    if (stuck_rounds_ < kStuckRounds) return;
    mode_ = Mode::compete;
    phase_ = 0;
    window_ = before_cut_;
    stuck_rounds_ = 0;
    delay_.restart_range();
}

// A queue beyond the target: our share of it goes at once. If that did not help it is somebody
// else's: half of the window each round trip until it is gone, and not back before kHold* later, so
// that a flow that starts or recovers finds the line free.
void RateControl::yield(uint64_t now_ns) {
    const uint64_t queue = delay_.standing_ns();
    if (queue <= yield_above_ns()) return;
    const uint64_t rtt = delay_.base_ns() + queue;
    const uint64_t since_ns = now_ns - yielded_ns_;
    // What the last step did shows a round trip later, and a queue takes its length to drain.
    if (since_ns < rtt + queue) return;
    yields_ = since_ns > 3 * rtt + kYieldMemoryNs ? 0 : yields_ + 1;
    yielded_ns_ = now_ns;
    empty_rounds_ = 0;
    if (yields_ == 0) {
        const auto base = static_cast<double>(delay_.base_ns());
        window_ = std::max(window_ * base / static_cast<double>(rtt), scavenger_floor());
        hold_until_ns_ = now_ns + rtt;
        return;
    }
    window_ = std::max(window_ / 2, scavenger_floor());
    hold_until_ns_ = now_ns + std::clamp(kHoldRounds * rtt, kHoldMinNs, kHoldMaxNs);
}

// Our own unevenness grows with the round trip: it must not look like somebody else.
uint64_t RateControl::yield_above_ns() const {
    return 2 * target_ns() + delay_.base_ns() / 64;
}

void RateControl::step_scavenger(uint64_t now_ns) {
    const double round = static_cast<double>(delay_.base_ns()) / static_cast<double>(kPeakMemoryNs);
    scavenger_peak_ns_ =
        std::max(round_peak_ns_, scaled(scavenger_peak_ns_, 1 - std::min(round, 0.5)));
    const uint64_t queue = delay_.standing_ns();
    if (queue > yield_above_ns()) {
        if (delay_.base_age_ns(now_ns) > kBaseFreshNs) refresh_base(now_ns);
        return;
    }
    if (now_ns < hold_until_ns_) return;
    if (queue >= target_ns() / 2) return follow_queue();
    if (!round_limited_) return;
    // Even steps: what is too much by the time the queue shows must still fit into the queue.
    const uint64_t room = scavenger_peak_ns_ - std::min(scavenger_peak_ns_, kScavengerBlindNs);
    const double share = std::clamp(
        kScavengerQueueShare * static_cast<double>(room) / static_cast<double>(delay_.base_ns()),
        kScavengerGrowth, kScavengerStep);
    const double known = 0.97 * bytes_in(reference_rate_, delay_.base_ns());
    if (window_ < known) {
        window_ = std::min(window_ + share * known, known);
    } else {
        probe_growth(kScavengerGrowth);
    }
}

double RateControl::scavenger_floor() const {
    return std::max(kWindowMinBytes, 0.02 * bytes_in(reference_rate_, min_rtt_ns()));
}

// ---- the base delay ----

void RateControl::maybe_drain(uint64_t now_ns) {
    if (delay_.base_age_ns(now_ns) < kBaseFreshNs) return;
    const uint64_t queue = delay_.standing_ns();
    if (queue > 2 * target_ns() || !round_limited_) return;
    mode_ = Mode::drain;
    drained_window_ = window_;
    const uint64_t rtt = delay_.base_ns() + queue;
    window_ *=
        static_cast<double>(delay_.base_ns() - std::min(kDrainExtraNs, delay_.base_ns() / 4)) /
        static_cast<double>(rtt);
    drain_until_ns_ = now_ns + rtt + rtt / 4 + 4'000'000;
    delay_.restart_range();
}

void RateControl::finish_drain(uint64_t now_ns) {
    mode_ = Mode::steady;
    window_ = std::max(window_, drained_window_);
    delay_.set_base(now_ns, delay_.least_ns());
    delay_.forget_standing();
}

// The queue never ran dry since kBaseFreshNs and is not ours to drain. Without another's traffic
// the delay would be steady: then the path itself has become longer. While scavenging a delay that
// moves is another's queue, and the old base holds for kBaseMemoryNs.
void RateControl::refresh_base(uint64_t now_ns) {
    const uint64_t age = delay_.base_age_ns(now_ns);
    if (range_at_ns_ == 0 || now_ns - range_at_ns_ > 2 * kBaseFreshNs) {
        range_at_ns_ = now_ns;
        delay_.restart_range();
        return;
    }
    if (now_ns - range_at_ns_ < kBaseFreshNs) return;
    range_at_ns_ = 0;
    const bool steady = delay_.range_ns() < 2 * target_ns();
    if (!scavenger_ || steady || age > kBaseMemoryNs) delay_.set_base(now_ns, delay_.least_ns());
}

// ---- outputs ----

void RateControl::update_outputs() {
    const uint64_t floor = std::max<uint64_t>(limits_.floor_bytes_per_s, 1);
    const uint64_t rtt = min_rtt_ns() + queue_delay_ns();
    const double most = kFilterRoom * bytes_in(limits_.ceiling_bytes_per_s, rtt) + kAllowanceBytes;
    window_ = std::clamp(window_, kWindowMinBytes, std::max(most, kWindowMinBytes));
    double window = window_;
    double pacing = (scavenger_ ? kScavengerPacingGain : kPacingGain) * window_ * 1e9 /
                    static_cast<double>(rtt);
    if (mode_ == Mode::startup) {
        const auto start = static_cast<double>(limits_.start_bytes_per_s);
        pacing =
            train_.left > 0 ? start * static_cast<double>(kTrainSpeed) : std::max(start, pacing);
    } else if (mode_ == Mode::compete) {
        const uint64_t rate = std::max(rate_bytes_per_s(), floor);
        pacing = kCompeteCycle[phase_] * static_cast<double>(rate);
        window = kCompeteWindow * bytes_in(rate, rtt) + kAllowanceBytes;
    }
    window_bytes_ = static_cast<uint64_t>(std::max(window, kWindowMinBytes));
    pacing_ = std::clamp(static_cast<uint64_t>(pacing), floor, limits_.ceiling_bytes_per_s);
}

}  // namespace evac::wan
