#include "evac/dedup/reducer.hpp"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "batch_format.hpp"
#include "retention.hpp"

namespace evac::dedup {

const char* to_string(Rung rung) {
    switch (rung) {
        case Rung::zero:
            return "zero";
        case Rung::reference_same_vm:
            return "reference_same_vm";
        case Rung::reference_other_vm:
            return "reference_other_vm";
        case Rung::literal:
            return "literal";
    }
    return "?";
}

namespace {

using Ticket = Retention::Ticket;

// One batch being filled, per lane.
struct OpenBatch {
    explicit OpenBatch(BatchBuilder from) : builder(std::move(from)) {}

    BatchBuilder builder;
    VmId vm{};
    uint32_t pages = 0;
    uint32_t references = 0;
    uint32_t literals_memory = 0;
    uint32_t literals_disk = 0;
    std::vector<Ticket> tickets;

    void reset() {
        pages = references = literals_memory = literals_disk = 0;
        tickets.clear();
    }
};

struct VmState {
    uint64_t last_sequence = 0;
    std::unordered_map<uint64_t, std::vector<Ticket>>
        unacknowledged;  // only batches with references
};

}  // namespace

struct Reducer::Impl {
    Impl(const ReducerOptions& from, IdentityHasher hash, Index& hints, Sink out)
        : options(from),
          hasher(std::move(hash)),
          index(hints),
          sink(std::move(out)),
          retention(from.retained_bytes_max) {}

    OpenBatch& open(uint8_t lane, VmId vm);
    void emit(uint8_t lane);
    void emit_if_full(uint8_t lane);
    void drop_open(VmId vm);
    void drop_retained(VmState& state);
    std::optional<Location> find_source(const PageItem& item, const Identity& identity);
    Rung add_nonzero(const PageItem& item);
    void add_literal(uint8_t lane, const PageKey& key, Epoch epoch, PageSpan page);
    RungStats& count(const PageKey& key, Rung rung);

