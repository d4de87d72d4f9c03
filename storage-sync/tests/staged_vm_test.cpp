// StagedVm on real files, its formats, and the open delta's map against a plain model.
#include "evac/storage_sync/staged_vm.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <map>

#include "crc32c.hpp"
#include "epoch_map.hpp"
#include "evac/core/random.hpp"
#include "fault_files.hpp"
#include "open_delta.hpp"
#include "staged_format.hpp"

namespace evac::storage_sync {
namespace {

namespace fs = std::filesystem;

const StagedSpec kSpec{"web-1",
                       VmId{3},
                       {{RegionKind::main_ram, "pc.ram", 1 * kMiB},
                        {RegionKind::small_ram, "/rom@etc/acpi/tables", 2 * kPageBytes},
                        {RegionKind::disk, "vd0", 2 * kMiB + 512}}};
constexpr RegionId kRam{0};
constexpr RegionId kDisk{2};
const StagedOptions kOptions{.nonce_seed = 5};

Bytes filled(uint8_t value, size_t size = kPageBytes) {
    Bytes bytes(kPageBytes);
    std::fill_n(bytes.begin(), size, std::byte{value});
    return bytes;
}
std::string hex(ByteSpan bytes) {
    std::string text;
    for (const std::byte b : bytes) {
        constexpr std::string_view digits = "0123456789abcdef";
        text += digits[std::to_integer<size_t>(b) >> 4];
        text += digits[std::to_integer<size_t>(b) & 15];
    }
    return text;
}

class OnRealFiles : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        char pattern[] = "/tmp/evac-staged-XXXXXX";
        folder_ = mkdtemp(pattern);
        char ram_pattern[32] = {};
        std::snprintf(ram_pattern, sizeof(ram_pattern), "%s/evac-ram-XXXXXX", GetParam());
        ram_ = mkdtemp(ram_pattern);
        create();
    }
    void TearDown() override {
        vm_.reset();
        fs::remove_all(folder_);
        fs::remove_all(ram_);
    }
    std::string dir() const { return folder_ + "/3"; }
    std::string ram_dir() const { return ram_ + "/3"; }
    void create() {
        auto vm = StagedVm::create(posix_files(), dir(), ram_dir(), kSpec, kOptions);
        ASSERT_TRUE(vm.ok()) << vm.error().message();
        vm_ = std::move(*vm);
    }
    void reopen() {
        vm_.reset();
        auto vm = StagedVm::open(posix_files(), dir(), kOptions);
        ASSERT_TRUE(vm.ok()) << vm.error().message();
        vm_ = std::move(*vm);
    }
    void put(RegionId region, uint64_t page, uint32_t epoch, uint8_t value,
             PutOutcome expected = PutOutcome::kept) {
        const bool last = region == kDisk && page == 512;
        auto done = vm_->put(region, page, Epoch{epoch}, filled(value, last ? 512 : kPageBytes));
        ASSERT_TRUE(done.ok()) << done.error().message();
        EXPECT_EQ(*done, expected);
    }
    void seal(uint32_t epoch, bool keep = true) {
        const Status done = vm_->seal(Epoch{epoch}, as_byte_span("state " + std::to_string(epoch)),
                                      {epoch, epoch, keep});
        ASSERT_TRUE(done.ok()) << done.error().message();
    }
    int staged(RegionId region, uint64_t page) {
        std::array<std::byte, kPageBytes> bytes;
        EXPECT_TRUE(vm_->read(region, page, bytes).ok());
        return std::to_integer<int>(bytes[0]);
    }
    int in_file(RegionId region, uint64_t page) {
        std::ifstream file(vm_->region_path(region), std::ios::binary);
        file.seekg(std::streamoff(page * kPageBytes));
        return file.get();
    }

