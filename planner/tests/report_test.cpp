#include "evac/planner/report.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "planner_fixture.hpp"
#include "report_text.hpp"

namespace evac::planner {
namespace {

// Two VMs on a link of 1 MiB/s; numbers that come out even.
Inventory small_inventory() {
    const auto parsed =
        parse_inventory(R"({"link":{"goodput_mbit":8.388608,"rtt_ms":20},"deadline_s":3,"vms":[
{"name":"web <1>","memory_mib":512,"priority":1,"unstaged_mib":2,"dirty":[],
 "disk_write_mib_s":0,"wire_ratio":1,"max_downtime_ms":2500,"switchover_ms":250},
{"name":"db","memory_mib":256,"priority":2,"unstaged_mib":4,"dirty":[],
 "disk_write_mib_s":0,"wire_ratio":0.5,"max_downtime_ms":100,"switchover_ms":500}]})");
    EXPECT_TRUE(parsed.ok());
    return *parsed;
}

Plan plan_of(const Inventory& inventory, const SolveOptions& options = {}) {
    const ManualClock clock;
    auto plan = solve(inventory, options, clock);
    EXPECT_TRUE(plan.ok());
    return std::move(*plan);
}

// The contract: names, units and order of the fields. solve_ms is 0 on a clock that stands still.
constexpr const char* kGoldenJson = R"({
  "schema": 1,
  "order": [
    "db",
    "web <1>"
  ],
  "vms": [
    {
      "name": "db",
      "mode": "live",
      "start_s": 0.0,
      "link_end_s": 2.0,
      "away_s": 2.5,
      "downtime_ms": 500.0,
      "bytes_mib": 2.0,
      "live_passes": 1,
      "meets_deadline": true,
      "meets_downtime_limit": false,
      "miss": null
    },
    {
      "name": "web <1>",
      "mode": "live",
      "start_s": 2.0,
      "link_end_s": 4.0,
      "away_s": 4.25,
      "downtime_ms": 2250.0,
      "bytes_mib": 2.0,
      "live_passes": 0,
      "meets_deadline": false,
      "meets_downtime_limit": true,
      "miss": "late"
    }
  ],
  "advice": [],
  "makespan_s": 4.25,
  "lower_bound_s": 4.25,
  "gap": 0.0,
  "weighted_rescued": 2.0,
  "weighted_total": 3.0,
  "downtime_total_ms": 2750.0,
  "deadline_s": 3.0,
  "goodput_mbit": 8.388608,
  "late": 1,
  "abandoned": 0,
  "exact": true,
  "solve_ms": 0.0
}
)";

TEST(Report, GoldenJson) {
    const Inventory inventory = small_inventory();
    EXPECT_EQ(plan_to_json(inventory, plan_of(inventory)), kGoldenJson);
}

TEST(Report, AbandonedVmsHaveNoTimes) {
    const Inventory inventory = small_inventory();
    SolveOptions options;
    options.forced_mode = {{"db", Mode::abandon}};
    const auto json = nlohmann::json::parse(plan_to_json(inventory, plan_of(inventory, options)));
    EXPECT_EQ(json["order"], (nlohmann::json::array({"web <1>", "db"})));
    const auto& db = json["vms"][1];
    EXPECT_EQ(db["mode"], "abandon");
    EXPECT_TRUE(db["away_s"].is_null());
    EXPECT_TRUE(db["downtime_ms"].is_null());
    EXPECT_EQ(db["bytes_mib"], 0.0);
    EXPECT_EQ(db["meets_deadline"], false);
    EXPECT_EQ(json["abandoned"], 1);
    EXPECT_EQ(json["weighted_rescued"], 1.0);
}

