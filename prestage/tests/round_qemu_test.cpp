// RoundRunner against a real QEMU: what is captured is what the guest has, and the guest runs again
// whatever fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "evac/prestage/stream_guard.hpp"
#include "qemu_fixture.hpp"

namespace evac::prestage::test {
namespace {

class RoundTest : public ::testing::Test {
  protected:
    void SetUp() override {
        client_ = qemu_.connect();
        ASSERT_TRUE(client_);
        ASSERT_TRUE(qemu_.boots(*client_));
        auto facts = collect_facts(*client_, {dir_.path()}, clock_, log_);
        ASSERT_TRUE(facts.ok()) << facts.error().message();
        ASSERT_TRUE(refusals(*facts).empty()) << refusals(*facts).front().reason;
        regions_ = region_list(*facts);
        catalogue_ = std::make_unique<Catalogue>(7, regions_);
        store_ = std::make_unique<Store>(regions_);
        main_ = static_cast<size_t>(
            std::ranges::find(regions_, RegionKind::main_ram, &RegionInfo::kind) -
            regions_.begin());
        settings_ = settings();
    }

    RoundOptions options(RoundMethod method) {
        RoundOptions out;
        out.method = method;
        out.epoch = Epoch{++epoch_};
        out.run_dir = dir_.path();
        out.time_limit_ms = 30'000;
        return out;
    }
    Result<RoundResult> run(const RoundOptions& options) {
        return RoundRunner(*client_, *catalogue_, clock_, log_).run(options, *store_);
    }
    // Capabilities and parameters, as text.
    std::string settings() {
        return ask("query-migrate-capabilities").dump() + ask("query-migrate-parameters").dump();
    }
    Json ask(const char* command) {
        const auto answer = client_->execute(command);
        EXPECT_TRUE(answer.ok()) << answer.error().message();
        return answer.ok() ? *answer : Json::object();
    }
    std::string run_state() { return ask("query-status").value("status", "?"); }
    // The guest runs: its counter goes on.
    void expect_guest_runs() {
        ASSERT_EQ(run_state(), "running");
        const uint32_t before = qemu_.counter(*client_);
        uint32_t after = before;
        for (int i = 0; i < 500 && after == before; ++i) {
            Qemu::nap_ms(10);
            after = qemu_.counter(*client_);
        }
        ASSERT_NE(after, before);
        EXPECT_EQ(settings(), settings_);
        EXPECT_EQ(sockets_left(), 0);
        EXPECT_EQ(qemu_.protected_mappings(), 0);
    }
    int sockets_left() {
        return static_cast<int>(std::ranges::count_if(
            std::filesystem::directory_iterator(dir_.path()),
            [](const auto& e) { return e.path().filename().string().starts_with("capture-"); }));
    }
    std::vector<uint32_t> counters() {
        std::vector<uint32_t> out(kCounters);
        for (size_t i = 0; i < kCounters; ++i) {
            std::memcpy(&out[i], store_->images[main_].data() + kFirstCounter + i * kPageBytes, 4);
        }
        return out;
    }
    void expect_one_instant() {
        const auto seen = counters();
        EXPECT_GT(seen.front(), 0u);
        EXPECT_TRUE(std::ranges::is_sorted(seen, std::greater<>()));
        EXPECT_LE(seen.front() - seen.back(), 1u);
    }
    uint64_t pages_differing_from_guest() {
        const std::vector<std::byte>& image = store_->images[main_];
        const auto memory = qemu_.memory(*client_, image.size());
        uint64_t differing = 0;
        for (uint64_t at = 0; at < image.size(); at += kPageBytes) {
            if (at >= 0xa0000 && at < 0xc0000) continue;  // the VGA window is not RAM
            differing +=
                std::memcmp(image.data() + at, memory.data() + at, kPageBytes) != 0 ? 1 : 0;
        }
        return differing;
    }