    std::string folder_, ram_;
    std::unique_ptr<StagedVm> vm_;
};
INSTANTIATE_TEST_SUITE_P(DiskAndTmpfs, OnRealFiles, ::testing::Values("/tmp", "/dev/shm"),
                         [](const auto& info) {
                             return std::string(info.index == 0 ? "disk" : "tmpfs");
                         });

TEST_P(OnRealFiles, FilesAreWhatALandingNeeds) {
    EXPECT_EQ(vm_->region_path(kRam), ram_dir() + "/00-pc.ram.ram");
    EXPECT_EQ(vm_->region_path(RegionId{1}), dir() + "/01-_rom_etc_acpi_tables.blk");
    EXPECT_EQ(vm_->region_path(kDisk), dir() + "/02-vd0.img");
    EXPECT_EQ(fs::file_size(vm_->region_path(kRam)), 1 * kMiB);
    EXPECT_EQ(fs::file_size(vm_->region_path(kDisk)), 2 * kMiB + 512);
}

// What ingest asks before it owes a page that did not resolve: would put() of it be stale?
TEST_P(OnRealFiles, SupersededIsWhatPutWouldCallStale) {
    put(kRam, 0, 2, 20);  // in place: before the first seal
    EXPECT_TRUE(vm_->superseded(kRam, 0, Epoch{1}));
    EXPECT_FALSE(vm_->superseded(kRam, 0, Epoch{2}));
    EXPECT_FALSE(vm_->superseded(kRam, 1, Epoch{1}));
    put(kRam, 0, 1, 10, PutOutcome::stale);
    seal(2);
    put(kRam, 0, 4, 40);  // in the log
    EXPECT_TRUE(vm_->superseded(kRam, 0, Epoch{3}));
    EXPECT_FALSE(vm_->superseded(kRam, 1, Epoch{3}));
    put(kRam, 0, 3, 30, PutOutcome::stale);
    put(kRam, 1, 3, 31);
    EXPECT_FALSE(vm_->superseded(kRam, 1'000'000, Epoch{1}));  // no such page
}

TEST_P(OnRealFiles, RoundsBecomePoints) {
    put(kRam, 0, 1, 10);
    put(kDisk, 512, 1, 11);
    EXPECT_EQ(in_file(kRam, 0), 10);  // before the first seal: in place
    EXPECT_EQ(vm_->sealed_epoch(), Epoch{0});
    seal(1);
    put(kRam, 0, 2, 20);
    put(kRam, 1, 2, 21);
    EXPECT_EQ(in_file(kRam, 0), 10);  // the point does not move before its seal
    EXPECT_EQ(staged(kRam, 0), 20);
    EXPECT_EQ(vm_->stats().open_pages, 2u);
    put(kRam, 5, 1, 99, PutOutcome::stale);
    EXPECT_TRUE(vm_->superseded(kRam, 5, Epoch{1}));  // sealed since
    seal(2);
    EXPECT_EQ(in_file(kRam, 0), 20);
    EXPECT_EQ(vm_->stats().open_pages, 0u);
    ASSERT_TRUE(vm_->put_zero(kRam, 0, 256, Epoch{3}).ok());
    put(kRam, 7, 3, 30);
    seal(3);
    EXPECT_EQ(in_file(kRam, 1), 0);
    EXPECT_EQ(in_file(kRam, 7), 30);
    EXPECT_EQ(in_file(kDisk, 512), 11);
    ASSERT_EQ(vm_->points().size(), 3u);
    EXPECT_EQ(vm_->points()[1].manifest.batches, 2u);
    reopen();
    EXPECT_EQ(as_text(*vm_->device_state(Epoch{2})), "state 2");
    EXPECT_EQ(vm_->device_state(Epoch{9}).error().code, Errc::not_found);
    ASSERT_TRUE(vm_->restore_point(Epoch{1}).ok());
    EXPECT_EQ(in_file(kRam, 0), 10);
    EXPECT_EQ(in_file(kRam, 1), 0);
    EXPECT_EQ(in_file(kRam, 7), 0);
    EXPECT_EQ(vm_->sealed_epoch(), Epoch{1});
}

