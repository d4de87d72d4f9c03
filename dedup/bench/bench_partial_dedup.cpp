// Time to drain a fixed mixed backlog through the real reducer over a modelled link: self-tuned
// against every fixed setting and against no reduction, at five rates. Time is virtual: the
// reducer's side advances by the CPU time of its thread, the link's by wire bytes over its rate, so
// a busy machine does not distort it; repetitions are interleaved and the median counts.
//   bench_partial_dedup [--json FILE] [--pages N] [--repeat N]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>

#include "evac/dedup/tuner.hpp"
#include "mixed_backlog.hpp"

namespace {

using namespace evac;
using namespace evac::dedup;
using bench::MixedBacklog;

constexpr double kUnlimited = 1e15;
struct Rate {
    const char* name;
    const char* key;
    double bytes_per_s;
};
constexpr std::array<Rate, 5> kRates{{{"10 Mbit/s", "10mbit", 1.25e6},
                                      {"100 Mbit/s", "100mbit", 1.25e7},
                                      {"1 Gbit/s", "1gbit", 1.25e8},
                                      {"2.5 Gbit/s", "2500mbit", 3.125e8},
                                      {"unlimited", "unlimited", kUnlimited}}};
constexpr double kBufferSeconds = 0.03;  // of the transport, and at least:
constexpr double kBufferBytesMin = 256 * 1024;

double thread_cpu_s() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Sent {
    double cpu_s;
    uint64_t content_bytes;
    uint64_t wire_bytes;
};

// The reducer's clock, the link's, and what stands between them.
class VirtualLink {
  public:
    explicit VirtualLink(double bytes_per_s)
        : rate_(bytes_per_s), buffer_s_(std::max(kBufferSeconds, kBufferBytesMin / bytes_per_s)) {}

    void send(const Sent& batch) {
        cpu_s_ += batch.cpu_s;
        starved_ = link_s_ <= cpu_s_;
        const double begin = std::max(link_s_, cpu_s_);
        // What a sender can measure: the link's rate while it is kept busy, else what it was given.
        const double offered =
            static_cast<double>(batch.wire_bytes) / std::max(1e-9, begin - sent_s_);
        seen_ =
            std::max(seen_ * 0.999, starved_ ? std::min(rate_, offered) : std::min(rate_, 1e12));
        sent_s_ = begin;
        link_s_ = begin + static_cast<double>(batch.wire_bytes) / rate_;
        cpu_s_ = std::max(cpu_s_, link_s_ - buffer_s_);
    }
    LinkState state() const { return {seen_, starved_}; }
    double drained_s() const { return std::max(link_s_, cpu_s_); }

