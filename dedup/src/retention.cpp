#include "retention.hpp"

#include <cstring>

namespace evac::dedup {

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
    by_page_[key] = slot;
    ++live_;
    std::memcpy(content(slot), page.data(), page.size());
    return Ticket{key, epoch, source, slot, serial_};
}

void Retention::free_slot(uint32_t slot) {
    by_page_.erase(slots_[slot].key);
    slots_[slot].serial = 0;
    free_.push_back(slot);
    --live_;
}

void Retention::supersede(const PageKey& key) {
    if (live_ == 0) return;
    const auto found = by_page_.find(key);
    if (found != by_page_.end()) free_slot(found->second);
}

const std::byte* Retention::find(const Ticket& ticket) const {
    return slots_[ticket.slot].serial == ticket.serial ? content(ticket.slot) : nullptr;
}

void Retention::release(const Ticket& ticket) {
    if (slots_[ticket.slot].serial == ticket.serial) free_slot(ticket.slot);
}

}  // namespace evac::dedup
