#include "evac/planner/simulate_report.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "planner_fixture.hpp"
#include "simulate_quantile.hpp"

namespace evac::planner {
namespace {

using nlohmann::json;

// Four guests of 10 MiB at 1 MiB/s; power goes at 25 s.
Simulation four(std::vector<PolicyChoice> policies) {
    Inventory inventory;
    inventory.link = {8.388608, 1};
    inventory.deadline_s = 15;
    for (size_t i = 0; i < 4; ++i) {
        VmInput vm;
        vm.name = "<vm" + std::to_string(i) + ">";
        vm.memory_mib = 64;
        vm.unstaged_mib = 10;
        vm.max_downtime_ms = 1e6;
        vm.priority = i == 3 ? 7 : 1;
        inventory.vms.push_back(vm);
    }
    Scenario scenario;
    scenario.policies = std::move(policies);
    scenario.windows_s = {10, 20};
    scenario.power = {{25, {}, {}}};
    const ManualClock clock;
    auto out = simulate(inventory, scenario, clock);
    EXPECT_TRUE(out.ok());
    return std::move(*out);
}

TEST(SimulateReport, QuantilesAreThoseOfNumpy) {
    const std::vector<double> values{1, 2, 4, 8};
    EXPECT_EQ(quantile(values, 0), 1);
    EXPECT_EQ(quantile(values, 1), 8);
    EXPECT_EQ(quantile(values, 0.5), 3);
    EXPECT_DOUBLE_EQ(quantile(values, 0.95), 7.4);
    EXPECT_EQ(quantile({5}, 0.3), 5);
    const Distribution d = distribution_of({8, 1, 4, 2});
    EXPECT_EQ(d.min, 1);
    EXPECT_EQ(d.median, 3);
    EXPECT_EQ(d.max, 8);
    EXPECT_EQ(d.mean, 3.75);
}

// The contract: fields and their order, with the curve taken out.
constexpr const char* kGolden =
    R"({"schema":1,"vms":4,"weighted_total":10.0,"deadline_s":15.0,"seeds":1,"first_seed":1,)"
    R"("streams":1,"mode":null,"replan_interval_s":0.0,"feasible":false,"plan_ms":0.0,)"
    R"("play_ms":0.0,"policies":[{"policy":"fifo","makespan_s":20,"predicted_makespan_s":40,)"
    R"("weighted_rescued":1,"windows":[{"at_s":10.0,"weight_away":1,"vms_away":1},)"
    R"({"at_s":20.0,"weight_away":2,"vms_away":2}],"ends":{"away":2,"recovery-point":0,"lost":2,)"
    R"("failed":0,"abandoned":0,"stranded":0},"late":1,"downtime_total_s":20,)"
    R"("downtime_median_ms":10000,"downtime_p95_ms":10000,"downtime_max_ms":10000,)"
    R"("recovery_age_max_s":0,"wire_mib":20,"second_turns":0,"replans_taken":0,"curve":161}]})";

// A distribution whose values are all equal, as that value.
nlohmann::ordered_json shortened(const nlohmann::ordered_json& value) {
    if (value.is_object() && value.contains("p95")) {
        EXPECT_EQ(value["min"], value["max"]);
        EXPECT_EQ(value.size(), 8U);
        return std::llround(value["median"].get<double>());
    }
    if (value.is_object() && value.contains("vms_mean")) return value["at_s"].size();
    nlohmann::ordered_json out = value;
    if (value.is_structured()) {
        for (const auto& [key, item] : value.items()) {
            if (value.is_array()) {
                out[std::stoul(key)] = shortened(item);
            } else {
                out[key] = shortened(item);
            }
        }
    }
    return out;
}

TEST(SimulateReport, GoldenJson) {
    const auto text = simulation_to_json(four({{Policy::fifo}}));
    EXPECT_EQ(shortened(nlohmann::ordered_json::parse(text)).dump(), kGolden);
}

TEST(SimulateReport, CurvesEndWithWhatIsAway) {
    const Simulation simulation = four({{Policy::fifo}, {Policy::priority}});
    EXPECT_EQ(last_away_s(simulation), 20);
    const Curve fifo = curve_of(simulation.policies[0], 20);
    const Curve priority = curve_of(simulation.policies[1], 20);
    ASSERT_EQ(fifo.at_s.size(), kCurveSamples + 1);
    EXPECT_EQ(fifo.at_s.back(), 20);
    EXPECT_EQ(fifo.weight_median.front(), 0);
    EXPECT_DOUBLE_EQ(fifo.weight_median.back(), 0.2);
    EXPECT_DOUBLE_EQ(fifo.vms_mean.back(), 0.5);
    EXPECT_DOUBLE_EQ(priority.weight_median.back(), 0.8);
    EXPECT_DOUBLE_EQ(priority.weight_median[kCurveSamples * 3 / 4], 0.7);
    EXPECT_TRUE(std::is_sorted(fifo.weight_p5.begin(), fifo.weight_p5.end()));
}

TEST(SimulateReport, TableAndPageSayWhatCounts) {
    const Simulation simulation = four({{Policy::fifo}, {Policy::priority}});
    const std::string table = simulation_to_table(simulation),
                      page = simulation_to_html(simulation);
    for (const std::string& text : {table, page}) {
        for (const char* words : {"every VM is away by the deadline in 0 of 1", "makespan, s",
                                  "VMs lost", "weight away within 20.0 s, %", "priority"}) {
            EXPECT_NE(text.find(words), std::string::npos) << words;
        }
        EXPECT_EQ(text.find("both turns failed"), std::string::npos) << "zero everywhere";
        EXPECT_EQ(text.find("nan"), std::string::npos);
        EXPECT_EQ(text.find("inf"), std::string::npos);
    }
    size_t plots = 0;
    for (size_t at = page.find("<svg"); at != std::string::npos; at = page.find("<svg", at + 1)) {
        ++plots;
    }
    EXPECT_EQ(plots, 3U);
    for (const char* outside : {"<script", "src=", "href=", "@import", "url("}) {
        EXPECT_EQ(page.find(outside), std::string::npos) << outside;
    }
}

// Its size does not follow the number of VMs.
TEST(SimulateReport, ThePageOfManyVmsIsAsSmall) {
    size_t small = 0;
    for (const size_t n : {size_t{50}, size_t{5000}}) {
        Random random(3);
        const Inventory inventory =
            testing::random_inventory(random, testing::Family::linear, n, 1000);
        Scenario scenario;
        scenario.policies = {{Policy::fifo}, {Policy::shortest_first}};
        scenario.failures.turn_probability = 0.05;
        scenario.seeds = 3;
        const ManualClock clock;
        const auto out = simulate(inventory, scenario, clock);
        ASSERT_TRUE(out.ok());
        const size_t size = simulation_to_html(*out).size() + simulation_to_json(*out).size();
        if (small == 0) small = size;
        EXPECT_LT(size, small * 5 / 4);
        EXPECT_LT(size, 100'000U);
    }
}

// Nobody away: no curve, no division by zero.
TEST(SimulateReport, NothingAwayIsShown) {
    Inventory inventory;
    inventory.link = {1, 0};
    inventory.vms.resize(1);
    inventory.vms[0].name = "a";
    inventory.vms[0].memory_mib = 1;
    Scenario scenario;
    scenario.power = {{0, {}, {}}};
    const ManualClock clock;
    const auto none = simulate(inventory, scenario, clock);
    ASSERT_TRUE(none.ok());
    EXPECT_FALSE(none->feasible());
    const json parsed = json::parse(simulation_to_json(*none));
    EXPECT_EQ(parsed["policies"][0]["makespan_s"]["max"], 0.0);
    EXPECT_EQ(parsed["policies"][0]["ends"]["lost"]["min"], 1.0);
    EXPECT_EQ(simulation_to_html(*none).find("nan"), std::string::npos);
}

}  // namespace
}  // namespace evac::planner