    ReducerOptions options;
    IdentityHasher hasher;
    Index& index;
    Sink sink;
    StagedTags tags;
    Retention retention;
    std::vector<OpenBatch> lanes;
    std::unordered_map<uint32_t, VmState> vms;
    ReducerStats stats;
};

Reducer::Reducer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Reducer::~Reducer() = default;

Result<std::unique_ptr<Reducer>> Reducer::create(const ReducerOptions& options,
                                                 IdentityHasher hasher, Index& index, Sink sink) {
    if (options.zstd_level < kZstdLevelMin || options.zstd_level > kZstdLevelMax) {
        return make_error(
            Errc::invalid_argument,
            "zstd_level: " + std::to_string(options.zstd_level) + ", accepted are -7 to 19");
    }
    auto impl = std::make_unique<Impl>(options, std::move(hasher), index, std::move(sink));
    for (size_t lane = 0; lane < kLanesMax; ++lane) {
        auto builder = BatchBuilder::create(options.zstd_level);
        if (!builder.ok()) return builder.error();
        impl->lanes.emplace_back(std::move(builder).value());
    }
    return std::unique_ptr<Reducer>(new Reducer(std::move(impl)));
}

Status Reducer::set_region(VmId vm, RegionId region, RegionKind kind, uint64_t pages) {
    if (raw(region) >= kRegionsMax) {
        return make_error(Errc::invalid_argument,
                          "region: " + std::to_string(raw(region)) + ", at most 63");
    }
    if (pages > kLocationPagesMax) {
        return make_error(Errc::invalid_argument,
                          "region pages: " + std::to_string(pages) + ", at most 2^40");
    }
    const uint64_t before = impl_->tags.pages(vm, region) * sizeof(uint32_t);
    if (impl_->tags.bytes() - before + pages * sizeof(uint32_t) > impl_->options.tag_bytes_max) {
        return make_error(Errc::refused, "region of " + std::to_string(pages) +
                                             " pages: its tags exceed tag_bytes_max = " +
                                             std::to_string(impl_->options.tag_bytes_max));
    }
    impl_->tags.set_region(vm, region, kind, pages);
    impl_->stats.tag_bytes = impl_->tags.bytes();
    return {};
}

Status Reducer::load_tags(VmId vm, RegionId region, uint64_t first_page,
                          std::span<const Fingerprint> fingerprints) {
    const uint64_t pages = impl_->tags.pages(vm, region);
    if (first_page > pages || fingerprints.size() > pages - first_page) {
        return make_error(Errc::invalid_argument,
                          "fingerprints of pages " + std::to_string(first_page) + " to " +
                              std::to_string(first_page + fingerprints.size()) +
                              ", the region has " + std::to_string(pages));
    }
    for (size_t i = 0; i < fingerprints.size(); ++i) {
        const Fingerprint& fingerprint = fingerprints[i];
        impl_->tags.set(Location{vm, region, first_page + i},
                        fingerprint.known() ? StagedTags::tag(fingerprint) : 0);
    }
    return {};
}

void Reducer::Impl::drop_open(VmId vm) {
    for (OpenBatch& batch : lanes) {
        if (batch.builder.empty() || batch.vm != vm) continue;
        for (const Ticket& ticket : batch.tickets) retention.release(ticket);
        batch.builder.discard();
        batch.reset();
    }
}

void Reducer::Impl::drop_retained(VmState& state) {
    for (const auto& [sequence, tickets] : state.unacknowledged) {
        for (const Ticket& ticket : tickets) retention.release(ticket);
    }
    state.unacknowledged.clear();
    stats.retained_pages = retention.pages();
}

void Reducer::forget_vm(VmId vm) {
    impl_->drop_open(vm);
    impl_->drop_retained(impl_->vms[raw(vm)]);
    impl_->vms.erase(raw(vm));
    impl_->tags.forget_vm(vm);
    impl_->stats.tag_bytes = impl_->tags.bytes();
}

void Reducer::reset_vm(VmId vm, uint64_t next_sequence) {
    EVAC_ASSERT(next_sequence >= 1);
    VmState& state = impl_->vms[raw(vm)];
    impl_->drop_open(vm);
    impl_->drop_retained(state);
    state.last_sequence = next_sequence - 1;
    impl_->tags.clear_vm(vm);
}

RungStats& Reducer::Impl::count(const PageKey& key, Rung rung) {
    auto& by_rung = tags.is_disk(key) ? stats.disk : stats.memory;
    RungStats& out = by_rung[static_cast<size_t>(rung)];
    ++out.pages;
    out.raw_bytes += kPageBytes;
    return out;
}

// The lane's batch, emptied first when it is another VM's.
OpenBatch& Reducer::Impl::open(uint8_t lane, VmId vm) {
    OpenBatch& batch = lanes[lane];
    if (!batch.builder.empty() && batch.vm != vm) emit(lane);
    batch.vm = vm;
    return batch;
}

// Full batches leave at once, so a batch at rest always has room for one more page of any kind.
void Reducer::Impl::emit_if_full(uint8_t lane) {
    const BatchBuilder& builder = lanes[lane].builder;
    if (!builder.has_room_for_literal() || !builder.has_room_for_reference()) emit(lane);
}

void Reducer::Impl::emit(uint8_t lane) {
    OpenBatch& batch = lanes[lane];
    if (batch.builder.empty()) return;
    VmState& state = vms[raw(batch.vm)];
    const uint64_t sequence = ++state.last_sequence;
    BatchBuilder::Encoded encoded = batch.builder.finish(sequence);

    const uint32_t literals = batch.literals_memory + batch.literals_disk;
    constexpr auto kLiteral = static_cast<size_t>(Rung::literal);
    if (literals != 0) {
        const uint64_t disk_share = encoded.literal_bytes * batch.literals_disk / literals;
        stats.disk[kLiteral].wire_bytes += disk_share;
        stats.memory[kLiteral].wire_bytes += encoded.literal_bytes - disk_share;
    }
    stats.header_bytes +=
        kBatchHeaderBytes + encoded.record_bytes - batch.references * sizeof(Identity);
    ++stats.batches;
    stats.message_bytes += encoded.message.size();

    if (!batch.tickets.empty()) state.unacknowledged.emplace(sequence, std::move(batch.tickets));
    EncodedBatch out{batch.vm, sequence, lane, batch.pages, std::move(encoded.message)};
    batch.reset();
    sink(std::move(out));
}

std::optional<Location> Reducer::Impl::find_source(const PageItem& item, const Identity& identity) {
    std::optional<Location> hit = index.lookup(identity);
    if (!hit || *hit == item.key) return std::nullopt;
    if (tags.get(*hit) != StagedTags::tag(item.fingerprint)) {
        ++stats.stale_hits;
        return std::nullopt;
    }
    return hit;
}

void Reducer::Impl::add_literal(uint8_t lane, const PageKey& key, Epoch epoch, PageSpan page) {
    OpenBatch& batch = open(lane, key.vm);
    batch.builder.add_literal(key, epoch, page);
    ++batch.pages;
    ++(tags.is_disk(key) ? batch.literals_disk : batch.literals_memory);
    count(key, Rung::literal);
    emit_if_full(lane);
}

Rung Reducer::Impl::add_nonzero(const PageItem& item) {
    EVAC_ASSERT(item.page.size() == kPageBytes && item.fingerprint.known());
    const PageSpan page(item.page.data(), kPageBytes);
    std::optional<Location> source;
    Identity identity{};
    if (options.references) {
        identity = hasher(page);
        source = find_source(item, identity);
    }
    const bool known_place = tags.set(item.key, StagedTags::tag(item.fingerprint));
    // One place per content: a valid one stays, but a disk block, which changes less, replaces a
    // RAM page.
    const bool better = !source || (tags.is_disk(item.key) && !tags.is_disk(*source));
    if (options.references && known_place && better) index.insert(identity, item.key);

    if (source && !retention.has_room()) {
        ++stats.literals_for_retention;
        source.reset();
    }
    if (!source) {
        add_literal(item.lane, item.key, item.epoch, page);
        return Rung::literal;
    }
    OpenBatch& batch = open(item.lane, item.key.vm);
    batch.builder.add_reference(item.key, item.epoch, identity, *source);
    batch.tickets.push_back(retention.keep(item.key, item.epoch, *source, page));
    ++batch.pages;
    ++batch.references;
    const Rung rung =
        source->vm == item.key.vm ? Rung::reference_same_vm : Rung::reference_other_vm;
    count(item.key, rung).wire_bytes += sizeof(Identity);
    ++(tags.is_disk(*source) ? stats.references_to_disk : stats.references_to_memory);
    emit_if_full(item.lane);
    return rung;
}

Rung Reducer::add(const PageItem& item) {
    EVAC_ASSERT(item.lane < kLanesMax && raw(item.epoch) >= 1);
    EVAC_ASSERT(raw(item.key.region) < kRegionsMax && item.key.page < kLocationPagesMax);
    Impl& impl = *impl_;
    impl.retention.supersede(item.key);
    Rung rung = Rung::zero;
    if (item.is_zero) {
        impl.tags.set(item.key, 0);  // zero pages are never referenced
        OpenBatch& batch = impl.open(item.lane, item.key.vm);
        batch.builder.add_zero(item.key, item.epoch);
        ++batch.pages;
        impl.count(item.key, Rung::zero);
        impl.emit_if_full(item.lane);
    } else {
        rung = impl.add_nonzero(item);
    }
    impl.stats.retained_pages = impl.retention.pages();
    return rung;
}

void Reducer::flush() {
    for (uint8_t lane = 0; lane < kLanesMax; ++lane) impl_->emit(lane);
}

void Reducer::flush_vm(VmId vm) {
    for (uint8_t lane = 0; lane < kLanesMax; ++lane) {
        if (impl_->lanes[lane].vm == vm) impl_->emit(lane);
    }
}

void Reducer::acknowledge(VmId vm, uint64_t sequence) {
    const auto state = impl_->vms.find(raw(vm));
    if (state == impl_->vms.end()) return;
    const auto batch = state->second.unacknowledged.find(sequence);
    if (batch == state->second.unacknowledged.end()) return;
    for (const Ticket& ticket : batch->second) impl_->retention.release(ticket);
    state->second.unacknowledged.erase(batch);
    impl_->stats.retained_pages = impl_->retention.pages();
}

NakOutcome Reducer::nak(VmId vm, uint64_t sequence, const PageKey& key, Epoch epoch, uint8_t lane) {
    EVAC_ASSERT(lane < kLanesMax);
    Impl& impl = *impl_;
    ++impl.stats.naks;
    const auto unknown = [&] {
        ++impl.stats.naks_unknown;
        impl.tags.set(key, 0);
        return NakOutcome::unknown;
    };
    const auto state = impl.vms.find(raw(vm));
    if (state == impl.vms.end()) return unknown();
    const auto batch = state->second.unacknowledged.find(sequence);
    if (batch == state->second.unacknowledged.end()) return unknown();
    // From the back: a page added twice to one batch has two tickets, of which only the last may be
    // alive.
    const auto found =
        std::find_if(batch->second.rbegin(), batch->second.rend(),
                     [&](const Ticket& t) { return t.key == key && t.epoch == epoch; });
    if (found == batch->second.rend()) return unknown();
    const Ticket ticket = *found;
    const std::byte* content = impl.retention.find(ticket);
    if (content == nullptr) {
        ++impl.stats.naks_superseded;
        return NakOutcome::superseded;
    }
    const PageSpan page(content, kPageBytes);
    // The place named did not have the content: believe it no more (unless it was sent anew since),
    // and learn the place that will.
    if (impl.tags.get(ticket.source) == impl.tags.get(key)) impl.tags.set(ticket.source, 0);
    impl.index.insert(impl.hasher(page), key);
    impl.add_literal(lane, key, epoch, page);
    impl.retention.release(ticket);
    ++impl.stats.naks_resent;
    impl.stats.retained_pages = impl.retention.pages();
    return NakOutcome::resent;
}

uint64_t Reducer::batches_emitted(VmId vm) const {
    const auto state = impl_->vms.find(raw(vm));
    return state == impl_->vms.end() ? 0 : state->second.last_sequence;
}

uint64_t Reducer::open_pages(VmId vm) const {
    uint64_t pages = 0;
    for (const OpenBatch& batch : impl_->lanes) {
        if (batch.vm == vm && !batch.builder.empty()) pages += batch.pages;
    }
    return pages;
}

void Reducer::set_zstd_level(int level) {
    for (OpenBatch& batch : impl_->lanes) batch.builder.set_zstd_level(level);
}

const ReducerStats& Reducer::stats() const {
    return impl_->stats;
}

}  // namespace evac::dedup