TEST_P(OnRealFiles, OnlyTheLastPointsAreKept) {
    for (uint32_t epoch = 1; epoch <= 6; ++epoch) {
        put(kRam, epoch, epoch, uint8_t(epoch));
        seal(epoch);
    }
    ASSERT_TRUE(vm_->checkpoint().ok());
    ASSERT_EQ(vm_->points().size(), 3u);
    EXPECT_EQ(vm_->points()[0].epoch, Epoch{4});
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir()))
        names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    const std::vector<std::string> expected = {"01-_rom_etc_acpi_tables.blk",
                                               "02-vd0.img",
                                               "meta",
                                               "state-4",
                                               "state-5",
                                               "state-6",
                                               "undo-5",
                                               "undo-6"};
    EXPECT_EQ(names, expected);
    put(kRam, 1, 7, 70);
    seal(7, false);  // without undo
    EXPECT_EQ(vm_->points().size(), 1u);
}

TEST_P(OnRealFiles, OpenDeltaOutlivesTheProcess) {
    put(kRam, 0, 1, 10);
    seal(1);
    put(kRam, 0, 2, 20);
    ASSERT_TRUE(vm_->put_zero(kDisk, 0, 100, Epoch{2}).ok());
    reopen();
    EXPECT_EQ(staged(kRam, 0), 20);
    EXPECT_EQ(in_file(kRam, 0), 10);
    EXPECT_EQ(vm_->stats().open_zero_runs, 1u);
    ASSERT_TRUE(vm_->discard_open_delta().ok());
    EXPECT_EQ(staged(kRam, 0), 10);
    reopen();
    EXPECT_EQ(staged(kRam, 0), 10);
}

TEST_P(OnRealFiles, FingerprintsAreOfWhatIsStaged) {
    const PageHasher hasher = [](ByteSpan page) { return Fingerprint{crc32c(0, page), 1}; };
    put(kDisk, 3, 1, 10);
    put(kDisk, 512, 1, 11);
    seal(1);
    put(kDisk, 4, 2, 12);
    ASSERT_TRUE(vm_->put_zero(kDisk, 3, 1, Epoch{2}).ok());
    auto prints = vm_->fingerprints(kDisk, 0, 513, hasher);
    ASSERT_TRUE(prints.ok());
    for (uint64_t page = 0; page < 513; ++page) {
        std::array<std::byte, kPageBytes> bytes;
        ASSERT_TRUE(vm_->read(kDisk, page, bytes).ok());
        EXPECT_EQ((*prints)[page], hasher(bytes)) << page;
    }
    EXPECT_EQ(vm_->fingerprints(kDisk, 0, 514, hasher).error().code, Errc::invalid_argument);
}

TEST_P(OnRealFiles, LandedFilesAreLeftAlone) {
    EXPECT_EQ(vm_->mark_landed().error().code, Errc::refused);  // never sealed
    put(kRam, 0, 1, 10);
    seal(1);
    put(kRam, 0, 2, 20);
    seal(2);
    put(kRam, 0, 3, 30);
    ASSERT_TRUE(vm_->mark_landed().ok());
    EXPECT_EQ(vm_->put(kRam, 0, Epoch{3}, filled(1)).error().code, Errc::refused);
    EXPECT_EQ(vm_->seal(Epoch{3}, {}, {}).error().code, Errc::refused);
    {
        std::fstream guest(vm_->region_path(kRam), std::ios::binary | std::ios::in | std::ios::out);
        guest.put(77);  // the landed guest writes
    }
    reopen();
    EXPECT_TRUE(vm_->landed());
    EXPECT_EQ(in_file(kRam, 0), 77);
    EXPECT_EQ(as_text(*vm_->device_state(Epoch{2})), "state 2");
    ASSERT_TRUE(vm_->unmark_landed().ok());
    put(kRam, 0, 3, 31);
    seal(3);
    EXPECT_EQ(in_file(kRam, 0), 31);
}

