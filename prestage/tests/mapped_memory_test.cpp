// Scans of a memory file that this test writes itself, as a guest would.
#include "evac/prestage/mapped_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "../src/mapped_fault.hpp"
#include "../src/process_maps.hpp"

namespace evac::prestage {
namespace {

constexpr uint64_t kPages = 1000;
constexpr uint64_t kSeed = 7;

class Store final : public PageSink {
  public:
    bool page(const CapturedPage& page) override {
        if (on_page) on_page(page);
        if (room == 0) return false;
        --room;
        std::byte* at = image.data() + page.page * kPageBytes;
        if (page.is_zero) {
            std::memset(at, 0, kPageBytes);
        } else {
            std::memcpy(at, page.bytes.data(), kPageBytes);
        }
        return true;
    }
    Bytes image = Bytes(kPages * kPageBytes, std::byte{0xee});
    uint64_t room = UINT64_MAX;
    std::function<void(const CapturedPage&)> on_page;
};

class MappedScan : public ::testing::Test {
  protected:
    void SetUp() override {
        file_ = ::memfd_create("guest", MFD_CLOEXEC);
        ASSERT_GE(file_, 0);
        ASSERT_EQ(::ftruncate(file_, kPages * kPageBytes), 0);
        void* at =
            ::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
        ASSERT_NE(at, MAP_FAILED);
        guest_ = static_cast<std::byte*>(at);
        const std::string path = "/proc/self/fd/" + std::to_string(file_);
        auto memory = MappedMemory::from_file(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)),
                                              {"pc.ram", kPages * kPageBytes}, clock_);
        ASSERT_TRUE(memory.ok()) << memory.error().message();
        memory_ = std::move(*memory);
    }
    void TearDown() override {
        ::munmap(guest_, kPages * kPageBytes);
        ::close(file_);
    }
    Result<ScanResult> scan(std::function<Status()> check = [] { return Status(); }) {
        return memory_->scan(catalogue_, store_, {RegionId{0}, Epoch{++epoch_}, std::move(check)});
    }
    void fill(uint64_t page, uint64_t value) {
        std::memset(guest_ + page * kPageBytes, 0, kPageBytes);
        std::memcpy(guest_ + page * kPageBytes + 8 * (value % 500), &value, sizeof(value));
    }
    // By read(): looking through a mapping would itself fill the holes.
    uint64_t differing() const {
        uint64_t count = 0;
        Bytes page(kPageBytes);
        for (uint64_t at = 0; at < kPages * kPageBytes; at += kPageBytes) {
            EXPECT_EQ(::pread(file_, page.data(), kPageBytes, static_cast<off_t>(at)),
                      static_cast<ssize_t>(kPageBytes));
            const auto* const copy = store_.image.data() + at;
            count += std::memcmp(page.data(), copy, kPageBytes) != 0 ? 1U : 0U;
        }
        return count;
    }
    blkcnt_t blocks_held() const {
        struct stat info {};
        EXPECT_EQ(::fstat(file_, &info), 0);
        return info.st_blocks;
    }

    int file_ = -1;
    std::byte* guest_ = nullptr;
    SystemClock clock_;
    Catalogue catalogue_{kSeed, {{"pc.ram", RegionKind::main_ram, kPages* kPageBytes}}};
    Store store_;
    std::unique_ptr<MappedMemory> memory_;
    uint32_t epoch_ = 0;
};

TEST_F(MappedScan, BehavesAsTheModelAndLeavesHolesAlone) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::set<uint64_t> touched;
    for (int round = 0; round < 30; ++round) {
        std::set<uint64_t> changed;
        for (uint64_t i = random() % 60; i > 0; --i) {
            const uint64_t page = random() % (kPages / 2) + kPages / 4;  // both ends stay holes
            const bool to_zero = random() % 4 == 0;
            fill(page, to_zero ? 0 : random() | 1);
            changed.insert(page);
            touched.insert(page);
        }
        const blkcnt_t held = blocks_held();
        const auto result = scan();
        ASSERT_TRUE(result.ok()) << result.error().message();
        EXPECT_FALSE(result->stopped_early);
        EXPECT_EQ(result->pages_seen, kPages);
        EXPECT_LE(result->pages_changed, round == 0 ? kPages : changed.size());
        EXPECT_EQ(differing(), 0u);
        EXPECT_EQ(blocks_held(), held);  // a hole that is read through a mapping becomes memory
        EXPECT_GT(memory_->whole_scan_ns(), 0u);
    }
    EXPECT_EQ(blocks_held(), static_cast<blkcnt_t>(touched.size() * kPageBytes / 512));
    const auto again = scan();
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->pages_changed, 0u);
}

