#include "report_store.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "files.hpp"

namespace evac::daemon {
namespace {

using Json = nlohmann::json;

std::string text_of(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json vm_report(const Json& vm) {
    Json out;
    for (const char* field :
         {"name", "outcome", "predicted_away_s", "away_s", "predicted_downtime_ms", "downtime_ms",
          "stop_ms", "capture_ms", "seal_ms", "landing_ms", "final_pass_s", "final_changed_mib",
          "staged_mib", "backlog_mib", "wire_mib"}) {
        if (vm.contains(field)) out[field] = vm[field];
    }
    out["error_s"] = vm["away_s"].is_number()
                         ? Json(vm["away_s"].get<double>() - vm["predicted_away_s"].get<double>())
                         : Json();
    return out;
}

}  // namespace

Json make_report(const Json& evacuation) {
    Json out;
    out["schema"] = 1;
    out["id"] = std::to_string(evacuation["since_unix_ms"].get<int64_t>());
    for (const char* field : {"event", "reason", "since_unix_ms", "moved", "returned", "stuck",
                              "wire_mib_after_alert", "predicted_makespan_s", "replans"}) {
        if (evacuation.contains(field)) out[field] = evacuation[field];
    }
    double absolute_s = 0, worst_s = 0, last_s = 0;
    size_t counted = 0;
    Json vms = Json::array();
    for (const Json& vm : evacuation["vms"]) {
        vms.push_back(vm_report(vm));
        const Json& error = vms.back()["error_s"];
        if (!error.is_number()) continue;
        ++counted;
        absolute_s += std::abs(error.get<double>());
        if (std::abs(error.get<double>()) > std::abs(worst_s)) worst_s = error.get<double>();
        last_s = std::max(last_s, vm["away_s"].get<double>());
    }
    // A daemon that was started anew meanwhile knows the VMs' predictions only.
    double predicted_s = evacuation["predicted_makespan_s"].get<double>();
    for (const Json& vm : predicted_s > 0 ? Json::array() : evacuation["vms"])
        predicted_s = std::max(predicted_s, vm["predicted_away_s"].get<double>());
    out["predicted_makespan_s"] = predicted_s;
    out["actual_makespan_s"] = counted == 0 ? Json() : Json(last_s);
    out["error_s"] = counted == 0 ? Json() : Json(last_s - predicted_s);
    out["error_pct"] = counted == 0 || predicted_s <= 0
                           ? Json()
                           : Json(100 * (last_s - predicted_s) / predicted_s);
    out["vm_error_mean_s"] =
        counted == 0 ? Json() : Json(absolute_s / static_cast<double>(counted));
    out["vm_error_worst_s"] = counted == 0 ? Json() : Json(worst_s);
    out["vms"] = std::move(vms);
    return out;
}

Status ReportStore::load() {
    const std::string path = dir_ + "/index.json";
    if (!std::filesystem::exists(path)) return {};
    auto text = read_small_file(path, kFileBytesMax);
    EVAC_TRY(text);
    const Json index = Json::parse(*text, nullptr, false);
    const bool usable =
        index.is_object() && index.contains("reports") && index["reports"].is_array() &&
        std::all_of(index["reports"].begin(), index["reports"].end(), [](const Json& r) {
            return r.is_object() && r.contains("id") && r["id"].is_string();
        });
    if (!usable) return make_error(Errc::corrupt, "'" + path + "' is no index of reports");
    summaries_ = index["reports"];
    return {};
}

Status ReportStore::save(const Json& report) {
    EVAC_TRY(make_dirs(dir_));
    const std::string id = report["id"];
    EVAC_TRY(write_file_durably(path_of(id), text_of(report)));
    Json summary = report;
    summary["vms"] = report["vms"].size();
    summary.erase("replans");
    const auto same = std::find_if(summaries_.begin(), summaries_.end(),
                                   [&id](const Json& s) { return s["id"] == id; });
    if (same != summaries_.end()) {
        *same = std::move(summary);
    } else {
        summaries_.push_back(std::move(summary));
    }
    std::string dropped;
    if (summaries_.size() > kKept) {
        dropped = summaries_.front()["id"];
        summaries_.erase(summaries_.begin());
    }
    EVAC_TRY(write_file_durably(dir_ + "/index.json",
                                text_of({{"version", 1}, {"reports", summaries_}})));
    if (!dropped.empty()) ::unlink(path_of(dropped).c_str());
    return {};
}

Json ReportStore::list() const {
    Json out = Json::array();
    for (auto it = summaries_.rbegin(); it != summaries_.rend(); ++it) out.push_back(*it);
    return out;
}

Result<Json> ReportStore::find(const std::string& id) const {
    const auto known = id == "last" && !summaries_.empty()
                           ? std::prev(summaries_.end())
                           : std::find_if(summaries_.begin(), summaries_.end(),
                                          [&id](const Json& s) { return s["id"] == id; });
    if (known == summaries_.end()) {
        return make_error(Errc::not_found, summaries_.empty()
                                               ? "there is no report: nothing was evacuated yet"
                                               : "report '" + id.substr(0, 80) +
                                                     "' is not known; accepted: an id of the list, "
                                                     "or last");
    }
    const std::string path = path_of((*known)["id"]);
    auto text = read_small_file(path, kFileBytesMax);
    EVAC_TRY(text);
    Json report = Json::parse(*text, nullptr, false);
    if (!report.is_object()) return make_error(Errc::corrupt, "'" + path + "' is damaged");
    return report;
}

}  // namespace evac::daemon
