// A live pre-copy of a real QEMU: what it sealed is what the guest had, and the guest runs again
// whatever fails.
//
// Multi-pass capture loses writes under TCG (QEMU 7.2 does not re-arm a vCPU's TLB when it reads
// the dirty bitmap), so the TCG guest here toggles CR0.WP after every write, which flushes the TLB.
// Under KVM, where the machine has it, the guest needs no such help.
#include <gtest/gtest.h>

#include <algorithm>

#include "qemu_fixture.hpp"

namespace evac::prestage::test {
namespace {

struct GuestKind {
    uint8_t last_segment = 0x90;  // pages 0x10000, 0x11000, ... below this times 0x1000
    bool halts = false;           // after each page was counted once
};

// Firmware of its own: no SeaBIOS, so that KVM that emulates every instruction runs it too.
void write_rom(const std::string& path, const GuestKind& kind) {
    std::vector<uint8_t> code{0xbb, 0x00, 0x10,  // start: mov bx, 0x1000
                              0x8e, 0xdb,        // next:  mov ds, bx
                              0x66, 0xff, 0x06, 0x00,
                              0x00,              //        inc dword [0]
                              0x0f, 0x20, 0xc0,  //        mov eax, cr0
                              0x66, 0x35, 0x00, 0x00,
                              0x01, 0x00,                           //        xor eax, 0x10000
                              0x0f, 0x22, 0xc0,                     //        mov cr0, eax
                              0x81, 0xc3, 0x00, 0x01,               //        add bx, 0x100
                              0x81, 0xfb, 0x00, kind.last_segment,  //       cmp bx, ...
                              0x72, 0xe3};                          //       jb next
    if (kind.halts) {
        code.insert(code.end(), {0xf4, 0xeb, 0xfd});  // stay: hlt; jmp stay
    } else {
        code.insert(code.end(), {0xeb, 0xde});  // jmp start
    }
    std::vector<char> rom(65536);
    std::memcpy(rom.data(), code.data(), code.size());
    const std::array<uint8_t, 5> reset{0xea, 0x00, 0x00, 0x00, 0xf0};  // jmp 0xf000:0
    std::memcpy(rom.data() + 0xfff0, reset.data(), reset.size());
    std::ofstream(path, std::ios::binary)
        .write(rom.data(), static_cast<std::streamsize>(rom.size()));
}

class PrecopyTest : public ::testing::Test {
  protected:
    void start(const GuestKind& kind, const std::string& accel = "tcg") {
        write_rom(dir_ / "rom.bin", kind);
        last_segment_ = kind.last_segment;
        qemu_ = std::make_unique<Qemu>(
            dir_,
            std::vector<std::string>{"-bios", dir_ / "rom.bin", "-qmp",
                                     "unix:" + (dir_ / "second.qmp") + ",server=on,wait=off"},
            "boot.img", accel);
        client_ = qemu_->connect();
        ASSERT_TRUE(client_);
        for (int i = 0; i < 500 && qemu_->counter(*client_) == 0; ++i) Qemu::nap_ms(10);
        ASSERT_NE(qemu_->counter(*client_), 0u);
        auto facts = collect_facts(*client_, {dir_.path()}, clock_, log_);
        ASSERT_TRUE(facts.ok()) << facts.error().message();
        regions_ = region_list(*facts);
        catalogue_ = std::make_unique<Catalogue>(7, regions_);
        store_ = std::make_unique<Store>(regions_);
        main_ = static_cast<size_t>(
            std::ranges::find(regions_, RegionKind::main_ram, &RegionInfo::kind) -
            regions_.begin());
        settings_ = settings();
    }

