// The page: what was simulated, three plots, and every distribution. Nothing in it comes from
// outside but numbers: names of VMs and hosts are not shown.
#include <algorithm>

#include "evac/planner/simulate_report.hpp"
#include "report_text.hpp"
#include "simulate_metrics.hpp"
#include "simulate_plot.hpp"

namespace evac::planner {
namespace {

constexpr std::string_view kStyle =
    "body{font:14px/1.45 sans-serif;max-width:920px;margin:24px auto;padding:0 16px;color:#222}"
    "h1{font-size:20px}h2{font-size:15px;margin:26px 0 4px}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:2px 10px;text-align:right;border-bottom:1px solid #e3e6ea}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto;margin:10px 0}"
    ".bad{color:#c0392b}.good{color:#2e7d32}";

std::string item(const std::string& text) {
    return "<li>" + text + "</li>\n";
}

std::string entries(size_t count, const char* what) {
    return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

// The scenario in words.
std::string scenario_list(const Simulation& simulation) {
    const Scenario& s = simulation.scenario;
    std::string out = "<ul>\n";
    out += item(entries(simulation.seeds_played, "seed") + " from " + std::to_string(s.first_seed) +
                ", " + entries(s.streams, "stream") +
                ", modes: " + (s.mode ? "all " + std::string(to_string(*s.mode)) : "as planned") +
                ", re-planning " +
                (s.replan_interval_s > 0 ? "every " + duration_text(s.replan_interval_s) : "off"));
    if (!s.bandwidth.empty() || !s.outages.empty()) {
        out += item("link: " + entries(s.bandwidth.size(), "change") + " of bandwidth, " +
                    entries(s.outages.size(), "outage"));
    }
    for (const PowerLoss& loss : s.power) {
        out += item((loss.hosts.empty() ? std::string("the site")
                                        : entries(loss.hosts.size(), "named host")) +
                    " without power " +
                    (loss.latest_s ? "between " + duration_text(loss.at_s) + " and " +
                                         duration_text(*loss.latest_s)
                                   : "at " + duration_text(loss.at_s)));
        if (&loss == &s.power[std::min<size_t>(s.power.size(), 8) - 1]) break;
    }
    if (s.failures.turn_probability > 0) {
        out += item("a turn fails with probability " + fixed(s.failures.turn_probability, 3));
    }
    if (s.failures.host_probability > 0) {
        out += item("a host fails with probability " + fixed(s.failures.host_probability, 3) +
                    " within " + duration_text(s.failures.host_within_s));
    }
    if (s.dirty_phases.mean_interval_s > 0) {
        out += item("writing changes by factors of " + fixed(s.dirty_phases.factor_min, 2) +
                    " to " + fixed(s.dirty_phases.factor_max, 2) + ", on average every " +
                    duration_text(s.dirty_phases.mean_interval_s));
    }
    const MeasurementError& e = s.measurement_error;
    if (e.unstaged + e.dirty + e.wire_ratio + e.goodput > 0) {
        out += item("measured wrongly by (relative, one sigma): backlog " +
                    fixed(100 * e.unstaged, 0) + " %, writing " + fixed(100 * e.dirty, 0) +
                    " %, wire ratio " + fixed(100 * e.wire_ratio, 0) + " %, goodput " +
                    fixed(100 * e.goodput, 0) + " %");
    }
    if (s.recovery_interval_s) {
        out += item("recovery points every " + duration_text(*s.recovery_interval_s));
    }
    return out + "</ul>\n";
}

std::vector<std::string> policy_names(const Simulation& simulation) {
    std::vector<std::string> names;
    for (const PolicyRuns& policy : simulation.policies) {
        names.emplace_back(to_string(policy.policy));
    }
    return names;
}

void mark_times(const Simulation& simulation, SharePlot& plot) {
    if (simulation.deadline_s) plot.upright(*simulation.deadline_s, "deadline");
    for (const PowerLoss& loss : simulation.scenario.power) {
        if (!loss.hosts.empty()) continue;
        plot.upright(loss.at_s, "power");
        return;
    }
}

std::string plots(const Simulation& simulation) {
    const double end_s = last_away_s(simulation);
    SharePlot weight("Weight away over time (median; band: 5 to 95 of 100 seeds)", end_s);
    SharePlot vms("VMs away over time, all seeds together (distribution of away times)", end_s);
    std::vector<Bar> bars;
    const std::vector<std::string> parts{"lost", "recovery point only", "still at home"};
    for (size_t k = 0; k < simulation.policies.size(); ++k) {
        const PolicyRuns& policy = simulation.policies[k];
        const Curve curve = curve_of(policy, end_s);
        if (policy.runs.size() > 1) {
            weight.band(curve.at_s, curve.weight_p5, curve.weight_p95, k);
        }
        weight.curve(curve.at_s, curve.weight_median, k);
        vms.curve(curve.at_s, curve.vms_mean, k);
        const auto mean = [&policy](std::initializer_list<End> ends) {
            return distribution_of(values_of(policy, [&ends](const RunSummary& run) {
                size_t sum = 0;
                for (const End end : ends) sum += run.ends[static_cast<size_t>(end)];
                return static_cast<double>(sum);
            }));
        };
        const Distribution all =
            mean({End::lost, End::recovery_point, End::failed, End::abandoned, End::stranded});
        bars.push_back({std::string(to_string(policy.policy)),
                        {mean({End::lost}).mean, mean({End::recovery_point}).mean,
                         mean({End::failed, End::abandoned, End::stranded}).mean},
                        all.p5,
                        all.p95});
    }
    mark_times(simulation, weight);
    mark_times(simulation, vms);
    const std::vector<std::string> names = policy_names(simulation);
    return std::move(weight).svg(names) + std::move(vms).svg(names) +
           bar_plot("VMs that did not get away (mean over the seeds; line: 5 to 95 of 100)", parts,
                    bars);
}

std::string tables(const Simulation& simulation) {
    std::string out;
    for (const Block& block : blocks_of(simulation)) {
        out += "<h2>" + block.title + "</h2>\n<table><tr><th>policy</th>";
        for (const char* name : {"min", "p5", "p25", "median", "p75", "p95", "max"}) {
            out += "<th>" + std::string(name) + "</th>";
        }
        out += "</tr>\n";
        for (const PolicyRuns& policy : simulation.policies) {
            const Distribution d = distribution_of(values_of(policy, block.value));
            out += "<tr><td>" + std::string(to_string(policy.policy)) + "</td>";
            for (const double value : {d.min, d.p5, d.p25, d.median, d.p75, d.p95, d.max}) {
                out += "<td>" + fixed(value, block.decimals) + "</td>";
            }
            out += "</tr>\n";
        }
        out += "</table>\n";
    }
    return out;
}

}  // namespace

std::string simulation_to_html(const Simulation& simulation) {
    return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
           "<title>Simulated evacuation</title>\n<style>" +
           std::string(kStyle) +
           "</style></head><body>\n<h1>Simulated evacuation</h1>\n<p class=\"" +
           (simulation.feasible() ? "good" : "bad") + "\">" + headline(simulation) + ".</p>\n" +
           scenario_list(simulation) + plots(simulation) + tables(simulation) +
           "<p>Times count from the alert. A VM is away when it runs at the other site; weight is "
           "the sum of priorities.</p>\n</body></html>\n";
}

}  // namespace evac::planner
