// The choice of the rung for one page. What is believed of away is StagedTags alone; the index, the
// sketches and the page cache only propose.
#include <algorithm>
#include <cstring>

#include "batch_format.hpp"
#include "reducer_impl.hpp"

namespace evac::dedup {

namespace {

// A delta also costs its identity, tag and run header.
constexpr double kDeltaOverheadBytes = 32;
constexpr double kDeltaBytesMin = 64;

Location next(const Location& location) {
    return Location{location.vm, location.region, location.page + 1};
}

}  // namespace

Rung Reducer::Impl::add(const PageItem& item, const std::optional<Location>* hint) {
    EVAC_ASSERT(item.lane < kLanesMax && raw(item.epoch) >= 1);
    EVAC_ASSERT(raw(item.key.region) < kRegionsMax && item.key.page < kLocationPagesMax);
    retention.supersede(item.key);
    Rung rung = Rung::zero;
    if (item.is_zero) {
        tags.set(item.key, 0);  // zero pages are never referenced
        OpenBatch& batch = open(item.lane, item.key.vm);
        batch.builder.add_zero(item.key, item.epoch);
        ++batch.pages;
        count(item.key, Rung::zero, 0);
        emit_if_full(item.lane);
    } else {
        rung = add_nonzero(item, hint);
    }
    stats.retained_pages = retention.pages();
    return rung;
}

Rung Reducer::Impl::add_nonzero(const PageItem& item, const std::optional<Location>* hint) {
    EVAC_ASSERT(item.page.size() == kPageBytes && item.fingerprint.known());
    const PageSpan page(item.page.data(), kPageBytes);
    const uint32_t tag = StagedTags::tag(item.fingerprint);
    Found found;
    if (effort.references) found = find_reference(item, hint);
    const bool aligned = found.kind == Found::Kind::reference;
    if (effort.similar && !aligned) {
        const Sketches::Hashes hashes = sketches.hash(page);
        sketches.prefetch(hashes);
        if (retention.has_room()) found = find_similar(item, hashes);
        sketches.set(item.key, tag, hashes, tags.is_disk(item.key));
    }
    const bool known_place = tags.set(item.key, tag);
    // One place per content: a valid one stays, but a disk block, which changes less, replaces a
    // RAM page.
    const bool better = !aligned || (tags.is_disk(item.key) && !tags.is_disk(found.source));
    if (effort.references && known_place && better) {
        index.insert(index_key(item.fingerprint), item.key);
    }
    Rung rung = Rung::literal;
    if (found.kind != Found::Kind::none && !retention.has_room()) {
        ++stats.literals_for_retention;
        found.kind = Found::Kind::none;
    }
    if (found.kind == Found::Kind::none) {
        add_literal(item.lane, item.key, item.epoch, page);
    } else {
        rung = add_found(item, found);
    }
    if (effort.similar && known_place) cache.put(item.key, tag, page);
    return rung;
}

Found Reducer::Impl::find_reference(const PageItem& item, const std::optional<Location>* hint) {
    Found found;
    const Identity key = index_key(item.fingerprint);
    std::optional<Location> hit;
    if (hint == nullptr) {
        hit = index.lookup(key);
    } else {
        // A page before it in the same add_all may have brought the content.
        hit = *hint ? *hint : index.lookup_table(key);
    }
    if (!hit || *hit == item.key) return found;
    const uint32_t tag = StagedTags::tag(item.fingerprint);
    if (tags.get(*hit) != tag) {
        ++stats.stale_hits;
        return found;
    }
    found.kind = Found::Kind::reference;
    found.source = *hit;
    found.base_tag = tag;
    return found;
}

size_t Reducer::Impl::delta_bytes_max() const {
    return static_cast<size_t>(std::clamp(literal_page_bytes - kDeltaOverheadBytes, kDeltaBytesMin,
                                          static_cast<double>(kDeltaBytesMax)));
}

Found Reducer::Impl::find_similar(const PageItem& item, const Sketches::Hashes& hashes) {
    const PageSpan page(item.page.data(), kPageBytes);
    Found found;
    size_t bytes_max = delta_bytes_max();
    const uint32_t old_tag = tags.get(item.key);
    const std::byte* previous = cache.find(item.key, old_tag);
    if (previous != nullptr) {
        if (const auto delta = encoder.encode(PageSpan(previous, kPageBytes), page, bytes_max)) {
            found = Found{Found::Kind::delta, item.key, 0, old_tag, *delta};
            if (delta->payload.size() <= kPatchGoodBytes) return found;
        }
    }
    if (!Sketches::worth(hashes)) return found;
    const Sketches::Match match = sketches.find(item.key, hashes, tags);
    const bool itself = match.base == item.key && match.shift == 0;
    if (itself && match.common != 0 && previous != nullptr) return found;
    if (match.common == kPieces && !itself) {
        const auto kind = match.shift == 0 ? Found::Kind::reference : Found::Kind::shifted;
        return Found{kind, match.base, match.shift, tags.get(match.base), {}};
    }
    const bool has_delta = found.kind == Found::Kind::delta;
    if (match.common == 0 && has_delta) return found;
    if (has_delta) {
        // The encoder's buffer is about to be used again.
        const ByteSpan kept = found.delta.payload;
        std::copy(kept.begin(), kept.end(), payload.begin());
        found.delta.payload = ByteSpan(payload).first(kept.size());
        bytes_max = kept.size() - 1;
    }
    Found other;
    if (match.common != 0) other = delta_to_match(page, match, bytes_max);
    if (other.kind == Found::Kind::none && !has_delta) {
        const Sketches::Match unaligned = sketches.find_unaligned(page, tags);
        if (unaligned.common != 0) other = delta_to_match(page, unaligned, bytes_max);
    }
    return other.kind == Found::Kind::none ? found : other;
}

// Content that is what away has at the place, or null.
const std::byte* Reducer::Impl::content(const Location& location,
                                        std::span<std::byte, kPageBytes> scratch) {
    const uint32_t tag = tags.get(location);
    if (const std::byte* cached = cache.find(location, tag)) return cached;
    if (reader == nullptr) return nullptr;
    ++stats.base_reads;
    if (reader->read(location, scratch) && StagedTags::tag(fingerprinter(scratch)) == tag) {
        return scratch.data();
    }
    ++stats.base_reads_stale;
    return nullptr;
}

Found Reducer::Impl::delta_to_match(PageSpan page, const Sketches::Match& match, size_t bytes_max) {
    const std::byte* base = content(match.base, first_base);
    if (base != nullptr && match.shift != 0) {
        const std::byte* second = content(next(match.base), second_base);
        if (second != nullptr) {
            compose_shifted(PageSpan(base, kPageBytes), PageSpan(second, kPageBytes), match.shift,
                            composed);
        }
        base = second != nullptr ? composed.data() : nullptr;
    }
    if (base == nullptr) {
        ++stats.bases_absent;
        return {};
    }
    const PageSpan from(base, kPageBytes);
    // Found by its whole pieces only (find_unaligned): the content says that the rest is equal too.
    if (match.shift % kPieceBytes != 0 && std::equal(from.begin(), from.end(), page.begin())) {
        return Found{Found::Kind::shifted, match.base, match.shift, tags.get(match.base), {}};
    }
    const auto delta = encoder.encode(from, page, bytes_max);
    if (!delta) return {};
    const uint32_t tag =
        match.shift == 0 ? tags.get(match.base) : StagedTags::tag(fingerprinter(from));
    return Found{Found::Kind::delta, match.base, match.shift, tag, *delta};
}

Rung Reducer::Impl::rung_of(const PageItem& item, const Found& found) const {
    const bool same = found.source.vm == item.key.vm;
    switch (found.kind) {
        case Found::Kind::reference:
            return same ? Rung::reference_same_vm : Rung::reference_other_vm;
        case Found::Kind::shifted:
            return same ? Rung::shifted_same_vm : Rung::shifted_other_vm;
        case Found::Kind::delta:
            if (found.source == item.key && found.shift == 0) return Rung::delta_previous;
            return same ? Rung::delta_same_vm : Rung::delta_other_vm;
        case Found::Kind::none:
            break;
    }
    return Rung::literal;
}

Rung Reducer::Impl::add_found(const PageItem& item, const Found& found) {
    const PageSpan page(item.page.data(), kPageBytes);
    const Rung rung = rung_of(item, found);
    const bool is_delta = found.kind == Found::Kind::delta;
    OpenBatch* batch = &open(item.lane, item.key.vm);
    if (is_delta && !batch->builder.has_room_for_delta(found.delta.payload.size())) {
        emit(item.lane);
        batch = &open(item.lane, item.key.vm);
    }
    const Identity identity = hasher(page);
    uint64_t wire_bytes = sizeof(Identity);
    if (is_delta) {
        batch->builder.add_delta(item.key, item.epoch, identity,
                                 DeltaSource{found.source, found.shift, found.base_tag,
                                             found.delta.kind, found.delta.payload});
        batch->deltas.push_back(
            {rung, tags.is_disk(item.key), static_cast<uint32_t>(found.delta.payload.size())});
        wire_bytes = kDeltaFixedBytes;
    } else if (found.kind == Found::Kind::shifted) {
        batch->builder.add_shifted(item.key, item.epoch, identity, found.source, found.shift);
    } else {
        batch->builder.add_reference(item.key, item.epoch, identity, found.source);
    }
    Ticket ticket = retention.keep(item.key, item.epoch, found.source, page);
    ticket.two_sources = found.shift != 0;
    ticket.source_tag = found.base_tag;
    if (found.shift != 0) ticket.source_tag = tags.get(found.source);
    batch->tickets.push_back(ticket);
    ++batch->pages;
    ++batch->verified;
    count(item.key, rung, wire_bytes);
    RungTable& of_vm = vms[raw(item.key.vm)].table;
    for (RungTable* table : {static_cast<RungTable*>(&stats), &of_vm}) {
        ++(tags.is_disk(found.source) ? table->references_to_disk : table->references_to_memory);
    }
    emit_if_full(item.lane);
    return rung;
}

void Reducer::Impl::add_literal(uint8_t lane, const PageKey& key, Epoch epoch, PageSpan page) {
    OpenBatch& batch = open(lane, key.vm);
    batch.builder.add_literal(key, epoch, page);
    ++batch.pages;
    ++(tags.is_disk(key) ? batch.literals_disk : batch.literals_memory);
    count(key, Rung::literal, 0);
    emit_if_full(lane);
}

}  // namespace evac::dedup