    RoundOptions options() {
        RoundOptions out;
        out.method = RoundMethod::precopy_live;
        out.epoch = Epoch{epoch_};
        out.epochs = kPrecopyEpochs;
        epoch_ += out.epochs;
        out.run_dir = dir_.path();
        out.time_limit_ms = 60'000;
        // A first pass of less than 100 ms would end in a switchover: QEMU has no measure of the
        // rate yet.
        out.first_bandwidth = 1 << 20;
        // A pass takes more than QEMU's window of 100 ms, or it would converge whenever the vCPU
        // got no core between two passes.
        out.live_bandwidth = (last_segment_ - 0x10u) << 15;
        out.live_limit_ms = 1'500;
        out.on_stopped = [this]() -> Status {
            at_point_ = qemu_->memory(*client_, store_->images[main_].size());
            return {};
        };
        return out;
    }
    Result<RoundResult> run(const RoundOptions& options) {
        return RoundRunner(*client_, *catalogue_, clock_, log_).run(options, *store_);
    }
    // RAM behind the VGA window and the firmware does not read as memory.
    uint64_t pages_differing_from_point() {
        const std::vector<std::byte>& image = store_->images[main_];
        uint64_t differing = 0;
        for (uint64_t at = 0; at < image.size(); at += kPageBytes) {
            if (at >= 0xa0000 && at < 0x100000) continue;
            differing +=
                std::memcmp(image.data() + at, at_point_.data() + at, kPageBytes) != 0 ? 1u : 0u;
        }
        return differing;
    }
    void expect_sealed(const Result<RoundResult>& result) {
        ASSERT_TRUE(result.ok()) << result.error().message();
        EXPECT_TRUE(result->complete());
        EXPECT_FALSE(result->device_state.tail.empty());
        EXPECT_GT(result->pause_ns, 0u);
        EXPECT_EQ(pages_differing_from_point(), 0u);
        EXPECT_EQ(log_.warnings, 0) << log_.last_warning;
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
    }
    std::unique_ptr<qmp::Client> second_monitor() {
        return std::move(qmp::Client::connect(dir_ / "second.qmp")).value();
    }
    uint64_t ram_pages() const {
        return catalogue_->page_count() - catalogue_->page_count(RegionId(regions_.size() - 1));
    }
    // In a child; `options` is made there.
    void killed(const std::function<void(RoundOptions&)>& doom) {
        client_.reset();  // the monitor serves one client
        const pid_t child = ::fork();
        if (child == 0) {
            client_ = std::move(qmp::Client::connect(qemu_->qmp_path())).value();
            RoundOptions doomed = options();
            doom(doomed);
            static_cast<void>(run(doomed).ok());
            ::_exit(1);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        client_ = std::move(qmp::Client::connect(qemu_->qmp_path())).value();
        epoch_ += kPrecopyEpochs;
    }

    TempDir dir_;
    std::unique_ptr<Qemu> qemu_;
    SystemClock clock_;
    CountingLogger log_;
    std::unique_ptr<qmp::Client> client_;
    std::vector<RegionInfo> regions_;
    std::unique_ptr<Catalogue> catalogue_;
    std::unique_ptr<Store> store_;
    std::vector<std::byte> at_point_;
    size_t main_ = 0;
    uint8_t last_segment_ = 0;
    uint32_t epoch_ = 1;
    std::string settings_;
};

TEST_F(PrecopyTest, ForcedSealEqualsTheStoppedGuestPageByPage) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    for (int i = 0; i < 2; ++i) {
        const RoundOptions wanted = options();
        const auto result = run(wanted);
        expect_sealed(result);
        EXPECT_TRUE(result->forced);
        EXPECT_GT(result->pass_count, 2u);
        EXPECT_FALSE(result->passes.empty());
        EXPECT_GT(raw(result->epoch), raw(wanted.epoch) + 1);
        EXPECT_LT(raw(result->epoch), raw(wanted.epoch) + wanted.epochs);
        EXPECT_GT(result->pages_repeated, 128u);
        expect_guest_runs();
    }
}

TEST_F(PrecopyTest, UnderKvmToo) {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm is not accessible";
    ASSERT_NO_FATAL_FAILURE(start({}, "kvm"));
    const auto kvm = client_->execute("query-kvm");
    ASSERT_TRUE(kvm.ok() && kvm->value("enabled", false));
    const auto result = run(options());
    expect_sealed(result);
    EXPECT_GT(result->pass_count, 2u);
    expect_guest_runs();
}

TEST_F(PrecopyTest, IdleGuestConvergesByItselfAndIsSealed) {
    ASSERT_NO_FATAL_FAILURE(start({.halts = true}));
    RoundOptions patient = options();
    patient.live_limit_ms = 50'000;
    const auto result = run(patient);
    expect_sealed(result);
    EXPECT_FALSE(result->forced);
    EXPECT_EQ(run_state(), "running");
    EXPECT_EQ(settings(), settings_);
}

TEST_F(PrecopyTest, SealsWhenAsked) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    std::atomic<bool> seal{false};
    RoundOptions asked = options();
    asked.live_limit_ms = 50'000;
    asked.seal_now = &seal;
    store_->on_page = [&] { seal = store_->calls > ram_pages() + 500; };
    const auto result = run(asked);
    expect_sealed(result);
    EXPECT_TRUE(result->forced);
    expect_guest_runs();
}

TEST_F(PrecopyTest, FullSinkIsBackpressureAndDropsOnlyInTheEnd) {
    ASSERT_NO_FATAL_FAILURE(start({.last_segment = 0x20}));  // little is left for the stop
    uint64_t tries = 0;
    store_->refuse = [&](const CapturedPage& page) {
        return page.page == 0x10 && ++tries % 3 != 0;
    };
    RoundOptions slow = options();
    slow.live_limit_ms = 500;
    expect_sealed(run(slow));
    EXPECT_GT(tries, 3u);
    expect_guest_runs();
    store_->refuse = [](const CapturedPage& page) { return page.page == 0x10; };
    RoundOptions hasty = options();
    hasty.sink_wait_ms = 30;
    const auto lossy = run(hasty);
    ASSERT_TRUE(lossy.ok()) << lossy.error().message();
    EXPECT_FALSE(lossy->complete());
    EXPECT_GT(lossy->pages_dropped, 0u);
    EXPECT_FALSE(catalogue_->fingerprint(RegionId(main_), 0x10).known());
    expect_guest_runs();
}

TEST_F(PrecopyTest, CancelLeavesTheGuestRunning) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    std::atomic<bool> cancel{false};
    RoundOptions cancelled = options();
    cancelled.cancel = &cancel;
    store_->on_page = [&] { cancel = store_->calls >= 100; };  // while it lives
    EXPECT_EQ(run(cancelled).error().code, Errc::cancelled);
    ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    EXPECT_EQ(run(cancelled).error().code, Errc::cancelled);  // before it begins
    ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    store_->on_page = nullptr;
    cancel = false;
    RoundOptions standing = options();
    standing.cancel = &cancel;
    standing.on_stopped = [&]() -> Status {
        cancel = true;
        return {};
    };
    EXPECT_EQ(run(standing).error().code, Errc::cancelled);
    ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    EXPECT_EQ(log_.warnings, 0) << log_.last_warning;
    RoundOptions failing = options();
    failing.on_stopped = [] { return Status(make_error(Errc::unavailable, "no disks")); };
    EXPECT_EQ(run(failing).error().context, "no disks");
    ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    expect_sealed(run(options()));  // QEMU is none the worse for all this
}

