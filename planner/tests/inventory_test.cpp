#include "evac/planner/inventory.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "planner_fixture.hpp"

namespace evac::planner {
namespace {

// A valid inventory of two VMs with one piece replaced.
std::string inventory_with(const std::string& from = "", const std::string& to = "") {
    std::string text = R"({"link":{"goodput_mbit":100,"rtt_ms":20},"deadline_s":null,"vms":[
{"name":"a","memory_mib":512,"priority":1,"unstaged_mib":4,"dirty":[{"working_set_mib":32,"rate_mib_s":2}],
 "disk_write_mib_s":0,"wire_ratio":0.5,"max_downtime_ms":500,"switchover_ms":50},
{"name":"b","memory_mib":256,"priority":2,"unstaged_mib":9,"dirty":[],
 "disk_write_mib_s":1,"wire_ratio":1,"max_downtime_ms":300,"switchover_ms":40,"after":["a"],"host":"h1"}]})";
    if (from.empty()) return text;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

void expect_refused(const std::string& text, const std::vector<std::string>& parts) {
    const auto result = parse_inventory(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(result.error().code, Errc::invalid_argument);
    for (const std::string& part : parts) {
        EXPECT_NE(result.error().context.find(part), std::string::npos)
            << "expected \"" << part << "\" in: " << result.error().context;
    }
}

TEST(Inventory, ReadsEveryField) {
    const auto result = parse_inventory(inventory_with());
    ASSERT_TRUE(result.ok()) << result.error().context;
    const Inventory& inventory = *result;
    EXPECT_EQ(inventory.link.goodput_mbit, 100);
    EXPECT_EQ(inventory.link.rtt_ms, 20);
    EXPECT_FALSE(inventory.deadline_s);
    ASSERT_EQ(inventory.vms.size(), 2U);
    const VmInput& a = inventory.vms[0];
    EXPECT_EQ(a.name, "a");
    EXPECT_EQ(a.memory_mib, 512);
    EXPECT_EQ(a.priority, 1);
    EXPECT_EQ(a.unstaged_mib, 4);
    ASSERT_EQ(a.dirty.size(), 1U);
    EXPECT_EQ(a.dirty[0].working_set_mib, 32);
    EXPECT_EQ(a.dirty[0].rate_mib_s, 2);
    EXPECT_EQ(a.wire_ratio, 0.5);
    EXPECT_EQ(a.max_downtime_ms, 500);
    EXPECT_EQ(a.switchover_ms, 50);
    const VmInput& b = inventory.vms[1];
    EXPECT_EQ(b.disk_write_mib_s, 1);
    EXPECT_EQ(b.after, std::vector<std::string>{"a"});
    EXPECT_EQ(b.host, "h1");
}

TEST(Inventory, DeadlineMayBeANumberNullOrAbsent) {
    const auto number = parse_inventory(inventory_with("null", "300.5"));
    ASSERT_TRUE(number.ok());
    EXPECT_EQ(number->deadline_s, 300.5);
    const auto absent = parse_inventory(inventory_with("\"deadline_s\":null,", ""));
    ASSERT_TRUE(absent.ok());
    EXPECT_FALSE(absent->deadline_s);
}

TEST(Inventory, RoundTripsThroughJson) {
    Random random(7);
    Inventory inventory = testing::random_inventory(random, testing::Family::mixed, 50);
    testing::add_after(random, inventory, 0.5);
    inventory.deadline_s = 12.25;
    inventory.vms[3].host = "host \"3\" \u00e9";
    const std::string text = to_json(inventory);
    const auto back = parse_inventory(text);
    ASSERT_TRUE(back.ok()) << back.error().context;
    EXPECT_EQ(to_json(*back), text);
    EXPECT_EQ(back->vms[3].host, inventory.vms[3].host);
    EXPECT_EQ(back->vms[49].unstaged_mib, inventory.vms[49].unstaged_mib);
}

struct BadNumber {
    const char* from;
    const char* to;
    const char* path;
    const char* value;
};

TEST(Inventory, RefusesNumbersOutsideTheirRange) {
    const BadNumber cases[] = {
        {"\"goodput_mbit\":100", "\"goodput_mbit\":0", "link.goodput_mbit", ": 0 is refused"},
        {"\"goodput_mbit\":100", "\"goodput_mbit\":-5", "link.goodput_mbit", "-5"},
        {"\"rtt_ms\":20", "\"rtt_ms\":-1", "link.rtt_ms", "-1"},
        {"null", "-0.5", "deadline_s", "-0.5"},
        {"\"memory_mib\":512", "\"memory_mib\":0", "vms[0].memory_mib", "> 0"},
        {"\"priority\":2", "\"priority\":0.5", "vms[1].priority", ">= 1"},
        {"\"unstaged_mib\":9", "\"unstaged_mib\":-9", "vms[1].unstaged_mib", "-9"},
        {"\"working_set_mib\":32", "\"working_set_mib\":0", "vms[0].dirty[0].working_set_mib",
         "> 0"},
        {"\"rate_mib_s\":2", "\"rate_mib_s\":-2", "vms[0].dirty[0].rate_mib_s", "-2"},
        {"\"rate_mib_s\":2", "\"rate_mib_s\":0", "vms[0].dirty[0].rate_mib_s", ": 0 is refused"},
        {"\"disk_write_mib_s\":1", "\"disk_write_mib_s\":-1", "vms[1].disk_write_mib_s", "-1"},
        {"\"wire_ratio\":0.5", "\"wire_ratio\":-0.5", "vms[0].wire_ratio", "-0.5"},
        {"\"max_downtime_ms\":300", "\"max_downtime_ms\":-1", "vms[1].max_downtime_ms", "-1"},
        {"\"switchover_ms\":40", "\"switchover_ms\":-40", "vms[1].switchover_ms", "-40"},
        {"\"unstaged_mib\":9", "\"unstaged_mib\":1e300", "vms[1].unstaged_mib", "at most 1e+12"},
        // Not JSON, but the path is still known.
        {"\"rate_mib_s\":2", "\"rate_mib_s\":NaN", "vms[0].dirty[0].rate_mib_s",
         "not JSON at byte"},
        {"\"rate_mib_s\":2", "\"rate_mib_s\":Infinity", "vms[0].dirty[0].rate_mib_s", "not JSON"},
        {"\"wire_ratio\":1", "\"wire_ratio\":1e999", "vms[1].wire_ratio", "not JSON"},
    };
    for (const BadNumber& c : cases) {
        SCOPED_TRACE(c.to);
        expect_refused(inventory_with(c.from, c.to), {c.path, c.value, "accepted: "});
    }
}

TEST(Inventory, RefusesWrongTypes) {
    const BadNumber cases[] = {
        {"\"goodput_mbit\":100", "\"goodput_mbit\":\"100\"", "link.goodput_mbit", "\"100\""},
        {"\"priority\":2", "\"priority\":true", "vms[1].priority", "true"},
        {"\"priority\":2", "\"priority\":null", "vms[1].priority", "null"},
        {"\"priority\":2", "\"priority\":[2]", "vms[1].priority", "[...]"},
        {"\"priority\":2", "\"priority\":{}", "vms[1].priority", "{...}"},
        {"\"name\":\"b\"", "\"name\":3", "vms[1].name", "3 is refused"},
        {"\"host\":\"h1\"", "\"host\":7", "vms[1].host", "accepted: text"},
        {"\"after\":[\"a\"]", "\"after\":\"a\"", "vms[1].after", "a list of names"},
        {"\"after\":[\"a\"]", "\"after\":[5]", "vms[1].after[0]", "the name of a VM"},
        {"\"dirty\":[]", "\"dirty\":[3]", "vms[1].dirty[0]", "an object with working_set_mib"},
        {"\"dirty\":[]", "\"dirty\":{}", "vms[1].dirty", "a list of at most two"},
        {"null", "\"soon\"", "deadline_s", "or null"},
        {"null", "{}", "deadline_s", "or null"},
    };
    for (const BadNumber& c : cases) {
        SCOPED_TRACE(c.to);
        expect_refused(inventory_with(c.from, c.to), {c.path, c.value, "accepted: "});
    }
    expect_refused("[]", {"inventory", "accepted: an object"});
    expect_refused("7", {"inventory", "7 is refused"});
    expect_refused(R"({"link":3})", {"link: 3 is refused", "goodput_mbit"});
    expect_refused(R"({"vms":{}})", {"vms: {...} is refused", "a list of VMs"});
    expect_refused(R"({"vms":[7]})", {"vms[0]: 7 is refused"});
}

TEST(Inventory, RefusesUnknownMissingAndRepeatedFields) {
    expect_refused(inventory_with("\"rtt_ms\":20", "\"rtt_ms\":20,\"loss\":1"),
                   {"link.loss", "unknown field", "goodput_mbit, rtt_ms"});
    expect_refused(inventory_with("\"priority\":2", "\"prioritty\":2"),
                   {"vms[1].prioritty", "unknown"});
    expect_refused(inventory_with("\"rate_mib_s\":2", "\"rate_mib_s\":2,\"x\":{\"y\":[1]}"),
                   {"vms[0].dirty[0].x", "unknown"});
    expect_refused(inventory_with("\"deadline_s\"", "\"deadline\""), {"deadline: unknown field"});
    expect_refused(inventory_with(",\"priority\":2", ""), {"vms[1].priority", "missing"});
    expect_refused(inventory_with(",\"rate_mib_s\":2", ""),
                   {"vms[0].dirty[0].rate_mib_s", "missing"});
    expect_refused(inventory_with("\"name\":\"b\",", ""), {"vms[1].name", "missing"});
    expect_refused("{}", {"link: missing"});
    expect_refused(R"({"link":{"goodput_mbit":1,"rtt_ms":0}})", {"vms: missing"});
    expect_refused(inventory_with("\"priority\":2", "\"priority\":2,\"priority\":3"),
                   {"vms[1].priority", "each field once"});
}

TEST(Inventory, RefusesBadLists) {
    expect_refused(R"({"link":{"goodput_mbit":1,"rtt_ms":0},"vms":[]})", {"vms: an empty list"});
    const std::string scale = R"({"working_set_mib":1,"rate_mib_s":1})";
    expect_refused(
        inventory_with("\"dirty\":[]", "\"dirty\":[" + scale + "," + scale + "," + scale + "]"),
        {"vms[1].dirty", "at most 2"});
    std::string many = "\"after\":[";
    for (size_t i = 0; i <= kAfterMax; ++i) many += (i == 0 ? "\"a\"" : ",\"a\"");
    expect_refused(inventory_with("\"after\":[\"a\"", many), {"vms[1].after", "at most 1000"});
}

TEST(Inventory, RefusesBadNames) {
    expect_refused(inventory_with("\"name\":\"b\"", "\"name\":\"a\""),
                   {"vms[1].name", "\"a\"", "vms[0] has it"});
    expect_refused(inventory_with("\"name\":\"b\"", "\"name\":\"\""), {"vms[1].name", "1 to 255"});
    expect_refused(inventory_with("\"name\":\"b\"", "\"name\":\"b\\n\""),
                   {"vms[1].name", "control"});
    expect_refused(inventory_with("\"name\":\"b\"", "\"name\":\"" + std::string(256, 'x') + "\""),
                   {"vms[1].name", "..."});
}

TEST(Inventory, RefusesAfterThatCannotBe) {
    expect_refused(inventory_with("\"after\":[\"a\"]", "\"after\":[\"zoe\"]"),
                   {"vms[1].after[0]", "\"zoe\"", "the name of a VM"});
    expect_refused(inventory_with("\"after\":[\"a\"]", "\"after\":[\"a\",\"a\"]"),
                   {"vms[1].after[1]", "each name once"});
    expect_refused(inventory_with("\"after\":[\"a\"]", "\"after\":[\"b\"]"),
                   {"after: b -> b is a cycle"});
    expect_refused(inventory_with("\"switchover_ms\":50", "\"switchover_ms\":50,\"after\":[\"b\"]"),
                   {"after: a -> b -> a is a cycle"});
}

TEST(Inventory, LongCyclesAreNamedInShort) {
    Random random(1);
    Inventory inventory = testing::random_inventory(random, testing::Family::idle, 20'000);
    for (size_t i = 0; i < inventory.vms.size(); ++i) {
        inventory.vms[i].after = {inventory.vms[(i + 1) % inventory.vms.size()].name};
    }
    const Status status = validate(inventory);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().context.find("after: vm0 -> vm1 -> vm2"), 0U);
    EXPECT_NE(status.error().context.find("(20000 VMs) -> vm0 is a cycle"), std::string::npos);
    EXPECT_LT(status.error().context.size(), 300U);
    inventory.vms.back().after.clear();  // a chain of 20,000 is no cycle
    EXPECT_TRUE(validate(inventory).ok());
}

TEST(Inventory, RefusesWhatIsNotJson) {
    for (const char* text : {"", "{", "nonsense", "{\"link\":", "[[[[", "{\"a\":1,}", "\xff\xfe",
                             "{} {}", "// c\n{}"}) {
        SCOPED_TRACE(text);
        expect_refused(text, {});
    }
    expect_refused(inventory_with() + "x", {"not JSON at byte"});
    expect_refused(inventory_with("\"name\":\"b\"", "\"name\":\"\xff\""),
                   {"vms[1].name", "not JSON"});
    expect_refused(std::string(1'000'000, '['), {"inventory"});
}

TEST(Inventory, RefusesTooMuch) {
    expect_refused(std::string(kInventoryTextBytesMax + 1, ' '), {"67108865 bytes", "at most"});
    Random random(3);
    Inventory inventory = testing::random_inventory(random, testing::Family::idle, 2);
    inventory.vms.resize(kVmsMax + 1, inventory.vms[0]);
    const Status status = validate(inventory);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().context.find("100001"), std::string::npos);
}

