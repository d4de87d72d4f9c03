// The index at scale: N distinct keys through Index and its store, written by a worker as in the
// daemon, then every kind of lookup, a reopening, and eviction.
//   bench_index [--entries N, default 20000000] [--directory D, default /tmp] [--json FILE]
// Times are CPU time, of the calling thread unless it says "process"; bytes are what the kernel and
// the file system say.
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/dedup/index.hpp"

namespace {

using namespace evac;
using namespace evac::dedup;

constexpr uint64_t kEntriesMax = 200'000'000;
constexpr uint64_t kLookups = 200'000;
constexpr uint64_t kMany = 128;  // per MultiGet
constexpr uint64_t kBatchesAhead = Index::kPendingBatches / 2;

double cpu_seconds(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Measured {
    double thread_s = 0, process_s = 0, wall_s = 0;
};
Measured measure(const std::function<void()>& work) {
    const double thread_s = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    const double process_s = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    const double wall_s = cpu_seconds(CLOCK_MONOTONIC);
    work();
    return {cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - thread_s,
            cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - process_s,
            cpu_seconds(CLOCK_MONOTONIC) - wall_s};
}

uint64_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    uint64_t all = 0, resident = 0;
    file >> all >> resident;
    return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t directory_bytes(const std::string& path) {
    uint64_t bytes = 0;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
        if (entry.is_regular_file(error)) bytes += entry.file_size(error);
    }
    return bytes;
}

Identity identity_of(uint64_t id) {
    Random random(id);
    const uint64_t words[2] = {random.next(), random.next()};
    Identity out;
    std::memcpy(out.data(), words, sizeof words);
    return out;
}
Location location_of(uint64_t id) {
    return Location{VmId{static_cast<uint32_t>(id >> 26)}, RegionId{1}, id & ((1 << 26) - 1)};
}

// name -> value, unit, and the target that it is held against.
class Figures {
  public:
    enum class Better { lower, higher };
    void add(const std::string& name, double value, const std::string& unit, double target,
             Better better) {
        const bool met = better == Better::lower ? value <= target : value >= target;
        std::printf("%-44s %12.3f %-10s target %s %g%s\n", name.c_str(), value, unit.c_str(),
                    better == Better::lower ? "<=" : ">=", target, met ? "" : "   MISSED");
        if (!text_.empty()) text_ += ",\n";
        char line[512];
        std::snprintf(line, sizeof line,
                      "  \"%s\": {\"value\": %.6g, \"unit\": \"%s\", \"target\": %g, \"met\": %s}",
                      name.c_str(), value, unit.c_str(), target, met ? "true" : "false");
        text_ += line;
    }
    bool write(const std::string& path) const {
        std::ofstream file(path, std::ios::trunc);
        file << "{\"figures\": {\n" << text_ << "\n}}\n";
        return static_cast<bool>(file.flush());
    }