    TempDir dir_;
    Qemu qemu_{dir_};
    SystemClock clock_;
    CountingLogger log_;
    std::unique_ptr<qmp::Client> client_;
    std::vector<RegionInfo> regions_;
    std::unique_ptr<Catalogue> catalogue_;
    std::unique_ptr<Store> store_;
    size_t main_ = 0;
    uint32_t epoch_ = 0;
    std::string settings_;
};

TEST_F(RoundTest, SealedRoundsAreInstantsAndCarryOnlyWhatChanged) {
    bool hooked = false;
    RoundOptions first = options(RoundMethod::sealed_live);
    first.on_stopped = [&]() -> Status {
        hooked = run_state() == "paused";
        return {};
    };
    const auto one = run(first);
    ASSERT_TRUE(one.ok()) << one.error().message();
    EXPECT_TRUE(hooked);
    EXPECT_TRUE(one->complete());
    EXPECT_EQ(one->pages_changed,
              catalogue_->page_count() - catalogue_->page_count(RegionId(regions_.size() - 1)));
    EXPECT_EQ(one->device_state.machine, "pc-q35-7.2");
    EXPECT_GT(one->device_state.tail.size(), 4096u);
    EXPECT_GT(one->pause_ns, 0u);
    EXPECT_GE(one->pause_upper_ns, one->pause_ns);
    expect_one_instant();
    const uint32_t counter = counters().front();
    expect_guest_runs();
    for (int i = 0; i < 3; ++i) {
        const auto next = run(options(RoundMethod::sealed_live));
        ASSERT_TRUE(next.ok()) << next.error().message();
        EXPECT_TRUE(next->complete());
        EXPECT_GE(next->pages_changed, kCounters);
        EXPECT_LT(next->pages_changed, 1024u);
        expect_one_instant();
    }
    EXPECT_GT(counters().front(), counter);
    EXPECT_GT(catalogue_->heat(RegionId(main_), kFirstCounter / kPageBytes), 100);
    EXPECT_EQ(catalogue_->heat(RegionId(main_), 0x2000000 / kPageBytes), 0);
    expect_guest_runs();
}

TEST_F(RoundTest, FinalPassEqualsTheStoppedGuestPageByPage) {
    ASSERT_TRUE(run(options(RoundMethod::sealed_live)).ok());
    RoundRunner runner(*client_, *catalogue_, clock_, log_);
    const auto final = runner.run(options(RoundMethod::final_stopped), *store_);
    ASSERT_TRUE(final.ok()) << final.error().message();
    EXPECT_TRUE(final->complete());
    EXPECT_LT(final->pages_changed, 1024u);
    EXPECT_EQ(run_state(), "postmigrate");
    EXPECT_EQ(settings(), settings_);
    EXPECT_EQ(pages_differing_from_guest(), 0u);
    ASSERT_TRUE(runner.resume_after_final().ok());
    expect_guest_runs();
}

TEST_F(RoundTest, StoppedPassIsAnInstantAndResumes) {
    const auto result = run(options(RoundMethod::stopped_pass));
    ASSERT_TRUE(result.ok()) << result.error().message();
    EXPECT_TRUE(result->complete());
    EXPECT_GT(result->pause_ns, 0u);
    expect_one_instant();
    expect_guest_runs();
}

TEST_F(RoundTest, FailingHookResumesTheGuest) {
    for (const RoundMethod method :
         {RoundMethod::sealed_live, RoundMethod::stopped_pass, RoundMethod::final_stopped}) {
        RoundOptions failing = options(method);
        failing.on_stopped = [] {
            return Status(make_error(Errc::unavailable, "no disk transaction"));
        };
        const auto result = run(failing);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().code, Errc::unavailable);
        EXPECT_EQ(result.error().context, "no disk transaction");
        expect_guest_runs();
    }
}

// The stream of a sealed round is read to its end, so that QEMU needs no rescue.
TEST_F(RoundTest, CancelResumesTheGuest) {
    for (const RoundMethod method : {RoundMethod::sealed_live, RoundMethod::final_stopped}) {
        catalogue_->set_all_unknown();
        std::atomic<bool> cancel{false};
        const uint64_t start = store_->calls;
        store_->on_page = [&] { cancel = store_->calls - start >= 100; };
        RoundOptions cancelled = options(method);
        cancelled.cancel = &cancel;
        const auto result = run(cancelled);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().code, Errc::cancelled) << result.error().message();
        expect_guest_runs();
        EXPECT_EQ(log_.warnings, 0) << log_.last_warning;
        cancel = true;  // before it begins
        EXPECT_EQ(run(cancelled).error().code, Errc::cancelled);
        expect_guest_runs();
    }
}

