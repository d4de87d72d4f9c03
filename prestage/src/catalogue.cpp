#include "evac/prestage/catalogue.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "evac/core/assert.hpp"
#include "evac/core/page_hash.hpp"
#include "evac/core/units.hpp"

namespace evac::prestage {
namespace {

uint64_t pages_of(const RegionInfo& region) {
    return region.size_bytes / kPageBytes + (region.size_bytes % kPageBytes != 0 ? 1 : 0);
}

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
    : seed_(seed), zero_(zero_page_fingerprint(seed)), regions_(std::move(regions)) {
    EVAC_ASSERT(regions_.size() <= kRegionsMax);
    state_.reserve(regions_.size());
    for (const RegionInfo& region : regions_) {
        EVAC_ASSERT(region.size_bytes <= kRegionBytesMax);
        const size_t pages = pages_of(region);
        state_.push_back({std::vector<Fingerprint>(pages), std::vector<uint8_t>(pages)});
    }
}

uint64_t Catalogue::page_count(RegionId region) const {
    EVAC_ASSERT(raw(region) < state_.size());
    return state_[raw(region)].heat.size();
}

uint64_t Catalogue::page_count() const {
    uint64_t pages = 0;
    for (const Region& region : state_) pages += region.heat.size();
    return pages;
}

Catalogue::Region& Catalogue::at(RegionId region, uint64_t page) {
    EVAC_ASSERT(raw(region) < state_.size() && page < state_[raw(region)].heat.size());
    return state_[raw(region)];
}

const Catalogue::Region& Catalogue::at(RegionId region, uint64_t page) const {
    EVAC_ASSERT(raw(region) < state_.size() && page < state_[raw(region)].heat.size());
    return state_[raw(region)];
}

void Catalogue::assign(Fingerprint& entry, Fingerprint now) {
    if (entry.known()) --known_pages_;
    if (now.known()) ++known_pages_;
    entry = now;
}

Observation Catalogue::update(RegionId region, uint64_t page, Fingerprint now, bool is_zero) {
    Region& state = at(region, page);
    Fingerprint& entry = state.fingerprints[page];
    uint8_t& heat = state.heat[page];
    if (entry == now) {
        if (heat != 0) heat = colder(heat);
        return {PageChange::unchanged, heat, now};
    }
    if (entry.known()) heat = hotter(heat);
    assign(entry, now);
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
    assign(at(region, page).fingerprints[page], Fingerprint{});
}

void Catalogue::reseed(uint64_t seed) {
    seed_ = seed;
    zero_ = zero_page_fingerprint(seed);
    set_all_unknown();
}

void Catalogue::set_all_unknown() {
    for (Region& region : state_) std::ranges::fill(region.fingerprints, Fingerprint{});
    known_pages_ = 0;
}

Status Catalogue::load(RegionId region, uint64_t first_page, std::span<const Fingerprint> entries) {
    if (raw(region) >= state_.size()) {
        return make_error(Errc::invalid_argument,
                          "fingerprints of region " + std::to_string(raw(region)) +
                              ", the VM has " + std::to_string(state_.size()));
    }
    std::vector<Fingerprint>& fingerprints = state_[raw(region)].fingerprints;
    if (first_page > fingerprints.size() || entries.size() > fingerprints.size() - first_page) {
        return make_error(Errc::invalid_argument,
                          "fingerprints of pages " + std::to_string(first_page) + " + " +
                              std::to_string(entries.size()) + " of region '" +
                              regions_[raw(region)].name + "', which has " +
                              std::to_string(fingerprints.size()));
    }
    for (size_t i = 0; i < entries.size(); ++i) assign(fingerprints[first_page + i], entries[i]);
    return {};
}

}  // namespace evac::prestage