// Home believes what it knows of a copy as long as the id is the same.
TEST_P(OnRealFiles, CopyIdChangesWithWhatIsHeld) {
    const uint64_t created = vm_->copy_id();
    EXPECT_NE(created, 0u);
    ASSERT_TRUE(vm_->seal(Epoch{1}, {}, {}).ok());
    ASSERT_TRUE(vm_->put(kRam, 1, Epoch{2}, filled(2)).ok());
    ASSERT_TRUE(vm_->seal(Epoch{2}, {}, {}).ok());
    ASSERT_TRUE(vm_->mark_landed().ok());
    ASSERT_TRUE(vm_->unmark_landed().ok());
    reopen();
    EXPECT_EQ(vm_->copy_id(), created);
    ASSERT_TRUE(vm_->put(kRam, 1, Epoch{3}, filled(3)).ok());
    ASSERT_TRUE(vm_->seal(Epoch{3}, {}, {}).ok());
    ASSERT_TRUE(vm_->restore_point(Epoch{2}).ok());
    const uint64_t restored = vm_->copy_id();
    EXPECT_NE(restored, created);
    reopen();
    EXPECT_EQ(vm_->copy_id(), restored);
    ASSERT_TRUE(vm_->restore_point(Epoch{2}).ok());  // what was put since is gone
    EXPECT_NE(vm_->copy_id(), restored);
}

TEST_P(OnRealFiles, HoldStopsSealsOnly) {
    put(kRam, 0, 1, 10);
    seal(1);
    vm_->set_hold(true);
    put(kRam, 0, 2, 20);
    EXPECT_EQ(vm_->seal(Epoch{2}, {}, {}).error().code, Errc::unavailable);
    EXPECT_EQ(in_file(kRam, 0), 10);
    vm_->set_hold(false);
    seal(2);
}

TEST_P(OnRealFiles, RefusalsNameWhatIsWrong) {
    EXPECT_EQ(StagedVm::create(posix_files(), dir(), ram_dir(), kSpec, kOptions).error().code,
              Errc::already_exists);
    EXPECT_EQ(StagedVm::open(posix_files(), folder_ + "/none", kOptions).error().code,
              Errc::not_found);
    StagedSpec bad = kSpec;
    bad.regions[0].size_bytes = 5000;
    auto refused = StagedVm::create(posix_files(), folder_ + "/x", ram_, bad, kOptions);
    EXPECT_NE(refused.error().context.find("regions[0].size_bytes 5000"), std::string::npos);
    EXPECT_EQ(vm_->put(RegionId{9}, 0, Epoch{1}, filled(1)).error().code, Errc::invalid_argument);
    EXPECT_EQ(vm_->put(kRam, 256, Epoch{1}, filled(1)).error().code, Errc::invalid_argument);
    EXPECT_EQ(vm_->put(kRam, 0, Epoch{0}, filled(1)).error().code, Errc::invalid_argument);
    EXPECT_EQ(vm_->put(kDisk, 512, Epoch{1}, filled(1)).error().code,
              Errc::invalid_argument);  // content in the padding
    EXPECT_EQ(vm_->put_zero(kRam, 1, UINT64_MAX, Epoch{1}).error().code, Errc::invalid_argument);
    put(kRam, 0, 4, 1);
    EXPECT_EQ(vm_->seal(Epoch{3}, {}, {}).error().code,
              Errc::invalid_argument);  // older than what was put
    fs::remove(vm_->region_path(kRam));
    vm_.reset();
    auto lost = StagedVm::open(posix_files(), dir(), kOptions);
    EXPECT_EQ(lost.error().code, Errc::corrupt);
    EXPECT_NE(lost.error().context.find("00-pc.ram.ram"), std::string::npos);
    ASSERT_TRUE(StagedVm::remove(posix_files(), dir(), ram_dir()).ok());
    EXPECT_FALSE(fs::exists(dir()));
    EXPECT_FALSE(fs::exists(ram_dir()));
    create();
}

