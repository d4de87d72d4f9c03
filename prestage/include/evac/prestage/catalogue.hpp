#pragma once
// What the away site will have of each page of one VM once everything captured has arrived: one
// fingerprint per page. Answers "did this page change since it was last captured?", so that a round
// that reads all of RAM locally costs the WAN only what changed.
//
// And what of that is certain. A page is *in flight* from before its entry changes until away has
// sealed a round that holds it:
//
//   capture ---> open ---end_round(e)---> sealing(e) ---sealed(e)---> certain
//
// What is not in flight is in away's recovery point, whatever became of a session or a process. So
// after either only the pages in flight are asked for. Kept in a file (open()), all of it outlives
// a killed process: each change sets the page's bit before it touches the entry, and no kill
// between two stores leaves a certain entry that is wrong.
//
// Memory: kCatalogueBytesPerPage (17.25) bytes per 4 KiB page: 4.3 MiB per GiB of guest memory or
// disk. Owner: the capture worker that runs the VM's round (one at a time; it may be handed over
// between rounds).
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/prestage/captured_page.hpp"

namespace evac::prestage {

// A fingerprint, its heat, and two bits.
inline constexpr double kCatalogueBytesPerPage = sizeof(Fingerprint) + 1.25;

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

struct PageRange {
    RegionId region{};
    uint64_t first = 0;
    uint64_t count = 0;

    bool operator==(const PageRange&) const = default;
};

// Where a catalogue is kept, and whose it is.
struct CatalogueFile {
    std::string path;     // mode 0600; 17.25 bytes per page and 32 KiB, all blocks reserved
    std::string boot_id;  // the kernel's: a file of another boot is not believed
    VmId vm{};
    std::string uuid;  // of the enrolment
};

class CatalogueMap;
struct CatalogueHeader;

class Catalogue {
  public:
    // Everything unknown and in flight, in memory. Regions: at most kRegionsMax, each at most
    // kRegionBytesMax (else a programmer error: sizes from outside are checked by enrolment).
    Catalogue(uint64_t seed, std::vector<RegionInfo> regions);
    // In a file, and as it was left there; everything unknown when the file is not of this VM,
    // boot, key and regions. Errors: io (also a full disk).
    static Result<std::unique_ptr<Catalogue>> open(const CatalogueFile& file, uint64_t seed,
                                                   std::vector<RegionInfo> regions);
    ~Catalogue();
    Catalogue(const Catalogue&) = delete;
    Catalogue& operator=(const Catalogue&) = delete;

    const std::vector<RegionInfo>& regions() const { return regions_; }
    uint64_t seed() const { return seed_; }
    // The pair's secret has changed: everything is unknown until load(). Heat is kept.
    void reseed(uint64_t seed);
    uint64_t page_count(RegionId region) const;  // size rounded up to whole pages
    uint64_t page_count() const;                 // all regions
    // Pages with a known fingerprint, all regions; looks at each.
    uint64_t known_pages() const;
    Fingerprint zero_fingerprint() const { return zero_; }
    // Why open() began with everything unknown; empty when it did not.
    const std::string& begun_because() const { return begun_; }

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
    // Of no copy, everything unknown and in flight. Heat is kept.
    void set_all_unknown();
    // Replaces entries from first_page on with what away says that it has (unknown entries
    // allowed). Heat is kept. Errors: invalid_argument for a range outside of the region (the range
    // comes from the peer).
    Status load(RegionId region, uint64_t first_page, std::span<const Fingerprint> entries);
    // The same for pages that a capture does not bring by itself (a disk's, whose bitmap is taken):
    // where away has something else, or nothing was known, the entry becomes unknown and the page
    // is added to `again`, to be read again. It stays unknown until then, so that a process after
    // this one finds it, too.
    Status reconcile(RegionId region, uint64_t first_page, std::span<const Fingerprint> entries,
                     std::vector<PageRange>& again);

    // --- away's copy. `copy_id` names it, see storage_sync/staged_vm.hpp.
    uint64_t copy_id() const;  // 0: of none
    // Can the entries be of the copy, now that away's recovery point is `away_sealed`?
    bool fits(Epoch away_sealed) const;
    // After everything was loaded from it. Until then a process that dies leaves no copy.
    void adopt_copy(uint64_t copy_id, Epoch away_sealed);
    // A complete pass ends; its SEAL is sent later, if at all. Before that is asked for.
    void end_round(Epoch epoch);
    // The final pass of a handover: away may seal it, and does not answer as to other rounds.
    void end_final(Epoch epoch);
    void sealed(Epoch epoch);  // away has sealed this round
    void void_seal();          // the answer will not come, or was no: all stays in flight

    bool in_flight(RegionId region, uint64_t page) const;
    uint64_t in_flight_pages() const;
    // All pages in flight, ascending; when there are more than `ranges_max` ranges (at least
    // kRegionsMax) the nearest are made one.
    std::vector<PageRange> in_flight_ranges(size_t ranges_max) const;
    // `count` entries from first_page on, cut at the region's end.
    std::span<const Fingerprint> entries(RegionId region, uint64_t first_page,
                                         uint64_t count) const;

  private:
    struct Region {
        Fingerprint* fingerprints = nullptr;
        uint8_t* heat = nullptr;
        uint64_t* open = nullptr;     // changed since the last complete pass
        uint64_t* sealing = nullptr;  // of a pass whose SEAL is not answered
        uint64_t pages = 0;

        uint64_t words() const { return (pages + 63) / 64; }
    };
    Catalogue(uint64_t seed, std::vector<RegionInfo> regions, CatalogueMap map);
    Region& at(RegionId region, uint64_t page);
    const Region& at(RegionId region, uint64_t page) const;
    Observation update(RegionId region, uint64_t page, Fingerprint now, bool is_zero);
    static void assign(Region& region, uint64_t page, Fingerprint now);
    Status check_range(RegionId region, uint64_t first_page, uint64_t count) const;
    void mark_all(bool in_flight);

    uint64_t seed_;
    Fingerprint zero_;
    const std::vector<RegionInfo> regions_;
    std::unique_ptr<CatalogueMap> map_;
    std::unique_ptr<CatalogueHeader> header_;  // of its file; null: in memory
    uint64_t* words_ = nullptr;                // see src/catalogue_format.hpp
    std::vector<Region> state_;
    std::string begun_;
};

}  // namespace evac::prestage
