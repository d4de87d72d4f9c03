#pragma once
// The index and its upkeep, for the status.
#include <nlohmann/json.hpp>

#include "evac/dedup/index.hpp"
#include "reducer_stage.hpp"

namespace evac::daemon {

nlohmann::json index_json(const dedup::IndexStats& stats);
nlohmann::json reindex_json(const ReindexStatus& status, const dedup::ReducerStats& stats);

}  // namespace evac::daemon