TEST_P(OnRealFiles, OpenDeltaIsBounded) {
    vm_.reset();
    ASSERT_TRUE(StagedVm::remove(posix_files(), dir(), ram_dir()).ok());
    StagedOptions small = kOptions;
    small.delta_entries_max = 3;
    auto vm = StagedVm::create(posix_files(), dir(), ram_dir(), kSpec, small);
    ASSERT_TRUE(vm.ok());
    vm_ = std::move(*vm);
    seal(1);
    for (uint64_t page = 0; page < 3; ++page) put(kRam, page, 2, 1);
    EXPECT_EQ(vm_->put(kRam, 3, Epoch{2}, filled(1)).error().code, Errc::unavailable);
    seal(2);
    put(kRam, 3, 3, 1);
    vm_.reset();
    small.delta_entries_max = 100;
    small.log_bytes_max = 3 * kPageBytes;
    auto again = StagedVm::open(posix_files(), dir(), small);
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE((*again)->put(kRam, 4, Epoch{3}, filled(1)).ok());
    EXPECT_EQ((*again)->put(kRam, 5, Epoch{3}, filled(1)).error().code, Errc::unavailable);
    EXPECT_TRUE((*again)->seal(Epoch{3}, {}, {}).ok());
}

// ---------------------------------------------------------------- formats

TEST(StagedFormat, Crc32cIsTheStandardOne) {
    EXPECT_EQ(crc32c(0, as_byte_span("123456789")), 0xe3069283u);
    EXPECT_EQ(crc32c(crc32c(0, as_byte_span("12345")), as_byte_span("6789")), 0xe3069283u);
}

// The bytes were computed by a separate program from the grammar in staged_format.hpp.
TEST(StagedFormat, GoldenLog) {
    testing::FaultFiles files(1);
    auto vm = StagedVm::create(files, "/d", "/r", kSpec, kOptions);
    ASSERT_TRUE(vm.ok());
    ASSERT_TRUE((*vm)->seal(Epoch{1}, as_byte_span("dev"), {7, 8, true}).ok());
    EXPECT_EQ(hex(files.content("/d/log-1")),
              "455641434c4f473101000000030000000100000000000000d11d04d4d79b135238ff3cd2396ad8f10300"
              "000001000000"
              "0700000000000000080000000000000003000000646576");
    ASSERT_TRUE((*vm)->put_zero(kRam, 5, 20, Epoch{2}).ok());
    ASSERT_TRUE((*vm)->put(kDisk, 512, Epoch{2}, filled(11, 512)).ok());
    const Bytes log = files.content("/d/log-2");
    ASSERT_EQ(log.size(), kLogHeaderBytes + kRecordHeaderBytes + kPageRecordBytes);
    EXPECT_EQ(
        hex(ByteSpan(log).first(log.size() - kPageBytes)),
        "455641434c4f4731010000000300000002000000000000009b1a6e1c3b99670dda8a43a8acb4b6b70200000002"
        "000000"
        "05000000000000001400000000000000d5941eca010002000200000000020000000000000000000000000000");
}

