#include "evac/dedup/reducer.hpp"

#include <algorithm>
#include <cstring>

#include "batch_format.hpp"
#include "reducer_impl.hpp"

namespace evac::dedup {

const char* to_string(Rung rung) {
    switch (rung) {
        case Rung::zero:
            return "zero";
        case Rung::reference_same_vm:
            return "reference_same_vm";
        case Rung::reference_other_vm:
            return "reference_other_vm";
        case Rung::shifted_same_vm:
            return "shifted_same_vm";
        case Rung::shifted_other_vm:
            return "shifted_other_vm";
        case Rung::delta_previous:
            return "delta_previous";
        case Rung::delta_same_vm:
            return "delta_same_vm";
        case Rung::delta_other_vm:
            return "delta_other_vm";
        case Rung::literal:
            return "literal";
    }
    return "?";
}

Identity index_key(const Fingerprint& fingerprint) {
    Identity out;
    std::memcpy(out.data(), &fingerprint.low, 8);
    std::memcpy(out.data() + 8, &fingerprint.high, 8);
    return out;
}

namespace {

constexpr size_t kSpareTickets = 256;  // lists of batches, kept for the next ones
constexpr double kLiteralSmoothing = 1.0 / 16;
constexpr uint64_t kSketchSalt = 0x736b65746368ULL;  // sketches never leave home

}  // namespace

Reducer::Impl::Impl(const ReducerOptions& from, IdentityHasher hash, Index& hints_at, Sink out,
                    DeltaEncoder deltas)
    : options(from),
      effort{from.references, from.references && from.similar, true, from.zstd_level},
      hasher(std::move(hash)),
      fingerprinter(hasher.fingerprint_seed()),
      index(hints_at),
      sink(std::move(out)),
      encoder(std::move(deltas)),
      retention(from.retained_bytes_max),
      sketches(effort.similar ? from.sketch_table_bytes : 0,
               effort.similar ? from.sketch_page_bytes_max : 0,
               hasher.fingerprint_seed() ^ kSketchSalt),
      cache(effort.similar ? from.cache_bytes : 0) {
    stats.cache_bytes = cache.pages_max() * (kPageBytes + PageCache::kEntryBytes);
    stats.sketch_bytes = sketches.bytes();
}

Reducer::Reducer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Reducer::~Reducer() = default;

Result<std::unique_ptr<Reducer>> Reducer::create(const ReducerOptions& options,
                                                 IdentityHasher hasher, Index& index, Sink sink) {
    if (options.zstd_level < kZstdLevelMin || options.zstd_level > kZstdLevelMax) {
        return make_error(
            Errc::invalid_argument,
            "zstd_level: " + std::to_string(options.zstd_level) + ", accepted are -7 to 19");
    }
    auto encoder = DeltaEncoder::create();
    if (!encoder.ok()) return encoder.error();
    auto impl = std::make_unique<Impl>(options, std::move(hasher), index, std::move(sink),
                                       std::move(encoder).value());
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
    impl_->sketches.set_region(vm, region, pages);
    impl_->regions[{vm, region}] = pages;
    impl_->stats.tag_bytes = impl_->tags.bytes();
    impl_->stats.sketch_bytes = impl_->sketches.bytes();
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
    impl_->sketches.forget_vm(vm);
    std::erase_if(impl_->regions, [&](const auto& entry) { return entry.first.first == vm; });
    impl_->reindex_at = impl_->regions.end();  // a pass under way is begun again by its owner
    impl_->stats.tag_bytes = impl_->tags.bytes();
    impl_->stats.sketch_bytes = impl_->sketches.bytes();
}

void Reducer::reset_vm(VmId vm, uint64_t next_sequence) {
    EVAC_ASSERT(next_sequence >= 1);
    VmState& state = impl_->vms[raw(vm)];
    impl_->drop_open(vm);
    impl_->drop_retained(state);
    state.last_sequence = next_sequence - 1;
    impl_->tags.clear_vm(vm);
}

void Reducer::Impl::count(const PageKey& key, Rung rung, uint64_t wire_bytes) {
    const bool disk = tags.is_disk(key);
    RungTable& of_vm = vms[raw(key.vm)].table;
    for (RungTable* table : {static_cast<RungTable*>(&stats), &of_vm}) {
        RungStats& out = (disk ? table->disk : table->memory)[static_cast<size_t>(rung)];
        ++out.pages;
        out.raw_bytes += kPageBytes;
        out.wire_bytes += wire_bytes;
    }
}

// The lane's batch, emptied first when it is another VM's.
OpenBatch& Reducer::Impl::open(uint8_t lane, VmId vm) {
    OpenBatch& batch = lanes[lane];
    if (!batch.builder.empty() && batch.vm != vm) emit(lane);
    if (batch.builder.empty()) {
        batch.builder.set_zstd_level(effort.zstd_level);
        batch.builder.set_compress(effort.compress);
    }
    batch.vm = vm;
    return batch;
}

// Full batches leave at once, so a batch at rest always has room for one more page of any kind.
void Reducer::Impl::emit_if_full(uint8_t lane) {
    const BatchBuilder& builder = lanes[lane].builder;
    if (!builder.has_room_for_literal() || !builder.has_room_for_reference()) emit(lane);
}

// Shares of the frame by size before compression; the last literal share takes the rounding.
void Reducer::Impl::account(const OpenBatch& batch, const BatchBuilder::Encoded& encoded,
                            RungTable& table) {
    const uint64_t plain = encoded.raw_literal_bytes + encoded.raw_delta_bytes;
    const auto share = [&](uint64_t bytes) { return encoded.literal_bytes * bytes / plain; };
    uint64_t given = 0;
    const auto give = [&](bool disk, Rung rung, uint64_t bytes) {
        (disk ? table.disk : table.memory)[static_cast<size_t>(rung)].wire_bytes += bytes;
        given += bytes;
    };
    for (const OpenBatch::DeltaBytes& delta : batch.deltas) {
        if (plain != 0) give(delta.disk, delta.rung, share(delta.bytes));
    }
    const uint64_t rest = encoded.literal_bytes - given;
    const uint64_t literals = batch.literals_memory + batch.literals_disk;
    uint64_t disk_share = 0;
    if (literals != 0) {
        disk_share = rest * batch.literals_disk / literals;
        give(true, Rung::literal, disk_share);
        give(false, Rung::literal, rest - disk_share);
    } else {
        table.header_bytes += rest;  // of a frame of deltas only: below one byte for each
    }
    table.header_bytes += kBatchHeaderBytes + encoded.record_bytes -
                          batch.verified * sizeof(Identity) -
                          batch.deltas.size() * (kDeltaFixedBytes - sizeof(Identity));
}

void Reducer::Impl::remember(VmState& state, uint64_t sequence, OpenBatch& batch) {
    if (batch.tickets.empty()) return;
    if (spare_tickets.empty()) {
        std::vector<Ticket> fresh;
        fresh.swap(batch.tickets);
        state.unacknowledged.emplace(sequence, std::move(fresh));
        return;
    }
    VmState::Unacknowledged::node_type node = std::move(spare_tickets.back());
    spare_tickets.pop_back();
    node.key() = sequence;
    node.mapped().swap(batch.tickets);
    state.unacknowledged.insert(std::move(node));
}

void Reducer::Impl::emit(uint8_t lane) {
    OpenBatch& batch = lanes[lane];
    if (batch.builder.empty()) return;
    VmState& state = vms[raw(batch.vm)];
    const uint64_t sequence = ++state.last_sequence;
    BatchBuilder::Encoded encoded = batch.builder.finish(sequence, options.headroom_bytes);
    account(batch, encoded, stats);
    account(batch, encoded, state.table);
    const uint32_t literals = batch.literals_memory + batch.literals_disk;
    if (!encoded.compressed) stats.raw_pages += literals;
    if (literals != 0) {
        const auto plain = static_cast<double>(encoded.raw_literal_bytes + encoded.raw_delta_bytes);
        const double page = static_cast<double>(encoded.literal_bytes * kPageBytes) / plain;
        literal_page_bytes += (page - literal_page_bytes) * kLiteralSmoothing;
    }
    ++stats.batches;
    stats.message_bytes += encoded.message.size() - options.headroom_bytes;
    remember(state, sequence, batch);
    const uint64_t content_bytes = uint64_t{literals + batch.verified} * kPageBytes;
    EncodedBatch out{batch.vm,    sequence,      lane,
                     batch.pages, content_bytes, std::move(encoded.message)};
    batch.reset();
    sink(std::move(out));
}

Rung Reducer::add(const PageItem& item) {
    return impl_->add(item, nullptr);
}

void Reducer::add_all(std::span<const PageItem> items) {
    Impl& impl = *impl_;
    impl.keys.clear();
    if (impl.effort.references) {
        for (const PageItem& item : items) {
            if (!item.is_zero) impl.keys.push_back(index_key(item.fingerprint));
        }
    }
    impl.hints.assign(impl.keys.size(), std::nullopt);
    impl.index.lookup_batch(impl.keys, impl.hints);
    size_t next = 0;
    for (const PageItem& item : items) {
        const bool looked_up = !item.is_zero && next < impl.hints.size();
        impl.add(item, looked_up ? &impl.hints[next++] : nullptr);
    }
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
    auto node = state->second.unacknowledged.extract(batch);
    if (impl_->spare_tickets.size() < kSpareTickets) {
        node.mapped().clear();
        impl_->spare_tickets.push_back(std::move(node));
    }
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
    // and learn the place that will. A delta against the page itself says nothing of its tag now.
    if (ticket.source != key && impl.tags.get(ticket.source) == ticket.source_tag) {
        impl.tags.set(ticket.source, 0);
    }
    if (ticket.two_sources) {
        impl.tags.set(Location{ticket.source.vm, ticket.source.region, ticket.source.page + 1}, 0);
    }
    impl.index.insert(index_key(impl.fingerprinter(page)), key);
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
    impl_->effort.zstd_level = std::clamp(level, kZstdLevelMin, kZstdLevelMax);
    for (OpenBatch& batch : impl_->lanes) batch.builder.set_zstd_level(level);
}

// What create() left out cannot be switched on: its memory was not taken.
void Reducer::set_effort(const Effort& effort) {
    Impl& impl = *impl_;
    impl.effort = effort;
    impl.effort.zstd_level = std::clamp(effort.zstd_level, kZstdLevelMin, kZstdLevelMax);
    impl.effort.references = effort.references && impl.options.references;
    impl.effort.similar = effort.similar && impl.effort.references && impl.options.similar;
    for (OpenBatch& batch : impl.lanes) {
        if (!batch.builder.empty()) continue;  // set when the next batch is opened
        batch.builder.set_zstd_level(impl.effort.zstd_level);
        batch.builder.set_compress(impl.effort.compress);
    }
}

const Effort& Reducer::effort() const {
    return impl_->effort;
}

void Reducer::set_base_reader(BaseReader* reader) {
    impl_->reader = reader;
}

void Reducer::learn(const PageItem& item) {
    Impl& impl = *impl_;
    const uint32_t tag = StagedTags::tag(item.fingerprint);
    if (item.is_zero || impl.tags.get(item.key) != tag) return;
    const Identity key = index_key(item.fingerprint);
    if (impl.options.references) {
        // A valid place stays, as in add().
        const std::optional<Location> known = impl.index.lookup_table(key);
        if (!known || impl.tags.get(*known) != tag) impl.index.insert(key, item.key);
    }
    if (impl.options.references && impl.options.similar) {
        const PageSpan page(item.page.data(), kPageBytes);
        impl.sketches.set(item.key, tag, impl.sketches.hash(page), impl.tags.is_disk(item.key));
    }
    ++impl.stats.learned;
}

void Reducer::rekey(IdentityHasher hasher) {
    Impl& impl = *impl_;
    impl.hasher = std::move(hasher);
    impl.fingerprinter = Fingerprinter(impl.hasher.fingerprint_seed());
    for (const auto& [region, pages] : impl.regions) impl.tags.clear_vm(region.first);
}

void Reducer::begin_reindex() {
    impl_->reindex_at = impl_->regions.begin();
    impl_->reindex_page = 0;
}

bool Reducer::reindex(uint64_t pages) {
    Impl& impl = *impl_;
    if (impl.reader == nullptr) return false;
    for (; pages != 0 && impl.reindex_at != impl.regions.end(); --pages) {
        if (impl.reindex_page >= impl.reindex_at->second) {
            ++impl.reindex_at;
            impl.reindex_page = 0;
            continue;
        }
        const auto& [vm, region] = impl.reindex_at->first;
        PageItem item;
        item.key = PageKey{vm, region, impl.reindex_page++};
        const uint32_t tag = impl.tags.get(item.key);
        // What was sketched was indexed, too.
        if (tag == 0 || impl.sketches.knows(item.key, tag)) continue;
        if (!impl.reader->read(item.key, impl.first_base)) continue;
        item.fingerprint = impl.fingerprinter(impl.first_base);
        item.page = impl.first_base;
        learn(item);
    }
    return impl.reindex_at != impl.regions.end();
}

ReindexProgress Reducer::reindex_progress() const {
    const Impl& impl = *impl_;
    ReindexProgress out;
    const std::map<std::pair<VmId, RegionId>, uint64_t>::const_iterator now = impl.reindex_at;
    out.running = impl.reader != nullptr && now != impl.regions.end();
    bool behind = true;
    for (auto at = impl.regions.begin(); at != impl.regions.end(); ++at) {
        behind = behind && at != now;
        out.pages_total += at->second;
        if (behind) out.pages_done += at->second;
    }
    if (out.running) out.pages_done += impl.reindex_page;
    return out;
}

const ReducerStats& Reducer::stats() const {
    return impl_->stats;
}

const RungTable* Reducer::stats_of(VmId vm) const {
    const auto state = impl_->vms.find(raw(vm));
    return state == impl_->vms.end() ? nullptr : &state->second.table;
}

}  // namespace evac::dedup