TEST_F(RoundTest, DyingStreamResumesTheGuest) {
    for (const RoundMethod method :
         {RoundMethod::sealed_live, RoundMethod::stopped_pass, RoundMethod::final_stopped}) {
        catalogue_->set_all_unknown();
        int cut = 0;
        const uint64_t start = store_->calls;
        store_->on_page = [&] {
            if (store_->calls == start + 500) cut = cut_capture_stream();
        };
        const auto result = run(options(method));
        EXPECT_EQ(cut, 1) << to_string(method);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().context.find("COULD NOT"), std::string::npos)
            << to_string(method) << ": " << result.error().message() << "\n"
            << log_.last_warning;
        ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    }
}

TEST_F(RoundTest, ConnectionThatNeverComesResumesTheGuest) {
    RoundOptions lost = options(RoundMethod::sealed_live);
    lost.on_stopped = [this]() -> Status {
        for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
            if (entry.path().filename().string().starts_with("capture-"))
                std::filesystem::remove(entry.path());
        }
        return {};
    };
    const auto result = run(lost);
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.error().context.find("before it connected"), std::string::npos)
        << result.error().message();
    expect_guest_runs();
}

TEST_F(RoundTest, ChangedRamBlocksEndTheRoundAndResumeTheGuest) {
    auto other = regions_;
    other[main_].size_bytes *= 2;
    catalogue_ = std::make_unique<Catalogue>(7, other);
    const auto result = run(options(RoundMethod::sealed_live));
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, Errc::refused);
    EXPECT_NE(result.error().context.find("enrol it again"), std::string::npos);
    expect_guest_runs();
    EXPECT_EQ(log_.warnings, 0) << log_.last_warning;
}

TEST_F(RoundTest, TimeLimitResumesTheGuest) {
    RoundOptions hasty = options(RoundMethod::sealed_live);
    hasty.time_limit_ms = 1;
    const auto result = run(hasty);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, Errc::timeout);
    expect_guest_runs();
}

TEST_F(RoundTest, DroppedPagesAreBroughtAgain) {
    uint64_t refused = 0;
    store_->refuse = [&](const CapturedPage& page) {
        return page.page % 16 == 3 && ++refused != 0;
    };
    const auto lossy = run(options(RoundMethod::sealed_live));
    ASSERT_TRUE(lossy.ok()) << lossy.error().message();
    EXPECT_FALSE(lossy->complete());
    EXPECT_EQ(lossy->pages_dropped, refused);
    store_->refuse = nullptr;
    const auto final = run(options(RoundMethod::final_stopped));
    ASSERT_TRUE(final.ok()) << final.error().message();
    EXPECT_TRUE(final->complete());
    EXPECT_GE(final->pages_changed, refused);
    EXPECT_EQ(pages_differing_from_guest(), 0u);
}

TEST_F(RoundTest, PausedGuestIsNeitherCapturedNorResumed) {
    ASSERT_TRUE(client_->execute("stop").ok());
    const auto live = run(options(RoundMethod::sealed_live));
    ASSERT_FALSE(live.ok());
    EXPECT_EQ(live.error().code, Errc::refused);
    EXPECT_EQ(run_state(), "paused");
    RoundRunner runner(*client_, *catalogue_, clock_, log_);
    RoundOptions failing = options(RoundMethod::final_stopped);
    failing.on_stopped = [] { return Status(make_error(Errc::io, "no")); };
    EXPECT_FALSE(runner.run(failing, *store_).ok());
    EXPECT_EQ(run_state(), "paused");
    const auto final = runner.run(options(RoundMethod::final_stopped), *store_);
    ASSERT_TRUE(final.ok()) << final.error().message();
    EXPECT_EQ(pages_differing_from_guest(), 0u);
    EXPECT_TRUE(runner.resume_after_final().ok());
    EXPECT_EQ(run_state(), "postmigrate");
}

