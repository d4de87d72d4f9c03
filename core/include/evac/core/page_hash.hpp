#pragma once
// Seeded xxh3, the same values as libxxhash's, in the widest vectors this processor has (chosen at
// run time: the program runs on any x86-64). Every page of every round passes here. Thread-safe.
#include <cstddef>
#include <cstdint>
#include <span>

#include "evac/core/ids.hpp"
#include "evac/core/units.hpp"

namespace evac {

// XXH3_128bits_withSeed: low = low64, high = high64; the all-zero value, which means unknown, is
// mapped to {1, 0}.
Fingerprint hash_page(uint64_t seed, std::span<const std::byte, kPageBytes> page);

// XXH3_64bits_withSeed of a stretch of any length.
uint64_t hash_64(uint64_t seed, std::span<const std::byte> bytes);

}  // namespace evac