TEST(Inventory, ValidateRefusesWhatMeasurementsMayBring) {
    Random random(4);
    const Inventory good = testing::random_inventory(random, testing::Family::saturating, 3);
    ASSERT_TRUE(validate(good).ok());
    const auto refused = [](const Inventory& inventory, const std::string& part) {
        const Status status = validate(inventory);
        ASSERT_FALSE(status.ok());
        EXPECT_NE(status.error().context.find(part), std::string::npos) << status.error().context;
    };
    Inventory bad = good;
    bad.vms[2].dirty[0].rate_mib_s = std::numeric_limits<double>::quiet_NaN();
    refused(bad, "vms[2].dirty[0].rate_mib_s: nan is refused");
    bad = good;
    bad.link.goodput_mbit = std::numeric_limits<double>::infinity();
    refused(bad, "link.goodput_mbit: inf is refused");
    bad = good;
    bad.deadline_s = std::numeric_limits<double>::quiet_NaN();
    refused(bad, "deadline_s: nan");
    bad = good;
    bad.vms[1].dirty.resize(3, bad.vms[1].dirty[0]);
    refused(bad, "vms[1].dirty: 3 entries");
    bad = good;
    bad.vms.clear();
    refused(bad, "vms: 0 entries");
}

}  // namespace
}  // namespace evac::planner
