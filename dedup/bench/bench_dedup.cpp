// Prints what each rung and each half of the index costs, per CPU-second of the calling thread
// (RocksDB's own threads are not counted; writes are also shown per CPU-second of the whole
// process).
//   bench_dedup [index entries, default 2000000] [directory for the store, default /tmp; none: the
//   table alone]
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/dedup/expander.hpp"
#include "evac/dedup/reducer.hpp"
#include "mixed_backlog.hpp"

namespace {

using namespace evac;
using namespace evac::dedup;

double cpu_seconds(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double measure(const std::function<void()>& work, clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
    const double start = cpu_seconds(clock);
    work();
    return cpu_seconds(clock) - start;
}

void print_pages(const char* what, uint64_t pages, double seconds) {
    const double mb = static_cast<double>(pages * kPageBytes) / 1e6;
    std::printf("%-34s %10.0f MB/s   %8.3f us/page\n", what, mb / seconds,
                seconds * 1e6 / static_cast<double>(pages));
}

void print_rate(const char* what, uint64_t count, double seconds) {
    std::printf("%-34s %10.0f k/s    %8.3f us each\n", what,
                static_cast<double>(count) / seconds / 1e3,
                seconds * 1e6 / static_cast<double>(count));
}

constexpr uint64_t kPages = 32'768;  // 128 MiB: beyond the caches
constexpr VmId kVm{1};
constexpr RegionId kDisk{0};
constexpr RegionId kRam{1};

// About as compressible as the guests of the facts (3:1): words of a small vocabulary, numbered.
void fill_text(std::byte* page, Random& random) {
    for (size_t i = 0; i < kPageBytes; i += 16) {
        Random word(random.below(700));
        const uint64_t words[2] = {word.next(), random.chance(0.12) ? random.next() : word.next()};
        std::memcpy(page + i, words, 16);
    }
}

struct Pages {
    Pages() : bytes(kPages * kPageBytes) {
        Random random(7);
        for (uint64_t i = 0; i < kPages; ++i) fill_text(bytes.data() + i * kPageBytes, random);
    }
    PageSpan page(uint64_t i) const { return PageSpan(bytes.data() + i * kPageBytes, kPageBytes); }
    Bytes bytes;
};

struct NullStaged final : StagedPages {
    explicit NullStaged(const Pages& from) : pages(from) {}
    Status read(const PageKey& key, std::span<std::byte, kPageBytes> out) override {
        std::memcpy(out.data(), pages.page(key.page).data(), kPageBytes);
        return {};
    }
    Status put(const PageKey&, Epoch, std::span<const std::byte, kPageBytes>) override {
        return {};
    }
    Status put_zero(const PageKey&, Epoch, uint64_t) override { return {}; }
    const Pages& pages;
};

IdentityHasher make_hasher() {
    return std::move(IdentityHasher::create(as_byte_span("a secret for the benchmark"))).value();
}

void bench_hashes(const Pages& pages) {
    IdentityHasher hasher = make_hasher();
    const Fingerprinter fingerprinter(make_hasher().fingerprint_seed());
    uint64_t sum = 0;
    const Bytes zero(64 * kMiB);
    print_pages("zero test (zero pages, cold)", 16'384, measure([&] {
                    for (uint64_t i = 0; i < 16'384; ++i) {
                        sum += is_zero_page(PageSpan(zero.data() + i * kPageBytes, kPageBytes));
                    }
                }));
    print_pages("fingerprint (xxh3-128, cold)", kPages, measure([&] {
                    for (uint64_t i = 0; i < kPages; ++i) sum += fingerprinter(pages.page(i)).low;
                }));
    print_pages("identity (keyed SHA-256)", kPages, measure([&] {
                    for (uint64_t i = 0; i < kPages; ++i) {
                        sum += std::to_integer<uint64_t>(hasher(pages.page(i))[0]);
                    }
                }));
    if (sum == 42) std::puts("");  // keeps the work
}

