#pragma once
// The receiving half of one class in one session: reassembles messages, delivers them in order once
// each, and says how much more may come. Memory: at most `window_bytes` of messages plus a fixed
// table.
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/wan/types.hpp"
#include "packet.hpp"

namespace evac::wan {

inline constexpr size_t kReceiveMessagesMax = 1024;  // incomplete or not taken, per class
inline constexpr size_t kIntervalsMax = 64;          // separate pieces of one message

// Disjoint, not adjacent, ascending [begin, end) pieces; fixed capacity.
class IntervalSet {
  public:
    struct Interval {
        uint32_t begin = 0, end = 0;
    };
    // False when the piece would need one interval more than there is room for; then nothing
    // changed.
    bool insert(uint32_t begin, uint32_t end);
    // Whether inserting adds a separate interval.
    bool separate(uint32_t begin, uint32_t end) const;
    size_t size() const { return size_; }
    uint64_t covered() const;
    void clear() { size_ = 0; }

  private:
    std::array<Interval, kIntervalsMax> items_{};
    size_t size_ = 0;
};

class ReceiveStream {
  public:
    explicit ReceiveStream(size_t window_bytes)
        : window_bytes_(window_bytes), slots_(kReceiveMessagesMax) {}

    enum class Verdict : uint8_t { ok, duplicate, flow_violation, inconsistent, full };
    // Whether `fragment` may be applied; `planned_bytes` is the cost of new messages already
    // checked in this packet and grows by this one's.
    Verdict check(const Fragment& fragment, uint64_t& planned_bytes) const;
    // After check() said ok or duplicate for all fragments of the packet; ignores duplicates.
    void apply(const Fragment& fragment);

    std::optional<Bytes> take();
    bool ready() const {
        return next_ < kVarintMax && slots_[next_ % kReceiveMessagesMax].complete;
    }

    Credit credit() const { return {taken_cost_ + window_bytes_, next_ + kReceiveMessagesMax}; }
    static size_t table_bytes() {
        return sizeof(ReceiveStream) + kReceiveMessagesMax * sizeof(Slot);
    }
    uint64_t held_bytes() const { return reserved_cost_; }
    uint64_t received_messages() const { return received_messages_; }  // completed
    uint64_t received_bytes() const { return received_bytes_; }

  private:
    struct Slot {
        Bytes bytes;
        IntervalSet pieces;
        bool active = false;
        bool complete = false;
    };
    size_t window_bytes_;
    std::vector<Slot> slots_;
    uint64_t next_ = 0;           // next message to take
    uint64_t reserved_cost_ = 0;  // of messages active and not taken
    uint64_t taken_cost_ = 0;
    uint64_t received_messages_ = 0;
    uint64_t received_bytes_ = 0;
};

}  // namespace evac::wan
