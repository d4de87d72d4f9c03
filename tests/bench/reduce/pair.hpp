#pragma once
// One VM between two gateways, as far as reduction is concerned: home's catalogue, Reducer, Index
// and BaseReader (its own disk), and away's Expander over a copy of its own. Owner: one thread.
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "away.hpp"
#include "dump.hpp"
#include "evac/core/log.hpp"
#include "evac/dedup/expander.hpp"
#include "evac/dedup/reducer.hpp"
#include "evac/dedup/tuner.hpp"

namespace evac::reduce {

inline constexpr RegionId kRam{0};
inline constexpr RegionId kDisk{1};

struct Shipped {
    uint64_t changed_pages = 0;  // zero ones included
    uint64_t zero_pages = 0;
    uint64_t wire_bytes = 0;
    uint64_t naks = 0;
    dedup::RungTable rungs;        // of this shipping
    std::vector<uint64_t> pages;   // changed and not zero
    std::vector<float> page_wire;  // of each: what it cost in its batches, run headers shared
};

class Pair {
  public:
    // Fixed zstd level, or (link_bytes_per_s not 0) what the tuner takes for that link.
    struct Options {
        int zstd_level = 1;
        double link_bytes_per_s = 0;
        uint64_t ram_pages = 0;
        uint64_t disk_pages = 0;
        bool read_disk = true;  // false: home's disk cannot be read for bases (qcow2, not cached)
    };
    static Result<std::unique_ptr<Pair>> create(const Options& options);

    // What home's BaseReader reads from now on; must outlive its use.
    void set_disk(const Dump* disk) { reader_.disk = disk; }
    // Sends what differs from what was sent before, until away has answered everything.
    // invalid_argument: the dump has another size than its region.
    Result<Shipped> ship(const Dump& dump, RegionId region, Epoch epoch);
    // Pages in which away's copy differs from the dump.
    uint64_t differing_pages(const Dump& dump, RegionId region) const;
    const dedup::ReducerStats& stats() const { return reducer_->stats(); }
    // For tests: away's copy goes wrong behind everybody's back.
    void damage_away(RegionId region, uint64_t page) { away_.damage(region, page); }

  private:
    struct DiskReader : dedup::BaseReader {
        bool read(const dedup::Location& from, std::span<std::byte, kPageBytes> out) override;
        const Dump* disk = nullptr;
    };

    explicit Pair(const Options& options);
    Status open();
    Status deliver(Shipped& shipped);
    void account(ByteSpan message, Shipped& shipped);
    void add(std::span<const dedup::PageItem> items);

    Options options_;
    NullLogger log_;
    Away away_;
    DiskReader reader_;
    dedup::ReductionTuner tuner_;
    size_t setting_ = 0;
    uint64_t cpu_ns_ = 0;  // of home, since the batch before
    std::deque<dedup::EncodedBatch> waiting_;
    std::vector<Fingerprint> sent_[2];  // by region
    std::vector<float> wire_[2];        // by region: of this shipping
    std::unique_ptr<dedup::Index> index_;
    std::unique_ptr<dedup::Reducer> reducer_;
    std::unique_ptr<dedup::Expander> expander_;
    std::unique_ptr<dedup::BatchDecoder> decoder_;
    dedup::BatchContent content_;
};

}  // namespace evac::reduce
