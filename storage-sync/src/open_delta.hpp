#pragma once
// What the open delta log holds, in memory: per page the newest version and where its bytes are.
// Newest epoch wins; of equal epochs the one logged later (the larger offset).
//
// Pages are slots of a flat table (24 bytes, at most 3/4 full: 32-64 bytes per page). Runs of more
// than kRunPagesMin zero pages are intervals of a map (about 80 bytes each), shorter ones are
// slots.
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "evac/core/ids.hpp"

namespace evac::storage_sync {

inline constexpr uint64_t kRunPagesMin = 16;
inline constexpr unsigned kPageBits = 40;  // a region has fewer pages: 128 TiB / 4 KiB = 2^35

class OpenDelta {
  public:
    enum class Kind : uint8_t { none, zero, logged };
    struct Found {
        Kind kind = Kind::none;
        uint64_t offset = 0;  // of the record in the log
    };
    struct Page {
        uint64_t key = 0;  // region << kPageBits | page
        uint64_t offset = 0;
        bool zero = false;

        RegionId region() const { return RegionId{static_cast<uint16_t>(key >> kPageBits)}; }
        uint64_t page() const { return key & ((uint64_t{1} << kPageBits) - 1); }
    };
    struct ZeroRun {
        RegionId region{};
        uint64_t first = 0;
        uint64_t count = 0;
    };

    // How many entries a put may add at most.
    static uint64_t entries_for_zeros(uint64_t count) { return count <= kRunPagesMin ? count : 3; }
    uint64_t entries() const { return page_count_ + run_count_; }
    uint64_t pages() const { return page_count_; }
    uint64_t zero_runs() const { return run_count_; }
    bool empty() const { return entries() == 0; }
    Epoch newest_epoch() const { return Epoch{newest_epoch_}; }

    // Would a version of `epoch` logged now be the newest?
    bool is_newest(RegionId region, uint64_t page, Epoch epoch) const;
    // False = stale (a newer epoch is there): nothing changes.
    bool put_page(RegionId region, uint64_t page, Epoch epoch, uint64_t offset);
    void put_zeros(RegionId region, uint64_t first, uint64_t count, Epoch epoch, uint64_t offset);
    Found find(RegionId region, uint64_t page) const;

    // Everything to be applied: first the runs, then the pages that outlive them (ascending by
    // region and page).
    std::vector<ZeroRun> collect_runs() const;
    std::vector<Page> collect_pages() const;

    void clear();

  private:
    struct Slot {
        uint64_t key_plus_1 = 0;  // 0 = empty
        uint64_t offset_and_zero = 0;
        uint32_t epoch = 0;
    };
    struct Run {
        uint64_t end = 0;
        uint64_t offset = 0;
        uint32_t epoch = 0;
    };
    using Runs = std::map<uint64_t, Run>;

    static uint64_t key_of(RegionId region, uint64_t page) {
        return (uint64_t{raw(region)} << kPageBits) | page;
    }
    const Slot* find_slot(uint64_t key) const;
    const Run* find_run(RegionId region, uint64_t page) const;
    bool set_slot(uint64_t key, Epoch epoch, uint64_t offset, bool zero);
    void grow();
    static void split_at(Runs& runs, uint64_t page);
    size_t index_of(uint64_t key) const;
    static bool newer(uint32_t epoch_a, uint64_t offset_a, uint32_t epoch_b, uint64_t offset_b) {
        return epoch_a != epoch_b ? epoch_a > epoch_b : offset_a > offset_b;
    }

    std::vector<Slot> slots_;
    uint64_t page_count_ = 0;
    uint64_t run_count_ = 0;
    std::map<uint16_t, Runs> runs_;  // by region, then by first page; disjoint
    uint32_t newest_epoch_ = 0;
};

}  // namespace evac::storage_sync
