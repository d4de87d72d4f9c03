// What mapped capture stores lands in a real QEMU as every other recovery point does: staged RAM
// mapped in place, small blocks and device state through an ordinary incoming migration.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "../../../prestage/tests/qemu_fixture.hpp"
#include "evac/landing/command.hpp"
#include "evac/landing/lander.hpp"
#include "evac/prestage/mapped_memory.hpp"
#include "evac/protocol/device_state.hpp"

namespace evac::daemon {
namespace {

using namespace prestage;
using namespace prestage::test;

class MappedLandingTest : public ::testing::Test {
  protected:
    void SetUp() override {
        client_ = qemu_.connect();
        ASSERT_TRUE(client_);
        ASSERT_TRUE(qemu_.boots(*client_));
        auto facts = collect_facts(*client_, {dir_.path()}, clock_, log_);
        ASSERT_TRUE(facts.ok()) << facts.error().message();
        facts_ = std::move(*facts);
        regions_ = region_list(facts_);
        catalogue_ = std::make_unique<Catalogue>(7, regions_);
        store_ = std::make_unique<Store>(regions_);
        auto mapped = MappedMemory::open(*client_, facts_, clock_);
        ASSERT_TRUE(mapped.ok()) << mapped.error().message();
        mapped_ = std::move(*mapped);
        main_ = static_cast<size_t>(
            std::ranges::find(regions_, RegionKind::main_ram, &RegionInfo::kind) -
            regions_.begin());
    }
    RoundResult capture(RoundMethod method) {
        RoundOptions options;
        options.method = method;
        options.epoch = Epoch{++epoch_};
        options.run_dir = dir_.path();
        options.mapped = mapped_.get();
        auto result = RoundRunner(*client_, *catalogue_, clock_, log_).run(options, *store_);
        EXPECT_TRUE(result.ok()) << result.error().message();
        if (!result.ok()) return {};
        EXPECT_TRUE(result->complete());
        return std::move(*result);
    }
    std::string staged(size_t region) { return dir_ / ("staged." + std::to_string(region)); }
    void stage() {
        for (size_t i = 0; i < regions_.size(); ++i) {
            const auto& image = store_->images[i];
            std::ofstream(staged(i), std::ios::binary)
                .write(reinterpret_cast<const char*>(image.data()),
                       static_cast<std::streamsize>(image.size()));
        }
        std::filesystem::copy_file(dir_ / "boot.img", dir_ / "landed.img",
                                   std::filesystem::copy_options::overwrite_existing);
    }
    std::vector<std::string> landing_argv() {
        landing::SourceCommand source;
        source.argv = landing::read_process_argv(client_->peer_pid()).value();
        source.working_dir = dir_.path();
        source.machine_type = facts_.machine_type;
        source.main_ram_block = facts_.memory_backend;
        source.main_ram_bytes = regions_[main_].size_bytes;
        source.disk_files = {dir_ / "boot.img"};
        source.gateway_qmp_path = client_->path();
        const auto made = landing::make_template(source);
        EXPECT_TRUE(made.ok()) << made.error().message();
        landing::LandingPaths paths;
        paths.qemu_binary = "qemu-system-x86_64";
        paths.ram_file = staged(main_);
        paths.disk_files = {dir_ / "landed.img"};
        paths.dir = dir_ / "landing";
        const auto filled = landing::fill_template(*made, paths);
        EXPECT_TRUE(filled.ok()) << filled.error().message();
        return filled.ok() ? *filled : std::vector<std::string>{};
    }
    // Through the same packing as on the wire.
    landing::LandingState stored(RoundResult& round) {
        protocol::DeviceStateBlob blob;
        blob.ram_section_id = round.device_state.ram_section_id;
        blob.prefix = std::move(round.device_state.prefix);
        blob.tail = std::move(round.device_state.tail);
        const auto packed = protocol::pack(blob);
        EXPECT_TRUE(packed.ok());
        const auto state = protocol::unpack_device_state(*packed);
        EXPECT_TRUE(state.ok());
        return {state->prefix, state->ram_section_id, state->tail};
    }
    void land(landing::Lander& lander, RoundResult& round) {
        stage();
        std::vector<landing::SmallBlock> blocks;
        for (size_t i = 0; i < regions_.size(); ++i) {
            if (regions_[i].kind == RegionKind::small_ram)
                blocks.push_back({regions_[i].name, staged(i), regions_[i].size_bytes});
        }
        const Status launched = lander.launch();
        ASSERT_TRUE(launched.ok()) << launched.error().message();
        const Status loaded = lander.load(stored(round), blocks);
        ASSERT_TRUE(loaded.ok()) << loaded.error().message();
    }
    uint64_t differing(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
        uint64_t count = 0;
        for (uint64_t at = 0; at < a.size(); at += kPageBytes) {
            if (at >= 0xa0000 && at < 0xc0000) continue;  // the VGA window is not RAM
            count += std::memcmp(a.data() + at, b.data() + at, kPageBytes) != 0 ? 1U : 0U;
        }
        return count;
    }

    TempDir dir_;
    Qemu qemu_{dir_,
               {"-object", "memory-backend-memfd,id=pc.ram,size=64M,share=on", "-machine",
                "memory-backend=pc.ram", "-device", "VGA,id=vga0,addr=0x2"}};
    SystemClock clock_;
    CountingLogger log_;
    VmFacts facts_;
    std::unique_ptr<qmp::Client> client_;
    std::vector<RegionInfo> regions_;
    std::unique_ptr<Catalogue> catalogue_;
    std::unique_ptr<Store> store_;
    std::unique_ptr<MappedMemory> mapped_;
    size_t main_ = 0;
    uint32_t epoch_ = 0;
};

TEST_F(MappedLandingTest, FinalPassLandsAsTheStoppedGuest) {
    capture(RoundMethod::mapped_sealed);
    RoundResult final = capture(RoundMethod::mapped_final);
    const uint64_t size = regions_[main_].size_bytes;
    const auto source = qemu_.memory(*client_, size);
    landing::Lander lander({landing_argv(), dir_ / "landing"}, log_);
    ASSERT_NO_FATAL_FAILURE(land(lander, final));
    ASSERT_TRUE(lander.monitor() != nullptr);
    const auto landed = qemu_.memory(*lander.monitor(), size);
    EXPECT_EQ(differing(source, landed), 0u);
    EXPECT_EQ(differing(store_->images[main_], landed), 0u);
    EXPECT_TRUE(lander.kill().ok());
}

// By background snapshot and by a plain migration: the landed guest goes on from that instant.
TEST_F(MappedLandingTest, SealedPointsLandAndRun) {
    for (const RoundMethod method : {RoundMethod::mapped_sealed, RoundMethod::mapped_stopped}) {
        SCOPED_TRACE(to_string(method));
        RoundResult sealed = capture(method);
        landing::Lander lander({landing_argv(), dir_ / "landing"}, log_);
        ASSERT_NO_FATAL_FAILURE(land(lander, sealed));
        const auto landed = qemu_.memory(*lander.monitor(), regions_[main_].size_bytes);
        EXPECT_EQ(differing(store_->images[main_], landed), 0u);
        const uint32_t before = qemu_.counter(*lander.monitor());
        const Status resumed = lander.resume();
        ASSERT_TRUE(resumed.ok()) << resumed.error().message();
        uint32_t after = before;
        for (int i = 0; i < 500 && after == before; ++i) {
            Qemu::nap_ms(10);
            after = qemu_.counter(*lander.monitor());
        }
        EXPECT_GT(after, before);
        EXPECT_TRUE(lander.kill().ok());
    }
}

}  // namespace
}  // namespace evac::daemon
