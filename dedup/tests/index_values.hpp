#pragma once
// What the index's tests store: every number has its identity and its place.
#include "util.hpp"

namespace evac::dedup::test {

inline Identity identity_of(uint64_t id) {
    Random random(id + 0x77);
    const uint64_t words[2] = {random.next(), random.next()};
    Identity out;
    std::memcpy(out.data(), words, sizeof words);
    return out;
}

inline Location location_of(uint64_t id) {
    Random random(id * 3 + 5);
    return Location{VmId(static_cast<uint32_t>(random.next())), RegionId(random.below(kRegionsMax)),
                    random.below(kLocationPagesMax)};
}

}  // namespace evac::dedup::test