struct Home {
    explicit Home(int level) {
        NullLogger log;
        index = std::move(Index::open({.directory = ""}, log)).value();
        ReducerOptions options;
        options.zstd_level = level;
        reducer =
            std::move(Reducer::create(options, make_hasher(), *index, [this](EncodedBatch&& b) {
                wire += b.message.size();
                reducer->acknowledge(b.vm, b.sequence);
                sent.push_back(std::move(b.message));
            })).value();
        for (const RegionId region : {kDisk, kRam}) {
            const auto kind = region == kDisk ? RegionKind::disk : RegionKind::main_ram;
            if (!reducer->set_region(kVm, region, kind, kPages).ok()) std::abort();
        }
    }
    double feed(const Pages* pages, RegionId region) {
        const Fingerprinter fingerprinter(make_hasher().fingerprint_seed());
        std::vector<Fingerprint> fingerprints(kPages);
        for (uint64_t i = 0; pages != nullptr && i < kPages; ++i) {
            fingerprints[i] = fingerprinter(pages->page(i));
        }
        sent.clear();
        wire = 0;
        return measure([&] {
            for (uint64_t i = 0; i < kPages; ++i) {
                PageItem item;
                item.key = PageKey{kVm, region, i};
                item.epoch = Epoch{1};
                item.is_zero = pages == nullptr;
                item.fingerprint = fingerprints[i];
                if (pages != nullptr) item.page = pages->page(i);
                reducer->add(item);
            }
            reducer->flush();
        });
    }
    std::unique_ptr<Index> index;
    std::unique_ptr<Reducer> reducer;
    std::vector<Bytes> sent;
    uint64_t wire = 0;
};

void bench_reduction(const Pages& pages) {
    NullStaged staged(pages);
    auto expander = std::move(Expander::create(make_hasher(), staged)).value();
    const auto expand = [&](const Home& home) {
        return measure([&] {
            for (const Bytes& message : home.sent) {
                if (!expander->expand(message).ok()) std::abort();
            }
        });
    };
    const auto both = [&](const std::string& what, Home& home, double seconds) {
        print_pages(("reduce " + what).c_str(), kPages, seconds);
        print_pages(("expand " + what).c_str(), kPages, expand(home));
        std::printf("%-34s %10.2f\n", "  raw / wire",
                    double(kPages * kPageBytes) / double(home.wire));
    };
    Home home(1);
    double seconds = home.feed(nullptr, kRam);
    both("zero", home, seconds);
    seconds = home.feed(&pages, kDisk);
    both("literal, zstd 1", home, seconds);
    seconds = home.feed(&pages, kRam);
    both("reference", home, seconds);
    for (const int level : {-5, 3}) {
        Home other(level);
        seconds = other.feed(&pages, kDisk);
        both("literal, zstd " + std::to_string(level), other, seconds);
    }
}

// Mixed content (mixed_backlog.hpp) with every rung, once the reducer's memory has been touched:
// another guest's disk and memory went through before.
void bench_mixed() {
    constexpr uint64_t kMixedPages = 49'152;  // 192 MiB
    const bench::MixedBacklog before(kMixedPages, 1);
    const bench::MixedBacklog measured(kMixedPages, 2);
    for (const int level : {-5, -1, 1, 3}) {
        NullLogger log;
        auto index = std::move(Index::open({.directory = ""}, log)).value();
        Reducer* self = nullptr;
        uint64_t wire = 0;
        auto reducer =
            std::move(Reducer::create(ReducerOptions{.zstd_level = level}, make_hasher(), *index,
                                      [&](EncodedBatch&& b) {
                                          wire += b.message.size();
                                          self->acknowledge(b.vm, b.sequence);
                                      }))
                .value();
        self = reducer.get();
        const auto feed = [&](const bench::MixedBacklog& backlog, VmId vm) {
            const auto add = [&](PageItem item) {
                item.key.vm = vm;
                reducer->add(item);
            };
            if (!reducer->set_region(vm, kDisk, RegionKind::disk, backlog.disk_pages()).ok() ||
                !reducer->set_region(vm, kRam, RegionKind::main_ram, backlog.pages()).ok()) {
                std::abort();
            }
            for (uint64_t i = 0; i < backlog.disk_pages(); ++i) add(backlog.disk_item(i));
            reducer->flush();
            wire = 0;
            return measure([&] {
                for (uint64_t i = 0; i < backlog.pages(); ++i) add(backlog.ram_item(i));
                reducer->flush();
            });
        };
        feed(before, VmId{1});
        const double seconds = feed(measured, VmId{2});
        print_pages(("reduce mixed, zstd " + std::to_string(level)).c_str(), kMixedPages, seconds);
        std::printf("%-34s %10.2f\n", "  raw / wire",
                    double(kMixedPages * kPageBytes) / double(wire));
    }
}

Identity identity_of(uint64_t id) {
    Random random(id);
    const uint64_t words[2] = {random.next(), random.next()};
    Identity out;
    std::memcpy(out.data(), words, sizeof words);
    return out;
}

