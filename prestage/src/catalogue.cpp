#include "evac/prestage/catalogue.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "catalogue_map.hpp"
#include "evac/core/assert.hpp"
#include "evac/core/page_hash.hpp"
#include "evac/core/units.hpp"

namespace evac::prestage {
namespace {

Fingerprint zero_page_fingerprint(uint64_t seed) {
    static constexpr std::array<std::byte, kPageBytes> kZeroPage{};
    return fingerprint_page(seed, kZeroPage);
}

// An exponential average over rounds: a change moves heat a quarter of the way to 255, a round
// without one takes an eighth off. 255 is only reached by a page that changes every time; a page at
// rest is cold again after 30 rounds.
uint8_t hotter(uint8_t heat) {
    return static_cast<uint8_t>(heat + (255 - heat + 3) / 4);
}
uint8_t colder(uint8_t heat) {
    return static_cast<uint8_t>(heat - (heat + 7) / 8);
}

// A process dies between two of its instructions, and what it has stored stays: only the compiler
// could change the order.
void keep_order() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

uint64_t bit_of(uint64_t page) {
    return uint64_t{1} << (page % 64);
}

size_t at_word(StateWord word) {
    return static_cast<size_t>(word);
}

CatalogueMap memory_for(const std::vector<RegionInfo>& regions) {
    auto map = CatalogueMap::anonymous(catalogue_layout(regions).bytes);
    EVAC_ASSERT(map.ok());  // like any allocation that fails
    return std::move(*map);
}

// Ranges in ascending order, at most so many: when there are too many, those are joined that have
// the least between them.
class RangeList {
  public:
    explicit RangeList(size_t ranges_max) : max_(ranges_max) {}

    void add(const PageRange& range) {
        if (!append(range)) ranges_.push_back(range);
        while (ranges_.size() > max_) {
            gap_ *= 2;
            std::vector<PageRange> all = std::move(ranges_);
            ranges_.clear();
            for (const PageRange& one : all) {
                if (!append(one)) ranges_.push_back(one);
            }
        }
    }
    std::vector<PageRange> take() { return std::move(ranges_); }

  private:
    bool append(const PageRange& range) {
        if (ranges_.empty()) return false;
        PageRange& last = ranges_.back();
        if (last.region != range.region || range.first - (last.first + last.count) >= gap_)
            return false;
        last.count = range.first + range.count - last.first;
        return true;
    }

