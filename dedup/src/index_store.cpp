#include "index_store.hpp"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/rate_limiter.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace evac::dedup {

namespace {

constexpr size_t kLocationBytes = 11;
constexpr size_t kValueBytes = kLocationBytes + 1;
constexpr uint64_t kBackgroundBytesPerS = 64 * kMiB;  // flushes and compaction together
constexpr const char* kKeyName = "key";
// FIFO keeps one level, and a lookup asks each file's bloom filter: 8 flushed files are merged into
// one (within level 0), so a store of 512 MiB with buffers of 16 MiB has about 4 + 8 files.
constexpr int kMergeFiles = 8;
constexpr int kNeverStall =
    1 << 30;  // level 0 is the only level; its file count is bounded by FIFO
constexpr size_t kInfoLogBytes = 1024 * 1024;
constexpr size_t kInfoLogFiles = 2;
constexpr double kBloomBitsPerKey = 10;  // 1 % false positives

using Value = std::array<char, kValueBytes>;

Value encode(const Location& location, uint8_t generation) {
    Value out{};
    uint64_t head = raw(location.vm) | (uint64_t{raw(location.region)} << 32);
    for (size_t i = 0; i < 6; ++i, head >>= 8) out[i] = static_cast<char>(head & 0xff);
    uint64_t page = location.page;
    for (size_t i = 6; i < kLocationBytes; ++i, page >>= 8) {
        out[i] = static_cast<char>(page & 0xff);
    }
    out[kLocationBytes] = static_cast<char>(generation);
    return out;
}

uint8_t generation_in(const rocksdb::Slice& value) {
    return static_cast<uint8_t>(value[kLocationBytes]);
}

// Also of another generation.
std::optional<Location> decode_any(const rocksdb::Slice& value) {
    if (value.size() != kValueBytes) return std::nullopt;
    uint64_t head = 0;
    uint64_t page = 0;
    for (size_t i = 6; i-- > 0;) head = (head << 8) | static_cast<unsigned char>(value[i]);
    for (size_t i = kLocationBytes; i-- > 6;)
        page = (page << 8) | static_cast<unsigned char>(value[i]);
    const auto region = static_cast<uint16_t>(head >> 32);
    if (region >= kRegionsMax) return std::nullopt;
    return Location{VmId{static_cast<uint32_t>(head)}, RegionId{region}, page};
}

std::optional<Location> decode(const rocksdb::Slice& value, uint8_t generation) {
    const std::optional<Location> location = decode_any(value);
    if (!location || generation_in(value) != generation) return std::nullopt;
    return location;
}

rocksdb::Slice key_of(const Identity& identity) {
    return {reinterpret_cast<const char*>(identity.data()), identity.size()};
}

Error convert(const rocksdb::Status& status, const std::string& what) {
    return make_error(status.IsCorruption() ? Errc::corrupt : Errc::io,
                      "index store: " + what + ": " + status.ToString());
}

rocksdb::Options make_options(const IndexOptions& from, std::shared_ptr<rocksdb::Cache> cache) {
    rocksdb::Options options;
    options.create_if_missing = true;
    options.compression = rocksdb::kNoCompression;  // keys are hashes
    options.compaction_style = rocksdb::kCompactionStyleFIFO;
    options.num_levels = 1;
    options.compaction_options_fifo.max_table_files_size = from.store_bytes_max;
    options.compaction_options_fifo.allow_compaction = true;
    options.level0_file_num_compaction_trigger = kMergeFiles;
    options.level0_slowdown_writes_trigger = kNeverStall;
    options.level0_stop_writes_trigger = kNeverStall;
    options.write_buffer_size = from.write_buffer_bytes;
    options.max_write_buffer_number = 2;
    options.memtable_whole_key_filtering = true;  // a miss need not walk the skip list
    options.memtable_prefix_bloom_size_ratio = 0.1;
    options.max_background_jobs = 2;
    options.rate_limiter.reset(rocksdb::NewGenericRateLimiter(kBackgroundBytesPerS));
    options.max_open_files = -1;
    options.keep_log_file_num = kInfoLogFiles;
    options.max_log_file_size = kInfoLogBytes;
    options.info_log_level = rocksdb::WARN_LEVEL;
    options.stats_dump_period_sec = 0;
    options.stats_persist_period_sec = 0;
    options.skip_stats_update_on_db_open = true;
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = std::move(cache);
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerKey));
    // Held by the open files, not by the cache: a lookup asks several filters, and the cache's
    // locks would cost more than the filters. Bounded all the same: 10 bits and 1 % of 45 bytes per
    // entry is 4 % of store_bytes_max.
    table.cache_index_and_filter_blocks = false;
    table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    return options;
}

}  // namespace

struct IndexStore::Db {
    std::shared_ptr<rocksdb::Cache> cache;
    std::unique_ptr<rocksdb::DB> db;
};

IndexStore::IndexStore() : db_(std::make_unique<Db>()) {}
IndexStore::~IndexStore() = default;

Result<std::unique_ptr<IndexStore>> IndexStore::open(const IndexOptions& options, Logger& log) {
    std::error_code error;
    std::filesystem::create_directories(options.directory, error);
    if (error) return io_error("index store: directory " + options.directory, error.value());
    std::unique_ptr<IndexStore> store(new IndexStore);
    store->db_->cache = rocksdb::NewLRUCache(options.block_cache_bytes);
    const rocksdb::Options settings = make_options(options, store->db_->cache);
    rocksdb::DB* db = nullptr;
    rocksdb::Status status = rocksdb::DB::Open(settings, options.directory, &db);
    if (status.IsCorruption() || status.IsPathNotFound()) {
        log.warning(
            "index store in " + options.directory +
            " is unreadable and is started anew (references are found less often for a while): " +
            status.ToString());
        status = rocksdb::DestroyDB(options.directory, settings);
        if (status.ok()) status = rocksdb::DB::Open(settings, options.directory, &db);
        store->recreated_ = true;
    }
    if (!status.ok()) return convert(status, "open " + options.directory);
    store->db_->db.reset(db);
    return store;
}

