// Put rate and seal time of StagedVm on the real file system. Not part of ctest.
//   storage_sync_staged_bench [FOLDER] [RAM FOLDER]
#include <cstdio>
#include <filesystem>
#include <string>

#include "evac/core/clock.hpp"
#include "evac/core/random.hpp"
#include "evac/storage_sync/staged_vm.hpp"

using namespace evac;
using namespace evac::storage_sync;

namespace {

constexpr uint64_t kPages = 64 * 1024;  // 256 MiB of RAM
constexpr uint64_t kDeltaPages = 10'000;

void must(const Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "%s\n", status.error().message().c_str());
    std::exit(1);
}

double seconds_since(uint64_t start_ns) {
    return static_cast<double>(SystemClock().now_ns() - start_ns) / 1e9;
}

void put_pages(StagedVm& vm, uint64_t count, uint32_t epoch, bool random_order, const char* what) {
    Random random(epoch);
    Bytes page(kPageBytes);
    const uint64_t start_ns = SystemClock().now_ns();
    for (uint64_t i = 0; i < count; ++i) {
        page[0] = static_cast<std::byte>(1 + i % 255);
        auto done =
            vm.put(RegionId{0}, random_order ? random.below(kPages) : i, Epoch{epoch}, page);
        if (!done.ok()) must(done.error());
    }
    const double seconds = seconds_since(start_ns);
    std::printf("%-34s %8.0f MB/s\n", what,
                static_cast<double>(count * kPageBytes) / 1e6 / seconds);
}

void seal(StagedVm& vm, uint32_t epoch, bool keep, const char* what) {
    const Bytes state(128 * 1024);
    uint64_t start_ns = SystemClock().now_ns();
    must(vm.seal(Epoch{epoch}, state, {epoch, 0, keep}));
    const double sealed = seconds_since(start_ns);
    start_ns = SystemClock().now_ns();
    must(vm.checkpoint());
    std::printf("%-34s %8.1f ms, checkpoint %.1f ms\n", what, sealed * 1e3,
                seconds_since(start_ns) * 1e3);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string folder = std::string(argc > 1 ? argv[1] : "/tmp") + "/evac-staged-bench";
    const std::string ram = std::string(argc > 2 ? argv[2] : folder) + "/evac-staged-bench-ram";
    Files& files = posix_files();
    std::filesystem::remove_all(folder);
    std::filesystem::remove_all(ram);
    auto made = StagedVm::create(
        files, folder, ram,
        {"bench", VmId{1}, {{RegionKind::main_ram, "pc.ram", kPages * kPageBytes}}}, {});
    if (!made.ok()) must(made.error());
    StagedVm& vm = **made;
    put_pages(vm, kPages, 1, false, "put in place, ascending");
    seal(vm, 1, true, "first seal (syncs 256 MiB)");
    put_pages(vm, kDeltaPages, 2, true, "put to the log, random pages");
    seal(vm, 2, true, "seal of 10k pages, with undo");
    put_pages(vm, kDeltaPages, 3, true, "put to the log, random pages");
    seal(vm, 3, false, "seal of 10k pages, without undo");
    put_pages(vm, 1000, 4, true, "put to the log, 1000 pages");
    seal(vm, 4, false, "seal of 1k pages, without undo");
    const uint64_t start_ns = SystemClock().now_ns();
    auto prints = vm.fingerprints(RegionId{0}, 0, kPages, [](ByteSpan page) {
        return Fingerprint{static_cast<uint64_t>(page[0]), static_cast<uint64_t>(page[4095])};
    });
    if (!prints.ok()) must(prints.error());
    std::printf("%-34s %8.0f MB/s without the hash\n", "fingerprints",
                268.4 / seconds_since(start_ns));
    made->reset();
    std::filesystem::remove_all(folder);
    std::filesystem::remove_all(ram);
    return 0;
}
