#include <gtest/gtest.h>

#include <algorithm>

#include "evac/prestage/enrolment.hpp"

namespace evac::prestage {
namespace {

VmFacts good_facts() {
    VmFacts facts;
    facts.name = "web-1";
    facts.uuid = "00000000-0000-0000-0000-000000000001";
    facts.qemu_version = "7.2.22";
    facts.machine_type = "pc-q35-7.2";
    facts.accelerator = "tcg";
    facts.cpu_model = "qemu64-x86_64-cpu";
    facts.cpu_features = {"eax=1 ECX=80002001", "eax=1 EDX=078bfbfd"};
    facts.vcpus = 2;
    facts.memory_bytes = 256 * 1024 * 1024;
    facts.memory_backend = "pc.ram";
    facts.devices = {"pci 00/01.0 1af4:1042", "qom peripheral/vd0 child<virtio-blk-pci>"};
    facts.devices_hash = 0xfedcba9876543210;
    facts.ram_blocks = {{"vga.vram", 16 << 20}, {"pc.ram", 256 << 20}};
    facts.disks = {
        {"disk0", "/machine/peripheral/vd0/virtio-backend", "/a/disk.img", "raw", 1 << 30, false},
        {"cd0", "/machine/peripheral/cd", "/a/cd.iso", "raw", 1 << 20, true}};
    facts.background_snapshot = true;
    facts.run_state = "running";
    return facts;
}

std::string reasons(const VmFacts& facts) {
    std::string out;
    for (const Refusal& refusal : refusals(facts)) out += refusal.reason + "\n";
    return out;
}

TEST(VmFacts, RoundTripsThroughText) {
    VmFacts facts = good_facts();
    facts.blockers = {"nvme \"x\"\n"};
    facts.background_snapshot_reason = "Größe";
    const auto parsed = facts_from_text(facts_to_text(facts));
    ASSERT_TRUE(parsed.ok()) << parsed.error().message();
    EXPECT_EQ(*parsed, facts);
    EXPECT_EQ(*facts_from_text(facts_to_text(VmFacts{})), VmFacts{});
}

TEST(VmFacts, BadTextIsRefusedWithTheField) {
    const std::string good = facts_to_text(good_facts());
    const auto with = [&good](const std::string& from, const std::string& to) {
        std::string text = good;
        const size_t at = text.find(from);
        EXPECT_NE(at, std::string::npos) << from;
        return facts_from_text(text.replace(at, from.size(), to));
    };
    EXPECT_EQ(facts_from_text("").error().code, Errc::corrupt);
    EXPECT_EQ(facts_from_text("[]").error().code, Errc::corrupt);
    EXPECT_EQ(facts_from_text(std::string(kFactsTextBytesMax + 1, ' ')).error().code,
              Errc::corrupt);
    EXPECT_EQ(facts_from_text(good.substr(0, good.size() / 2)).error().code, Errc::corrupt);
    EXPECT_NE(with("\"vcpus\":2", "\"vcpus\":-2").error().context.find("vcpus"), std::string::npos);
    EXPECT_NE(with("\"vcpus\":2", "\"vcpus\":4294967296").error().context.find("vcpus"),
              std::string::npos);
    EXPECT_NE(with("\"memory_shared\":false", "\"memory_shared\":0")
                  .error()
                  .context.find("memory_shared"),
              std::string::npos);
    EXPECT_NE(with("\"format\":1", "\"format\":2").error().context.find("format"),
              std::string::npos);
    EXPECT_NE(with("\"name\":\"web-1\"", "\"name\":\"" + std::string(5000, 'x') + "\"")
                  .error()
                  .context.find("name"),
              std::string::npos);
    EXPECT_NE(with("\"blockers\":[]", "\"blockers\":[1]").error().context.find("blockers"),
              std::string::npos);
    EXPECT_NE(with("\"size_bytes\":268435456", "\"size_bytes\":18446744073709551615")
                  .error()
                  .context.find("size"),
              std::string::npos);
    std::string many = "[";
    for (int i = 0; i < 70; ++i)
        many += std::string(i == 0 ? "" : ",") + R"({"name":"a","size_bytes":4096})";
    EXPECT_NE(with("\"ram_blocks\":[", "\"ram_blocks\":" + many + "],\"x\":[")
                  .error()
                  .context.find("ram_blocks"),
              std::string::npos);
}

TEST(VmFacts, EachRefusalNamesItsReason) {
    EXPECT_EQ(reasons(good_facts()), "");
    const auto expect = [](auto change, const std::string& part) {
        VmFacts facts = good_facts();
        change(facts);
        EXPECT_NE(reasons(facts).find(part), std::string::npos)
            << part << " in: " << reasons(facts);
    };
    expect([](VmFacts& f) { f.run_state = "paused"; }, "run state is 'paused'");
    expect([](VmFacts& f) { f.machine_type = "microvm"; }, "machine type is 'microvm'");
    expect([](VmFacts& f) { f.blockers = {"device nvme"}; }, "device nvme");
    expect([](VmFacts& f) { f.migration_tls = "tls0"; }, "tls-creds is 'tls0'");
    expect([](VmFacts& f) { f.memory_plugged_bytes = 1; }, "hot-plugged memory");
    expect([](VmFacts& f) { f.vcpus = 0; }, "no vCPU");
    expect([](VmFacts& f) { f.ram_blocks.clear(); }, "RAM blocks could not be learned");
    expect([](VmFacts& f) { f.memory_backend = "mem0"; }, "memory backend 'mem0'");
    expect([](VmFacts& f) { f.memory_bytes = 5; }, "the VM has 5");
    expect([](VmFacts& f) { f.disks[0].format = "vmdk"; }, "format 'vmdk'");
    expect([](VmFacts& f) { f.disks[0].node_name = ""; }, "no node name");
    expect([](VmFacts& f) { f.disks[0].size_bytes = 0; }, "has 0 bytes");
    expect([](VmFacts& f) { f.disks.push_back(f.disks[0]); }, "two devices");
    expect(
        [](VmFacts& f) {
            for (int i = 0; i < 63; ++i) f.ram_blocks.push_back({"b" + std::to_string(i), 4096});
        },
        "at most 64");
}

TEST(VmFacts, CompareFindsWhatWouldBreakALanding) {
    const VmFacts home = good_facts();
    VmFacts away = home;
    away.run_state = "inmigrate";
    away.ram_blocks.clear();
    away.memory_shared = true;
    away.disks[0].file = "/away/disk.img";
    EXPECT_TRUE(compare(home, away).empty());
    const auto expect = [&](auto change, const std::string& field, const std::string& part) {
        VmFacts other = away;
        change(other);
        const auto differences = compare(home, other);
        ASSERT_EQ(differences.size(), 1u) << field;
        EXPECT_EQ(differences[0].field, field);
        EXPECT_NE(differences[0].message().find(part), std::string::npos)
            << differences[0].message();
    };
    expect([](VmFacts& f) { f.machine_type = "pc-q35-8.0"; }, "machine_type", "pc-q35-8.0");
    expect([](VmFacts& f) { f.cpu_model = "max-x86_64-cpu"; }, "cpu_model", "max");
    expect([](VmFacts& f) { f.cpu_features[0] = "eax=1 ECX=0"; }, "cpu_features", "ECX=80002001");
    expect([](VmFacts& f) { f.vcpus = 1; }, "vcpus", "'2'");
    expect([](VmFacts& f) { f.memory_bytes = 1; }, "memory_bytes", "'1'");
    expect([](VmFacts& f) { f.memory_backend = "m"; }, "memory_backend", "pc.ram");
    expect([](VmFacts& f) { f.devices.push_back("qom x"); }, "devices",
           "home has 'none', away has 'qom x'");
    expect([](VmFacts& f) { f.ram_blocks = {{"pc.ram", 256 << 20}}; }, "ram_blocks", "vga.vram=");
    expect([](VmFacts& f) { f.disks[0].size_bytes = 5; }, "disks", " 5'");
    expect([](VmFacts& f) { f.disks.pop_back(); }, "disks", "ro");
}

TEST(VmFacts, RegionListIsRamInOrderThenWritableDisks) {
    const auto regions = region_list(good_facts());
    EXPECT_EQ(regions, (std::vector<RegionInfo>{{"vga.vram", RegionKind::small_ram, 16 << 20},
                                                {"pc.ram", RegionKind::main_ram, 256 << 20},
                                                {"disk0", RegionKind::disk, 1 << 30}}));
}

}  // namespace
}  // namespace evac::prestage
