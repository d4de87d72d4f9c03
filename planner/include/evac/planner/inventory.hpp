#pragma once
// What the planner is told: the link, the deadline and the VMs. The JSON form is a contract with
// operators
// (`evacctl plan --inventory FILE`) and uses exactly these field names and units.
//
//   { "link": {"goodput_mbit", "rtt_ms"}, "deadline_s": number or null (absent = null),
//     "vms": [ {"name", "memory_mib", "priority", "unstaged_mib",
//               "dirty": [ {"working_set_mib", "rate_mib_s"} ],            0 to 2 entries
//               "disk_write_mib_s", "wire_ratio", "max_downtime_ms", "switchover_ms",
//               "after": [names] optional, "host": text optional,
//               "recovery_point_age_s": number or null, optional } ],
//     "away_hosts": [ {"name", "memory_mib"} ] optional }          absent = room without limit
//
// MiB = 2^20 bytes, mbit = 10^6 bit. All other fields are required. Plain values, no thread of
// their own.
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"

namespace evac::planner {

inline constexpr size_t kVmsMax = 100'000;
inline constexpr size_t kInventoryTextBytesMax = 64 * 1024 * 1024;
inline constexpr size_t kDirtyEntriesMax = 2;
inline constexpr size_t kAwayHostsMax = 1'000;
inline constexpr size_t kAfterMax = 1'000;    // entries of one VM
inline constexpr size_t kNameBytesMax = 255;  // of a VM or host; no control characters
inline constexpr double kNumberMax = 1e12;    // any number in an inventory
inline constexpr double kGoodputMbitMin = 1e-3;

struct Link {
    double goodput_mbit = 0;  // >= kGoodputMbitMin
    double rtt_ms = 0;        // >= 0; shown, not used by the arithmetic
};

// One scale of a guest's writing: distinct bytes dirtied in dt are W (1 - exp(-r dt / W)).
struct DirtyScale {
    double working_set_mib = 0;  // W > 0
    double rate_mib_s = 0;       // r > 0 (a guest that does not write has no entry)
};

struct VmInput {
    std::string name;                // unique, 1..kNameBytesMax bytes
    double memory_mib = 0;           // > 0; shown, not used by the arithmetic
    double priority = 1;             // weight >= 1
    double unstaged_mib = 0;         // backlog now, memory and disk, >= 0
    std::vector<DirtyScale> dirty;   // at most kDirtyEntriesMax
    double disk_write_mib_s = 0;     // >= 0
    double wire_ratio = 1;           // bytes on the wire per byte of backlog, >= 0
    double max_downtime_ms = 0;      // >= 0
    double switchover_ms = 0;        // >= 0
    std::vector<std::string> after;  // resumes only when these are away
    std::string host;                // empty = not given
    // Age of the newest sealed recovery point at away, >= 0; nullopt = there is none.
    std::optional<double> recovery_point_age_s;
};

// Where VMs land. Each takes its memory_mib of one host.
struct AwayHost {
    std::string name;       // unique, as a VM's name
    double memory_mib = 0;  // free for landing, >= 0
};

struct Inventory {
    Link link;
    std::optional<double> deadline_s;  // >= 0, from the alert; nullopt = none
    std::vector<VmInput> vms;          // 1..kVmsMax
    std::vector<AwayHost> away_hosts;  // at most kAwayHostsMax; empty = room without limit
};

// Strict. Errc::invalid_argument, and the context names the path of the field, the value and what
// is accepted: "vms[3].dirty[0].rate_mib_s: -2 is refused; accepted: a number > 0, at most 1e+12".
// A cycle: "after: a -> b -> a ...". Never throws; memory is bounded by the limits above.
Result<Inventory> parse_inventory(std::string_view text);

// The same rules for an inventory that was not parsed (live measurements). plan() calls it.
Status validate(const Inventory& inventory);

// The contract's JSON, indented by two; parse_inventory(to_json(x)) gives x back.
std::string to_json(const Inventory& inventory);

}  // namespace evac::planner