TEST_F(RoundTest, ForeignSettingsSurviveARound) {
    ASSERT_TRUE(client_
                    ->execute("migrate-set-capabilities",
                              Json::parse(R"({"capabilities":[{"capability":"xbzrle","state":true},
                                              {"capability":"auto-converge","state":true},
                                              {"capability":"events","state":true}]})"))
                    .ok());
    ASSERT_TRUE(client_->execute("migrate-set-parameters", Json{{"max-bandwidth", 12345678}}).ok());
    settings_ = settings();
    ASSERT_TRUE(run(options(RoundMethod::sealed_live)).ok());
    expect_guest_runs();
    ASSERT_TRUE(run(options(RoundMethod::stopped_pass)).ok());
    expect_guest_runs();
}

// The monitor connection breaks at three points; recovery goes through a connection of its own.
TEST_F(RoundTest, LostMonitorResumesTheGuest) {
    client_.reset();
    MonitorProxy proxy(dir_ / "proxy.qmp", qemu_.qmp_path());
    for (int point = 0; point < 3; ++point) {
        auto connected = qmp::Client::connect(dir_ / "proxy.qmp");
        ASSERT_TRUE(connected.ok()) << connected.error().message();
        client_ = std::move(connected).value();
        catalogue_->set_all_unknown();
        const auto method = point == 2 ? RoundMethod::final_stopped : RoundMethod::sealed_live;
        RoundOptions lost = options(method);
        const uint64_t start = store_->calls;
        if (point == 0) {
            lost.on_stopped = [&]() -> Status {
                proxy.cut_and_wait();
                return {};
            };
        } else {
            store_->on_page = [&] {
                if (store_->calls == start + 500) proxy.cut_and_wait();
            };
        }
        const auto result = run(lost);
        store_->on_page = nullptr;
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().context.find("COULD NOT"), std::string::npos)
            << result.error().message();
        client_.reset();
        client_ = std::move(qmp::Client::connect(dir_ / "proxy.qmp")).value();
        expect_guest_runs();
        EXPECT_EQ(log_.warnings, 0) << log_.last_warning;
        client_.reset();
    }
}

TEST_F(RoundTest, DeadQemuIsAnErrorNotAHang) {
    const uint64_t start = store_->calls;
    store_->on_page = [&] {
        if (store_->calls != start + 500) return;
        EXPECT_GT(qemu_.protected_mappings(), 0);  // the check of the other tests can fail
        qemu_.kill_now();
    };
    const auto result = run(options(RoundMethod::sealed_live));
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.error().context.find("COULD NOT"), std::string::npos);
}