TEST_F(MappedScan, UnchangedPagesGetColder) {
    fill(1, 1);
    ASSERT_TRUE(scan().ok());
    fill(1, 2);
    ASSERT_TRUE(scan().ok());
    const uint8_t hot = catalogue_.heat(RegionId{0}, 1);
    EXPECT_GT(hot, 0);
    ASSERT_TRUE(scan().ok());
    EXPECT_LT(catalogue_.heat(RegionId{0}, 1), hot);
}

TEST_F(MappedScan, FullSinkEndsItAndTheNextGoesOnThere) {
    for (uint64_t page = 0; page < kPages; page += 2) fill(page, page + 1);
    store_.room = 300;
    const auto first = scan();
    ASSERT_TRUE(first.ok());
    EXPECT_TRUE(first->stopped_early);
    EXPECT_EQ(first->pages_changed, 300u);
    EXPECT_EQ(memory_->whole_scan_ns(), 0u);  // nothing is known of a whole one
    std::vector<uint64_t> order;
    store_.on_page = [&](const CapturedPage& page) { order.push_back(page.page); };
    store_.room = UINT64_MAX;
    const auto second = scan();
    ASSERT_TRUE(second.ok());
    EXPECT_FALSE(second->stopped_early);
    EXPECT_EQ(second->pages_seen, kPages);  // whole, though it began in the middle
    EXPECT_EQ(order.front(), 300u);
    EXPECT_EQ(differing(), 0u);
}

// A guest that writes all the time: what is handed on is what the catalogue says, torn or not.
TEST_F(MappedScan, CatalogueAndContentAgreeWhileTheGuestWrites) {
    for (uint64_t page = 0; page < kPages; ++page) fill(page, page + 1);
    ASSERT_TRUE(scan().ok());
    uint64_t disagreeing = 0;
    store_.on_page = [&](const CapturedPage& page) {
        const Fingerprint real =
            page.is_zero ? catalogue_.zero_fingerprint() : fingerprint_page(kSeed, page.bytes);
        if (real != page.fingerprint || real != catalogue_.fingerprint(RegionId{0}, page.page))
            ++disagreeing;
    };
    // The last word of each of 16 pages counts: any two readings of such a page differ.
    std::atomic<bool> end{false};
    std::thread guest([&] {
        for (uint64_t i = 0; !end; ++i) {
            std::byte* const at = guest_ + i % 16 * kPageBytes + kPageBytes - sizeof(i);
            *reinterpret_cast<volatile uint64_t*>(at) = i;
        }
    });
    uint64_t changed = 0;
    for (int i = 0; i < 3'000 && changed < 5'000; ++i) {
        const auto result = scan();
        ASSERT_TRUE(result.ok());
        changed += result->pages_changed;
    }
    end = true;
    guest.join();
    EXPECT_GT(changed, 100u);
    EXPECT_EQ(disagreeing, 0u);
    ASSERT_TRUE(scan().ok());
    EXPECT_EQ(differing(), 0u);
}

TEST_F(MappedScan, CheckEndsIt) {
    int calls = 0;
    const auto cancelled = scan(
        [&] { return ++calls == 3 ? Status(make_error(Errc::cancelled, "enough")) : Status(); });
    ASSERT_FALSE(cancelled.ok());
    EXPECT_EQ(cancelled.error().code, Errc::cancelled);
    EXPECT_EQ(calls, 3);
    ASSERT_TRUE(scan().ok());
    EXPECT_EQ(differing(), 0u);
}

TEST_F(MappedScan, TruncationInTheMiddleIsAnError) {
    for (uint64_t page = 0; page < kPages; ++page) fill(page, page + 1);
    ASSERT_TRUE(scan().ok());
    for (uint64_t page = 0; page < kPages; ++page) fill(page, page + 2);
    store_.on_page = [&](const CapturedPage& page) {
        if (page.page == 300) ASSERT_EQ(::ftruncate(file_, 310 * kPageBytes), 0);
        EXPECT_LT(page.page, 310u);  // nothing of what is read as zeros
    };
    const auto result = scan();
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, Errc::io);
    EXPECT_NE(result.error().context.find("truncated"), std::string::npos);
    EXPECT_TRUE(memory_->lost());
    ASSERT_EQ(::ftruncate(file_, kPages * kPageBytes), 0);
    EXPECT_EQ(scan().error().code, Errc::refused);  // not the same memory any more
}

TEST_F(MappedScan, TruncatedFileIsRefusedByItsSize) {
    ASSERT_EQ(::ftruncate(file_, 10 * kPageBytes), 0);
    const auto result = scan();
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, Errc::refused);
    EXPECT_NE(result.error().context.find("40960 bytes"), std::string::npos);
    EXPECT_TRUE(memory_->lost());
}

