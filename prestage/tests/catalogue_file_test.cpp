#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>

#include "catalogue_format.hpp"
#include "evac/core/random.hpp"
#include "evac/core/units.hpp"
#include "evac/prestage/catalogue.hpp"

namespace evac::prestage {
namespace {

constexpr RegionId kRam{0}, kDisk{1};
constexpr uint64_t kRamPages = 130, kDiskPages = 70;

std::vector<RegionInfo> regions() {
    return {{"pc.ram", RegionKind::main_ram, kRamPages * kPageBytes},
            {"disk0", RegionKind::disk, kDiskPages * kPageBytes}};
}

Fingerprint print_of(uint64_t n) {
    return {n + 1, ~n};
}

class CatalogueFileTest : public ::testing::Test {
  protected:
    void SetUp() override {
        dir_ = ::testing::TempDir() + "/catalogue-" + std::to_string(::getpid());
        std::filesystem::create_directory(dir_);
        file_ = {dir_ + "/vm.cat", "boot-1", VmId{7}, "u-1"};
    }
    void TearDown() override { std::filesystem::remove_all(dir_); }
    std::unique_ptr<Catalogue> open(uint64_t seed = 5) const {
        auto opened = Catalogue::open(file_, seed, regions());
        EXPECT_TRUE(opened.ok()) << opened.error().message();
        return std::move(*opened);
    }
    // Of a copy, all sealed: nothing is in flight.
    static void settle(Catalogue& catalogue, Epoch epoch = Epoch{1}) {
        for (const RegionId region : {kRam, kDisk}) {
            std::vector<Fingerprint> all(catalogue.page_count(region));
            for (size_t i = 0; i < all.size(); ++i) all[i] = print_of(i);
            ASSERT_TRUE(catalogue.load(region, 0, all).ok());
        }
        catalogue.adopt_copy(99, Epoch{});
        catalogue.end_round(epoch);
        catalogue.sealed(epoch);
        ASSERT_EQ(catalogue.in_flight_pages(), 0u);
    }

