// A stream of several passes through parser, filter and LivePages: the newest version of each page
// wins, and no two versions share an epoch.
#include "live_pages.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "evac/prestage/dirty_queue.hpp"
#include "page_filter.hpp"
#include "stream_builder.hpp"

namespace evac::prestage::test {
namespace {

std::vector<RegionInfo> regions() {
    return {{"pc.ram", RegionKind::main_ram, 16 * kPageBytes},
            {"vga.vram", RegionKind::small_ram, 2 * kPageBytes}};
}

// All of RAM, then pages 1 and 2 again, then 1 once more and 2 as it was; page 3 unchanged.
Bytes three_passes() {
    StreamBuilder b;
    b.header().ram_start(small_blocks()).part();
    for (uint64_t i = 0; i < 16; ++i)
        b.page(i * kPageBytes, i == 0 ? "pc.ram" : "", std::byte{0x10});
    b.page(0, "vga.vram", std::byte{0x10}).zero(kPageBytes, "").eos();
    b.part().page(0x1000, "pc.ram", std::byte{0x21}).page(0x2000, "", std::byte{0x22});
    b.page(0x3000, "", std::byte{0x10}).eos();
    b.end().page(0x1000, "pc.ram", std::byte{0x31}).zero(0x2000, "").eos();
    b.device("timer", "abc").finish();
    return b.bytes();
}

class Sink final : public PageSink {
  public:
    bool page(const CapturedPage& page) override {
        const auto key = std::make_pair(raw(page.region), page.page);
        EXPECT_TRUE(epochs.insert({key, raw(page.epoch)}).second) << "two versions, one epoch";
        EXPECT_GE(raw(page.epoch), newest[key]);
        newest[key] = raw(page.epoch);
        content[key] = page.is_zero ? std::byte{0} : page.bytes[0];
        outcomes.push_back(queue.enqueue(page));
        return true;
    }
    PagePool pool{kMiB};
    DirtyQueue queue{pool, regions()};
    std::set<std::pair<std::pair<uint16_t, uint64_t>, uint32_t>> epochs;
    std::map<std::pair<uint16_t, uint64_t>, uint32_t> newest;
    std::map<std::pair<uint16_t, uint64_t>, std::byte> content;
    std::vector<EnqueueOutcome> outcomes;
};

TEST(LivePages, LaterPassesReplaceEarlierOnesAndEachHasItsEpoch) {
    for (const size_t chunk : {SIZE_MAX, size_t{1}, size_t{5000}}) {
        Catalogue catalogue(7, regions());
        Sink sink;
        RoundResult result;
        result.epoch = Epoch{10};
        uint32_t epochs_asked = 0;
        LivePages pages(
            catalogue, result,
            {[&](const CapturedPage& page) { return sink.page(page); }, [&] { ++epochs_asked; }});
        PageFilter filter(catalogue, pages, result);
        StreamParser parser(filter);
        const Bytes stream = three_passes();
        for (size_t at = 0; at < stream.size();) {
            const size_t n = std::min(chunk, stream.size() - at);
            ASSERT_TRUE(parser.push(ByteSpan(stream).subspan(at, n)).ok());
            at += n;
        }
        ASSERT_TRUE(parser.finish().ok());
        EXPECT_EQ(epochs_asked, 2u);
        EXPECT_EQ(raw(result.epoch), 12u);
        EXPECT_EQ(filter.missing(), 0u);
        EXPECT_EQ(result.pages_seen, 23u);
        EXPECT_EQ(result.pages_changed, 22u);
        EXPECT_EQ(result.pages_repeated, 4u);
        EXPECT_EQ((sink.content[{0, 1}]), std::byte{0x31});
        EXPECT_EQ((sink.content[{0, 2}]), std::byte{0});
        EXPECT_EQ((sink.content[{0, 3}]), std::byte{0x10});
        EXPECT_EQ((sink.newest[{0, 1}]), 12u);
        EXPECT_EQ((sink.newest[{0, 3}]), 10u);
        EXPECT_EQ(std::ranges::count(sink.outcomes, EnqueueOutcome::replaced), 4);
        uint64_t taken = 0;
        while (const auto page = sink.queue.take()) {
            ++taken;
            const auto key = std::make_pair(raw(page->region), page->page);
            EXPECT_EQ(raw(page->epoch), sink.newest[key]);
            EXPECT_EQ(page->is_zero ? std::byte{0} : page->bytes[0], sink.content[key]);
        }
        EXPECT_EQ(taken, 18u);
    }
}

TEST(LivePages, WhatTheSinkRefusesIsUnknownAgain) {
    Catalogue catalogue(7, regions());
    Sink sink;
    RoundResult result;
    result.epoch = Epoch{1};
    const auto all_but_one = [&](const CapturedPage& page) {
        return page.page != 1 && sink.page(page);
    };
    LivePages pages(catalogue, result, {all_but_one, [] {}});
    PageFilter filter(catalogue, pages, result);
    StreamParser parser(filter);
    ASSERT_TRUE(parser.push(three_passes()).ok());
    EXPECT_EQ(result.pages_dropped, 4u);  // three versions in RAM, one page of the screen
    EXPECT_FALSE(catalogue.fingerprint(RegionId{0}, 1).known());
    EXPECT_TRUE(catalogue.fingerprint(RegionId{0}, 2).known());
}

}  // namespace
}  // namespace evac::prestage::test
