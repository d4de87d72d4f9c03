#include "disk_tracking.hpp"

#include <algorithm>
#include <charconv>
#include <optional>

#include "evac/core/units.hpp"

namespace evac::storage_sync {
namespace {

using qmp::Json;

constexpr std::string_view kTrackingPrefix = "evac-t";
constexpr std::string_view kMarkPrefix = "evac-c";
// A mark's bits are never used: as few as QEMU makes.
constexpr uint64_t kMarkGranularityBytes = 1ULL << 30;

// Takes `prefix` and a number off the front of `text`.
bool take(std::string_view& text, std::string_view prefix, uint64_t& number) {
    if (text.substr(0, prefix.size()) != prefix) return false;
    const char* begin = text.data() + prefix.size();
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(begin, end, number);
    if (error != std::errc{} || stop == begin) return false;
    text.remove_prefix(static_cast<size_t>(stop - text.data()));
    return true;
}

// What one disk's node holds.
struct OnNode {
    std::optional<uint64_t> enabled;
    std::optional<uint64_t> disabled;
    std::optional<TrackingMark> mark;
};

Result<OnNode> look_at(const NodeInfo& node, const std::string& disk, uint64_t granularity_bytes) {
    const auto no = [&disk](const std::string& what) {
        return make_error(Errc::not_found, "disk '" + disk + "': " + what);
    };
    OnNode found;
    for (const BitmapInfo& bitmap : node.bitmaps) {
        if (!is_ours(bitmap.name)) continue;
        TrackingMark mark;
        if (parse_mark(bitmap.name, mark)) {
            if (found.mark) return no("two marks");
            found.mark = mark;
            continue;
        }
        std::string_view rest = bitmap.name;
        uint64_t sequence = 0;
        if (!take(rest, kTrackingPrefix, sequence) || !rest.empty())
            return no("unknown bitmap '" + bitmap.name + "'");
        if (bitmap.granularity_bytes != granularity_bytes)
            return no("bitmap of " + std::to_string(bitmap.granularity_bytes) + " bytes, not " +
                      std::to_string(granularity_bytes));
        if (bitmap.busy || bitmap.inconsistent)
            return no("bitmap '" + bitmap.name + "' is busy or inconsistent");
        auto& slot = bitmap.recording ? found.enabled : found.disabled;
        if (slot) return no("two bitmaps of one kind");
        slot = sequence;
    }
    if (!found.enabled) return no("no bitmap was tracking its writes");
    if (!found.mark) return no("no mark");
    if (found.disabled && *found.disabled + 1 != *found.enabled)
        return no("its two bitmaps do not follow each other");
    return found;
}

}  // namespace

std::string tracking_name(uint64_t sequence) {
    return std::string(kTrackingPrefix) + std::to_string(sequence);
}

std::string mark_name(const TrackingMark& mark) {
    return std::string(kMarkPrefix) + std::to_string(mark.cursor_page) + "-d" +
           std::to_string(mark.disk) + "-of" + std::to_string(mark.disks) + "-s" +
           std::to_string(mark.size_bytes);
}

bool parse_mark(std::string_view name, TrackingMark& mark) {
    uint64_t disk = 0;
    uint64_t disks = 0;
    if (!take(name, kMarkPrefix, mark.cursor_page) || !take(name, "-d", disk) ||
        !take(name, "-of", disks) || !take(name, "-s", mark.size_bytes))
        return false;
    mark.disk = disk;
    mark.disks = disks;
    return name.empty();
}

Json add_bitmap_action(const std::string& node, const std::string& name, uint64_t granularity_bytes,
                       bool disabled) {
    return {{"type", "block-dirty-bitmap-add"},
            {"data",
             {{"node", node},
              {"name", name},
              {"granularity", granularity_bytes},
              {"disabled", disabled}}}};
}

Json remove_bitmap_action(const std::string& node, const std::string& name) {
    return {{"type", "block-dirty-bitmap-remove"}, {"data", {{"node", node}, {"name", name}}}};
}

Json add_mark_action(const std::string& node, const TrackingMark& mark) {
    return add_bitmap_action(node, mark_name(mark), kMarkGranularityBytes, true);
}

Result<FoundTracking> find_tracking(const std::vector<NodeInfo>& nodes,
                                    const std::vector<DiskInfo>& disks,
                                    const std::vector<uint64_t>& granularities_bytes) {
    FoundTracking found;
    for (size_t i = 0; i < disks.size(); ++i) {
        const DiskInfo& disk = disks[i];
        const NodeInfo* node = find_node(nodes, disk.node);
        if (node == nullptr)
            return make_error(Errc::not_found, "disk '" + disk.name + "': no such node");
        auto here = look_at(*node, disk.name, granularities_bytes[i]);
        EVAC_TRY(here);
        const uint64_t pages = (disk.size_bytes + kPageBytes - 1) / kPageBytes;
        const TrackingMark expected{here->mark->cursor_page, i, disks.size(), disk.size_bytes};
        if (*here->mark != expected || node->size_bytes != disk.size_bytes ||
            here->mark->cursor_page > pages) {
            return make_error(Errc::not_found,
                              "disk '" + disk.name + "': its mark '" + mark_name(*here->mark) +
                                  "' is of other disks, expected '" + mark_name(expected) + "'");
        }
        const bool has_old = here->disabled.has_value();
        if (i > 0 && (*here->enabled != found.sequence || has_old != found.has_old))
            return make_error(Errc::not_found,
                              "disk '" + disk.name + "': not in step with '" + disks[0].name + "'");
        found.sequence = *here->enabled;
        found.has_old = has_old;
        found.cursor_pages.push_back(here->mark->cursor_page);
    }
    for (const NodeInfo& node : nodes) {
        const bool known = std::any_of(disks.begin(), disks.end(),
                                       [&](const DiskInfo& d) { return d.node == node.name; });
        for (const BitmapInfo& bitmap : node.bitmaps) {
            if (!known && is_ours(bitmap.name))
                return make_error(Errc::not_found,
                                  "node '" + node.name + "' was captured and is no disk now");
        }
    }
    return found;
}

}  // namespace evac::storage_sync
