// The body of one variant of the hash; included once by each of page_hash.cpp (any x86-64, or any
// other processor) and page_hash_avx2.cpp, with EVAC_HASH_VARIANT set. Only xxhash.h with internal
// linkage may be used here: an inline function of a standard header, compiled with AVX2, could be
// chosen by the linker for the whole program.
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace evac::page_hash::EVAC_HASH_VARIANT {

void page(unsigned long seed, const void* bytes, unsigned long* low, unsigned long* high) {
    const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes, 4096, seed);
    *low = hash.low64;
    *high = hash.high64;
}

unsigned long stretch(unsigned long seed, const void* bytes, unsigned long size) {
    // 512 is the length of a sketch's piece: known lengths are unrolled.
    if (size == 512) return XXH3_64bits_withSeed(bytes, 512, seed);
    return XXH3_64bits_withSeed(bytes, size, seed);
}

}  // namespace evac::page_hash::EVAC_HASH_VARIANT
