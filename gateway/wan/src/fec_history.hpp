#pragma once
// Copies of the payloads of recent packets by packet number, in shard form (fec_code.hpp): at the
// sender those that a parity may cover, at the receiver those that a parity may need. Memory: a
// fixed number of slots, allocated at the first use (a line without loss never pays for it).
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "evac/core/bytes.hpp"
#include "fec_code.hpp"

namespace evac::wan {

class FecHistory {
    struct Slot {
        uint64_t number = 0;
        uint32_t size = 0;  // 0 = empty
    };

  public:
    // What one with these arguments holds once it is used.
    static size_t bytes_for(size_t history_bytes, size_t payload_bytes_max) {
        return FecHistory(history_bytes, payload_bytes_max).bytes_used();
    }
    FecHistory(size_t history_bytes, size_t payload_bytes_max)
        : slot_bytes_(payload_bytes_max + kFecLengthBytes),
          slots_(std::max<size_t>(history_bytes / slot_bytes_, kFecMembersMax)) {}

    size_t slots() const { return slots_; }
    size_t memory_bytes() const { return bytes_ == nullptr ? 0 : bytes_used(); }

    // An older packet does not push out a newer one. A payload longer than a slot is not kept.
    void put(uint64_t number, ByteSpan payload) {
        if (payload.size() + kFecLengthBytes > slot_bytes_) return;
        if (bytes_ == nullptr) {
            bytes_ = std::make_unique_for_overwrite<std::byte[]>(slots_ * slot_bytes_);
            table_.resize(slots_);
        }
        Slot& slot = table_[number % slots_];
        if (slot.size != 0 && slot.number > number) return;
        slot.number = number;
        slot.size = static_cast<uint32_t>(payload.size() + kFecLengthBytes);
        std::byte* at = bytes_.get() + (number % slots_) * slot_bytes_;
        at[0] = static_cast<std::byte>(payload.size() & 0xff);
        at[1] = static_cast<std::byte>(payload.size() >> 8);
        std::memcpy(at + kFecLengthBytes, payload.data(), payload.size());
    }

    // The shard of a packet; empty when it is not held.
    ByteSpan shard(uint64_t number) const {
        if (table_.empty()) return {};
        const Slot& slot = table_[number % slots_];
        if (slot.size == 0 || slot.number != number) return {};
        return {bytes_.get() + (number % slots_) * slot_bytes_, slot.size};
    }

  private:
    size_t bytes_used() const { return slots_ * (slot_bytes_ + sizeof(Slot)); }

    size_t slot_bytes_;
    size_t slots_;
    std::unique_ptr<std::byte[]> bytes_;
    std::vector<Slot> table_;
};

}  // namespace evac::wan
