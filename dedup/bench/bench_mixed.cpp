// Mixed content through the whole reducer: guest MB (1e6 bytes) per CPU-second of the reducer
// thread, with the index (table only), every rung, and 32 pages at a time as the daemon gives them.
// The mix (mixed_backlog.hpp) of memory pages: 25 % zero, 20 % copies of disk blocks, 20 % text,
// 18 % binary records, 7 % incompressible, 10 % disk blocks with 150 bytes changed; the disk went
// before and is not counted. The baseline is zero elimination and zstd alone, in the same run.
// Usage: bench_mixed [--level N, default 1] [--json FILE]
#include <cstdlib>
#include <cstring>
#include <memory>

#include "evac/dedup/reducer.hpp"
#include "figures.hpp"
#include "mixed_backlog.hpp"

namespace {

using namespace evac;
using namespace evac::dedup;
using evac::dedup::bench::MixedBacklog;

constexpr uint64_t kPages = 49'152;  // 192 MiB
constexpr size_t kPagesPerTurn = 32;
constexpr int kGuests = 5;  // one after another; the first finds the reducer's memory untouched
constexpr double kGuestMb = static_cast<double>(kPages * kPageBytes) / 1e6;

class Home {
  public:
    Home(int level, bool references) {
        NullLogger log;
        index_ = std::move(Index::open({.directory = ""}, log)).value();
        auto hasher = std::move(IdentityHasher::create(as_byte_span("a secret for the benchmark")));
        ReducerOptions options;
        options.zstd_level = level;
        options.references = references;
        reducer_ = std::move(Reducer::create(options, std::move(hasher).value(), *index_,
                                             [this](EncodedBatch&& batch) {
                                                 wire_bytes += batch.message.size();
                                                 reducer_->acknowledge(batch.vm, batch.sequence);
                                             }))
                       .value();
    }

    // CPU seconds for the guest's memory.
    double feed(const MixedBacklog& backlog, VmId vm) {
        if (!reducer_->set_region(vm, dedup::bench::kDisk, RegionKind::disk, backlog.disk_pages())
                 .ok() ||
            !reducer_->set_region(vm, dedup::bench::kRam, RegionKind::main_ram, kPages).ok()) {
            std::abort();
        }
        for (uint64_t i = 0; i < backlog.disk_pages(); ++i) take(backlog.disk_item(i), vm);
        finish();
        wire_bytes = 0;
        return evac::bench::median_cpu_seconds(1, [&] {
            for (uint64_t i = 0; i < kPages; ++i) take(backlog.ram_item(i), vm);
            finish();
        });
    }

    uint64_t wire_bytes = 0;

  private:
    void take(PageItem item, VmId vm) {
        item.key.vm = vm;
        items_.push_back(item);
        if (items_.size() < kPagesPerTurn) return;
        reducer_->add_all(items_);
        items_.clear();
    }
    void finish() {
        reducer_->add_all(items_);
        items_.clear();
        reducer_->flush();
    }

    std::unique_ptr<Index> index_;
    std::unique_ptr<Reducer> reducer_;
    std::vector<PageItem> items_;
};

}  // namespace

int main(int argc, char** argv) {
    evac::bench::Figures figures(argc, argv);
    int level = 1;
    for (int i = 1; i + 1 < argc; ++i) {
        if (std::strcmp(argv[i], "--level") == 0) level = std::atoi(argv[i + 1]);
    }
    if (level < -7 || level > 19) {
        std::fprintf(stderr, "--level: %d, accepted are -7 to 19\n", level);
        return 2;
    }
    Home home(level, true);
    Home plain(level, false);  // zero pages and zstd alone: the baseline
    std::vector<double> seconds, plain_seconds;
    double fresh_seconds = 0;
    for (uint32_t guest = 0; guest < kGuests; ++guest) {
        const MixedBacklog backlog(kPages, guest + 1);
        const double spent = home.feed(backlog, VmId{guest + 1});
        if (guest == 0) {
            fresh_seconds = spent;
        } else {
            seconds.push_back(spent);
            plain_seconds.push_back(plain.feed(backlog, VmId{guest + 1}));
        }
    }
    const auto median = [](std::vector<double>& values) {
        std::sort(values.begin(), values.end());
        return values[values.size() / 2];
    };
    const auto ratio = [](const Home& of) {
        return kGuestMb * 1e6 / static_cast<double>(of.wire_bytes);
    };
    std::printf("zstd %d, the last guest: %.2f : 1, zero pages and zstd alone %.2f : 1\n", level,
                ratio(home), ratio(plain));
    figures.add("mixed_reduction_mb_s", kGuestMb / median(seconds), "MB/s",
                evac::bench::Target{true, 400}, kGuestMb / median(plain_seconds));
    figures.add("mixed_reduction_fresh_mb_s", kGuestMb / fresh_seconds, "MB/s");
    return figures.finish();
}
