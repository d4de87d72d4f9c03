#include "retention.hpp"

#include <bit>
#include <cstring>

namespace evac::dedup {

Retention::Retention(uint64_t bytes_max)
    : slots_max_(bytes_max / kPageBytes), by_page_(std::bit_ceil(2 * slots_max_ + 2)) {}

size_t Retention::bucket_of(const PageKey& key) const {
    const size_t mask = by_page_.size() - 1;
    size_t at = std::hash<PageKey>()(key) & mask;
    while (by_page_[at] != 0 && slots_[by_page_[at] - 1].key != key) at = (at + 1) & mask;
    return at;
}

// What follows moves up, so that no search ends at the hole.
void Retention::erase_bucket(size_t hole) {
    const size_t mask = by_page_.size() - 1;
    for (size_t at = (hole + 1) & mask; by_page_[at] != 0; at = (at + 1) & mask) {
        const size_t home = std::hash<PageKey>()(slots_[by_page_[at] - 1].key) & mask;
        if (((at - home) & mask) < ((at - hole) & mask)) continue;
        by_page_[hole] = by_page_[at];
        hole = at;
    }
    by_page_[hole] = 0;
}

std::byte* Retention::content(uint32_t slot) const {
    return chunks_[slot / kChunkPages].get() + (slot % kChunkPages) * kPageBytes;
}

Retention::Ticket Retention::keep(const PageKey& key, Epoch epoch, const Location& source,
                                  PageSpan page) {
    EVAC_ASSERT(has_room());
    supersede(key);
    if (free_.empty()) {
        chunks_.push_back(std::make_unique<std::byte[]>(kChunkPages * kPageBytes));
        const auto first = static_cast<uint32_t>(slots_.size());
        slots_.resize(slots_.size() + kChunkPages);
        for (uint32_t i = kChunkPages; i-- > 0;) free_.push_back(first + i);
    }
    const uint32_t slot = free_.back();
    free_.pop_back();
    slots_[slot] = Slot{key, ++serial_};
    by_page_[bucket_of(key)] = slot + 1;
    ++live_;
    std::memcpy(content(slot), page.data(), page.size());
    return Ticket{key, epoch, source, false, 0, slot, serial_};
}

void Retention::free_slot(uint32_t slot) {
    erase_bucket(bucket_of(slots_[slot].key));
    slots_[slot].serial = 0;
    free_.push_back(slot);
    --live_;
}

void Retention::supersede(const PageKey& key) {
    if (live_ == 0) return;
    const uint32_t found = by_page_[bucket_of(key)];
    if (found != 0) free_slot(found - 1);
}

const std::byte* Retention::find(const Ticket& ticket) const {
    return slots_[ticket.slot].serial == ticket.serial ? content(ticket.slot) : nullptr;
}

void Retention::release(const Ticket& ticket) {
    if (slots_[ticket.slot].serial == ticket.serial) free_slot(ticket.slot);
}

}  // namespace evac::dedup
