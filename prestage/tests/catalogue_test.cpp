#include "evac/prestage/catalogue.hpp"

#include <gtest/gtest.h>

#include <array>

#include "evac/core/random.hpp"
#include "evac/core/units.hpp"

namespace evac::prestage {
namespace {

constexpr RegionId kRam{0}, kDisk{1};

std::vector<RegionInfo> regions() {
    return {{"pc.ram", RegionKind::main_ram, 100 * kPageBytes},
            {"disk0", RegionKind::disk, 10 * kPageBytes + 512}};
}
using Page = std::array<std::byte, kPageBytes>;
Page page_of(uint64_t seed) {
    Page page;
    Random random(seed);
    for (std::byte& b : page) b = static_cast<std::byte>(random.next());
    return page;
}

// Both sites must compute the same; a change here needs a new protocol version.
TEST(Fingerprint, GoldenValues) {
    const Page zero{};
    Page text{};
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::byte>(i * 7);
    EXPECT_EQ(fingerprint_page(0, zero), (Fingerprint{0x93d76fe148c689ba, 0x3ee8dc4f9e7ee495}));
    EXPECT_EQ(fingerprint_page(0x1122334455667788, text),
              (Fingerprint{0xb99557ef359ce5ad, 0xba9f7b60676cf17c}));
    EXPECT_NE(fingerprint_page(1, text), fingerprint_page(2, text));
}

TEST(Fingerprint, ZeroTestSeesEveryByte) {
    Page page{};
    EXPECT_TRUE(is_zero_page(page));
    for (size_t i = 0; i < page.size(); ++i) {
        page[i] = std::byte{1};
        ASSERT_FALSE(is_zero_page(page)) << i;
        page[i] = std::byte{0};
    }
}

TEST(Catalogue, TellsChangedFromUnchanged) {
    Catalogue catalogue(5, regions());
    EXPECT_EQ(catalogue.page_count(), 111u);
    EXPECT_EQ(catalogue.page_count(kDisk), 11u);
    const Page a = page_of(1), b = page_of(2), zero{};
    EXPECT_EQ(catalogue.compare_and_update(kRam, 3, a).change, PageChange::changed);
    EXPECT_EQ(catalogue.known_pages(), 1u);
    EXPECT_EQ(catalogue.compare_and_update(kRam, 3, a).change, PageChange::unchanged);
    EXPECT_EQ(catalogue.compare_and_update(kDisk, 3, a).change, PageChange::changed);
    const Observation changed = catalogue.compare_and_update(kRam, 3, b);
    EXPECT_EQ(changed.change, PageChange::changed);
    EXPECT_EQ(changed.fingerprint, fingerprint_page(5, b));
    EXPECT_EQ(catalogue.compare_and_update(kRam, 3, zero).change, PageChange::became_zero);
    EXPECT_EQ(catalogue.update_zero(kRam, 3).change, PageChange::unchanged);
    EXPECT_EQ(catalogue.fingerprint(kRam, 3), catalogue.zero_fingerprint());
    EXPECT_EQ(catalogue.update_zero(kRam, 4).change, PageChange::became_zero);
    EXPECT_EQ(catalogue.known_pages(), 3u);
    catalogue.set_unknown(kRam, 3);
    catalogue.set_unknown(kRam, 3);
    EXPECT_EQ(catalogue.known_pages(), 2u);
    EXPECT_EQ(catalogue.compare_and_update(kRam, 3, zero).change, PageChange::became_zero);
    catalogue.set_all_unknown();
    EXPECT_EQ(catalogue.known_pages(), 0u);
    EXPECT_FALSE(catalogue.fingerprint(kDisk, 3).known());
}

TEST(Catalogue, HeatFollowsChanges) {
    Catalogue catalogue(5, regions());
    const Page a = page_of(1), b = page_of(2);
    EXPECT_EQ(catalogue.compare_and_update(kRam, 0, a).heat, 0);  // first sight is no change
    uint8_t before = 0;
    for (int i = 0; i < 40; ++i) {
        const uint8_t heat = catalogue.compare_and_update(kRam, 0, i % 2 == 0 ? b : a).heat;
        EXPECT_TRUE(heat > before || heat == 255);
        before = heat;
    }
    EXPECT_EQ(before, 255);
    for (int i = 0; i < 40; ++i) {
        const uint8_t heat = catalogue.compare_and_update(kRam, 0, a).heat;
        EXPECT_TRUE(heat < before || heat == 0);
        before = heat;
    }
    EXPECT_EQ(catalogue.heat(kRam, 0), 0);
}

TEST(Catalogue, LoadsWhatAwayHas) {
    Catalogue home(5, regions());
    const Page a = page_of(1);
    const std::vector<Fingerprint> entries{fingerprint_page(5, a), Fingerprint{},
                                           home.zero_fingerprint()};
    ASSERT_TRUE(home.load(kDisk, 8, entries).ok());
    EXPECT_EQ(home.known_pages(), 2u);
    EXPECT_EQ(home.compare_and_update(kDisk, 8, a).change, PageChange::unchanged);
    EXPECT_EQ(home.compare_and_update(kDisk, 9, a).change, PageChange::changed);
    EXPECT_EQ(home.update_zero(kDisk, 10).change, PageChange::unchanged);
    for (const uint64_t first : {uint64_t{9}, uint64_t{12}, UINT64_MAX}) {
        EXPECT_EQ(home.load(kDisk, first, entries).error().code, Errc::invalid_argument);
    }
    EXPECT_EQ(home.load(RegionId{2}, 0, entries).error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace evac::prestage
