#pragma once
// Room at away: which host each VM lands on, and who finds none.
//
// First fit, largest first. If that places everybody, nobody is left out. Otherwise it starts again
// with most weight per MiB first, into the fullest host that has room, and repairs: a VM without
// room comes in where one placed VM can move to another host, or in the place of one lighter VM.
// Guarantee: in the result no VM left out fits into any host as it is, nor by moving one placed VM,
// nor in the place of one lighter placed VM. Ties are broken by attributes, then by index.
#include <cstdint>
#include <span>
#include <vector>

#include "evac/planner/inventory.hpp"

namespace evac::planner {

inline constexpr int32_t kNoHost = -1;

// By VM: index into away_hosts, kNoHost for those left out or not in `wanted`. `fixed` (by VM,
// empty = none) is kept; room that it takes beyond a host's memory is not asked about.
std::vector<int32_t> place_at_away(const Inventory& inventory, std::span<const uint32_t> wanted,
                                   std::span<const int32_t> fixed);

}  // namespace evac::planner
