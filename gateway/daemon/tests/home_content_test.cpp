// What VMs hold at home, as the reducer thread uses it: real files, a real ReducerStage on its
// thread, and away's Expander behind a transport that only keeps what it is given.
#include "home_content.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "stage_fixture.hpp"

namespace evac::daemon {
namespace {

using test::Page;
using test::page_of;

constexpr uint64_t kPages = 200;

// In the working directory, which is on a disk (of tmpfs every page is in memory).
class DiskFile {
  public:
    explicit DiskFile(uint64_t pages) {
        std::string pattern = std::filesystem::current_path() / "home_content_XXXXXX";
        directory_ = mkdtemp(pattern.data());
        path_ = directory_ + "/disk.raw";
        for (uint64_t i = 0; i < pages; ++i) write(i, page_of(i + 1));
    }
    ~DiskFile() { std::filesystem::remove_all(directory_); }
    void write(uint64_t page, const Page& content) const {
        const UniqueFd fd(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        ASSERT_EQ(
            ::pwrite(fd.get(), content.data(), kPageBytes, static_cast<off_t>(page * kPageBytes)),
            static_cast<ssize_t>(kPageBytes));
    }
    void drop_from_page_cache() const {
        const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
        ASSERT_EQ(::fsync(fd.get()), 0);
        ASSERT_EQ(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    }
    const std::string& path() const { return path_; }
    std::vector<HomeSource> sources() const {
        NullLogger log;
        storage_sync::DiskInfo disk;
        disk.name = "vd0";
        disk.node = "node0";
        disk.format = "raw";
        disk.size_bytes = kPages * kPageBytes;
        prestage::DiskFacts facts;
        facts.node_name = "node0";
        facts.file = path_;
        return open_home_disks({disk}, {facts}, 1, "/", "a", log);
    }

  private:
    std::string directory_, path_;
};

HomeSource source_of(const DiskFile& file, uint64_t bytes) {
    return {test::kDisk, std::move(HomeDisk::open(file.path(), bytes)).value(), nullptr};
}

TEST(HomeContent, NeverWaitsOnTheHotPathBeyondItsShare) {
    const DiskFile file(kPages);
    ManualClock clock;
    HomeContent content(clock, 0.05);
    content.add(test::kVm, source_of(file, kPages * kPageBytes));
    Page out{};
    const auto read = [&](uint64_t page) {
        return content.read({test::kVm, test::kDisk, page}, out) && out == page_of(page + 1);
    };
    EXPECT_TRUE(read(3));  // just written: in the page cache
    EXPECT_EQ(content.stats().cached_reads, 1u);
    file.drop_from_page_cache();
    EXPECT_FALSE(read(10));  // nothing earned yet
    EXPECT_EQ(content.stats().declined, 1u);
    clock.advance_ns(kNsPerMs);
    EXPECT_TRUE(read(10));
    EXPECT_EQ(content.stats().waited_reads, 1u);
    content.charge(kNsPerMs);  // took 20 times of what was earned
    file.drop_from_page_cache();
    EXPECT_FALSE(read(20));
    clock.advance_ns(10 * kNsPerMs);
    EXPECT_FALSE(read(20));
    clock.advance_ns(10 * kNsPerMs);
    EXPECT_TRUE(read(20));
    // What was earned and not used does not pile up.
    clock.advance_ns(1000 * kNsPerSecond);
    EXPECT_TRUE(content.may_wait());
    content.charge(HomeContent::kBudgetMaxNs);
    EXPECT_FALSE(content.may_wait());
    // An evacuation waits for no disk, whatever was earned.
    clock.advance_ns(kNsPerSecond);
    content.set_urgent(true);
    file.drop_from_page_cache();
    EXPECT_FALSE(read(30));
    content.set_urgent(false);
    EXPECT_TRUE(read(30));
    EXPECT_EQ(content.stats().failed, 0u);
}

TEST(HomeContent, SlicesReadChunksAndGiveThemBack) {
    const DiskFile file(kPages);
    ManualClock clock;
    HomeContent content(clock, 0.05);
    content.add(test::kVm, source_of(file, kPages * kPageBytes));
    file.drop_from_page_cache();
    content.begin_slice();
    Page out{};
    for (uint64_t i = 0; i < kPages; ++i) {
        ASSERT_TRUE(content.read({test::kVm, test::kDisk, i}, out)) << i;
        ASSERT_EQ(out, page_of(i + 1)) << i;
    }
    EXPECT_EQ(content.stats().waited_reads, 4u);  // 200 pages in chunks of 64
    content.end_slice();
    EXPECT_FALSE(content.read({test::kVm, test::kDisk, 100}, out));  // not left in the page cache
    EXPECT_FALSE(content.read({test::kVm, test::kDisk, kPages}, out));
    EXPECT_FALSE(content.read({test::kVm, RegionId{7}, 0}, out));
    content.begin_slice();
    content.remove(test::kVm);
    EXPECT_FALSE(content.read({test::kVm, test::kDisk, kPages - 1}, out));  // nor from the chunk
}

TEST(HomeContent, TheLastPageIsPaddedWithZeros) {
    const DiskFile file(3);
    ASSERT_EQ(::truncate(file.path().c_str(), 2 * kPageBytes + 512), 0);
    ManualClock clock;
    for (const bool slice : {false, true}) {
        HomeContent content(clock, 0);
        content.add(test::kVm, source_of(file, 2 * kPageBytes + 512));
        if (slice) content.begin_slice();
        Page out = page_of(99);
        ASSERT_TRUE(content.read({test::kVm, test::kDisk, 2}, out));
        Page wanted{};
        std::memcpy(wanted.data(), page_of(3).data(), 512);
        EXPECT_EQ(out, wanted);
    }
}

TEST(HomeContent, MemoryComesFromItsProvider) {
    ManualClock clock;
    HomeContent content(clock, 0);
    const Page held = page_of(5);
    content.add_memory(test::kVm, test::kRam,
                       [&](uint64_t page) { return page == 2 ? ByteSpan(held) : ByteSpan(); });
    Page out{};
    EXPECT_TRUE(content.read({test::kVm, test::kRam, 2}, out));
    EXPECT_EQ(out, held);
    EXPECT_FALSE(content.read({test::kVm, test::kRam, 3}, out));
    content.remove(test::kVm);
    EXPECT_FALSE(content.read({test::kVm, test::kRam, 2}, out));
}

TEST(HomeContent, RefusesWhatIsNoDisk) {
    const DiskFile file(2);
    EXPECT_FALSE(HomeDisk::open(file.path(), 3 * kPageBytes).ok());
    EXPECT_FALSE(HomeDisk::open("/dev/null", kPageBytes).ok());
    EXPECT_FALSE(HomeDisk::open("/nowhere", kPageBytes).ok());
    NullLogger log;
    storage_sync::DiskInfo disk;
    disk.node = "node0";
    disk.format = "qcow2";
    disk.size_bytes = 2 * kPageBytes;
    prestage::DiskFacts facts;
    facts.node_name = "node0";
    facts.file = "disk.raw";
    const std::string directory = std::filesystem::path(file.path()).parent_path();
    EXPECT_TRUE(open_home_disks({disk}, {facts}, 1, directory, "a", log).empty());
    disk.format = "raw";
    EXPECT_EQ(open_home_disks({disk}, {facts}, 1, directory, "a", log).size(), 1u);
    facts.file = "nbd://10.0.0.1/disk";
    EXPECT_TRUE(open_home_disks({disk}, {facts}, 1, directory, "a", log).empty());
}

TEST(ReducerContent, ABaseIsReadFromTheDisk) {
    const DiskFile file(kPages);
    test::Stage home(kPages, 1.0);
    home.begin(file.sources());
    for (uint64_t i = 0; i < kPages; ++i) home.push(test::kDisk, i, page_of(i + 1));
    home.settle();
    home.push(test::kRam, 0, test::mutated(page_of(1)));
    home.settle();
    EXPECT_EQ(home.away.totals().delta_pages, 1u);
    // The guest has written the block since, and our page cache shows it: other content than
    // away's is no base, the page goes whole.
    file.write(1, page_of(500));
    home.push(test::kRam, 1, test::mutated(page_of(2)));
    home.settle();
    EXPECT_EQ(home.away.totals().delta_pages, 1u);
    EXPECT_EQ(home.away.totals().literal_pages, kPages + 1);
    // It runs elsewhere now: its files are read no more.
    home.stage->command(to_reducer::CloseContent{test::kVm});
    home.push(test::kRam, 2, test::mutated(page_of(3)));
    home.settle();
    EXPECT_EQ(home.away.totals().delta_pages, 1u);
    EXPECT_EQ(home.naks, 0u);
}

// Sketches are in memory only, and this index has no store: after a restart away's fingerprints
// come, and a pass over the disk finds again what away has.
TEST(ReducerContent, ARestartIsReindexedFromTheDisk) {
    const DiskFile file(kPages);
    test::Away away;
    {
        test::Stage before(kPages, 1.0, &away);
        before.begin(file.sources());
        for (uint64_t i = 0; i < kPages; ++i) before.push(test::kDisk, i, page_of(i + 1));
        before.settle();
    }
    file.write(9, page_of(900));
    test::Stage home(kPages, 1.0, &away);
    home.begin(file.sources());
    home.load_tags();
    home.wait_for_reindex(kPages - 1);
    EXPECT_EQ(home.stage->reindex().pages_done.load(), 2 * kPages);
    home.push(test::kRam, 1, page_of(7));
    home.push(test::kRam, 2, test::shifted(page_of(20), page_of(21), 512));
    home.push(test::kRam, 3, test::mutated(page_of(30)));
    home.push(test::kRam, 4, page_of(10));  // the block has other content now: not learned
    home.settle();
    EXPECT_EQ(away.totals().referenced_pages, 1u);
    EXPECT_EQ(away.totals().shifted_pages, 1u);
    EXPECT_EQ(away.totals().delta_pages, 1u);
    EXPECT_EQ(away.totals().literal_pages, kPages + 1);
    EXPECT_EQ(home.naks, 0u);
}

TEST(ReducerContent, NothingIsReindexedWhileUrgent) {
    const DiskFile file(kPages);
    test::Away away;
    {
        test::Stage before(kPages, 1.0, &away);
        before.begin(file.sources());
        for (uint64_t i = 0; i < kPages; ++i) before.push(test::kDisk, i, page_of(i + 1));
        before.settle();
    }
    test::Stage home(kPages, 1.0, &away);
    home.begin(file.sources());
    home.stage->command(to_reducer::Urgent{true});
    home.load_tags();
    home.clock.advance_ns(20 * kNsPerSecond);
    for (int i = 0; i < 20; ++i) home.push(test::kRam, 5, page_of(1));
    home.settle();
    EXPECT_TRUE(home.stage->reindex().running.load());
    EXPECT_EQ(away.totals().referenced_pages, 0u);
    home.stage->command(to_reducer::Urgent{false});
    home.wait_for_reindex(kPages);
    home.push(test::kRam, 6, page_of(2));
    home.settle();
    EXPECT_EQ(away.totals().referenced_pages, 1u);
}

// Another secret of the pair: what was sent before is found again by a pass, nothing waits for it,
// and no reference is wrong meanwhile.
TEST(ReducerContent, AnotherSecretIsABackgroundPass) {
    const DiskFile file(kPages);
    test::Stage home(kPages, 1.0);
    home.begin(file.sources());
    for (uint64_t i = 0; i < kPages; ++i) home.push(test::kDisk, i, page_of(i + 1));
    home.push(test::kRam, 0, page_of(5));
    home.settle();
    EXPECT_EQ(home.away.totals().referenced_pages, 1u);
    home.change_secret(test::kNewSecret);
    home.push(test::kRam, 1, page_of(6));
    home.settle();
    EXPECT_EQ(home.away.totals().referenced_pages, 1u);
    EXPECT_EQ(home.away.totals().literal_pages, kPages + 1);
    home.load_tags();
    home.wait_for_reindex(kPages);
    home.push(test::kRam, 2, page_of(7));
    home.push(test::kRam, 3, test::mutated(page_of(30)));
    home.settle();
    EXPECT_EQ(home.away.totals().referenced_pages, 2u);
    EXPECT_EQ(home.away.totals().delta_pages, 1u);
    EXPECT_EQ(home.away.totals().literal_pages, kPages + 1);
    EXPECT_EQ(home.naks, 0u);
}

// What waits in the queue when the secret changes is void with its session: it never goes out
// under the new one, with a fingerprint of the old.
TEST(ReducerContent, PagesOfTheOldSecretDoNotGoOut) {
    const DiskFile file(kPages);
    test::Stage home(kPages, 1.0);
    home.begin(file.sources());
    const uint32_t before = home.generation();
    home.change_secret(test::kNewSecret);
    home.push_as(before, test::kRam, 1, page_of(6));
    home.push(test::kRam, 2, page_of(7));
    home.settle();
    EXPECT_FALSE(home.away.pages.contains({test::kVm, test::kRam, 1}));
}

}  // namespace
}  // namespace evac::daemon
