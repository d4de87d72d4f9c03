#pragma once
// The path's base delay and what stands in its queue, from RTT samples. Base: the least RTT seen,
// kept until `expire` adopts a fresh one. Standing queue: the least of the recent samples minus
// the base, so that jitter and late acknowledgements do not look like a queue.
#include <algorithm>
#include <array>
#include <cstdint>

namespace evac::wan {

class QueueDelay {
  public:
    static constexpr uint64_t kUnknown = UINT64_MAX;

    bool known() const { return base_ns_ != kUnknown; }
    uint64_t base_ns() const { return base_ns_; }
    uint64_t standing_ns() const { return over_base(std::min({slots_[0], slots_[1], slots_[2]})); }
    uint64_t newest_ns() const { return over_base(newest_ns_); }
    // Since a sample last came (nearly) down to the base.
    uint64_t base_age_ns(uint64_t now_ns) const { return now_ns - std::min(now_ns, base_at_ns_); }

    void on_sample(uint64_t now_ns, uint64_t rtt_ns) {
        newest_ns_ = rtt_ns;
        if (base_ns_ == kUnknown || rtt_ns <= base_ns_ + base_ns_ / kNearShare)
            base_at_ns_ = now_ns;
        base_ns_ = std::min(base_ns_, rtt_ns);
        if (now_ns - slot_at_ns_ >= slot_length_ns() && slot_samples_ >= kSlotSamples) {
            const uint64_t spread_ns = std::min(slot_most_ns_ - slots_[0], kSpreadMaxNs);
            spread_ns_ = (7 * spread_ns_ + spread_ns) / 8;
            slot_most_ns_ = 0;
            slots_[2] = slots_[1];
            slots_[1] = slots_[0];
            slots_[0] = kUnknown;
            slot_at_ns_ = now_ns;
            slot_samples_ = 0;
        }
        ++slot_samples_;
        slot_most_ns_ = std::max(slot_most_ns_, rtt_ns);
        slots_[0] = std::min(slots_[0], rtt_ns);
        least_ns_ = std::min(least_ns_, rtt_ns);
        most_ns_ = std::max(most_ns_, rtt_ns);
    }

    // How far samples lie apart within a few milliseconds: late wake-ups and jitter, no queue grows
    // so fast. Smoothed, at most kSpreadMaxNs.
    uint64_t spread_ns() const { return spread_ns_; }

    // The range of samples since the last call of restart_range().
    uint64_t least_ns() const { return least_ns_; }
    uint64_t range_ns() const { return least_ns_ == kUnknown ? 0 : most_ns_ - least_ns_; }
    void restart_range() {
        least_ns_ = kUnknown;
        most_ns_ = 0;
    }
    // The base was confirmed by other means (a drained queue) or is replaced by `base_ns`.
    void set_base(uint64_t now_ns, uint64_t base_ns) {
        if (base_ns == kUnknown) return;  // nothing was measured
        base_ns_ = base_ns;
        base_at_ns_ = now_ns;
    }
    void forget_standing() { slots_.fill(kUnknown); }
    void forget() { *this = QueueDelay(); }

  private:
    static constexpr uint64_t kNearShare = 128;  // "the base" within this share of itself
    static constexpr uint32_t kSlotSamples = 3;
    static constexpr uint64_t kSpreadMaxNs = 4'000'000;

    uint64_t over_base(uint64_t rtt_ns) const {
        return rtt_ns == kUnknown || rtt_ns <= base_ns_ ? 0 : rtt_ns - base_ns_;
    }
    uint64_t slot_length_ns() const { return std::max<uint64_t>(base_ns_ / 8, 2'000'000); }

    uint64_t base_ns_ = kUnknown;
    uint64_t base_at_ns_ = 0;
    uint64_t newest_ns_ = kUnknown;
    std::array<uint64_t, 3> slots_{kUnknown, kUnknown, kUnknown};
    uint64_t slot_at_ns_ = 0;
    uint32_t slot_samples_ = 0;
    uint64_t slot_most_ns_ = 0;
    uint64_t spread_ns_ = 0;
    uint64_t least_ns_ = kUnknown;
    uint64_t most_ns_ = 0;
};

}  // namespace evac::wan