TEST(StagedFormat, GoldenMeta) {
    Meta meta;
    meta.spec = {
        "v", VmId{1}, {{RegionKind::main_ram, "pc.ram", 4096}, {RegionKind::disk, "d", 512}}};
    meta.ram_dir = "/r";
    meta.log_generation = 5;
    meta.points = {{Epoch{4}, 9, -1, 3, 0x11223344}};
    meta.copy_id = 0x1122334455667788;
    const Bytes bytes = encode_meta(meta);
    EXPECT_EQ(hex(bytes),
              "4556414353564d310200000069000000010000000100000076020000002f72020000060000007063"
              "2e72616d001000000000000002010000006400020000000000000000000000050000000000000001"
              "00040000000900000000000000ffffffffffffffff03000000000000004433221188776655443322"
              "115ed8f83c");
    auto decoded = decode_meta(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.error().message();
    EXPECT_EQ(decoded->points, meta.points);
    EXPECT_EQ(decoded->spec.regions[1].name, "d");
    EXPECT_EQ(decoded->log_generation, 5u);
    for (size_t i = 0; i < bytes.size(); ++i) {
        Bytes bad = bytes;
        bad[i] ^= std::byte{1};
        EXPECT_EQ(decode_meta(bad).error().code, Errc::corrupt) << i;
        EXPECT_EQ(decode_meta(ByteSpan(bytes).first(i)).error().code, Errc::corrupt) << i;
    }
}

// What a build without copy ids wrote.
TEST(StagedFormat, MetaOfVersionOneIsRead) {
    Bytes bytes;
    for (const char* at =
             "4556414353564d310100000061000000010000000100000076020000002f7202000006"
             "00000070632e72616d0010000000000000020100000064000200000000000000000000"
             "0005000000000000000100040000000900000000000000ffffffffffffffff03000000"
             "0000000044332211bdbb25aa";
         *at != 0; at += 2) {
        bytes.push_back(static_cast<std::byte>(std::stoul(std::string(at, 2), nullptr, 16)));
    }
    const auto decoded = decode_meta(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.error().message();
    EXPECT_EQ(decoded->copy_id, 0u);
    EXPECT_EQ(decoded->points.size(), 1u);
}

// A guest's page that holds a perfect copy of a log must not become records when its own record is
// torn.
TEST(StagedFormat, PageContentIsNeverARecord) {
    testing::FaultFiles files(1);
    auto vm = StagedVm::create(files, "/d", "/r", kSpec, kOptions);
    ASSERT_TRUE(vm.ok());
    ASSERT_TRUE((*vm)->seal(Epoch{1}, {}, {}).ok());
    ASSERT_TRUE((*vm)->put_zero(kRam, 0, 20, Epoch{2}).ok());
    const Bytes log = files.content("/d/log-2");
    Bytes page(kPageBytes);
    std::copy(log.begin() + kLogHeaderBytes, log.end(), page.begin() + 100);
    ASSERT_TRUE((*vm)->put(kRam, 1, Epoch{2}, page).ok());
    vm->reset();
    Bytes torn = files.content("/d/log-2");
    torn.erase(torn.begin() + kLogHeaderBytes + kRecordHeaderBytes,
               torn.begin() + kLogHeaderBytes + kRecordHeaderBytes + kRecordHeaderBytes + 100);
    files.set_content("/d/log-2", torn);
    auto again = StagedVm::open(files, "/d", kOptions);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ((*again)->stats().open_zero_runs, 1u);
    EXPECT_EQ((*again)->stats().log_bytes, kLogHeaderBytes + kRecordHeaderBytes);
}

TEST(StagedFormat, DamageIsNotTakenForATornTail) {
    testing::FaultFiles files(1);
    auto vm = StagedVm::create(files, "/d", "/r", kSpec, kOptions);
    ASSERT_TRUE((*vm)->seal(Epoch{1}, as_byte_span("dev"), {}).ok());
    ASSERT_TRUE((*vm)->put(kRam, 1, Epoch{2}, filled(1)).ok());
    vm->reset();
    const Bytes sealed = files.content("/d/log-1");
    files.corrupt_byte("/d/log-1", 50);  // the seal that the next log builds on
    auto opened = StagedVm::open(files, "/d", kOptions);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().code, Errc::corrupt);
    files.set_content("/d/log-1", sealed);
    files.corrupt_byte("/d/log-2", 3);  // the header
    EXPECT_EQ(StagedVm::open(files, "/d", kOptions).error().code, Errc::corrupt);
}

// ---------------------------------------------------------------- maps

TEST(OpenDeltaMap, AgreesWithAPlainMap) {
    for (uint64_t seed = 1; seed <= 60; ++seed) {
        Random random(seed);
        OpenDelta delta;
        struct Version {
            uint32_t epoch = 0;
            uint64_t offset = 0;
            bool zero = false;
        };
        std::map<std::pair<uint16_t, uint64_t>, Version> model;
        for (uint64_t offset = 1; offset <= 400; ++offset) {
            const uint16_t region = uint16_t(random.below(3));
            const uint64_t page = random.below(200);
            const uint32_t epoch = 1 + uint32_t(random.below(4));
            const bool zero = random.chance(0.3);
            const uint64_t count = zero ? 1 + random.below(200 - page) : 1;
            if (zero) {
                delta.put_zeros(RegionId{region}, page, count, Epoch{epoch}, offset);
            } else {
                const bool newest = model[{region, page}].epoch <= epoch;
                EXPECT_EQ(delta.put_page(RegionId{region}, page, Epoch{epoch}, offset), newest);
            }
            for (uint64_t i = 0; i < count; ++i) {
                Version& version = model[{region, page + i}];
                if (version.epoch <= epoch) version = {epoch, offset, zero};
            }
        }
        std::map<std::pair<uint16_t, uint64_t>, uint64_t> applied;  // as a seal would
        for (const auto& run : delta.collect_runs()) {
            for (uint64_t i = 0; i < run.count; ++i) applied[{raw(run.region), run.first + i}] = 0;
        }
        for (const auto& page : delta.collect_pages())
            applied[{raw(page.region()), page.page()}] = page.zero ? 0 : page.offset;
        for (uint16_t region = 0; region < 3; ++region) {
            for (uint64_t page = 0; page < 200; ++page) {
                const Version& version = model[{region, page}];
                const OpenDelta::Found found = delta.find(RegionId{region}, page);
                const auto kind = version.epoch == 0 ? OpenDelta::Kind::none
                                  : version.zero     ? OpenDelta::Kind::zero
                                                     : OpenDelta::Kind::logged;
                ASSERT_EQ(found.kind, kind) << "seed " << seed << " page " << page;
                if (kind == OpenDelta::Kind::logged) ASSERT_EQ(found.offset, version.offset);
                const bool is_applied = applied.contains({region, page});
                ASSERT_EQ(is_applied, version.epoch != 0);
                if (is_applied)
                    ASSERT_EQ((applied[{region, page}]), version.zero ? 0 : version.offset);
            }
        }
    }
}

TEST(EpochMapOf, AgreesWithAPlainVector) {
    Random random(4);
    constexpr uint64_t pages = 3 * 4096 + 100;
    EpochMap map(pages);
    std::vector<uint32_t> model(pages);
    for (int i = 0; i < 300; ++i) {
        const Epoch epoch{1 + uint32_t(random.below(5))};
        const uint64_t page = random.below(pages);
        if (random.chance(0.5)) {
            ASSERT_EQ(map.may_put(page, epoch), model[page] <= raw(epoch));
            if (model[page] > raw(epoch)) continue;
            map.set(page, epoch);
            model[page] = raw(epoch);
            continue;
        }
        const uint64_t count = 1 + random.below(pages - page);
        uint64_t accepted = 0;
        const Status done =
            map.set_run(page, count, epoch, [&](uint64_t first, uint64_t part) -> Status {
                for (uint64_t p = first; p < first + part; ++p) {
                    EXPECT_LE(model[p], raw(epoch));
                    model[p] = raw(epoch);
                    ++accepted;
                }
                return {};
            });
        ASSERT_TRUE(done.ok());
        for (uint64_t p = page; p < page + count; ++p) ASSERT_GE(model[p], raw(epoch));
    }
}

}  // namespace
}  // namespace evac::storage_sync
