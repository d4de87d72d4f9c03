// Shifted references and deltas: what the reducer chooses, and that away believes content only.
#include <gtest/gtest.h>

#include <algorithm>

#include "delta.hpp"
#include "page_cache.hpp"
#include "sketch.hpp"
#include "util.hpp"

namespace evac::dedup {
namespace {

using test::mutated;
using test::Page;
using test::page_of;
using test::shifted;
using test::text_page_of;

constexpr VmId kOne{1};
constexpr VmId kTwo{2};
constexpr RegionId kRam{0};
constexpr RegionId kDisk{1};

// Home's disks as a BaseReader, of whatever the test puts there.
struct Disks : BaseReader {
    bool read(const Location& at, std::span<std::byte, kPageBytes> out) override {
        ++reads;
        const auto found = pages.find(at);
        if (found == pages.end()) return false;
        std::memcpy(out.data(), found->second.data(), kPageBytes);
        return true;
    }
    std::map<Location, Page> pages;
    uint64_t reads = 0;
};

struct Similar : testing::Test {
    explicit Similar(uint64_t cache_bytes = 1 << 20) {
        NullLogger log;
        index = std::move(Index::open({.directory = "", .table_bytes = 1 << 16}, log)).value();
        ReducerOptions options;
        options.sketch_table_bytes = 1 << 18;
        options.cache_bytes = cache_bytes;
        reducer = std::move(Reducer::create(options, test::make_hasher(), *index,
                                            [this](EncodedBatch&& b) { sent.push_back(b); }))
                      .value();
        expander = std::move(Expander::create(test::make_hasher(), away)).value();
        for (const VmId vm : {kOne, kTwo}) {
            EXPECT_TRUE(reducer->set_region(vm, kRam, RegionKind::main_ram, 1000).ok());
            EXPECT_TRUE(reducer->set_region(vm, kDisk, RegionKind::disk, 1000).ok());
        }
    }
    PageItem item(VmId vm, RegionId region, uint64_t page, const Page& content) const {
        PageItem out;
        out.key = PageKey{vm, region, page};
        out.epoch = Epoch{1};
        out.fingerprint = fingerprinter(content);
        out.page = content;
        return out;
    }
    Rung add(VmId vm, RegionId region, uint64_t page, const Page& content) {
        fed[PageKey{vm, region, page}] = content;
        return reducer->add(item(vm, region, page, content));
    }
    // Away takes everything, home answers its NAKs; then away holds what was fed.
    void settle() {
        for (int turn = 0; turn < 10 && (reducer->flush(), !sent.empty()); ++turn) {
            std::vector<EncodedBatch> batches;
            batches.swap(sent);
            for (const EncodedBatch& batch : batches) {
                auto expanded = expander->expand(batch.message);
                ASSERT_TRUE(expanded.ok()) << expanded.error().message();
                for (const Nak& nak : expanded->naks) {
                    ++naks;
                    reducer->nak(batch.vm, batch.sequence, nak.key, nak.epoch, batch.lane);
                }
                reducer->acknowledge(batch.vm, batch.sequence);
            }
        }
        for (const auto& [key, page] : fed) {
            ASSERT_EQ(away.pages.at(key).second, page) << key.page;
        }
        EXPECT_EQ(reducer->stats().retained_pages, 0u);
    }

