// Mapped rounds against a real QEMU whose RAM is a memfd, a file on tmpfs, a file on a disk file
// system, or shared memory without a file.
#include <gtest/gtest.h>

#include <algorithm>

#include "evac/prestage/mapped_memory.hpp"
#include "evac/prestage/stream_guard.hpp"
#include "qemu_fixture.hpp"

namespace evac::prestage::test {
namespace {

constexpr const char* kMemfd = "memory-backend-memfd";

class MappedRoundTest : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override { start(GetParam()); }

    static std::string backend_of(const std::string& kind, const std::string& file) {
        const std::string common = ",id=pc.ram,size=64M,share=on";
        return kind.starts_with("/") ? "memory-backend-file" + common + ",mem-path=" + file
                                     : kind + common;
    }
    void start(const std::string& kind) {
        ram_file_ = kind.starts_with("/")
                        ? kind + "/evac-mapped-" + std::to_string(::getpid()) + ".ram"
                        : "";
        qemu_ = std::make_unique<Qemu>(
            dir_, std::vector<std::string>{"-object", backend_of(kind, ram_file_), "-machine",
                                           "memory-backend=pc.ram", "-device", "VGA"});
        client_ = qemu_->connect();
        ASSERT_TRUE(client_);
        ASSERT_TRUE(qemu_->boots(*client_));
        auto facts = collect_facts(*client_, {dir_.path()}, clock_, log_);
        ASSERT_TRUE(facts.ok()) << facts.error().message();
        ASSERT_TRUE(refusals(*facts).empty()) << refusals(*facts).front().reason;
        facts_ = *facts;
        regions_ = region_list(facts_);
        catalogue_ = std::make_unique<Catalogue>(7, regions_);
        store_ = std::make_unique<Store>(regions_);
        main_ = static_cast<size_t>(
            std::ranges::find(regions_, RegionKind::main_ram, &RegionInfo::kind) -
            regions_.begin());
        map();
        settings_ = settings();
    }
    void map() {
        auto mapped = MappedMemory::open(*client_, facts_, clock_);
        ASSERT_TRUE(mapped.ok()) << mapped.error().message();
        mapped_ = std::move(*mapped);
    }
    void TearDown() override {
        if (!ram_file_.empty()) std::filesystem::remove(ram_file_);
    }

    RoundOptions options(RoundMethod method) {
        RoundOptions out;
        out.method = method;
        out.epoch = Epoch{++epoch_};
        out.run_dir = dir_.path();
        out.time_limit_ms = 30'000;
        out.mapped = mapped_.get();
        return out;
    }
    Result<RoundResult> run(const RoundOptions& options) {
        return RoundRunner(*client_, *catalogue_, clock_, log_).run(options, *store_);
    }
    Json ask(const char* command) {
        const auto answer = client_->execute(command);
        EXPECT_TRUE(answer.ok()) << answer.error().message();
        return answer.ok() ? *answer : Json::object();
    }
    std::string settings() {
        return ask("query-migrate-capabilities").dump() + ask("query-migrate-parameters").dump();
    }
    std::string run_state() { return ask("query-status").value("status", "?"); }
    void expect_guest_runs() {
        ASSERT_EQ(run_state(), "running");
        const uint32_t before = qemu_->counter(*client_);
        uint32_t after = before;
        for (int i = 0; i < 500 && after == before; ++i) {
            Qemu::nap_ms(10);
            after = qemu_->counter(*client_);
        }
        ASSERT_NE(after, before);
        EXPECT_EQ(settings(), settings_);
        EXPECT_EQ(qemu_->protected_mappings(), 0);
        EXPECT_EQ(
            std::ranges::count_if(
                std::filesystem::directory_iterator(dir_.path()),
                [](const auto& e) { return e.path().filename().string().starts_with("capture-"); }),
            0);
    }
    void expect_one_instant() {
        std::vector<uint32_t> seen(kCounters);
        for (size_t i = 0; i < kCounters; ++i) {
            std::memcpy(&seen[i], store_->images[main_].data() + kFirstCounter + i * kPageBytes, 4);
        }
        EXPECT_GT(seen.front(), 0u);
        EXPECT_TRUE(std::ranges::is_sorted(seen, std::greater<>()));
        EXPECT_LE(seen.front() - seen.back(), 1u);
    }
    uint64_t pages_differing_from_guest() {
        const std::vector<std::byte>& image = store_->images[main_];
        const auto memory = qemu_->memory(*client_, image.size());
        uint64_t differing = 0;
        for (uint64_t at = 0; at < image.size(); at += kPageBytes) {
            if (at >= 0xa0000 && at < 0xc0000) continue;  // the VGA window is not RAM
            differing +=
                std::memcmp(image.data() + at, memory.data() + at, kPageBytes) != 0 ? 1U : 0U;
        }
        return differing;
    }
    uint64_t ram_pages() const {
        uint64_t pages = 0;
        for (const RegionInfo& region : regions_)
            pages += region.kind == RegionKind::disk ? 0 : (region.size_bytes + 4095) / 4096;
        return pages;
    }

