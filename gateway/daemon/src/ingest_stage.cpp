#include "ingest_stage.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <random>

#include "evac/dedup/fingerprint.hpp"
#include "reducer_stage.hpp"

namespace evac::daemon {
namespace {

constexpr int kIdlePollMs = 200;
constexpr size_t kMessagesPerTurn = 16;
constexpr size_t kAcksFlush = 64;
constexpr uint64_t kPagesPerPart = protocol::kFingerprintsMax;

struct PageKeyHash {
    size_t operator()(const PageKey& key) const { return std::hash<PageKey>()(key); }
};

bool same_regions(const storage_sync::StagedSpec& a, const storage_sync::StagedSpec& b) {
    return a.vm == b.vm && a.regions.size() == b.regions.size() &&
           std::equal(a.regions.begin(), a.regions.end(), b.regions.begin(),
                      [](const auto& x, const auto& y) {
                          return x.kind == y.kind && x.name == y.name &&
                                 x.size_bytes == y.size_bytes;
                      });
}

uint64_t random_seed() {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
}

}  // namespace

struct IngestStage::Vm {
    std::unique_ptr<storage_sync::StagedVm> staged;
    std::string dir, ram_dir;
    uint64_t batches = 0;  // in this session
    std::optional<protocol::Seal> seal;
    std::unordered_map<PageKey, Epoch, PageKeyHash> owed;  // references that did not hold
    std::string broken;  // why a batch could not be applied; seals fail until home has reloaded our
                         // fingerprints
    // Fingerprints that home has asked for, until the last part is sent.
    struct Print {
        RegionId region{};
        uint64_t first = 0;
        uint64_t pages = 0;
    };
    std::optional<protocol::FingerprintsRequest> asked;
    std::deque<Print> prints;  // what is still to be sent, once it was begun
    bool print_begun = false;
};

// Adapts the expander's port to the staged copies.
struct IngestStage::Pages final : dedup::StagedPages {
    explicit Pages(IngestStage& stage) : stage_(stage) {}

    Vm* writable(const PageKey& key) {
        Vm* vm = stage_.find(key.vm);
        if (vm == nullptr || !vm->staged || vm->staged->landed()) return nullptr;
        return raw(key.region) < vm->staged->spec().regions.size() ? vm : nullptr;
    }
    Status read(const PageKey& key, std::span<std::byte, kPageBytes> out) override {
        Vm* vm = stage_.find(key.vm);
        // A landed VM's files change under us: never a source.
        if (vm == nullptr || !vm->staged || vm->staged->landed() ||
            raw(key.region) >= vm->staged->spec().regions.size()) {
            return make_error(Errc::not_found, "reference: no such page");
        }
        const auto& region = vm->staged->spec().regions[raw(key.region)];
        if (key.page >= (region.size_bytes + kPageBytes - 1) / kPageBytes) {
            return make_error(Errc::not_found, "reference: no such page");
        }
        return vm->staged->read(key.region, key.page, out);
    }
    Status put(const PageKey& key, Epoch epoch,
               std::span<const std::byte, kPageBytes> page) override {
        Vm* vm = writable(key);
        if (vm == nullptr) return make_error(Errc::refused, "page of a VM that is not staged here");
        auto outcome = vm->staged->put(key.region, key.page, epoch, page);
        EVAC_TRY(outcome);
        settle(*vm, key, epoch);
        return {};
    }
    Status put_zero(const PageKey& first, Epoch epoch, uint64_t count) override {
        Vm* vm = writable(first);
        if (vm == nullptr) return make_error(Errc::refused, "page of a VM that is not staged here");
        auto outcome = vm->staged->put_zero(first.region, first.page, count, epoch);
        EVAC_TRY(outcome);
        if (!vm->owed.empty()) {
            std::erase_if(vm->owed, [&](const auto& entry) {
                return entry.first.region == first.region && entry.first.page >= first.page &&
                       entry.first.page - first.page < count && entry.second <= epoch;
            });
        }
        return {};
    }
    static void settle(Vm& vm, const PageKey& key, Epoch epoch) {
        if (vm.owed.empty()) return;
        const auto owed = vm.owed.find(key);
        if (owed != vm.owed.end() && owed->second <= epoch) vm.owed.erase(owed);
    }