// A gateway that is killed in the middle of a round; its pages go nowhere.
class KilledGatewayTest : public RoundTest {
  protected:
    void round_killed_halfway(bool with_guard) {
        client_.reset();  // the monitor serves one client
        const pid_t child = ::fork();
        if (child == 0) {
            std::optional<StreamGuard> guard;
            if (with_guard) guard.emplace(std::move(StreamGuard::start()).value());
            client_ = std::move(qmp::Client::connect(qemu_.qmp_path())).value();
            const uint64_t start = store_->calls;
            store_->on_page = [&] {
                if (store_->calls == start + 500) ::raise(SIGKILL);
            };
            RoundOptions doomed = options(RoundMethod::sealed_live);
            doomed.guard = guard.has_value() ? &*guard : nullptr;
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
        epoch_ += 10;
    }
    void reconnect() {
        auto connected = connect_or_rescue(qemu_.qmp_path(), 2000, log_);
        ASSERT_TRUE(connected.ok()) << connected.error().message();
        client_ = std::move(connected).value();
    }
    void expect_all_methods_work() {
        for (const auto method :
             {RoundMethod::stopped_pass, RoundMethod::sealed_live, RoundMethod::final_stopped}) {
            const auto result = run(options(method));
            ASSERT_TRUE(result.ok()) << to_string(method) << ": " << result.error().message();
        }
        EXPECT_EQ(pages_differing_from_guest(), 0u);
    }
};

TEST_F(KilledGatewayTest, GuardReadsTheStreamToItsEnd) {
    round_killed_halfway(true);
    for (int i = 0; i < 1000 && qemu_.protected_mappings() != 0; ++i) Qemu::nap_ms(5);
    EXPECT_EQ(qemu_.protected_mappings(), 0);
    ASSERT_NO_FATAL_FAILURE(reconnect());
    ASSERT_TRUE(ensure_running(*client_, dir_.path(), clock_, log_).ok());
    settings_ = settings();  // max-bandwidth stays as the killed gateway had set it
    expect_guest_runs();
    catalogue_->set_all_unknown();
    expect_all_methods_work();
}

TEST_F(KilledGatewayTest, WithoutGuardEnsureRunningTakesTheWriteProtectionOff) {
    round_killed_halfway(false);
    Qemu::nap_ms(100);
    EXPECT_GT(qemu_.protected_mappings(), 0);  // the fact about QEMU that all this is for
    ASSERT_NO_FATAL_FAILURE(reconnect());
    ASSERT_TRUE(ensure_running(*client_, dir_.path(), clock_, log_).ok());
    settings_ = settings();
    expect_guest_runs();
    catalogue_->set_all_unknown();
    expect_all_methods_work();
}

// Somebody else holds the monitor: no answer comes, and QEMU is none the worse for our attempt.
TEST_F(RoundTest, ConnectOrRescueReportsAMonitorThatDoesNotAnswer) {
    EXPECT_EQ(connect_or_rescue(qemu_.qmp_path(), 100, log_).error().code, Errc::timeout);
    EXPECT_EQ(connect_or_rescue(dir_ / "absent", 100, log_).error().code, Errc::io);
    expect_guest_runs();
}

TEST_F(RoundTest, GuardIsOfNoConsequenceForARoundThatEnds) {
    auto guard = StreamGuard::start();
    ASSERT_TRUE(guard.ok());
    for (int i = 0; i < 3; ++i) {
        RoundOptions guarded = options(RoundMethod::sealed_live);
        guarded.guard = &*guard;
        ASSERT_TRUE(run(guarded).ok());
    }
    const auto held_by_guard = [&] {
        std::string held;
        for (const auto& fd : std::filesystem::directory_iterator(
                 "/proc/" + std::to_string(guard->child_pid()) + "/fd")) {
            held += fd.path().filename().string() + " ";
        }
        return held;
    };
    for (int i = 0; i < 500 && held_by_guard() != "0 "; ++i) Qemu::nap_ms(2);
    EXPECT_EQ(held_by_guard(), "0 ");
    expect_guest_runs();
}

TEST_F(RoundTest, EnsureRunningCleansUpAfterAKilledGateway) {
    ASSERT_TRUE(client_->execute("stop").ok());
    ASSERT_TRUE(
        client_
            ->execute(
                "migrate-set-capabilities",
                Json::parse(
                    R"({"capabilities":[{"capability":"background-snapshot","state":true}]})"))
            .ok());
    ASSERT_TRUE(ensure_running(*client_, dir_.path(), clock_, log_).ok());
    expect_guest_runs();
}

TEST_F(RoundTest, BadRunDirectoryLeavesTheGuestAlone) {
    RoundOptions bad = options(RoundMethod::sealed_live);
    bad.run_dir = dir_ / "absent";
    EXPECT_EQ(run(bad).error().code, Errc::io);
    bad.run_dir = std::string(200, 'x');
    EXPECT_EQ(run(bad).error().code, Errc::invalid_argument);
    expect_guest_runs();
}

}  // namespace
}  // namespace evac::prestage::test
