#include "evac/prestage/dirty_queue.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <thread>

#include "evac/core/random.hpp"

namespace evac::prestage {
namespace {

constexpr uint64_t kPages = 300;
const std::vector<RegionInfo> kRegions{{"pc.ram", RegionKind::main_ram, 200 * kPageBytes},
                                       {"disk0", RegionKind::disk, 99 * kPageBytes + 1}};
using Content = std::array<std::byte, kPageBytes>;

CapturedPage make_page(RegionId region, uint64_t page, uint32_t epoch, uint64_t version,
                       uint8_t heat, Content& content) {
    CapturedPage out;
    out.region = region;
    out.page = page;
    out.epoch = Epoch{epoch};
    out.heat = heat;
    out.is_zero = version % 5 == 0;
    out.fingerprint = {out.is_zero ? 77 : version + 1000, 1};
    content.fill(static_cast<std::byte>(version));
    std::memcpy(content.data(), &version, sizeof(version));
    if (!out.is_zero) out.bytes = content;
    return out;
}

// The queue as a map plus ordered lists, as slow and as plain as can be.
struct Model {
    struct Waiting {
        uint32_t epoch;
        uint64_t version;
        uint8_t heat;
        bool zero;
        uint32_t list;
        uint64_t order;
    };
    std::map<std::pair<uint16_t, uint64_t>, Waiting> waiting;
    uint64_t next_order = 0;