    IngestStage& stage_;
};

Result<std::unique_ptr<IngestStage>> IngestStage::create(ByteSpan secret, uint32_t recovery_points,
                                                         wan::Transport& transport,
                                                         ReducerStage& reducer, const Clock& clock,
                                                         Logger& log) {
    std::unique_ptr<IngestStage> stage(
        new IngestStage(recovery_points, transport, reducer, clock, log));
    stage->seed_ = dedup::fingerprint_seed(secret);
    auto hasher = dedup::IdentityHasher::create(secret);
    EVAC_TRY(hasher);
    stage->pages_ = std::make_unique<Pages>(*stage);
    auto expander = dedup::Expander::create(std::move(*hasher), *stage->pages_);
    EVAC_TRY(expander);
    stage->expander_ = std::move(*expander);
    return stage;
}

IngestStage::IngestStage(uint32_t recovery_points, wan::Transport& transport, ReducerStage& reducer,
                         const Clock& clock, Logger& log)
    : recovery_points_(recovery_points),
      transport_(transport),
      reducer_(reducer),
      clock_(clock),
      log_(log) {}

IngestStage::~IngestStage() = default;

void IngestStage::command(to_ingest::Command command) {
    commands_waiting_.push_back(std::move(command));
    pump_commands();
}

void IngestStage::pump_commands() {
    bool any = false;
    while (!commands_waiting_.empty() && commands_.try_push(std::move(commands_waiting_.front()))) {
        commands_waiting_.pop_front();
        any = true;
    }
    if (any) wake_.signal();
}

std::optional<from_ingest::Event> IngestStage::try_event() {
    return events_.try_pop();
}

// --- the ingest thread

void IngestStage::run(std::stop_token stop) {
    while (!stop.stop_requested()) {
        wake_.clear();
        wan::Transport::clear(transport_.data_fd());
        while (!events_waiting_.empty() && events_.try_push(std::move(events_waiting_.front()))) {
            events_waiting_.pop_front();
            events_wake_.signal();
        }
        bool worked = handle_commands();
        if (events_waiting_.empty()) worked = receive() || worked;
        worked = send_fingerprints() || worked;
        flush_acks();
        if (!worked) worked = checkpoint_one();
        if (worked || stop.stop_requested()) continue;
        std::array<pollfd, 2> waiters{{{wake_.fd(), POLLIN, 0}, {transport_.data_fd(), POLLIN, 0}}};
        ::poll(waiters.data(), waiters.size(), kIdlePollMs);
    }
}

bool IngestStage::handle_commands() {
    bool any = false;
    while (auto command = commands_.try_pop()) {
        std::visit([this](auto& c) { handle(c); }, *command);
        any = true;
    }
    return any;
}

void IngestStage::handle(to_ingest::NewSession& c) {
    session_ = c.session;
    acks_.clear();
    for (auto& [id, vm] : vms_) {
        vm->batches = 0;
        vm->seal.reset();
        vm->owed.clear();
        vm->broken.clear();
        vm->asked.reset();
    }
}

Status IngestStage::open_staged(const to_ingest::Open& c, Vm& vm) {
    storage_sync::StagedOptions options;
    options.points_max = recovery_points_;
    options.nonce_seed = random_seed();
    auto& files = storage_sync::posix_files();
    auto opened = storage_sync::StagedVm::open(files, c.dir, options);
    if (opened.ok() && same_regions((*opened)->spec(), c.spec)) {
        vm.staged = std::move(*opened);
        return {};
    }
    if (opened.ok() && (*opened)->landed()) {
        return make_error(Errc::refused,
                          "a landed copy of another shape is here and may be in use");
    }
    if (!opened.ok() && opened.error().code != Errc::not_found &&
        opened.error().code != Errc::corrupt) {
        return opened.error();
    }
    if (!opened.ok() && opened.error().code == Errc::corrupt) {
        log_.warning("staged copy of '" + c.spec.name +
                     "' is staged anew: " + opened.error().message());
    }
    if (opened.ok()) opened->reset();
    EVAC_TRY(storage_sync::StagedVm::remove(files, c.dir, c.ram_dir));
    auto created = storage_sync::StagedVm::create(files, c.dir, c.ram_dir, c.spec, options);
    EVAC_TRY(created);
    vm.staged = std::move(*created);
    return {};
}

void IngestStage::handle(to_ingest::Open& c) {
    auto& slot = vms_[c.vm];
    if (!slot) slot = std::make_unique<Vm>();
    Status status;
    slot->dir = c.dir;
    slot->ram_dir = c.ram_dir;
    // It came back with other memory or disks: what is staged is of no use.
    if (slot->staged && !slot->staged->landed() && !same_regions(slot->staged->spec(), c.spec))
        slot->staged.reset();
    if (!slot->staged) status = open_staged(c, *slot);
    from_ingest::Opened event;
    event.vm = c.vm;
    event.status = status;
    if (slot->staged) {
        event.sealed = slot->staged->sealed_epoch();
        event.landed = slot->staged->landed();
        const auto points = slot->staged->points();
        if (!points.empty()) event.point_unix_ms = points.back().manifest.wall_unix_ms;
        for (size_t i = 0; i < slot->staged->spec().regions.size(); ++i) {
            event.files.push_back(slot->staged->region_path(RegionId{static_cast<uint16_t>(i)}));
        }
    } else {
        vms_.erase(c.vm);
    }
    emit(std::move(event));
}

void IngestStage::handle(to_ingest::Forget& c) {
    const auto found = vms_.find(c.vm);
    if (found == vms_.end()) return;
    const auto& staged = found->second->staged;
    if (staged && staged->landed()) {
        log_.warning("staged copy of '" + staged->spec().name + "' has landed and is kept");
        return;
    }
    const std::string dir = found->second->dir, ram_dir = found->second->ram_dir;
    vms_.erase(found);
    const auto removed = storage_sync::StagedVm::remove(storage_sync::posix_files(), dir, ram_dir);
    if (!removed.ok()) log_.warning("remove a staged copy: " + removed.error().message());
}

void IngestStage::handle(to_ingest::LoadState& c) {
    Vm* vm = find(c.vm);
    if (vm == nullptr) {
        emit(from_ingest::State{c.vm, make_error(Errc::not_found, "no staged copy")});
        return;
    }
    emit(from_ingest::State{c.vm, vm->staged->device_state(vm->staged->sealed_epoch())});
}

void IngestStage::handle(to_ingest::Fingerprints& c) {
    Vm* vm = find(c.request.vm);
    if (vm == nullptr || !vm->staged) return;
    vm->asked = std::move(c.request);
    vm->print_begun = false;
}

void IngestStage::handle(to_ingest::MarkLanded& c) {
    Vm* vm = find(c.vm);
    Status status =
        vm == nullptr ? Status(make_error(Errc::not_found, "no staged copy")) : Status();
    if (vm != nullptr && !vm->staged->landed()) {
        const auto before = vm->staged->stats();
        status = vm->staged->mark_landed();
        // Home believes that it is here: should the copy be given back, it must ask.
        if (status.ok() && before.open_pages + before.open_zero_runs != 0)
            vm->broken = "the copy has landed, what came behind its recovery point is gone";
    }
    if (vm != nullptr) vm->seal.reset();
    emit(from_ingest::Landed{c.vm, status, status.ok()});
}

Status IngestStage::stage_anew(Vm& vm) {
    const storage_sync::StagedSpec spec = vm.staged->spec();
    storage_sync::StagedOptions options;
    options.points_max = recovery_points_;
    options.nonce_seed = random_seed();
    auto& files = storage_sync::posix_files();
    vm.staged.reset();
    EVAC_TRY(storage_sync::StagedVm::remove(files, vm.dir, vm.ram_dir));
    auto created = storage_sync::StagedVm::create(files, vm.dir, vm.ram_dir, spec, options);
    EVAC_TRY(created);
    vm.staged = std::move(*created);
    vm.print_begun = false;  // what is being said of it is said again
    vm.broken = "the copy was given back after the guest may have run on it";
    return {};
}

void IngestStage::handle(to_ingest::UnmarkLanded& c) {
    Vm* vm = find(c.vm);
    Status status;
    if (vm != nullptr && c.discard) {
        status = stage_anew(*vm);
        if (!status.ok()) vms_.erase(c.vm);  // what is left of it is found by the next Open
    } else if (vm != nullptr && vm->staged->landed()) {
        status = vm->staged->unmark_landed();
    }
    emit(from_ingest::Landed{c.vm, status, !status.ok()});
}

void IngestStage::handle(to_ingest::Close& c) {
    vms_.erase(c.vm);
}

void IngestStage::handle(to_ingest::Rekey& c) {
    auto hasher = dedup::IdentityHasher::create(as_byte_span(c.secret));
    if (!hasher.ok()) {
        log_.error("a new secret of the pair: " + hasher.error().message());
        return;
    }
    seed_ = hasher->fingerprint_seed();
    expander_->rekey(std::move(*hasher));
    // Lists of the old session: home asks again in the next one.
    for (auto& [id, vm] : vms_) {
        vm->asked.reset();
        vm->prints.clear();
    }
}

IngestStage::Vm* IngestStage::find(VmId id) {
    const auto found = vms_.find(id);
    return found == vms_.end() ? nullptr : found->second.get();
}

bool IngestStage::receive() {
    bool any = false;
    for (size_t i = 0; i < kMessagesPerTurn && events_waiting_.empty(); ++i) {
        std::optional<wan::Message> message;
        for (const wan::Class c : {wan::Class::demand, wan::Class::disk, wan::Class::bulk}) {
            message = transport_.try_receive(c);
            if (message) break;
        }
        if (!message) break;
        any = true;
        // Messages of a session that control has not announced yet wait no longer than its command:
        // both come from the transport, and control's is never behind data.
        if (message->session != session_) {
            if (message->session == transport_.session()) {
                to_ingest::NewSession changed{message->session};
                handle(changed);
            } else {
                continue;
            }
        }
        take(*message);
    }
    return any;
}

void IngestStage::take(wan::Message& message) {
    auto decoded = protocol::decode(message.bytes);
    if (!decoded.ok()) {
        emit(from_ingest::Malformed{decoded.error().message()});
        return;
    }
    if (auto* batch = std::get_if<protocol::Batch>(&*decoded)) {
        take_batch(batch->payload);
    } else if (auto* seal = std::get_if<protocol::Seal>(&*decoded)) {
        take_seal(*seal);
    } else if (auto* prints = std::get_if<protocol::Fingerprints>(&*decoded)) {
        emit(from_ingest::PeerFingerprints{std::move(*prints)});
    } else if (std::holds_alternative<protocol::Ballast>(*decoded)) {
        // Of a test of the link: its sender counts what the transport acknowledges.
    } else {
        emit(from_ingest::Malformed{std::string("unexpected on a data class: ") +
                                    protocol::name_of(*decoded)});
    }
}

void IngestStage::take_batch(ByteSpan payload) {
    ByteReader header(payload);
    header.take(4);
    const VmId id{header.le32()};  // dedup/batch.hpp: vm stands at offset 4
    Vm* vm = header.ok() ? find(id) : nullptr;
    if (vm != nullptr) ++vm->batches;
    auto expanded = expander_->expand(payload);
    if (!expanded.ok()) {
        if (vm != nullptr) {
            vm->broken = expanded.error().message();
            try_seal(id, *vm);
        }
        emit(from_ingest::Malformed{expanded.error().message()});
        return;
    }
    if (vm == nullptr) return;
    if (!expanded->naks.empty()) {
        from_ingest::Refused refused;
        refused.nak.vm = expanded->vm;
        refused.nak.sequence = expanded->sequence;
        for (const auto& nak : expanded->naks) {
            // A newer version overtook it, in a higher class: it is owed by nobody, and home would
            // not send it again.
            if (vm->staged->superseded(nak.key.region, nak.key.page, nak.epoch)) continue;
            if (vm->owed.size() >= kOwedMax)
                vm->broken = "more references are owed than can be remembered";
            Epoch& owed = vm->owed[nak.key];
            owed = std::max(owed, nak.epoch);
            refused.nak.pages.push_back({nak.key.region, nak.key.page, nak.epoch});
        }
        // Before the acknowledgement, which lets home forget the content.
        if (!refused.nak.pages.empty()) emit(std::move(refused));
    }
    auto& acks = acks_[expanded->vm];
    acks.push_back(expanded->sequence);
    if (acks.size() >= kAcksFlush) flush_acks();
    try_seal(expanded->vm, *vm);
}

void IngestStage::take_seal(protocol::Seal& seal) {
    Vm* vm = find(seal.vm);
    if (vm == nullptr || !vm->staged) return;
    const VmId id = seal.vm;
    vm->seal = std::move(seal);
    try_seal(id, *vm);
}

void IngestStage::try_seal(VmId id, Vm& vm) {
    if (!vm.seal || vm.batches != vm.seal->batches || (!vm.owed.empty() && vm.broken.empty()))
        return;
    const protocol::Seal seal = std::move(*vm.seal);
    vm.seal.reset();
    if (!vm.broken.empty()) {
        emit(from_ingest::Sealed{id, seal.epoch, seal.handover, make_error(Errc::io, vm.broken), 0,
                                 0});
        return;
    }
    const uint64_t begin_ns = clock_.now_ns();
    storage_sync::SealManifest manifest;
    manifest.batches = seal.batches;
    manifest.wall_unix_ms = seal.point_unix_ms;
    manifest.keep_previous = seal.handover == 0;
    const Status status = vm.staged->seal(seal.epoch, seal.device_state, manifest);
    emit(from_ingest::Sealed{id, seal.epoch, seal.handover, status, clock_.now_ns() - begin_ns,
                             seal.point_unix_ms});
}

void IngestStage::flush_acks() {
    for (auto& [id, sequences] : acks_) {
        if (!sequences.empty()) emit(from_ingest::Acked{id, std::move(sequences)});
    }
    acks_.clear();
}

bool IngestStage::send_fingerprints() {
    for (auto& [id, vm] : vms_) {
        if (vm->asked && vm->staged && vm->batches >= vm->asked->after_batches)
            return send_fingerprints_of(id, *vm);
    }
    return false;
}

// From here on home knows what is here: what went wrong before is settled. Of another copy than the
// one that home knows, it knows nothing.
void IngestStage::begin_fingerprints(Vm& vm) {
    vm.broken.clear();
    vm.owed.clear();
    vm.seal.reset();
    vm.prints.clear();
    vm.print_begun = true;
    const auto& regions = vm.staged->spec().regions;
    const auto pages_of = [&regions](size_t region) {
        return (regions[region].size_bytes + kPageBytes - 1) / kPageBytes;
    };
    bool all = vm.asked->copy_id != vm.staged->copy_id();
    for (const auto& range : vm.asked->ranges) {
        const size_t region = raw(range.region);
        all = all || region >= regions.size() || range.first_page >= pages_of(region) ||
              range.pages > pages_of(region) - range.first_page;
        if (all) break;
        vm.prints.push_back({range.region, range.first_page, range.pages});
    }
    if (!all) return;
    vm.prints.clear();
    for (size_t i = 0; i < regions.size(); ++i)
        vm.prints.push_back({RegionId{static_cast<uint16_t>(i)}, 0, pages_of(i)});
}

// One part; the next call goes on where this one ended.
bool IngestStage::send_fingerprints_of(VmId id, Vm& vm) {
    if (!vm.print_begun) begin_fingerprints(vm);
    protocol::Fingerprints part;
    part.vm = id;
    part.request_id = vm.asked->request_id;
    part.copy_id = vm.staged->copy_id();
    if (!vm.prints.empty()) {
        const Vm::Print& next = vm.prints.front();
        part.region = next.region;
        part.first_page = next.first;
        const dedup::Fingerprinter fingerprinter(seed_);
        const PageBuffer zero_page{};
        const Fingerprint zero = fingerprinter(zero_page);
        auto values = vm.staged->fingerprints(
            next.region, next.first, std::min(kPagesPerPart, next.pages),
            [&fingerprinter](ByteSpan page) { return fingerprinter(page.first<kPageBytes>()); });
        if (!values.ok()) {
            log_.error("fingerprints of a staged copy: " + values.error().message());
            vm.asked.reset();
            return true;
        }
        part.values = std::move(*values);
        for (auto& value : part.values) {
            part.zero.push_back(value == zero);
            if (value == zero) value = Fingerprint{};
        }
    }
    const uint64_t count = part.values.size();
    part.last = vm.prints.empty() || (vm.prints.size() == 1 && vm.prints.front().pages == count);
    if (!reducer_.push_message(protocol::encode(protocol::Message(part)))) {
        ::usleep(1000);  // again when the ring has room
        return true;
    }
    if (part.last) {
        vm.asked.reset();
        vm.prints.clear();
    } else if (vm.prints.front().pages == count) {
        vm.prints.pop_front();
    } else {
        vm.prints.front().first += count;
        vm.prints.front().pages -= count;
    }
    return true;
}

// Idle time makes applied points durable in the region files and frees their logs.
bool IngestStage::checkpoint_one() {
    for (auto& [id, vm] : vms_) {
        if (!vm->staged || vm->staged->landed()) continue;
        const auto done = vm->staged->checkpoint();
        if (!done.ok()) log_.warning("checkpoint of a staged copy: " + done.error().message());
    }
    return false;
}

bool IngestStage::emit(from_ingest::Event event) {
    if (!events_waiting_.empty() || !events_.try_push(std::move(event))) {
        events_waiting_.push_back(std::move(event));
        return false;
    }
    events_wake_.signal();
    return true;
}

}  // namespace evac::daemon
