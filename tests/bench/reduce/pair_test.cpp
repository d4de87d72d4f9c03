#include "pair.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <numeric>

#include "baseline.hpp"
#include "evac/core/random.hpp"

namespace evac::reduce {
namespace {

using dedup::Rung;
using Image = std::vector<std::byte>;
constexpr uint64_t kDiskPages = 64, kRamPages = 96;

Dump dump_of(const Image& image) {
    static int number = 0;
    const std::string path = testing::TempDir() + "pair_test." + std::to_string(getpid()) + "." +
                             std::to_string(number++);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(image.data()),
               static_cast<std::streamsize>(image.size()));
    auto dump = Dump::open(path);
    std::remove(path.c_str());
    EXPECT_TRUE(dump.ok());
    return std::move(dump).value();
}

void fill(Image& image, uint64_t first, uint64_t pages, uint64_t seed) {
    Random random(seed);
    for (size_t i = first * kPageBytes; i < (first + pages) * kPageBytes; ++i) {
        image[i] = std::byte(random.below(256));
    }
}

// RAM: [0, 32) copies of the disk, [32, 48) with 40 bytes changed, [48, 63) shifted by 1024,
// [64, 80) like nothing else, the rest zero.
struct Guest {
    Guest() : disk(kDiskPages * kPageBytes), ram(kRamPages * kPageBytes) {
        fill(disk, 0, kDiskPages, 1);
        const auto from_disk = [&](uint64_t page, size_t bytes, size_t shift) {
            std::copy_n(disk.begin() + static_cast<std::ptrdiff_t>(page * kPageBytes + shift),
                        bytes, ram.begin() + static_cast<std::ptrdiff_t>(page * kPageBytes));
        };
        from_disk(0, 48 * kPageBytes, 0);
        for (size_t page = 32; page < 48; ++page) {
            for (size_t i = 0; i < 40; ++i) ram[page * kPageBytes + 100 + i] ^= std::byte{0xff};
        }
        from_disk(48, 15 * kPageBytes, 1024);
        fill(ram, 64, 16, 2);
    }
    Image disk, ram;
};

class PairTest : public testing::Test {
  protected:
    PairTest() : disk_(dump_of(guest_.disk)), ram_(dump_of(guest_.ram)) {
        auto made = Pair::create({.ram_pages = kRamPages, .disk_pages = kDiskPages});
        EXPECT_TRUE(made.ok());
        pair_ = std::move(made).value();
        pair_->set_disk(&disk_);
    }
    Shipped ship(const Dump& dump, RegionId region, uint32_t epoch) {
        auto shipped = pair_->ship(dump, region, Epoch{epoch});
        EXPECT_TRUE(shipped.ok());
        return std::move(shipped).value();
    }
    static uint64_t pages(const Shipped& shipped, Rung rung) {
        return shipped.rungs.memory[static_cast<size_t>(rung)].pages;
    }

    Guest guest_;
    Dump disk_, ram_;
    std::unique_ptr<Pair> pair_;
};

TEST_F(PairTest, EveryRungIsTakenAndAwayHoldsTheDumps) {
    ship(disk_, kDisk, 1);
    const Shipped ram = ship(ram_, kRam, 1);
    EXPECT_EQ(pages(ram, Rung::reference_same_vm), 32u);
    EXPECT_EQ(pages(ram, Rung::delta_same_vm), 16u);
    EXPECT_EQ(pages(ram, Rung::shifted_same_vm), 15u);
    EXPECT_EQ(pages(ram, Rung::literal), 16u);
    EXPECT_EQ(pages(ram, Rung::zero), 17u);
    EXPECT_EQ(ram.zero_pages, 17u);
    EXPECT_EQ(pair_->differing_pages(disk_, kDisk), 0u);
    EXPECT_EQ(pair_->differing_pages(ram_, kRam), 0u);
}

TEST_F(PairTest, BytesOfTheRungsAndOfThePagesAreTheMessages) {
    ship(disk_, kDisk, 1);
    const Shipped ram = ship(ram_, kRam, 1);
    uint64_t rungs = ram.rungs.header_bytes;
    for (const dedup::RungStats& rung : ram.rungs.memory) rungs += rung.wire_bytes;
    EXPECT_EQ(rungs, ram.wire_bytes);
    const double by_page = std::accumulate(ram.page_wire.begin(), ram.page_wire.end(), 0.0);
    EXPECT_NEAR(by_page, static_cast<double>(ram.wire_bytes), 1.0);
    ASSERT_EQ(ram.pages.size(), ram.page_wire.size());
    EXPECT_LT(ram.page_wire[0], 40) << "a reference";
    EXPECT_LT(ram.page_wire[32], 120) << "a delta of 40 bytes";
    EXPECT_GT(ram.page_wire[63], 4096) << "incompressible";
}

TEST_F(PairTest, LaterRoundsSendWhatChanged) {
    ship(disk_, kDisk, 1);
    ship(ram_, kRam, 1);
    EXPECT_EQ(ship(ram_, kRam, 2).changed_pages, 0u);
    guest_.ram[70 * kPageBytes + 5] ^= std::byte{1};
    guest_.ram[90 * kPageBytes] = std::byte{1};
    const Dump later = dump_of(guest_.ram);
    const Shipped shipped = ship(later, kRam, 3);
    EXPECT_EQ(shipped.pages, (std::vector<uint64_t>{70, 90}));
    EXPECT_EQ(pages(shipped, Rung::delta_previous), 1u);
    EXPECT_EQ(pair_->differing_pages(later, kRam), 0u);
    EXPECT_EQ(pair_->differing_pages(ram_, kRam), 2u);
}

TEST_F(PairTest, AByteThatDiffersAtAwayIsSeen) {
    ship(disk_, kDisk, 1);
    ship(ram_, kRam, 1);
    pair_->damage_away(kRam, 17);
    EXPECT_EQ(pair_->differing_pages(ram_, kRam), 1u);
}

TEST_F(PairTest, WhatAwayCannotFindComesAsLiterals) {
    ship(disk_, kDisk, 1);
    for (uint64_t page = 0; page < 10; ++page) pair_->damage_away(kDisk, page);
    const Shipped ram = ship(ram_, kRam, 1);
    EXPECT_EQ(ram.naks, 10u);
    EXPECT_EQ(pair_->differing_pages(ram_, kRam), 0u);
}

TEST_F(PairTest, ADumpOfAnotherSizeIsRefused) {
    const auto refused = pair_->ship(disk_, kRam, Epoch{1});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, Errc::invalid_argument);
}

TEST(Baseline, CountsPagesThatAreNotZeroAndNeverGrowsThem) {
    Guest guest;
    const Dump ram = dump_of(guest.ram);
    const auto baseline = zero_elimination_and_zstd(ram, 1);
    ASSERT_TRUE(baseline.ok());
    EXPECT_EQ(baseline->pages, 79u);
    // Random bytes: nothing shrinks, nothing grows.
    EXPECT_EQ(baseline->page_bytes, 79 * kPageBytes);
    EXPECT_LE(baseline->batch_bytes, 79 * kPageBytes);
    Image text(32 * kPageBytes, std::byte{'a'});
    const auto small = zero_elimination_and_zstd(dump_of(text), 1);
    ASSERT_TRUE(small.ok());
    EXPECT_LT(small->batch_bytes, small->page_bytes);
    EXPECT_LT(small->page_bytes, 32u * 200);
}

}  // namespace
}  // namespace evac::reduce
