#pragma once
// The reducer thread: captured pages in, batches and seals out on the WAN's data classes.
//
//   capture workers --ring each--> DirtyQueue per VM --take--> dedup::Reducer --> WAN (demand |
//   disk | bulk) control --commands--> here --events--> control          ingest --ready messages-->
//   here --> WAN (disk)
//
// What it keeps to:
//  - SEAL(vm, e) goes out when the round's end has come complete, the VM's queue is empty and every
//  open batch was
//    given to the transport; then nothing of a later epoch goes out for that VM until away has
//    answered.
//  - The final seal of a handover waits for allow_final: the journal comes first.
//  - Pages of a VM in its final pass go before everything else, in class demand.
//  - A new session makes everything here void: queues are cleared, and what comes with an old
//  generation is dropped.
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "evac/core/log.hpp"
#include "evac/core/spsc_ring.hpp"
#include "evac/dedup/index.hpp"
#include "evac/dedup/reducer.hpp"
#include "evac/dedup/tuner.hpp"
#include "evac/prestage/dirty_queue.hpp"
#include "evac/prestage/fair_turns.hpp"
#include "evac/protocol/messages.hpp"
#include "evac/wan/transport.hpp"
#include "event_fd.hpp"
#include "home_content.hpp"

namespace evac::daemon {

using PageBuffer = std::array<std::byte, kPageBytes>;

// The end of a capture pass, behind its last page.
struct RoundEnd {
    Epoch epoch{};
    bool complete = false;    // nothing was dropped: may be sealed
    bool final_pass = false;  // of a handover: sealed only when allowed
    int64_t point_unix_ms = 0;
    Bytes device_state;  // packed
};

struct CapturedItem {
    VmId vm{};
    uint32_t generation = 0;
    RegionId region{};
    uint64_t page = 0;
    Epoch epoch{};
    Fingerprint fingerprint{};
    uint8_t heat = 0;
    bool is_zero = false;
    prestage::PageBudget::Account account = prestage::PageBudget::kCommon;  // it is charged to
    std::unique_ptr<RoundEnd> end;                                          // set: this is no page
};

// What a lane is made of: no page is allocated on its way.
struct LaneSlot {
    CapturedItem item;
    alignas(64) PageBuffer content;  // of a page that is not zero
};

// What anyone may read of a VM's flow; written by the reducer thread (prestage drops by capture
// workers).
struct VmFlow {
    // Set by the control thread: its account in the queues' budget, its share of the line.
    prestage::PageBudget::Account account = prestage::PageBudget::kCommon;
    std::atomic<double> weight{1};
    std::atomic<uint64_t> queued_pages{0};
    std::atomic<uint64_t> queued_bytes{0};  // content, zero pages not counted
    std::atomic<uint64_t> sent_pages{0};    // taken from the queue and reduced
    std::atomic<uint64_t> raw_bytes{0};     // content of those
    std::atomic<uint64_t> wire_bytes{0};    // of batches and seals
    // By dedup::Rung, memory and disks together; about a second old.
    std::array<std::atomic<uint64_t>, dedup::kRungCount> rung_pages{};
    std::array<std::atomic<uint64_t>, dedup::kRungCount> rung_wire_bytes{};
};

namespace to_reducer {
struct NewSession {
    wan::SessionId session{};
};
struct AddVm {
    VmId vm{};
    uint32_t generation = 0;
    std::vector<prestage::RegionInfo> regions;
    std::shared_ptr<VmFlow> flow;
    std::vector<HomeSource> sources{};  // its content, while it runs here
};
struct RemoveVm {
    VmId vm{};
};
// It is not known to run here any more: its files are not read. AddVm brings them again.
struct CloseContent {
    VmId vm{};
};
struct ResetVm {
    VmId vm{};
    uint32_t generation = 0;
};
struct LoadTags {
    VmId vm{};
    RegionId region{};
    uint64_t first_page = 0;
    std::vector<Fingerprint> fingerprints;
    uint32_t generation = 0;  // goes back in TagsLoaded, when the next part may come
};
struct Acknowledge {
    VmId vm{};
    std::vector<uint64_t> sequences;
};
struct Naks {
    VmId vm{};
    uint64_t sequence = 0;
    std::vector<protocol::NakPage> pages;
};
struct SealAnswered {
    VmId vm{};
    Epoch epoch{};
};  // sealed or not: the VM's next epoch may go out
struct AllowFinal {
    VmId vm{};
    Epoch epoch{};
    uint64_t handover = 0;
};
struct FinalMode {
    VmId vm{};
    bool on = false;
    uint32_t rank = 0;
};
// The pair's secret has changed; the session under the old one is over.
struct Rekey {
    std::string secret;
};
struct Urgent {
    bool on = false;
};  // no ceiling of prestaging's own
// Fills class bulk with ballast whenever nothing else waits, for `evacctl link test`; 0 ends it.
struct SendBallast {
    uint64_t until_ns = 0;
};
using Command =
    std::variant<NewSession, AddVm, RemoveVm, CloseContent, ResetVm, LoadTags, Acknowledge, Naks,
                 SealAnswered, AllowFinal, FinalMode, Rekey, Urgent, SendBallast>;
}  // namespace to_reducer

namespace from_reducer {
struct SealSent {
    VmId vm{};
    Epoch epoch{};
    bool final_pass = false;
    uint64_t batches = 0;
};
struct PageLost {
    VmId vm{};
    RegionId region{};
    uint64_t page = 0;
};  // the catalogue must forget it
struct VmReset {
    VmId vm{};
    uint32_t generation = 0;
    uint64_t batches = 0;
};  // nothing of it goes out any more
struct TagsLoaded {
    VmId vm{};
    uint32_t generation = 0;
};
using Event = std::variant<SealSent, PageLost, VmReset, TagsLoaded>;
}  // namespace from_reducer

struct ReducerOptions {
    uint64_t queue_bytes = 512 * kMiB;
    int zstd_level = 0;              // 1 to 19; 0: rungs and level by dedup::ReductionTuner
    double ceiling_bytes_per_s = 0;  // of prestaging; 0 = none
    uint64_t delta_cache_bytes = 256 * kMiB;
    size_t capture_lanes = 2;
    // Of the thread's time, for reads of content at home that wait, and for re-indexing.
    double background_share = 0.05;
};

// As of a second ago.
struct ReindexStatus {
    std::atomic<bool> running{false};
    std::atomic<uint64_t> pages_done{0};
    std::atomic<uint64_t> pages_total{0};
};

class ReducerStage {
  public:
    static Result<std::unique_ptr<ReducerStage>> create(const ReducerOptions& options,
                                                        ByteSpan secret, dedup::Index& index,
                                                        wan::Transport& transport,
                                                        const Clock& clock, Logger& log);

