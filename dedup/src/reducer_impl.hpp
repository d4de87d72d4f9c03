#pragma once
// The reducer's parts, shared by reducer.cpp (life of batches, VMs and answers) and
// reducer_ladder.cpp (the choice of the rung).
#include <array>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "delta.hpp"
#include "evac/dedup/reducer.hpp"
#include "page_cache.hpp"
#include "retention.hpp"
#include "sketch.hpp"

namespace evac::dedup {

using Ticket = Retention::Ticket;

// One batch being filled, per lane.
struct OpenBatch {
    explicit OpenBatch(BatchBuilder from) : builder(std::move(from)) {}

    BatchBuilder builder;
    VmId vm{};
    uint32_t pages = 0;
    uint32_t verified = 0;  // references, shifted ones and deltas
    uint32_t literals_memory = 0;
    uint32_t literals_disk = 0;
    struct DeltaBytes {
        Rung rung{};
        bool disk = false;
        uint32_t bytes = 0;
    };
    std::vector<DeltaBytes> deltas;
    std::vector<Ticket> tickets;

    void reset() {
        pages = verified = literals_memory = literals_disk = 0;
        deltas.clear();
        tickets.clear();
    }
};

struct VmState {
    uint64_t last_sequence = 0;
    using Unacknowledged = std::unordered_map<uint64_t, std::vector<Ticket>>;
    Unacknowledged unacknowledged;  // only batches with references
    RungTable table;
};

// What the ladder found for a page, short of a literal.
struct Found {
    enum class Kind : uint8_t { none, reference, shifted, delta };
    Kind kind = Kind::none;
    Location source;
    uint32_t shift = 0;
    uint32_t base_tag = 0;
    DeltaEncoder::Delta delta;
};

struct Reducer::Impl {
    Impl(const ReducerOptions& from, IdentityHasher hash, Index& hints, Sink out,
         DeltaEncoder deltas);

    OpenBatch& open(uint8_t lane, VmId vm);
    void emit(uint8_t lane);
    void emit_if_full(uint8_t lane);
    void account(const OpenBatch& batch, const BatchBuilder::Encoded& encoded, RungTable& table);
    void drop_open(VmId vm);
    void drop_retained(VmState& state);
    void remember(VmState& state, uint64_t sequence, OpenBatch& batch);

    // --- the ladder (reducer_ladder.cpp)
    Rung add(const PageItem& item, const std::optional<Location>* hint);
    Rung add_nonzero(const PageItem& item, const std::optional<Location>* hint);
    Found find_reference(const PageItem& item, const std::optional<Location>* hint);
    Found find_similar(const PageItem& item, const Sketches::Hashes& hashes);
    Found delta_to_match(PageSpan page, const Sketches::Match& match, size_t bytes_max);
    const std::byte* content(const Location& location, std::span<std::byte, kPageBytes> scratch);
    Rung add_found(const PageItem& item, const Found& found);
    Rung rung_of(const PageItem& item, const Found& found) const;
    void add_literal(uint8_t lane, const PageKey& key, Epoch epoch, PageSpan page);
    void count(const PageKey& key, Rung rung, uint64_t wire_bytes);
    size_t delta_bytes_max() const;

    ReducerOptions options;
    Effort effort;
    IdentityHasher hasher;
    Fingerprinter fingerprinter;
    Index& index;
    Sink sink;
    DeltaEncoder encoder;
    BaseReader* reader = nullptr;
    StagedTags tags;
    Retention retention;
    Sketches sketches;
    PageCache cache;
    std::vector<OpenBatch> lanes;
    std::unordered_map<uint32_t, VmState> vms;
    std::vector<VmState::Unacknowledged::node_type> spare_tickets;  // capacity kept for reuse
    ReducerStats stats;
    double literal_page_bytes = 1365;  // on the wire, smoothed: what a delta has to beat

    std::map<std::pair<VmId, RegionId>, uint64_t> regions;  // pages
    std::map<std::pair<VmId, RegionId>, uint64_t>::iterator reindex_at = regions.end();
    uint64_t reindex_page = 0;

    // Scratch of one call.
    alignas(64) std::array<std::byte, kPageBytes> first_base{};
    alignas(64) std::array<std::byte, kPageBytes> second_base{};
    alignas(64) std::array<std::byte, kPageBytes> composed{};
    std::array<std::byte, kDeltaBytesMax> payload{};
    std::vector<Identity> keys;
    std::vector<std::optional<Location>> hints;
};

}  // namespace evac::dedup