    EnqueueOutcome enqueue(const CapturedPage& page, uint64_t version, bool obligation, bool full) {
        const auto key = std::pair{raw(page.region), page.page};
        auto found = waiting.find(key);
        if (found == waiting.end()) {
            if (full) return EnqueueOutcome::full;
            const uint32_t list = (obligation ? 0 : 16) + page.heat / 16;
            waiting[key] = {raw(page.epoch), version, page.heat, page.is_zero, list, next_order++};
            return EnqueueOutcome::queued;
        }
        Waiting& w = found->second;
        if (raw(page.epoch) < w.epoch) return EnqueueOutcome::stale;
        const bool duplicate =
            (w.zero && page.is_zero) || (!w.zero && !page.is_zero && w.version == version);
        const uint32_t list = (obligation || w.list < 16 ? 0 : 16) + page.heat / 16;
        const uint64_t order = list == w.list ? w.order : next_order++;
        w = {raw(page.epoch), version, page.heat, page.is_zero, list, order};
        return duplicate ? EnqueueOutcome::duplicate : EnqueueOutcome::replaced;
    }
    auto first() {
        return std::min_element(waiting.begin(), waiting.end(), [](const auto& a, const auto& b) {
            return std::pair(a.second.list, a.second.order) <
                   std::pair(b.second.list, b.second.order);
        });
    }
};

void run_model(uint64_t seed, uint64_t budget_pages) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    PagePool pool(budget_pages * kQueuedPageBytes);
    DirtyQueue queue(pool, kRegions);
    Model model;
    Content content;
    for (int step = 0; step < 20'000; ++step) {
        if (random.chance(0.6)) {
            const RegionId region{static_cast<uint16_t>(random.below(2))};
            const uint64_t page_no = random.below(raw(region) == 0 ? 200 : 100);
            const uint64_t version = random.below(12);
            const CapturedPage page =
                make_page(region, page_no, static_cast<uint32_t>(step / 100 + random.below(3)),
                          version, static_cast<uint8_t>(random.next()), content);
            const bool obligation = random.chance(0.1);
            const bool full = model.waiting.size() >= budget_pages;
            const auto expected = model.enqueue(page, version, obligation, full);
            if (random.chance(0.5) && pool.budget().try_reserve()) {
                ASSERT_EQ(queue.enqueue_reserved(page, obligation), expected);
            } else {
                ASSERT_EQ(queue.enqueue(page, obligation), expected);
            }
        } else {
            const auto taken = queue.take();
            ASSERT_EQ(taken.has_value(), !model.waiting.empty());
            if (!taken) continue;
            const auto first = model.first();
            ASSERT_EQ((std::pair{raw(taken->region), taken->page}), first->first);
            ASSERT_EQ(raw(taken->epoch), first->second.epoch);
            ASSERT_EQ(taken->heat, first->second.heat);
            ASSERT_EQ(taken->is_zero, first->second.zero);
            if (!taken->is_zero) {
                uint64_t version = 0;
                std::memcpy(&version, taken->bytes.data(), sizeof(version));
                ASSERT_EQ(version, first->second.version);
                ASSERT_EQ(taken->fingerprint.low, version + 1000);
            }
            model.waiting.erase(first);
            ASSERT_FALSE(queue.contains(taken->region, taken->page));
        }
        ASSERT_EQ(queue.size(), model.waiting.size());
        ASSERT_EQ(pool.budget().used_pages(), model.waiting.size());
        uint64_t content_pages = 0;
        for (const auto& [key, w] : model.waiting) content_pages += w.zero ? 0 : 1;
        ASSERT_EQ(queue.content_bytes(), content_pages * kPageBytes);
        ASSERT_LE(pool.slab_bytes(), (budget_pages + 255) / 256 * 256 * kPageBytes);
    }
    queue.clear();
    EXPECT_TRUE(queue.empty());
    EXPECT_EQ(pool.budget().used_pages(), 0u);
}

TEST(DirtyQueue, BehavesAsTheModel) {
    run_model(1, kPages);
}
TEST(DirtyQueue, BehavesAsTheModelWhenFull) {
    run_model(2, 40);
}

TEST(DirtyQueue, ObligationsThenColdestThenLongestWaiting) {
    PagePool pool(100 * kQueuedPageBytes);
    DirtyQueue queue(pool, kRegions);
    Content content;
    const auto add = [&](uint64_t page, uint8_t heat, bool obligation = false) {
        ASSERT_EQ(queue.enqueue(make_page(RegionId{0}, page, 1, page, heat, content), obligation),
                  EnqueueOutcome::queued);
    };
    add(1, 200);
    add(2, 5);
    add(3, 0);
    add(4, 255, true);
    add(6, 40);
    std::vector<uint64_t> order;
    while (const auto page = queue.take()) order.push_back(page->page);
    EXPECT_EQ(order, (std::vector<uint64_t>{4, 2, 3, 6, 1}));
}

TEST(DirtyQueue, TakenBytesStayUntilTheNextEnqueue) {
    PagePool pool(100 * kQueuedPageBytes);
    DirtyQueue queue(pool, kRegions);
    Content content;
    for (uint64_t i = 1; i < 5; ++i) queue.enqueue(make_page(RegionId{0}, i, 1, i, 0, content));
    std::vector<CapturedPage> batch;
    while (auto page = queue.take()) batch.push_back(*page);
    ASSERT_EQ(batch.size(), 4u);
    for (const CapturedPage& page : batch) {
        uint64_t version = 0;
        std::memcpy(&version, page.bytes.data(), sizeof(version));
        EXPECT_EQ(version, page.page);
    }
}

TEST(DirtyQueue, BudgetIsSharedAndGivenBackOnDestruction) {
    PagePool pool(3 * kQueuedPageBytes);
    Content content;
    DirtyQueue one(pool, kRegions);
    {
        DirtyQueue two(pool, kRegions);
        EXPECT_EQ(one.enqueue(make_page(RegionId{0}, 1, 1, 1, 0, content)), EnqueueOutcome::queued);
        EXPECT_EQ(two.enqueue(make_page(RegionId{0}, 1, 1, 1, 0, content)), EnqueueOutcome::queued);
        EXPECT_EQ(two.enqueue(make_page(RegionId{0}, 2, 1, 5, 0, content)), EnqueueOutcome::queued);
        EXPECT_EQ(one.enqueue(make_page(RegionId{0}, 2, 1, 1, 0, content)), EnqueueOutcome::full);
        EXPECT_EQ(two.enqueue(make_page(RegionId{0}, 2, 2, 1, 0, content)),
                  EnqueueOutcome::replaced);
        EXPECT_FALSE(pool.budget().try_reserve());
    }
    EXPECT_EQ(pool.budget().used_pages(), 1u);
    EXPECT_EQ(one.enqueue(make_page(RegionId{0}, 2, 1, 1, 0, content)), EnqueueOutcome::queued);
}

TEST(DirtyQueue, MemoryIsForWhatWaitsNotForTheVm) {
    constexpr uint64_t kWaiting = 1000;
    PagePool pool(kWaiting * kQueuedPageBytes);
    DirtyQueue queue(pool, {{"pc.ram", RegionKind::main_ram, kRegionBytesMax}});
    CapturedPage page;
    page.is_zero = true;
    Random random(4);
    for (uint64_t i = 0; i < 20 * kWaiting; ++i) {
        page.page = random.below(kRegionBytesMax / kPageBytes);
        queue.enqueue(page);
        if (queue.size() == kWaiting) {
            for (uint64_t n = 0; n < kWaiting / 2; ++n) queue.take();
        }
    }
    // A vector may have room for twice its elements.
    EXPECT_LE(queue.memory_bytes(), 2 * kWaiting * 72);
}

// Hashes are chosen so that pages collide, and their searches run over the end of the slots.
TEST(PageMap, AgreesWithAMapWhenHashesCollide) {
    for (const uint64_t seed : {1, 2, 3}) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        PageMap map(seed);
        std::map<uint32_t, uint32_t> model;  // page -> entry
        std::vector<uint32_t> page_of_entry(5000, UINT32_MAX);
        const auto hash_of = [](uint32_t page) { return UINT32_MAX - page % 40 * 3; };
        for (uint32_t step = 0; step < 5000; ++step) {
            const auto page = static_cast<uint32_t>(random.below(200));
            const auto is_it = [&](uint32_t entry) { return page_of_entry[entry] == page; };
            const auto known = model.find(page);
            const uint32_t found = map.find(hash_of(page), is_it);
            ASSERT_EQ(found, known == model.end() ? PageMap::kNone : known->second);
            if (known == model.end()) {
                page_of_entry[step] = page;
                map.insert(hash_of(page), step);
                model[page] = step;
            } else if (random.chance(0.8)) {
                map.erase(hash_of(page), known->second);
                model.erase(known);
            }
        }
    }
}