TEST_F(MappedScan, OtherRegionIsRefused) {
    Catalogue other(kSeed, {{"pc.ram", RegionKind::main_ram, 2 * kPages * kPageBytes}});
    const auto result =
        memory_->scan(other, store_, {RegionId{0}, Epoch{1}, [] { return Status(); }});
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, Errc::refused);
}

TEST_F(MappedScan, FileMustHoldTheBlock) {
    const auto open = [&](uint64_t size) {
        return MappedMemory::from_file(UniqueFd(::dup(file_)), {"pc.ram", size}, clock_);
    };
    EXPECT_NE(open(2 * kPages * kPageBytes).error().context.find("RAM block 'pc.ram' has"),
              std::string::npos);
    EXPECT_EQ(open(100).error().code, Errc::invalid_argument);
    const auto device = MappedMemory::from_file(UniqueFd(::open("/dev/zero", O_RDONLY)),
                                                {"pc.ram", kPageBytes}, clock_);
    EXPECT_NE(device.error().context.find("device"), std::string::npos);
}

// A fault elsewhere is not ours to hide.
TEST_F(MappedScan, OtherFaultsStillKill) {
    const FaultGuard guard(guest_, 4096);
    EXPECT_DEATH(
        {
            static_cast<void>(::ftruncate(file_, 0));
            *reinterpret_cast<volatile std::byte*>(guest_ + 8192) = std::byte{1};
        },
        "");
}

TEST(ProcessMaps, Lines) {
    const auto file = parse_mapping(
        "7f1b23fff000-7f1b27fff000 rw-s 00001000 fe:0a 4905                       /tmp/a b "
        "(deleted)");
    ASSERT_TRUE(file.has_value());
    EXPECT_EQ(file->begin, 0x7f1b23fff000u);
    EXPECT_EQ(file->end, 0x7f1b27fff000u);
    EXPECT_EQ(file->offset, 0x1000u);
    EXPECT_EQ(file->device, uint64_t{0xfe} << 32 | 0x0a);
    EXPECT_EQ(file->inode, 4905u);
    EXPECT_TRUE(file->shared);
    EXPECT_EQ(file->name, "/tmp/a b (deleted)");
    const auto anonymous = parse_mapping("1000-2000 r--p 00000000 00:00 0 ");
    ASSERT_TRUE(anonymous.has_value());
    EXPECT_FALSE(anonymous->shared);
    EXPECT_TRUE(anonymous->name.empty());
    for (const char* bad : {"", "x", "1000", "1000-2000", "1000-2000 rw", "1000-2000 rw-s 0 00:00",
                            "1000-2000 rw-s 0 00-00 0 ", "2000-1000 rw-s 0 00:00 0 "}) {
        EXPECT_FALSE(parse_mapping(bad).has_value()) << bad;
    }
}

TEST(ProcessMaps, OneSharedFileWithoutGaps) {
    const auto mapping = [](uint64_t begin, uint64_t end, uint64_t offset, bool shared = true,
                            uint64_t inode = 9) {
        return ProcessMapping{begin, end, offset, 1, inode, shared, "f"};
    };
    const auto reason = [](std::vector<ProcessMapping> list) {
        const auto found = shared_file_at(list, 0x4000, 0x3000);
        return found.ok() ? std::string("ok") : found.error().context;
    };
    const auto has = [&](std::vector<ProcessMapping> list, const char* part) {
        return reason(std::move(list)).find(part) != std::string::npos;
    };
    EXPECT_EQ(reason({mapping(0x4000, 0x7000, 0)}), "ok");
    EXPECT_EQ(reason({mapping(0x1000, 0x2000, 0), mapping(0x4000, 0x5000, 0),
                      mapping(0x5000, 0x9000, 0x1000)}),
              "ok");
    EXPECT_TRUE(has({mapping(0x4000, 0x7000, 0, false)}, "is private"));
    EXPECT_TRUE(has({mapping(0x4000, 0x5000, 0), mapping(0x5000, 0x9000, 0x1000, true, 8)},
                    "more than one file"));
    EXPECT_TRUE(has({mapping(0x4000, 0x7000, 0x1000)}, "first byte"));
    EXPECT_TRUE(has({mapping(0x3000, 0x7000, 0)}, "first byte"));
    EXPECT_TRUE(has({mapping(0x4000, 0x6000, 0)}, "mapped for 8192 bytes; 12288 are accepted"));
    EXPECT_TRUE(has({mapping(0x4000, 0x5000, 0), mapping(0x6000, 0x9000, 0x2000)},
                    "mapped for 4096 bytes"));
    EXPECT_TRUE(has({}, "mapped for 0 bytes"));
}

}  // namespace
}  // namespace evac::prestage