Result<std::optional<Location>> IndexStore::find(const Identity& identity) {
    thread_local std::string value;  // 11 bytes: never allocates
    const rocksdb::Status status = db_->db->Get(rocksdb::ReadOptions(), key_of(identity), &value);
    if (status.ok()) return decode(value, generation_);
    if (status.IsNotFound()) return std::optional<Location>();
    return convert(status, "read");
}

size_t IndexStore::find_many(std::span<const Identity> identities,
                             std::span<std::optional<Location>> out) {
    constexpr size_t kChunk = 128;  // MultiGet's own sweet spot
    std::array<rocksdb::Slice, kChunk> keys;
    std::array<rocksdb::PinnableSlice, kChunk> values;
    std::array<rocksdb::Status, kChunk> statuses;
    size_t failed = 0;
    for (size_t start = 0; start < identities.size(); start += kChunk) {
        const size_t count = std::min(kChunk, identities.size() - start);
        for (size_t i = 0; i < count; ++i) keys[i] = key_of(identities[start + i]);
        db_->db->MultiGet(rocksdb::ReadOptions(), db_->db->DefaultColumnFamily(), count,
                          keys.data(), values.data(), statuses.data());
        for (size_t i = 0; i < count; ++i) {
            out[start + i].reset();
            if (statuses[i].ok()) {
                out[start + i] = decode(values[i], generation_);
            } else if (!statuses[i].IsNotFound()) {
                ++failed;
            }
            values[i].Reset();
        }
    }
    return failed;
}

Status IndexStore::write(std::span<const IndexEntry> entries) {
    rocksdb::WriteBatch batch;
    std::array<char, 9> key{};
    uint64_t check = key_check_;
    for (size_t i = 0; i < 8; ++i, check >>= 8) key[i] = static_cast<char>(check & 0xff);
    key[8] = static_cast<char>(generation_.load());
    const rocksdb::Status named = batch.Put(kKeyName, rocksdb::Slice(key.data(), key.size()));
    if (!named.ok()) return convert(named, "batch");
    for (const IndexEntry& entry : entries) {
        const Value value = encode(entry.location, entry.generation);
        const rocksdb::Status status =
            batch.Put(key_of(entry.identity), rocksdb::Slice(value.data(), value.size()));
        if (!status.ok()) return convert(status, "batch");
    }
    // The log is written, not synced: a crash of the process loses nothing, one of the machine a
    // little.
    const rocksdb::Status status = db_->db->Write(rocksdb::WriteOptions(), &batch);
    if (!status.ok()) return convert(status, "write");
    return {};
}

Status IndexStore::begin_generation(uint64_t key_check) {
    std::string value;
    const rocksdb::Status status = db_->db->Get(rocksdb::ReadOptions(), kKeyName, &value);
    if (!status.ok() && !status.IsNotFound()) return convert(status, "read");
    key_check_ = key_check;
    if (!status.ok() || value.size() != 9) return {};
    uint64_t stored = 0;
    for (size_t i = 8; i-- > 0;) stored = (stored << 8) | static_cast<unsigned char>(value[i]);
    const auto generation = static_cast<uint8_t>(value[8]);
    generation_ = stored == key_check ? generation : static_cast<uint8_t>(generation + 1);
    return {};
}

void IndexStore::next_generation(uint64_t key_check) {
    key_check_ = key_check;
    ++generation_;
}

Status IndexStore::sync() {
    const rocksdb::Status status = db_->db->SyncWAL();
    if (!status.ok()) return convert(status, "sync");
    return {};
}

void IndexStore::for_each(const std::function<bool(const IndexEntry&)>& take) {
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> at(db_->db->NewIterator(options));
    for (at->SeekToFirst(); at->Valid(); at->Next()) {
        const std::optional<Location> location = decode_any(at->value());
        IndexEntry entry;
        if (!location || at->key().size() != entry.identity.size()) continue;
        std::memcpy(entry.identity.data(), at->key().data(), entry.identity.size());
        entry.location = *location;
        entry.generation = generation_in(at->value());
        if (entry.location.page >= kLocationPagesMax) continue;
        if (!take(entry)) return;
    }
}

uint64_t IndexStore::property(const std::string& name) const {
    uint64_t value = 0;
    db_->db->GetIntProperty(name, &value);
    return value;
}

uint64_t IndexStore::file_bytes() const {
    return property(rocksdb::DB::Properties::kTotalSstFilesSize);
}

uint64_t IndexStore::files() const {
    std::string files;
    db_->db->GetProperty(rocksdb::DB::Properties::kNumFilesAtLevelPrefix + "0", &files);
    return std::strtoull(files.c_str(), nullptr, 10);
}

uint64_t IndexStore::compaction_bytes() const {
    return property(rocksdb::DB::Properties::kEstimatePendingCompactionBytes);
}

uint64_t IndexStore::log_bytes() const {
    rocksdb::VectorLogPtr logs;
    uint64_t bytes = 0;
    if (!db_->db->GetSortedWalFiles(logs).ok()) return 0;
    for (const auto& log : logs) bytes += log->SizeFileBytes();
    return bytes;
}

uint64_t IndexStore::memory_bytes() const {
    const uint64_t memtables = property(rocksdb::DB::Properties::kCurSizeAllMemTables);
    const uint64_t readers = property(rocksdb::DB::Properties::kEstimateTableReadersMem);
    return memtables + readers + db_->cache->GetUsage();
}

}  // namespace evac::dedup
