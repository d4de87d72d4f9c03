#pragma once
// A real QEMU without a guest. Writes "of the guest" are made through the device's own backend by
// QEMU's qemu-io command, so they pass the same filters and bitmaps as a guest's.
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
#include "evac/storage_sync/disk_capture.hpp"

namespace evac::storage_sync {
namespace fs = std::filesystem;
using qmp::Json;

constexpr uint64_t kDisk0Bytes = 8 * kMiB;
constexpr uint64_t kDisk1Bytes = 4 * kMiB + 512;  // the last page is short

inline std::string temporary_folder() {
    char pattern[] = "/tmp/evac-cap-XXXXXX";
    return mkdtemp(pattern);
}

inline int run(const std::vector<std::string>& words) {
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
        if (HasFatalFailure()) return;
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
        auto hand = qmp::Client::connect(path("q1"));
        for (int i = 0; i < 1000 && !hand.ok(); ++i) {  // the file is there before QEMU listens
            usleep(10000);
            hand = qmp::Client::connect(path("q1"));
        }
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
    // The gateway dies at whatever it was doing, and a new one comes.
    void die_and_come_back(CaptureOptions options = {}) {
        capture_.reset();
        client_.reset();
        auto client = qmp::Client::connect(path("q0"));
        ASSERT_TRUE(client.ok()) << client.error().message();
        client_ = std::move(*client);
        const CaptureOptions files{.run_dir = folder_, .tag = "vm1"};
        auto report = recover_disks(*client_, files, log_, Leftovers::keep_tracking);
        ASSERT_TRUE(report.ok()) << report.error().message();
        EXPECT_FALSE(report->full_compare_needed);
        auto survey = survey_disks(*client_);
        ASSERT_TRUE(survey.ok()) << survey.error().message();
        ASSERT_TRUE(survey->refused.empty());
        survey_ = std::move(*survey);
        make_capture(options);
    }
    void stop_qemu() {
        hand_.reset();
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        fs::remove(path("q0"));
        fs::remove(path("q1"));
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

}  // namespace evac::storage_sync
