#include "evac/core/page_hash.hpp"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <array>
#include <vector>

#include "../src/page_hash_variants.hpp"
#include "evac/core/random.hpp"

namespace evac {
namespace {

std::vector<std::byte> random_bytes(Random& random, size_t size) {
    std::vector<std::byte> out(size);
    for (std::byte& byte : out) byte = static_cast<std::byte>(random.next());
    return out;
}

// Both gateways hash with whatever vectors they have: all must agree, with each other and with the
// library.
TEST(PageHash, VariantsAgreeWithTheLibrary) {
    Random random(5);
    for (int run = 0; run < 300; ++run) {
        const uint64_t seed = run == 0 ? 0 : random.next();
        // Pages lie anywhere in a stream.
        const auto memory = random_bytes(random, kPageBytes + 64);
        const std::byte* page = memory.data() + random.below(64);
        const XXH128_hash_t expected = XXH3_128bits_withSeed(page, kPageBytes, seed);
        unsigned long low = 0, high = 0;
        page_hash::baseline::page(seed, page, &low, &high);
        EXPECT_EQ(low, expected.low64);
        EXPECT_EQ(high, expected.high64);
        const size_t size = run % 3 == 0 ? 512 : random.below(kPageBytes);
        const XXH64_hash_t short_one = XXH3_64bits_withSeed(page, size, seed);
        EXPECT_EQ(page_hash::baseline::stretch(seed, page, size), short_one) << size;
#if defined(__x86_64__)
        if (page_hash::has_avx2()) {
            low = high = 0;
            page_hash::avx2::page(seed, page, &low, &high);
            EXPECT_EQ(low, expected.low64);
            EXPECT_EQ(high, expected.high64);
            EXPECT_EQ(page_hash::avx2::stretch(seed, page, size), short_one) << size;
        }
#endif
        const Fingerprint chosen =
            hash_page(seed, std::span<const std::byte, kPageBytes>(page, kPageBytes));
        EXPECT_EQ(chosen, (Fingerprint{expected.low64, expected.high64}));
        EXPECT_EQ(hash_64(seed, {page, size}), short_one);
    }
}

}  // namespace
}  // namespace evac
