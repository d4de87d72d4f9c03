// Counts what the capture worker and the reducer thread take from the heap for a page, from QEMU's
// stream to the transport, once both have run for a while. Replaces operator new for the whole
// program and counts per thread; OpenSSL's own malloc (112 bytes per SHA-256) is not seen.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include "../../../prestage/src/page_filter.hpp"
#include "../../../prestage/tests/stream_builder.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/random.hpp"
#include "reducer_stage.hpp"

namespace {
thread_local uint64_t allocations_here = 0;
}

// Not inlined: the compiler would take the pair of malloc and delete for a mistake.
[[gnu::noinline]] void* operator new(size_t size) {
    ++allocations_here;
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
    std::free(memory);
}

namespace evac::daemon {
namespace {

constexpr wan::SessionId kSession{7};
constexpr VmId kVm{1};
constexpr uint32_t kGeneration = 1;
constexpr uint64_t kChanging = 2048;  // pages of which three quarters change in each round
constexpr uint64_t kLibrary = 512;    // pages behind them that stay, to be copied
constexpr uint64_t kPages = kChanging + kLibrary;
constexpr std::string_view kSecret = "a secret of the pair, for tests";

// Takes every message at once; the reducer thread calls it.
class SwallowingTransport final : public wan::Transport {
  public:
    void run(std::stop_token) override {}
    using Transport::try_send;
    wan::SendResult try_send(wan::Class, wan::SessionId, Bytes&& message,
                             const wan::SendOptions&) override {
        const Bytes taken = std::move(message);
        // kind, version, flags, literals, VM, sequence: see batch.hpp
        uint64_t sequence = 0;
        std::memcpy(&sequence, taken.data() + protocol::kBatchHeadroomBytes + 8, sizeof sequence);
        EXPECT_TRUE(sequences.try_push(std::move(sequence)));
        bytes += taken.size();
        ++messages;
        reducer_allocations = allocations_here;
        return wan::SendResult::ok;
    }
    bool try_cancel(wan::Class, wan::SessionId, uint64_t) override { return true; }
    std::optional<wan::Dropped> try_dropped(wan::Class) override { return std::nullopt; }
    int writable_fd(wan::Class) const override { return writable_.fd(); }
    uint64_t queued_bytes(wan::Class) const override { return 0; }
    uint64_t unsent_bytes(wan::Class) const override { return 0; }
    std::optional<wan::Message> try_receive(wan::Class) override { return std::nullopt; }
    int control_fd() const override { return writable_.fd(); }
    int data_fd() const override { return writable_.fd(); }
    std::optional<wan::TransportEvent> try_event() override { return std::nullopt; }
    bool connected() const override { return true; }
    wan::SessionId session() const override { return kSession; }
    wan::SessionState state() const override { return wan::SessionState::up; }
    wan::Stats stats() const override { return {}; }
    void set_ceiling_bits_per_s(uint64_t) override {}
    void set_tls(std::shared_ptr<const wan::TlsContext>) override {}
    void set_scavenger(bool) override {}

    SpscRing<uint64_t> sequences{4096};
    std::atomic<uint64_t> messages{0}, bytes{0}, reducer_allocations{0};

  private:
    EventFd writable_;
};

// As the daemon's: room first, then the lane.
class LaneSink final : public prestage::PageSink {
  public:
    explicit LaneSink(ReducerStage& stage) : stage_(stage) {}
    bool page(const prestage::CapturedPage& page) override {
        const uint64_t before = allocations_here;
        EXPECT_TRUE(stage_.budget().try_reserve());
        CapturedItem item;
        item.vm = kVm;
        item.generation = kGeneration;
        item.region = page.region;
        item.page = page.page;
        item.epoch = page.epoch;
        item.fingerprint = page.fingerprint;
        item.heat = page.heat;
        item.is_zero = page.is_zero;
        EXPECT_TRUE(stage_.push(0, std::move(item), true, page.bytes));
        allocations += allocations_here - before;
        ++pages;
        return true;
    }
    uint64_t allocations = 0, pages = 0;

  private:
    ReducerStage& stage_;
};

// A stream whose pages are changed in place.
class Guest {
  public:
    Guest() {
        prestage::test::StreamBuilder out;
        out.header().ram_start({{"pc.ram", kPages * kPageBytes}}).part();
        for (uint64_t page = 0; page < kPages; ++page) {
            out.page(page * kPageBytes, page == 0 ? "pc.ram" : "", std::byte{1});
            at_.push_back(out.size() - kPageBytes);
        }
        out.eos().end().eos().device("timer", "state").finish();
        stream_ = out.take();
        for (uint64_t page = 0; page < kPages; ++page) randomize(page);
    }
    // Content for every rung: new, copied, changed a little, and zero and text in turn.
    void step(uint64_t round) {
        for (uint64_t page = 0; page < kChanging; page += 4) {
            randomize(page);
            std::memcpy(bytes(page + 1), bytes(kChanging + (round * 7 + page) % kLibrary),
                        kPageBytes);
            for (int i = 0; i < 20; ++i) {
                bytes(page + 2)[300 + random_.below(500)] = std::byte(random_.below(256));
            }
            std::memset(bytes(page + 3), round % 2 == 0 ? 0 : 'x', kPageBytes);
            if (round % 2 != 0) std::memcpy(bytes(page + 3), &page, sizeof page);
        }
    }
    const Bytes& stream() const { return stream_; }

