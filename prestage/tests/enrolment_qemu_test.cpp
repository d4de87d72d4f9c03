// What is asked of a real QEMU: facts, refusals, differences; and it is none the worse for being
// asked.
#include <gtest/gtest.h>

#include <algorithm>

#include "qemu_fixture.hpp"

namespace evac::prestage::test {
namespace {

class EnrolmentTest : public ::testing::Test {
  protected:
    VmFacts ask(qmp::Client& client, bool probe = true) {
        auto facts = collect_facts(client, {probe ? dir_.path() : std::string()}, clock_, log_);
        EXPECT_TRUE(facts.ok()) << facts.error().message();
        return facts.ok() ? std::move(*facts) : VmFacts{};
    }
    // A QEMU that waits for a landing of the first one.
    VmFacts ask_away(std::vector<std::string> extra) {
        extra.insert(extra.end(), {"-incoming", "defer"});
        const Qemu away(dir_, extra, "away.img");
        const auto client = away.connect();
        return client ? ask(*client) : VmFacts{};
    }
    static std::string fields(const std::vector<Difference>& differences) {
        std::string out;
        for (const Difference& difference : differences) out += difference.field + " ";
        return out;
    }
    static std::string status(qmp::Client& client) {
        return client.execute("query-status")->value("status", "?");
    }

    TempDir dir_;
    SystemClock clock_;
    CountingLogger log_;
};

TEST_F(EnrolmentTest, FactsOfARunningGuest) {
    const Qemu qemu(dir_);
    const auto client = qemu.connect();
    ASSERT_TRUE(client);
    ASSERT_TRUE(qemu.boots(*client));
    const std::string before = client->execute("query-migrate-capabilities")->dump() +
                               client->execute("query-migrate-parameters")->dump();
    const VmFacts facts = ask(*client);
    EXPECT_EQ(facts.name, "guest");
    EXPECT_TRUE(facts.qemu_version.starts_with("7.2."));
    EXPECT_EQ(facts.machine_type, "pc-q35-7.2");
    EXPECT_EQ(facts.accelerator, "tcg");
    EXPECT_EQ(facts.cpu_model, "qemu64-x86_64-cpu");
    EXPECT_GT(facts.cpu_features.size(), 10u);
    EXPECT_EQ(facts.vcpus, 1u);
    EXPECT_EQ(facts.memory_bytes, 64 * kMiB);
    EXPECT_EQ(facts.memory_backend, "pc.ram");
    EXPECT_FALSE(facts.memory_shared);
    EXPECT_GT(facts.devices.size(), 10u);
    EXPECT_NE(facts.devices_hash, 0u);
    EXPECT_EQ(std::ranges::count(facts.ram_blocks, RamBlock{"pc.ram", 64 * kMiB}), 1);
    EXPECT_GT(facts.ram_blocks.size(), 3u);
    EXPECT_TRUE(facts.background_snapshot) << facts.background_snapshot_reason;
    EXPECT_EQ(facts.disks.size(), 1u);
    EXPECT_EQ(facts.disks.at(0).node_name, "disk0");
    EXPECT_EQ(facts.disks.at(0).format, "raw");
    EXPECT_EQ(facts.disks.at(0).file, dir_ / "boot.img");
    EXPECT_EQ(facts.disks.at(0).size_bytes, kMiB);
    EXPECT_TRUE(refusals(facts).empty()) << refusals(facts).front().reason;
    EXPECT_EQ(*facts_from_text(facts_to_text(facts)), facts);
    EXPECT_EQ(ask(*client), facts);
    EXPECT_EQ(status(*client), "running");
    EXPECT_EQ(client->execute("query-migrate-capabilities")->dump() +
                  client->execute("query-migrate-parameters")->dump(),
              before);
    const uint32_t counter = qemu.counter(*client);
    for (int i = 0; i < 500 && qemu.counter(*client) == counter; ++i) Qemu::nap_ms(10);
    EXPECT_NE(qemu.counter(*client), counter);
    EXPECT_EQ(log_.warnings, 0) << log_.last_warning;
}

TEST_F(EnrolmentTest, PausedGuestStaysPausedAndIsRefused) {
    const Qemu qemu(dir_, {"-S"});
    const auto client = qemu.connect();
    ASSERT_TRUE(client);
    ASSERT_TRUE(client->execute("cont").ok());
    ASSERT_TRUE(client->execute("stop").ok());
    const VmFacts facts = ask(*client);
    EXPECT_FALSE(facts.ram_blocks.empty());
    EXPECT_EQ(refusals(facts).size(), 1u);
    EXPECT_EQ(status(*client), "paused");
}

TEST_F(EnrolmentTest, UnmigratableDeviceIsABlockerWithItsName) {
    const Qemu qemu(dir_, {"-blockdev", "driver=null-co,node-name=null0,size=1048576", "-device",
                           "nvme,drive=null0,serial=1"});
    const auto client = qemu.connect();
    ASSERT_TRUE(client);
    const VmFacts facts = ask(*client);
    std::string reasons;
    for (const Refusal& refusal : refusals(facts)) reasons += refusal.reason + "\n";
    EXPECT_NE(reasons.find("nvme"), std::string::npos) << reasons;
    EXPECT_EQ(status(*client), "running");
}

TEST_F(EnrolmentTest, LandingQemuIsComparedWithHome) {
    const Qemu qemu(dir_);
    const auto client = qemu.connect();
    ASSERT_TRUE(client);
    ASSERT_TRUE(qemu.boots(*client));
    const VmFacts home = ask(*client);
    const VmFacts same = ask_away({});
    EXPECT_EQ(same.run_state, "inmigrate");
    EXPECT_EQ(fields(compare(home, same)), "");
    const VmFacts cpu = ask_away({"-cpu", "Haswell"});
    EXPECT_NE(fields(compare(home, cpu)).find("cpu_model cpu_features "), std::string::npos);
    // QEMU itself accepts an extra device silently.
    EXPECT_EQ(fields(compare(home, ask_away({"-device", "virtio-rng-pci"}))), "devices ");
    EXPECT_NE(fields(compare(home, ask_away({"-smp", "2"}))).find("vcpus "), std::string::npos);
}

TEST_F(EnrolmentTest, SharedMemoryAndOpenMigrations) {
    const Qemu qemu(dir_, {"-object", "memory-backend-memfd,id=mem0,size=64M,share=on", "-machine",
                           "memory-backend=mem0"});
    const auto client = qemu.connect();
    ASSERT_TRUE(client);
    const VmFacts facts = ask(*client);
    EXPECT_TRUE(facts.memory_shared);
    EXPECT_EQ(facts.memory_backend, "mem0");
    EXPECT_TRUE(refusals(facts).empty()) << refusals(facts).front().reason;
    EXPECT_EQ(std::ranges::count(region_list(facts), RegionKind::main_ram, &RegionInfo::kind), 1);
    // Somebody else's migration, at a trickle.
    ASSERT_TRUE(client->execute("migrate-set-parameters", Json{{"max-bandwidth", 4096}}).ok());
    ASSERT_TRUE(client->execute("migrate", Json{{"uri", "exec:cat >/dev/null"}}).ok());
    const auto busy = collect_facts(*client, {dir_.path()}, clock_, log_);
    ASSERT_FALSE(busy.ok());
    EXPECT_EQ(busy.error().code, Errc::refused);
}

}  // namespace
}  // namespace evac::prestage::test
