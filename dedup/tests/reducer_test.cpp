#include "evac/dedup/reducer.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "util.hpp"

namespace evac::dedup {
namespace {

using test::Page;
using test::page_of;
using test::text_page_of;

constexpr VmId kOne{1};
constexpr VmId kTwo{2};
constexpr RegionId kRam{0};
constexpr RegionId kDisk{1};

struct Fixture : testing::Test {
    explicit Fixture(const ReducerOptions& options = {}) {
        NullLogger log;
        index = std::move(Index::open({.directory = "", .table_bytes = 1 << 16}, log)).value();
        reducer =
            std::move(Reducer::create(options, test::make_hasher(), *index,
                                      [this](EncodedBatch&& b) { sent.push_back(std::move(b)); }))
                .value();
        for (const VmId vm : {kOne, kTwo}) {
            EXPECT_TRUE(reducer->set_region(vm, kRam, RegionKind::main_ram, 10'000).ok());
            EXPECT_TRUE(reducer->set_region(vm, kDisk, RegionKind::disk, 10'000).ok());
        }
    }
    Rung add(VmId vm, RegionId region, uint64_t page, const Page& content, uint8_t lane = 3,
             uint32_t epoch = 1) {
        PageItem item;
        item.key = PageKey{vm, region, page};
        item.epoch = Epoch{epoch};
        item.is_zero = is_zero_page(content);
        item.lane = lane;
        if (!item.is_zero) {
            item.fingerprint = fingerprinter(content);
            item.page = content;
        }
        return reducer->add(item);
    }
    BatchContent decode(const EncodedBatch& batch) {
        BatchContent content;
        auto decoder = std::move(BatchDecoder::create()).value();
        const Status status = decoder.decode(batch.message, content);
        EXPECT_TRUE(status.ok());
        return content;
    }

    Fingerprinter fingerprinter = test::make_fingerprinter();
    std::unique_ptr<Index> index;
    std::vector<EncodedBatch> sent;
    std::unique_ptr<Reducer> reducer;
};

using ReducerTest = Fixture;

TEST_F(ReducerTest, ChoosesTheRung) {
    EXPECT_EQ(add(kOne, kRam, 0, page_of(0)), Rung::zero);
    EXPECT_EQ(add(kOne, kRam, 1, page_of(1)), Rung::literal);
    EXPECT_EQ(add(kOne, kDisk, 1, page_of(1)), Rung::reference_same_vm);
    EXPECT_EQ(add(kTwo, kRam, 1, page_of(1)), Rung::reference_other_vm);
    EXPECT_EQ(add(kTwo, kRam, 2, page_of(2)), Rung::literal);
    reducer->flush();
    ASSERT_EQ(sent.size(), 2u);
    EXPECT_EQ(sent[0].pages, 3u);
    EXPECT_EQ(sent[1].vm, kTwo);
    const BatchContent content = decode(sent[1]);
    ASSERT_EQ(content.runs.size(), 2u);
    // The disk block took over as the place to refer to: it changes less than RAM.
    EXPECT_EQ(content.runs[0].source, (Location{kOne, kDisk, 1}));
    EXPECT_EQ(content.identities[0], test::make_hasher()(page_of(1)));
}

TEST_F(ReducerTest, StatisticsAddUpToTheMessages) {
    for (uint64_t i = 0; i < 500; ++i) {
        add(i % 100 < 50 ? kOne : kTwo, i % 3 ? kRam : kDisk, i,
            i % 5 ? text_page_of(i % 70) : page_of(0));
    }
    reducer->flush();
    const ReducerStats& stats = reducer->stats();
    uint64_t messages = 0;
    for (const EncodedBatch& batch : sent) messages += batch.message.size();
    uint64_t wire = stats.header_bytes;
    uint64_t pages = 0;
    for (const auto& by_rung : {stats.memory, stats.disk}) {
        for (const RungStats& rung : by_rung) {
            wire += rung.wire_bytes;
            pages += rung.pages;
            EXPECT_EQ(rung.raw_bytes, rung.pages * kPageBytes);
        }
    }
    EXPECT_EQ(stats.message_bytes, messages);
    EXPECT_EQ(wire, messages);
    EXPECT_EQ(pages, 500u);
    EXPECT_EQ(stats.batches, sent.size());
    const auto zero = static_cast<size_t>(Rung::zero);
    EXPECT_EQ(stats.memory[zero].pages + stats.disk[zero].pages, 100u);
    EXPECT_GT(stats.disk[static_cast<size_t>(Rung::reference_same_vm)].pages, 0u);
    EXPECT_GT(stats.memory[static_cast<size_t>(Rung::reference_other_vm)].pages, 0u);
    EXPECT_EQ(stats.references_to_disk + stats.references_to_memory, stats.retained_pages);

    // The VMs' tables add up to the sum.
    uint64_t of_vms = 0;
    for (const VmId vm : {kOne, kTwo}) {
        ASSERT_NE(reducer->stats_of(vm), nullptr);
        of_vms += reducer->stats_of(vm)->header_bytes;
        for (const auto& table : {reducer->stats_of(vm)->memory, reducer->stats_of(vm)->disk}) {
            for (const RungStats& rung : table) of_vms += rung.wire_bytes;
        }
    }
    EXPECT_EQ(of_vms, messages);
    EXPECT_EQ(reducer->stats_of(VmId{99}), nullptr);
}

TEST_F(ReducerTest, RefersOnlyToWhatWasSentLast) {
    add(kOne, kRam, 1, page_of(1));
    add(kOne, kRam, 1, page_of(2));  // overwritten: page_of(1) is at away no more
    EXPECT_EQ(add(kOne, kRam, 5, page_of(1)), Rung::literal);
    EXPECT_EQ(reducer->stats().stale_hits, 1u);
    EXPECT_EQ(add(kOne, kRam, 6, page_of(1)), Rung::reference_same_vm);  // to page 5
    add(kOne, kRam, 5, page_of(0));
    EXPECT_EQ(add(kOne, kRam, 7, page_of(1)), Rung::literal);
}

TEST_F(ReducerTest, NeverRefersToThePageItself) {
    add(kOne, kRam, 1, page_of(1));
    // Its previous version is one: an empty delta.
    EXPECT_EQ(add(kOne, kRam, 1, page_of(1)), Rung::delta_previous);
    add(kOne, kRam, 1, page_of(2));
    EXPECT_EQ(add(kOne, kRam, 1, page_of(2), 3, 2), Rung::delta_previous);
    reducer->flush();
    for (const BatchRun& run : decode(sent[0]).runs) EXPECT_NE(run.op, BatchOp::reference);
}

TEST_F(ReducerTest, UndeclaredRegionsAreSentButNotReferred) {
    EXPECT_EQ(add(VmId{9}, kRam, 1, page_of(1)), Rung::literal);
    EXPECT_EQ(add(kOne, kRam, 1, page_of(1)), Rung::literal);
    EXPECT_EQ(add(VmId{9}, kRam, 2, page_of(1)), Rung::reference_other_vm);
    EXPECT_EQ(add(kOne, RegionId{0}, 10'000, page_of(3)), Rung::literal);  // beyond the region
    EXPECT_EQ(add(kOne, RegionId{0}, 2, page_of(3)), Rung::literal);
}

TEST_F(ReducerTest, SixteenLiteralsMakeABatch) {
    for (uint64_t i = 0; i < 40; ++i) add(kOne, kRam, i, page_of(i + 1));
    EXPECT_EQ(sent.size(), 2u);
    EXPECT_EQ(reducer->open_pages(kOne), 8u);
    EXPECT_EQ(reducer->batches_emitted(kOne), 2u);
    reducer->flush_vm(kTwo);
    EXPECT_EQ(sent.size(), 2u);
    reducer->flush_vm(kOne);
    ASSERT_EQ(sent.size(), 3u);
    EXPECT_EQ(sent[2].pages, 8u);
    for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(sent[i].sequence, i + 1);
    reducer->flush();
    EXPECT_EQ(sent.size(), 3u);  // nothing left
}

TEST_F(ReducerTest, LanesAndVmsDoNotMix) {
    add(kOne, kRam, 1, page_of(1), 3);
    add(kOne, kDisk, 1, page_of(2), 2);
    EXPECT_TRUE(sent.empty());
    add(kTwo, kRam, 1, page_of(3), 3);  // another VM in lane 3: the first one's batch leaves
    ASSERT_EQ(sent.size(), 1u);
    EXPECT_EQ(sent[0].lane, 3);
    reducer->flush();
    ASSERT_EQ(sent.size(), 3u);
    EXPECT_EQ(sent[1].lane, 2);
    EXPECT_EQ(sent[1].vm, kOne);
    EXPECT_EQ(sent[1].sequence, 2u);
    EXPECT_EQ(sent[2].vm, kTwo);
    EXPECT_EQ(sent[2].sequence, 1u);
}

TEST_F(ReducerTest, ResendsAReferenceThatDidNotHold) {
    add(kOne, kRam, 1, page_of(1));
    add(kOne, kRam, 2, page_of(1));
    reducer->flush();
    EXPECT_EQ(reducer->stats().retained_pages, 1u);
    const PageKey key{kOne, kRam, 2};
    EXPECT_EQ(reducer->nak(kOne, 1, PageKey{kOne, kRam, 1}, Epoch{1}, 3), NakOutcome::unknown);
    EXPECT_EQ(reducer->nak(kOne, 1, key, Epoch{2}, 3), NakOutcome::unknown);
    EXPECT_EQ(reducer->nak(kOne, 2, key, Epoch{1}, 3), NakOutcome::unknown);
    EXPECT_EQ(reducer->nak(kTwo, 1, key, Epoch{1}, 3), NakOutcome::unknown);
    EXPECT_EQ(reducer->nak(kOne, 1, key, Epoch{1}, 1), NakOutcome::resent);
    EXPECT_EQ(reducer->stats().retained_pages, 0u);
    reducer->acknowledge(kOne, 1);
    reducer->flush();
    ASSERT_EQ(sent.size(), 2u);
    EXPECT_EQ(sent[1].lane, 1);
    const BatchContent content = decode(sent[1]);
    ASSERT_EQ(content.runs.size(), 1u);
    EXPECT_EQ(content.runs[0].op, BatchOp::literal);
    EXPECT_EQ(content.runs[0].first, key);
    EXPECT_TRUE(std::ranges::equal(content.literal(0), page_of(1)));
    EXPECT_EQ(reducer->nak(kOne, 1, key, Epoch{1}, 3), NakOutcome::unknown);
    EXPECT_EQ(reducer->stats().naks_unknown, 5u);
    EXPECT_EQ(reducer->stats().naks_resent, 1u);
}

// The content that came later must not be overwritten by the one that was kept.
TEST_F(ReducerTest, NakOfAnOlderVersionIsSuperseded) {
    add(kOne, kRam, 1, page_of(1));
    add(kOne, kRam, 2, page_of(1));
    reducer->flush();
    add(kOne, kRam, 2, page_of(3));
    EXPECT_EQ(reducer->stats().retained_pages, 0u);
    EXPECT_EQ(reducer->nak(kOne, 1, PageKey{kOne, kRam, 2}, Epoch{1}, 3), NakOutcome::superseded);
    reducer->acknowledge(kOne, 1);
    reducer->flush();
    ASSERT_EQ(sent.size(), 2u);
    const BatchContent content = decode(sent[1]);
    ASSERT_EQ(content.runs.size(), 1u);
    EXPECT_TRUE(std::ranges::equal(content.literal(0), page_of(3)));
}

// Two references for one page in one batch: a NAK of either brings the later content.
TEST_F(ReducerTest, NakOfAPageThatIsTwiceInABatch) {
    add(kOne, kRam, 1, page_of(1));
    add(kOne, kRam, 2, page_of(2));
    add(kOne, kRam, 3, page_of(1));
    add(kOne, kRam, 3, page_of(2));
    reducer->flush();
    const PageKey key{kOne, kRam, 3};
    EXPECT_EQ(reducer->nak(kOne, 1, key, Epoch{1}, 3), NakOutcome::resent);
    EXPECT_EQ(reducer->nak(kOne, 1, key, Epoch{1}, 3), NakOutcome::superseded);
    reducer->flush();
    EXPECT_TRUE(std::ranges::equal(decode(sent.at(1)).literal(0), page_of(2)));
}

TEST_F(ReducerTest, ANakHealsTheIndex) {
    add(kOne, kRam, 1, page_of(1));
    add(kTwo, kRam, 2, page_of(1));
    reducer->flush();
    EXPECT_EQ(reducer->nak(kTwo, 1, PageKey{kTwo, kRam, 2}, Epoch{1}, 3), NakOutcome::resent);
    add(kTwo, kRam, 3, page_of(1));
    reducer->flush();
    const BatchContent content = decode(sent.back());
    ASSERT_EQ(content.runs.back().op, BatchOp::reference);
    EXPECT_EQ(content.runs.back().source, (Location{kTwo, kRam, 2}));
}

struct SmallRetention : Fixture {
    SmallRetention() : Fixture(ReducerOptions{.retained_bytes_max = 3 * kPageBytes}) {}
};

TEST_F(SmallRetention, SendsLiteralsWhenFull) {
    add(kOne, kRam, 0, page_of(1));
    for (uint64_t i = 1; i <= 3; ++i)
        EXPECT_EQ(add(kOne, kRam, i, page_of(1)), Rung::reference_same_vm);
    EXPECT_EQ(add(kOne, kRam, 4, page_of(1)), Rung::literal);
    EXPECT_EQ(reducer->stats().literals_for_retention, 1u);
    EXPECT_EQ(reducer->stats().retained_pages, 3u);
    reducer->flush();
    reducer->acknowledge(kOne, 1);
    reducer->acknowledge(kOne, 1);
    reducer->acknowledge(kTwo, 77);
    EXPECT_EQ(reducer->stats().retained_pages, 0u);
    EXPECT_EQ(add(kOne, kRam, 5, page_of(1)), Rung::reference_same_vm);
}

TEST_F(ReducerTest, ResetForgetsWhatIsUnderWayAndReloads) {
    add(kOne, kRam, 1, page_of(1));
    add(kOne, kRam, 2, page_of(1));
    reducer->flush();
    add(kOne, kRam, 3, page_of(1));
    add(kTwo, kDisk, 3, page_of(9), 2);
    reducer->reset_vm(kOne);
    EXPECT_EQ(reducer->open_pages(kOne), 0u);
    EXPECT_EQ(reducer->open_pages(kTwo), 1u);
    EXPECT_EQ(reducer->stats().retained_pages, 0u);
    EXPECT_EQ(reducer->batches_emitted(kOne), 0u);
    EXPECT_EQ(reducer->nak(kOne, 1, PageKey{kOne, kRam, 2}, Epoch{1}, 3), NakOutcome::unknown);
    EXPECT_EQ(add(kTwo, kRam, 9, page_of(1)), Rung::literal);  // nothing of kOne is known
    add(kTwo, kRam, 9, page_of(2));

    const std::vector<Fingerprint> staged{{}, fingerprinter(page_of(4)), fingerprinter(page_of(1))};
    index->insert(index_key(fingerprinter(page_of(1))), Location{kOne, kRam, 2});
    EXPECT_TRUE(reducer->load_tags(kOne, kRam, 0, staged).ok());
    EXPECT_EQ(add(kTwo, kRam, 10, page_of(1)), Rung::reference_other_vm);
    EXPECT_FALSE(reducer->load_tags(kOne, kRam, 9'998, staged).ok());
    EXPECT_FALSE(reducer->load_tags(VmId{5}, kRam, 0, staged).ok());
    reducer->reset_vm(kTwo, 40);
    add(kTwo, kRam, 10, page_of(5));
    reducer->flush();
    EXPECT_EQ(sent.back().sequence, 40u);
}

TEST_F(ReducerTest, ForgetVmDropsEverything) {
    add(kOne, kRam, 1, page_of(1));
    add(kOne, kRam, 2, page_of(1));
    reducer->forget_vm(kOne);
    reducer->forget_vm(VmId{77});
    EXPECT_EQ(reducer->stats().retained_pages, 0u);
    EXPECT_EQ(reducer->stats().tag_bytes, 20'000u * 4);
    EXPECT_EQ(add(kTwo, kRam, 2, page_of(1)), Rung::literal);
    reducer->flush();
    ASSERT_EQ(sent.size(), 1u);
    EXPECT_EQ(sent[0].vm, kTwo);
}

struct NoReferences : Fixture {
    NoReferences() : Fixture(ReducerOptions{.references = false, .tag_bytes_max = 40'000u * 4}) {}
};

TEST_F(NoReferences, SendsLiteralsOnly) {
    add(kOne, kRam, 1, page_of(1));
    EXPECT_EQ(add(kOne, kRam, 2, page_of(1)), Rung::literal);
    EXPECT_EQ(index->stats().inserts, 0u);
}

TEST_F(NoReferences, RefusesWhatIsBeyondItsLimits) {
    const Status more = reducer->set_region(kOne, RegionId{5}, RegionKind::disk, 1);
    ASSERT_FALSE(more.ok());
    EXPECT_EQ(more.error().code, Errc::refused);
    EXPECT_TRUE(reducer->set_region(kOne, kDisk, RegionKind::disk, 9'999).ok());
    EXPECT_TRUE(reducer->set_region(kOne, RegionId{5}, RegionKind::disk, 1).ok());
    EXPECT_FALSE(reducer->set_region(kOne, RegionId{64}, RegionKind::disk, 1).ok());
    EXPECT_FALSE(reducer->set_region(kOne, kDisk, RegionKind::disk, kLocationPagesMax + 1).ok());
    const auto bad =
        Reducer::create(ReducerOptions{.zstd_level = 20}, test::make_hasher(), *index, {});
    ASSERT_FALSE(bad.ok());
    EXPECT_NE(bad.error().context.find("zstd_level: 20"), std::string::npos);
}

}  // namespace
}  // namespace evac::dedup
