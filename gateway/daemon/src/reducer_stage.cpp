#include "reducer_stage.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "evac/core/assert.hpp"

namespace evac::daemon {
namespace {

constexpr size_t kItemsPerTurn = 512;  // captured pages taken over before the link gets its turn
constexpr size_t kPagesPerTurn = 32;   // pages reduced before the rings are looked at again
constexpr uint64_t kPageChargeBytes = 64;  // a page's work, in bytes of the line, beside its own
constexpr int kIdlePollMs = 100;
constexpr uint64_t kPushWaitNs =
    20 * kNsPerMs;  // a live capture may stall a guest's write for so long
constexpr uint64_t kPushWaitLongNs = 120 * kNsPerSecond;  // the guest stands still anyway
constexpr uint64_t kStatsNs = kNsPerSecond;
constexpr double kBucketSeconds = 0.1;
constexpr size_t kBallastBytes = 64 * 1024;

uint64_t pages_of(const prestage::RegionInfo& region) {
    return (region.size_bytes + kPageBytes - 1) / kPageBytes;
}

wan::Class class_of_lane(uint8_t lane) {
    return static_cast<wan::Class>(lane);
}

}  // namespace

Result<std::unique_ptr<ReducerStage>> ReducerStage::create(const ReducerOptions& options,
                                                           ByteSpan secret, dedup::Index& index,
                                                           wan::Transport& transport,
                                                           const Clock& clock, Logger& log) {
    std::unique_ptr<ReducerStage> stage(
        new ReducerStage(options, dedup::fingerprint_seed(secret), transport, clock, log));
    auto hasher = dedup::IdentityHasher::create(secret);
    EVAC_TRY(hasher);
    dedup::ReducerOptions reducer_options;
    if (options.zstd_level != 0) reducer_options.zstd_level = options.zstd_level;
    reducer_options.cache_bytes = options.delta_cache_bytes;
    reducer_options.headroom_bytes = protocol::kBatchHeadroomBytes;
    ReducerStage* raw_stage = stage.get();
    auto reducer = dedup::Reducer::create(
        reducer_options, std::move(*hasher), index, [raw_stage](dedup::EncodedBatch&& batch) {
            protocol::encode_batch(batch.message);
            const auto vm = raw_stage->vms_.find(batch.vm);
            if (vm != raw_stage->vms_.end()) {
                vm->second.flow->wire_bytes += batch.message.size();
                raw_stage->charge(vm->second, batch.message.size());
            }
            raw_stage->tokens_bytes_ -= static_cast<double>(batch.message.size());
            if (raw_stage->options_.zstd_level == 0) raw_stage->tune(batch);
            const wan::Class cls = class_of_lane(batch.lane);
            raw_stage->outgoing_[wan::index(cls)].push_back(
                {cls, std::move(batch.message), batch.vm});
        });
    EVAC_TRY(reducer);
    stage->reducer_ = std::move(*reducer);
    stage->index_ = &index;
    stage->reducer_->set_base_reader(&stage->content_);
    return stage;
}

ReducerStage::ReducerStage(const ReducerOptions& options, uint64_t hash_seed,
                           wan::Transport& transport, const Clock& clock, Logger& log)
    : options_(options),
      transport_(transport),
      clock_(clock),
      log_(log),
      content_(clock, options.background_share),
      pool_(options.queue_bytes, hash_seed) {
    for (size_t i = 0; i < options.capture_lanes; ++i) {
        lanes_.push_back(std::make_unique<Lane>(kLaneItems));
    }
}

// --- other threads' side

void ReducerStage::command(to_reducer::Command command) {
    commands_waiting_.push_back(std::move(command));
    pump_commands();
}

void ReducerStage::pump_commands() {
    bool any = false;
    while (!commands_waiting_.empty() && commands_.try_push(std::move(commands_waiting_.front()))) {
        commands_waiting_.pop_front();
        any = true;
    }
    if (any) wake_.signal();
}

std::optional<from_reducer::Event> ReducerStage::try_event() {
    return events_.try_pop();
}

const dedup::ReducerStats& ReducerStage::stats() {
    while (auto stats = stats_ring_.try_pop()) stats_ = *stats;
    return stats_;
}

bool ReducerStage::push(size_t lane, CapturedItem&& item, bool may_wait_long, ByteSpan content) {
    EVAC_ASSERT(item.end || item.is_zero ? content.empty() : content.size() == kPageBytes);
    Lane& ring = *lanes_[lane];
    LaneSlot* slot = ring.claim();
    if (slot == nullptr) {
        wake_.signal();
        const uint64_t deadline_ns =
            clock_.now_ns() + (may_wait_long ? kPushWaitLongNs : kPushWaitNs);
        while ((slot = ring.claim()) == nullptr) {
            if (clock_.now_ns() >= deadline_ns) return false;
            ::usleep(200);
        }
    }
    slot->item = std::move(item);
    if (!content.empty()) std::memcpy(slot->content.data(), content.data(), kPageBytes);
    ring.publish();
    if (sleeping_.load(std::memory_order_relaxed) && (ring.size_approx() & 31) == 1) wake_.signal();
    return true;
}

void ReducerStage::wait_taken(size_t lane) {
    const uint64_t deadline_ns = clock_.now_ns() + kPushWaitLongNs;
    wake_.signal();
    while (!lanes_[lane]->empty_approx() && clock_.now_ns() < deadline_ns) ::usleep(100);
}

bool ReducerStage::push_message(Bytes&& message) {
    const bool pushed = messages_.try_push(std::move(message));
    wake_.signal();
    return pushed;
}

// --- the reducer thread

void ReducerStage::run(std::stop_token stop) {
    while (!stop.stop_requested()) {
        pump_events();
        // None is lost: while control does not take them no command makes more.
        bool worked = events_waiting_.empty() && handle_commands();
        worked = drain_lanes() || worked;
        worked = flush_outgoing() || worked;
        worked = forward_messages() || worked;
        worked = send_some() || worked;
        if (!worked) worked = send_ballast();
        if (!worked) worked = reindex_some();
        publish_stats();
        if (!worked) wait(stop);
    }
}

void ReducerStage::wait(std::stop_token stop) {
    sleeping_ = true;
    std::array<pollfd, wan::kClasses> waiters{};
    nfds_t count = 0;
    waiters[count++] = {wake_.fd(), POLLIN, 0};
    for (const wan::Class c : {wan::Class::demand, wan::Class::disk, wan::Class::bulk}) {
        if (class_blocked(c)) waiters[count++] = {transport_.writable_fd(c), POLLIN, 0};
    }
    const bool quiet = std::all_of(lanes_.begin(), lanes_.end(),
                                   [](auto& lane) { return lane->empty_approx(); }) &&
                       commands_.empty_approx() && messages_.empty_approx();
    if (quiet && !stop.stop_requested()) {
        // A reached ceiling is lifted by time alone.
        const bool waits_for_tokens =
            (options_.ceiling_bytes_per_s > 0 && tokens_bytes_ <= 0) || reindexing_;
        ::poll(waiters.data(), count, waits_for_tokens ? 10 : kIdlePollMs);
    }
    sleeping_ = false;
    wake_.clear();
    for (const wan::Class c : {wan::Class::demand, wan::Class::disk, wan::Class::bulk}) {
        wan::Transport::clear(transport_.writable_fd(c));
    }
}

bool ReducerStage::handle_commands() {
    bool any = false;
    while (auto command = commands_.try_pop()) {
        std::visit([this](auto& c) { handle(c); }, *command);
        any = true;
    }
    return any;
}

void ReducerStage::handle(to_reducer::NewSession& c) {
    void_session();
    session_ = c.session;
}

void ReducerStage::void_session() {
    session_ = wan::SessionId::none;
    for (auto& waiting : outgoing_) waiting.clear();
    message_waiting_.reset();
    while (messages_.try_pop()) {
    }
    for (auto& [id, vm] : vms_) {
        vm.active = false;
        vm.queue->clear();
        vm.obligation.reset();
        vm.sent_seal.reset();
        vm.handover = 0;
        vm.final_mode = false;
        reducer_->reset_vm(id);
        publish(vm);
    }
}

void ReducerStage::handle(to_reducer::AddVm& c) {
    Vm& vm = vms_[c.vm];
    vm = Vm{};
    vm.generation = c.generation;
    vm.flow = std::move(c.flow);
    vm.regions = std::move(c.regions);
    vm.queue = std::make_unique<prestage::DirtyQueue>(pool_, vm.regions, vm.flow->account);
    for (size_t i = 0; i < vm.regions.size(); ++i) {
        const uint64_t pages = pages_of(vm.regions[i]);
        const auto set = reducer_->set_region(c.vm, RegionId{static_cast<uint16_t>(i)},
                                              vm.regions[i].kind, pages);
        if (!set.ok()) log_.warning("dedup tags: " + set.error().message());
    }
    add_sources(c.vm, std::move(c.sources));
}

void ReducerStage::handle(to_reducer::RemoveVm& c) {
    vms_.erase(c.vm);
    content_.remove(c.vm);
    reducer_->forget_vm(c.vm);
    if (reindexing_) reindex_soon();  // the pass has ended with it
    reindexing_ = false;
}

void ReducerStage::handle(to_reducer::ResetVm& c) {
    const auto found = vms_.find(c.vm);
    if (found == vms_.end()) return;
    Vm& vm = found->second;
    vm.generation = c.generation;
    vm.active = session_ != wan::SessionId::none;
    vm.queue->clear();
    vm.obligation.reset();
    vm.sent_seal.reset();
    vm.final_mode = false;
    vm.handover = 0;
    const uint64_t batches = reducer_->batches_emitted(c.vm);
    reducer_->reset_vm(c.vm, batches + 1);
    publish(vm);
    emit(from_reducer::VmReset{c.vm, c.generation, batches});
}

void ReducerStage::handle(to_reducer::LoadTags& c) {
    const auto loaded = reducer_->load_tags(c.vm, c.region, c.first_page, c.fingerprints);
    if (!loaded.ok()) log_.warning("dedup tags: " + loaded.error().message());
    reindex_soon();
    emit(from_reducer::TagsLoaded{c.vm, c.generation});
}

void ReducerStage::handle(to_reducer::Acknowledge& c) {
    for (const uint64_t sequence : c.sequences) reducer_->acknowledge(c.vm, sequence);
}

void ReducerStage::handle(to_reducer::Naks& c) {
    const auto found = vms_.find(c.vm);
    if (found == vms_.end()) return;
    Vm& vm = found->second;
    bool lost = false;
    for (const auto& page : c.pages) {
        const PageKey key{c.vm, page.region, page.page};
        if (raw(page.region) >= vm.regions.size() ||
            page.page >= pages_of(vm.regions[raw(page.region)]))
            continue;  // the numbers are the peer's
        const bool is_disk = vm.regions[raw(page.region)].kind == RegionKind::disk;
        const wan::Class cls = vm.final_mode ? wan::Class::demand
                               : is_disk     ? wan::Class::disk
                                             : wan::Class::bulk;
        const auto outcome =
            reducer_->nak(c.vm, c.sequence, key, page.epoch, static_cast<uint8_t>(wan::index(cls)));
        if (outcome != dedup::NakOutcome::unknown) continue;
        emit(from_reducer::PageLost{c.vm, page.region, page.page});
        lost = true;
    }
    reducer_->flush_vm(c.vm);
    if (!vm.sent_seal) return;
    if (lost) {
        // This point can no longer be completed; the next round brings the page again.
        vm.sent_seal.reset();
    } else {
        send_seal(c.vm, vm);  // again, with the count that includes what was just sent
    }
}

void ReducerStage::handle(to_reducer::SealAnswered& c) {
    const auto found = vms_.find(c.vm);
    if (found == vms_.end()) return;
    Vm& vm = found->second;
    if (vm.sent_seal && vm.sent_seal->epoch == c.epoch) vm.sent_seal.reset();
}

void ReducerStage::handle(to_reducer::AllowFinal& c) {
    const auto found = vms_.find(c.vm);
    if (found == vms_.end()) return;
    found->second.handover = c.handover;
    found->second.final_epoch = c.epoch;
}

void ReducerStage::handle(to_reducer::FinalMode& c) {
    const auto found = vms_.find(c.vm);
    if (found == vms_.end()) return;
    Vm& vm = found->second;
    vm.final_mode = c.on;
    vm.rank = c.rank;
    if (!c.on) {
        vm.handover = 0;
        if (vm.obligation && vm.obligation->final_pass) vm.obligation.reset();
        if (vm.sent_seal && vm.sent_seal->final_pass) vm.sent_seal.reset();
    }
}

bool ReducerStage::drain_lanes() {
    size_t taken = 0;
    for (auto& lane : lanes_) {
        for (size_t i = 0; i < kItemsPerTurn; ++i) {
            LaneSlot* slot = lane->front();
            if (slot == nullptr) break;
            take_item(*slot);
            lane->release();
            ++taken;
        }
    }
    return taken != 0;
}

void ReducerStage::take_item(LaneSlot& slot) {
    CapturedItem& item = slot.item;
    const auto found = vms_.find(item.vm);
    const bool wanted =
        found != vms_.end() && found->second.active && found->second.generation == item.generation;
    if (item.end) {
        // A round that is complete replaces an older obligation: what waits in the queue is the
        // newer state.
        std::unique_ptr<RoundEnd> end = std::exchange(item.end, nullptr);
        if (wanted && end->complete && raw(end->epoch) >= raw(found->second.newest))
            found->second.obligation = std::move(end);
        return;
    }
    if (!wanted) {
        pool_.budget().release(1, item.account);
        return;
    }
    Vm& vm = found->second;
    // With a page of a later pass among them, what waits is no instant of the guest any more: a
    // point that was not sent yet can not be.
    if (vm.obligation && raw(item.epoch) > raw(vm.obligation->epoch)) vm.obligation.reset();
    vm.newest = std::max(vm.newest, item.epoch);
    prestage::CapturedPage page;
    page.region = item.region;
    page.page = item.page;
    page.epoch = item.epoch;
    page.fingerprint = item.fingerprint;
    page.heat = item.heat;
    page.is_zero = item.is_zero;
    if (!item.is_zero) page.bytes = ByteSpan(slot.content);
    vm.queue->enqueue_reserved(page, vm.final_mode);
    publish(vm);
}

bool ReducerStage::ceiling_reached() {
    if (options_.ceiling_bytes_per_s <= 0 || urgent_) return false;
    const uint64_t now_ns = clock_.now_ns();
    const double earned =
        static_cast<double>(now_ns - tokens_ns_) / static_cast<double>(kNsPerSecond);
    tokens_ns_ = now_ns;
    tokens_bytes_ = std::min(tokens_bytes_ + earned * options_.ceiling_bytes_per_s,
                             kBucketSeconds * options_.ceiling_bytes_per_s);
    return tokens_bytes_ <= 0;
}

void ReducerStage::charge(Vm& vm, uint64_t bytes) {
    if (vm.final_mode) return;  // goes before all turns, and is owed for none
    turns_.charge(vm.turn, bytes, vm.flow->weight.load(std::memory_order_relaxed));
}

// Final passes first, by rank; the others by their shares of the line, a batch's worth of pages
// each.
ReducerStage::Vm* ReducerStage::next_vm(VmId& id) {
    Vm* best = nullptr;
    uint64_t final_bytes = 0;
    for (auto& [vm_id, vm] : vms_) {
        if (!vm.final_mode || !vm.active) continue;
        final_bytes += vm.queue->content_bytes();
        const bool has_work =
            !vm.sent_seal && (!vm.queue->empty() || (vm.obligation && vm.handover != 0));
        if (!has_work || (best != nullptr && best->rank <= vm.rank)) continue;
        best = &vm;
        id = vm_id;
    }
    final_waiting_ = final_bytes + transport_.queued_bytes(wan::Class::demand);
    if (best != nullptr) return class_blocked(wan::Class::demand) ? nullptr : best;
    // One whose turn would do nothing must not have it: the others would wait for the line with it.
    const bool idle = line_idle();
    if (class_blocked(wan::Class::disk) || class_blocked(wan::Class::bulk) || ceiling_reached())
        return nullptr;
    auto at = vms_.upper_bound(cursor_);
    for (size_t i = 0; i < vms_.size(); ++i, ++at) {
        if (at == vms_.end()) at = vms_.begin();
        Vm& vm = at->second;
        if (!vm.active || vm.final_mode || vm.sent_seal) continue;
        const bool may_seal = vm.obligation && !(vm.obligation->final_pass && vm.handover == 0);
        const bool may_flush = idle && reducer_->open_pages(at->first) != 0;
        if (vm.queue->empty() && !may_seal && !may_flush) continue;
        if (best != nullptr && turns_.rank(best->turn) <= turns_.rank(vm.turn)) continue;
        best = &vm;
        id = at->first;
    }
    if (best == nullptr) return nullptr;
    cursor_ = id;
    turns_.serve(best->turn);
    return best;
}

bool ReducerStage::send_some() {
    if (session_ == wan::SessionId::none) return false;
    VmId id{};
    Vm* vm = next_vm(id);
    return vm != nullptr && reduce(id, *vm);
}

bool ReducerStage::reduce(VmId id, Vm& vm) {
    content_.set_urgent(urgent());
    items_.clear();
    while (items_.size() < kPagesPerTurn && !vm.queue->empty()) {
        const auto page = vm.queue->take();  // its bytes are valid until the next enqueue
        dedup::PageItem item;
        item.key = {id, page->region, page->page};
        item.epoch = page->epoch;
        item.fingerprint = page->fingerprint;
        item.is_zero = page->is_zero;
        item.page = page->bytes;
        const bool is_disk = vm.regions[raw(page->region)].kind == RegionKind::disk;
        const wan::Class cls = vm.final_mode ? wan::Class::demand
                               : is_disk     ? wan::Class::disk
                                             : wan::Class::bulk;
        item.lane = static_cast<uint8_t>(wan::index(cls));
        vm.flow->sent_pages += 1;
        if (!page->is_zero) vm.flow->raw_bytes += kPageBytes;
        items_.push_back(item);
    }
    const size_t pages = items_.size();
    charge(vm, pages * kPageChargeBytes);
    begin_reduction();
    reducer_->add_all(items_);
    const bool sealed = vm.queue->empty() && try_seal(id, vm);
    // Nothing more comes at the moment: what is open must not wait for a full batch, unless the
    // line is busy anyway (a fuller batch compresses better; looked at again within kIdlePollMs).
    bool flushed = false;
    if (!sealed && pages == 0 && reducer_->open_pages(id) != 0 && (vm.final_mode || line_idle())) {
        reducer_->flush_vm(id);
        flushed = true;
    }
    end_reduction();
    publish(vm);
    flush_outgoing();
    return pages != 0 || sealed || flushed;
}

bool ReducerStage::line_idle() const {
    return transport_.unsent_bytes(wan::Class::disk) == 0 &&
           transport_.unsent_bytes(wan::Class::bulk) == 0;
}

bool ReducerStage::try_seal(VmId id, Vm& vm) {
    if (!vm.obligation || vm.sent_seal) return false;
    if (vm.obligation->final_pass && (vm.handover == 0 || vm.final_epoch != vm.obligation->epoch))
        return false;
    vm.sent_seal = std::move(vm.obligation);
    send_seal(id, vm);
    return true;
}

void ReducerStage::send_seal(VmId id, Vm& vm) {
    reducer_->flush_vm(id);
    const RoundEnd& end = *vm.sent_seal;
    protocol::Seal seal;
    seal.vm = id;
    seal.epoch = end.epoch;
    seal.batches = reducer_->batches_emitted(id);
    seal.handover = end.final_pass ? vm.handover : 0;
    seal.point_unix_ms = end.point_unix_ms;
    seal.device_state = end.device_state;
    const wan::Class cls = end.final_pass ? wan::Class::demand : wan::Class::bulk;
    Bytes message = protocol::encode(protocol::Message(std::move(seal)));
    vm.flow->wire_bytes += message.size();
    outgoing_[wan::index(cls)].push_back({cls, std::move(message), id});
    emit(from_reducer::SealSent{id, end.epoch, end.final_pass, reducer_->batches_emitted(id)});
}

bool ReducerStage::flush_outgoing() {
    bool any = false;
    for (auto& waiting : outgoing_) {
        while (!waiting.empty()) {
            Outgoing& next = waiting.front();
            const wan::SendResult result =
                transport_.try_send(next.cls, session_, std::move(next.message));
            if (result == wan::SendResult::full) break;
            if (result == wan::SendResult::ok) {
                waiting.pop_front();
                any = true;
                continue;
            }
            if (result == wan::SendResult::invalid) {
                log_.error("a message to the peer was refused by the transport as too large");
                waiting.pop_front();
                continue;
            }
            // The session is over. Control learns it from the transport and begins anew.
            void_session();
            return any;
        }
    }
    return any;
}

bool ReducerStage::forward_messages() {
    if (class_blocked(wan::Class::disk) || session_ == wan::SessionId::none) return false;
    auto message = messages_.try_pop();
    if (!message) return false;
    outgoing_[wan::index(wan::Class::disk)].push_back(
        {wan::Class::disk, std::move(*message), VmId{}});
    return true;
}

// Only when there is nothing real to send, and never more than one message ahead of it.
bool ReducerStage::send_ballast() {
    if (session_ == wan::SessionId::none || clock_.now_ns() >= ballast_until_ns_ ||
        class_blocked(wan::Class::bulk) || class_blocked(wan::Class::disk))
        return false;
    Bytes message = protocol::encode(protocol::Message(protocol::Ballast{Bytes(kBallastBytes)}));
    outgoing_[wan::index(wan::Class::bulk)].push_back(
        {wan::Class::bulk, std::move(message), VmId{}});
    return flush_outgoing();
}

void ReducerStage::emit(from_reducer::Event event) {
    events_waiting_.push_back(std::move(event));
    pump_events();
}

void ReducerStage::pump_events() {
    if (events_waiting_.empty()) return;
    while (!events_waiting_.empty() && events_.try_push(std::move(events_waiting_.front())))
        events_waiting_.pop_front();
    events_wake_.signal();
}

void ReducerStage::publish(Vm& vm) {
    vm.flow->queued_pages.store(vm.queue->size(), std::memory_order_relaxed);
    vm.flow->queued_bytes.store(vm.queue->content_bytes(), std::memory_order_relaxed);
}

void ReducerStage::publish_stats() {
    const uint64_t now_ns = clock_.now_ns();
    if (now_ns - stats_ns_ < kStatsNs) return;
    stats_ns_ = now_ns;
    index_->hand_over();
    publish_reindex();
    for (const auto& [id, vm] : vms_) publish_rungs(id, vm);
    dedup::ReducerStats stats = reducer_->stats();
    const bool pushed = stats_ring_.try_push(std::move(stats));
    static_cast<void>(pushed);  // the reader has not looked: the next one will do
}

}  // namespace evac::daemon
