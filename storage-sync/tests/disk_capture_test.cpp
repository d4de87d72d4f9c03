// Capture against a real QEMU without a guest. Writes "of the guest" are made through the device's
// own backend by QEMU's qemu-io command, so they pass the same filters and bitmaps as a guest's.
#include "evac/storage_sync/disk_capture.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "evac/core/units.hpp"
#include "evac/qmp/client.hpp"
#include "page_runs.hpp"

namespace evac::storage_sync {
namespace {

namespace fs = std::filesystem;
using qmp::Json;

constexpr uint64_t kDisk0Bytes = 8 * kMiB;
constexpr uint64_t kDisk1Bytes = 4 * kMiB + 512;  // the last page is short

std::string temporary_folder() {
    char pattern[] = "/tmp/evac-cap-XXXXXX";
    return mkdtemp(pattern);
}

int run(const std::vector<std::string>& words) {
    const pid_t pid = fork();
    if (pid == 0) {
        if (freopen("/dev/null", "w", stdout) == nullptr) _exit(126);
        std::vector<char*> argv;
        for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
        argv.push_back(nullptr);
        execvp(argv[0], argv.data());
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return status;
}

// What a sink was given, as away would hold it: one image per disk.
class ImageSink : public BlockSink {
  public:
    explicit ImageSink(std::vector<uint64_t> sizes) {
        for (const uint64_t size : sizes)
            images.emplace_back((size + kPageBytes - 1) / kPageBytes * kPageBytes);
    }
    Verdict page(size_t disk, uint64_t page, ByteSpan bytes) override {
        const Verdict verdict = decide ? decide(disk, page) : Verdict::taken;
        if (verdict != Verdict::taken) return verdict;
        EXPECT_EQ(bytes.size(), kPageBytes);
        EXPECT_GE(int64_t(page), last_page_);
        ++pages;
        std::copy(bytes.begin(), bytes.end(), images.at(disk).begin() + int64_t(page * kPageBytes));
        return Verdict::taken;
    }
    Verdict zeros(size_t disk, uint64_t first, uint64_t count) override {
        const Verdict verdict = decide ? decide(disk, first) : Verdict::taken;
        if (verdict != Verdict::taken) return verdict;
        EXPECT_LE((first + count) * kPageBytes, images.at(disk).size());
        const auto begin = images.at(disk).begin() + int64_t(first * kPageBytes);
        std::fill(begin, begin + int64_t(count * kPageBytes), std::byte{0});
        return Verdict::taken;
    }

    std::vector<Bytes> images;
    std::function<Verdict(size_t, uint64_t)> decide;
    uint64_t pages = 0;

  private:
    int64_t last_page_ = 0;
};

class Capturing : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(run({"qemu-img", "create", "-q", "-f", "raw", path("d0.raw"),
                       std::to_string(kDisk0Bytes)}),
                  0);
        ASSERT_EQ(run({"qemu-img", "create", "-q", "-f", "qcow2", path("d1.qcow2"),
                       std::to_string(kDisk1Bytes)}),
                  0);
        ASSERT_EQ(run({"qemu-img", "create", "-q", "-f", "raw", path("cd.iso"), "1M"}), 0);
        start_qemu();
        connect();
    }
    void TearDown() override {
        capture_.reset();
        client_.reset();
        hand_.reset();
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
        fs::remove_all(folder_);
    }

    std::string path(const std::string& name) const { return folder_ + "/" + name; }