    void run(std::stop_token stop);  // the reducer thread

    // Control thread. Commands are kept here while the ring is full, in order.
    void command(to_reducer::Command command);
    std::optional<from_reducer::Event> try_event();
    int events_fd() const { return events_wake_.fd(); }
    void clear_events() const { events_wake_.clear(); }  // before taking them, never after
    void pump_commands();
    // What waits for the link in final passes: queued and not yet acknowledged.
    uint64_t final_bytes_waiting() const { return final_waiting_.load(std::memory_order_relaxed); }

    // Capture worker `lane`. `content` (kPageBytes, of a page that is not zero) is copied. False =
    // no room within a short wait: drop the page.
    bool push(size_t lane, CapturedItem&& item, bool may_wait_long, ByteSpan content = {});
    // Capture worker `lane`, at a pass's end: what it pushed is in the queues. The next pass of the
    // VM may be another worker's, and nothing orders one lane against another.
    void wait_taken(size_t lane);
    prestage::PageBudget& budget() { return pool_.budget(); }

    // Ingest thread: a message for class disk. False = full, try later.
    bool push_message(Bytes&& message);

    uint64_t content_bytes(size_t setting) const {
        return content_by_setting_[setting].load(std::memory_order_relaxed);
    }
    // Control thread; a snapshot about a second old.
    const dedup::ReducerStats& stats();
    const ReindexStatus& reindex() const { return reindex_; }  // any thread

    static constexpr size_t kLaneItems = 2048;      // 8 MiB of pages per capture worker
    static constexpr size_t kMessagesWaiting = 16;  // from ingest, at most 256 KiB each
    static constexpr size_t kCommandsRing = 4096;
    static constexpr size_t kEventsRing = 16384;

  private:
    // While little waits there is nothing to drain: all rungs, zstd 1.
    static constexpr size_t kSettingAtRest = 5;
    struct Vm {
        uint32_t generation = 0;
        bool active = false;  // in this session
        std::unique_ptr<prestage::DirtyQueue> queue;
        std::shared_ptr<VmFlow> flow;
        std::vector<prestage::RegionInfo> regions;
        std::unique_ptr<RoundEnd> obligation;  // newest round that ended complete and is not sealed
        std::unique_ptr<RoundEnd> sent_seal;   // SEAL sent, no answer yet
        Epoch newest{};                        // of the pages that came
        uint64_t handover = 0;                 // allowed final
        Epoch final_epoch{};
        bool final_mode = false;
        uint32_t rank = 0;
        prestage::Turn turn;
    };
    struct Outgoing {
        wan::Class cls{};
        Bytes message;
        VmId vm{};
    };

