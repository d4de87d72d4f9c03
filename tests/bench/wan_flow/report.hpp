#pragma once
// What a process used and what its transport counted, as JSON.
#include <cstddef>
#include <nlohmann/json_fwd.hpp>

#include "evac/wan/transport.hpp"

namespace wan_flow {

// Resident bytes now, and the most since reset_peak_rss().
size_t rss_bytes();
size_t peak_rss_bytes();
void reset_peak_rss();

double process_cpu_s();

// What the configuration lets one connection hold at most: both directions of all classes, and the
// rings around them.
size_t memory_limit_bytes(const evac::wan::TransportConfig& config);

nlohmann::json stats_json(const evac::wan::Stats& stats);
nlohmann::json port_json(const evac::wan_port::PortCounters& counters);

}  // namespace wan_flow