  private:
    std::byte* bytes(uint64_t page) { return stream_.data() + at_[page]; }
    void randomize(uint64_t page) {
        for (size_t i = 0; i < kPageBytes; i += 8) {
            const uint64_t word = random_.next();
            std::memcpy(bytes(page) + i, &word, 8);
        }
    }
    Random random_{3};
    Bytes stream_;
    std::vector<size_t> at_;
};

struct Home {
    Home() {
        ReducerOptions options;
        options.zstd_level = 1;
        options.delta_cache_bytes = 32 * kMiB;
        index =
            std::move(dedup::Index::open({.directory = "", .table_bytes = 1 << 20}, log)).value();
        stage = std::move(ReducerStage::create(options, as_byte_span(kSecret), *index, transport,
                                               clock, log))
                    .value();
        stage->command(to_reducer::NewSession{kSession});
        stage->command(to_reducer::AddVm{kVm, kGeneration, regions, flow});
        stage->command(to_reducer::ResetVm{kVm, kGeneration});
        sink = std::make_unique<LaneSink>(*stage);
        thread = std::jthread([this](std::stop_token stop) { stage->run(stop); });
        while (!stage->try_event()) std::this_thread::yield();  // VmReset
    }
    ~Home() {
        thread.request_stop();
        thread.join();
    }
    // One round over the stream, all of it sent and acknowledged. Allocations of the whole pass.
    uint64_t round(const Guest& guest, uint32_t number) {
        prestage::RoundResult result;
        result.epoch = Epoch{number};
        prestage::PageFilter filter(catalogue, *sink, result);
        prestage::StreamParser parser(filter);
        const uint64_t before = allocations_here;
        for (ByteSpan rest(guest.stream()); !rest.empty();) {
            const size_t size = std::min<size_t>(rest.size(), 100'000);
            EXPECT_TRUE(parser.push(rest.first(size)).ok());
            rest = rest.subspan(size);
        }
        const uint64_t taken = allocations_here - before;
        EXPECT_TRUE(parser.finish().ok());
        EXPECT_EQ(result.pages_dropped, 0u);
        while (flow->sent_pages != sink->pages || acknowledged < transport.messages) acknowledge();
        return taken;
    }
    void acknowledge() {
        to_reducer::Acknowledge command{kVm, {}};
        while (const auto sequence = transport.sequences.try_pop()) {
            command.sequences.push_back(*sequence);
        }
        acknowledged += command.sequences.size();
        if (!command.sequences.empty()) stage->command(std::move(command));
        std::this_thread::yield();
    }

    const std::vector<prestage::RegionInfo> regions{
        {"pc.ram", RegionKind::main_ram, kPages* kPageBytes}};
    NullLogger log;
    SystemClock clock;
    SwallowingTransport transport;
    std::shared_ptr<VmFlow> flow = std::make_shared<VmFlow>();
    prestage::Catalogue catalogue{dedup::fingerprint_seed(as_byte_span(kSecret)), regions};
    std::unique_ptr<dedup::Index> index;
    std::unique_ptr<ReducerStage> stage;
    std::unique_ptr<LaneSink> sink;
    uint64_t acknowledged = 0;
    std::jthread thread;
};

TEST(Lane, NoAllocationForAPageInSteadyState) {
    Guest guest;
    Home home;
    uint32_t number = 0;
    const auto run = [&](uint32_t rounds) {
        uint64_t most_in_a_pass = 0;
        for (uint32_t i = 0; i < rounds; ++i) {
            guest.step(++number);
            most_in_a_pass = std::max(most_in_a_pass, home.round(guest, number));
        }
        return most_in_a_pass;
    };
    run(12);
    const uint64_t messages = home.transport.messages;
    const uint64_t reducer_before = home.transport.reducer_allocations;
    const uint64_t pages = home.sink->pages;
    home.sink->allocations = 0;
    const uint64_t most_in_a_pass = run(20);
    const uint64_t sent = home.transport.messages - messages;
    const uint64_t reducer = home.transport.reducer_allocations - reducer_before;
    std::printf("%llu pages, %llu messages: %llu allocations by the reducer\n",
                static_cast<unsigned long long>(home.sink->pages - pages),
                static_cast<unsigned long long>(sent), static_cast<unsigned long long>(reducer));
    ASSERT_GE(home.sink->pages - pages, 20 * kChanging * 3 / 4);
    ASSERT_GE(sent, 500u);
    EXPECT_EQ(home.sink->allocations, 0u);  // from PageSink::page on
    EXPECT_LE(most_in_a_pass, 40u);         // parser and filter themselves, whatever the pages
    // The message, which the transport keeps, and a twelfth of a block of its queue. When a run
    // goes beyond what was ever in flight, lists grow once more.
    EXPECT_LE(reducer, sent + sent / 4 + 64);
    // The counts are published about once a second.
    constexpr auto kLiteral = static_cast<size_t>(dedup::Rung::literal);
    for (int i = 0; i < 100 && home.flow->rung_pages[kLiteral] == 0; ++i) ::usleep(100'000);
    for (const auto rung : {dedup::Rung::zero, dedup::Rung::reference_same_vm,
                            dedup::Rung::delta_previous, dedup::Rung::literal}) {
        EXPECT_GT(home.flow->rung_pages[static_cast<size_t>(rung)], 1000u)
            << dedup::to_string(rung);
    }
}

}  // namespace
}  // namespace evac::daemon