    void start_qemu() {
        pid_ = fork();
        if (pid_ == 0) {
            const std::string q0 = "unix:" + path("q0") + ",server=on,wait=off";
            const std::string q1 = "unix:" + path("q1") + ",server=on,wait=off";
            const std::string d0 =
                "driver=raw,node-name=disk0,discard=unmap,file.driver=file,file.discard=unmap,file."
                "filename=" +
                path("d0.raw");
            const std::string d1 =
                "driver=qcow2,node-name=disk1,file.driver=file,file.filename=" + path("d1.qcow2");
            const std::string cd =
                "file=" + path("cd.iso") + ",media=cdrom,if=none,id=cd0,format=raw";
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (freopen("/dev/null", "w", stdout) == nullptr) _exit(126);
            execlp("qemu-system-x86_64", "qemu-system-x86_64", "-M", "pc-q35-7.2", "-accel", "tcg",
                   "-nodefaults", "-display", "none", "-m", "64", "-S", "-object",
                   "iothread,id=io1", "-blockdev", d0.c_str(), "-blockdev", d1.c_str(), "-drive",
                   cd.c_str(), "-device", "virtio-blk-pci,drive=disk0,id=vd0", "-device",
                   "virtio-blk-pci,drive=disk1,id=vd1,iothread=io1", "-device",
                   "ide-cd,drive=cd0,id=cdrom", "-qmp", q0.c_str(), "-qmp", q1.c_str(), nullptr);
            _exit(127);
        }
        for (int i = 0; i < 1000 && !fs::exists(path("q1")); ++i) usleep(10000);
        auto hand = qmp::Client::connect(path("q1"));
        ASSERT_TRUE(hand.ok()) << hand.error().message();
        hand_ = std::move(*hand);
    }
    void connect() {
        capture_.reset();
        client_.reset();
        auto client = qmp::Client::connect(path("q0"));
        ASSERT_TRUE(client.ok()) << client.error().message();
        client_ = std::move(*client);
        recover();
        auto survey = survey_disks(*client_);
        ASSERT_TRUE(survey.ok()) << survey.error().message();
        survey_ = std::move(*survey);
        make_capture({});
    }
    void recover() {
        auto report = recover_disks(*client_, {.run_dir = folder_, .tag = "vm1"}, log_);
        ASSERT_TRUE(report.ok()) << report.error().message();
        report_ = std::move(*report);
    }
    void make_capture(CaptureOptions options) {
        options.run_dir = folder_;
        options.tag = "vm1";
        auto capture = DiskCapture::create(*client_, survey_.disks, options, log_);
        ASSERT_TRUE(capture.ok()) << capture.error().message();
        capture_ = std::move(*capture);
    }
    // As the guest would: through the device.
    void guest(int disk, const std::string& command) {
        const std::string line = "qemu-io -d /machine/peripheral/vd" + std::to_string(disk) +
                                 "/virtio-backend \"" + command + "\"";
        auto done = hand_->execute("human-monitor-command", {{"command-line", line}});
        ASSERT_TRUE(done.ok()) << done.error().message();
        const std::string said = done->is_string() ? done->get<std::string>() : "";
        ASSERT_EQ(said.find("rror"), std::string::npos) << said;
        ASSERT_EQ(said.find("ailed"), std::string::npos) << said;
    }
    void resize(const char* node, uint64_t bytes) {
        auto done = hand_->execute("block_resize", {{"node-name", node}, {"size", bytes}});
        ASSERT_TRUE(done.ok()) << done.error().message();
    }
    void begin(PointKind kind) {
        auto prepared = capture_->prepare_point(kind);
        ASSERT_TRUE(prepared.ok()) << prepared.error().message();
        auto begun = capture_->begin_point();
        ASSERT_TRUE(begun.ok()) << begun.error().message();
    }
    PointStats read(BlockSink& sink) {
        auto stats = capture_->read_point(sink);
        EXPECT_TRUE(stats.ok()) << stats.error().message();
        return stats.ok() ? *stats : PointStats{};
    }
    void finish(PointEnd end) {
        auto finished = capture_->finish_point(end);
        ASSERT_TRUE(finished.ok()) << finished.error().message();
    }
    void start() {
        auto recovered = capture_->recover();
        ASSERT_TRUE(recovered.ok()) << recovered.error().message();
        auto started = capture_->start_tracking();
        ASSERT_TRUE(started.ok()) << started.error().message();
    }
    void first_sync(ImageSink& sink) {
        start();
        begin(PointKind::live);
        EXPECT_TRUE(read(sink).complete);
        finish(PointEnd::captured);
        EXPECT_TRUE(capture_->first_sync_done());
    }
    // The content that the guest would read now.
    std::vector<Bytes> now() {
        std::vector<Bytes> images;
        int disk = 0;
        for (const uint64_t size : {kDisk0Bytes, kDisk1Bytes}) {
            const std::string node = "disk" + std::to_string(disk++);
            const std::string raw = path("dump.raw");
            fs::remove(raw);
            std::ofstream(raw).close();
            fs::resize_file(raw, size);
            auto added =
                hand_->execute("blockdev-add", {{"driver", "raw"},
                                                {"node-name", "dump"},
                                                {"file", {{"driver", "file"}, {"filename", raw}}}});
            EXPECT_TRUE(added.ok()) << added.error().message();
            hand_->drop_events();
            auto copied = hand_->execute(
                "blockdev-backup",
                {{"job-id", "dump"}, {"device", node}, {"target", "dump"}, {"sync", "full"}});
            EXPECT_TRUE(copied.ok()) << copied.error().message();
            EXPECT_TRUE(hand_->wait_event("BLOCK_JOB_COMPLETED", 10000).ok());
            for (int i = 0; i < 200 && !hand_->execute("query-jobs")->empty(); ++i) usleep(5000);
            EXPECT_TRUE(hand_->execute("blockdev-del", {{"node-name", "dump"}}).ok());
            Bytes image((size + kPageBytes - 1) / kPageBytes * kPageBytes);
            std::ifstream file(raw, std::ios::binary);
            file.read(reinterpret_cast<char*>(image.data()), std::streamsize(size));
            EXPECT_EQ(file.gcount(), std::streamsize(size));
            images.push_back(std::move(image));
        }
        return images;
    }
    static ImageSink sink() { return ImageSink({kDisk0Bytes, kDisk1Bytes}); }
    size_t our_names() {
        size_t count = 0;
        for (const char* command :
             {"query-named-block-nodes", "query-block-exports", "query-jobs"}) {
            const std::string text = hand_->execute(command)->dump();
            for (size_t at = text.find("\"evac-"); at != std::string::npos;
                 at = text.find("\"evac-", at + 1))
                ++count;
        }
        return count;
    }

    std::string folder_ = temporary_folder();
    pid_t pid_ = 0;
    std::unique_ptr<qmp::Client> client_;
    std::unique_ptr<qmp::Client> hand_;
    DiskSurvey survey_;
    RecoverReport report_;
    NullLogger log_;
    std::unique_ptr<DiskCapture> capture_;
};

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
