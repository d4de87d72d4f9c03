#pragma once
// What the away site will have of each page of one VM once everything captured has arrived: one
// fingerprint per page. Answers "did this page change since it was last captured?", so that a round
// that reads all of RAM locally costs the WAN only what changed.
//
// Memory: kCatalogueBytesPerPage (17) bytes per 4 KiB page: 4.25 MiB per GiB of guest memory or
// disk. Owner: the capture worker that runs the VM's round (one at a time; it may be handed over
// between rounds).
#include <cstdint>
#include <span>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/prestage/captured_page.hpp"

namespace evac::prestage {

inline constexpr size_t kCatalogueBytesPerPage = sizeof(Fingerprint) + 1;

// XXH3_128bits_withSeed over exactly kPageBytes: low = low64, high = high64 (the all-zero value,
// which means unknown, is mapped to {1, 0}). Both sites use the pair's seed. Thread-safe.
Fingerprint fingerprint_page(uint64_t seed, ByteSpan page_bytes);
// True when all kPageBytes are zero bits.
bool is_zero_page(ByteSpan page_bytes);

enum class PageChange : uint8_t { unchanged, changed, became_zero };

struct Observation {
    PageChange change = PageChange::unchanged;
    uint8_t heat = 0;  // after this observation
    Fingerprint fingerprint{};
};

class Catalogue {
  public:
    // Everything unknown. Regions: at most kRegionsMax, each at most kRegionBytesMax (else a
    // programmer error: sizes from outside are checked by enrolment). Allocates and touches 17
    // bytes per page.
    Catalogue(uint64_t seed, std::vector<RegionInfo> regions);

    const std::vector<RegionInfo>& regions() const { return regions_; }
    uint64_t seed() const { return seed_; }
    // The pair's secret has changed: everything is unknown until load(). Heat is kept.
    void reseed(uint64_t seed);
    uint64_t page_count(RegionId region) const;  // size rounded up to whole pages
    uint64_t page_count() const;                 // all regions
    // Pages with a known fingerprint, all regions; O(1).
    uint64_t known_pages() const { return known_pages_; }
    Fingerprint zero_fingerprint() const { return zero_; }

    // Compares a page's bytes (kPageBytes; a disk's last page zero-padded) with its entry and makes
    // them the entry. A page that was unknown counts as changed but does not get hotter by that.
    Observation compare_and_update(RegionId region, uint64_t page, ByteSpan bytes);
    // The same for a page known to be all zero bits, without hashing.
    Observation update_zero(RegionId region, uint64_t page);

    // For a caller that has itself found a page to be what its entry says: it gets colder.
    void observe_unchanged(RegionId region, uint64_t page);

    Fingerprint fingerprint(RegionId region, uint64_t page) const;
    uint8_t heat(RegionId region, uint64_t page) const;
    // The next observation will say changed: the page was dropped, or away does not have it.
    void set_unknown(RegionId region, uint64_t page);
    void set_all_unknown();
    // Replaces entries from first_page on with what away says that it has (unknown entries
    // allowed). Heat is kept. Errors: invalid_argument for a range outside of the region (the range
    // comes from the peer).
    Status load(RegionId region, uint64_t first_page, std::span<const Fingerprint> entries);

  private:
    struct Region {
        std::vector<Fingerprint> fingerprints;
        std::vector<uint8_t> heat;
    };
    Region& at(RegionId region, uint64_t page);
    const Region& at(RegionId region, uint64_t page) const;
    Observation update(RegionId region, uint64_t page, Fingerprint now, bool is_zero);
    void assign(Fingerprint& entry, Fingerprint now);

    uint64_t seed_;
    Fingerprint zero_;
    const std::vector<RegionInfo> regions_;
    std::vector<Region> state_;
    uint64_t known_pages_ = 0;
};

}  // namespace evac::prestage
