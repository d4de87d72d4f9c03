#include "index_json.hpp"

namespace evac::daemon {

nlohmann::json index_json(const dedup::IndexStats& stats) {
    return {{"lookups", stats.lookups},
            {"table_hits", stats.table_hits},
            {"store_lookups", stats.store_lookups},
            {"store_hits", stats.store_hits},
            {"store_errors", stats.store_errors},
            {"inserts", stats.inserts},
            {"table_evictions", stats.table_evictions},
            {"table_entries", stats.table_entries},
            {"table_entries_max", stats.table_entries_max},
            {"dropped", stats.dropped_pending},
            {"stored", stats.stored},
            {"warmed", stats.warmed},
            {"store_bytes", stats.store_bytes},
            {"store_memory_bytes", stats.store_memory_bytes},
            {"store_files", stats.store_files},
            {"compaction_bytes", stats.compaction_bytes},
            {"log_bytes", stats.log_bytes},
            {"key_generation", stats.key_generation},
            {"old_entries", stats.old_entries},
            {"recreated", stats.recreated}};
}

nlohmann::json reindex_json(const ReindexStatus& status, const dedup::ReducerStats& stats) {
    return {{"running", status.running.load(std::memory_order_relaxed)},
            {"pages_done", status.pages_done.load(std::memory_order_relaxed)},
            {"pages_total", status.pages_total.load(std::memory_order_relaxed)},
            {"learned", stats.learned},
            {"base_reads", stats.base_reads},
            {"base_reads_stale", stats.base_reads_stale},
            {"bases_absent", stats.bases_absent}};
}

}  // namespace evac::daemon
