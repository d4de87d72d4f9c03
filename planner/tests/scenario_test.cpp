// The scenario file: what is accepted, and that every refusal names the path, the value and what is
// accepted.
#include "evac/planner/scenario.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace evac::planner {
namespace {

constexpr const char* kFull = R"({"policies":["plan","a/b","fifo"],"seeds":20,"first_seed":7,
"streams":2,"mode":"freeze","replan_interval_s":10,"horizon_s":3600,"windows_s":[60,300],
"bandwidth":[{"at_s":0,"mbit":900},{"at_s":60,"mbit":600,"half_life_s":30,"decay_to_mbit":50}],
"outages":[{"at_s":10,"for_s":5},{"at_s":15,"for_s":1}],
"power":[{"at_s":300,"latest_s":400},{"at_s":100,"hosts":["h1","h2"]}],
"failures":{"turn_probability":0.02,"retry":"delay","retry_delay_s":30,"host_probability":0.1,
"host_within_s":600},"dirty_phases":{"mean_interval_s":30,"factor_min":0.2,"factor_max":5},
"measurement_error":{"unstaged":0.1,"dirty":0.2,"wire_ratio":0.05,"goodput":0.3},
"recovery_points":{"interval_s":120}})";

std::string refusal(std::string_view text) {
    const auto scenario = parse_scenario(text);
    if (scenario.ok()) return "accepted";
    EXPECT_EQ(scenario.error().code, Errc::invalid_argument);
    return scenario.error().context;
}

TEST(Scenario, ReadsEveryField) {
    const auto parsed = parse_scenario(kFull);
    ASSERT_TRUE(parsed.ok()) << parsed.error().context;
    const Scenario& s = *parsed;
    ASSERT_EQ(s.policies.size(), 3U);
    EXPECT_EQ(s.policies[0].rule, std::nullopt);
    EXPECT_EQ(s.policies[1].rule, Policy::ratio);
    EXPECT_EQ(s.policies[2].rule, Policy::fifo);
    EXPECT_EQ(s.seeds, 20U);
    EXPECT_EQ(s.first_seed, 7U);
    EXPECT_EQ(s.streams, 2U);
    EXPECT_EQ(s.mode, Mode::freeze);
    EXPECT_EQ(s.replan_interval_s, 10);
    EXPECT_EQ(s.horizon_s, 3600);
    EXPECT_EQ(s.windows_s, (std::vector<double>{60, 300}));
    ASSERT_EQ(s.bandwidth.size(), 2U);
    EXPECT_EQ(s.bandwidth[0].half_life_s, std::nullopt);
    EXPECT_EQ(s.bandwidth[1].mbit, 600);
    EXPECT_EQ(s.bandwidth[1].half_life_s, 30);
    EXPECT_EQ(s.bandwidth[1].decay_to_mbit, 50);
    ASSERT_EQ(s.outages.size(), 2U);
    EXPECT_EQ(s.outages[0].for_s, 5);
    ASSERT_EQ(s.power.size(), 2U);
    EXPECT_EQ(s.power[0].latest_s, 400);
    EXPECT_TRUE(s.power[0].hosts.empty());
    EXPECT_EQ(s.power[1].latest_s, std::nullopt);
    EXPECT_EQ(s.power[1].hosts, (std::vector<std::string>{"h1", "h2"}));
    EXPECT_EQ(s.failures.turn_probability, 0.02);
    EXPECT_EQ(s.failures.retry, Retry::delay);
    EXPECT_EQ(s.failures.retry_delay_s, 30);
    EXPECT_EQ(s.failures.host_probability, 0.1);
    EXPECT_EQ(s.failures.host_within_s, 600);
    EXPECT_EQ(s.dirty_phases.mean_interval_s, 30);
    EXPECT_EQ(s.dirty_phases.factor_min, 0.2);
    EXPECT_EQ(s.dirty_phases.factor_max, 5);
    EXPECT_EQ(s.measurement_error.unstaged, 0.1);
    EXPECT_EQ(s.measurement_error.dirty, 0.2);
    EXPECT_EQ(s.measurement_error.wire_ratio, 0.05);
    EXPECT_EQ(s.measurement_error.goodput, 0.3);
    EXPECT_EQ(s.recovery_interval_s, 120);
    EXPECT_TRUE(s.random());
}

TEST(Scenario, AnEmptyObjectIsASteadyLinkAndOurPlan) {
    const auto parsed = parse_scenario("{}");
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed->policies, std::vector<PolicyChoice>{PolicyChoice{}});
    EXPECT_FALSE(parsed->random());
    EXPECT_EQ(parsed->streams, 1U);
    EXPECT_EQ(parsed->mode, std::nullopt);
}