TEST_F(PrecopyTest, DyingStreamLeavesTheGuestRunning) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    int cut = 0;
    store_->on_page = [&] {
        if (store_->calls == 300) cut = cut_capture_stream();
    };
    const auto result = run(options());
    EXPECT_EQ(cut, 1);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().context.find("COULD NOT"), std::string::npos);
    expect_guest_runs();
}

TEST_F(PrecopyTest, LostMonitorLeavesTheGuestRunning) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    client_.reset();
    MonitorProxy proxy(dir_ / "proxy.qmp", qemu_->qmp_path());
    for (const bool standing : {false, true}) {
        client_ = std::move(qmp::Client::connect(dir_ / "proxy.qmp")).value();
        catalogue_->set_all_unknown();
        RoundOptions lost = options();
        const uint64_t begin = store_->calls;
        if (standing) {
            lost.on_stopped = [&]() -> Status {
                proxy.cut_and_wait();
                return {};
            };
        } else {
            store_->on_page = [&] {
                if (store_->calls == begin + 500) proxy.cut_and_wait();
            };
        }
        const auto result = run(lost);
        store_->on_page = nullptr;
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().context.find("COULD NOT"), std::string::npos)
            << result.error().message();
        client_.reset();
        client_ = std::move(qmp::Client::connect(dir_ / "proxy.qmp")).value();
        ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
        client_.reset();
    }
}

