// Capture of disks, against a real QEMU.
#include "capturing.hpp"
#include "page_runs.hpp"

namespace evac::storage_sync {
namespace {

TEST_F(Capturing, SurveyNamesDisksAndSkipsTheRest) {
    ASSERT_EQ(survey_.disks.size(), 2u);
    EXPECT_EQ(survey_.disks[0].name, "vd0");
    EXPECT_EQ(survey_.disks[0].node, "disk0");
    EXPECT_EQ(survey_.disks[0].format, "raw");
    EXPECT_EQ(survey_.disks[0].size_bytes, kDisk0Bytes);
    EXPECT_EQ(survey_.disks[1].format, "qcow2");
    EXPECT_EQ(survey_.disks[1].size_bytes, kDisk1Bytes);
    ASSERT_EQ(survey_.skipped.size(), 1u);
    EXPECT_NE(survey_.skipped[0].reason.find("read-only"), std::string::npos);
    EXPECT_TRUE(survey_.refused.empty());
}

TEST_F(Capturing, DiskUnderAForeignJobIsRefused) {
    std::ofstream(path("other.raw")).close();
    fs::resize_file(path("other.raw"), kDisk0Bytes);
    const Json file{{"driver", "file"}, {"filename", path("other.raw")}};
    ASSERT_TRUE(
        hand_->execute("blockdev-add", {{"driver", "raw"}, {"node-name", "other"}, {"file", file}})
            .ok());
    const Json job{
        {"job-id", "theirs"}, {"device", "disk0"}, {"target", "other"}, {"sync", "none"}};
    ASSERT_TRUE(hand_->execute("blockdev-backup", job).ok());
    auto survey = survey_disks(*hand_);
    ASSERT_TRUE(survey.ok()) << survey.error().message();
    ASSERT_EQ(survey->refused.size(), 1u);
    EXPECT_EQ(survey->refused[0].name, "vd0");
    EXPECT_NE(survey->refused[0].reason.find("block job"), std::string::npos);
    EXPECT_EQ(survey->disks.size(), 1u);
    ASSERT_TRUE(recover_disks(*client_, {.run_dir = folder_, .tag = "vm1"}, log_).ok());
    EXPECT_EQ(hand_->execute("query-jobs")->size(), 1u) << "a foreign job was ended";
}

TEST_F(Capturing, FirstSyncEqualsTheImageAndReadsOnlyWhatIsAllocated) {
    guest(0, "write -P 1 64k 192k");
    guest(0, "write -P 2 5M 4k");
    guest(1, "write -P 3 1M 8k");
    guest(1, "write -P 4 4194304 512");  // the short last page
    ImageSink image = sink();
    for (Bytes& bytes : image.images) std::fill(bytes.begin(), bytes.end(), std::byte{0xee});
    start();
    EXPECT_FALSE(capture_->first_sync_done());
    begin(PointKind::live);
    const PointStats stats = read(image);
    EXPECT_TRUE(stats.complete);
    EXPECT_TRUE(stats.disks[0].full);
    EXPECT_EQ(stats.disks[0].pages, 192u / 4 + 1);
    EXPECT_EQ(stats.disks[0].pages + stats.disks[0].zero_pages, kDisk0Bytes / kPageBytes);
    EXPECT_LE(stats.disks[1].read_bytes, 192u * 1024);  // two qcow2 clusters, not 4 MiB
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == now());
    EXPECT_TRUE(capture_->first_sync_done());
}

TEST_F(Capturing, DeltaHoldsJustTheWrites) {
    ImageSink image = sink();
    guest(0, "write -P 1 0 1M");
    first_sync(image);
    guest(0, "write -P 9 40k 4k");
    guest(0, "write -P 8 900k 8k");
    guest(0, "discard 512k 64k");
    guest(1, "write -P 7 100k 512");
    guest(1, "write -P 6 4194304 512");
    begin(PointKind::live);
    const PointStats stats = read(image);
    finish(PointEnd::captured);
    EXPECT_TRUE(stats.complete);
    EXPECT_FALSE(stats.disks[0].full);
    EXPECT_EQ(stats.disks[0].pages, 3u);
    EXPECT_EQ(stats.disks[0].zero_pages, 16u);
    EXPECT_EQ(stats.disks[0].dirty_bytes, 76u * 1024);
    EXPECT_EQ(stats.disks[1].pages, 2u);
    EXPECT_TRUE(image.images == now());

    begin(PointKind::live);
    const uint64_t before = image.pages;
    EXPECT_TRUE(read(image).complete);
    EXPECT_EQ(image.pages, before);  // nothing was written since
    finish(PointEnd::captured);
}

TEST_F(Capturing, ViewStaysAtItsInstantWhileTheGuestWrites) {
    ImageSink image = sink();
    guest(0, "write -P 1 0 2M");
    guest(1, "write -P 1 0 2M");
    first_sync(image);
    guest(0, "write -P 2 1M 64k");
    guest(1, "write -P 2 1M 64k");
    const std::vector<Bytes> instant = now();
    begin(PointKind::live);
    guest(0, "write -P 3 1M 128k");
    guest(1, "write -P 3 1M 128k");
    bool more = true;
    image.decide = [&](size_t, uint64_t) {
        if (more) guest(0, "write -P 4 1088k 4k");  // in the middle of reading as well
        more = false;
        return Verdict::taken;
    };
    EXPECT_TRUE(read(image).complete);
    EXPECT_GT(capture_->overlay_bytes(), 0u);
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == instant);
    begin(PointKind::live);  // what was written after the instant is in the next point
    EXPECT_TRUE(read(image).complete);
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == now());
}

