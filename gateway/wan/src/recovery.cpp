#include "recovery.hpp"

#include <algorithm>

namespace evac::wan {

Recovery::Recovery(RateControl& rate, uint64_t probe_interval_ns, uint64_t now_ns)
    : rate_(rate),
      probe_interval_ns_(probe_interval_ns),
      packets_(kInflightPacketsMax),
      progress_ns_(now_ns) {}

SentPacket& Recovery::prepare() {
    SentPacket& p = at(next_number_);
    p.number = UINT64_MAX;
    p.state = SentPacket::State::none;
    p.chunk_count = 0;
    p.mtu_probe = false;
    p.carries_move = false;
    return p;
}

void Recovery::on_sent(uint64_t now_ns, uint32_t wire_bytes, bool elicits_ack) {
    SentPacket& p = at(next_number_);
    p.number = next_number_++;
    p.sent_ns = now_ns;
    p.wire_bytes = wire_bytes;
    p.run_low = p.number;
    if (!elicits_ack) {
        // Never acknowledged on its own; counts as dealt with.
        p.state = SentPacket::State::none;
        return;
    }
    p.snapshot = rate_.on_sent(now_ns, inflight_);
    p.state = SentPacket::State::outstanding;
    inflight_ += wire_bytes;
    if (outstanding_++ == 0) progress_ns_ = std::max(progress_ns_, now_ns);
    pto_from_ns_ = now_ns;
}

void Recovery::account_acked(uint64_t now_ns, SentPacket& p) {
    if (p.state == SentPacket::State::none) return;
    if (newest_ == nullptr || p.number > newest_->number) newest_ = &p;
    if (p.state == SentPacket::State::lost) {
        if (!p.mtu_probe) ++spurious_packets_;
        if (counts(p)) {
            rate_.on_spurious(p.wire_bytes);
            const uint64_t took = now_ns - p.sent_ns;
            const uint64_t expected = std::max(srtt_ns_, latest_rtt_ns_);
            if (took > expected)
                reorder_ns_ = std::max(reorder_ns_, std::min(took - expected, srtt_ns_));
        }
    } else {
        inflight_ -= p.wire_bytes;
        --outstanding_;
    }
    rate_.on_acked(now_ns, p.sent_ns, p.wire_bytes, p.snapshot);
    acked_generation_ = newest_->key_generation;
    acked_generation_valid_ = true;
}

void Recovery::finish_ack(uint64_t now_ns, const AckFrame& ack) {
    progress_ns_ = now_ns;
    pto_from_ns_ = now_ns;
    pto_count_ = 0;
    if (newest_ == nullptr) return;
    if (newest_->number == ack.ranges[0].last && newest_->number >= path_first_)
        sample_rtt(now_ns, now_ns - newest_->sent_ns, ack.delay_us * 1000);
    if (!has_acked_ || newest_->number > largest_acked_) {
        largest_acked_ = newest_->number;
        has_acked_ = true;
    }
}

void Recovery::sample_rtt(uint64_t now_ns, uint64_t rtt_ns, uint64_t delay_ns) {
    if (delay_ns > kPeerAckDelayNs) {
        // Longer than acknowledgements are held back: earlier ones were lost (an outage of that
        // direction). The time until this one is not the path's.
        rtt_ns =
            std::max(rtt_ns - std::min(rtt_ns, delay_ns), std::min(rtt_ns, rate_.min_rtt_ns()));
        delay_ns = 0;
    }
    delay_ns = std::min({delay_ns, kPeerAckDelayNs, rtt_ns / 2});
    rate_.on_rtt(now_ns, rtt_ns - delay_ns);
    const uint64_t floor_ns = rate_.min_rtt_ns();
    latest_rtt_ns_ = rtt_ns;
    if (rtt_ns > floor_ns + delay_ns) rtt_ns -= delay_ns;
    if (!has_rtt_) {
        has_rtt_ = true;
        srtt_ns_ = rtt_ns;
        rttvar_ns_ = rtt_ns / 2;
        return;
    }
    const uint64_t deviation = srtt_ns_ > rtt_ns ? srtt_ns_ - rtt_ns : rtt_ns - srtt_ns_;
    rttvar_ns_ = (3 * rttvar_ns_ + deviation) / 4;
    srtt_ns_ = (7 * srtt_ns_ + rtt_ns) / 8;
    reorder_ns_ -= reorder_ns_ / 1024;
}

void Recovery::on_path_change(uint64_t now_ns, bool forget_rtt) {
    path_first_ = next_number_;
    pto_from_ns_ = now_ns;
    pto_count_ = 0;
    if (!forget_rtt) return;
    has_rtt_ = false;
    latest_rtt_ns_ = 0;
    reorder_ns_ = 0;
}

void Recovery::count_run(uint64_t number) {
    if (number != run_next_) {
        run_length_ = 0;
        ++runs_;
    }
    run_next_ = number + 1;
    if (++run_length_ <= kRunMax) ++run_packets_;
    if (runs_ < kRunsMax) return;
    runs_ /= 2;
    run_packets_ /= 2;
}

uint64_t Recovery::loss_delay_ns() const {
    const uint64_t rtt = std::max(smoothed_rtt_ns(), latest_rtt_ns_);
    return rtt + std::max({rtt / 8, reorder_ns_ + reorder_ns_ / 8, kGranularityNs});
}

uint64_t Recovery::pto_ns() const {
    if (!has_rtt_) return 2 * RateControl::kInitialRttNs;
    return srtt_ns_ + std::max(4 * rttvar_ns_, kGranularityNs) + kPeerAckDelayNs;
}

uint64_t Recovery::pto_timer_ns() const {
    if (outstanding_ == 0) return UINT64_MAX;
    // No exponential back-off: after two tries, a probe at the fixed interval for as long as the
    // outage lasts.
    return pto_from_ns_ + (pto_count_ < 2 ? pto_ns() : probe_interval_ns_);
}

void Recovery::on_pto(uint64_t now_ns) {
    ++pto_count_;
    pto_from_ns_ = now_ns;
}

}  // namespace evac::wan