    const size_t max_;
    uint64_t gap_ = 1;  // fewer pages between than this: one range
    std::vector<PageRange> ranges_;
};

}  // namespace

Fingerprint fingerprint_page(uint64_t seed, ByteSpan page_bytes) {
    EVAC_ASSERT(page_bytes.size() == kPageBytes);
    return hash_page(seed, std::span<const std::byte, kPageBytes>(page_bytes));
}

bool is_zero_page(ByteSpan page_bytes) {
    EVAC_ASSERT(page_bytes.size() == kPageBytes);
    // Equal to itself shifted by 8, and the first 8 are zero: memcmp is vectorised, and most pages
    // fail at once.
    uint64_t first = 0;
    std::memcpy(&first, page_bytes.data(), sizeof(first));
    return first == 0 && std::memcmp(page_bytes.data(), page_bytes.data() + 8, kPageBytes - 8) == 0;
}

Catalogue::Catalogue(uint64_t seed, std::vector<RegionInfo> regions)
    : Catalogue(seed, regions, memory_for(regions)) {
    set_all_unknown();
}

Catalogue::Catalogue(uint64_t seed, std::vector<RegionInfo> regions, CatalogueMap map)
    : seed_(seed),
      zero_(zero_page_fingerprint(seed)),
      regions_(std::move(regions)),
      map_(std::make_unique<CatalogueMap>(std::move(map))) {
    EVAC_ASSERT(regions_.size() <= kRegionsMax);
    for (const RegionInfo& region : regions_) EVAC_ASSERT(region.size_bytes <= kRegionBytesMax);
    std::byte* const data = map_->data();
    words_ = reinterpret_cast<uint64_t*>(data + kStateOffset);
    for (const CataloguePart& part : catalogue_layout(regions_).regions) {
        state_.push_back({reinterpret_cast<Fingerprint*>(data + part.fingerprints),
                          reinterpret_cast<uint8_t*>(data + part.heat),
                          reinterpret_cast<uint64_t*>(data + part.open),
                          reinterpret_cast<uint64_t*>(data + part.sealing), part.pages});
    }
}

Catalogue::~Catalogue() = default;

Result<std::unique_ptr<Catalogue>> Catalogue::open(const CatalogueFile& file, uint64_t seed,
                                                   std::vector<RegionInfo> regions) {
    const CatalogueHeader header{file.boot_id, zero_page_fingerprint(seed), file.vm, file.uuid,
                                 regions};
    std::string begun;
    auto map = CatalogueMap::file(file.path, header, catalogue_layout(regions).bytes, begun);
    EVAC_TRY(map);
    std::unique_ptr<Catalogue> made(new Catalogue(seed, std::move(regions), std::move(*map)));
    made->begun_ = begun;
    made->header_ = std::make_unique<CatalogueHeader>(header);
    if (!begun.empty()) {
        made->mark_all(true);
        keep_order();
        made->words_[at_word(StateWord::formed)] = kFormed;
    }
    return made;
}

uint64_t Catalogue::page_count(RegionId region) const {
    EVAC_ASSERT(raw(region) < state_.size());
    return state_[raw(region)].pages;
}

uint64_t Catalogue::page_count() const {
    uint64_t pages = 0;
    for (const Region& region : state_) pages += region.pages;
    return pages;
}

uint64_t Catalogue::known_pages() const {
    uint64_t known = 0;
    for (const Region& region : state_) {
        known += static_cast<uint64_t>(
            std::count_if(region.fingerprints, region.fingerprints + region.pages,
                          [](const Fingerprint& entry) { return entry.known(); }));
    }
    return known;
}

Catalogue::Region& Catalogue::at(RegionId region, uint64_t page) {
    EVAC_ASSERT(raw(region) < state_.size() && page < state_[raw(region)].pages);
    return state_[raw(region)];
}

const Catalogue::Region& Catalogue::at(RegionId region, uint64_t page) const {
    EVAC_ASSERT(raw(region) < state_.size() && page < state_[raw(region)].pages);
    return state_[raw(region)];
}

// In flight first: whoever finds the bit clear finds an entry that is whole and sealed.
void Catalogue::assign(Region& region, uint64_t page, Fingerprint now) {
    region.open[page / 64] |= bit_of(page);
    keep_order();
    region.fingerprints[page] = now;
}

Observation Catalogue::update(RegionId region, uint64_t page, Fingerprint now, bool is_zero) {
    Region& state = at(region, page);
    const Fingerprint& entry = state.fingerprints[page];
    uint8_t& heat = state.heat[page];
    if (entry == now) {
        if (heat != 0) heat = colder(heat);
        return {PageChange::unchanged, heat, now};
    }
    if (entry.known()) heat = hotter(heat);
    assign(state, page, now);
    return {is_zero ? PageChange::became_zero : PageChange::changed, heat, now};
}

Observation Catalogue::compare_and_update(RegionId region, uint64_t page, ByteSpan bytes) {
    if (is_zero_page(bytes)) return update(region, page, zero_, true);
    return update(region, page, fingerprint_page(seed_, bytes), false);
}

Observation Catalogue::update_zero(RegionId region, uint64_t page) {
    return update(region, page, zero_, true);
}

void Catalogue::observe_unchanged(RegionId region, uint64_t page) {
    uint8_t& heat = at(region, page).heat[page];
    if (heat != 0) heat = colder(heat);
}

Fingerprint Catalogue::fingerprint(RegionId region, uint64_t page) const {
    return at(region, page).fingerprints[page];
}

uint8_t Catalogue::heat(RegionId region, uint64_t page) const {
    return at(region, page).heat[page];
}

void Catalogue::set_unknown(RegionId region, uint64_t page) {
    assign(at(region, page), page, Fingerprint{});
}

void Catalogue::mark_all(bool in_flight) {
    for (Region& region : state_) {
        if (region.pages == 0) continue;
        std::fill_n(region.open, region.words(), in_flight ? ~uint64_t{0} : 0);
        std::fill_n(region.sealing, region.words(), 0);
        if (in_flight && region.pages % 64 != 0)
            region.open[region.words() - 1] = bit_of(region.pages) - 1;
    }
}

void Catalogue::reseed(uint64_t seed) {
    set_all_unknown();
    seed_ = seed;
    zero_ = zero_page_fingerprint(seed);
    if (!header_) return;
    // The file is of the new seed from now on. Not formed meanwhile: a process that is killed here
    // leaves a file that is not believed.
    words_[at_word(StateWord::formed)] = 0;
    keep_order();
    header_->zero = zero_;
    const auto bytes = encode_catalogue_header(*header_);
    EVAC_ASSERT(bytes.ok() && bytes->size() <= kStateOffset);  // as long as before
    std::memcpy(map_->data(), bytes->data(), bytes->size());
    keep_order();
    words_[at_word(StateWord::formed)] = kFormed;
}

void Catalogue::set_all_unknown() {
    words_[at_word(StateWord::copy_id)] = 0;
    keep_order();
    for (const StateWord word : {StateWord::sealed, StateWord::sealing, StateWord::ended})
        words_[at_word(word)] = 0;
    mark_all(true);
    for (Region& region : state_) std::fill_n(region.fingerprints, region.pages, Fingerprint{});
}

// --- what away says

Status Catalogue::check_range(RegionId region, uint64_t first_page, uint64_t count) const {
    if (raw(region) >= state_.size()) {
        return make_error(Errc::invalid_argument,
                          "fingerprints of region " + std::to_string(raw(region)) +
                              ", the VM has " + std::to_string(state_.size()));
    }
    const uint64_t pages = state_[raw(region)].pages;
    if (first_page > pages || count > pages - first_page) {
        return make_error(Errc::invalid_argument,
                          "fingerprints of pages " + std::to_string(first_page) + " + " +
                              std::to_string(count) + " of region '" + regions_[raw(region)].name +
                              "', which has " + std::to_string(pages));
    }
    return {};
}

Status Catalogue::load(RegionId region, uint64_t first_page, std::span<const Fingerprint> entries) {
    EVAC_TRY(check_range(region, first_page, entries.size()));
    Region& state = state_[raw(region)];
    for (size_t i = 0; i < entries.size(); ++i) {
        const uint64_t page = first_page + i;
        if (!(state.fingerprints[page] == entries[i])) assign(state, page, entries[i]);
    }
    return {};
}

Status Catalogue::reconcile(RegionId region, uint64_t first_page,
                            std::span<const Fingerprint> entries, std::vector<PageRange>& again) {
    EVAC_TRY(check_range(region, first_page, entries.size()));
    Region& state = state_[raw(region)];
    for (size_t i = 0; i < entries.size(); ++i) {
        const uint64_t page = first_page + i;
        if (state.fingerprints[page].known() && state.fingerprints[page] == entries[i]) continue;
        assign(state, page, Fingerprint{});
        const bool goes_on = !again.empty() && again.back().region == region &&
                             again.back().first + again.back().count == page;
        if (!goes_on) again.push_back({region, page, 0});
        ++again.back().count;
    }
    return {};
}

// --- away's copy

uint64_t Catalogue::copy_id() const {
    return words_[at_word(StateWord::copy_id)];
}

// Away cannot have sealed what was not captured to its end here, nor forget what it has sealed:
// otherwise this is an older catalogue, or the copy an older one.
bool Catalogue::fits(Epoch away_sealed) const {
    return copy_id() != 0 && words_[at_word(StateWord::sealed)] <= raw(away_sealed) &&
           raw(away_sealed) <= words_[at_word(StateWord::ended)];
}

void Catalogue::adopt_copy(uint64_t copy_id, Epoch away_sealed) {
    const uint64_t ended = words_[at_word(StateWord::ended)];
    words_[at_word(StateWord::ended)] = std::max<uint64_t>(ended, raw(away_sealed));
    keep_order();
    words_[at_word(StateWord::sealed)] = raw(away_sealed);
    keep_order();
    words_[at_word(StateWord::copy_id)] = copy_id;
}

void Catalogue::end_round(Epoch epoch) {
    end_final(epoch);
    words_[at_word(StateWord::sealing)] = raw(epoch);
    for (Region& region : state_) {
        for (uint64_t i = 0; i < region.words(); ++i) {
            if (region.open[i] == 0) continue;
            region.sealing[i] |= region.open[i];
            keep_order();
            region.open[i] = 0;
        }
    }
}

void Catalogue::end_final(Epoch epoch) {
    const uint64_t ended = words_[at_word(StateWord::ended)];
    words_[at_word(StateWord::ended)] = std::max<uint64_t>(ended, raw(epoch));
    keep_order();
}

// A later round may have ended meanwhile and joined its pages: then its answer is the one to wait
// for.
void Catalogue::sealed(Epoch epoch) {
    if (raw(epoch) > words_[at_word(StateWord::ended)]) return;
    const uint64_t before = words_[at_word(StateWord::sealed)];
    words_[at_word(StateWord::sealed)] = std::max<uint64_t>(before, raw(epoch));
    if (words_[at_word(StateWord::sealing)] != raw(epoch)) return;
    keep_order();
    words_[at_word(StateWord::sealing)] = 0;
    for (Region& region : state_) {
        for (uint64_t i = 0; i < region.words(); ++i) {
            if (region.sealing[i] != 0) region.sealing[i] = 0;
        }
    }
}

void Catalogue::void_seal() {
    words_[at_word(StateWord::sealing)] = 0;
}

bool Catalogue::in_flight(RegionId region, uint64_t page) const {
    const Region& state = at(region, page);
    return ((state.open[page / 64] | state.sealing[page / 64]) & bit_of(page)) != 0;
}

uint64_t Catalogue::in_flight_pages() const {
    uint64_t pages = 0;
    for (const Region& region : state_) {
        for (uint64_t i = 0; i < region.words(); ++i)
            pages += static_cast<uint64_t>(std::popcount(region.open[i] | region.sealing[i]));
    }
    return pages;
}

std::vector<PageRange> Catalogue::in_flight_ranges(size_t ranges_max) const {
    EVAC_ASSERT(ranges_max >= kRegionsMax);
    RangeList list(ranges_max);
    for (size_t r = 0; r < state_.size(); ++r) {
        const Region& region = state_[r];
        PageRange run{RegionId{static_cast<uint16_t>(r)}, 0, 0};
        for (uint64_t i = 0; i < region.words(); ++i) {
            uint64_t word = region.open[i] | region.sealing[i];
            while (word != 0) {
                const auto from = static_cast<uint64_t>(std::countr_zero(word));
                const auto ones = static_cast<uint64_t>(std::countr_one(word >> from));
                const uint64_t first = i * 64 + from;
                // From a file: bits behind the last page mean nothing.
                const uint64_t count =
                    first < region.pages ? std::min(ones, region.pages - first) : 0;
                word = from + ones >= 64 ? 0 : word >> (from + ones) << (from + ones);
                if (count == 0) continue;
                if (run.count != 0 && run.first + run.count == first) {
                    run.count += count;
                    continue;
                }
                if (run.count != 0) list.add(run);
                run.first = first;
                run.count = count;
            }
        }
        if (run.count != 0) list.add(run);
    }
    return list.take();
}

std::span<const Fingerprint> Catalogue::entries(RegionId region, uint64_t first_page,
                                                uint64_t count) const {
    EVAC_ASSERT(raw(region) < state_.size());
    const Region& state = state_[raw(region)];
    if (first_page >= state.pages) return {};
    return {state.fingerprints + first_page, std::min(count, state.pages - first_page)};
}

}  // namespace evac::prestage
