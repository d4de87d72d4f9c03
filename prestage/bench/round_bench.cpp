// Sealed rounds of a running guest, timed; then a final pass compared with the stopped guest page
// by page, and the guest resumed. Usage: round_bench QMP_SOCKET RUN_DIR [rounds, default 20]
// [interval ms, default 500]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "evac/prestage/enrolment.hpp"
#include "evac/prestage/round.hpp"
#include "evac/prestage/stream_guard.hpp"
#include "evac/qmp/client.hpp"

namespace {

using namespace evac;
using namespace evac::prestage;

class Store final : public PageSink {
  public:
    explicit Store(const std::vector<RegionInfo>& regions) {
        for (const RegionInfo& region : regions)
            images.emplace_back(region.kind == RegionKind::disk ? 0 : region.size_bytes);
    }
    bool page(const CapturedPage& page) override {
        std::byte* at = images[raw(page.region)].data() + page.page * kPageBytes;
        if (page.is_zero) {
            std::memset(at, 0, kPageBytes);
        } else {
            std::memcpy(at, page.bytes.data(), kPageBytes);
        }
        return true;
    }
    std::vector<Bytes> images;
};

double ms(uint64_t ns) {
    return static_cast<double>(ns) / 1e6;
}

[[noreturn]] void die(const Error& error) {
    std::fprintf(stderr, "round_bench: %s\n", error.message().c_str());
    std::exit(1);
}

void summary(const char* what, std::vector<double> values) {
    std::ranges::sort(values);
    std::printf("%s: median %.1f ms, max %.1f ms\n", what, values[values.size() / 2],
                values.back());
}

// Pages of main RAM that differ from the stopped guest's, outside the VGA window; below 2 GiB only
// (one address range).
uint64_t differing(qmp::Client& client, const Bytes& image, const std::string& file) {
    const auto saved = client.execute(
        "pmemsave", {{"val", 0}, {"size", image.size()}, {"filename", file}}, 60'000);
    if (!saved.ok()) die(saved.error());
    std::ifstream in(file, std::ios::binary);
    Bytes page(kPageBytes);
    uint64_t count = 0;
    for (uint64_t at = 0; at < image.size(); at += kPageBytes) {
        in.read(reinterpret_cast<char*>(page.data()), kPageBytes);
        if (at >= 0xa0000 && at < 0xc0000) continue;
        count += std::memcmp(page.data(), image.data() + at, kPageBytes) != 0 ? 1 : 0;
    }
    std::filesystem::remove(file);
    return count;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: round_bench QMP_SOCKET RUN_DIR [rounds] [interval ms]\n");
        return 2;
    }
    const int rounds = argc > 3 ? std::atoi(argv[3]) : 20;
    const int interval_ms = argc > 4 ? std::atoi(argv[4]) : 500;
    auto guard = StreamGuard::start();
    if (!guard.ok()) die(guard.error());
    SystemClock clock;
    NullLogger log;
    auto client = qmp::Client::connect(argv[1]);
    if (!client.ok()) die(client.error());
    const auto facts = collect_facts(**client, {argv[2]}, clock, log);
    if (!facts.ok()) die(facts.error());
    for (const Refusal& refusal : refusals(*facts))
        std::printf("refusal: %s\n", refusal.reason.c_str());
    const auto regions = region_list(*facts);
    Catalogue catalogue(1, regions);
    Store store(regions);
    RoundRunner runner(**client, catalogue, clock, log);
    RoundOptions options;
    options.run_dir = argv[2];
    options.guard = &*guard;
    std::vector<double> pause, upper, duration;
    for (int i = 1; i <= rounds; ++i) {
        options.epoch = Epoch{static_cast<uint32_t>(i)};
        const auto result = runner.run(options, store);
        if (!result.ok()) die(result.error());
        std::printf(
            "round %2d: %7.1f ms, pause %5.1f (bound %5.1f) ms, %6llu of %llu pages changed%s\n", i,
            ms(result->duration_ns), ms(result->pause_ns), ms(result->pause_upper_ns),
            static_cast<unsigned long long>(result->pages_changed),
            static_cast<unsigned long long>(result->pages_seen),
            result->complete() ? "" : " INCOMPLETE");
        pause.push_back(ms(result->pause_ns));
        upper.push_back(ms(result->pause_upper_ns));
        duration.push_back(ms(result->duration_ns));
        std::this_thread::sleep_for(std::chrono::milliseconds(interval_ms));
    }
    summary("pause", pause);
    summary("pause, upper bound", upper);
    summary("round", duration);
    options.epoch = Epoch{static_cast<uint32_t>(rounds + 1)};
    options.method = RoundMethod::final_stopped;
    const auto final = runner.run(options, store);
    if (!final.ok()) die(final.error());
    const auto main_ram =
        std::ranges::find(regions, RegionKind::main_ram, &RegionInfo::kind) - regions.begin();
    std::printf(
        "final pass: %.1f ms, %llu pages changed, %llu pages differ from the stopped guest\n",
        ms(final->duration_ns), static_cast<unsigned long long>(final->pages_changed),
        static_cast<unsigned long long>(differing(**client,
                                                  store.images[static_cast<size_t>(main_ram)],
                                                  std::string(argv[2]) + "/memory.bin")));
    const Status resumed = runner.resume_after_final();
    if (!resumed.ok()) die(resumed.error());
    return 0;
}