// What is wrong, and how the message begins.
constexpr std::pair<const char*, const char*> kRefused[] = {
    {"", "scenario: not JSON"},
    {"[]", "scenario: [...] is refused"},
    {"{}x", "scenario: not JSON"},
    {R"({"bandwith":[]})", "bandwith: unknown field \"bandwith\"; accepted: policies"},
    {R"({"seeds":1,"seeds":2})", "seeds: a second value is refused"},
    {R"({"seeds":0})", "seeds: 0 is refused; accepted: a whole number from 1 to 1000"},
    {R"({"seeds":1.5})", "seeds: 1.5 is refused"},
    {R"({"seeds":1001})", "seeds: 1001 is refused"},
    {R"({"first_seed":-1})", "first_seed: -1 is refused"},
    {R"({"streams":257})", "streams: 257 is refused"},
    {R"({"streams":"2"})", "streams: \"2\" is refused"},
    {R"({"policies":[]})", "policies: an empty list is refused"},
    {R"({"policies":["best"]})", "policies[0]: \"best\" is refused; accepted: plan, fifo"},
    {R"({"policies":["plan","plan"]})", "policies[1]: \"plan\" is refused; accepted: each"},
    {R"({"policies":[3]})", "policies[0]: 3 is refused"},
    {R"({"policies":"plan"})", "policies: \"plan\" is refused; accepted: a list"},
    {R"({"mode":"abandon"})", "mode: \"abandon\" is refused; accepted: live, freeze"},
    {R"({"replan_interval_s":0.01})", "replan_interval_s: 0.01 is refused"},
    {R"({"horizon_s":0})", "horizon_s: 0 is refused; accepted: a number > 0"},
    {R"({"windows_s":[60,60]})", "windows_s[1]: 60 is refused"},
    {R"({"windows_s":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]})", "windows_s: 17 entries"},
    {R"({"bandwidth":[{"at_s":0,"mbit":1},{"at_s":1,"mbit":-1}]})",
     "bandwidth[1].mbit: -1 is refused; accepted: a number >= 0"},
    {R"({"bandwidth":[{"at_s":0,"mbit":NaN}]})", "bandwidth[0].mbit: not JSON at byte"},
    {R"({"bandwidth":[{"at_s":0,"mbit":1e999}]})", "bandwidth[0].mbit: not JSON at byte"},
    {R"({"bandwidth":[{"at_s":0,"mbit":1e13}]})", "bandwidth[0].mbit: 1e+13 is refused"},
    {R"({"bandwidth":[{"at_s":0}]})", "bandwidth[0].mbit: missing"},
    {R"({"bandwidth":[7]})", "bandwidth[0]: 7 is refused; accepted: an object with at_s, mbit"},
    {R"({"bandwidth":[{"at_s":0,"mbit":1,"x":1}]})", "bandwidth[0].x: unknown field \"x\""},
    {R"({"bandwidth":[{"at_s":5,"mbit":1},{"at_s":5,"mbit":2}]})", "bandwidth[1].at_s: 5 is"},
    {R"({"bandwidth":[{"at_s":5,"mbit":1,"decay_to_mbit":2}]})", "bandwidth[0].decay_to_mbit:"},
    {R"({"bandwidth":[{"at_s":5,"mbit":1,"half_life_s":0}]})", "bandwidth[0].half_life_s: 0 is"},
    {R"({"outages":[{"at_s":0,"for_s":5},{"at_s":4,"for_s":1}]})", "outages[1].at_s: 4 is"},
    {R"({"outages":[{"at_s":0,"for_s":0}]})", "outages[0].for_s: 0 is refused"},
    {R"({"power":[{"at_s":-1}]})", "power[0].at_s: -1 is refused"},
    {R"({"power":[{"at_s":5,"latest_s":4}]})", "power[0].latest_s: 4 is refused"},
    {R"({"power":[{"at_s":5,"hosts":[]}]})", "power[0].hosts: an empty list is refused"},
    {R"({"power":[{"at_s":5,"hosts":["a","a"]}]})", "power[0].hosts[1]: \"a\" is refused"},
    {R"({"power":[{"at_s":5,"hosts":[""]}]})", "power[0].hosts[0]: \"\" is refused"},
    {R"({"power":{}})", "power: {...} is refused; accepted: a list"},
    {R"({"failures":{"turn_probability":1.1}})", "failures.turn_probability: 1.1 is refused"},
    {R"({"failures":{"retry":"never"}})", "failures.retry: \"never\" is refused"},
    {R"({"failures":{"retry":"delay"}})", "failures.retry_delay_s: nothing is refused"},
    {R"({"failures":{"retry_delay_s":3}})", "failures.retry_delay_s: a value is refused"},
    {R"({"failures":{"host_probability":0.1}})", "failures: one of them alone is refused"},
    {R"({"dirty_phases":{"mean_interval_s":0.01,"factor_min":1,"factor_max":1}})",
     "dirty_phases.mean_interval_s: 0.01 is refused"},
    {R"({"dirty_phases":{"mean_interval_s":1,"factor_min":2,"factor_max":1}})",
     "dirty_phases.factor_max: 1 is refused; accepted: a number >= 2"},
    {R"({"measurement_error":{"dirty":1.5}})", "measurement_error.dirty: 1.5 is refused"},
    {R"({"measurement_error":null})", "measurement_error: null is refused"},
    {R"({"recovery_points":{}})", "recovery_points.interval_s: missing"},
    {R"({"power":[[[[[[[[[[1]]]]]]]]]]})", "power[0][0][0][0][0][0][0]: a deeper level"},
};

