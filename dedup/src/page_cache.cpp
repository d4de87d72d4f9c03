#include "page_cache.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstring>

namespace evac::dedup {

namespace {

// Of what is put little is read soon: written past the processor's caches it drives nothing out of
// them, and the old content need not be read first.
void store_past_caches(std::byte* to, PageSpan page) {
#if defined(__x86_64__)
    for (size_t at = 0; at < kPageBytes; at += sizeof(__m128i)) {
        const auto* from = reinterpret_cast<const __m128i*>(page.data() + at);
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), _mm_loadu_si128(from));
    }
    _mm_sfence();
#else
    std::memcpy(to, page.data(), kPageBytes);
#endif
}

}  // namespace

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
    store_past_caches(content(number, to), page);
}

}  // namespace evac::dedup
