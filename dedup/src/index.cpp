#include "evac/dedup/index.hpp"

#include <atomic>
#include <vector>

#include "evac/core/spsc_ring.hpp"
#include "index_store.hpp"
#include "index_table.hpp"

namespace evac::dedup {

namespace {

// One writer, any reader.
class Counter {
  public:
    void add(uint64_t n = 1) { value_.store(get() + n, std::memory_order_relaxed); }
    uint64_t get() const { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<uint64_t> value_{0};
};

}  // namespace

struct Index::Impl {
    explicit Impl(size_t table_bytes)
        : table(table_bytes), handed_over(kPendingBatches), empties(kPendingBatches) {
        pending.reserve(kPendingBatch);
    }

    std::optional<Location> from_table(const Identity& identity) {
        lookups.add();
        const std::optional<Location> hit = table.find(identity);
        if (hit) table_hits.add();
        return hit;
    }
    void into_table(const Identity& identity, const Location& location) {
        if (table.insert(identity, location)) {
            evictions.add();
            store_beyond_table = true;
        }
        entries.store(table.entries(), std::memory_order_relaxed);
    }
    void warm();

    // Reducer thread.
    IndexTable table;
    std::vector<IndexEntry> pending;
    // False while the table is known to hold all that the store holds: then a miss is a miss.
    bool store_beyond_table = false;
    Counter lookups, table_hits, store_lookups, store_hits, store_errors, inserts, evictions,
        dropped;
    std::atomic<uint64_t> entries{0};
    uint64_t warmed = 0;
    uint64_t old_entries = 0;
    std::vector<size_t> missed;  // scratch of lookup_batch
    std::vector<Identity> missed_identities;
    std::vector<std::optional<Location>> missed_locations;

    // Both.
    std::unique_ptr<IndexStore> store;              // null: table only
    SpscRing<std::vector<IndexEntry>> handed_over;  // reducer -> worker
    SpscRing<std::vector<IndexEntry>> empties;      // worker -> reducer: capacity reused