TEST(Scenario, RefusesByPathValueAndWhatIsAccepted) {
    for (const auto& [text, begins] : kRefused) {
        const std::string said = refusal(text);
        EXPECT_EQ(said.substr(0, std::string_view(begins).size()), begins) << text;
        EXPECT_NE(said.find("accepted"), std::string::npos) << said;
    }
    EXPECT_NE(refusal(std::string(kScenarioTextBytesMax + 1, ' ')).find("bytes is refused"),
              std::string::npos);
}

// One byte of a good file changed: refused with a message, or still a scenario. Never a crash.
TEST(Scenario, AnyOneByteChangedIsRefusedOrRead) {
    const std::string full = kFull;
    for (size_t at = 0; at < full.size(); ++at) {
        for (const char c : {'\0', '"', '9', '-', '}', '\x80'}) {
            std::string text = full;
            text[at] = c;
            const auto scenario = parse_scenario(text);
            if (!scenario.ok()) EXPECT_FALSE(scenario.error().context.empty());
        }
    }
}

Inventory two_vms() {
    Inventory inventory;
    inventory.link = {100, 1};
    inventory.vms.resize(2);
    inventory.vms[0].name = "a";
    inventory.vms[1].name = "b";
    inventory.vms[1].host = "h1";
    for (VmInput& vm : inventory.vms) vm.memory_mib = 1;
    return inventory;
}

TEST(Scenario, HostsMustBeInTheInventoryAndTheWorkBounded) {
    auto scenario = parse_scenario(R"({"power":[{"at_s":1,"hosts":["h1","h2"]}]})");
    ASSERT_TRUE(scenario.ok());
    const Status status = check_scenario(*scenario, two_vms());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().context.substr(0, 29), "power[0].hosts[1]: \"h2\" is re");

    Inventory many = two_vms();
    many.vms.resize(kVmsMax, many.vms[0]);
    scenario = parse_scenario(R"({"seeds":1000,"policies":["plan","fifo"],
                                  "failures":{"turn_probability":0.5}})");
    ASSERT_TRUE(scenario.ok());
    EXPECT_FALSE(check_scenario(*scenario, many).ok());
    scenario->failures.turn_probability = 0;  // nothing random: one seed is played
    EXPECT_TRUE(check_scenario(*scenario, many).ok());
}

TEST(Scenario, TheExamplesOfTheDocumentationAreRead) {
    size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(EVAC_EXAMPLES)) {
        if (entry.path().filename().string().rfind("scenario", 0) != 0) continue;
        std::ifstream file(entry.path());
        const std::string text{std::istreambuf_iterator<char>(file), {}};
        EXPECT_TRUE(parse_scenario(text).ok()) << entry.path() << ": " << refusal(text);
        ++files;
    }
    EXPECT_GE(files, 2U);
}

TEST(Scenario, TheExampleInTheTextIsRead) {
    std::ifstream file(std::filesystem::path(EVAC_EXAMPLES) / "../simulation.md");
    std::string json, line;
    while (std::getline(file, line)) {
        if (line == "    {") json = "{";
        if (json.empty() || line.substr(0, 4) != "    ") continue;
        if (line != "    {") json += line;
        if (line == "    }") break;
    }
    EXPECT_EQ(json.back(), '}');
    EXPECT_EQ(refusal(json), "accepted") << json;
}

}  // namespace
}  // namespace evac::planner
