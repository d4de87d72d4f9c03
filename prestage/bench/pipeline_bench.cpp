// What a page costs on its way from QEMU's stream to the answer "away has it": guest GB (1e9 bytes)
// per CPU-second of the capture worker. The stream is made in memory as QEMU writes it (checked
// against a real one by prestage_round_qemu_test), is far larger than the caches, and runs through
// the parser and the filter of a real round. Usage: bench_pipeline [--json FILE]
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "../tests/stream_builder.hpp"
#include "capture_socket.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/random.hpp"
#include "evac/core/unique_fd.hpp"
#include "figures.hpp"
#include "page_filter.hpp"

namespace {

using namespace evac;
using namespace evac::prestage;

constexpr uint64_t kPages = 196'608;  // 768 MiB
constexpr uint64_t kPagesPerPart = 2048;
constexpr double kZeroShare = 0.1;
constexpr size_t kChunkBytes = kMiB;  // as drain() reads at most
constexpr int kRuns = 5;
constexpr double kGuestBytes = static_cast<double>(kPages * kPageBytes);

// A guest's memory: one stream of it, whose pages can be changed in place.
struct Guest {
    Guest() {
        Random random(1);
        test::StreamBuilder out;
        out.reserve(kPages * (kPageBytes + 8) + kMiB);
        out.header().ram_start(regions());
        for (uint64_t page = 0; page < kPages; ++page) {
            if (page % kPagesPerPart == 0) out.part();
            const char* block = page % kPagesPerPart == 0 ? "pc.ram" : "";
            if (random.chance(kZeroShare)) {
                out.zero(page * kPageBytes, block);
            } else {
                out.page(page * kPageBytes, block, std::byte{1});
                pages.push_back(out.size() - kPageBytes);
            }
            if (page % kPagesPerPart == kPagesPerPart - 1) out.eos();
        }
        out.end().eos().device("timer", "state").finish();
        stream = out.take();
        for (const size_t at : pages) {
            for (size_t i = 0; i < kPageBytes; i += 8) {
                const uint64_t word = random.next();
                std::memcpy(stream.data() + at + i, &word, 8);
            }
        }
    }
    static std::vector<RamBlock> regions() { return {{"pc.ram", kPages * kPageBytes}}; }

    void change(double share, Random& random) {
        for (const size_t at : pages) {
            if (!random.chance(share)) continue;
            const uint64_t word = random.next();
            std::memcpy(stream.data() + at + random.below(kPageBytes / 8) * 8, &word, 8);
        }
    }

    Bytes stream;
    std::vector<size_t> pages;  // where their content is
};

// Takes what changed over as the capture lane does: into memory that is there.
class CopySink final : public PageSink {
  public:
    bool page(const CapturedPage& page) override {
        if (!page.is_zero) std::memcpy(slot_.data(), page.bytes.data(), kPageBytes);
        return true;
    }

  private:
    Bytes slot_ = Bytes(kPageBytes);
};

void must(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "bench_pipeline: %s\n", what);
    std::exit(1);
}

// One round over the stream. `changed`: how many pages differ, UINT64_MAX: some do.
void check(StreamParser& parser, const PageFilter& filter, const RoundResult& result,
           uint64_t changed) {
    must(parser.finish().ok(), "the stream is not complete");
    must(result.pages_seen == kPages && filter.missing() == 0, "pages are missing");
    must(changed == UINT64_MAX ? result.pages_changed != 0 : result.pages_changed == changed,
         "an unexpected number of pages changed");
}

void from_memory(const Guest& guest, Catalogue& catalogue, uint64_t changed) {
    CopySink sink;
    RoundResult result;
    PageFilter filter(catalogue, sink, result);
    StreamParser parser(filter);
    ByteSpan rest(guest.stream);
    while (!rest.empty()) {
        const size_t size = std::min(kChunkBytes, rest.size());
        must(parser.push(rest.first(size)).ok(), "the stream is refused");
        rest = rest.subspan(size);
    }
    check(parser, filter, result, changed);
}

// As a round does; the writer, in QEMU's place, is another thread and not counted.
void from_socket(const Guest& guest, Catalogue& catalogue) {
    int ends[2];
    must(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
    const UniqueFd reader(ends[0]);
    std::thread writer([fd = ends[1], &guest] {
        ByteSpan rest(guest.stream);
        constexpr size_t kQemuBufferBytes = 32 * 1024;
        while (!rest.empty()) {
            const ssize_t n = ::write(fd, rest.data(), std::min(rest.size(), kQemuBufferBytes));
            must(n > 0, "write");
            rest = rest.subspan(static_cast<size_t>(n));
        }
        ::close(fd);
    });
    CopySink sink;
    RoundResult result;
    PageFilter filter(catalogue, sink, result);
    StreamParser parser(filter);
    const SystemClock clock;
    WaitLimits limits;
    limits.deadline_ns = limits.silence_ns = UINT64_MAX;
    const auto take = [&parser](ByteSpan chunk) -> Result<bool> {
        EVAC_TRY(parser.push(chunk));
        return true;
    };
    must(drain(reader.get(), clock, limits, take, [] {}).ok(), "reading the socket");
    writer.join();
    check(parser, filter, result, 0);
}

}  // namespace

int main(int argc, char** argv) {
    bench::Figures figures(argc, argv);
    Guest guest;
    Catalogue catalogue(7, {{"pc.ram", RegionKind::main_ram, kPages * kPageBytes}});
    from_memory(guest, catalogue, kPages);
    // Of pages with content: zero pages cost nothing and count for nothing.
    const double content = static_cast<double>(guest.pages.size() * kPageBytes);
    const auto rate = [&](double seconds) { return content / 1e9 / seconds; };

    // What one pass of the hash over the same cold pages costs: the bound of this path.
    uint64_t sum = 0;
    const double hashing = bench::median_cpu_seconds(kRuns, [&] {
        for (const size_t at : guest.pages) {
            sum += fingerprint_page(7, ByteSpan(guest.stream).subspan(at, kPageBytes)).low;
        }
    });
    must(sum != 42, "");
    figures.add("hash_cold_gb_s", content / 1e9 / hashing, "GB/s");

    const double unchanged =
        bench::median_cpu_seconds(kRuns, [&] { from_memory(guest, catalogue, 0); });
    figures.add("parser_unchanged_gb_s", rate(unchanged), "GB/s", bench::Target{true, 3.0},
                content / 1e9 / hashing);

    Random random(2);
    std::vector<double> seconds;
    for (int run = 0; run < kRuns; ++run) {
        guest.change(0.01, random);
        seconds.push_back(
            bench::median_cpu_seconds(1, [&] { from_memory(guest, catalogue, UINT64_MAX); }));
    }
    std::sort(seconds.begin(), seconds.end());
    figures.add("parser_one_percent_changed_gb_s", rate(seconds[kRuns / 2]), "GB/s");

    const double socket = bench::median_cpu_seconds(3, [&] { from_socket(guest, catalogue); });
    figures.add("socket_unchanged_gb_s", rate(socket), "GB/s");
    return figures.finish();
}
