#pragma once
// Sketches: which pages of away share 512-byte pieces with a page, at the same or another offset.
//
//   per page of a declared region   8 tags of 16 bits, one per piece, and the page's own tag
//                                   (20 bytes, 5 MiB per GiB; memory is touched as pages are seen)
//   table                           hash of a piece -> (page, piece); 8-byte entries, buckets of 8;
//                                   of a disk block all pieces are entered, of a page of RAM the 4
//                                   with the smallest hashes
//
//   entry := page:35 | piece:3 | slot of the region:12 | tag:14
//
// A page made of the tail of one block and the head of the next has pieces at other offsets than
// in the blocks; the difference is the shift. How well a base fits is read from the tags alone, so
// no content is needed to find it, and a full agreement (8 x 16 bits) is sent as a reference.
// Other shifts, in steps of 8 bytes (a buffer behind a header of 16 bytes, PostgreSQL's at any
// multiple of 128), show when a piece of the page that begins elsewhere is in the table. Of pages
// that nothing else was found for, one in 32 is searched at all 63 such offsets; an offset that hit
// is tried first from then on. What such a match leaves unknown, up to 512 bytes at both ends, must
// be compared with the content.
//
// Hints: what is found is valid only while the page's tag is still the one that was sketched.
// Owner: the reducer thread.
#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "evac/core/ids.hpp"
#include "evac/dedup/fingerprint.hpp"
#include "evac/dedup/index.hpp"
#include "evac/dedup/reducer.hpp"
#include "lazy_array.hpp"

namespace evac::dedup {

inline constexpr size_t kPieces = 8;
inline constexpr size_t kPieceBytes = kPageBytes / kPieces;
inline constexpr size_t kSketchBytes = 20;

class Sketches {
  public:
    using Hashes = std::array<uint64_t, kPieces>;

    struct Match {
        Location base;
        uint32_t shift = 0;   // as in batch.hpp; 0: aligned
        unsigned common = 0;  // pieces, of 8
    };

    Sketches(uint64_t table_bytes, uint64_t page_bytes_max, uint64_t seed);

    static bool worth(const Hashes& hashes);  // not all pieces alike
    Hashes hash(PageSpan page) const;
    void prefetch(const Hashes& hashes) const;

    // Beyond page_bytes_max or 4095 regions: not sketched.
    void set_region(VmId vm, RegionId region, uint64_t pages);
    void forget_vm(VmId vm);

    // `all` enters every piece: for disks, whose blocks are the best bases.
    void set(const Location& location, uint32_t tag, const Hashes& hashes, bool all);
    // This version of the page has been sketched.
    bool knows(const Location& location, uint32_t tag) const;
    // The page whose pieces agree most, itself included; common == 0: none. `tags` says what is
    // still valid.
    Match find(const Location& self, const Hashes& hashes, const StagedTags& tags) const;

    // As find, among disk blocks (whose content can be read), at shifts that are no multiple of
    // 512: `common` counts the 7 whole pieces.
    Match find_unaligned(PageSpan page, const StagedTags& tags);

    uint64_t bytes() const { return bytes_ + table_.size() * sizeof(Bucket); }

  private:
    struct Sketch {
        std::array<uint16_t, kPieces> piece;
        uint16_t tag_low, tag_high;
        uint32_t tag() const { return tag_low | (uint32_t{tag_high} << 16); }
    };
    static_assert(sizeof(Sketch) == kSketchBytes);
    struct Region {
        LazyArray<Sketch> pages;
        VmId vm{};
        RegionId id{};
    };
    struct alignas(64) Bucket {
        std::array<uint64_t, 8> entries;
    };

    // An offset below 512 at which pieces of pages were found.
    struct Offset {
        uint16_t bytes = 0;   // 0: none
        uint16_t misses = 0;  // in a row
    };
    static constexpr size_t kOffsetsKept = 4;
    Match find_at(PageSpan page, size_t offset, size_t piece, uint64_t hash,
                  const StagedTags& tags) const;
    Match search(PageSpan page, const StagedTags& tags) const;
    uint64_t hash_piece(PageSpan page, size_t at) const;

    static uint64_t name(VmId vm, RegionId region) {
        return (uint64_t{raw(vm)} << 16) | raw(region);
    }
    static uint16_t piece_tag(uint64_t hash) { return static_cast<uint16_t>(hash >> 48); }
    void enter(uint64_t hash, uint64_t page, unsigned piece, uint64_t slot);
    const Sketch* valid(const Region& region, uint64_t page, const StagedTags& tags) const;
    unsigned common(const Region& region, uint64_t page, uint32_t shift, const Hashes& hashes,
                    const StagedTags& tags) const;
    void drop(uint32_t slot);

    uint64_t seed_;
    uint64_t bytes_max_;
    uint64_t bytes_ = 0;
    LazyArray<Bucket> table_;
    uint64_t hand_ = 0;
    uint64_t zero_hash_ = 0;
    std::array<Offset, kOffsetsKept> offsets_{};  // the most useful first
    uint64_t unmatched_ = 0;                      // pages that find_unaligned was asked for
    std::vector<Region> regions_;                 // by slot; slot 0 is none
    std::vector<uint32_t> free_slots_;
    std::unordered_map<uint64_t, uint32_t> slots_;
};

}  // namespace evac::dedup
