// Scans of mapped guest memory in which no page has changed, by CPU time, beside plain seeded
// xxh3-128 over the same mapping. Usage: bench_mapped [--json FILE] [--quick] [--dir FOLDER]
//   64 MiB to 1 GiB of random content (no zero page) in a memfd, or in a file in FOLDER. The memory
//   is cold where it is larger than the caches; the catalogue's entries are read along with it. A
//   figure is the best of the repetitions: on a shared machine the others measure the neighbours.
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "evac/prestage/mapped_memory.hpp"

namespace {

using namespace evac;
using namespace evac::prestage;

constexpr double kTargetGbS = 5.0;  // GB = 1e9 bytes, of one core
constexpr uint64_t kBytesPerFigure = 8ULL << 30;
constexpr uint64_t kSeed = 7;

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "bench_mapped: %s\n", what.c_str());
    std::exit(1);
}

double cpu_s() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

class Ignore final : public PageSink {
  public:
    bool page(const CapturedPage&) override { return true; }
};

struct Outcome {
    uint64_t bytes = 0;
    double scan_gb_s = 0;
    double xxh3_gb_s = 0;
};

UniqueFd make_file(const std::string& folder, uint64_t bytes) {
    UniqueFd file(folder.empty() ? ::memfd_create("mapped-bench", MFD_CLOEXEC)
                                 : ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0)
        die("cannot make a file of " + std::to_string(bytes) + " bytes");
    std::mt19937_64 random(1);
    std::vector<uint64_t> block(64 * 1024 / sizeof(uint64_t));
    for (uint64_t at = 0; at < bytes; at += 64 * 1024) {
        for (uint64_t& word : block) word = random();
        if (::pwrite(file.get(), block.data(), 64 * 1024, static_cast<off_t>(at)) != 64 * 1024)
            die("cannot fill the file");
    }
    return file;
}

Outcome measure(const std::string& folder, uint64_t bytes, bool quick) {
    const uint64_t repetitions =
        std::max<uint64_t>(3, (quick ? 1 : 4) * kBytesPerFigure / 4 / bytes);
    UniqueFd file = make_file(folder, bytes);
    void* const base = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file.get(), 0);
    if (base == MAP_FAILED) die("mmap");
    Outcome out;
    out.bytes = bytes;
    SystemClock clock;
    Catalogue catalogue(kSeed, {{"pc.ram", RegionKind::main_ram, bytes}});
    auto memory = MappedMemory::from_file(std::move(file), {"pc.ram", bytes}, clock);
    if (!memory.ok()) die(memory.error().message());
    Ignore sink;
    const ScanRequest request{RegionId{0}, Epoch{1}, [] { return Status(); }};
    if (!(*memory)->scan(catalogue, sink, request).ok()) die("first scan");
    uint64_t sum = 0;
    std::vector<double> scans, hashes;
    // In turn, so that both meet the same neighbours.
    for (uint64_t i = 0; i < repetitions; ++i) {
        const double begin = cpu_s();
        const auto scanned = (*memory)->scan(catalogue, sink, request);
        const double middle = cpu_s();
        if (!scanned.ok() || scanned->pages_changed != 0) die("a page changed");
        const auto* const at = static_cast<const std::byte*>(base);
        for (uint64_t page = 0; page < bytes; page += kPageBytes)
            sum += XXH3_128bits_withSeed(at + page, kPageBytes, kSeed).low64;
        const double end = cpu_s();
        const double gb = static_cast<double>(bytes) / 1e9;
        scans.push_back(gb / (middle - begin));
        hashes.push_back(gb / (end - middle));
    }
    for (auto* all : {&scans, &hashes}) std::sort(all->begin(), all->end());
    out.scan_gb_s = scans[scans.size() / 2];
    out.xxh3_gb_s = hashes[hashes.size() / 2];
    if (sum == 1) std::printf("\n");  // the hashes are needed
    ::munmap(base, bytes);
    return out;
}

}  // namespace

int main(int argc, char** argv) {
    std::string json, folder;
    bool quick = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") {
            quick = true;
        } else if (word == "--json" && i + 1 < argc) {
            json = argv[++i];
        } else if (word == "--dir" && i + 1 < argc) {
            folder = argv[++i];
        } else {
            std::fprintf(stderr, "usage: bench_mapped [--json FILE] [--quick] [--dir FOLDER]\n");
            return 2;
        }
    }
    Outcome last;
    std::printf("%10s %14s %14s\n", "MiB", "scan GB/s", "xxh3 GB/s");
    for (const uint64_t mib : {64, 256, 1024}) {
        if (quick && mib > 256) continue;
        last = measure(folder, mib << 20, quick);
        std::printf("%10llu %14.2f %14.2f\n", static_cast<unsigned long long>(mib), last.scan_gb_s,
                    last.xxh3_gb_s);
    }
    if (json.empty()) return 0;
    std::ofstream out(json);
    out << "{\"figures\": {\"mapped_unchanged_gb_s\": {\"value\": " << last.scan_gb_s
        << ", \"unit\": \"GB/s of one core\", \"target\": " << kTargetGbS
        << ", \"met\": " << (last.scan_gb_s >= kTargetGbS ? "true" : "false")
        << ", \"baseline\": " << last.xxh3_gb_s << "}}}\n";
    if (!out) die("cannot write '" + json + "'");
    return 0;
}
