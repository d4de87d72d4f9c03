#pragma once
// The durable half of the index, over RocksDB.
//
//   key   := identity (16 bytes)
//   value := vm:le32 region:le16 page:le40    (11 bytes; any other size is read as "not found")
//
// FIFO compaction: files are dropped oldest first when their sum exceeds the limit, which is the
// eviction. find() may run on the reducer thread while write() runs on the worker.
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
    // In key order, until `take` returns false.
    void for_each(const std::function<bool(const IndexEntry&)>& take);

    bool recreated() const { return recreated_; }
    uint64_t file_bytes() const;
    uint64_t memory_bytes() const;

  private:
    struct Db;
    IndexStore();
    std::unique_ptr<Db> db_;
    bool recreated_ = false;
};

}  // namespace evac::dedup
