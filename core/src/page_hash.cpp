#include "evac/core/page_hash.hpp"

#include "page_hash_variants.hpp"

#define EVAC_HASH_VARIANT baseline
#include "page_hash_kernel.hpp"

namespace evac {

static_assert(sizeof(unsigned long) == sizeof(uint64_t) && kPageBytes == 4096);

Fingerprint hash_page(uint64_t seed, std::span<const std::byte, kPageBytes> page) {
    unsigned long low = 0, high = 0;
#if defined(__x86_64__)
    if (page_hash::has_avx2()) {
        page_hash::avx2::page(seed, page.data(), &low, &high);
    } else
#endif
    {
        page_hash::baseline::page(seed, page.data(), &low, &high);
    }
    if ((low | high) == 0) return Fingerprint{1, 0};
    return Fingerprint{low, high};
}

uint64_t hash_64(uint64_t seed, std::span<const std::byte> bytes) {
#if defined(__x86_64__)
    if (page_hash::has_avx2()) return page_hash::avx2::stretch(seed, bytes.data(), bytes.size());
#endif
    return page_hash::baseline::stretch(seed, bytes.data(), bytes.size());
}

}  // namespace evac