  private:
    std::string text_;
};

std::unique_ptr<Index> open_index(const IndexOptions& options) {
    static NullLogger log;
    auto index = Index::open(options, log);
    if (!index.ok()) {
        std::fprintf(stderr, "%s\n", index.error().message().c_str());
        std::exit(1);
    }
    return std::move(*index);
}

// Inserts [first, first + count); the worker flushes beside it, and is never left so far behind
// that hints are dropped.
Measured insert_all(Index& index, uint64_t first, uint64_t count) {
    std::atomic<uint64_t> turns{0};
    std::atomic<bool> done{false};
    std::thread worker([&] {
        while (!done) {
            if (!index.flush().ok()) std::abort();
            ++turns;
            usleep(1000);
        }
    });
    const Measured took = measure([&] {
        for (uint64_t i = 0; i < count; ++i) {
            index.insert(identity_of(first + i), location_of(first + i));
            if (i % (kBatchesAhead * Index::kPendingBatch) != 0) continue;
            const uint64_t now = turns;
            while (turns < now + 2) usleep(1000);
        }
        index.hand_over();
        const uint64_t now = turns;
        while (turns < now + 2) usleep(1000);
    });
    done = true;
    worker.join();
    return took;
}

struct Found {
    double us = 0;
    double share = 0;
};
Found look_up(Index& index, uint64_t first, uint64_t range, uint64_t lookups, bool many) {
    Random random(3);
    uint64_t hits = 0;
    std::vector<Identity> wanted(many ? kMany : 1);
    std::vector<std::optional<Location>> found(wanted.size());
    const Measured took = measure([&] {
        for (uint64_t i = 0; i < lookups; i += wanted.size()) {
            for (Identity& one : wanted) one = identity_of(first + random.below(range));
            if (many) {
                index.lookup_batch(wanted, found);
            } else {
                found[0] = index.lookup(wanted[0]);
            }
            for (const auto& one : found) hits += one.has_value() ? 1 : 0;
        }
    });
    const auto all =
        static_cast<double>((lookups + wanted.size() - 1) / wanted.size() * wanted.size());
    return {took.thread_s * 1e6 / all, static_cast<double>(hits) / all};
}

void bench_full(Figures& out, const IndexOptions& options, uint64_t entries) {
    const auto n = static_cast<double>(entries);
    const uint64_t before_bytes = resident_bytes();
    auto index = open_index(options);
    const Measured took = insert_all(*index, 0, entries);
    out.add("insert_thread_us", took.thread_s * 1e6 / n, "us", 1, Figures::Better::lower);
    out.add("insert_process_us", took.process_s * 1e6 / n, "us", 8, Figures::Better::lower);
    const IndexStats stats = index->stats();
    out.add("dropped", static_cast<double>(stats.dropped_pending), "entries", 0,
            Figures::Better::lower);
    out.add("table_bytes_per_entry", static_cast<double>(options.table_bytes) / n, "B", 40,
            Figures::Better::lower);
    out.add("table_evicted_share", static_cast<double>(stats.table_evictions) / n, "", 0.01,
            Figures::Better::lower);
    out.add("store_bytes_per_entry", static_cast<double>(stats.store_bytes) / n, "B", 42,
            Figures::Better::lower);
    out.add("store_memory_bytes_per_entry", static_cast<double>(stats.store_memory_bytes) / n, "B",
            4, Figures::Better::lower);
    out.add("store_files", static_cast<double>(stats.store_files), "files", 200,
            Figures::Better::lower);
    out.add("log_mib", static_cast<double>(stats.log_bytes) / double(kMiB), "MiB", 128,
            Figures::Better::lower);
    out.add("directory_bytes_per_entry",
            static_cast<double>(directory_bytes(options.directory)) / n, "B", 60,
            Figures::Better::lower);
    out.add("resident_bytes_per_entry", static_cast<double>(resident_bytes() - before_bytes) / n,
            "B", 64, Figures::Better::lower);
    const Found hit = look_up(*index, 0, entries, kLookups * 10, false);
    out.add("table_hit_us", hit.us, "us", 1, Figures::Better::lower);
    out.add("found_share", hit.share, "", 0.99, Figures::Better::higher);
    const Found miss = look_up(*index, entries * 10, entries, kLookups, false);
    out.add("miss_us", miss.us, "us", 20, Figures::Better::lower);
}

void bench_reopen(Figures& out, const IndexOptions& options, uint64_t entries) {
    std::unique_ptr<Index> index;
    const Measured warm = measure([&] { index = open_index(options); });
    out.add("reopen_warm_us_per_entry", warm.thread_s * 1e6 / static_cast<double>(entries), "us", 2,
            Figures::Better::lower);
    const auto share = static_cast<double>(index->stats().warmed) / static_cast<double>(entries);
    out.add("warmed_share", share, "", 0.99, Figures::Better::higher);
    index.reset();
    IndexOptions cold = options;
    cold.warm_table = false;
    cold.table_bytes = 64;  // one bucket: every lookup goes to the store
    const Measured opened = measure([&] { index = open_index(cold); });
    out.add("reopen_cold_s", opened.wall_s, "s", 10, Figures::Better::lower);
    const Found get = look_up(*index, 0, entries, kLookups, false);
    out.add("store_get_hit_us", get.us, "us", 50, Figures::Better::lower);
    out.add("store_found_share", get.share, "", 0.99, Figures::Better::higher);
    out.add("store_multiget_hit_us", look_up(*index, 0, entries, kLookups, true).us, "us", 30,
            Figures::Better::lower);
    out.add("store_get_miss_us", look_up(*index, entries * 10, entries, kLookups, false).us, "us",
            20, Figures::Better::lower);
    out.add("store_multiget_miss_us", look_up(*index, entries * 10, entries, kLookups, true).us,
            "us", 10, Figures::Better::lower);
}

// The limit is lowered to half of what is there, and a tenth is written on top.
void bench_eviction(Figures& out, IndexOptions options, uint64_t entries) {
    options.warm_table = false;
    options.table_bytes = 64;
    options.store_bytes_max = directory_bytes(options.directory) / 2;
    auto index = open_index(options);
    insert_all(*index, entries, entries / 10);
    // FIFO drops when a compaction is due, after a flush.
    double over = 2;
    for (int i = 0; i < 200 && over > 1; ++i) {
        over = static_cast<double>(index->stats().store_bytes) /
               static_cast<double>(options.store_bytes_max);
        usleep(100'000);
    }
    out.add("store_over_its_limit", over, "", 1.05, Figures::Better::lower);
    const Found newest = look_up(*index, entries, entries / 10, kLookups, true);
    out.add("newest_found_share", newest.share, "", 0.99, Figures::Better::higher);
}

}  // namespace

int main(int argc, char** argv) {
    uint64_t entries = 20'000'000;
    std::string parent = "/tmp", json;
    for (int i = 1; i < argc; ++i) {
        const std::string key = argv[i];
        const char* value = i + 1 < argc ? argv[++i] : nullptr;
        if (key == "--entries" && value != nullptr) {
            entries = std::strtoull(value, nullptr, 10);
        } else if (key == "--directory" && value != nullptr) {
            parent = value;
        } else if (key == "--json" && value != nullptr) {
            json = value;
        } else {
            std::fprintf(stderr, "%s: accepted are --entries N, --directory D, --json FILE\n",
                         key.c_str());
            return 2;
        }
    }
    if (entries < 1'000'000 || entries > kEntriesMax) {
        std::fprintf(stderr, "--entries: 1000000 to %llu\n",
                     static_cast<unsigned long long>(kEntriesMax));
        return 2;
    }
    std::string directory = parent + "/bench_index_XXXXXX";
    if (mkdtemp(directory.data()) == nullptr) {
        std::perror("mkdtemp");
        return 1;
    }
    IndexOptions options;
    options.directory = directory;
    options.table_bytes = std::bit_ceil(entries * 5 / 4 * kTableEntryBytes);
    options.store_bytes_max = entries * 60;
    std::printf("%llu entries: table %zu MiB, store at most %llu MiB\n",
                static_cast<unsigned long long>(entries), options.table_bytes / size_t{kMiB},
                static_cast<unsigned long long>(options.store_bytes_max / kMiB));
    Figures figures;
    bench_full(figures, options, entries);
    bench_reopen(figures, options, entries);
    bench_eviction(figures, options, entries);
    std::filesystem::remove_all(directory);
    if (!json.empty() && !figures.write(json)) {
        std::fprintf(stderr, "--json: '%s' cannot be written\n", json.c_str());
        return 1;
    }
    return 0;
}
