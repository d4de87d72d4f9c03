// What is measured of a VM's protection, as JSON (status_json.hpp).
#include <algorithm>

#include "app.hpp"
#include "status_json.hpp"

namespace evac::daemon {
namespace {

using Json = nlohmann::json;

constexpr double kSoonS = 5, kLaterS = 60;

double rounded(double value) {
    return static_cast<double>(static_cast<int64_t>(value * 1000 + (value < 0 ? -0.5 : 0.5))) /
           1000;
}
double mib(double bytes) {
    return rounded(bytes / static_cast<double>(kMiB));
}

Json rpo_24h_json(const RpoRecord::Summary& s) {
    Json out{{"covered_s", rounded(s.covered_s)}, {"unprotected_s", rounded(s.unprotected_s)}};
    const bool any = s.covered_s > s.unprotected_s;
    out["p50_s"] = any ? Json(rounded(s.p50_s)) : Json();
    out["p95_s"] = any ? Json(rounded(s.p95_s)) : Json();
    out["max_s"] = any ? Json(rounded(s.max_s)) : Json();
    out["within_pct"] = s.covered_s > 0 ? Json(rounded(100 * s.within_s / s.covered_s)) : Json();
    return out;
}

Json dirty_json(const HomeVm& vm) {
    Json terms = Json::array();
    for (const auto& term : vm.dirty_terms) {
        terms.push_back({{"working_set_mib", rounded(term.working_set_mib)},
                         {"rate_mib_s", rounded(term.rate_mib_s)}});
    }
    const auto after = [&vm](double seconds) {
        return vm.dirty_model.empty() ? Json()
                                      : Json(rounded(prestage::dirty_mib(vm.dirty_terms, seconds)));
    };
    return {{"terms", terms}, {"after_5s_mib", after(kSoonS)}, {"after_60s_mib", after(kLaterS)}};
}

Json pacing_json(const HomeVm& vm) {
    uint64_t refreshes = 0;
    std::vector<double> intervals;
    for (const auto& entry : vm.history.entries) {
        refreshes += entry.kind == prestage::RoundKind::refresh ? 1 : 0;
        if (entry.interval_s > 0) intervals.push_back(entry.interval_s);
    }
    std::sort(intervals.begin(), intervals.end());
    const auto known = [](const prestage::Estimate& e) {
        return e.known() ? Json(rounded(e.typical())) : Json();
    };
    const auto* last = vm.history.entries.empty() ? nullptr : &vm.history.entries.back();
    return {{"recent", vm.history.entries.size()},
            {"recent_refreshes", refreshes},
            {"last_s", last == nullptr ? Json() : Json(rounded(last->duration_s))},
            {"last_changed_mib", last == nullptr ? Json() : Json(rounded(last->changed_mib))},
            {"interval_s_median",
             intervals.empty() ? Json() : Json(rounded(intervals[intervals.size() / 2]))},
            {"cpu_s", known(vm.cpu_time)},
            {"seal_wait_s", known(vm.drain_time)}};
}

Json vm_rungs_json(const VmFlow& flow) {
    uint64_t all = 0;
    for (const auto& pages : flow.rung_pages) all += pages;
    Json out = Json::array();
    for (size_t i = 0; i < dedup::kRungCount; ++i) {
        const uint64_t pages = flow.rung_pages[i];
        const auto raw_bytes = static_cast<double>(pages * kPageBytes);
        const auto wire_bytes = static_cast<double>(flow.rung_wire_bytes[i].load());
        out.push_back({{"rung", dedup::to_string(static_cast<dedup::Rung>(i))},
                       {"pages", pages},
                       {"share_pct", all == 0 ? 0.0
                                              : rounded(100 * static_cast<double>(pages) /
                                                        static_cast<double>(all))},
                       {"raw_mib", mib(raw_bytes)},
                       {"wire_mib", mib(wire_bytes)},
                       {"saved_mib", mib(raw_bytes - wire_bytes)}});
    }
    return out;
}

}  // namespace

void add_measures(App& app, const HomeVm& vm, Json& out) {
    const double drain_s = app.home().drain_s(vm);
    out["backlog_s"] = drain_s < 0 ? Json() : Json(rounded(drain_s));
    out["rpo_24h"] = rpo_24h_json(vm.rpo_record.summary(app.clock().now_ns()));
    out["dirty"] = dirty_json(vm);
    out["pacing"] = pacing_json(vm);
    out["rungs"] = vm_rungs_json(*vm.flow);
}

}  // namespace evac::daemon
