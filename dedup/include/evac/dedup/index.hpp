#pragma once
// Index: identity of a page's content -> a place at away that held it when it was last sent.
//
// Entries are HINTS, never trusted: the reducer checks a hit against what it sent last to that
// place, and away verifies the content. So the index may forget (eviction, crash, full ring) and
// may be wrong (table entries keep 48 of the 128 bits) at the price of a literal or a round trip.
//
// Keys are fingerprints under a seed of the pair's secret (reducer.hpp, index_key). Entries carry a
// key generation, so that after a change of the secret old ones neither fill the table nor hit;
// they leave the store as it turns over.
//
//   reducer thread:  lookup / insert / hand_over       worker thread:  flush / sync
//        |  table (fixed bytes, in memory)                     |
//        |  pending entries --(SPSC ring of batches)---------> RocksDB (FIFO: above store_bytes_max
//        +-- table miss: Get with bloom filter --------------> the oldest file is dropped)
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "evac/core/ids.hpp"
#include "evac/core/log.hpp"
#include "evac/core/result.hpp"
#include "evac/core/units.hpp"

namespace evac::dedup {

// A page of away's staged copy: {vm, region < kRegionsMax, page < 2^40}.
using Location = PageKey;

inline constexpr uint64_t kLocationPagesMax = uint64_t{1} << 40;  // 4 PiB per region
inline constexpr size_t kTableEntryBytes = 16;

struct IndexOptions {
    // RocksDB's directory, created if missing. Empty: no store; the table is everything.
    std::string directory;
    // Rounded down to a power of two of 64-byte buckets (4 entries each), at least one.
    // 64 MiB = 4.2 M entries = 16 GiB of distinct content.
    size_t table_bytes = 64 * kMiB;
    // RocksDB's files, about 40 bytes per entry; the oldest file goes when the sum is above.
    uint64_t store_bytes_max = 512 * kMiB;
    size_t block_cache_bytes = 32 * kMiB;   // data blocks; filters: 4 % of store_bytes, apart
    size_t write_buffer_bytes = 16 * kMiB;  // RocksDB uses up to two
    // At open, the store's entries are read into the table (newest wins) until it is full.
    bool warm_table = true;
    // Tells one pair secret from another (e.g. its fingerprint seed). Entries that were stored
    // under another are never read.
    uint64_t key_check = 0;
};

// Counters since open; a snapshot whose fields may be of slightly different instants.
struct IndexStats {
    uint64_t lookups = 0;
    uint64_t table_hits = 0;
    uint64_t store_lookups = 0;  // table misses that asked RocksDB
    uint64_t store_hits = 0;
    uint64_t store_errors = 0;  // reads that failed; counted as misses
    uint64_t inserts = 0;
    uint64_t table_evictions = 0;
    uint64_t table_entries = 0;
    uint64_t table_entries_max = 0;
    uint64_t dropped_pending = 0;     // entries not stored because flush() did not keep up
    uint64_t stored = 0;              // entries written to RocksDB
    uint64_t warmed = 0;              // entries read at open
    uint64_t store_bytes = 0;         // RocksDB's table files now
    uint64_t store_memory_bytes = 0;  // memtables, block cache and table readers
    uint64_t store_files = 0;
    uint64_t compaction_bytes = 0;  // RocksDB's estimate of what waits for compaction
    uint64_t log_bytes = 0;         // of the write-ahead log: at most two write buffers
    uint64_t key_generation = 0;    // +1 (mod 256) per change of key_check
    uint64_t old_entries = 0;       // of other generations, seen at open
    bool recreated = false;         // the store was unreadable at open and was started anew
};

class Index {
  public:
    // At most this many entries wait for flush(); older ones are written, newer ones dropped and
    // counted.
    static constexpr size_t kPendingBatch = 2048;
    static constexpr size_t kPendingBatches = 64;

    // A store that RocksDB calls corrupt is destroyed and started anew (hints only), with a warning
    // to `log`. invalid_argument: table_bytes < 64; io: the directory cannot be used. `log` must
    // outlive the index and is used by open() and flush() only.
    static Result<std::unique_ptr<Index>> open(const IndexOptions& options, Logger& log);
    // No other call may be running. Hands nothing over: what was not flushed is lost.
    ~Index();
    Index(const Index&) = delete;
    Index& operator=(const Index&) = delete;

    // --- reducer thread ---
    // May read RocksDB (microseconds; a disk read at worst) on a table miss, unless the table is
    // known to hold everything.
    std::optional<Location> lookup(const Identity& identity);
    // Table only: never blocks.
    std::optional<Location> lookup_table(const Identity& identity);
    // As lookup() for each; the table misses go to RocksDB in one MultiGet. `out` has identities'
    // size.
    void lookup_batch(std::span<const Identity> identities, std::span<std::optional<Location>> out);
    // Visible to lookup at once; durable after hand_over(), flush() (and sync(), for a power loss).
    // Replaces an older location. location.page < kLocationPagesMax, region < kRegionsMax.
    void insert(const Identity& identity, const Location& location);
    // The pair's secret has changed: the table is emptied, what is stored is of an old generation
    // from now on. Never waits; the change is durable with the next flush().
    void rekey(uint64_t key_check);
    // Gives pending entries to the worker before a batch is full; call about once a second.
    void hand_over();

    // --- worker thread ---
    // Writes all batches handed over. Cheap when there are none.
    Status flush();
    // fsync of what flush() wrote. Never needed for correctness.
    Status sync();

    // --- any thread ---
    IndexStats stats() const;

  private:
    struct Impl;
    explicit Index(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace evac::dedup
