#include "evac/storage_sync/disk_capture.hpp"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "capture_options.hpp"
#include "disk_tracking.hpp"
#include "evac/core/units.hpp"
#include "nbd_reader.hpp"
#include "page_set.hpp"
#include "qemu_blocks.hpp"

namespace evac::storage_sync {
namespace {

using qmp::Json;

// Left free beside the overlays, so that a full file system never reaches the guest's writes.
constexpr uint64_t kSpaceReserveBytes = 64 * kMiB;

struct DiskState {
    uint64_t page_count = 0;
    uint64_t granularity_bytes = 0;
    uint64_t cursor_page = 0;   // pages from here on are not synced yet; page_count = all are
    uint64_t read_to_page = 0;  // where the cursor goes when this point is kept
    uint64_t marked_page = 0;   // the cursor as QEMU keeps it for adopt()
    PageSet again{};            // of the next point
    PageSet again_in_point{};
};

enum class Phase : uint8_t { idle, tracking, prepared, begun, read, broken };

const char* to_string(Phase phase) {
    switch (phase) {
        case Phase::idle:
            return "not tracking";
        case Phase::tracking:
            return "between points";
        case Phase::prepared:
            return "prepared";
        case Phase::begun:
            return "in a point";
        case Phase::read:
            return "in a point that was read";
        case Phase::broken:
            return "broken (reconnect and recover)";
    }
    return "unknown";
}

class Capture final : public DiskCapture {
  public:
    Capture(qmp::Client& client, std::vector<DiskInfo> disks, CaptureOptions options, Logger& log)
        : client_(client), disks_(std::move(disks)), options_(std::move(options)), log_(log) {
        socket_path_ = socket_path_of(options_);
        for (const DiskInfo& disk : disks_) {
            DiskState& state = states_.emplace_back();
            state.page_count = (disk.size_bytes + kPageBytes - 1) / kPageBytes;
            state.granularity_bytes =
                choose_granularity(options_.granularity_bytes, disk.size_bytes);
        }
    }

    Result<RecoverReport> recover() override;
    Result<bool> adopt() override;
    Status start_tracking() override;
    Status stop_tracking() override;
    Status prepare_point(PointKind kind) override;
    Status cancel_prepared() override;
    Status begin_point() override;
    Result<PointStats> read_point(BlockSink& sink) override;
    uint64_t overlay_bytes() const override;
    Status release_view() override;
    Status finish_point(PointEnd end) override;
    bool request_full_compare() override;
    void reread(size_t disk, uint64_t first, uint64_t count) override;
    bool first_sync_done() const override;
    const std::vector<DiskInfo>& disks() const override { return disks_; }

  private:
    static std::string overlay_name(size_t disk) { return "evac-ov-" + std::to_string(disk); }
    static std::string job_name(size_t disk) { return "evac-fl-" + std::to_string(disk); }
    static std::string filter_name(size_t disk) { return "evac-cbw-" + std::to_string(disk); }
    static std::string export_name(size_t disk) { return "evac-ex-" + std::to_string(disk); }
    static std::string bitmap_name(uint64_t sequence) { return tracking_name(sequence); }
    std::string overlay_path(size_t disk) const { return overlay_path_of(options_, disk); }

    Status expect(Phase phase, const char* call) const;
    // Refused by QEMU: nothing happened. Anything else: what QEMU did is unknown.
    Status note(Status status) {
        if (!status.ok() && status.error().code != Errc::refused) phase_ = Phase::broken;
        return status;
    }
    Status transact(Json actions) {
        EVAC_TRY(client_.execute("transaction", {{"actions", std::move(actions)}}));
        return {};
    }
    Status check_disks();
    Status check_space() const;
    Status make_view();
    Status drop_view();
    Status check_overlays();
    Json add_bitmap(size_t disk, uint64_t sequence) const;
    TrackingMark mark(size_t disk, uint64_t cursor_page) const {
        return {cursor_page, disk, disks_.size(), disks_[disk].size_bytes};
    }
    void replace_mark(size_t disk, uint64_t cursor_page, Json& actions) const;
    void merge_old(size_t disk, uint64_t sequence, Json& actions) const;
    Status read_disk(size_t disk, BlockSink& sink, PointStats& point, bool& stopped);