void bench_store_lookups(Index& index, uint64_t entries) {
    constexpr uint64_t kLookups = 100'000;
    uint64_t hits = 0;
    const auto single = [&](const char* what, uint64_t origin) {
        Random random(3);
        print_rate(
            what, kLookups, measure([&] {
                for (uint64_t i = 0; i < kLookups; ++i) {
                    hits += index.lookup(identity_of(origin + random.below(entries))).has_value();
                }
            }));
    };
    const auto batched = [&](const char* what, uint64_t origin) {
        Random random(4);
        std::vector<Identity> wanted(128);
        std::vector<std::optional<Location>> found(wanted.size());
        print_rate(what, kLookups / 128 * 128, measure([&] {
                       for (uint64_t i = 0; i < kLookups / 128; ++i) {
                           for (Identity& one : wanted)
                               one = identity_of(origin + random.below(entries));
                           index.lookup_batch(wanted, found);
                           hits += found[0].has_value();
                       }
                   }));
    };
    single("store Get, hit", 0);
    batched("store MultiGet(128), hit", 0);
    single("store Get, miss", entries * 10);
    batched("store MultiGet(128), miss", entries * 10);
    const IndexStats stats = index.stats();
    std::printf("%-34s %10.1f MiB in files, %.1f MiB of memory, %.1f %% of hits\n", "store",
                double(stats.store_bytes) / double(kMiB),
                double(stats.store_memory_bytes) / double(kMiB),
                100.0 * double(stats.store_hits + stats.table_hits) / double(stats.lookups) * 2);
}

void bench_table(uint64_t entries) {
    NullLogger log;
    {
        const size_t table_bytes = std::bit_ceil(entries * kTableEntryBytes + entries * 4);
        auto index =
            std::move(Index::open({.directory = "", .table_bytes = table_bytes}, log)).value();
        print_rate("table insert", entries, measure([&] {
                       for (uint64_t i = 0; i < entries; ++i) {
                           index->insert(identity_of(i), Location{kVm, kDisk, i});
                       }
                   }));
        uint64_t hits = 0;
        Random random(5);
        print_rate("table lookup, hit", entries, measure([&] {
                       for (uint64_t i = 0; i < entries; ++i) {
                           hits += index->lookup(identity_of(random.below(entries))).has_value();
                       }
                   }));
        print_rate("table lookup, miss", entries, measure([&] {
                       for (uint64_t i = 0; i < entries; ++i) {
                           hits += index->lookup(identity_of(entries * 9 + i)).has_value();
                       }
                   }));
        std::printf("%-34s %10.2f %% of hits, %zu MiB\n", "table",
                    100.0 * double(hits) / double(entries), table_bytes / size_t{kMiB});
    }
}

void bench_index(uint64_t entries, const std::string& parent) {
    std::string directory = parent + "/bench_dedup_XXXXXX";
    if (mkdtemp(directory.data()) == nullptr) {
        std::perror("mkdtemp");
        std::exit(1);
    }
    NullLogger log;
    {
        // A table of one bucket: every lookup goes to the store.
        IndexOptions options{.directory = directory, .table_bytes = 64};
        auto index = std::move(Index::open(options, log)).value();
        const auto write = [&] {
            for (uint64_t i = 0; i < entries; ++i) {
                index->insert(identity_of(i), Location{kVm, kDisk, i});
                if (i % Index::kPendingBatch == 0 && !index->flush().ok()) std::abort();
            }
            index->hand_over();
            if (!index->flush().ok()) std::abort();
        };
        print_rate("store write (process CPU)", entries, measure(write, CLOCK_PROCESS_CPUTIME_ID));
        bench_store_lookups(*index, entries);
    }
    {
        std::unique_ptr<Index> index;
        const IndexOptions options{.directory = directory};
        const double seconds =
            measure([&] { index = std::move(Index::open(options, log)).value(); });
        print_rate("open, table warmed", std::max<uint64_t>(1, index->stats().warmed), seconds);
    }
    std::filesystem::remove_all(directory);
}

}  // namespace

int main(int argc, char** argv) {
    const uint64_t entries = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 2'000'000;
    if (entries < 1000 || entries > 100'000'000) {
        std::fprintf(stderr, "index entries: 1000 to 100000000\n");
        return 2;
    }
    {
        const Pages pages;
        bench_hashes(pages);
        bench_reduction(pages);
    }
    bench_mixed();
    bench_table(entries);
    const std::string parent = argc > 2 ? argv[2] : "/tmp";
    if (parent != "none") bench_index(entries, parent);
    return 0;
}
