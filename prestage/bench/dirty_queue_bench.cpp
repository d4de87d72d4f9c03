// Cost of an epoch with a fixed number of dirty pages against the size of the VM: this queue beside
// a scan of a dirty bitmap (one bit per page, the way that grows with memory). Both copy each dirty
// page once. CPU time of the thread, median of the epochs; the dirty pages are anywhere in the VM.
// Usage: bench_dirty_queue [--json FILE]
#include <bit>
#include <cstdlib>
#include <map>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/prestage/dirty_queue.hpp"
#include "figures.hpp"

namespace {

using namespace evac;
using namespace evac::prestage;

constexpr int kEpochs = 101;
constexpr uint64_t kGib = 1024 * kMiB;
constexpr uint64_t kSizesGib[] = {4, 16, 64, 256, 1024};

uint64_t checksum = 0;

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

std::vector<uint64_t> dirty_pages(Random& random, uint64_t pages, uint64_t dirty) {
    std::vector<uint64_t> out(dirty);
    for (uint64_t& page : out) page = random.below(pages);
    return out;
}

double queue_us(uint64_t pages, uint64_t dirty) {
    PagePool pool((dirty + 1) * kQueuedPageBytes);
    DirtyQueue queue(pool, {{"pc.ram", RegionKind::main_ram, pages * kPageBytes}});
    const Bytes content(kPageBytes, std::byte{1});
    Random random(1);
    std::vector<double> us;
    for (uint32_t epoch = 1; epoch <= kEpochs; ++epoch) {
        const std::vector<uint64_t> set = dirty_pages(random, pages, dirty);
        const double start = bench::cpu_seconds();
        for (const uint64_t page : set) {
            CapturedPage captured;
            captured.page = page;
            captured.epoch = Epoch{epoch};
            captured.fingerprint = {page + 1, epoch};
            captured.bytes = content;
            queue.enqueue(captured);
        }
        while (const auto page = queue.take()) checksum += page->page;
        us.push_back((bench::cpu_seconds() - start) * 1e6);
    }
    return median(us);
}

double scan_us(uint64_t pages, uint64_t dirty) {
    std::vector<uint64_t> bitmap(pages / 64);
    const Bytes content(kPageBytes, std::byte{1});
    Bytes copies(kPageBytes * dirty);
    Random random(1);
    std::vector<double> us;
    for (uint32_t epoch = 1; epoch <= kEpochs; ++epoch) {
        const std::vector<uint64_t> set = dirty_pages(random, pages, dirty);
        const double start = bench::cpu_seconds();
        for (const uint64_t page : set) bitmap[page / 64] |= uint64_t{1} << (page % 64);
        size_t copied = 0;
        for (size_t at = 0; at < bitmap.size(); at += 8) {
            uint64_t any = 0;  // a cache line of the bitmap at once
            for (size_t word = at; word < at + 8; ++word) any |= bitmap[word];
            if (any == 0) continue;
            for (size_t word = at; word < at + 8; ++word) {
                for (; bitmap[word] != 0; bitmap[word] &= bitmap[word] - 1) {
                    checksum += word * 64 + static_cast<uint64_t>(std::countr_zero(bitmap[word]));
                    std::memcpy(copies.data() + copied++ * kPageBytes, content.data(), kPageBytes);
                }
            }
        }
        us.push_back((bench::cpu_seconds() - start) * 1e6);
    }
    return median(us);
}

}  // namespace

int main(int argc, char** argv) {
    bench::Figures figures(argc, argv);
    std::map<uint64_t, double> queue_of_1000, scan_of_1000;
    std::printf("CPU us per epoch, median of %d epochs\n%8s %8s %12s %12s\n", kEpochs, "dirty",
                "VM GiB", "queue", "bitmap scan");
    for (const uint64_t dirty : {100, 1000, 10'000}) {
        for (const uint64_t gib : kSizesGib) {
            const uint64_t pages = gib * (kGib / kPageBytes);
            const double queue = queue_us(pages, dirty);
            const double scan = scan_us(pages, dirty);
            std::printf("%8llu %8llu %12.1f %12.1f\n", static_cast<unsigned long long>(dirty),
                        static_cast<unsigned long long>(gib), queue, scan);
            std::fflush(stdout);
            if (dirty != 1000) continue;
            queue_of_1000[gib] = queue;
            scan_of_1000[gib] = scan;
        }
    }
    if (checksum == 42) std::puts("");  // keeps the work
    figures.add("dirty_queue_us_per_1000_at_1_tib", queue_of_1000[1024], "us", std::nullopt,
                scan_of_1000[1024]);
    figures.add("dirty_queue_flatness", queue_of_1000[1024] / queue_of_1000[4], "ratio",
                bench::Target{false, 1.5}, scan_of_1000[1024] / scan_of_1000[4]);
    return figures.finish();
}