    TempDir dir_;
    std::string ram_file_;
    std::unique_ptr<Qemu> qemu_;
    SystemClock clock_;
    CountingLogger log_;
    VmFacts facts_;
    std::unique_ptr<qmp::Client> client_;
    std::vector<RegionInfo> regions_;
    std::unique_ptr<Catalogue> catalogue_;
    std::unique_ptr<Store> store_;
    std::unique_ptr<MappedMemory> mapped_;
    size_t main_ = 0;
    uint32_t epoch_ = 0;
    std::string settings_;
};

INSTANTIATE_TEST_SUITE_P(Backends, MappedRoundTest,
                         ::testing::Values("memory-backend-memfd", "memory-backend-ram", "/dev/shm",
                                           "/var/tmp"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::ranges::replace_if(
                                 name, [](char c) { return c == '-' || c == '/'; }, '_');
                             return name;
                         });

// QEMU takes the rest of the state from the running guest on each of them, also where it refuses a
// background snapshot of all RAM.
TEST_P(MappedRoundTest, SealedRoundsAreInstantsAndCarryOnlyWhatChanged) {
    EXPECT_TRUE(can_snapshot_beside_mapping(*client_));
    EXPECT_EQ(settings(), settings_);
    for (const RoundMethod method :
         {RoundMethod::mapped_sealed, RoundMethod::mapped_sealed, RoundMethod::mapped_stopped}) {
        bool hooked = false;
        RoundOptions round = options(method);
        round.on_stopped = [&]() -> Status {
            hooked = run_state() == "paused";
            return {};
        };
        const auto result = run(round);
        ASSERT_TRUE(result.ok()) << result.error().message();
        EXPECT_TRUE(hooked);
        EXPECT_TRUE(result->complete());
        EXPECT_GT(result->pause_ns, 0u);
        EXPECT_GE(result->pause_upper_ns, result->pause_ns);
        EXPECT_GT(result->scan_ns, 0u);
        EXPECT_LT(result->stream_bytes, 4u << 20);  // not the RAM
        EXPECT_GT(result->device_state.tail.size(), 4096u);
        if (epoch_ == 1) {
            EXPECT_GE(result->pages_changed, ram_pages());
        } else {
            EXPECT_GE(result->pages_changed, kCounters);
            EXPECT_LT(result->pages_changed, 2048u);
        }
        expect_one_instant();
        expect_guest_runs();
    }
    EXPECT_EQ(log_.warnings, 0) << log_.last_warning;
}

TEST_P(MappedRoundTest, RefreshDoesNotTouchTheGuest) {
    ASSERT_TRUE(run(options(RoundMethod::mapped_sealed)).ok());
    expect_guest_runs();
    client_->drop_events();
    RoundOptions refresh = options(RoundMethod::mapped_refresh);
    refresh.before_touch = [] { return Status(make_error(Errc::internal, "touched")); };
    const auto result = run(refresh);
    ASSERT_TRUE(result.ok()) << result.error().message();
    EXPECT_FALSE(result->complete());
    EXPECT_EQ(result->pages_seen, mapped_->page_count());
    EXPECT_GT(result->pages_changed, 0u);
    EXPECT_EQ(result->pause_ns, 0u);
    EXPECT_FALSE(client_->wait_event("STOP", 50).ok());
    // What it carried is not carried again.
    const auto next = run(options(RoundMethod::mapped_sealed));
    ASSERT_TRUE(next.ok());
    EXPECT_LT(next->pages_changed, 2048u);
    expect_one_instant();
    expect_guest_runs();
}

TEST_P(MappedRoundTest, FinalPassEqualsTheStoppedGuestPageByPage) {
    ASSERT_TRUE(run(options(RoundMethod::mapped_sealed)).ok());
    RoundRunner runner(*client_, *catalogue_, clock_, log_);
    const auto final = runner.run(options(RoundMethod::mapped_final), *store_);
    ASSERT_TRUE(final.ok()) << final.error().message();
    EXPECT_TRUE(final->complete());
    EXPECT_LT(final->pages_changed, 2048u);
    EXPECT_EQ(run_state(), "postmigrate");
    EXPECT_EQ(settings(), settings_);
    EXPECT_EQ(pages_differing_from_guest(), 0u);
    ASSERT_TRUE(runner.resume_after_final().ok());
    expect_guest_runs();
}

// One backend is enough for what fails.
class MappedFailureTest : public MappedRoundTest {};
INSTANTIATE_TEST_SUITE_P(Memfd, MappedFailureTest, ::testing::Values(kMemfd));

constexpr std::array kStopping{RoundMethod::mapped_sealed, RoundMethod::mapped_stopped,
                               RoundMethod::mapped_final};

TEST_P(MappedFailureTest, HookCancelAndCutStreamResumeTheGuest) {
    for (const RoundMethod method : kStopping) {
        SCOPED_TRACE(to_string(method));
        RoundOptions failing = options(method);
        failing.on_stopped = [] { return Status(make_error(Errc::unavailable, "no disks")); };
        EXPECT_EQ(run(failing).error().context, "no disks");
        ASSERT_NO_FATAL_FAILURE(expect_guest_runs());

        std::atomic<bool> cancel{false};
        RoundOptions cancelled = options(method);
        cancelled.cancel = &cancel;
        cancelled.on_stopped = [&]() -> Status {
            cancel = true;  // noticed by the scan of the stopped guest
            return {};
        };
        EXPECT_EQ(run(cancelled).error().code, Errc::cancelled);
        ASSERT_NO_FATAL_FAILURE(expect_guest_runs());

        catalogue_->set_all_unknown();
        int cut = 0;
        store_->on_page = [&] { cut += cut == 0 ? cut_capture_stream() : 0; };
        const auto result = run(options(method));
        store_->on_page = nullptr;
        EXPECT_EQ(cut, 1);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().context.find("COULD NOT"), std::string::npos)
            << result.error().message();
        ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    }
}

