#include "evac/planner/simulate_report.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "report_text.hpp"
#include "simulate_metrics.hpp"
#include "simulate_quantile.hpp"

namespace evac::planner {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kPolicyWidth = 16;
constexpr size_t kNumberWidth = 12;

Json to_json(const Distribution& d) {
    return {{"min", d.min}, {"p5", d.p5},   {"p25", d.p25}, {"median", d.median},
            {"p75", d.p75}, {"p95", d.p95}, {"max", d.max}, {"mean", d.mean}};
}

// The share that is away at t, from the times at which each share is reached.
double share_at(const std::vector<double>& times, double t) {
    const auto after = std::upper_bound(times.begin(), times.end(), t);
    const auto reached = static_cast<double>(after - times.begin());
    return std::max(0.0, reached - 1) / static_cast<double>(kCurvePoints);
}

Json policy_json(const Simulation& simulation, const PolicyRuns& policy, double end_s) {
    const auto d = [&policy](const Metric& metric) {
        return to_json(distribution_of(values_of(policy, metric)));
    };
    Json out;
    out["policy"] = to_string(policy.policy);
    for (const NamedMetric& metric : kMetrics) {
        if (metric.before_windows) out[metric.name] = d(metric.value);
    }
    out["windows"] = Json::array();
    for (size_t w = 0; w < simulation.scenario.windows_s.size(); ++w) {
        Json window;
        window["at_s"] = simulation.scenario.windows_s[w];
        window["weight_away"] = d([w](const RunSummary& run) { return run.weight_away[w]; });
        window["vms_away"] =
            d([w](const RunSummary& run) { return static_cast<double>(run.vms_away[w]); });
        out["windows"].push_back(std::move(window));
    }
    for (size_t end = 0; end < kEnds; ++end) {
        out["ends"][std::string(to_string(static_cast<End>(end)))] =
            d([end](const RunSummary& run) { return static_cast<double>(run.ends[end]); });
    }
    for (const NamedMetric& metric : kMetrics) {
        if (!metric.before_windows) out[metric.name] = d(metric.value);
    }
    const Curve curve = curve_of(policy, end_s);
    out["curve"] = {{"at_s", curve.at_s},
                    {"weight_p5", curve.weight_p5},
                    {"weight_median", curve.weight_median},
                    {"weight_p95", curve.weight_p95},
                    {"vms_mean", curve.vms_mean}};
    return out;
}

std::string table_row(std::string_view label, const std::vector<std::string>& cells) {
    std::string row = "  " + pad(label, kPolicyWidth);
    for (const std::string& cell : cells) row += pad_left(cell, kNumberWidth);
    return row + "\n";
}

}  // namespace

Distribution distribution_of(std::vector<double> values) {
    if (values.empty()) return {};
    std::sort(values.begin(), values.end());
    const double sum = std::accumulate(values.begin(), values.end(), 0.0);
    return {values.front(),         quantile(values, 0.05),
            quantile(values, 0.25), quantile(values, 0.5),
            quantile(values, 0.75), quantile(values, 0.95),
            values.back(),          sum / static_cast<double>(values.size())};
}

double last_away_s(const Simulation& simulation) {
    double end = 0;
    for (const PolicyRuns& policy : simulation.policies) {
        for (const RunSummary& run : policy.runs) end = std::max(end, run.makespan_s);
    }
    return end;
}

Curve curve_of(const PolicyRuns& policy, double end_s) {
    Curve curve;
    std::vector<double> shares;
    for (size_t k = 0; k <= kCurveSamples; ++k) {
        // The last sample is the end itself: rounding must not leave the last VM out.
        const double t = k == kCurveSamples
                             ? end_s
                             : end_s * static_cast<double>(k) / static_cast<double>(kCurveSamples);
        shares.clear();
        double vms = 0;
        for (const RunSummary& run : policy.runs) {
            shares.push_back(share_at(run.weight_curve_s, t));
            vms += share_at(run.vms_curve_s, t);
        }
        std::sort(shares.begin(), shares.end());
        curve.at_s.push_back(t);
        curve.weight_p5.push_back(quantile(shares, 0.05));
        curve.weight_median.push_back(quantile(shares, 0.5));
        curve.weight_p95.push_back(quantile(shares, 0.95));
        curve.vms_mean.push_back(vms / static_cast<double>(policy.runs.size()));
    }
    return curve;
}

std::string simulation_to_json(const Simulation& simulation) {
    const Scenario& scenario = simulation.scenario;
    Json root;
    root["schema"] = kSimulationSchema;
    root["vms"] = simulation.vms;
    root["weighted_total"] = simulation.weighted_total;
    root["deadline_s"] = simulation.deadline_s ? Json(*simulation.deadline_s) : Json(nullptr);
    root["seeds"] = simulation.seeds_played;
    root["first_seed"] = scenario.first_seed;
    root["streams"] = scenario.streams;
    root["mode"] = scenario.mode ? Json(to_string(*scenario.mode)) : Json(nullptr);
    root["replan_interval_s"] = scenario.replan_interval_s;
    root["feasible"] = simulation.feasible();
    root["plan_ms"] = simulation.plan_ms;
    root["play_ms"] = simulation.play_ms;
    root["policies"] = Json::array();
    const double end_s = last_away_s(simulation);
    for (const PolicyRuns& policy : simulation.policies) {
        root["policies"].push_back(policy_json(simulation, policy, end_s));
    }
    return root.dump(2) + "\n";
}

std::string simulation_to_table(const Simulation& simulation) {
    std::string out = headline(simulation) + "\n";
    for (const Block& block : blocks_of(simulation)) {
        out += "\n" + block.title + "\n";
        out += table_row("", {"min", "p5", "p25", "median", "p75", "p95", "max"});
        for (const PolicyRuns& policy : simulation.policies) {
            const Distribution d = distribution_of(values_of(policy, block.value));
            std::vector<std::string> cells;
            for (const double value : {d.min, d.p5, d.p25, d.median, d.p75, d.p95, d.max}) {
                cells.push_back(fixed(value, block.decimals));
            }
            out += table_row(to_string(policy.policy), cells);
        }
    }
    return out;
}

}  // namespace evac::planner
