#pragma once
// Which entry of a queue a page waits in: a hash map of (region, page) that costs memory for what
// waits, not for the VM. Open addressing, linear probing, at most three quarters full; an erased
// slot is filled from behind, so that the cost of a search does not grow with time. It grows with
// the number of waiting pages and never shrinks.
//
//   slot := hash:32 | entry + 1:32          0 = free
//
// The map asks its user which page an entry is of. The hash is seeded: a guest chooses which pages
// it writes. Owner: the queue's thread.
#include <cstdint>
#include <vector>

#include "evac/core/assert.hpp"
#include "evac/core/ids.hpp"

namespace evac::prestage {

class PageMap {
  public:
    static constexpr uint32_t kNone = UINT32_MAX;

    explicit PageMap(uint64_t seed) : seed_(seed) {}

    uint32_t hash(RegionId region, uint64_t page) const {
        uint64_t x = (page | (uint64_t{raw(region)} << 40)) + seed_;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
        return static_cast<uint32_t>(x >> 32);
    }

    // `is_it(entry)`: the entry is the page's. kNone: the page is not here.
    template <class IsIt>
    uint32_t find(uint32_t hash, const IsIt& is_it) const {
        if (slots_.empty()) return kNone;
        for (size_t at = hash & mask(); slots_[at] != 0; at = (at + 1) & mask()) {
            if (slots_[at] >> 32 == hash && is_it(entry_of(slots_[at])))
                return entry_of(slots_[at]);
        }
        return kNone;
    }

    // The page is not here yet.
    void insert(uint32_t hash, uint32_t entry) {
        EVAC_ASSERT(entry != kNone);
        if ((size_ + 1) * 4 > slots_.size() * 3) grow();
        place((uint64_t{hash} << 32) | (uint64_t{entry} + 1));
        ++size_;
    }

    // The page is here, in this entry.
    void erase(uint32_t hash, uint32_t entry) {
        const uint64_t wanted = (uint64_t{hash} << 32) | (uint64_t{entry} + 1);
        size_t hole = hash & mask();
        while (slots_[hole] != wanted) {
            EVAC_ASSERT(slots_[hole] != 0);
            hole = (hole + 1) & mask();
        }
        // What follows moves up where its search would otherwise end at the hole.
        for (size_t at = (hole + 1) & mask(); slots_[at] != 0; at = (at + 1) & mask()) {
            const size_t home = (slots_[at] >> 32) & mask();
            if (((at - home) & mask()) < ((at - hole) & mask())) continue;
            slots_[hole] = slots_[at];
            hole = at;
        }
        slots_[hole] = 0;
        --size_;
    }

    void reset() {  // empty, and without memory
        std::vector<uint64_t>().swap(slots_);
        size_ = 0;
    }
    uint64_t bytes() const { return slots_.size() * sizeof(uint64_t); }

  private:
    static constexpr size_t kSlotsMin = 64;
    size_t mask() const { return slots_.size() - 1; }
    static uint32_t entry_of(uint64_t slot) { return static_cast<uint32_t>(slot) - 1; }

    void place(uint64_t slot) {
        size_t at = (slot >> 32) & mask();
        while (slots_[at] != 0) at = (at + 1) & mask();
        slots_[at] = slot;
    }
    void grow() {
        std::vector<uint64_t> old(slots_.empty() ? kSlotsMin : slots_.size() * 2);
        old.swap(slots_);
        for (const uint64_t slot : old) {
            if (slot != 0) place(slot);
        }
    }

    const uint64_t seed_;
    std::vector<uint64_t> slots_;  // a power of two, or none
    size_t size_ = 0;
};

}  // namespace evac::prestage