    Fingerprinter fingerprinter = test::make_fingerprinter();
    std::unique_ptr<Index> index;
    std::vector<EncodedBatch> sent;
    std::unique_ptr<Reducer> reducer;
    test::MemoryStaged away;
    std::unique_ptr<Expander> expander;
    std::map<PageKey, Page> fed;
    uint64_t naks = 0;
};

TEST_F(Similar, ShiftedPagesAreReferences) {
    for (uint64_t i = 0; i < 100; ++i) add(kOne, kDisk, i, page_of(i + 1));
    settle();
    // As PostgreSQL's buffers: 1024 behind a block's boundary; and every other multiple of 512.
    for (uint64_t i = 0; i < 70; ++i) {
        const uint32_t shift = i < 35 ? 3072 : static_cast<uint32_t>(i % 7 * 512 + 512);
        const Page page = shifted(page_of(i + 1), page_of(i + 2), shift);
        EXPECT_EQ(add(kOne, kRam, i, page), Rung::shifted_same_vm) << shift;
    }
    // Not in order, another VM's, and the last block, which has no neighbour.
    EXPECT_EQ(add(kTwo, kRam, 0, shifted(page_of(50), page_of(51), 1536)), Rung::shifted_other_vm);
    EXPECT_NE(add(kTwo, kRam, 1, shifted(page_of(100), page_of(101), 2048)),
              Rung::shifted_other_vm);
    reducer->flush();
    uint64_t wire = 0;
    for (const EncodedBatch& batch : sent) wire += batch.message.size();
    EXPECT_LT(wire, 71 * 30u + 4096u + 200u);
    settle();
    EXPECT_EQ(naks, 0u);
    EXPECT_EQ(expander->totals().shifted_pages, 71u);
}

// Buffers behind a header of any multiple of 8 bytes: no piece begins where a block's does.
TEST_F(Similar, UnalignedShiftsAreFoundOnceTheirOffsetWasSeen) {
    Disks disks;
    reducer->set_base_reader(&disks);
    for (uint64_t i = 0; i < 300; ++i) {
        const Page block = i == 250 ? Page{} : page_of(i + 1);
        disks.pages[PageKey{kOne, kDisk, i}] = block;
        if (i != 250) add(kOne, kDisk, i, block);
    }
    settle();
    uint64_t next = 0;
    const auto found_at = [&](uint32_t shift, bool changed) {
        uint64_t found = 0;
        for (uint64_t i = 0; i < 100; ++i, ++next) {
            Page page = shifted(page_of(i + 1), page_of(i + 2), shift);
            if (changed) page[2000] ^= std::byte{1};
            found += add(kOne, kRam, next, page) != Rung::literal ? 1u : 0u;
        }
        settle();
        return found;
    };
    EXPECT_GE(found_at(4080, false), 68u);  // from the first page that is searched on
    EXPECT_GE(found_at(896, false), 68u);
    EXPECT_GE(expander->totals().shifted_pages, 136u);
    EXPECT_EQ(expander->totals().delta_pages, 0u);
    EXPECT_EQ(found_at(4080, true), 100u);        // known still
    EXPECT_EQ(found_at(896 + 1024, true), 100u);  // the same offset of pieces, another shift
    EXPECT_GE(found_at(8, false), 68u);
    EXPECT_GE(found_at(4088, false), 68u);
    // The first block's head, the last block's tail, a zero neighbour: literals, nothing worse.
    add(kOne, kRam, 900, shifted(page_of(900), page_of(1), 4080));
    add(kOne, kRam, 901, shifted(page_of(300), page_of(901), 4080));
    EXPECT_EQ(add(kOne, kRam, 902, shifted(page_of(250), Page{}, 4080)), Rung::literal);
    settle();
    EXPECT_EQ(naks, 0u);
}

TEST_F(Similar, UnalignedShiftsNeedTheirContent) {
    for (uint64_t i = 0; i < 100; ++i) {
        const Page block = page_of(i + 1);
        away.pages[PageKey{kOne, kDisk, i}] = {Epoch{1}, block};
        const std::array<Fingerprint, 1> print{fingerprinter(block)};
        ASSERT_TRUE(reducer->load_tags(kOne, kDisk, i, print).ok());
        reducer->learn(item(kOne, kDisk, i, block));
    }
    for (uint64_t i = 0; i < 40; ++i) {
        EXPECT_EQ(add(kOne, kRam, i, shifted(page_of(i + 1), page_of(i + 2), 4080)), Rung::literal);
    }
    EXPECT_GT(reducer->stats().bases_absent, 30u);
    settle();
}

TEST_F(Similar, ChangedPagesAreDeltas) {
    for (uint64_t i = 0; i < 100; ++i) add(kOne, kDisk, i, page_of(i + 1));
    settle();
    EXPECT_EQ(add(kOne, kRam, 0, mutated(page_of(1), 1, 20)), Rung::delta_same_vm);
    EXPECT_EQ(add(kTwo, kRam, 0, mutated(page_of(2), 2, 20)), Rung::delta_other_vm);
    EXPECT_EQ(add(kOne, kRam, 0, mutated(page_of(1), 3, 20)), Rung::delta_previous);
    // A checksum of two bytes in an otherwise shifted page, as PostgreSQL's with data_checksums.
    Page checked = shifted(page_of(7), page_of(8), 1024);
    checked[8] ^= std::byte{0x5a};
    EXPECT_EQ(add(kOne, kRam, 5, checked), Rung::delta_same_vm);
    EXPECT_EQ(add(kOne, kRam, 6, page_of(900)), Rung::literal);
    settle();
    EXPECT_EQ(naks, 0u);
    EXPECT_EQ(expander->totals().delta_pages, 4u);
    EXPECT_EQ(reducer->stats().memory[static_cast<size_t>(Rung::delta_previous)].pages, 1u);
}

// The median dirty InnoDB page differs in 174 bytes: on the wire it is below 300 bytes in all.
TEST_F(Similar, ADirtyPageIsSmallOnTheWire) {
    for (uint64_t i = 0; i < 64; ++i) add(kOne, kRam, i, page_of(i + 1));
    settle();
    const uint64_t before = reducer->stats().message_bytes;
    for (uint64_t i = 0; i < 64; ++i) {
        Page page = page_of(i + 1);
        for (size_t at = 0; at < 174; ++at) page[100 + at / 29 * 500 + at % 29] ^= std::byte{0x77};
        ASSERT_EQ(add(kOne, kRam, i, page), Rung::delta_previous);
    }
    reducer->flush();
    EXPECT_LT(reducer->stats().message_bytes - before, 64 * 300u);
    settle();
}

TEST_F(Similar, AwaysOtherBaseIsANak) {
    add(kOne, kDisk, 1, page_of(1));
    add(kOne, kDisk, 2, page_of(2));
    add(kOne, kRam, 9, page_of(9));
    settle();
    const PageKey first{kOne, kDisk, 1};
    away.pages[first].second = page_of(77);  // not what home believes
    EXPECT_EQ(add(kOne, kRam, 1, mutated(page_of(1), 1, 10)), Rung::delta_same_vm);
    EXPECT_EQ(add(kOne, kRam, 2, shifted(page_of(1), page_of(2), 512)), Rung::shifted_same_vm);
    fed.erase(first);
    settle();
    EXPECT_EQ(naks, 2u);
    EXPECT_EQ(expander->totals().mismatched_pages, 2u);
    // Neither place is believed any more.
    EXPECT_NE(add(kOne, kRam, 3, shifted(page_of(1), page_of(2), 1024)), Rung::shifted_same_vm);
    away.unreadable.insert(PageKey{kOne, kRam, 9});
    EXPECT_EQ(add(kOne, kRam, 10, mutated(page_of(9), 4, 10)), Rung::delta_same_vm);
    settle();
    EXPECT_EQ(expander->totals().unreadable_pages, 1u);
}

// A delta onto the right base with the wrong result is not put: the identity of the result decides.
TEST_F(Similar, DeltaIsBelievedByItsResultOnly) {
    const PageKey key{kOne, kRam, 1};
    ASSERT_TRUE(away.put(key, Epoch{1}, page_of(1)).ok());
    auto builder = std::move(BatchBuilder::create(1)).value();
    Bytes patch{std::byte{0}, std::byte{1}, std::byte{0x42}};
    const uint32_t tag = StagedTags::tag(fingerprinter(page_of(1)));
    Page wanted = page_of(1);
    wanted[0] = std::byte{0x42};
    const Identity identity = test::make_hasher()(wanted);
    const auto expand = [&](uint32_t base_tag, const Identity& result, const Bytes& payload) {
        builder.add_delta(key, Epoch{2}, result, {key, 0, base_tag, DeltaKind::patch, payload});
        auto expanded = expander->expand(builder.finish(1).message);
        EXPECT_TRUE(expanded.ok());
        return expanded->naks.size();
    };
    EXPECT_EQ(expand(tag, Identity{}, patch), 1u);
    EXPECT_EQ(expand(tag, identity, {}), 1u);
    EXPECT_EQ(expand(tag, identity, Bytes(3)), 1u);  // no patch
    EXPECT_EQ(expander->totals().damaged_deltas, 3u);
    EXPECT_EQ(expand(tag + 1, identity, patch), 1u);
    EXPECT_EQ(expander->totals().mismatched_pages, 1u);
    EXPECT_EQ(away.pages.at(key).second, page_of(1));
    EXPECT_EQ(expand(tag, identity, patch), 0u);
    EXPECT_EQ(away.pages.at(key).second, wanted);
}

struct WithoutCache : Similar {
    WithoutCache() : Similar(0) { reducer->set_base_reader(&disks); }
    Disks disks;
};

TEST_F(WithoutCache, BasesComeFromTheReader) {
    for (uint64_t i = 0; i < 20; ++i) {
        add(kOne, kDisk, i, page_of(i + 1));
        disks.pages[Location{kOne, kDisk, i}] = page_of(i + 1);
    }
    settle();
    EXPECT_EQ(add(kOne, kRam, 0, mutated(page_of(1), 1, 20)), Rung::delta_same_vm);
    EXPECT_EQ(disks.reads, 1u);
    // The guest has written the block since: what is there is not what away has.
    disks.pages[Location{kOne, kDisk, 1}] = page_of(500);
    EXPECT_EQ(add(kOne, kRam, 1, mutated(page_of(2), 1, 20)), Rung::literal);
    EXPECT_EQ(reducer->stats().base_reads_stale, 1u);
    disks.pages.erase(Location{kOne, kDisk, 2});
    EXPECT_EQ(add(kOne, kRam, 2, mutated(page_of(3), 1, 20)), Rung::literal);
    EXPECT_EQ(reducer->stats().bases_absent, 2u);
    // Shifted references need no content at all.
    const uint64_t reads = disks.reads;
    EXPECT_EQ(add(kOne, kRam, 3, shifted(page_of(9), page_of(10), 2560)), Rung::shifted_same_vm);
    EXPECT_EQ(disks.reads, reads);
    settle();
    EXPECT_EQ(naks, 0u);
}

// The pair's secret changes while pages flow: nothing waits, nothing is wrong, and after the pass
// references are found again.
TEST_F(WithoutCache, AKeyChangeIsABackgroundPass) {
    for (uint64_t i = 0; i < 50; ++i) {
        add(kOne, kDisk, i, page_of(i + 1));
        disks.pages[Location{kOne, kDisk, i}] = page_of(i + 1);
    }
    EXPECT_EQ(add(kOne, kRam, 60, page_of(1)), Rung::reference_same_vm);
    reducer->flush();  // under way while the key changes: away accepts the old one
    constexpr std::string_view kNew = "another secret of the pair";
    const auto hasher = [&] {
        return std::move(IdentityHasher::create(as_byte_span(kNew))).value();
    };
    reducer->rekey(hasher());
    expander->rekey(hasher());
    fingerprinter = Fingerprinter(fingerprint_seed(as_byte_span(kNew)));
    EXPECT_EQ(add(kOne, kRam, 1, page_of(1)), Rung::literal);
    settle();
    EXPECT_EQ(naks, 0u);
    // What away has under the new seed, as the FINGERPRINTS exchange brings it.
    for (const auto& [key, held] : away.pages) {
        const Fingerprint fingerprint = fingerprinter(held.second);
        ASSERT_TRUE(reducer->load_tags(key.vm, key.region, key.page, {&fingerprint, 1}).ok());
    }
    EXPECT_EQ(add(kOne, kRam, 2, page_of(2)), Rung::literal);
    disks.pages[Location{kOne, kDisk, 7}] = page_of(777);  // newer than away's
    reducer->begin_reindex();
    int steps = 1;
    while (reducer->reindex(100)) ++steps;
    EXPECT_GT(steps, 10);
    EXPECT_EQ(reducer->stats().learned, 49u);
    EXPECT_EQ(add(kOne, kRam, 3, page_of(3)), Rung::reference_same_vm);
    EXPECT_EQ(add(kOne, kRam, 8, page_of(8)), Rung::literal);
    EXPECT_EQ(add(kTwo, kRam, 4, shifted(page_of(20), page_of(21), 512)), Rung::shifted_other_vm);
    settle();
    EXPECT_EQ(naks, 0u);
}

// A pass after a lost session, when the sketches are still there, reads nothing twice.
TEST_F(WithoutCache, AReindexReadsOnlyWhatIsNotKnown) {
    for (uint64_t i = 0; i < 50; ++i) {
        const Page page = page_of(i + 1);
        disks.pages[Location{kOne, kDisk, i}] = page;
        if (i < 30) {
            add(kOne, kDisk, i, page);
        } else {
            const Fingerprint fingerprint = fingerprinter(page);
            ASSERT_TRUE(reducer->load_tags(kOne, kDisk, i, {&fingerprint, 1}).ok());
        }
    }
    settle();
    disks.reads = 0;
    EXPECT_FALSE(reducer->reindex_progress().running);
    reducer->begin_reindex();
    EXPECT_TRUE(reducer->reindex(100));
    const ReindexProgress progress = reducer->reindex_progress();
    EXPECT_TRUE(progress.running);
    EXPECT_EQ(progress.pages_done, 100u);
    EXPECT_EQ(progress.pages_total, 4000u);
    while (reducer->reindex(100)) {
    }
    EXPECT_EQ(disks.reads, 20u);
    EXPECT_EQ(reducer->stats().learned, 20u);
    EXPECT_EQ(reducer->reindex_progress().pages_done, 4000u);
    EXPECT_FALSE(reducer->reindex_progress().running);
    reducer->begin_reindex();
    while (reducer->reindex(100)) {
    }
    EXPECT_EQ(disks.reads, 20u);
}

TEST_F(Similar, ManyAreAddedAsOne) {
    std::vector<Page> pages;
    std::vector<PageItem> items;
    for (uint64_t i = 0; i < 40; ++i) pages.push_back(i % 5 == 4 ? page_of(1) : page_of(i + 1));
    for (uint64_t i = 0; i < 40; ++i) {
        fed[PageKey{kOne, kRam, i}] = pages[i];
        items.push_back(item(kOne, kRam, i, pages[i]));
    }
    reducer->add_all(items);
    const auto same = static_cast<size_t>(Rung::reference_same_vm);
    EXPECT_EQ(reducer->stats().memory[same].pages, 8u);  // also what the same call brought
    settle();
    EXPECT_EQ(naks, 0u);
}

TEST_F(Similar, EffortLeavesRungsOut) {
    reducer->set_effort({.references = false, .similar = true, .compress = false});
    add(kOne, kRam, 1, text_page_of(1));
    EXPECT_EQ(add(kOne, kRam, 2, text_page_of(1)), Rung::literal);
    reducer->flush();
    EXPECT_GT(sent.back().message.size(), 2 * kPageBytes);
    EXPECT_EQ(reducer->stats().raw_pages, 2u);
    reducer->set_effort({.references = true, .similar = false});
    add(kOne, kRam, 3, page_of(5));
    EXPECT_EQ(add(kOne, kRam, 4, mutated(page_of(5), 1, 5)), Rung::literal);
    EXPECT_EQ(add(kOne, kRam, 5, page_of(5)), Rung::reference_same_vm);
    reducer->set_effort({});
    add(kOne, kRam, 6, page_of(6));
    EXPECT_EQ(add(kOne, kRam, 7, mutated(page_of(6), 1, 5)), Rung::delta_same_vm);
    settle();
}

TEST(PageCache, KeepsWhatServed) {
    PageCache cache(8 * kPageBytes);  // one set
    const auto key = [](uint64_t page) { return PageKey{kOne, kRam, page}; };
    for (uint64_t i = 0; i < 8; ++i) cache.put(key(i), 7, page_of(i));
    ASSERT_NE(cache.find(key(3), 7), nullptr);
    EXPECT_EQ(cache.find(key(3), 8), nullptr);  // another version
    for (uint64_t i = 10; i < 17; ++i) cache.put(key(i), 7, page_of(i));
    const std::byte* kept = cache.find(key(3), 7);
    ASSERT_NE(kept, nullptr);
    EXPECT_EQ(std::memcmp(kept, page_of(3).data(), kPageBytes), 0);
    cache.put(key(3), 9, page_of(99));
    EXPECT_EQ(cache.find(key(3), 7), nullptr);
    EXPECT_EQ(std::memcmp(cache.find(key(3), 9), page_of(99).data(), kPageBytes), 0);
    PageCache none(100);
    none.put(key(1), 1, page_of(1));
    EXPECT_EQ(none.find(key(1), 1), nullptr);
}

TEST(Sketches, ForgetsWithItsRegion) {
    StagedTags tags;
    Sketches sketches(1 << 16, 100 * kSketchBytes, 1);
    tags.set_region(kOne, kRam, RegionKind::main_ram, 100);
    sketches.set_region(kOne, kRam, 100);
    sketches.set_region(kOne, kDisk, 1);  // beyond its bytes: not sketched
    const auto hashes = sketches.hash(page_of(1));
    tags.set({kOne, kRam, 5}, 42);
    sketches.set({kOne, kRam, 5}, 42, hashes, false);
    const Location other{kOne, kRam, 9};
    EXPECT_EQ(sketches.find(other, hashes, tags).common, kPieces);
    tags.set({kOne, kRam, 5}, 43);  // overwritten since
    EXPECT_EQ(sketches.find(other, hashes, tags).common, 0u);
    tags.set({kOne, kRam, 5}, 42);
    sketches.forget_vm(kOne);
    EXPECT_EQ(sketches.find(other, hashes, tags).common, 0u);
    sketches.set_region(kTwo, kDisk, 100);  // takes the slot: old entries point into it
    tags.set_region(kTwo, kDisk, RegionKind::disk, 100);
    tags.set({kTwo, kDisk, 5}, 7);
    EXPECT_EQ(sketches.find(other, hashes, tags).common, 0u);
    EXPECT_FALSE(Sketches::worth(sketches.hash(page_of(0))));
}

}  // namespace
}  // namespace evac::dedup
