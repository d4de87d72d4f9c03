#pragma once
// A VM that runs at this site and is prestaged at the other. Owner: the control thread; `capture`
// is lent to the job that runs (busy), and nobody else touches it meanwhile.
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "evac/evacuation/handover_types.hpp"
#include "evac/prestage/capture_method.hpp"
#include "evac/prestage/catalogue.hpp"
#include "evac/prestage/dirty_model.hpp"
#include "evac/prestage/enrolment.hpp"
#include "evac/prestage/mapped_memory.hpp"
#include "evac/prestage/round.hpp"
#include "evac/prestage/round_pacing.hpp"
#include "evac/protocol/messages.hpp"
#include "evac/qmp/client.hpp"
#include "evac/storage_sync/disk_capture.hpp"
#include "reducer_stage.hpp"
#include "rpo_record.hpp"

namespace evac::daemon {

enum class VmPhase : uint8_t {
    offline,    // its QMP socket cannot be reached; tried again
    enrolling,  // being examined
    refused,    // cannot be protected; see detail
    offering,   // waits for the peer's answer
    syncing,    // learning what the peer has of it
    active,     // rounds run
    moved,      // runs at the peer; kept for the report
};
const char* to_string(VmPhase phase);

// What a capture job needs. Made by the enrolment job.
struct CaptureSet {
    std::unique_ptr<qmp::Client> client;
    std::unique_ptr<prestage::Catalogue> catalogue;
    std::unique_ptr<storage_sync::DiskCapture> disks;  // null without writable disks
    std::unique_ptr<prestage::RoundRunner> runner;
    std::unique_ptr<prestage::MappedMemory> mapped;  // null: see Examined::mapping_refused
    bool mapped_snapshot = false;  // QEMU resumes the guest by itself in a mapped seal
    bool disks_ready = false;      // tracking; else the next pass begins it
    size_t ram_regions = 0;        // disks follow
    std::atomic<bool> cancel{false};
    std::atomic<bool> seal_now{false};  // a continuous round
    std::vector<std::pair<RegionId, uint64_t>>
        forget;  // pages that the next round must bring again
    // Synchronising: of which copy, and whether all of it is told.
    uint64_t sync_copy = 0;
    bool sync_all = false;
    bool copy_replaced = false;  // away has staged anew what it had
    bool compare_marked = true;  // in QEMU: survives this process
};

struct Examined {
    prestage::VmFacts facts;
    std::vector<storage_sync::DiskInfo> disks;
    std::vector<prestage::RegionInfo> regions;
    std::vector<std::string> argv;
    std::shared_ptr<CaptureSet> capture;
    std::vector<HomeSource> sources;  // until the reducer has them
    std::string mapping_refused;      // why its memory is not mapped; empty = it is
};

enum class PassKind : uint8_t {
    refresh,  // of a mapped VM: what changed is on its way; no pause, no disks, no recovery point
    seal,     // a recovery point
    final_pass,  // the guest was stopped and stays so
};

// One capture pass, memory and disks.
struct PassResult {
    PassKind kind = PassKind::seal;
    prestage::RoundResult round;
    uint64_t disk_pages_changed = 0;
    bool complete = false;  // never after a refresh
    int64_t point_unix_ms = 0;

    // The queues were full: the rest follows when there is room.
    bool cut_short() const {
        return kind == PassKind::refresh ? round.pages_dropped != 0 : !complete;
    }
};

struct PassHistory {
    static constexpr size_t kKept = 128;
    struct Entry {
        double interval_s = 0;  // since the pass before; 0 = unknown
        double changed_mib = 0;
        double pause_ms = 0;
        double pause_upper_ms = 0;
        double duration_s = 0;
        prestage::RoundKind kind{};
    };
    std::deque<Entry> entries;
    uint64_t count = 0;

    void add(const Entry& entry) {
        if (entries.size() == kKept) entries.pop_front();
        entries.push_back(entry);
        ++count;
    }
};

// The last time that home asked away what it has.
struct SyncReport {
    uint64_t count = 0;    // synchronisations since the start
    bool all = false;      // nothing was known of the copy
    uint64_t ranges = 0;   // asked for
    uint64_t pages = 0;    // told
    uint64_t bytes = 0;    // of fingerprints on the wire
    uint64_t changed = 0;  // pages of disks that away has not as captured: they are read again
};

struct HomeVm {
    VmId id{};
    std::string name, uuid, qmp_path;
    double priority = 1;
    double max_downtime_ms = 1000;
    double rpo_target_s = 0;  // its own; 0 = the configured
    VmPhase phase = VmPhase::offline;
    std::string detail;

    std::optional<prestage::CaptureMethod> capture_wanted;  // none: the best that it allows
    prestage::MethodChoice choice;                          // `why` empty: not chosen yet
    bool hot = false;
    uint64_t method_looked_ns = 0;

    Examined examined;
    std::shared_ptr<VmFlow> flow = std::make_shared<VmFlow>();
    bool busy = false;
    bool reseeding = false;  // its catalogue waits for a new secret's seed: not offered before
    uint32_t generation = 0;
    uint32_t epoch = 0;            // the newest used
    uint32_t epoch_reserved = 0;   // persisted: a restart goes on above it
    uint64_t refused_wait_ns = 0;  // grows while it is refused here
    uint64_t retry_ns = 0;         // offline: not before

    uint64_t last_start_ns = 0;       // of a pass
    uint64_t last_seal_start_ns = 0;  // of a pass that took the disks, too
    double disk_rate_mib_s = 0;       // written to its disks between the last two of those
    uint64_t last_point_ns = 0;       // guest time of the newest captured pass
    bool last_incomplete = false;
    Epoch awaiting{};  // a complete pass whose seal is not answered
    uint64_t awaiting_since_ns = 0;
    int64_t awaiting_point_unix_ms = 0;
    bool seal_sent = false;
    bool lost_in_pass = false;   // a page of the pass under way
    uint64_t sync_heard_ns = 0;  // synchronising: of the peer or the reducer
    Epoch sealed{};
    int64_t sealed_point_unix_ms = 0;
    uint32_t failures = 0;  // passes in a row
    PassHistory history;
    RpoRecord rpo_record;
    // Of its rounds: for their pacing.
    prestage::Estimate seal_time, refresh_time, drain_time, cpu_time, pause_time;
    prestage::DirtyModel dirty_model;
    std::vector<prestage::DirtyTerm> dirty_terms;  // its fit after the last pass

    // Handover
    std::deque<evacuation::Act> acts;  // waiting, in order; at most a handful
    bool act_running = false;
    uint64_t drain_waits_since_ns = 0;  // for its copy to be synchronised; 0 = it does not wait
    bool socket_dead = false;           // nobody listens on its QMP socket
    Epoch final_epoch{};
    uint64_t backlog_at_alert_bytes = 0;
    uint64_t wire_at_alert_bytes = 0;
    int64_t retry_wait_ms = 0;  // under a standing order, after it came back
    double final_pass_s = 0;
    double final_changed_mib = 0;

    SyncReport sync;
    RegionId tags_region{};  // synchronising: the reducer's tags are told up to here
    uint64_t tags_page = 0;

    bool sealed_once() const { return raw(sealed) != 0; }
    const std::vector<prestage::RegionInfo>& regions() const { return examined.regions; }
    uint64_t total_bytes() const {
        uint64_t bytes = 0;
        for (const auto& region : regions()) bytes += region.size_bytes;
        return bytes;
    }
};

}  // namespace evac::daemon
