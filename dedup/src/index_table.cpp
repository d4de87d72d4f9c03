#include "index_table.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace evac::dedup {

namespace {

constexpr uint64_t kTag24 = (uint64_t{1} << 24) - 1;
constexpr uint64_t kUsed = uint64_t{1} << 24;
constexpr uint64_t kReferenced = uint64_t{1} << 25;
constexpr unsigned kRegionShift = 26;
constexpr unsigned kVmShift = 32;
constexpr unsigned kPageShift = 24;
static_assert(kRegionsMax <= (1u << (kVmShift - kRegionShift)));

}  // namespace

IndexTable::IndexTable(size_t bytes) {
    static_assert(sizeof(Bucket) == 64 && sizeof(Entry) == kTableEntryBytes);
    EVAC_ASSERT(bytes >= sizeof(Bucket));
    buckets_ = LazyArray<Bucket>(std::bit_floor(bytes / sizeof(Bucket)));
    EVAC_ASSERT(buckets_.size() != 0);
}

void IndexTable::clear() {
    buckets_.reset();
    entries_ = 0;
}

IndexTable::Slot IndexTable::slot(const Identity& identity) const {
    uint64_t words[2];
    std::memcpy(words, identity.data(), sizeof words);
    const size_t mask = buckets_.size() - 1;
    return Slot{words[0] & mask, (words[0] >> 32) & mask, words[1] & kTag24,
                (words[1] >> 24) & kTag24};
}

IndexTable::Entry* IndexTable::match(const Slot& at) {
    for (const size_t bucket : {at.first, at.second}) {
        for (Entry& entry : buckets_[bucket].ways) {
            if ((entry.word0 & (kTag24 | kUsed)) == (at.tag_high | kUsed) &&
                (entry.word1 & kTag24) == at.tag_low) {
                return &entry;
            }
        }
    }
    return nullptr;
}

void IndexTable::prefetch(const Identity& identity) const {
    const Slot at = slot(identity);
    __builtin_prefetch(&buckets_[at.first]);
    __builtin_prefetch(&buckets_[at.second]);
}

std::optional<Location> IndexTable::find(const Identity& identity) {
    Entry* entry = match(slot(identity));
    if (entry == nullptr) return std::nullopt;
    entry->word0 |= kReferenced;
    return Location{
        VmId{static_cast<uint32_t>(entry->word0 >> kVmShift)},
        RegionId{static_cast<uint16_t>((entry->word0 >> kRegionShift) & (kRegionsMax - 1))},
        entry->word1 >> kPageShift};
}

IndexTable::Entry* IndexTable::free_way(Bucket& bucket, size_t& used) {
    Entry* free = nullptr;
    used = 0;
    for (Entry& entry : bucket.ways) {
        if ((entry.word0 & kUsed) != 0) {
            ++used;
        } else {
            free = &entry;
        }
    }
    return free;
}

bool IndexTable::insert(const Identity& identity, const Location& location) {
    EVAC_ASSERT(raw(location.region) < kRegionsMax && location.page < kLocationPagesMax);
    const Slot at = slot(identity);
    const uint64_t word0 = (uint64_t{raw(location.vm)} << kVmShift) |
                           (uint64_t{raw(location.region)} << kRegionShift) | kUsed | at.tag_high;
    const uint64_t word1 = (location.page << kPageShift) | at.tag_low;
    bool evicted = false;
    Entry* entry = match(at);
    if (entry == nullptr) {
        size_t used_first = 0;
        size_t used_second = 0;
        Entry* first = free_way(buckets_[at.first], used_first);
        Entry* second = free_way(buckets_[at.second], used_second);
        entry = used_first <= used_second ? first : second;  // null only when both are full
        if (entry != nullptr) ++entries_;
    }
    // At most two turns: the first one may take every pardon away.
    while (entry == nullptr) {
        const uint64_t way = hand_++ % (2 * kWays);
        Entry& candidate = buckets_[way < kWays ? at.first : at.second].ways[way % kWays];
        if ((candidate.word0 & kReferenced) == 0) {
            entry = &candidate;
            evicted = true;
        } else {
            candidate.word0 &= ~kReferenced;
        }
    }
    entry->word0 = word0;
    entry->word1 = word1;
    return evicted;
}

}  // namespace evac::dedup