TEST_F(Capturing, StoppedPointNeedsNoOverlay) {
    ImageSink image = sink();
    first_sync(image);
    guest(0, "write -P 5 128k 4k");
    begin(PointKind::stopped);
    const PointStats stats = read(image);
    EXPECT_TRUE(stats.complete);
    EXPECT_EQ(stats.overlay_bytes, 0u);
    EXPECT_EQ(stats.disks[0].pages, 1u);
    ASSERT_TRUE(capture_->release_view().ok());
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == now());
}

TEST_F(Capturing, DroppedPagesComeAgain) {
    ImageSink image = sink();
    first_sync(image);
    guest(0, "write -P 5 1M 64k");
    begin(PointKind::live);
    image.decide = [](size_t, uint64_t page) {
        return page % 2 == 0 ? Verdict::taken : Verdict::dropped;
    };
    const PointStats stats = read(image);
    EXPECT_FALSE(stats.complete);
    EXPECT_EQ(stats.disks[0].dropped_pages, 8u);
    EXPECT_EQ(capture_->finish_point(PointEnd::captured).error().code, Errc::refused);
    finish(PointEnd::partial);
    EXPECT_FALSE(image.images == now());
    guest(0, "write -P 6 2M 4k");
    image.decide = nullptr;
    begin(PointKind::live);
    EXPECT_EQ(read(image).disks[0].dirty_bytes, 68u * 1024);  // old bitmap merged into the new one
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == now());
}

TEST_F(Capturing, FirstSyncGoesOnAtItsCursor) {
    guest(0, "write -P 1 0 8M");
    guest(1, "write -P 2 0 1M");
    ImageSink image = sink();
    start();
    uint64_t budget = 700;
    image.decide = [&](size_t, uint64_t) { return budget-- > 0 ? Verdict::taken : Verdict::stop; };
    begin(PointKind::live);
    const PointStats first = read(image);
    EXPECT_FALSE(first.complete);
    EXPECT_EQ(first.disks[0].synced_to_page, 700u);
    finish(PointEnd::partial);
    guest(0, "write -P 7 64k 4k");  // below the cursor: by the bitmap
    guest(0, "write -P 8 7M 4k");   // above: by the sync
    image.decide = nullptr;
    begin(PointKind::live);
    const uint64_t before = image.pages;
    EXPECT_TRUE(read(image).complete);
    EXPECT_EQ(image.pages - before, 2048 - 700 + 1 + 256);
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == now());
}

TEST_F(Capturing, LostPointIsReadAgainInFull) {
    guest(0, "write -P 1 0 1M");
    ImageSink lost = sink();
    start();
    begin(PointKind::live);
    EXPECT_TRUE(read(lost).complete);
    finish(PointEnd::lost);
    EXPECT_FALSE(capture_->first_sync_done());
    ImageSink image = sink();
    begin(PointKind::live);
    EXPECT_TRUE(read(image).complete);
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == now());
    capture_->request_full_compare();
    ImageSink again = sink();
    begin(PointKind::live);
    EXPECT_TRUE(read(again).disks[0].full);
    finish(PointEnd::captured);
    EXPECT_TRUE(again.images == now());
}

TEST_F(Capturing, RecoverRemovesWhatADeadGatewayLeft) {
    ImageSink image = sink();
    guest(0, "write -P 1 0 1M");
    first_sync(image);
    begin(PointKind::live);
    image.decide = [&](size_t, uint64_t) {
        EXPECT_GT(our_names(), 6u);
        return Verdict::stop;
    };
    guest(0, "write -P 3 0 1M");
    capture_->request_full_compare();
    (void)capture_->read_point(image);
    capture_.reset();
    client_.reset();  // the connection is dropped in the middle, and nobody knows what was going on
    EXPECT_GT(our_names(), 4u);
    auto survey = survey_disks(*hand_);
    ASSERT_TRUE(survey.ok());
    EXPECT_EQ(survey->refused.size(), 2u);
    EXPECT_NE(survey->refused.at(0).reason.find("leftover"), std::string::npos);
    connect();
    EXPECT_TRUE(report_.full_compare_needed);
    EXPECT_GE(report_.removed.size(), 8u);
    EXPECT_EQ(our_names(), 0u);
    guest(0, "write -P 4 64k 4k");
    ImageSink again = sink();
    first_sync(again);
    EXPECT_TRUE(again.images == now());
    ASSERT_TRUE(capture_->stop_tracking().ok());
    EXPECT_EQ(our_names(), 0u);
}