TEST_P(MappedFailureTest, LostMonitorResumesTheGuest) {
    MonitorProxy proxy(dir_ / "proxy.qmp", qemu_->qmp_path());
    for (const RoundMethod method : kStopping) {
        client_.reset();  // the monitor serves one client
        auto connected = qmp::Client::connect(dir_ / "proxy.qmp");
        ASSERT_TRUE(connected.ok()) << connected.error().message();
        client_ = std::move(connected).value();
        RoundOptions lost = options(method);
        lost.on_stopped = [&]() -> Status {
            proxy.cut_and_wait();
            return {};
        };
        const auto result = run(lost);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().context.find("COULD NOT"), std::string::npos)
            << result.error().message();
        client_.reset();
        client_ = qemu_->connect();
        ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    }
}

TEST_P(MappedFailureTest, FullSinkNeverHoldsTheGuest) {
    ASSERT_TRUE(run(options(RoundMethod::mapped_sealed)).ok());
    // Full from the beginning: the guest is not even stopped.
    store_->refuse = [](const CapturedPage&) { return true; };
    RoundOptions round = options(RoundMethod::mapped_sealed);
    bool touched = false;
    round.before_touch = [&]() -> Status {
        touched = true;
        return {};
    };
    const auto early = run(round);
    ASSERT_TRUE(early.ok()) << early.error().message();
    EXPECT_FALSE(early->complete());
    EXPECT_EQ(early->pages_dropped, 1u);
    EXPECT_FALSE(touched);
    // Full only once it stands still: it goes on at once, without a recovery point.
    for (const RoundMethod method : {RoundMethod::mapped_sealed, RoundMethod::mapped_stopped}) {
        bool stopped = false;
        store_->refuse = [&](const CapturedPage&) { return stopped; };
        RoundOptions late = options(method);
        late.on_stopped = [&]() -> Status {
            stopped = true;
            catalogue_->set_all_unknown();
            return {};
        };
        const auto result = run(late);
        ASSERT_TRUE(result.ok()) << result.error().message();
        EXPECT_FALSE(result->complete());
        EXPECT_TRUE(result->device_state.tail.empty());
        EXPECT_GT(result->pause_ns, 0u);
        ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    }
    // A final pass leaves it standing, as asked.
    store_->refuse = [](const CapturedPage&) { return true; };
    RoundRunner runner(*client_, *catalogue_, clock_, log_);
    const auto final = runner.run(options(RoundMethod::mapped_final), *store_);
    ASSERT_TRUE(final.ok()) << final.error().message();
    EXPECT_FALSE(final->complete());
    EXPECT_EQ(run_state(), "paused");
    store_->refuse = nullptr;
    const auto again = runner.run(options(RoundMethod::mapped_final), *store_);
    ASSERT_TRUE(again.ok()) << again.error().message();
    EXPECT_TRUE(again->complete());
    EXPECT_EQ(pages_differing_from_guest(), 0u);
}

TEST_P(MappedFailureTest, PausedGuestIsFinalOnlyAndNeverResumed) {
    ASSERT_TRUE(client_->execute("stop").ok());
    for (const RoundMethod method :
         {RoundMethod::mapped_refresh, RoundMethod::mapped_sealed, RoundMethod::mapped_stopped}) {
        EXPECT_EQ(run(options(method)).error().code, Errc::refused);
        EXPECT_EQ(run_state(), "paused");
    }
    const auto final = run(options(RoundMethod::mapped_final));
    ASSERT_TRUE(final.ok()) << final.error().message();
    EXPECT_EQ(final->pages_seen, ram_pages());  // one scan: nothing can change
    EXPECT_EQ(pages_differing_from_guest(), 0u);
    EXPECT_EQ(run_state(), "postmigrate");
}

