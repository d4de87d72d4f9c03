#pragma once
// Which packet numbers arrived, as ranges to acknowledge, and when an acknowledgement is due.
#include <algorithm>
#include <array>
#include <cstdint>

#include "packet.hpp"

namespace evac::wan {

class AckTracker {
  public:
    static constexpr uint32_t kAckEvery = 8;            // packets that ask for one
    static constexpr uint64_t kAckDelayNs = 2'000'000;  // or after this long
    static constexpr uint64_t kNever = UINT64_MAX;

    bool empty() const { return count_ == 0; }
    bool pending() const { return pending_ > 0; }
    uint64_t due_ns() const { return due_ns_; }

    void on_received(uint64_t now_ns, uint64_t number, bool elicits_ack) {
        const bool newest = count_ == 0 || number > ranges_[0].last;
        const bool in_order = count_ == 0 || number == ranges_[0].last + 1;
        insert(number);
        if (newest) newest_at_ns_ = now_ns;
        if (!elicits_ack) return;
        ++pending_;
        if (pending_ >= kAckEvery || !in_order) {
            due_ns_ = 0;
        } else {
            due_ns_ = std::min(due_ns_, now_ns + kAckDelayNs);
        }
    }

    // Fills everything but the credit; marks the acknowledgement as sent.
    void fill(uint64_t now_ns, AckFrame& ack) {
        ack.range_count = count_;
        std::copy_n(ranges_.begin(), count_, ack.ranges.begin());
        ack.delay_us = (now_ns - newest_at_ns_) / 1000;
        pending_ = 0;
        due_ns_ = kNever;
    }

  private:
    // Descending and not adjacent; when full the lowest is forgotten (its packets are then sent
    // again).
    void insert(uint64_t number) {
        size_t at = 0;
        while (at < count_ && ranges_[at].first > number + 1) ++at;
        if (at < count_ && number <= ranges_[at].last + 1 && number + 1 >= ranges_[at].first) {
            ranges_[at].first = std::min(ranges_[at].first, number);
            ranges_[at].last = std::max(ranges_[at].last, number);
            if (at + 1 < count_ && ranges_[at + 1].last + 1 == ranges_[at].first) {
                ranges_[at].first = ranges_[at + 1].first;
                erase(at + 1);
            }
            return;
        }
        if (at == kAckRangesMax) return;
        if (count_ == kAckRangesMax) --count_;
        for (size_t i = count_; i > at; --i) ranges_[i] = ranges_[i - 1];
        ranges_[at] = {number, number};
        ++count_;
    }
    void erase(size_t at) {
        for (size_t i = at; i + 1 < count_; ++i) ranges_[i] = ranges_[i + 1];
        --count_;
    }

    std::array<AckRange, kAckRangesMax> ranges_{};
    size_t count_ = 0;
    uint32_t pending_ = 0;
    uint64_t due_ns_ = kNever;
    uint64_t newest_at_ns_ = 0;
};

}  // namespace evac::wan
