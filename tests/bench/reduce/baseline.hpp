#pragma once
// What the same pages cost without dedup: zero pages left out, the rest under zstd.
#include <cstdint>

#include "dump.hpp"

namespace evac::reduce {

struct Baseline {
    uint64_t pages = 0;        // not zero
    uint64_t batch_bytes = 0;  // 16 pages at a time
    uint64_t page_bytes = 0;   // each alone
    uint64_t smaller() const { return batch_bytes < page_bytes ? batch_bytes : page_bytes; }
};

// internal: zstd refused.
Result<Baseline> zero_elimination_and_zstd(const Dump& dump, int level);

}  // namespace evac::reduce
