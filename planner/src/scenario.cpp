#include "evac/planner/scenario.hpp"

#include <algorithm>
#include <set>

#include "inventory_rules.hpp"
#include "scenario_json.hpp"

namespace evac::planner {
namespace {

using rules::JsonNode;
using rules::Range;

constexpr Range kTime{0, kHorizonS, false};
constexpr Range kProbability{0, 1, false};
constexpr std::array<Policy, 5> kRules{Policy::fifo, Policy::shortest_first, Policy::ratio,
                                       Policy::priority, Policy::priority_per_second};

std::string policy_names() {
    std::string names = "plan";
    for (const Policy rule : kRules) names.append(", ").append(to_string(rule));
    return names;
}

void read_policies(const JsonNode& root, Scenario& out) {
    if (!root.has("policies")) return;
    out.policies.clear();
    const std::string names = policy_names();
    root.list("policies", kRules.size() + 1, [&](const JsonNode& entry, size_t) {
        const auto name = entry.text(names);
        if (!name) return;
        const auto policy = policy_from(*name);
        if (!policy) return entry.refuse(rules::shown(*name), names);
        if (std::find(out.policies.begin(), out.policies.end(), *policy) != out.policies.end()) {
            return entry.refuse(rules::shown(*name), "each policy once");
        }
        out.policies.push_back(*policy);
    });
}

void read_general(const JsonNode& root, Scenario& out) {
    uint64_t seeds = out.seeds, streams = out.streams;
    root.whole("seeds", seeds, 1, kSeedsMax);
    root.whole("first_seed", out.first_seed, 0, UINT64_MAX - kSeedsMax);
    root.whole("streams", streams, 1, kStreamsMax);
    out.seeds = seeds;
    out.streams = streams;
    const char* modes = "live, freeze";
    if (const auto name = root.text("mode", modes)) {
        out.mode = mode_from(*name);
        if (out.mode != Mode::live && out.mode != Mode::freeze) {
            root.refuse_at("mode", rules::shown(*name), modes);
        }
    }
    root.number("replan_interval_s", out.replan_interval_s, kTime);
    if (out.replan_interval_s > 0 && out.replan_interval_s < kReplanIntervalMinS) {
        root.refuse_at("replan_interval_s", rules::shown(out.replan_interval_s),
                       "0 (never), or a number >= " + rules::shown(kReplanIntervalMinS));
    }
    root.number("horizon_s", out.horizon_s, {0, kHorizonS, true});
    if (!root.has("windows_s")) return;
    out.windows_s.clear();
    root.list("windows_s", kWindowsMax, [&](const JsonNode& entry, size_t i) {
        double at = 0;
        entry.number(at, {0, kHorizonS, true});
        if (i > 0 && at <= out.windows_s.back()) {
            return entry.refuse(rules::shown(at), "more than the entry before");
        }
        out.windows_s.push_back(at);
    });
}

void read_link(const JsonNode& root, Scenario& out) {
    root.list("bandwidth", kScenarioEntriesMax, [&](JsonNode entry, size_t i) {
        entry.object({"at_s", "mbit"}, {"half_life_s", "decay_to_mbit"});
        BandwidthStep step;
        entry.number("at_s", step.at_s, kTime);
        entry.number("mbit", step.mbit, {});
        if (entry.has("half_life_s")) {
            double half_life = 0;
            entry.number("half_life_s", half_life, {1e-3, kHorizonS, false});
            step.half_life_s = half_life;
        }
        if (entry.has("decay_to_mbit") && !step.half_life_s) {
            entry.refuse_at("decay_to_mbit", "a value", "one only together with half_life_s");
        }
        entry.number("decay_to_mbit", step.decay_to_mbit, {});
        if (i > 0 && step.at_s <= out.bandwidth.back().at_s) {
            entry.refuse_at("at_s", rules::shown(step.at_s), "more than at_s of the entry before");
        }
        out.bandwidth.push_back(step);
    });
    root.list("outages", kScenarioEntriesMax, [&](JsonNode entry, size_t i) {
        entry.object({"at_s", "for_s"}, {});
        Outage outage;
        entry.number("at_s", outage.at_s, kTime);
        entry.number("for_s", outage.for_s, {0, kHorizonS, true});
        if (i > 0 && outage.at_s < out.outages.back().at_s + out.outages.back().for_s) {
            entry.refuse_at("at_s", rules::shown(outage.at_s),
                            "the end of the outage before, or later");
        }
        out.outages.push_back(outage);
    });
}

void read_power(const JsonNode& root, Scenario& out) {
    root.list("power", kScenarioEntriesMax, [&](JsonNode entry, size_t) {
        entry.object({"at_s"}, {"latest_s", "hosts"});
        PowerLoss loss;
        entry.number("at_s", loss.at_s, kTime);
        if (entry.has("latest_s")) {
            double latest = 0;
            entry.number("latest_s", latest, {loss.at_s, kHorizonS, false});
            loss.latest_s = latest;
        }
        std::set<std::string> seen;
        entry.list("hosts", kScenarioEntriesMax, [&](const JsonNode& host, size_t) {
            const auto name = host.text("the name of a host");
            if (!name) return;
            const std::string bad = rules::name_refusal(*name);
            if (!bad.empty()) return host.refuse(rules::shown(*name), bad);
            if (!seen.insert(*name).second) {
                return host.refuse(rules::shown(*name), "each host once");
            }
            loss.hosts.push_back(*name);
        });
        out.power.push_back(std::move(loss));
    });
}

void read_failures(const JsonNode& root, Failures& out) {
    if (!root.has("failures")) return;
    JsonNode node = root.at("failures");
    node.object(
        {}, {"turn_probability", "retry", "retry_delay_s", "host_probability", "host_within_s"});
    node.number("turn_probability", out.turn_probability, kProbability);
    node.number("retry_delay_s", out.retry_delay_s, kTime);
    node.number("host_probability", out.host_probability, kProbability);
    node.number("host_within_s", out.host_within_s, kTime);
    const char* ways = "last, delay";
    if (const auto way = node.text("retry", ways)) {
        out.retry = *way == "delay" ? Retry::delay : Retry::last;
        if (*way != "delay" && *way != "last") node.refuse_at("retry", rules::shown(*way), ways);
    }
    if (node.has("retry_delay_s") != (out.retry == Retry::delay)) {
        node.refuse_at("retry_delay_s", node.has("retry_delay_s") ? "a value" : "nothing",
                       "a number of seconds with retry \"delay\", and only with it");
    }
    if (node.has("host_probability") != node.has("host_within_s")) {
        node.refuse("one of them alone", "host_probability and host_within_s together");
    }
}

void read_randomness(const JsonNode& root, Scenario& out) {
    if (root.has("dirty_phases")) {
        JsonNode node = root.at("dirty_phases");
        node.object({"mean_interval_s", "factor_min", "factor_max"}, {});
        DirtyPhases& phases = out.dirty_phases;
        node.number("mean_interval_s", phases.mean_interval_s, {kPhaseIntervalMinS, kHorizonS});
        node.number("factor_min", phases.factor_min, {1 / kPhaseFactorMax, kPhaseFactorMax});
        node.number("factor_max", phases.factor_max, {phases.factor_min, kPhaseFactorMax});
    }
    if (root.has("measurement_error")) {
        JsonNode node = root.at("measurement_error");
        node.object({}, {"unstaged", "dirty", "wire_ratio", "goodput"});
        MeasurementError& error = out.measurement_error;
        const Range range{0, kMeasurementErrorMax, false};
        node.number("unstaged", error.unstaged, range);
        node.number("dirty", error.dirty, range);
        node.number("wire_ratio", error.wire_ratio, range);
        node.number("goodput", error.goodput, range);
    }
    if (root.has("recovery_points")) {
        JsonNode node = root.at("recovery_points");
        node.object({"interval_s"}, {});
        double interval = 0;
        node.number("interval_s", interval, {0, kHorizonS, true});
        out.recovery_interval_s = interval;
    }
}

}  // namespace

std::string_view to_string(PolicyChoice policy) {
    return policy.rule ? to_string(*policy.rule) : "plan";
}

std::optional<PolicyChoice> policy_from(std::string_view text) {
    if (text == "plan") return PolicyChoice{};
    for (const Policy rule : kRules) {
        if (text == to_string(rule)) return PolicyChoice{rule};
    }
    return std::nullopt;
}

bool Scenario::random() const {
    const bool late_power = std::any_of(power.begin(), power.end(), [](const PowerLoss& loss) {
        return loss.latest_s && *loss.latest_s > loss.at_s;
    });
    const MeasurementError& e = measurement_error;
    // The ages of recovery points are random too, but only where something is lost.
    return late_power || failures.turn_probability > 0 || failures.host_probability > 0 ||
           dirty_phases.mean_interval_s > 0 || e.unstaged > 0 || e.dirty > 0 || e.wire_ratio > 0 ||
           e.goodput > 0 || recovery_interval_s.has_value();
}

Result<Scenario> parse_scenario(std::string_view text) {
    const auto json = rules::read_json(text, "scenario", kScenarioTextBytesMax);
    if (!json.ok()) return json.error();
    std::optional<Error> error;
    JsonNode shape(*json, "scenario", error);
    shape.object({}, {"policies", "seeds", "first_seed", "streams", "mode", "replan_interval_s",
                      "horizon_s", "windows_s", "bandwidth", "outages", "power", "failures",
                      "dirty_phases", "measurement_error", "recovery_points"});
    const JsonNode root(*json, "", error);
    Scenario out;
    read_policies(root, out);
    read_general(root, out);
    read_link(root, out);
    read_power(root, out);
    read_failures(root, out.failures);
    read_randomness(root, out);
    if (error) return std::move(*error);
    return out;
}

Status check_scenario(const Scenario& scenario, const Inventory& inventory) {
    std::set<std::string_view> hosts;
    for (const VmInput& vm : inventory.vms) hosts.insert(vm.host);
    for (size_t i = 0; i < scenario.power.size(); ++i) {
        const std::vector<std::string>& named = scenario.power[i].hosts;
        for (size_t k = 0; k < named.size(); ++k) {
            if (hosts.count(named[k]) != 0) continue;
            const std::string path = rules::index_path(rules::index_path("power", i) + ".hosts", k);
            return rules::refuse(path, rules::shown(named[k]), "the host of a VM in the inventory");
        }
    }
    const double turns = static_cast<double>(inventory.vms.size()) *
                         static_cast<double>(scenario.random() ? scenario.seeds : 1) *
                         static_cast<double>(scenario.policies.size());
    if (turns > kTurnsSimulatedMax) {
        return rules::refuse(
            "seeds", std::to_string(scenario.seeds),
            "VMs x seeds x policies of at most " + rules::shown(kTurnsSimulatedMax));
    }
    return {};
}

}  // namespace evac::planner
