#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "evac/alert/alert.hpp"
#include "telegrams.hpp"

namespace evac::alert {
namespace {

using namespace telegrams;

// --- CAP

TEST(CapAlert, Actual) {
    const Alert alert = parsed(xml(Cap{}));
    EXPECT_EQ(alert.source, Source::cap);
    EXPECT_EQ(alert.reality, Reality::actual);
    EXPECT_EQ(alert.kind, Kind::alert);
    EXPECT_EQ(alert.event_id, "s@example.org/a1");
    EXPECT_EQ(alert.message, alert.event_id);
    EXPECT_EQ(alert.title, "quake");
    EXPECT_EQ(alert.severity, "Severe");
    EXPECT_EQ(alert.urgency, "Immediate");
    EXPECT_EQ(alert.certainty, "Likely");
    ASSERT_EQ(alert.polygons.size(), 1u);
    ASSERT_EQ(alert.polygons[0].size(), 5u);
    EXPECT_DOUBLE_EQ(alert.polygons[0][2].latitude, 36);
    EXPECT_DOUBLE_EQ(alert.polygons[0][2].longitude, 140);
    ASSERT_EQ(alert.areas.size(), 1u);
    EXPECT_EQ(alert.areas[0].code, "5909");
    EXPECT_EQ(alert.areas[0].intensity, Intensity::none);
    EXPECT_FALSE(alert.expires_unix_s);
}

TEST(CapAlert, Statuses) {
    for (const auto& [status, reality] : {std::pair{"Exercise", Reality::exercise},
                                          {"Test", Reality::test},
                                          {"System", Reality::test},
                                          {"Draft", Reality::test},
                                          {"Actual", Reality::actual}}) {
        Cap t;
        t.status = status;
        EXPECT_EQ(parsed(xml(t)).reality, reality);
    }
    for (const char* status : {"", "actual", "Real"}) {
        Cap t;
        t.status = status;
        EXPECT_TRUE(
            says(error_of(xml(t)).context, "status: \"" + std::string(status) + "\"; Actual"));
    }
}

TEST(CapAlert, UpdateAndCancelNeedReferences) {
    for (const auto& [type, kind] : {std::pair{"Update", Kind::update}, {"Cancel", Kind::cancel}}) {
        Cap t;
        t.type = type;
        t.identifier = "a9";
        for (const char* bad : {"", "a1", ",,", "s@example.org,", "s@example.org,,2030"}) {
            t.references = bad;
            EXPECT_TRUE(says(error_of(xml(t)).context, "references")) << bad;
        }
        t.references = reference("a1") + "\n  " + reference("a2");
        const Alert alert = parsed(xml(t));
        EXPECT_EQ(alert.kind, kind);
        EXPECT_EQ(alert.message, "s@example.org/a9");
        EXPECT_EQ(alert.event_id, "s@example.org/a1");
        EXPECT_EQ(alert.references,
                  (std::vector<std::string>{"s@example.org/a1", "s@example.org/a2"}));
    }
    Cap many;
    many.type = "Cancel";
    for (int i = 0; i < 1000; ++i) many.references += reference(std::to_string(i)) + " ";
    EXPECT_EQ(parsed(xml(many)).references.size(), kReferencesMax);
}

TEST(CapAlert, OtherMessageTypesAreRefusedByName) {
    for (const char* type : {"Ack", "Error", "", "alert"}) {
        Cap t;
        t.type = type;
        EXPECT_TRUE(
            says(error_of(xml(t)).context, "msgType: \"" + std::string(type) + "\"; Alert"));
    }
}

TEST(CapAlert, MissingFieldsAreNamed) {
    for (const char* field : {"identifier", "sender", "sent"}) {
        std::string body = xml(Cap{});
        const std::string open = "<" + std::string(field) + ">",
                          close = "</" + std::string(field) + ">";
        body.erase(body.find(open), body.find(close) + close.size() - body.find(open));
        EXPECT_EQ(error_of(body).context, std::string(field) + ": missing");
    }
}

TEST(CapAlert, ShapesThatAreNoneAreLeftOut) {
    Cap t;
    t.infos =
        "<info><severity>Severe</severity><area>"
        "<polygon>35,139 36,139 35,139</polygon><polygon>35,139 36 36,140 35,139</polygon>"
        "<polygon>95,139 36,139 36,140 95,139</polygon><polygon/><polygon>x</polygon>"
        "<circle>35,139</circle><circle>35,139 -1</circle><circle>95,139 3</circle><circle/>"
        "<polygon>35,139 36,139 36,140 35,139</polygon><circle>35.5,139.5 "
        "12.5</circle></area></info>";
    const Alert alert = parsed(xml(t));
    ASSERT_EQ(alert.polygons.size(), 1u);
    EXPECT_EQ(alert.polygons[0].size(), 4u);
    ASSERT_EQ(alert.circles.size(), 1u);
    EXPECT_DOUBLE_EQ(alert.circles[0].centre.latitude, 35.5);
    EXPECT_DOUBLE_EQ(alert.circles[0].radius_km, 12.5);
}

std::string info(const std::string& inner, const std::string& code) {
    return "<info>" + inner + "<area><geocode><value>" + code + "</value></geocode></area></info>";
}

TEST(CapAlert, SeverestInfoCountsWithItsAreas) {
    Cap t;
    t.infos = info("<severity>Minor</severity>", "wide") +
              info("<severity>Extreme</severity>", "here") +
              info("<severity>Severe</severity>", "near");
    const Alert alert = parsed(xml(t));
    EXPECT_EQ(alert.severity, "Extreme");
    ASSERT_EQ(alert.areas.size(), 2u);
    EXPECT_EQ(alert.areas[0].code, "here");
    EXPECT_EQ(alert.areas[1].code, "near");
}

TEST(CapAlert, WhatIsOverIsPast) {
    for (const char* over : {"<urgency>Past</urgency>", "<certainty>Unlikely</certainty>",
                             "<responseType>AllClear</responseType>"}) {
        Cap t;
        t.infos = info(over + std::string("<severity>Extreme</severity>"), "a");
        EXPECT_EQ(parsed(xml(t)).urgency, "Past") << over;
        t.infos += info("<urgency>Immediate</urgency><severity>Moderate</severity>", "b");
        const Alert alert = parsed(xml(t));  // something else still holds
        EXPECT_EQ(alert.urgency, "Immediate");
        ASSERT_EQ(alert.areas.size(), 1u);
        EXPECT_EQ(alert.areas[0].code, "b");
    }
}

TEST(CapAlert, Expiry) {
    const auto expires = [](const std::string& value) {
        Cap t;
        t.infos = "<info><severity>Severe</severity><expires>" + value + "</expires></info>";
        return parsed(xml(t)).expires_unix_s;
    };
    EXPECT_EQ(expires("2020-02-20T15:55:58-00:00"), 1582214158);
    EXPECT_EQ(expires("2020-02-21T00:55:58+09:00"), 1582214158);
    EXPECT_EQ(expires("2020-02-20T10:25:58-05:30"), 1582214158);
    EXPECT_EQ(expires("2020-02-20T15:55:58Z"), 1582214158);
    for (const char* bad :
         {"", "soon", "2020-02-30T15:55:58Z", "2020-02-20T25:55:58Z", "2020-02-20T15:55:58",
          "1969-12-31T23:59:59Z", "2020-02-20T15:55:58+99:00", "2020-02-20"}) {
        EXPECT_FALSE(expires(bad)) << bad;
    }
    Cap t;
    t.infos =
        "<info><expires>2020-02-20T15:55:58Z</expires></info><info><expires>2020-02-20T16:55:58Z</"
        "expires></info>";
    EXPECT_EQ(parsed(xml(t)).expires_unix_s, 1582217758);
    t.infos += "<info/>";
    EXPECT_FALSE(parsed(xml(t)).expires_unix_s);
}

// --- JSON

TEST(JsonAlert, Full) {
    const Alert alert = parsed(full_json());
    EXPECT_EQ(alert.source, Source::json);
    EXPECT_EQ(alert.reality, Reality::actual);
    EXPECT_EQ(alert.kind, Kind::update);
    EXPECT_EQ(alert.event_id, "e1");
    EXPECT_EQ(alert.serial, 3u);
    EXPECT_EQ(alert.max_intensity, Intensity::six_upper);
    EXPECT_DOUBLE_EQ(alert.magnitude.value_or(0), 7.2);
    EXPECT_DOUBLE_EQ(alert.depth_km.value_or(0), 30);
    ASSERT_TRUE(alert.epicentre);
    EXPECT_DOUBLE_EQ(alert.epicentre->longitude, 139.5);
    ASSERT_EQ(alert.areas.size(), 1u);
    EXPECT_EQ(alert.areas[0].intensity, Intensity::five_lower);
    EXPECT_EQ(alert.telegram, "json/m1/3/update/actual");
}

TEST(JsonAlert, Least) {
    const Alert alert = parsed(
        " \n{\"version\":1,\"id\":\"m\",\"event\":\"e\",\"status\":\"test\",\"kind\":\"alert\"}\n");
    EXPECT_EQ(alert.reality, Reality::test);
    EXPECT_FALSE(alert.max_intensity || alert.magnitude || alert.epicentre || alert.depth_km);
}

TEST(JsonAlert, ByteOrderMarkIsSkipped) {
    EXPECT_EQ(parsed("\xef\xbb\xbf" + full_json()).event_id, "e1");
}

TEST(JsonAlert, Power) {
    for (const char* event :
         {"on_battery", "generator_failed", "utility_lost", "utility_restored"}) {
        const Alert alert = parsed(
            R"({"version":1,"id":"m","event":"ups","status":"actual","kind":"alert","power_event":")" +
            std::string(event) + "\"}");
        EXPECT_EQ(alert.source, Source::power);
        EXPECT_EQ(alert.power_event, event);
        EXPECT_EQ(alert.kind,
                  std::string(event) == "utility_restored" ? Kind::cancel : Kind::alert);
    }
}

TEST(JsonAlert, EveryBadFieldIsNamed) {
    const std::string long_text(257, 'x');
    struct Case {
        const char* path;
        nlohmann::json value;  // discarded = the field is left out
        const char* message;
    };
    const nlohmann::json out(nlohmann::json::value_t::discarded);
    const std::vector<Case> cases{
        {"/version", out, "version: accepted is 1 (missing)"},
        {"/version", 2, "version: accepted is a whole number from 1 to 1, not 2"},
        {"/version", "1", "version: accepted is a whole number from 1 to 1, not \"1\""},
        {"/id", out, "id: accepted is a text (missing)"},
        {"/id", "", "id: accepted is a text of 1 to 256 bytes"},
        {"/id", 7, "id: accepted is a text of 1 to 256 bytes"},
        {"/id", long_text, "id: accepted is a text of 1 to 256 bytes"},
        {"/id", "a\nb", "id: accepted is a text of 1 to 256 bytes without control characters"},
        {"/event", out, "event: accepted is a text (missing)"},
        {"/event", nlohmann::json::array(), "event: accepted is a text"},
        {"/status", out, "status: accepted is one of actual, exercise, test (missing)"},
        {"/status", "real", "status: accepted is one of actual, exercise, test, not \"real\""},
        {"/status", true, "status: accepted is a text"},
        {"/kind", out, "kind: accepted is one of alert, update, cancel (missing)"},
        {"/kind", "Alert", "kind: accepted is one of alert, update, cancel, not \"Alert\""},
        {"/title", 1, "title: accepted is a text"},
        {"/title", long_text, "title: accepted is a text"},
        {"/serial", -1, "serial: accepted is a whole number from 0 to 4294967295, not -1"},
        {"/serial", 1.5, "serial: accepted is a whole number from 0 to 4294967295, not 1.5"},
        {"/serial", 4294967296, "serial: accepted is a whole number from 0 to 4294967295"},
        {"/serial", "1", "serial: accepted is a whole number"},
        {"/max_intensity", "5",
         "max_intensity: accepted is one of 0 1 2 3 4 5- 5+ 6- 6+ 7, not \"5\""},
        {"/max_intensity", 7, "max_intensity: accepted is a text"},
        {"/magnitude", 10.1, "magnitude: accepted is a number from 0 to 10, not 10.1"},
        {"/magnitude", -0.1, "magnitude: accepted is a number from 0 to 10"},
        {"/magnitude", "7", "magnitude: accepted is a number from 0 to 10, not \"7\""},
        {"/magnitude", nlohmann::json::parse("[[7]]"),
         "magnitude: accepted is a number from 0 to 10, not [[7]]"},
        {"/depth_km", 801, "depth_km: accepted is a number from 0 to 800, not 801"},
        {"/latitude", 90.5, "latitude: accepted is a number from -90 to 90, not 90.5"},
        {"/latitude", out, "latitude: accepted is given together with longitude"},
        {"/longitude", -181, "longitude: accepted is a number from -180 to 180, not -181"},
        {"/longitude", out, "latitude: accepted is given together with longitude"},
        {"/areas", "440", "areas: accepted is a list"},
        {"/areas", nlohmann::json(std::vector<int>(4097)),
         "areas: accepted is a list of at most 4096 entries"},
        {"/areas/0", "440", "areas[0]: accepted is an object"},
        {"/areas/0/code", out, "areas[0].code: accepted is a text (missing)"},
        {"/areas/0/code", 440, "areas[0].code: accepted is a text"},
        {"/areas/0/intensity", out, "areas[0].intensity: accepted is one of"},
        {"/areas/0/intensity", "8",
         "areas[0].intensity: accepted is one of 0 1 2 3 4 5- 5+ 6- 6+ 7, not \"8\""},
        {"/areas/0/extra", 1, "areas[0].extra: unknown field"},
        {"/power_event", "blackout", "power_event: accepted is one of on_battery"},
        {"/power_event", 1, "power_event: accepted is a text"},
        {"/Magnitude", 7, "Magnitude: unknown field"},
    };
    for (const Case& c : cases) {
        auto body = nlohmann::json::parse(full_json());
        const nlohmann::json::json_pointer pointer(c.path);
        if (c.value.is_discarded()) {
            body[pointer.parent_pointer()].erase(pointer.back());
        } else {
            body[pointer] = c.value;
        }
        const Error error = error_of(body.dump());
        EXPECT_EQ(error.code, Errc::invalid_argument) << c.path;
        EXPECT_TRUE(says(error.context, c.message)) << c.path << ": " << error.context;
        EXPECT_LT(error.context.size(), 200u) << c.path;
    }
}

TEST(JsonAlert, FieldGivenTwiceIsRefused) {
    const std::string twice =
        R"({"version":1,"id":"m","event":"e","status":"test","kind":"alert","status":"actual"})";
    EXPECT_EQ(error_of(twice).context, "status: given twice");
    EXPECT_TRUE(
        says(error_of(R"({"areas":[{"code":"1","code":"2"}]})").context, "code: given twice"));
}

TEST(JsonAlert, HugeValuesAreNotEchoed) {
    auto body = nlohmann::json::parse(full_json());
    body["magnitude"] = std::string(500'000, 'x');
    EXPECT_LT(error_of(body.dump()).context.size(), 200u);
    body = nlohmann::json::parse(full_json());
    body[std::string(500'000, 'x')] = 1;
    EXPECT_LT(error_of(body.dump()).context.size(), 200u);
}

TEST(JsonAlert, BracketsInTextsDoNotHideDepth) {
    // Copying or printing such a value recurses: a stack overflow if it got that far.
    const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
    for (const std::string& title :
         {std::string(), std::string(200'000, '}'), std::string("\\\"]]]]\\\\")}) {
        EXPECT_TRUE(
            says(error_of("{\"title\":\"" + title + "\",\"magnitude\":" + deep + "}").context,
                 "16 levels"));
    }
    auto body = nlohmann::json::parse(full_json());
    body["title"] = std::string(100, '[') + "\"" + std::string(100, '{');
    EXPECT_EQ(parsed(body.dump()).event_id, "e1");
}

TEST(JsonAlert, WhatIsNoJson) {
    const std::string good = full_json();
    for (size_t size = 1; size < good.size(); ++size)
        EXPECT_EQ(error_of(good.substr(0, size)).code, Errc::corrupt);
    for (const char* bad :
         {"{\"magnitude\":1e999}", "{\"a\":NaN}", "{'a':1}", "{} {}", "{\"a\":\"\\ud800\"}"}) {
        EXPECT_EQ(error_of(bad).code, Errc::corrupt) << bad;
    }
}

}  // namespace
}  // namespace evac::alert