TEST_P(MappedFailureTest, ForeignSettingsSurvive) {
    ASSERT_TRUE(client_
                    ->execute("migrate-set-capabilities", Json::parse(R"({"capabilities":[
                                  {"capability":"x-ignore-shared","state":true},
                                  {"capability":"xbzrle","state":true}]})"))
                    .ok());
    settings_ = settings();
    ASSERT_TRUE(run(options(RoundMethod::mapped_sealed)).ok());
    expect_guest_runs();
    ASSERT_TRUE(run(options(RoundMethod::mapped_stopped)).ok());
    expect_guest_runs();
    ASSERT_TRUE(run(options(RoundMethod::sealed_live)).ok());
    expect_guest_runs();
}

// A gateway is killed while the guest stands still for it, and while its stream is read.
TEST_P(MappedFailureTest, KilledGatewayLeavesNoHungGuest) {
    for (const bool in_stream : {false, true}) {
        for (const RoundMethod method : kStopping) {
            SCOPED_TRACE(std::string(to_string(method)) + (in_stream ? " in its stream" : ""));
            client_.reset();
            const pid_t child = ::fork();
            if (child == 0) {
                std::optional<StreamGuard> guard;
                if (auto started = StreamGuard::start(); started.ok())
                    guard.emplace(std::move(*started));
                client_ = std::move(qmp::Client::connect(qemu_->qmp_path())).value();
                map();
                RoundOptions doomed = options(method);
                doomed.guard = guard ? &*guard : nullptr;
                bool stopped = false;
                doomed.on_stopped = [&]() -> Status {
                    stopped = true;
                    if (!in_stream) ::raise(SIGKILL);
                    catalogue_->set_all_unknown();
                    return {};
                };
                // The first page of a small block comes through the stream.
                store_->refuse = [&](const CapturedPage& page) {
                    if (stopped && raw(page.region) != main_) ::raise(SIGKILL);
                    return false;
                };
                static_cast<void>(run(doomed).ok());
                ::_exit(1);
            }
            int status = 0;
            ::waitpid(child, &status, 0);
            ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
                if (entry.path().filename().string().starts_with("capture-"))
                    std::filesystem::remove(entry.path());
            }
            auto connected = connect_or_rescue(qemu_->qmp_path(), 2000, log_);
            ASSERT_TRUE(connected.ok()) << connected.error().message();
            client_ = std::move(connected).value();
            ASSERT_TRUE(ensure_running(*client_, dir_.path(), clock_, log_).ok());
            // Its bandwidth is not known any more.
            ASSERT_TRUE(client_
                            ->execute("migrate-set-parameters",
                                      Json{{"max-bandwidth", uint64_t{134217728}}})
                            .ok());
            ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
            epoch_ += 10;
            map();
            ASSERT_TRUE(run(options(RoundMethod::mapped_sealed)).ok());
            expect_one_instant();
        }
    }
}

TEST_P(MappedFailureTest, RefusalsNameWhatIsMissing) {
    VmFacts facts = facts_;
    facts.memory_shared = false;
    EXPECT_NE(MappedMemory::open(*client_, facts, clock_)
                  .error()
                  .context.find("memory backend 'pc.ram' is not shared (share=off)"),
              std::string::npos);
    facts = facts_;
    facts.memory_backend = "other";
    EXPECT_NE(MappedMemory::open(*client_, facts, clock_).error().context.find("'other'"),
              std::string::npos);
    for (RamBlock& block : facts.ram_blocks) {
        if (block.name == "pc.ram") block.size_bytes *= 2;
    }
    facts.memory_backend = "pc.ram";
    EXPECT_EQ(MappedMemory::open(*client_, facts, clock_).error().code, Errc::refused);
    // Not shared in truth, whatever the facts say.
    const Qemu anonymous(dir_, {}, "other.img");
    auto client = anonymous.connect();
    ASSERT_TRUE(client);
    const auto refused = MappedMemory::open(*client, facts_, clock_);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().context.find("is private (share=off?)"), std::string::npos)
        << refused.error().message();
    // Another process behind the same descriptor is not this guest.
    client_.reset();
    qemu_->kill_now();
    const auto gone =
        mapped_->scan(*catalogue_, *store_,
                      {RegionId(static_cast<uint16_t>(main_)), Epoch{99}, [] { return Status(); }});
    EXPECT_FALSE(gone.ok());
}

}  // namespace
}  // namespace evac::prestage::test
