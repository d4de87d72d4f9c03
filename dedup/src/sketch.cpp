#include "sketch.hpp"

#include <algorithm>
#include <bit>

#include "evac/core/page_hash.hpp"

namespace evac::dedup {

namespace {

constexpr uint64_t kTagBits = 14;
constexpr uint64_t kSlotBits = 12;
constexpr uint64_t kPieceBits = 3;
constexpr uint64_t kSlotShift = kTagBits;
constexpr uint64_t kPieceShift = kTagBits + kSlotBits;
constexpr uint64_t kPageShift = kPieceShift + kPieceBits;
constexpr uint64_t kTagMask = (uint64_t{1} << kTagBits) - 1;
constexpr uint64_t kSlotMask = (uint64_t{1} << kSlotBits) - 1;
constexpr uint64_t kPagesMax = uint64_t{1} << (64 - kPageShift);  // 128 TiB per region
constexpr size_t kEnteredPieces = 4;
constexpr size_t kCandidatesMax = 12;  // bounds the work for pieces that many pages share

constexpr size_t kOffsetStep = 8;
constexpr size_t kOffsets = kPieceBytes / kOffsetStep - 1;  // 8, 16, .. 504
constexpr uint64_t kSearchedOf = 32;   // unmatched pages: 63 hashes and lookups for one of them
constexpr uint16_t kMissesMax = 1024;  // then an offset is forgotten
constexpr unsigned kWholePieces = kPieces - 1;
constexpr unsigned kConvincing = 4;  // pieces of 7: an offset worth keeping
// Where an offset is tried: a piece may be zero, changed, or of a block that is gone.
constexpr std::array<size_t, 2> kTriedPieces{1, 5};
constexpr size_t kSearchedPiece = 3;

uint64_t entry_tag(uint64_t hash) {
    return (hash >> 34) & kTagMask;  // the bucket has the low bits, the piece tag the highest 16
}

}  // namespace

Sketches::Sketches(uint64_t table_bytes, uint64_t page_bytes_max, uint64_t seed)
    : seed_(seed),
      bytes_max_(page_bytes_max),
      table_(std::bit_floor(std::max<uint64_t>(1, table_bytes / sizeof(Bucket)))),
      regions_(1) {
    if (table_.size() == 0) bytes_max_ = 0;  // no memory: nothing is sketched
    const std::array<std::byte, kPieceBytes> zero{};
    zero_hash_ = hash_64(seed_, zero);
}

Sketches::Hashes Sketches::hash(PageSpan page) const {
    Hashes out;
    for (size_t i = 0; i < kPieces; ++i) {
        out[i] = hash_64(seed_, page.subspan(i * kPieceBytes, kPieceBytes));
    }
    return out;
}

bool Sketches::worth(const Hashes& hashes) {
    return std::any_of(hashes.begin() + 1, hashes.end(),
                       [&](uint64_t hash) { return hash != hashes[0]; });
}

void Sketches::prefetch(const Hashes& hashes) const {
    if (table_.size() == 0) return;
    for (const uint64_t hash : hashes) __builtin_prefetch(&table_[hash & (table_.size() - 1)]);
}

void Sketches::drop(uint32_t slot) {
    bytes_ -= regions_[slot].pages.size() * kSketchBytes;
    regions_[slot] = Region{};
    free_slots_.push_back(slot);
}

void Sketches::set_region(VmId vm, RegionId region, uint64_t pages) {
    const auto found = slots_.find(name(vm, region));
    if (found != slots_.end()) {
        if (regions_[found->second].pages.size() == pages) return;
        drop(found->second);
        slots_.erase(found);
    }
    if (pages == 0 || pages > kPagesMax || bytes_ + pages * kSketchBytes > bytes_max_) return;
    if (free_slots_.empty()) {
        if (regions_.size() > kSlotMask) return;
        free_slots_.push_back(static_cast<uint32_t>(regions_.size()));
        regions_.emplace_back();
    }
    LazyArray<Sketch> memory(pages);
    if (memory.size() == 0) return;  // hints only
    const uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    regions_[slot].pages = std::move(memory);
    regions_[slot].vm = vm;
    regions_[slot].id = region;
    bytes_ += pages * kSketchBytes;
    slots_.emplace(name(vm, region), slot);
}

void Sketches::forget_vm(VmId vm) {
    std::erase_if(slots_, [&](const auto& entry) {
        if (entry.first >> 16 != raw(vm)) return false;
        drop(entry.second);
        return true;
    });
}

void Sketches::enter(uint64_t hash, uint64_t page, unsigned piece, uint64_t slot) {
    Bucket& bucket = table_[hash & (table_.size() - 1)];
    const uint64_t tag = entry_tag(hash);
    uint64_t* to = nullptr;
    for (uint64_t& entry : bucket.entries) {
        // One place per content and offset, the newest: common pieces do not fill the table.
        if ((entry & kTagMask) == tag && ((entry >> kPieceShift) & (kPieces - 1)) == piece &&
            entry != 0) {
            to = &entry;
            break;
        }
        if (entry == 0) to = &entry;
    }
    if (to == nullptr) to = &bucket.entries[hand_++ % bucket.entries.size()];
    *to = (page << kPageShift) | (uint64_t{piece} << kPieceShift) | (slot << kSlotShift) | tag;
}

void Sketches::set(const Location& location, uint32_t tag, const Hashes& hashes, bool all) {
    const auto found = slots_.find(name(location.vm, location.region));
    if (found == slots_.end()) return;
    Region& region = regions_[found->second];
    if (location.page >= region.pages.size()) return;
    Sketch& sketch = region.pages[location.page];
    const bool known = sketch.tag() == tag;
    for (size_t i = 0; i < kPieces; ++i) sketch.piece[i] = piece_tag(hashes[i]);
    sketch.tag_low = static_cast<uint16_t>(tag);
    sketch.tag_high = static_cast<uint16_t>(tag >> 16);
    if (known || !worth(hashes)) return;
    std::array<uint8_t, kPieces> order{0, 1, 2, 3, 4, 5, 6, 7};
    const size_t entered = all ? kPieces : kEnteredPieces;
    if (!all) {
        std::partial_sort(order.begin(), order.begin() + kEnteredPieces, order.end(),
                          [&](uint8_t a, uint8_t b) { return hashes[a] < hashes[b]; });
    }
    for (size_t i = 0; i < entered; ++i) {
        if (hashes[order[i]] == zero_hash_) continue;
        enter(hashes[order[i]], location.page, order[i], found->second);
    }
}

bool Sketches::knows(const Location& location, uint32_t tag) const {
    const auto found = slots_.find(name(location.vm, location.region));
    if (found == slots_.end()) return false;
    const Region& region = regions_[found->second];
    return location.page < region.pages.size() && region.pages[location.page].tag() == tag;
}

const Sketches::Sketch* Sketches::valid(const Region& region, uint64_t page,
                                        const StagedTags& tags) const {
    if (page >= region.pages.size()) return nullptr;
    const Sketch& sketch = region.pages[page];
    const uint32_t tag = sketch.tag();
    return tag != 0 && tags.get(Location{region.vm, region.id, page}) == tag ? &sketch : nullptr;
}

unsigned Sketches::common(const Region& region, uint64_t page, uint32_t shift, const Hashes& hashes,
                          const StagedTags& tags) const {
    const Sketch* first = valid(region, page, tags);
    const Sketch* second = shift == 0 ? first : valid(region, page + 1, tags);
    if (first == nullptr || second == nullptr) return 0;
    const size_t moved = shift / kPieceBytes;
    unsigned equal = 0;
    for (size_t i = 0; i < kPieces; ++i) {
        const size_t at = i + moved;
        const uint16_t tag = at < kPieces ? first->piece[at] : second->piece[at - kPieces];
        equal += tag == piece_tag(hashes[i]) ? 1u : 0u;
    }
    return equal;
}

Sketches::Match Sketches::find(const Location& self, const Hashes& hashes,
                               const StagedTags& tags) const {
    Match best;
    if (slots_.empty()) return best;
    size_t candidates = 0;
    for (size_t i = 0; i < kPieces; ++i) {
        if (hashes[i] == zero_hash_) continue;
        const uint64_t tag = entry_tag(hashes[i]);
        for (const uint64_t entry : table_[hashes[i] & (table_.size() - 1)].entries) {
            if (entry == 0 || (entry & kTagMask) != tag) continue;
            const uint64_t slot = (entry >> kSlotShift) & kSlotMask;
            if (slot >= regions_.size() || regions_[slot].pages.size() == 0) continue;
            const Region& region = regions_[slot];
            const size_t piece = (entry >> kPieceShift) & (kPieces - 1);
            uint64_t page = entry >> kPageShift;
            const auto shift = static_cast<uint32_t>((piece + kPieces - i) % kPieces * kPieceBytes);
            if (piece < i) {  // the page found is the second one
                if (page == 0) continue;
                --page;
            }
            const Location base{region.vm, region.id, page};
            if (base == best.base && shift == best.shift && best.common != 0) continue;
            const unsigned equal = common(region, page, shift, hashes, tags);
            // Among equals another page: what this one was is not what it is.
            const bool better = equal > best.common || (equal == best.common && best.base == self);
            if (equal != 0 && better) best = Match{base, shift, equal};
            if (best.common == kPieces || ++candidates == kCandidatesMax) return best;
        }
    }
    return best;
}

uint64_t Sketches::hash_piece(PageSpan page, size_t at) const {
    return hash_64(seed_, page.subspan(at, kPieceBytes));
}

// The page's piece that begins at `offset` + 512 * `piece` has this hash; the base that agrees with
// the page's other whole pieces best.
Sketches::Match Sketches::find_at(PageSpan page, size_t offset, size_t piece, uint64_t hash,
                                  const StagedTags& tags) const {
    Match best;
    if (hash == zero_hash_) return best;
    Hashes hashes{};
    bool hashed = false;
    for (const uint64_t entry : table_[hash & (table_.size() - 1)].entries) {
        if (entry == 0 || (entry & kTagMask) != entry_tag(hash)) continue;
        const uint64_t slot = (entry >> kSlotShift) & kSlotMask;
        if (slot >= regions_.size() || regions_[slot].pages.size() == 0) continue;
        // The page begins in the block of the entry, or in the one before.
        uint64_t block = entry >> kPageShift;
        size_t at = ((entry >> kPieceShift) & (kPieces - 1)) * kPieceBytes + kPageBytes;
        at -= offset + piece * kPieceBytes;
        if (at >= kPageBytes) {
            at -= kPageBytes;
        } else if (block-- == 0) {
            continue;
        }
        const Region& region = regions_[slot];
        if (!tags.is_disk(Location{region.vm, region.id, block})) continue;
        const Sketch* first = valid(region, block, tags);
        const Sketch* second = valid(region, block + 1, tags);
        if (first == nullptr || second == nullptr) continue;
        for (size_t i = 0; !hashed && i < kWholePieces; ++i) {
            hashes[i] = hash_piece(page, offset + i * kPieceBytes);
        }
        hashed = true;
        unsigned equal = 0;
        for (size_t i = 0; i < kWholePieces; ++i) {
            const size_t there = (at + offset) / kPieceBytes + i;
            const uint16_t tag =
                there < kPieces ? first->piece[there] : second->piece[there - kPieces];
            equal += tag == piece_tag(hashes[i]) ? 1u : 0u;
        }
        if (equal > best.common) {
            best = Match{Location{region.vm, region.id, block}, static_cast<uint32_t>(at), equal};
        }
    }
    return best;
}

Sketches::Match Sketches::search(PageSpan page, const StagedTags& tags) const {
    std::array<uint64_t, kOffsets> hashes;
    for (size_t i = 0; i < kOffsets; ++i) {
        hashes[i] = hash_piece(page, (i + 1) * kOffsetStep + kSearchedPiece * kPieceBytes);
        __builtin_prefetch(&table_[hashes[i] & (table_.size() - 1)]);
    }
    Match best;
    for (size_t i = 0; i < kOffsets && best.common < kConvincing; ++i) {
        const Match match = find_at(page, (i + 1) * kOffsetStep, kSearchedPiece, hashes[i], tags);
        if (match.common > best.common) best = match;
    }
    return best;
}

Sketches::Match Sketches::find_unaligned(PageSpan page, const StagedTags& tags) {
    Match best;
    if (slots_.empty()) return best;
    size_t used = 0;
    for (; used < kOffsetsKept && offsets_[used].bytes != 0; ++used) {
        Offset& offset = offsets_[used];
        for (const size_t piece : kTriedPieces) {
            const uint64_t hash = hash_piece(page, offset.bytes + piece * kPieceBytes);
            const Match match = find_at(page, offset.bytes, piece, hash, tags);
            if (match.common > best.common) best = match;
            if (best.common == kWholePieces) break;
        }
        if (best.common >= kConvincing) {
            offset.misses = 0;
            if (used != 0) std::swap(offsets_[used], offsets_[used - 1]);
            return best;
        }
        if (++offset.misses >= kMissesMax) {
            std::rotate(offsets_.begin() + static_cast<std::ptrdiff_t>(used),
                        offsets_.begin() + static_cast<std::ptrdiff_t>(used) + 1, offsets_.end());
            offsets_.back() = Offset{};
            break;
        }
    }
    if (unmatched_++ % kSearchedOf != 0) return best;
    const Match found = search(page, tags);
    if (found.common <= best.common) return best;
    if (found.common >= kConvincing) {
        const auto bytes = static_cast<uint16_t>((kPageBytes - found.shift) % kPieceBytes);
        // In front of the last one: a guest with many must not throw out the best.
        offsets_[std::min(used, kOffsetsKept - 1)] = Offset{bytes, 0};
    }
    return found;
}

}  // namespace evac::dedup