TEST(PageMap, SeedChangesWhichPagesCollide) {
    const PageMap one(1), other(2);
    EXPECT_NE(one.hash(RegionId{0}, 5), other.hash(RegionId{0}, 5));
    EXPECT_NE(one.hash(RegionId{0}, 5), one.hash(RegionId{1}, 5));
}

TEST(PageBudget, NeverExceedsItsLimitUnderContention) {
    PageBudget budget(100 * kQueuedPageBytes);
    std::atomic<uint64_t> most{0};
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
            uint64_t held = 0;
            for (int i = 0; i < 20'000; ++i) {
                if (budget.try_reserve()) ++held;
                uint64_t used = budget.used_pages(), seen = most;
                while (used > seen && !most.compare_exchange_weak(seen, used)) {
                }
                if (held > 40) budget.release(std::exchange(held, 0));
            }
            budget.release(held);
        });
    }
    threads.clear();
    EXPECT_LE(most, 100u);
    EXPECT_EQ(budget.used_pages(), 0u);
}

TEST(PageBudget, AFloodLeavesTheOthersTheirShares) {
    PageBudget budget(100 * kQueuedPageBytes);
    const auto a = budget.open(), b = budget.open();
    budget.guarantee(a, 20);
    budget.guarantee(b, 30);
    uint64_t held = 0;
    while (budget.try_reserve(a)) ++held;
    EXPECT_EQ(held, 70u);  // all that nobody else is guaranteed
    EXPECT_FALSE(budget.try_reserve());
    for (int i = 0; i < 30; ++i) EXPECT_TRUE(budget.try_reserve(b)) << i;
    EXPECT_FALSE(budget.try_reserve(b));
    budget.release(1, a);
    EXPECT_TRUE(budget.try_reserve(b));
    budget.release(31, b);
    budget.release(69, a);
    EXPECT_EQ(budget.used_pages(), 0u);
}

