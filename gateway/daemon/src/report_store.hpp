#pragma once
// What was predicted and what came: one report per evacuation, written when it is finished (and
// again when VMs followed later), so that the plan of the next one can be judged. Owner: the
// control thread.
//
//   DIR/index.json          {"version": 1, "reports": [summary]}, oldest first
//   DIR/SINCE_UNIX_MS.json  {"schema": 1, summary..., "vms": [{name, outcome, predicted_away_s,
//                            away_s, error_s, predicted_downtime_ms, downtime_ms, wire_mib}],
//                            "replans": [...]}
// A report that the index does not name is forgotten; one that the index names and that is gone is
// said to be missing.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "evac/core/result.hpp"

namespace evac::daemon {

// From the API's evacuation (status_json.hpp): predictions beside what happened. `error` is actual
// minus predicted; VMs that did not move have none.
nlohmann::json make_report(const nlohmann::json& evacuation);

class ReportStore {
  public:
    static constexpr size_t kKept = 100;
    static constexpr size_t kFileBytesMax = 64 * 1024 * 1024;

    explicit ReportStore(std::string dir) : dir_(std::move(dir)) {}
    Status load();  // an index that cannot be read is an error, and counts as empty
    // Replaces the one of the same evacuation.
    Status save(const nlohmann::json& report);
    // Summaries, newest first.
    nlohmann::json list() const;
    // By id, or "last". Errors: not_found, io, corrupt.
    Result<nlohmann::json> find(const std::string& id) const;

  private:
    std::string path_of(const std::string& id) const { return dir_ + "/" + id + ".json"; }
    std::string dir_;
    nlohmann::json summaries_ = nlohmann::json::array();  // oldest first, at most kKept
};

}  // namespace evac::daemon
