#pragma once
// What tracking keeps inside QEMU, and how a new gateway takes it up. Two kinds of dirty bitmaps
// on each disk's node, neither persistent: they end with the QEMU process.
//
//   tracking := "evac-t" sequence      enabled: what was written since the last point began.
//                                      Disabled (the number before): of a point that is not
//                                      finished.
//   mark     := "evac-c" cursor "-d" index "-of" count "-s" size_bytes
//                                      disabled and never read; only its name counts: pages below
//                                      `cursor` were delivered by finished points, or are in a
//                                      tracking bitmap. `index` of `count` disks.
//
// The mark changes in the transaction that finishes a point: a kill leaves the old or the new one.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/storage_sync/disk_capture.hpp"
#include "qemu_blocks.hpp"

namespace evac::storage_sync {

std::string tracking_name(uint64_t sequence);

struct TrackingMark {
    uint64_t cursor_page = 0;
    size_t disk = 0;
    size_t disks = 0;
    uint64_t size_bytes = 0;
    bool operator==(const TrackingMark&) const = default;
};
std::string mark_name(const TrackingMark& mark);
// False: `name` is no mark.
bool parse_mark(std::string_view name, TrackingMark& mark);

// `disabled` bitmaps record nothing. Parts of a transaction.
qmp::Json add_bitmap_action(const std::string& node, const std::string& name,
                            uint64_t granularity_bytes, bool disabled);
qmp::Json remove_bitmap_action(const std::string& node, const std::string& name);
qmp::Json add_mark_action(const std::string& node, const TrackingMark& mark);

struct FoundTracking {
    uint64_t sequence = 0;               // of the enabled bitmaps
    bool has_old = false;                // sequence - 1 is there too, disabled
    std::vector<uint64_t> cursor_pages;  // by disk
};
// What is in QEMU fits these disks and granularities, and is without a gap. Error not_found: it
// does not, with the reason for people.
Result<FoundTracking> find_tracking(const std::vector<NodeInfo>& nodes,
                                    const std::vector<DiskInfo>& disks,
                                    const std::vector<uint64_t>& granularities_bytes);

}  // namespace evac::storage_sync