    ReducerStage(const ReducerOptions& options, uint64_t hash_seed, wan::Transport& transport,
                 const Clock& clock, Logger& log);
    bool handle_commands();
    void handle(to_reducer::NewSession& c);
    void handle(to_reducer::AddVm& c);
    void handle(to_reducer::RemoveVm& c);
    void handle(to_reducer::CloseContent& c);
    void handle(to_reducer::Rekey& c);
    void handle(to_reducer::ResetVm& c);
    void handle(to_reducer::LoadTags& c);
    void handle(to_reducer::Acknowledge& c);
    void handle(to_reducer::Naks& c);
    void handle(to_reducer::SealAnswered& c);
    void handle(to_reducer::AllowFinal& c);
    void handle(to_reducer::FinalMode& c);
    void handle(to_reducer::Urgent& c) { urgent_ = c.on; }
    void handle(to_reducer::SendBallast& c) { ballast_until_ns_ = c.until_ns; }
    bool drain_lanes();
    void take_item(LaneSlot& slot);
    bool send_some();
    Vm* next_vm(VmId& id);
    void charge(Vm& vm, uint64_t bytes);
    bool reduce(VmId id, Vm& vm);
    bool try_seal(VmId id, Vm& vm);
    void send_seal(VmId id, Vm& vm);
    bool flush_outgoing();
    bool forward_messages();
    bool send_ballast();
    bool class_blocked(wan::Class c) const { return !outgoing_[wan::index(c)].empty(); }
    bool ceiling_reached();
    bool line_idle() const;  // everything for classes disk and bulk has been put on the wire
    void void_session();
    // An alert, or a last pass under way: nothing waits for a disk.
    bool urgent() const { return urgent_ || final_waiting_.load(std::memory_order_relaxed) != 0; }
    void pump_events();
    void emit(from_reducer::Event event);
    void publish(Vm& vm);
    void publish_stats();
    void publish_rungs(VmId id, const Vm& vm);
    void tune(const dedup::EncodedBatch& batch);
    uint64_t reduction_cpu_ns() const;
    void begin_reduction();
    void end_reduction();
    // --- reducer_content.cpp
    void add_sources(VmId vm, std::vector<HomeSource>&& sources);
    void reindex_soon();
    bool reindex_some();
    void publish_reindex();
    void wait(std::stop_token stop);

    const ReducerOptions options_;
    wan::Transport& transport_;
    const Clock& clock_;
    Logger& log_;
    dedup::Index* index_ = nullptr;
    HomeContent content_;
    bool reindex_due_ = false;  // a pass is to begin, not before reindex_after_ns_
    bool reindexing_ = false;
    uint64_t reindex_after_ns_ = 0;
    ReindexStatus reindex_;
    std::unique_ptr<dedup::Reducer> reducer_;
    prestage::PagePool pool_;
    dedup::ReductionTuner tuner_;
    size_t setting_ = kSettingAtRest;
    uint64_t tuned_cpu_ns_ = 0;  // of reduction_cpu_ns(), when the last batch was made
    uint64_t reduction_cpu_ns_ = 0, reduce_begin_cpu_ns_ = 0;
    bool reducing_ = false;
    // Content reduced under each of the tuner's settings; read by control.
    std::array<std::atomic<uint64_t>, dedup::kSettings> content_by_setting_{};
    uint64_t rate_ns_ = 0;
    double rate_bytes_per_s_ = 0;
    bool line_full_ = false;
    std::vector<dedup::PageItem> items_;  // scratch of reduce()

    std::map<VmId, Vm> vms_;
    VmId cursor_{};
    prestage::FairTurns turns_;
    wan::SessionId session_{};
    std::array<std::deque<Outgoing>, wan::kClasses>
        outgoing_;  // a few per class: at most what one reduce() emits
    bool urgent_ = false;
    uint64_t ballast_until_ns_ = 0;
    double tokens_bytes_ = 0;
    uint64_t tokens_ns_ = 0;
    uint64_t stats_ns_ = 0;
    std::atomic<uint64_t> final_waiting_{0};

    SpscRing<to_reducer::Command> commands_{kCommandsRing};
    std::deque<to_reducer::Command> commands_waiting_;  // control thread
    SpscRing<from_reducer::Event> events_{kEventsRing};
    std::deque<from_reducer::Event> events_waiting_;  // what did not fit; see run()
    EventFd events_wake_;
    using Lane = SpscSlots<LaneSlot>;
    std::vector<std::unique_ptr<Lane>> lanes_;
    SpscRing<Bytes> messages_{kMessagesWaiting};
    std::optional<Bytes> message_waiting_;
    EventFd wake_;
    std::atomic<bool> sleeping_{false};
    SpscRing<dedup::ReducerStats> stats_ring_{2};
    dedup::ReducerStats stats_;  // control thread's copy
};

}  // namespace evac::daemon