TEST(PageBudget, AGuaranteeGrowsAsRoomComesFree) {
    PageBudget budget(100 * kQueuedPageBytes);
    const auto a = budget.open(), b = budget.open();
    for (int i = 0; i < 90; ++i) ASSERT_TRUE(budget.try_reserve(a));
    budget.guarantee(b, 50);
    EXPECT_EQ(budget.guaranteed_pages(b), 10u);
    budget.release(20, a);
    ASSERT_TRUE(budget.try_reserve(a));
    ASSERT_TRUE(budget.try_reserve(PageBudget::kCommon));
    budget.guarantee(b, 50);
    EXPECT_EQ(budget.guaranteed_pages(b), 28u);
    budget.guarantee(b, 0);
    EXPECT_TRUE(budget.try_reserve(a));
}

TEST(PageBudget, AnAccountIsUsedAgainWhenItIsEmpty) {
    PageBudget budget(100 * kQueuedPageBytes);
    const auto a = budget.open();
    budget.guarantee(a, 100);
    ASSERT_TRUE(budget.try_reserve(a));
    budget.close(a);
    const auto b = budget.open();
    EXPECT_NE(b, a);
    budget.release(1, a);
    EXPECT_EQ(budget.open(), a);
    EXPECT_EQ(budget.guaranteed_pages(a), 0u);
    for (uint32_t i = 3; i < PageBudget::kAccounts; ++i) ASSERT_NE(budget.open(), 0u);
    EXPECT_EQ(budget.open(), PageBudget::kCommon);
}

TEST(PageBudget, GuaranteesHoldUnderContention) {
    PageBudget budget(100 * kQueuedPageBytes);
    std::array<PageBudget::Account, 3> accounts{budget.open(), budget.open(), budget.open()};
    budget.guarantee(accounts[0], 20);
    std::atomic<bool> over{false}, refused{false}, stop{false};
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < 3; ++t) {
        for (int twin = 0; twin < 2; ++twin) {
            threads.emplace_back([&, t] {
                Random random(t + 1);
                uint64_t held = 0;
                for (int i = 0; i < 30'000; ++i) {
                    // Two threads share the first account and stay within its guarantee.
                    const uint64_t most = t == 0 ? 10 : 200;
                    if (held < most && budget.try_reserve(accounts[t])) {
                        ++held;
                    } else if (t == 0 && held < most) {
                        refused = true;
                    }
                    if (budget.used_pages() > 100 + 6) over = true;  // its count is relaxed
                    if (random.chance(0.3) && held != 0) {
                        const uint64_t back = 1 + random.below(held);
                        budget.release(back, accounts[t]);
                        held -= back;
                    }
                }
                budget.release(held, accounts[t]);
            });
        }
    }
    std::jthread changing([&] {
        for (uint64_t i = 0; !stop; ++i) budget.guarantee(accounts[1], i % 40);
    });
    threads.clear();
    stop = true;
    changing.join();
    EXPECT_FALSE(over);
    EXPECT_FALSE(refused);
    EXPECT_EQ(budget.used_pages(), 0u);
    budget.guarantee(accounts[0], 0);
    budget.guarantee(accounts[1], 0);
    uint64_t all = 0;
    while (budget.try_reserve(accounts[2])) ++all;
    EXPECT_EQ(all, 100u);  // nothing of the common room was lost
    budget.release(all, accounts[2]);
}

}  // namespace
}  // namespace evac::prestage