    std::string dir_;
    CatalogueFile file_;
};

TEST_F(CatalogueFileTest, BeginsUnknownAndInFlightAndIsKept) {
    {
        auto catalogue = open();
        EXPECT_EQ(catalogue->begun_because(), "there was none");
        EXPECT_EQ(catalogue->copy_id(), 0u);
        EXPECT_EQ(catalogue->known_pages(), 0u);
        EXPECT_EQ(catalogue->in_flight_pages(), kRamPages + kDiskPages);
        EXPECT_EQ(catalogue->in_flight_ranges(64),
                  (std::vector<PageRange>{{kRam, 0, kRamPages}, {kDisk, 0, kDiskPages}}));
        settle(*catalogue);
        catalogue->update_zero(kRam, 77);
        catalogue->update_zero(kRam, 77);
    }
    auto catalogue = open();
    EXPECT_EQ(catalogue->begun_because(), "");
    EXPECT_EQ(catalogue->copy_id(), 99u);
    EXPECT_EQ(catalogue->known_pages(), kRamPages + kDiskPages);
    EXPECT_EQ(catalogue->in_flight_ranges(64), (std::vector<PageRange>{{kRam, 77, 1}}));
    EXPECT_EQ(catalogue->fingerprint(kRam, 77), catalogue->zero_fingerprint());
    EXPECT_EQ(catalogue->fingerprint(kDisk, 5), print_of(5));
    EXPECT_GT(catalogue->heat(kRam, 77), 0);
    struct stat info {};
    ASSERT_EQ(::stat(file_.path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777u, 0600u);
    EXPECT_GE(info.st_blocks * 512, info.st_size);
}

// 24 bytes a page are allowed.
TEST_F(CatalogueFileTest, AMillionPagesTakeSeventeenAndAQuarterBytesEach) {
    const std::vector<RegionInfo> big{{"ram", RegionKind::main_ram, uint64_t{1} << 32}};
    const double bytes = static_cast<double>(catalogue_layout(big).bytes - kDataOffset);
    EXPECT_DOUBLE_EQ(bytes / static_cast<double>(1 << 20), kCatalogueBytesPerPage);
    EXPECT_LE(kCatalogueBytesPerPage, 24);
}

TEST_F(CatalogueFileTest, AnotherBootVmKeyOrShapeBeginsAnew) {
    settle(*open());
    const auto begun = [&](const CatalogueFile& file, uint64_t seed,
                           const std::vector<RegionInfo>& shape) {
        const std::string aside = dir_ + "/aside.cat";
        std::filesystem::copy_file(file_.path, aside,
                                   std::filesystem::copy_options::overwrite_existing);
        CatalogueFile moved = file;
        moved.path = aside;
        auto opened = Catalogue::open(moved, seed, shape);
        EXPECT_TRUE(opened.ok());
        if ((*opened)->begun_because().empty()) return std::string();
        EXPECT_EQ((*opened)->known_pages(), 0u);
        EXPECT_EQ((*opened)->copy_id(), 0u);
        return (*opened)->begun_because();
    };
    EXPECT_EQ(begun(file_, 5, regions()), "");
    CatalogueFile other = file_;
    other.boot_id = "boot-2";
    EXPECT_NE(begun(other, 5, regions()).find("started anew"), std::string::npos);
    other = file_;
    other.uuid = "u-2";
    EXPECT_NE(begun(other, 5, regions()).find("another VM"), std::string::npos);
    other = file_;
    other.vm = VmId{8};
    EXPECT_NE(begun(other, 5, regions()).find("another VM"), std::string::npos);
    EXPECT_NE(begun(file_, 6, regions()).find("another key"), std::string::npos);
    auto shape = regions();
    shape[1].name = "disk1";
    EXPECT_NE(begun(file_, 5, shape).find("other regions"), std::string::npos);
    shape[0].size_bytes *= 2;
    EXPECT_NE(begun(file_, 5, shape).find("size"), std::string::npos);
}

// Nothing that stands in the file crashes; what does not follow the format begins anew.
TEST_F(CatalogueFileTest, DamageBeginsAnew) {
    settle(*open());
    std::ifstream whole(file_.path, std::ios::binary);
    const std::string good{std::istreambuf_iterator<char>(whole), {}};
    const CatalogueHeader header{"boot-1", Fingerprint{1, 2}, VmId{7}, "u-1", regions()};
    const size_t head_bytes = encode_catalogue_header(header)->size();
    const auto begins_anew = [&](const std::string& bytes) {
        std::ofstream(file_.path, std::ios::binary | std::ios::trunc) << bytes;
        return !open()->begun_because().empty();
    };
    ASSERT_FALSE(begins_anew(good));
    for (size_t i = 0; i < head_bytes; i += 3) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ 0x10);
        EXPECT_TRUE(begins_anew(bad)) << i;
    }
    for (const size_t size : {size_t{0}, size_t{10}, good.size() - 1})
        EXPECT_TRUE(begins_anew(good.substr(0, size)));
    EXPECT_TRUE(begins_anew(good + "x"));
    Random random(4);
    for (int i = 0; i < 200; ++i) {  // behind the header: kept or not, it must only be survived
        std::string bad = good;
        for (int j = 0; j < 20; ++j) {
            const size_t at = kStateOffset + random.below(bad.size() - kStateOffset);
            bad[at] = static_cast<char>(random.next());
        }
        begins_anew(bad);
        for (const PageRange& range : open()->in_flight_ranges(64))
            ASSERT_LE(range.first + range.count, range.region == kRam ? kRamPages : kDiskPages);
    }
}

TEST_F(CatalogueFileTest, AFullDiskIsAnError) {
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    ASSERT_NE(::signal(SIGXFSZ, SIG_IGN), SIG_ERR);
    const struct rlimit small = {kDataOffset, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const auto opened = Catalogue::open(file_, 5, regions());
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().code, Errc::io);
    EXPECT_FALSE(std::filesystem::exists(file_.path));
}

TEST_F(CatalogueFileTest, InFlightUntilItsRoundIsSealed) {
    auto catalogue = open();
    settle(*catalogue);
    catalogue->update_zero(kRam, 1);
    catalogue->end_round(Epoch{2});
    EXPECT_TRUE(catalogue->in_flight(kRam, 1));
    catalogue->update_zero(kRam, 2);  // while the answer is awaited
    catalogue->set_unknown(kDisk, 3);
    catalogue->sealed(Epoch{2});
    EXPECT_FALSE(catalogue->in_flight(kRam, 1));
    EXPECT_EQ(catalogue->in_flight_ranges(64),
              (std::vector<PageRange>{{kRam, 2, 1}, {kDisk, 3, 1}}));
    // Two rounds end before the first is answered: only the second's answer settles either.
    catalogue->end_round(Epoch{3});
    catalogue->update_zero(kRam, 4);
    catalogue->end_round(Epoch{4});
    catalogue->sealed(Epoch{3});
    EXPECT_EQ(catalogue->in_flight_pages(), 3u);
    catalogue->sealed(Epoch{4});
    EXPECT_EQ(catalogue->in_flight_pages(), 0u);
    // A seal that failed, or whose answer was lost.
    catalogue->update_zero(kRam, 5);
    catalogue->end_round(Epoch{5});
    catalogue->void_seal();
    catalogue->sealed(Epoch{5});
    EXPECT_TRUE(catalogue->in_flight(kRam, 5));
    catalogue->end_round(Epoch{6});
    catalogue->sealed(Epoch{6});
    EXPECT_EQ(catalogue->in_flight_pages(), 0u);
    // A final pass is answered by the handover alone: what it brought stays in flight.
    catalogue->update_zero(kRam, 6);
    catalogue->end_final(Epoch{7});
    catalogue->sealed(Epoch{6});
    EXPECT_TRUE(catalogue->in_flight(kRam, 6));
}

TEST_F(CatalogueFileTest, FitsOnlyWhatAwayCanHaveSealed) {
    auto catalogue = open();
    EXPECT_FALSE(catalogue->fits(Epoch{}));  // of no copy
    settle(*catalogue, Epoch{4});
    catalogue->end_round(Epoch{6});
    EXPECT_FALSE(catalogue->fits(Epoch{3}));  // away went back
    EXPECT_TRUE(catalogue->fits(Epoch{4}));
    EXPECT_TRUE(catalogue->fits(Epoch{6}));   // the answer was lost
    EXPECT_FALSE(catalogue->fits(Epoch{7}));  // this catalogue is an older one
    catalogue->end_final(Epoch{8});
    EXPECT_TRUE(catalogue->fits(Epoch{8}));
    catalogue->set_all_unknown();
    EXPECT_FALSE(catalogue->fits(Epoch{6}));
    EXPECT_EQ(catalogue->in_flight_pages(), kRamPages + kDiskPages);
}

TEST_F(CatalogueFileTest, ReconcileLeavesUnknownWhatMustBeReadAgain) {
    auto catalogue = open();
    settle(*catalogue);
    catalogue->set_unknown(kDisk, 12);
    const std::vector<Fingerprint> away{print_of(10), print_of(500), print_of(12), print_of(13)};
    std::vector<PageRange> again;
    ASSERT_TRUE(catalogue->reconcile(kDisk, 10, away, again).ok());
    EXPECT_EQ(again, (std::vector<PageRange>{{kDisk, 11, 2}}));
    EXPECT_EQ(catalogue->fingerprint(kDisk, 10), print_of(10));
    EXPECT_FALSE(catalogue->fingerprint(kDisk, 11).known());
    EXPECT_TRUE(catalogue->in_flight(kDisk, 11));
    again.clear();  // the process died before the page was read
    ASSERT_TRUE(open()->reconcile(kDisk, 10, away, again).ok());
    EXPECT_EQ(again, (std::vector<PageRange>{{kDisk, 11, 2}}));
    EXPECT_EQ(open()->reconcile(kDisk, kDiskPages - 3, away, again).error().code,
              Errc::invalid_argument);
}

// Whatever is in flight is in a range, and there are never more ranges than asked for.
TEST_F(CatalogueFileTest, RangesCoverAllInFlight) {
    const std::vector<RegionInfo> big{{"a", RegionKind::main_ram, 40'000 * kPageBytes},
                                      {"b", RegionKind::disk, 999 * kPageBytes}};
    for (uint64_t seed = 1; seed <= 30; ++seed) {
        SCOPED_TRACE(seed);
        Random random(seed);
        Catalogue catalogue(5, big);
        catalogue.end_round(Epoch{1});
        catalogue.sealed(Epoch{1});
        std::vector<std::vector<bool>> wanted{std::vector<bool>(40'000), std::vector<bool>(999)};
        const uint64_t pages = random.below(seed % 3 == 0 ? 20'000 : 200);
        for (uint64_t i = 0; i < pages; ++i) {
            const RegionId region{static_cast<uint16_t>(random.below(2))};
            const uint64_t page = random.below(catalogue.page_count(region));
            catalogue.set_unknown(region, page);
            wanted[raw(region)][page] = true;
            if (i == pages / 2) catalogue.end_round(Epoch{2});
        }
        const auto exact = catalogue.in_flight_ranges(100'000);
        uint64_t covered = 0;
        for (const PageRange& range : exact) covered += range.count;
        EXPECT_EQ(covered, catalogue.in_flight_pages());
        const auto ranges = catalogue.in_flight_ranges(64 + random.below(200));
        EXPECT_LE(ranges.size(), 264u);
        for (const PageRange& range : ranges) {
            ASSERT_LE(range.first + range.count, catalogue.page_count(range.region));
            for (uint64_t i = 0; i < range.count; ++i)
                wanted[raw(range.region)][range.first + i] = false;
        }
        for (const auto& left : wanted) EXPECT_EQ(std::count(left.begin(), left.end(), true), 0);
    }
}

// --- the death of the process at every instruction

// What away has sealed, in memory that both processes see; `at` switches between two of them as a
// seal at away does, all at once.
struct AwayModel {
    std::array<std::array<Fingerprint, kRamPages + kDiskPages>, 2> points;
    volatile uint64_t at;
};

class EveryInstructionTest : public CatalogueFileTest {
  protected:
    void SetUp() override {
        CatalogueFileTest::SetUp();
        void* shared = ::mmap(nullptr, sizeof(AwayModel), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(shared, MAP_FAILED);
        away_ = static_cast<AwayModel*>(shared);
        auto catalogue = open();
        settle(*catalogue);
        for (size_t i = 0; i < kRamPages; ++i) away_->points[0][i] = print_of(i);
        for (size_t i = 0; i < kDiskPages; ++i) away_->points[0][kRamPages + i] = print_of(i);
        away_->at = 0;
        layout_ = catalogue_layout(regions());
        const int fd = ::open(file_.path.c_str(), O_RDONLY);
        bytes_ = static_cast<const std::byte*>(
            ::mmap(nullptr, layout_.bytes, PROT_READ, MAP_SHARED, fd, 0));
        ::close(fd);
        ASSERT_NE(static_cast<const void*>(bytes_), MAP_FAILED);
    }
    void TearDown() override {
        ::munmap(away_, sizeof(AwayModel));
        ::munmap(const_cast<std::byte*>(bytes_), layout_.bytes);
        CatalogueFileTest::TearDown();
    }

    template <class T>
    const T* part(uint64_t offset) const {
        return reinterpret_cast<const T*>(bytes_ + offset);
    }
    // A certain entry that is not what away has sealed, as a process that is started now would
    // find; empty when there is none.
    std::string wrong() const {
        const auto& point = away_->points[away_->at];
        size_t at = 0;
        for (const CataloguePart& region : layout_.regions) {
            for (uint64_t page = 0; page < region.pages; ++page, ++at) {
                const uint64_t bits = part<uint64_t>(region.open)[page / 64] |
                                      part<uint64_t>(region.sealing)[page / 64];
                if ((bits >> (page % 64) & 1) != 0) continue;
                const Fingerprint& entry = part<Fingerprint>(region.fingerprints)[page];
                if (!(entry == point[at])) return "page " + std::to_string(page);
            }
        }
        const auto* words = part<uint64_t>(kStateOffset);
        std::array<uint64_t, kStateWords> state{};
        std::copy_n(words, kStateWords, state.begin());
        return plausible_state(state) ? "" : "the state words";
    }
    // Runs `body` in a process of its own, one instruction after the other; looks after each.
    std::string step_through(const std::function<void(Catalogue&)>& body) {
        const pid_t child = ::fork();
        if (child == 0) {
            auto opened = Catalogue::open(file_, 5, regions());
            if (!opened.ok() || !(*opened)->begun_because().empty()) ::_exit(2);
            if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(3);
            ::raise(SIGSTOP);
            body(**opened);
            ::_exit(0);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        if (!WIFSTOPPED(status)) return "the child was not traced";
        std::string found;
        steps_ = 0;
        while (found.empty()) {
            if (::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) return "ptrace failed";
            ::waitpid(child, &status, 0);
            if (WIFEXITED(status)) return WEXITSTATUS(status) == 0 ? "" : "the child failed";
            if (!WIFSTOPPED(status)) return "the child died";
            ++steps_;
            found = wrong();
        }
        ::kill(child, SIGKILL);
        ::waitpid(child, &status, 0);
        return found + " after " + std::to_string(steps_) + " instructions";
    }

    AwayModel* away_ = nullptr;
    const std::byte* bytes_ = nullptr;
    CatalogueLayout layout_;
    uint64_t steps_ = 0;
};

TEST_F(EveryInstructionTest, OfCapturingLeavesNoWrongCertainEntry) {
    EXPECT_EQ(step_through([](Catalogue& catalogue) {
                  catalogue.update_zero(kRam, 3);
                  catalogue.update_zero(kDisk, 69);
                  catalogue.set_unknown(kRam, 129);
                  const std::array<Fingerprint, 2> away{print_of(7), print_of(600)};
                  std::vector<PageRange> again;
                  static_cast<void>(catalogue.load(kRam, 7, away).ok());
                  static_cast<void>(catalogue.reconcile(kDisk, 7, away, again).ok());
              }),
              "");
    EXPECT_GT(steps_, 100u);
}

TEST_F(EveryInstructionTest, OfASealLeavesNoWrongCertainEntry) {
    AwayModel* away = away_;
    EXPECT_EQ(step_through([away](Catalogue& catalogue) {
                  catalogue.update_zero(kRam, 3);
                  catalogue.update_zero(kRam, 66);
                  catalogue.update_zero(kDisk, 1);
                  catalogue.end_round(Epoch{2});
                  catalogue.update_zero(kRam, 4);
                  away->points[1] = away->points[0];
                  for (const size_t at : {size_t{3}, size_t{66}, size_t{kRamPages + 1}})
                      away->points[1][at] = catalogue.zero_fingerprint();
                  away->at = 1;  // away has sealed; its answer comes
                  catalogue.sealed(Epoch{2});
                  catalogue.update_zero(kRam, 5);
                  catalogue.end_round(Epoch{3});
                  catalogue.void_seal();
              }),
              "");
    EXPECT_GT(steps_, 100u);
}

// The way back to "nothing is known": until it is through, the file is of no copy.
TEST_F(EveryInstructionTest, OfForgettingLeavesNoWrongCertainEntry) {
    const auto* copy_id = part<uint64_t>(kStateOffset) + static_cast<size_t>(StateWord::copy_id);
    ASSERT_EQ(*copy_id, 99u);
    const pid_t child = ::fork();
    if (child == 0) {
        auto opened = Catalogue::open(file_, 5, regions());
        ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        ::raise(SIGSTOP);
        (*opened)->set_all_unknown();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSTOPPED(status));
    while (WIFSTOPPED(status)) {
        if (*copy_id == 99) {
            ASSERT_EQ(wrong(), "");
        }
        ASSERT_EQ(::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr), 0);
        ::waitpid(child, &status, 0);
    }
    EXPECT_EQ(*copy_id, 0u);
    EXPECT_EQ(open()->known_pages(), 0u);
}

}  // namespace
}  // namespace evac::prestage