constexpr const char* kGoldenTable =
    "    turn  name     mode      weight    wire MiB    start s link end s     away s  downtime "
    "ms\n"
    "       1  db       live           2         2.0       0.00       2.00       2.50          500"
    "  downtime limit 100 ms\n"
    "!      2  web <1>  live           1         2.0       2.00       4.00       4.25         2250"
    "  misses the deadline\n"
    "\n"
    "makespan     4.25 s for 2 VMs, 4.0 MiB at 8.4 Mbit/s\n"
    "proved       no order of these modes is done before 4.25 s (gap 0.00 %, this order is the "
    "best one)\n"
    "deadline     3.00 s: 1 of 2 VMs, weight 2 of 3  ! NOT ALL IN TIME\n"
    "downtime     2.75 s summed over all VMs\n"
    "solved in    0.0 ms\n";

TEST(Report, GoldenTable) {
    const Inventory inventory = small_inventory();
    EXPECT_EQ(plan_to_table(inventory, plan_of(inventory)), kGoldenTable);
}

size_t count_of(const std::string& text, const std::string& part) {
    size_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        ++count;
    return count;
}

TEST(Report, GanttOfFewShowsEachVm) {
    const Inventory inventory = small_inventory();
    const std::string svg = plan_to_svg(inventory, plan_of(inventory));
    EXPECT_EQ(svg.find("<svg "), 0U);
    EXPECT_EQ(count_of(svg, "<g>"), 2U);
    EXPECT_NE(svg.find(">web &lt;1&gt;  "), std::string::npos);
    EXPECT_EQ(svg.find("web <1>"), std::string::npos);
    EXPECT_NE(svg.find("deadline 3.00 s"), std::string::npos);
    EXPECT_EQ(count_of(svg, "<g>"), count_of(svg, "</g>"));
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Report, GanttOfManyIsGrouped) {
    Random random(2);
    for (const size_t n : {60U, 61U, 600U}) {
        Inventory inventory = testing::random_inventory(random, testing::Family::mixed, n);
        inventory.deadline_s = 20;
        const Plan plan = plan_of(inventory);
        const std::string svg = plan_to_svg(inventory, plan);
        EXPECT_EQ(count_of(svg, "<g>"), n <= kGanttRowsMax ? n : 40U);
        EXPECT_LT(svg.size(), 60'000U);
        EXPECT_EQ(svg.find("nan"), std::string::npos);
    }
}

TEST(Report, EverythingAbandonedStillPrints) {
    const Inventory inventory = small_inventory();
    SolveOptions options;
    options.forced_mode_all = Mode::abandon;
    const Plan plan = plan_of(inventory, options);
    EXPECT_NE(plan_to_table(inventory, plan).find("2 VMs stay behind"), std::string::npos);
    EXPECT_EQ(plan_to_svg(inventory, plan).find("nan"), std::string::npos);
}

TEST(Report, AwayByCountsVmsAndWeight) {
    const Inventory inventory = small_inventory();
    const Plan plan = plan_of(inventory);
    EXPECT_EQ(away_by(inventory, plan, 1).vms, 0U);
    EXPECT_EQ(away_by(inventory, plan, 2.5).vms, 1U);
    EXPECT_EQ(away_by(inventory, plan, 2.5).weight, 2);
    EXPECT_EQ(away_by(inventory, plan, 60).vms, 2U);
}

TEST(Report, TextHelpers) {
    EXPECT_EQ(duration_text(0.421), "0.42 s");
    EXPECT_EQ(duration_text(12.34), "12.3 s");
    EXPECT_EQ(duration_text(59.97), "1 min 00 s");
    EXPECT_EQ(duration_text(303.2), "5 min 03 s");
    EXPECT_EQ(duration_text(7500), "2 h 05 min");
    EXPECT_EQ(duration_text(3599.8), "1 h 00 min");
    EXPECT_EQ(duration_text(267840), "3.1 days");
    EXPECT_EQ(pad("abc", 5), "abc  ");
    EXPECT_EQ(pad("abcdef", 4), "abc~");
    EXPECT_EQ(pad("\u00e9\u00e9\u00e9", 4), "\u00e9\u00e9\u00e9 ");
    EXPECT_EQ(pad("\u00e9\u00e9\u00e9\u00e9", 3), "\u00e9\u00e9~");
    EXPECT_EQ(pad_left("12", 4), "  12");
    EXPECT_EQ(pad_left("123456", 4), " 123456");
}

}  // namespace
}  // namespace evac::planner
