#pragma once
// The durable half of the index, over RocksDB.
//
//   key   := identity (16 bytes)
//   value := vm:le32 region:le16 page:le40 generation:u8
//                                             (12 bytes; any other size is read as "not found")
//   "key" := check:le64 generation:u8         which secret the generation belongs to; written with
//                                             every batch, so that it never is in the oldest file
//
// FIFO compaction: files are dropped oldest first when their sum exceeds the limit, which is the
// eviction. find() may run on the reducer thread while write() runs on the worker.
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evac/dedup/index.hpp"

namespace evac::dedup {

struct IndexEntry {
    Identity identity{};
    Location location;
    uint8_t generation = 0;
};

class IndexStore {
  public:
    static Result<std::unique_ptr<IndexStore>> open(const IndexOptions& options, Logger& log);
    ~IndexStore();

    // not_found is an empty optional; an error is a read that failed.
    Result<std::optional<Location>> find(const Identity& identity);
    // out[i] for identities[i]; returns how many reads failed.
    size_t find_many(std::span<const Identity> identities, std::span<std::optional<Location>> out);
    Status write(std::span<const IndexEntry> entries);
    Status sync();
    // What later writes are marked with; entries of other generations are "not found" from now on.
    // begin_generation continues the stored one when the secret is the same, else begins the next.
    Status begin_generation(uint64_t key_check);
    void next_generation(uint64_t key_check);
    uint8_t generation() const { return generation_; }
    // In key order, of all generations, until `take` returns false.
    void for_each(const std::function<bool(const IndexEntry&)>& take);

    bool recreated() const { return recreated_; }
    uint64_t file_bytes() const;
    uint64_t memory_bytes() const;
    uint64_t files() const;
    uint64_t compaction_bytes() const;
    uint64_t log_bytes() const;

  private:
    uint64_t property(const std::string& name) const;

    struct Db;
    IndexStore();
    std::unique_ptr<Db> db_;
    bool recreated_ = false;
    // Changed by the reducer thread, read by the worker: check first, so that a batch between is
    // marked old.
    std::atomic<uint64_t> key_check_{0};
    std::atomic<uint8_t> generation_{0};
};

}  // namespace evac::dedup