    // Worker thread.
    Counter stored;
};

Index::Index(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Index::~Index() = default;

Result<std::unique_ptr<Index>> Index::open(const IndexOptions& options, Logger& log) {
    if (options.table_bytes < 64) {
        return make_error(Errc::invalid_argument,
                          "index table_bytes: " + std::to_string(options.table_bytes) +
                              ", at least 64 is needed");
    }
    auto impl = std::make_unique<Impl>(options.table_bytes);
    if (!options.directory.empty()) {
        auto store = IndexStore::open(options, log);
        if (!store.ok()) return std::move(store).error();
        impl->store = std::move(store).value();
        EVAC_TRY(impl->store->begin_generation(options.key_check));
        if (options.warm_table) {
            impl->warm();
        } else {
            impl->store_beyond_table = true;
        }
    }
    return std::unique_ptr<Index>(new Index(std::move(impl)));
}

void Index::Impl::warm() {
    // Leave an eighth free: the last entries would mostly evict each other.
    const uint64_t limit = table.entries_max() - table.entries_max() / 8;
    bool complete = true;
    store->for_each([&](const IndexEntry& entry) {
        if (entry.generation != store->generation()) {
            ++old_entries;
            return true;
        }
        if (table.entries() >= limit) {
            complete = false;
            return false;
        }
        if (table.insert(entry.identity, entry.location)) complete = false;
        ++warmed;
        return true;
    });
    entries.store(table.entries(), std::memory_order_relaxed);
    store_beyond_table = !complete;
}

std::optional<Location> Index::lookup_table(const Identity& identity) {
    return impl_->from_table(identity);
}

std::optional<Location> Index::lookup(const Identity& identity) {
    std::optional<Location> hit = impl_->from_table(identity);
    if (hit || !impl_->store || !impl_->store_beyond_table) return hit;
    impl_->store_lookups.add();
    const Result<std::optional<Location>> found = impl_->store->find(identity);
    if (!found.ok()) {
        impl_->store_errors.add();
        return std::nullopt;
    }
    if (*found) {
        impl_->store_hits.add();
        impl_->into_table(identity, **found);
    }
    return *found;
}

void Index::lookup_batch(std::span<const Identity> identities,
                         std::span<std::optional<Location>> out) {
    EVAC_ASSERT(identities.size() == out.size());
    Impl& impl = *impl_;
    impl.missed.clear();
    impl.missed_identities.clear();
    for (const Identity& identity : identities) impl.table.prefetch(identity);
    for (size_t i = 0; i < identities.size(); ++i) {
        out[i] = impl.from_table(identities[i]);
        if (out[i]) continue;
        impl.missed.push_back(i);
        impl.missed_identities.push_back(identities[i]);
    }
    if (impl.missed.empty() || !impl.store || !impl.store_beyond_table) return;
    impl.missed_locations.assign(impl.missed.size(), std::nullopt);
    impl.store_lookups.add(impl.missed.size());
    impl.store_errors.add(impl.store->find_many(impl.missed_identities, impl.missed_locations));
    for (size_t i = 0; i < impl.missed.size(); ++i) {
        if (!impl.missed_locations[i]) continue;
        impl.store_hits.add();
        out[impl.missed[i]] = impl.missed_locations[i];
        impl.into_table(impl.missed_identities[i], *impl.missed_locations[i]);
    }
}

void Index::insert(const Identity& identity, const Location& location) {
    impl_->inserts.add();
    impl_->into_table(identity, location);
    if (!impl_->store) return;
    if (impl_->pending.size() == kPendingBatch) hand_over();
    if (impl_->pending.size() == kPendingBatch) {
        impl_->dropped.add();
        return;
    }
    impl_->pending.push_back(IndexEntry{identity, location, impl_->store->generation()});
}

void Index::rekey(uint64_t key_check) {
    impl_->table.clear();
    impl_->entries.store(0, std::memory_order_relaxed);
    impl_->store_beyond_table = false;  // of the new generation nothing is stored yet
    if (impl_->store) impl_->store->next_generation(key_check);
}

void Index::hand_over() {
    if (impl_->pending.empty() || !impl_->handed_over.try_push(std::move(impl_->pending))) return;
    std::optional<std::vector<IndexEntry>> empty = impl_->empties.try_pop();
    impl_->pending = empty ? std::move(*empty) : std::vector<IndexEntry>();
    impl_->pending.clear();
    impl_->pending.reserve(kPendingBatch);
}

Status Index::flush() {
    if (!impl_->store) return {};
    while (std::optional<std::vector<IndexEntry>> batch = impl_->handed_over.try_pop()) {
        EVAC_TRY(impl_->store->write(*batch));
        impl_->stored.add(batch->size());
        impl_->empties.try_push(std::move(*batch));
    }
    return {};
}

Status Index::sync() {
    if (!impl_->store) return {};
    return impl_->store->sync();
}

IndexStats Index::stats() const {
    const Impl& impl = *impl_;
    IndexStats out;
    out.lookups = impl.lookups.get();
    out.table_hits = impl.table_hits.get();
    out.store_lookups = impl.store_lookups.get();
    out.store_hits = impl.store_hits.get();
    out.store_errors = impl.store_errors.get();
    out.inserts = impl.inserts.get();
    out.table_evictions = impl.evictions.get();
    out.table_entries = impl.entries.load(std::memory_order_relaxed);
    out.table_entries_max = impl.table.entries_max();
    out.dropped_pending = impl.dropped.get();
    out.stored = impl.stored.get();
    out.warmed = impl.warmed;
    out.old_entries = impl.old_entries;
    if (impl.store) {
        out.store_bytes = impl.store->file_bytes();
        out.store_memory_bytes = impl.store->memory_bytes();
        out.store_files = impl.store->files();
        out.compaction_bytes = impl.store->compaction_bytes();
        out.log_bytes = impl.store->log_bytes();
        out.key_generation = impl.store->generation();
        out.recreated = impl.store->recreated();
    }
    return out;
}

}  // namespace evac::dedup
