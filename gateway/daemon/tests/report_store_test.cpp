#include "../src/report_store.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace evac::daemon {
namespace {

using Json = nlohmann::json;

Json evacuation(int64_t since_unix_ms) {
    return {{"since_unix_ms", since_unix_ms},
            {"event", "quake"},
            {"reason", "JMA"},
            {"moved", 2},
            {"returned", 1},
            {"stuck", 0},
            {"wire_mib_after_alert", 12.5},
            {"predicted_makespan_s", 8.0},
            {"vms",
             {{{"name", "a"}, {"outcome", "moved"}, {"predicted_away_s", 2.0}, {"away_s", 3.5}},
              {{"name", "b"}, {"outcome", "moved"}, {"predicted_away_s", 8.0}, {"away_s", 6.0}},
              {{"name", "c"},
               {"outcome", "returned"},
               {"predicted_away_s", 7.0},
               {"away_s", nullptr}}}}};
}

class ReportStoreTest : public ::testing::Test {
  protected:
    ReportStoreTest() {
        std::string path = ::testing::TempDir() + "reports-XXXXXX";
        root_ = ::mkdtemp(path.data());
    }
    ~ReportStoreTest() override { std::filesystem::remove_all(root_); }
    std::string dir() const { return root_ + "/reports"; }
    std::string root_;
};

TEST_F(ReportStoreTest, ErrorIsActualMinusPredictedAndOnlyOfThoseThatMoved) {
    const Json r = make_report(evacuation(1000));
    EXPECT_EQ(r["id"], "1000");
    EXPECT_DOUBLE_EQ(r["actual_makespan_s"], 6.0);
    EXPECT_DOUBLE_EQ(r["error_s"], -2.0);
    EXPECT_DOUBLE_EQ(r["error_pct"], -25.0);
    EXPECT_DOUBLE_EQ(r["vm_error_mean_s"], 1.75);
    EXPECT_DOUBLE_EQ(r["vm_error_worst_s"], -2.0);
    EXPECT_DOUBLE_EQ(r["vms"][0]["error_s"], 1.5);
    EXPECT_TRUE(r["vms"][2]["error_s"].is_null());
}

TEST_F(ReportStoreTest, WhenNothingMovedThereIsNoError) {
    Json e = evacuation(1);
    for (Json& vm : e["vms"]) vm["away_s"] = nullptr;
    const Json r = make_report(e);
    for (const char* field : {"actual_makespan_s", "error_s", "error_pct", "vm_error_mean_s"})
        EXPECT_TRUE(r[field].is_null()) << field;
}

TEST_F(ReportStoreTest, ADaemonStartedAnewTakesTheLastVmsPrediction) {
    Json e = evacuation(1);
    e["predicted_makespan_s"] = 0.0;
    EXPECT_DOUBLE_EQ(make_report(e)["predicted_makespan_s"], 8.0);
    EXPECT_DOUBLE_EQ(make_report(e)["error_s"], -2.0);
}

TEST_F(ReportStoreTest, SurvivesARestartAndReplacesTheSameEvacuation) {
    {
        ReportStore store(dir());
        ASSERT_TRUE(store.load().ok());
        EXPECT_EQ(store.find("last").error().code, Errc::not_found);
        ASSERT_TRUE(store.save(make_report(evacuation(1000))).ok());
        ASSERT_TRUE(store.save(make_report(evacuation(2000))).ok());
        Json again = evacuation(1000);
        again["moved"] = 3;
        ASSERT_TRUE(store.save(make_report(again)).ok());
    }
    ReportStore store(dir());
    ASSERT_TRUE(store.load().ok());
    ASSERT_EQ(store.list().size(), 2u);
    EXPECT_EQ(store.list()[0]["id"], "2000");
    EXPECT_EQ(store.list()[1]["moved"], 3);
    EXPECT_EQ((*store.find("last"))["id"], "2000");
    EXPECT_EQ((*store.find("1000"))["vms"].size(), 3u);
    EXPECT_EQ(store.find("../1000").error().code, Errc::not_found);
}

TEST_F(ReportStoreTest, KeepsTheNewest) {
    ReportStore store(dir());
    for (size_t i = 0; i < ReportStore::kKept + 3; ++i)
        ASSERT_TRUE(store.save(make_report(evacuation(static_cast<int64_t>(1000 + i)))).ok());
    EXPECT_EQ(store.list().size(), ReportStore::kKept);
    EXPECT_EQ(store.find("1000").error().code, Errc::not_found);
    const auto files = std::filesystem::directory_iterator(dir());
    EXPECT_EQ(std::distance(begin(files), end(files)),
              static_cast<ptrdiff_t>(ReportStore::kKept + 1));
}

TEST_F(ReportStoreTest, ADamagedIndexOrReportIsSaidAndNotFatal) {
    ReportStore store(dir());
    ASSERT_TRUE(store.save(make_report(evacuation(1000))).ok());
    std::ofstream(dir() + "/1000.json") << "{";
    EXPECT_EQ(store.find("1000").error().code, Errc::corrupt);
    for (const char* text : {"", "[]", "{\"reports\": 3}", "{\"reports\": [3]}"}) {
        std::ofstream(dir() + "/index.json") << text;
        ReportStore other(dir());
        EXPECT_EQ(other.load().error().code, Errc::corrupt) << text;
        EXPECT_TRUE(other.list().empty());
        EXPECT_TRUE(other.save(make_report(evacuation(2000))).ok());
    }
}

}  // namespace
}  // namespace evac::daemon