TEST_F(PrecopyTest, GuestPausedBySomebodyStaysPaused) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    const auto somebody = second_monitor();
    store_->on_page = [&] {
        if (store_->calls == 100) ASSERT_TRUE(somebody->execute("stop").ok());
    };
    const auto result = run(options());
    store_->on_page = nullptr;
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, Errc::refused);
    EXPECT_NE(result.error().context.find("'paused'"), std::string::npos);
    EXPECT_EQ(run_state(), "paused");
    EXPECT_EQ(settings(), settings_);
    EXPECT_EQ(run(options()).error().code, Errc::refused);
    ASSERT_TRUE(client_->execute("cont").ok());
    expect_guest_runs();
}

// Paused so shortly before the switchover that our look at the run state comes too late.
TEST_F(PrecopyTest, GuestPausedAtTheSwitchoverIsNotResumed) {
    ASSERT_NO_FATAL_FAILURE(start({.last_segment = 0x20}));  // 16 pages: a pass fits the socket
    const auto somebody = second_monitor();
    bool paused = false;
    RoundOptions wanted = options();
    wanted.live_limit_ms = 30'000;
    store_->on_page = [&] {
        if (paused || store_->calls < ram_pages() + 50) return;
        paused = true;
        ASSERT_TRUE(somebody->execute("stop").ok());
        std::string status;
        for (int i = 0; i < 500 && status != "pre-switchover"; ++i) {
            Qemu::nap_ms(10);
            status = somebody->execute("query-migrate")->value("status", "?");
        }
        EXPECT_EQ(status, "pre-switchover");
    };
    const auto result = run(wanted);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, Errc::refused) << result.error().message();
    EXPECT_EQ(run_state(), "postmigrate");
    EXPECT_EQ(settings(), settings_);
    ASSERT_TRUE(client_->execute("cont").ok());
    store_->on_page = nullptr;
    expect_guest_runs();
}

TEST_F(PrecopyTest, KilledGatewayIsCleanedUpAfter) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    ASSERT_NO_FATAL_FAILURE(killed([this](RoundOptions&) {
        store_->on_page = [this] {
            if (store_->calls == 300) ::raise(SIGKILL);
        };
    }));
    EXPECT_EQ(run_state(), "running");  // by itself
    ASSERT_TRUE(ensure_running(*client_, dir_.path(), clock_, log_).ok());
    ASSERT_NO_FATAL_FAILURE(expect_guest_runs());
    ASSERT_NO_FATAL_FAILURE(killed([](RoundOptions& doomed) {
        doomed.on_stopped = []() -> Status {
            ::raise(SIGKILL);
            return {};
        };
    }));
    EXPECT_EQ(run_state(), "finish-migrate");
    ASSERT_TRUE(ensure_running(*client_, dir_.path(), clock_, log_).ok());
    expect_guest_runs();  // and settings are QEMU's defaults, as they were
    catalogue_->set_all_unknown();
    store_->on_page = nullptr;
    expect_sealed(run(options()));
}

TEST_F(PrecopyTest, BadOptionsAreNamedAndTouchNothing) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    const auto refused = [&](const char* field, const std::function<void(RoundOptions&)>& change) {
        RoundOptions bad = options();
        change(bad);
        const auto result = run(bad);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().code, Errc::invalid_argument);
        EXPECT_TRUE(result.error().context.starts_with(field)) << result.error().context;
    };
    refused("epochs", [](RoundOptions& o) { o.epochs = 1; });
    refused("epoch", [](RoundOptions& o) { o.epoch = Epoch{UINT32_MAX - 10}; });
    refused("first_bandwidth", [](RoundOptions& o) { o.first_bandwidth = 0; });
    refused("live_bandwidth", [](RoundOptions& o) { o.live_bandwidth = 0; });
    refused("live_limit_ms", [](RoundOptions& o) { o.live_limit_ms = 0; });
    expect_guest_runs();
}

}  // namespace
}  // namespace evac::prestage::test
