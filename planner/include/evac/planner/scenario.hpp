#pragma once
// What happens to a site in one simulated evacuation (docs/simulation.md explains each field and
// has an example). The JSON form, where every field is optional and all times count from the alert:
//
//   { "policies": [names], "seeds", "first_seed", "streams", "mode": "live" | "freeze",
//     "replan_interval_s", "horizon_s", "windows_s": [seconds],
//     "bandwidth": [ {"at_s", "mbit", "half_life_s" optional, "decay_to_mbit" optional} ],
//     "outages":   [ {"at_s", "for_s"} ],
//     "power":     [ {"at_s", "latest_s" optional, "hosts": [names] optional} ],
//     "failures":  { "turn_probability", "retry": "last" | "delay", "retry_delay_s",
//                    "host_probability", "host_within_s" },
//     "dirty_phases": { "mean_interval_s", "factor_min", "factor_max" },
//     "measurement_error": { "unstaged", "dirty", "wire_ratio", "goodput" },
//     "recovery_points": { "interval_s" } }
//
// Plain values, no thread of their own.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/planner/solve.hpp"

namespace evac::planner {

inline constexpr size_t kScenarioTextBytesMax = 1024 * 1024;
inline constexpr size_t kSeedsMax = 1'000;
inline constexpr size_t kStreamsMax = 256;
inline constexpr size_t kScenarioEntriesMax = 1'000;  // of bandwidth, outages, power, and hosts
inline constexpr size_t kWindowsMax = 16;
inline constexpr double kReplanIntervalMinS = 0.1;
inline constexpr double kPhaseIntervalMinS = 0.1;
inline constexpr double kPhaseFactorMax = 1e3;
inline constexpr double kMeasurementErrorMax = 1;    // 1 = factors of 1/20 to 20
inline constexpr double kTurnsSimulatedMax = 1e8;    // VMs x seeds x policies
inline constexpr double kDefaultHorizonS = 604'800;  // a week

// Whom the simulator asks for the order: our solver, or one of the simple rules.
struct PolicyChoice {
    std::optional<Policy> rule;  // nullopt = our solver
    bool operator==(const PolicyChoice&) const = default;
};
std::string_view to_string(PolicyChoice policy);  // "plan", or to_string(Policy)
std::optional<PolicyChoice> policy_from(std::string_view text);

// From at_s on the link has `mbit`; with a half-life it decays from there towards decay_to_mbit.
// Until the first entry it has the inventory's goodput. 0 = dead.
struct BandwidthStep {
    double at_s = 0;
    double mbit = 0;
    std::optional<double> half_life_s;
    double decay_to_mbit = 0;
};

struct Outage {
    double at_s = 0;
    double for_s = 0;
};

// The site, or the named hosts, lose power at a time drawn evenly from [at_s, latest_s].
struct PowerLoss {
    double at_s = 0;
    std::optional<double> latest_s;  // nullopt = at_s exactly
    std::vector<std::string> hosts;  // empty = the whole site
};

enum class Retry : uint8_t { last, delay };

struct Failures {
    double turn_probability = 0;  // of each turn; a VM has two at most
    Retry retry = Retry::last;    // after the others, or first in line after retry_delay_s
    double retry_delay_s = 0;
    double host_probability = 0;  // of each host named in the inventory
    double host_within_s = 0;     // at a time drawn evenly from [0, host_within_s]
};

// Each guest's writing is multiplied by a factor that changes at random times (exponential
// intervals) to a value drawn log-uniformly from [factor_min, factor_max]. 1 until the first
// change.
struct DirtyPhases {
    double mean_interval_s = 0;  // 0 = none
    double factor_min = 1;
    double factor_max = 1;
};

// The planner sees each value times exp(e z), z standard normal within +-3; reality has the
// inventory's.
struct MeasurementError {
    double unstaged = 0;
    double dirty = 0;  // rate and working set, and the disk's writing; one factor per guest
    double wire_ratio = 0;
    double goodput = 0;  // one factor per evacuation
};

struct Scenario {
    std::vector<PolicyChoice> policies{PolicyChoice{}};
    size_t seeds = 1;
    uint64_t first_seed = 1;
    size_t streams = 1;            // turns at the same time; they share the link evenly
    std::optional<Mode> mode;      // forced for every VM: live or freeze
    double replan_interval_s = 0;  // 0 = the first plan is kept
    double horizon_s = kDefaultHorizonS;
    std::vector<double> windows_s{60, 300, 1800};  // "how much is out by then", ascending
    std::vector<BandwidthStep> bandwidth;          // at_s ascending
    std::vector<Outage> outages;                   // ascending, apart from each other
    std::vector<PowerLoss> power;
    Failures failures;
    DirtyPhases dirty_phases;
    MeasurementError measurement_error;
    // A VM that is lost comes back from its last recovery point, at most so old. nullopt: it does
    // not.
    std::optional<double> recovery_interval_s;

    bool random() const;  // whether seeds can differ at all
};

// Strict, like parse_inventory: invalid_argument, and the context names the path of the field, the
// value and what is accepted: "bandwidth[2].mbit: -1 is refused; accepted: a number >= 0, ...".
Result<Scenario> parse_scenario(std::string_view text);

// What needs the inventory: hosts that exist, and VMs x seeds x policies within its limit.
Status check_scenario(const Scenario& scenario, const Inventory& inventory);

}  // namespace evac::planner
