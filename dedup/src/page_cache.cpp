#include "page_cache.hpp"

#include <cstring>

namespace evac::dedup {

PageCache::PageCache(uint64_t bytes)
    : sets_(bytes / (kWays * kPageBytes)), memory_(sets_.size() * kWays) {
    if (memory_.size() == 0) sets_ = LazyArray<Set>();
}

const std::byte* PageCache::find(const PageKey& key, uint32_t tag) {
    if (sets_.size() == 0 || tag == 0) return nullptr;
    const size_t set = set_of(key);
    for (size_t way = 0; way < kWays; ++way) {
        Entry& entry = sets_[set].ways[way];
        if (entry.tag == 0 || entry.key != key) continue;
        if (entry.tag != tag) return nullptr;
        entry.served = true;
        return content(set, way);
    }
    return nullptr;
}

void PageCache::put(const PageKey& key, uint32_t tag, PageSpan page) {
    if (sets_.size() == 0) return;
    const size_t number = set_of(key);
    Set& set = sets_[number];
    size_t to = kWays;
    for (size_t way = 0; way < kWays; ++way) {
        const Entry& entry = set.ways[way];
        if (entry.tag != 0 && entry.key == key) {
            to = way;
            break;
        }
        if (entry.tag == 0) to = way;
    }
    while (to == kWays) {
        Entry& entry = set.ways[set.hand % kWays];
        if (!entry.served) to = set.hand % kWays;
        entry.served = false;
        ++set.hand;
    }
    Entry& entry = set.ways[to];
    const bool served = entry.tag != 0 && entry.key == key && entry.served;
    entry = Entry{key, tag, served};
    std::memcpy(content(number, to), page.data(), kPageBytes);
}

}  // namespace evac::dedup
