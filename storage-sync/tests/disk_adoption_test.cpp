// A gateway dies at any step, and the next one goes on with the tracking it finds in QEMU.
#include <array>
#include <random>
#include <set>

#include "capturing.hpp"
#include "disk_tracking.hpp"
#include "page_set.hpp"

namespace evac::storage_sync {
namespace {

class Adopting : public Capturing {
  protected:
    bool adopt() {
        auto adopted = capture_->adopt();
        EXPECT_TRUE(adopted.ok()) << adopted.error().message();
        return adopted.ok() && *adopted;
    }
    // One whole point into `image`; its statistics.
    PointStats point(ImageSink& image, PointKind kind = PointKind::live) {
        begin(kind);
        PointStats stats = read(image);
        EXPECT_TRUE(stats.complete);
        finish(PointEnd::captured);
        return stats;
    }
    // "name count" of each bitmap on disk0.
    std::vector<std::string> bitmaps() {
        std::vector<std::string> names;
        auto nodes = list_nodes(*hand_);
        EXPECT_TRUE(nodes.ok());
        for (const BitmapInfo& bitmap : find_node(*nodes, "disk0")->bitmaps)
            names.push_back(bitmap.name + (bitmap.recording ? " recording" : ""));
        return names;
    }
    void expect_starts_anew() {
        EXPECT_FALSE(adopt());
        EXPECT_EQ(our_names(), 0u);
        ASSERT_TRUE(capture_->start_tracking().ok());
        EXPECT_FALSE(capture_->first_sync_done());
    }
    void execute(const char* command, const Json& arguments) {
        auto done = hand_->execute(command, arguments);
        ASSERT_TRUE(done.ok()) << done.error().message();
    }
};

// How far a point gets before the gateway dies.
enum class Step { tracking, cancelled, prepared, begun, reading, read, released, lost, captured };
constexpr std::array kSteps = {Step::tracking, Step::cancelled, Step::prepared,
                               Step::begun,    Step::reading,   Step::read,
                               Step::released, Step::lost,      Step::captured};

class AdoptingAt : public Adopting,
                   public testing::WithParamInterface<std::tuple<Step, PointKind>> {
  protected:
    void go_to(Step step, PointKind kind, ImageSink& thrown_away) {
        if (step == Step::tracking) return;
        ASSERT_TRUE(capture_->prepare_point(kind).ok());
        if (step == Step::cancelled) ASSERT_TRUE(capture_->cancel_prepared().ok());
        if (step <= Step::prepared) return;
        ASSERT_TRUE(capture_->begin_point().ok());
        if (step == Step::begun) return;
        uint64_t left = 3;
        if (step == Step::reading) {
            thrown_away.decide = [&](size_t, uint64_t) {
                return left-- > 0 ? Verdict::taken : Verdict::stop;
            };
        }
        EXPECT_EQ(read(thrown_away).complete, step != Step::reading);
        if (step == Step::released) ASSERT_TRUE(capture_->release_view().ok());
        if (step == Step::lost) finish(PointEnd::lost);
        if (step == Step::captured) finish(PointEnd::captured);
    }
};

TEST_P(AdoptingAt, NothingWrittenIsForgottenAndNothingElseIsRead) {
    const auto [step, kind] = GetParam();
    guest(0, "write -P 1 0 1M");
    guest(1, "write -P 1 0 1M");
    ImageSink image = sink();
    first_sync(image);
    guest(0, "write -P 2 64k 16k");
    guest(1, "write -P 3 128k 8k");
    if (step == Step::captured) {
        go_to(step, kind, image);
    } else {
        ImageSink thrown_away = sink();
        go_to(step, kind, thrown_away);
    }
    guest(0, "write -P 4 512k 4k");  // also into the overlay of a live point
    guest(0, "write -P 5 68k 4k");
    die_and_come_back();
    if (HasFatalFailure()) return;
    guest(1, "write -P 6 2M 4k");  // nobody is there
    ASSERT_TRUE(adopt());
    EXPECT_TRUE(capture_->first_sync_done());
    const PointStats stats = point(image);
    EXPECT_TRUE(image.images == now());
    const uint64_t before = step == Step::captured ? 0 : 16 * 1024 - 4 * 1024;
    EXPECT_FALSE(stats.disks[0].full);
    EXPECT_EQ(stats.disks[0].dirty_bytes, 8u * 1024 + before);
    EXPECT_EQ(stats.disks[0].read_bytes, 8u * 1024 + before);
    EXPECT_EQ(stats.disks[1].dirty_bytes, 4u * 1024 + (step == Step::captured ? 0 : 8 * 1024));
    EXPECT_EQ(bitmaps().size(), 2u);                   // tracking and mark
    EXPECT_EQ(point(image).disks[0].dirty_bytes, 0u);  // and it goes on as ever
    ASSERT_TRUE(capture_->stop_tracking().ok());
    EXPECT_EQ(our_names(), 0u);
}
INSTANTIATE_TEST_SUITE_P(EachStep, AdoptingAt,
                         testing::Combine(testing::ValuesIn(kSteps),
                                          testing::Values(PointKind::live, PointKind::stopped)));

TEST_F(Adopting, SeveralDeathsInARow) {
    ImageSink image = sink();
    guest(0, "write -P 1 0 1M");
    first_sync(image);
    for (int i = 0; i < 4; ++i) {
        guest(0, "write -P 2 " + std::to_string(64 + 4 * i) + "k 4k");
        begin(PointKind::live);
        die_and_come_back();
        ASSERT_TRUE(adopt());
    }
    EXPECT_EQ(point(image).disks[0].dirty_bytes, 16u * 1024);
    EXPECT_TRUE(image.images == now());
}

TEST_F(Adopting, FirstSyncGoesOnAtItsCursor) {
    guest(0, "write -P 1 0 8M");
    ImageSink image = sink();
    start();
    die_and_come_back();
    ASSERT_TRUE(adopt());  // before the first point
    EXPECT_FALSE(capture_->first_sync_done());
    uint64_t budget = 700;
    image.decide = [&](size_t, uint64_t) { return budget-- > 0 ? Verdict::taken : Verdict::stop; };
    begin(PointKind::live);
    EXPECT_EQ(read(image).disks[0].synced_to_page, 700u);
    finish(PointEnd::partial);
    guest(0, "write -P 7 64k 4k");
    die_and_come_back();
    ASSERT_TRUE(adopt());
    image.decide = nullptr;
    const uint64_t before = image.pages;
    point(image);
    EXPECT_EQ(image.pages - before, 2048 - 700 + 1);
    EXPECT_TRUE(image.images == now());
}

TEST_F(Adopting, FullCompareIsStillOwedAfterADeath) {
    guest(0, "write -P 1 0 1M");
    ImageSink image = sink();
    first_sync(image);
    capture_->request_full_compare();
    die_and_come_back();
    ASSERT_TRUE(adopt());
    EXPECT_FALSE(capture_->first_sync_done());
    begin(PointKind::live);
    EXPECT_TRUE(read(image).complete);
    capture_->request_full_compare();  // of the next point
    finish(PointEnd::captured);
    EXPECT_FALSE(capture_->first_sync_done());
    begin(PointKind::live);
    EXPECT_TRUE(read(image).complete);
    finish(PointEnd::captured);
    begin(PointKind::live);
    capture_->request_full_compare();
    die_and_come_back();  // in the point that the request came in
    ASSERT_TRUE(adopt());
    ImageSink again = sink();
    EXPECT_TRUE(point(again).disks[0].full);
    EXPECT_TRUE(again.images == now());
}

TEST_F(Adopting, AnotherQemuIsNeverAdopted) {
    ImageSink image = sink();
    first_sync(image);
    stop_qemu();
    start_qemu();
    die_and_come_back();
    expect_starts_anew();
}

TEST_F(Adopting, ResizedDiskIsNotAdopted) {
    ImageSink image = sink();
    first_sync(image);
    capture_.reset();
    resize("disk0", kDisk0Bytes + kMiB);
    die_and_come_back();
    expect_starts_anew();
}

TEST_F(Adopting, OtherGranularityIsNotAdopted) {
    ImageSink image = sink();
    first_sync(image);
    CaptureOptions options;
    options.granularity_bytes = 65536;
    die_and_come_back(options);
    expect_starts_anew();
}

TEST_F(Adopting, OtherDisksAreNotAdopted) {
    ImageSink image = sink();
    first_sync(image);
    die_and_come_back();
    const std::vector<DiskInfo> both = survey_.disks;
    survey_.disks.pop_back();
    make_capture({});
    expect_starts_anew();
    die_and_come_back();
    survey_.disks = both;
    make_capture({});
    expect_starts_anew();  // one more than before
    die_and_come_back();
    std::swap(survey_.disks[0], survey_.disks[1]);
    make_capture({});
    expect_starts_anew();
}

TEST_F(Adopting, GapInTheTrackingIsNotAdopted) {
    ImageSink image = sink();
    const auto on_disk0 = [this](size_t kind) {
        const std::string name = bitmaps().at(kind);
        return Json{{"node", "disk0"}, {"name", name.substr(0, name.find(' '))}};
    };
    const auto tracking = [&] { return on_disk0(bitmaps()[0].find("evac-t") == 0 ? 0 : 1); };
    const auto mark = [&] { return on_disk0(bitmaps()[0].find("evac-c") == 0 ? 0 : 1); };
    first_sync(image);
    execute("block-dirty-bitmap-disable", tracking());
    die_and_come_back();
    expect_starts_anew();
    execute("block-dirty-bitmap-remove", tracking());
    die_and_come_back();
    expect_starts_anew();
    execute("block-dirty-bitmap-remove", mark());
    die_and_come_back();
    expect_starts_anew();
    execute("block-dirty-bitmap-add", {{"node", "disk0"}, {"name", "evac-x"}});
    die_and_come_back();
    expect_starts_anew();
    begin(PointKind::live);  // disk0 has the old bitmap, and disk1 has not
    die_and_come_back();
    execute("block-dirty-bitmap-remove", {{"node", "disk1"}, {"name", "evac-t1"}});
    expect_starts_anew();
}

// A final pass ends in `postmigrate`, and QEMU has let go of its images.
TEST_F(Adopting, AfterAFinalPassThatWasCutOff) {
    guest(0, "write -P 1 0 1M");
    ImageSink image = sink();
    first_sync(image);
    guest(0, "write -P 2 64k 4k");
    begin(PointKind::stopped);
    execute("migrate", {{"uri", "exec:cat >/dev/null"}});
    for (int i = 0; i < 2000; ++i) {
        if (hand_->execute("query-migrate")->value("status", "") == "completed") break;
        usleep(5000);
    }
    ASSERT_EQ(hand_->execute("query-status")->value("status", ""), "postmigrate");
    die_and_come_back();
    ASSERT_TRUE(adopt());
    execute("cont", Json::object());
    guest(0, "write -P 3 128k 4k");
    EXPECT_EQ(point(image).disks[0].dirty_bytes, 8u * 1024);
    EXPECT_TRUE(image.images == now());
}

// The firmware has opened the disks, so that QEMU serves vd1 in its I/O thread. QEMU 7.2 of Debian
// aborts when an NBD client of such a disk goes away by itself.
class AdoptingWhileTheGuestRuns : public Adopting {
  protected:
    void SetUp() override {
        Adopting::SetUp();
        if (HasFatalFailure()) return;
        execute("cont", Json::object());
        guest(1, "write -P 1 0 1M");
        for (int i = 0; i < 100 && !in_io_thread(); ++i) usleep(50'000);
        ASSERT_TRUE(in_io_thread());
    }
    bool in_io_thread() {
        auto status = hand_->execute("x-query-virtio-status",
                                     {{"path", "/machine/peripheral/vd1/virtio-backend"}});
        EXPECT_TRUE(status.ok()) << status.error().message();
        return status->dump().find("DRIVER_OK") != std::string::npos;
    }
    void expect_alive() {
        usleep(200'000);  // until QEMU has noticed
        EXPECT_EQ(waitpid(pid_, nullptr, WNOHANG), 0) << "the guest's QEMU died";
    }
};

TEST_F(AdoptingWhileTheGuestRuns, PointsLeaveItAlone) {
    ImageSink image = sink();
    first_sync(image);
    for (int i = 0; i < 8; ++i) {
        guest(1, "write -P 2 " + std::to_string(64 + i * 8) + "k 8k");
        point(image, i % 2 == 0 ? PointKind::live : PointKind::stopped);
        expect_alive();
    }
    EXPECT_TRUE(image.images == now());
}

TEST_F(AdoptingWhileTheGuestRuns, DeathWhileReadingLeavesItAlone) {
    ImageSink image = sink();
    first_sync(image);
    for (int i = 0; i < 4; ++i) {
        guest(1, "write -P 3 " + std::to_string(64 + i * 8) + "k 8k");
        capture_.reset();
        client_.reset();
        const pid_t gateway = fork();
        if (gateway == 0) {
            auto client = qmp::Client::connect(path("q0"));
            if (!client.ok()) _exit(1);
            client_ = std::move(*client);
            make_capture({});
            ImageSink killed = sink();
            killed.decide = [](size_t disk, uint64_t) {
                if (disk == 1) kill(getpid(), SIGKILL);
                return Verdict::taken;
            };
            if (!adopt()) _exit(2);
            begin(PointKind::live);
            read(killed);
            _exit(3);
        }
        int status = 0;
        waitpid(gateway, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status)) << status;
        expect_alive();
        die_and_come_back();
        if (HasFatalFailure()) return;
        ASSERT_TRUE(adopt());
        EXPECT_EQ(point(image).disks[1].dirty_bytes, 8u * 1024);
        EXPECT_TRUE(image.images == now());
        expect_alive();
    }
}

TEST_F(Adopting, WrongOrderIsRefused) {
    start();
    EXPECT_EQ(capture_->adopt().error().code, Errc::refused);
}

TEST_F(Adopting, RereadPagesAreDeliveredUntilTheyAreCaptured) {
    guest(0, "write -P 1 0 1M");
    ImageSink image = sink();
    first_sync(image);
    guest(0, "write -P 2 64k 4k");
    ImageSink lost = sink();
    point(lost);  // "captured", but the pages were lost on their way
    die_and_come_back();
    ASSERT_TRUE(adopt());
    capture_->reread(0, 16, 1);
    capture_->reread(0, 200, 2);
    capture_->reread(0, 2040, 1'000'000);  // cut at the end of the disk
    capture_->reread(1, 1024, 1);          // the short last page
    capture_->reread(1, 5000, 1);          // behind the disk
    capture_->reread(1, UINT64_MAX, UINT64_MAX);
    guest(0, "write -P 3 40k 4k");
    begin(PointKind::live);
    image.decide = [](size_t, uint64_t page) {
        return page == 16 ? Verdict::dropped : Verdict::taken;
    };
    const PointStats stats = read(image);
    EXPECT_EQ(stats.disks[0].dirty_bytes, 4096u);
    EXPECT_EQ(stats.disks[0].pages, 1u + 1 + 2);
    EXPECT_EQ(stats.disks[0].zero_pages, 8u);
    EXPECT_EQ(stats.disks[1].zero_pages, 1u);
    capture_->reread(0, 100, 1);  // of the next point
    finish(PointEnd::partial);
    EXPECT_FALSE(image.images == now());
    image.decide = nullptr;
    EXPECT_EQ(point(image).disks[0].pages, 1u + 1 + 2 + 1);
    EXPECT_TRUE(image.images == now());
    EXPECT_EQ(point(image).disks[0].pages, 0u);
}

TEST(PageSetOf, RandomRunsAgainstAPlainSet) {
    const uint32_t seed = std::random_device()();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    for (int round = 0; round < 50; ++round) {
        PageSet pages(40);  // grows coarse now and then
        std::set<uint64_t> model;
        for (int i = 0; i < 60; ++i) {
            const uint64_t begin = random() % 2000;
            const uint64_t end = begin + random() % 20;
            pages.add(begin, end);
            for (uint64_t page = begin; page < end; ++page) model.insert(page);
            ASSERT_LE(pages.runs(), 40u);
        }
        bool coarse = false;
        for (uint64_t page = 0; page < 2100; ++page) {
            const PageSet::Run run = pages.at_or_after(page);
            ASSERT_TRUE(run.end == 0 || run.end > page);
            const bool in = run.end > 0 && run.begin <= page;
            ASSERT_TRUE(in || model.count(page) == 0) << page;
            coarse = coarse || (in && model.count(page) == 0);
        }
        PageSet exact;
        exact.add(pages);
        EXPECT_EQ(exact.runs(), pages.runs());
    }
    PageSet exact;
    std::set<uint64_t> model;
    for (int i = 0; i < 500; ++i) {
        const uint64_t page = random() % 4000;
        exact.add(page, page + 1);
        model.insert(page);
    }
    for (uint64_t page = 0; page < 4000; ++page) {
        const PageSet::Run run = exact.at_or_after(page);
        const auto next = model.lower_bound(page);
        ASSERT_EQ(run.end > 0, next != model.end());
        if (run.end > 0) ASSERT_EQ(std::max(run.begin, page), *next);
    }
}

TEST(TrackingMarkOf, NameAndBack) {
    const TrackingMark mark{7, 1, 2, 4194816};
    EXPECT_EQ(mark_name(mark), "evac-c7-d1-of2-s4194816");
    TrackingMark parsed;
    ASSERT_TRUE(parse_mark(mark_name(mark), parsed));
    EXPECT_EQ(parsed, mark);
    for (const char* bad :
         {"", "evac-c", "evac-c7", "evac-c7-d1-of2-s", "evac-c7-d1-of2-s4x", "evac-c-7-d1-of2-s4",
          "evac-c99999999999999999999-d1-of2-s4", "evac-t7", "evac-c7-d1-of2-s4 "}) {
        EXPECT_FALSE(parse_mark(bad, parsed)) << bad;
    }
}

}  // namespace
}  // namespace evac::storage_sync