TEST_F(Capturing, ResizeIsRefusedAndNamesTheDisk) {
    ImageSink image = sink();
    first_sync(image);
    resize("disk0", kDisk0Bytes + kMiB);
    auto refused = capture_->prepare_point(PointKind::live);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, Errc::refused);
    EXPECT_NE(refused.error().context.find("'vd0' was resized"), std::string::npos);
    resize("disk0", kDisk0Bytes);
    begin(PointKind::stopped);
    resize("disk0", kDisk0Bytes + kMiB);
    auto read = capture_->read_point(image);
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.error().code, Errc::refused);
    EXPECT_NE(read.error().context.find("'vd0'"), std::string::npos);
    finish(PointEnd::lost);
}

TEST_F(Capturing, OverlayIsBounded) {
    CaptureOptions options;
    options.overlay_bytes_max = kMiB;
    make_capture(options);
    ImageSink image = sink();
    guest(0, "write -P 1 0 8M");
    first_sync(image);
    guest(0, "write -P 2 0 8M");
    begin(PointKind::live);
    guest(0, "write -P 3 0 8M");
    auto read = capture_->read_point(image);
    ASSERT_FALSE(read.ok());
    EXPECT_NE(read.error().context.find("overlays of 'vm1' grew"), std::string::npos);
    EXPECT_EQ(hand_->execute("query-jobs")->size(), 0u);  // the guest's writes are copied no more
    finish(PointEnd::partial);
    begin(PointKind::live);
    EXPECT_TRUE(this->read(image).complete);
    finish(PointEnd::captured);
    EXPECT_TRUE(image.images == now());
}

TEST_F(Capturing, ForeignNbdServerAndWrongOrderAreRefused) {
    start();
    EXPECT_EQ(capture_->begin_point().error().code, Errc::refused);
    ImageSink image = sink();
    EXPECT_EQ(capture_->read_point(image).error().code, Errc::refused);
    const Json address{{"type", "unix"}, {"data", {{"path", path("foreign")}}}};
    ASSERT_TRUE(hand_->execute("nbd-server-start", {{"addr", address}}).ok());
    auto refused = capture_->prepare_point(PointKind::live);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().context.find("already running"), std::string::npos)
        << refused.error().message();
    EXPECT_TRUE(capture_->recover().ok());
    EXPECT_FALSE(hand_->execute("nbd-server-start", {{"addr", address}}).ok())
        << "the foreign server was stopped";
    ASSERT_TRUE(hand_->execute("nbd-server-stop").ok());
    ASSERT_TRUE(capture_->start_tracking().ok());
    ASSERT_TRUE(capture_->prepare_point(PointKind::live).ok());
    ASSERT_TRUE(capture_->cancel_prepared().ok());
    begin(PointKind::live);
    finish(PointEnd::lost);
}

TEST_F(Capturing, BadOptionsAreNamed) {
    const auto refused = [&](CaptureOptions options) {
        auto made = DiskCapture::create(*client_, survey_.disks, options, log_);
        EXPECT_FALSE(made.ok());
        return made.ok() ? std::string() : made.error().context;
    };
    EXPECT_NE(refused({.run_dir = "relative", .tag = "x"}).find("run_dir 'relative'"),
              std::string::npos);
    EXPECT_NE(refused({.run_dir = folder_, .tag = "a/b"}).find("tag 'a/b'"), std::string::npos);
    EXPECT_NE(refused({.run_dir = folder_, .tag = "x", .granularity_bytes = 5000}).find("5000"),
              std::string::npos);
}

TEST(PageRunsOf, ExtentsThatShareAPage) {
    PageRuns runs(10 * kPageBytes + 512);
    runs.add(0, 512, PageClass::zeros);
    runs.add(512, 4096, PageClass::zeros);  // two partial zeros: read, to be safe
    runs.add(4096, 3 * 4096 + 512, PageClass::zeros);
    runs.add(3 * 4096 + 512, 4 * 4096, PageClass::content);
    runs.add(4 * 4096, 6 * 4096, PageClass::skip);
    runs.add(6 * 4096, 7 * 4096 + 1024, PageClass::content);
    runs.add(7 * 4096 + 1024, 10 * 4096 + 512, PageClass::zeros);
    std::vector<std::array<uint64_t, 3>> got;
    for (const PageRun& run : runs.runs())
        got.push_back({run.first, run.count, uint64_t(run.kind)});
    const std::vector<std::array<uint64_t, 3>> expected = {
        {0, 1, 2}, {1, 2, 1}, {3, 1, 2}, {6, 2, 2}, {8, 3, 1}};
    EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace evac::storage_sync
