#pragma once
// The in-memory half of the index: a fixed array of 64-byte buckets of four 16-byte entries.
//
//   word0 = vm:32 | region:6 | referenced:1 | used:1 | tag_high:24
//   word1 = page:40 | tag_low:24
//
// An identity's first eight bytes choose its two buckets, bytes 8..13 are its 48-bit tag;
// identities are a keyed hash, so both are uniform and no tenant can aim at a bucket. With two
// choices 1 % has been evicted when the table is 80 % full (one choice: 12 %). Eviction is a clock
// over the eight candidates: an entry that was looked up since its last pardon is spared once.
#include <cstdint>
#include <optional>

#include "evac/dedup/index.hpp"
#include "lazy_array.hpp"

namespace evac::dedup {

class IndexTable {
  public:
    explicit IndexTable(size_t bytes);  // at least one bucket

    // Ahead of find(): the buckets come while other work is done.
    void prefetch(const Identity& identity) const;
    std::optional<Location> find(const Identity& identity);
    // True when another identity was thrown out.
    bool insert(const Identity& identity, const Location& location);

    void clear();

    uint64_t entries() const { return entries_; }
    uint64_t entries_max() const { return buckets_.size() * kWays; }

  private:
    static constexpr size_t kWays = 4;
    struct Entry {
        uint64_t word0;
        uint64_t word1;
    };
    struct alignas(64) Bucket {
        Entry ways[kWays];
    };
    struct Slot {
        size_t first;
        size_t second;
        uint64_t tag_high;  // 24 bits
        uint64_t tag_low;   // 24 bits
    };

    Slot slot(const Identity& identity) const;
    Entry* match(const Slot& slot);
    static Entry* free_way(Bucket& bucket, size_t& used);

    LazyArray<Bucket> buckets_;
    uint64_t entries_ = 0;
    uint64_t hand_ = 0;  // clock hand over the candidates
};

}  // namespace evac::dedup