  private:
    double rate_, buffer_s_;
    double cpu_s_ = 0, link_s_ = 0, sent_s_ = 0, seen_ = 0;
    bool starved_ = true;
};

// Feeds the backlog over a staged disk. `next` is told of each batch and names the next effort.
void drain(const MixedBacklog& backlog, bool elide, const Effort& first,
           const std::function<Effort(const Sent&)>& next) {
    NullLogger log;
    auto index = std::move(Index::open({.directory = ""}, log)).value();
    Reducer* self = nullptr;
    bool timed = false;
    double last_s = 0;
    auto reducer =
        std::move(
            Reducer::create(
                ReducerOptions{},
                std::move(IdentityHasher::create(as_byte_span("a secret for the benchmark")))
                    .value(),
                *index,
                [&](EncodedBatch&& batch) {
                    self->acknowledge(batch.vm, batch.sequence);
                    if (!timed) return;
                    const double now_s = thread_cpu_s();
                    const double cpu_s = now_s - last_s;
                    last_s = now_s;  // so the tuner's own time is in the next batch's
                    self->set_effort(next(Sent{cpu_s, batch.content_bytes, batch.message.size()}));
                }))
            .value();
    self = reducer.get();
    if (!reducer->set_region(bench::kVm, bench::kDisk, RegionKind::disk, backlog.disk_pages())
             .ok() ||
        !reducer->set_region(bench::kVm, bench::kRam, RegionKind::main_ram, backlog.pages()).ok()) {
        std::abort();
    }
    reducer->set_effort({.compress = false});
    for (uint64_t i = 0; i < backlog.disk_pages(); ++i) reducer->add(backlog.disk_item(i));
    reducer->flush();
    reducer->set_effort(first);
    timed = true;
    last_s = thread_cpu_s();
    for (uint64_t i = 0; i < backlog.pages(); ++i) reducer->add(backlog.ram_item(i, elide));
    reducer->flush();
}

std::vector<Sent> run_fixed(const MixedBacklog& backlog, size_t setting, bool elide) {
    std::vector<Sent> out;
    drain(backlog, elide, effort_of(setting), [&](const Sent& sent) {
        out.push_back(sent);
        return effort_of(setting);
    });
    return out;
}

double drained(const std::vector<Sent>& batches, double bytes_per_s) {
    VirtualLink link(bytes_per_s);
    for (const Sent& batch : batches) link.send(batch);
    return link.drained_s();
}

double run_tuned(const MixedBacklog& backlog, double bytes_per_s, std::string& mix) {
    VirtualLink link(bytes_per_s);
    ReductionTuner tuner;
    size_t setting = tuner.choose({});
    drain(backlog, true, effort_of(setting), [&](const Sent& sent) {
        tuner.record(setting, sent.content_bytes, sent.wire_bytes,
                     static_cast<uint64_t>(sent.cpu_s * 1e9));
        link.send(sent);
        setting = tuner.choose(link.state());
        return effort_of(setting);
    });
    const TunedMix& last = tuner.mix();
    char text[96];
    std::snprintf(text, sizeof text, "%.0f %% %s, %.0f %% %s", 100 * (1 - last.heavy_share),
                  name_of(last.light), 100 * last.heavy_share, name_of(last.heavy));
    mix = text;
    return link.drained_s();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

struct Figures {
    std::array<std::array<std::vector<double>, kRates.size()>, kSettings> fixed;
    std::array<std::vector<double>, kRates.size()> none;
    std::array<std::vector<double>, kRates.size()> tuned;
    std::array<std::string, kRates.size()> mix;
    std::array<double, kSettings> cpu_ns_per_byte{};
    std::array<double, kSettings> wire_per_byte{};
};

Figures measure(const MixedBacklog& backlog, int repeat) {
    Figures out;
    for (int turn = 0; turn < repeat; ++turn) {
        for (size_t setting = 0; setting < kSettings; ++setting) {
            const std::vector<Sent> batches = run_fixed(backlog, setting, true);
            double cpu = 0, wire = 0, content = 0;
            for (const Sent& batch : batches) {
                cpu += batch.cpu_s;
                wire += static_cast<double>(batch.wire_bytes);
                content += static_cast<double>(batch.content_bytes);
            }
            out.cpu_ns_per_byte[setting] = cpu * 1e9 / content;
            out.wire_per_byte[setting] = wire / content;
            for (size_t r = 0; r < kRates.size(); ++r) {
                out.fixed[setting][r].push_back(drained(batches, kRates[r].bytes_per_s));
            }
        }
        const std::vector<Sent> plain = run_fixed(backlog, 0, false);
        for (size_t r = 0; r < kRates.size(); ++r) {
            out.none[r].push_back(drained(plain, kRates[r].bytes_per_s));
            out.tuned[r].push_back(run_tuned(backlog, kRates[r].bytes_per_s, out.mix[r]));
        }
    }
    return out;
}

void print_figure(std::FILE* json, const std::string& name, double value, const char* unit,
                  double target, double baseline, bool first) {
    std::fprintf(json,
                 "%s\n    \"%s\": {\"value\": %.6g, \"unit\": \"%s\", \"target\": %.6g, "
                 "\"met\": %s, \"baseline\": %.6g}",
                 first ? "" : ",", name.c_str(), value, unit, target,
                 value <= target ? "true" : "false", baseline);
}

int report(const Figures& figures, const MixedBacklog& backlog, const char* json_path) {
    std::printf("backlog: %.0f MiB\n\n%-12s", double(backlog.pages()) / 256, "setting");
    std::printf("%9s%9s", "ns/B", "wire/B");
    for (const Rate& rate : kRates) std::printf("%12s", rate.name);
    std::printf("   (seconds to drain)\n");
    for (size_t setting = 0; setting < kSettings; ++setting) {
        std::printf("%-12s%9.2f%9.3f", name_of(setting), figures.cpu_ns_per_byte[setting],
                    figures.wire_per_byte[setting]);
        for (const auto& times : figures.fixed[setting]) std::printf("%12.4f", median(times));
        std::printf("\n");
    }
    std::FILE* json = json_path != nullptr ? std::fopen(json_path, "w") : nullptr;
    if (json_path != nullptr && json == nullptr) {
        std::perror(json_path);
        return 1;
    }
    if (json != nullptr) std::fprintf(json, "{\n  \"figures\": {");
    std::printf("%-30s", "no reduction");
    for (const auto& times : figures.none) std::printf("%12.4f", median(times));
    std::printf("\n%-30s", "self-tuned");
    for (const auto& times : figures.tuned) std::printf("%12.4f", median(times));
    std::printf("\n\n");
    for (size_t r = 0; r < kRates.size(); ++r) {
        size_t best = 0;
        for (size_t setting = 1; setting < kSettings; ++setting) {
            if (median(figures.fixed[setting][r]) < median(figures.fixed[best][r])) best = setting;
        }
        const double best_s = median(figures.fixed[best][r]);
        const double none_s = median(figures.none[r]);
        const double tuned_s = median(figures.tuned[r]);
        const double to_best = tuned_s / best_s;
        const double to_none = tuned_s / none_s;
        std::printf("%-12s tuned / best fixed (%s) %.3f %s   tuned / no reduction %.3f %s   %s\n",
                    kRates[r].name, name_of(best), to_best, to_best <= 1.05 ? "MET" : "MISSED",
                    to_none, to_none <= 1.0 ? "MET" : "MISSED", figures.mix[r].c_str());
        if (json == nullptr) continue;
        const std::string key = std::string("partial_dedup_") + kRates[r].key;
        print_figure(json, key + "_over_best_fixed", to_best, "ratio", 1.05, best_s, r == 0);
        print_figure(json, key + "_over_no_reduction", to_none, "ratio", 1.0, none_s, false);
    }
    if (json != nullptr) {
        std::fprintf(json, "\n  }\n}\n");
        if (std::fclose(json) != 0) {
            std::perror(json_path);
            return 1;
        }
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const char* json_path = nullptr;
    uint64_t pages = 65'536;
    int repeat = 5;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        const char* value = i + 1 < argc ? argv[++i] : "";
        if (name == "--json" && *value != 0) {
            json_path = value;
        } else if (name == "--pages" && std::strtoull(value, nullptr, 10) >= 1024) {
            pages = std::min<uint64_t>(std::strtoull(value, nullptr, 10), 1 << 20);
        } else if (name == "--repeat" && std::atoi(value) >= 1) {
            repeat = std::min(std::atoi(value), 100);
        } else {
            std::fprintf(stderr,
                         "%s %s: accepted are --json FILE, --pages 1024..1048576, --repeat "
                         "1..100\n",
                         name.c_str(), value);
            return 2;
        }
    }
    const MixedBacklog backlog(pages, 20);
    return report(measure(backlog, repeat), backlog, json_path);
}
