// Cost of an epoch with a fixed number of dirty pages against the size of the VM: this queue beside
// a scan of a dirty bitmap (one bit per page), the way that grows with memory. Both copy each dirty
// page once. Usage: dirty_queue_bench [dirty pages, default 1000]
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/prestage/dirty_queue.hpp"

namespace {

using namespace evac;
using namespace evac::prestage;
using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
    const uint64_t dirty = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000;
    constexpr int kEpochs = 200;
    std::printf("%llu dirty pages per epoch, mean of %d epochs\n",
                static_cast<unsigned long long>(dirty), kEpochs);
    std::printf("%10s %22s %22s\n", "VM size", "queue us/epoch", "bitmap scan us/epoch");
    for (uint64_t gib = 1; gib <= 256; gib *= 4) {
        const uint64_t pages = gib * (1024 * kMiB / kPageBytes);
        PagePool pool((dirty + 1) * kQueuedPageBytes);
        DirtyQueue queue(pool, {{"pc.ram", RegionKind::main_ram, pages * kPageBytes}});
        std::vector<uint64_t> bitmap(pages / 64);
        Bytes content(kPageBytes, std::byte{1});
        Random random(1);
        double queue_us = 0, scan_us = 0;
        uint64_t sum = 0;
        Bytes copy(kPageBytes * dirty);
        for (int epoch = 1; epoch <= kEpochs; ++epoch) {
            std::vector<uint64_t> set(dirty);
            for (uint64_t& page : set) page = random.below(pages);
            auto start = Clock::now();
            for (const uint64_t page : set) {
                CapturedPage captured;
                captured.page = page;
                captured.epoch = Epoch{static_cast<uint32_t>(epoch)};
                captured.fingerprint = {page + 1, static_cast<uint64_t>(epoch)};
                captured.bytes = content;
                queue.enqueue(captured);
            }
            while (const auto page = queue.take()) sum += page->page;
            queue_us += us_since(start);
            start = Clock::now();
            size_t at = 0;
            for (const uint64_t page : set) bitmap[page / 64] |= uint64_t{1} << (page % 64);
            for (size_t word = 0; word < bitmap.size(); ++word) {
                while (bitmap[word] != 0) {
                    sum += word * 64 + static_cast<uint64_t>(std::countr_zero(bitmap[word]));
                    std::memcpy(copy.data() + at, content.data(), kPageBytes);
                    at += kPageBytes;
                    bitmap[word] &= bitmap[word] - 1;
                }
            }
            scan_us += us_since(start);
        }
        std::printf("%6llu GiB %22.1f %22.1f   (%llu)\n", static_cast<unsigned long long>(gib),
                    queue_us / kEpochs, scan_us / kEpochs,
                    static_cast<unsigned long long>(sum % 10));
    }
    return 0;
}
