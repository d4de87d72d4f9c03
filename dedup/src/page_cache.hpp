#pragma once
// Content of pages as they were last sent, to make deltas against: 8-way sets of 4 KiB slots, fixed
// memory (touched as it fills), no allocation after start. A page that served as a base is spared
// once when its set is full. Owner: the reducer thread.
#include <array>
#include <cstdint>

#include "evac/core/ids.hpp"
#include "evac/dedup/fingerprint.hpp"
#include "lazy_array.hpp"

namespace evac::dedup {

class PageCache {
  public:
    // Below one set (32 KiB and the entries): nothing is kept.
    explicit PageCache(uint64_t bytes);

    // What was put for the page last, if its tag is this one; null otherwise. Valid until put.
    const std::byte* find(const PageKey& key, uint32_t tag);
    void put(const PageKey& key, uint32_t tag, PageSpan page);

    uint64_t pages_max() const { return sets_.size() * kWays; }
    static constexpr size_t kEntryBytes = 24;

  private:
    static constexpr size_t kWays = 8;
    struct Entry {
        PageKey key;
        uint32_t tag;  // 0 = free
        bool served;
    };
    struct Set {
        std::array<Entry, kWays> ways;
        uint32_t hand;
    };
    size_t set_of(const PageKey& key) const { return std::hash<PageKey>()(key) % sets_.size(); }
    std::byte* content(size_t set, size_t way) { return memory_[set * kWays + way].data(); }

    LazyArray<Set> sets_;
    LazyArray<std::array<std::byte, kPageBytes>> memory_;
};

}  // namespace evac::dedup
