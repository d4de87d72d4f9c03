// Counts what the reducer takes from the heap once it has run for a while. Replaces operator new,
// so it counts for the whole program; OpenSSL's own malloc (112 bytes per hashed page) is not seen.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "util.hpp"

namespace {
std::atomic<uint64_t> allocations{0};
}

void* operator new(size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
    std::free(memory);
}

namespace evac::dedup {
namespace {

using test::mutated;
using test::page_of;

TEST(Allocation, NoneForAPageOneForABatch) {
    NullLogger log;
    auto index = std::move(Index::open({.directory = "", .table_bytes = 1 << 18}, log)).value();
    ReducerOptions options;
    options.sketch_table_bytes = 1 << 18;
    options.cache_bytes = 4 << 20;
    Reducer* self = nullptr;
    uint64_t batches = 0;
    auto reducer =
        std::move(Reducer::create(options, test::make_hasher(), *index, [&](EncodedBatch&& batch) {
            ++batches;
            self->acknowledge(batch.vm, batch.sequence);
        })).value();
    self = reducer.get();
    constexpr VmId kVm{1};
    ASSERT_TRUE(reducer->set_region(kVm, RegionId{0}, RegionKind::main_ram, 4096).ok());
    const Fingerprinter fingerprinter = test::make_fingerprinter();
    // Literals, references, deltas and zero pages, the same each turn but changed a little.
    std::vector<test::Page> pages;
    const auto turn = [&](uint64_t number) {
        pages.clear();
        for (uint64_t i = 0; i < 512; ++i) {
            const bool fresh = i % 4 == 0;
            pages.push_back(fresh ? page_of(number * 1000 + i)
                                  : mutated(page_of(i - i % 2 + 1), number, i / 2 % 3 * 10));
        }
        std::vector<PageItem> items(pages.size());
        for (uint64_t i = 0; i < pages.size(); ++i) {
            items[i].key = PageKey{kVm, RegionId{0}, i};
            items[i].epoch = Epoch{static_cast<uint32_t>(number)};
            items[i].is_zero = i % 16 == 3;
            items[i].page = pages[i];
            items[i].fingerprint = fingerprinter(pages[i]);
        }
        const uint64_t before = allocations;
        batches = 0;
        reducer->add_all(items);
        reducer->flush();
        return allocations - before;
    };
    for (uint64_t number = 1; number < 10; ++number) turn(number);
    const uint64_t taken = turn(10);
    const ReducerStats& stats = reducer->stats();
    for (const Rung rung :
         {Rung::zero, Rung::reference_same_vm, Rung::delta_previous, Rung::literal}) {
        EXPECT_GT(stats.memory[static_cast<size_t>(rung)].pages, 100u) << to_string(rung);
    }
    ASSERT_GT(batches, 5u);
    // The message, which the sink keeps.
    EXPECT_EQ(taken, batches);
}

}  // namespace
}  // namespace evac::dedup