    qmp::Client& client_;
    std::vector<DiskInfo> disks_;
    CaptureOptions options_;
    Logger& log_;
    std::string socket_path_;
    std::vector<DiskState> states_;
    Phase phase_ = Phase::idle;
    PointKind kind_ = PointKind::live;
    bool view_open_ = false;
    bool server_started_ = false;
    bool read_complete_ = false;
    bool full_asked_in_point_ = false;
    uint64_t tracking_ =
        0;  // number of the enabled bitmap; in a point the rotated one is the one before
};

Status Capture::expect(Phase phase, const char* call) const {
    if (phase_ == phase) return {};
    return make_error(Errc::refused, std::string(call) + ": capture of '" + options_.tag + "' is " +
                                         to_string(phase_) + ", expected " + to_string(phase));
}

Result<RecoverReport> Capture::recover() {
    phase_ = Phase::broken;
    auto report = recover_disks(client_, options_, log_);
    EVAC_TRY(report);
    for (DiskState& state : states_) {
        state.cursor_page = 0;
        state.again.clear();  // the next point reads all
        state.again_in_point.clear();
    }
    phase_ = Phase::idle;
    view_open_ = false;
    server_started_ = false;
    return report;
}

Json Capture::add_bitmap(size_t disk, uint64_t sequence) const {
    return add_bitmap_action(disks_[disk].node, bitmap_name(sequence),
                             states_[disk].granularity_bytes, false);
}

void Capture::replace_mark(size_t disk, uint64_t cursor_page, Json& actions) const {
    const uint64_t marked_page = states_[disk].marked_page;
    if (marked_page == cursor_page) return;
    const std::string& node = disks_[disk].node;
    actions.push_back(remove_bitmap_action(node, mark_name(mark(disk, marked_page))));
    actions.push_back(add_mark_action(node, mark(disk, cursor_page)));
}

// What the bitmap before `sequence` holds is written since, as far as the next point is concerned.
void Capture::merge_old(size_t disk, uint64_t sequence, Json& actions) const {
    actions.push_back({{"type", "block-dirty-bitmap-merge"},
                       {"data",
                        {{"node", disks_[disk].node},
                         {"target", bitmap_name(sequence)},
                         {"bitmaps", Json::array({bitmap_name(sequence - 1)})}}}});
}

Result<bool> Capture::adopt() {
    EVAC_TRY(expect(Phase::idle, "adopt"));
    phase_ = Phase::broken;
    EVAC_TRY(recover_disks(client_, options_, log_, Leftovers::keep_tracking));
    auto nodes = list_nodes(client_);
    EVAC_TRY(nodes);
    std::vector<uint64_t> granularities;
    for (const DiskState& state : states_) granularities.push_back(state.granularity_bytes);
    const auto found = find_tracking(*nodes, disks_, granularities);
    if (!found.ok()) {
        log_.info("disk capture '" + options_.tag + "': starts anew, " + found.error().context);
        EVAC_TRY(recover());
        return false;
    }
    if (found->has_old) {
        Json actions = Json::array();
        for (size_t i = 0; i < disks_.size(); ++i) {
            merge_old(i, found->sequence, actions);
            actions.push_back(
                remove_bitmap_action(disks_[i].node, bitmap_name(found->sequence - 1)));
        }
        EVAC_TRY(transact(std::move(actions)));
    }
    for (size_t i = 0; i < disks_.size(); ++i)
        states_[i].cursor_page = states_[i].marked_page = found->cursor_pages[i];
    tracking_ = found->sequence;
    view_open_ = false;
    server_started_ = false;
    phase_ = Phase::tracking;
    if (full_asked_in_point_ && !request_full_compare())  // asked for while idle
        return make_error(Errc::io, "that all of the disks are to be compared cannot be marked");
    log_.info("disk capture '" + options_.tag + "': goes on with the tracking it found" +
              (found->has_old ? ", a point was cut off" : ""));
    return true;
}

Status Capture::start_tracking() {
    EVAC_TRY(expect(Phase::idle, "start_tracking"));
    Json actions = Json::array();
    for (size_t i = 0; i < disks_.size(); ++i) {
        actions.push_back(add_bitmap(i, tracking_ + 1));
        actions.push_back(add_mark_action(disks_[i].node, mark(i, 0)));
    }
    EVAC_TRY(note(transact(std::move(actions))));
    ++tracking_;
    for (DiskState& state : states_) state.cursor_page = state.marked_page = 0;
    phase_ = Phase::tracking;
    return {};
}

Status Capture::stop_tracking() {
    if (phase_ == Phase::idle) return expect(Phase::tracking, "stop_tracking");
    EVAC_TRY(recover());
    return {};
}

Status Capture::check_disks() {
    auto nodes = list_nodes(client_);
    EVAC_TRY(note(nodes.ok() ? Status{} : Status(nodes.error())));
    for (const DiskInfo& disk : disks_) {
        const NodeInfo* node = find_node(*nodes, disk.node);
        if (node == nullptr) {
            return make_error(Errc::refused, "disk '" + disk.name + "': its block node '" +
                                                 disk.node + "' is gone; enrol the VM again");
        }
        if (node->size_bytes != disk.size_bytes) {
            return make_error(Errc::refused,
                              "disk '" + disk.name + "' was resized: " +
                                  std::to_string(node->size_bytes) + " bytes, enrolled with " +
                                  std::to_string(disk.size_bytes) + "; enrol the VM again");
        }
        const bool tracked =
            std::any_of(node->bitmaps.begin(), node->bitmaps.end(),
                        [this](const BitmapInfo& b) { return b.name == bitmap_name(tracking_); });
        if (!tracked) {
            return make_error(Errc::refused, "disk '" + disk.name + "': its dirty bitmap '" +
                                                 bitmap_name(tracking_) +
                                                 "' was removed; recover() starts anew");
        }
    }
    return {};
}

// QEMU 7.2 answers a guest's write with an error when the copy into the overlay fails, so the space
// must be there.
Status Capture::check_space() const {
    struct statvfs info {};
    if (::statvfs(overlay_dir_of(options_).c_str(), &info) != 0) {
        return io_error("statvfs '" + overlay_dir_of(options_) + "'");
    }
    uint64_t disks_bytes = 0;
    for (const DiskInfo& disk : disks_) disks_bytes += disk.size_bytes;
    const uint64_t needed =
        std::min(options_.overlay_bytes_max, disks_bytes + disks_bytes / 64) + kSpaceReserveBytes;
    const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
    if (free_bytes >= needed) return {};
    return make_error(Errc::refused, "overlay folder '" + overlay_dir_of(options_) + "' has " +
                                         std::to_string(free_bytes / kMiB) + " MiB free, " +
                                         std::to_string(needed / kMiB) + " MiB are needed");
}

Status Capture::make_view() {
    view_open_ = true;  // from here on there may be something to drop
    EVAC_TRY(start_nbd_server(client_, socket_path_));
    server_started_ = true;
    if (kind_ == PointKind::stopped) return {};
    for (size_t i = 0; i < disks_.size(); ++i) {
        EVAC_TRY(add_overlay(
            client_, {overlay_name(i), overlay_path(i), disks_[i].node, disks_[i].size_bytes}));
    }
    return {};
}

Status Capture::drop_view() {
    if (!view_open_) return {};
    for (size_t i = 0; i < disks_.size(); ++i) EVAC_TRY(remove_export(client_, export_name(i)));
    if (kind_ == PointKind::live) {
        for (size_t i = 0; i < disks_.size(); ++i) EVAC_TRY(end_job(client_, job_name(i)));
        for (size_t i = 0; i < disks_.size(); ++i) {
            EVAC_TRY(remove_overlay(client_, overlay_name(i)));
            ::unlink(overlay_path(i).c_str());
        }
    }
    if (server_started_) {
        auto stopped = client_.execute("nbd-server-stop");
        if (!stopped.ok() && stopped.error().code != Errc::refused)
            return stopped.error();  // refused: is gone already
        ::unlink(socket_path_.c_str());
    }
    server_started_ = false;
    view_open_ = false;
    return {};
}

Status Capture::prepare_point(PointKind kind) {
    EVAC_TRY(expect(Phase::tracking, "prepare_point"));
    EVAC_TRY(check_disks());
    if (kind == PointKind::live) EVAC_TRY(check_space());
    kind_ = kind;
    Status made = note(make_view());
    if (!made.ok()) {
        if (phase_ != Phase::broken) {
            const Status dropped = note(drop_view());
            if (!dropped.ok())
                log_.warning("disk capture '" + options_.tag + "': " + dropped.error().message());
        }
        return made;
    }
    phase_ = Phase::prepared;
    return {};
}

Status Capture::cancel_prepared() {
    EVAC_TRY(expect(Phase::prepared, "cancel_prepared"));
    EVAC_TRY(note(drop_view()));
    phase_ = Phase::tracking;
    return {};
}

Status Capture::begin_point() {
    EVAC_TRY(expect(Phase::prepared, "begin_point"));
    Json actions = Json::array();
    // Fleecing first: from its action on the disk is drained until the whole transaction is done.
    for (size_t i = 0; kind_ == PointKind::live && i < disks_.size(); ++i) {
        actions.push_back({{"type", "blockdev-backup"},
                           {"data",
                            {{"job-id", job_name(i)},
                             {"device", disks_[i].node},
                             {"target", overlay_name(i)},
                             {"filter-node-name", filter_name(i)},
                             {"sync", "none"}}}});
    }
    for (size_t i = 0; i < disks_.size(); ++i) {
        actions.push_back({{"type", "block-dirty-bitmap-disable"},
                           {"data", {{"node", disks_[i].node}, {"name", bitmap_name(tracking_)}}}});
        actions.push_back(add_bitmap(i, tracking_ + 1));
    }
    EVAC_TRY(note(transact(std::move(actions))));
    ++tracking_;
    for (DiskState& state : states_) {
        state.read_to_page = state.cursor_page;
        state.again_in_point = std::exchange(state.again, PageSet());
    }
    read_complete_ = false;
    full_asked_in_point_ = false;
    phase_ = Phase::begun;
    return {};
}

uint64_t Capture::overlay_bytes() const {
    if (!view_open_ || kind_ != PointKind::live) return 0;
    uint64_t total = 0;
    for (size_t i = 0; i < disks_.size(); ++i) {
        struct stat info {};
        if (::stat(overlay_path(i).c_str(), &info) == 0)
            total += static_cast<uint64_t>(info.st_blocks) * 512;
    }
    return total;
}

Status Capture::check_overlays() {
    const uint64_t bytes = overlay_bytes();
    if (bytes <= options_.overlay_bytes_max) return {};
    EVAC_TRY(note(drop_view()));
    return make_error(Errc::refused, "fleecing overlays of '" + options_.tag + "' grew to " +
                                         std::to_string(bytes / kMiB) + " MiB, the limit is " +
                                         std::to_string(options_.overlay_bytes_max / kMiB) +
                                         " MiB: the guest writes faster than the point is read");
}

Status Capture::read_disk(size_t disk, BlockSink& sink, PointStats& point, bool& stopped) {
    const DiskInfo& info = disks_[disk];
    const std::string node = kind_ == PointKind::live ? overlay_name(disk) : info.node;
    EVAC_TRY(note(
        add_export(client_, {export_name(disk), node, info.node, bitmap_name(tracking_ - 1)})));
    const NbdReadRequest request{socket_path_,
                                 export_name(disk),
                                 bitmap_name(tracking_ - 1),
                                 info.size_bytes,
                                 states_[disk].cursor_page,
                                 disk,
                                 options_.nbd_timeout_ms,
                                 states_[disk].again_in_point};
    NbdReadOutcome outcome;
    Status read = read_export(
        request, sink, [&](int fd) { return note(hold_socket(client_, request.export_name, fd)); },
        [this] { return check_overlays(); }, outcome);
    point.disks[disk] = outcome.stats;
    states_[disk].read_to_page = outcome.stats.synced_to_page;
    stopped = outcome.stopped;
    if (view_open_ && phase_ != Phase::broken) {
        const Status removed = note(remove_export(client_, export_name(disk)));
        if (read.ok()) read = removed;
    }
    if (read.ok()) return read;
    Error error = read.error();
    error.context = "disk '" + info.name + "': " + error.context;
    return error;
}

Result<PointStats> Capture::read_point(BlockSink& sink) {
    EVAC_TRY(expect(Phase::begun, "read_point"));
    if (!view_open_) return make_error(Errc::refused, "read_point: the view was released");
    PointStats point;
    point.disks.resize(disks_.size());
    phase_ = Phase::read;
    bool stopped = false;
    for (size_t i = 0; i < disks_.size() && !stopped; ++i)
        EVAC_TRY(read_disk(i, sink, point, stopped));
    point.overlay_bytes = overlay_bytes();
    point.complete = std::all_of(point.disks.begin(), point.disks.end(),
                                 [](const DiskReadStats& d) { return d.complete; });
    read_complete_ = point.complete;
    return point;
}

Status Capture::release_view() {
    if (phase_ != Phase::begun && phase_ != Phase::read) return expect(Phase::read, "release_view");
    return note(drop_view());
}

Status Capture::finish_point(PointEnd end) {
    if (phase_ != Phase::begun && phase_ != Phase::read) return expect(Phase::read, "finish_point");
    if (end == PointEnd::captured && !read_complete_) {
        return make_error(Errc::refused,
                          "finish_point(captured): the point was not read completely");
    }
    EVAC_TRY(note(drop_view()));
    Json actions = Json::array();
    std::vector<uint64_t> cursors;
    for (size_t i = 0; i < disks_.size(); ++i) {
        const DiskState& state = states_[i];
        uint64_t cursor = state.cursor_page;
        if (end != PointEnd::lost) cursor = std::max(cursor, state.read_to_page);
        if (full_asked_in_point_) cursor = 0;
        cursors.push_back(cursor);
        if (end != PointEnd::captured) merge_old(i, tracking_, actions);
        actions.push_back(remove_bitmap_action(disks_[i].node, bitmap_name(tracking_ - 1)));
        replace_mark(i, cursor, actions);
    }
    const Status done = transact(std::move(actions));
    if (!done.ok()) {
        phase_ = Phase::broken;  // also when refused: an old bitmap that cannot be settled means a
                                 // full compare
        return done.error();
    }
    for (size_t i = 0; i < disks_.size(); ++i) {
        DiskState& state = states_[i];
        state.cursor_page = state.marked_page = cursors[i];
        if (end != PointEnd::captured) state.again.add(state.again_in_point);
        state.again_in_point.clear();
    }
    phase_ = Phase::tracking;
    return {};
}

bool Capture::request_full_compare() {
    full_asked_in_point_ = true;
    if (phase_ != Phase::begun && phase_ != Phase::read) {
        for (DiskState& state : states_) state.cursor_page = 0;
    }
    if (phase_ == Phase::idle || phase_ == Phase::broken) return false;  // see adopt()
    Json actions = Json::array();
    for (size_t i = 0; i < disks_.size(); ++i) replace_mark(i, 0, actions);
    if (actions.empty()) return true;
    const Status marked = note(transact(std::move(actions)));
    if (!marked.ok()) {
        phase_ = Phase::broken;  // an old mark would let the next gateway skip the compare
        log_.warning("disk capture '" + options_.tag + "': " + marked.error().message());
        return false;
    }
    for (DiskState& state : states_) state.marked_page = 0;
    return true;
}

void Capture::reread(size_t disk, uint64_t first, uint64_t count) {
    EVAC_ASSERT(disk < disks_.size());
    DiskState& state = states_[disk];
    if (first >= state.page_count) return;
    state.again.add(first, first + std::min(count, state.page_count - first));
}

bool Capture::first_sync_done() const {
    return std::all_of(states_.begin(), states_.end(), [](const DiskState& state) {
        return state.cursor_page >= state.page_count;
    });
}

}  // namespace

Result<std::unique_ptr<DiskCapture>> DiskCapture::create(qmp::Client& client,
                                                         std::vector<DiskInfo> disks,
                                                         CaptureOptions options, Logger& log) {
    EVAC_TRY(check_options(options));
    if (disks.empty() || disks.size() > kDisksMax) {
        return make_error(Errc::invalid_argument, "disks: 1 to " + std::to_string(kDisksMax) +
                                                      " are accepted, not " +
                                                      std::to_string(disks.size()));
    }
    return std::unique_ptr<DiskCapture>(
        std::make_unique<Capture>(client, std::move(disks), std::move(options), log));
}

}  // namespace evac::storage_sync
