#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "evac/alert/alert.hpp"
#include "telegrams.hpp"

namespace evac::alert {
namespace {

using telegrams::area;
using telegrams::Cap;
using telegrams::Jma;
using telegrams::reference;

Alert parsed(const std::string& body) {
    auto alert = parse_alert("", body);
    EXPECT_TRUE(alert.ok()) << alert.error().message() << "\n" << body.substr(0, 2000);
    return alert.ok() ? *alert : Alert{};
}

Error error_of(const std::string& body) {
    const auto alert = parse_alert("application/json", body);
    EXPECT_FALSE(alert.ok()) << body.substr(0, 2000);
    return alert.ok() ? Error{} : alert.error();
}

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// --- JMA

TEST(Jma, WarningWithAreas) {
    Jma t;
    t.areas = area("440", "5-", "5+") + area("441", "4", "4");
    const Alert alert = parsed(xml(t));
    EXPECT_EQ(alert.source, Source::jma);
    EXPECT_EQ(alert.type, "VXSE43");
    EXPECT_EQ(alert.reality, Reality::actual);
    EXPECT_EQ(alert.kind, Kind::alert);
    EXPECT_EQ(alert.title, "緊急地震速報（警報）");
    EXPECT_EQ(alert.event_id, "20300101000000");
    EXPECT_EQ(alert.serial, 1u);
    ASSERT_TRUE(alert.epicentre);
    EXPECT_DOUBLE_EQ(alert.epicentre->latitude, 35.1);
    EXPECT_DOUBLE_EQ(alert.epicentre->longitude, 139.2);
    EXPECT_DOUBLE_EQ(alert.depth_km.value_or(-1), 20);  // ISO 6709 gives metres
    EXPECT_DOUBLE_EQ(alert.magnitude.value_or(-1), 7.1);
    EXPECT_FALSE(alert.assumed_hypocentre);
    EXPECT_EQ(alert.max_intensity, Intensity::six_lower);
    ASSERT_EQ(alert.areas.size(), 2u);
    EXPECT_EQ(alert.areas[0].code, "440");
    EXPECT_EQ(alert.areas[0].intensity, Intensity::five_upper);
    EXPECT_EQ(alert.areas[1].intensity, Intensity::four);
}

TEST(Jma, TypesFromTitles) {
    for (const auto& [title, type] : {std::pair{"緊急地震速報（警報）", "VXSE43"}, {"緊急地震速報（予報）", "VXSE44"},
                                      {"緊急地震速報（地震動予報）", "VXSE45"}, {"緊急地震速報配信テスト", "VXSE42"}}) {
        Jma t;
        t.title = title;
        EXPECT_EQ(parsed(xml(t)).type, type);
    }
    for (const char* other : {"震度速報", "津波警報・注意報・予報", "緊急地震速報", "", "緊急地震速報（その他）"}) {
        Jma t;
        t.title = other;
        const Error error = error_of(xml(t));
        EXPECT_EQ(error.code, Errc::invalid_argument);
        EXPECT_TRUE(says(error.context, "Control/Title")) << error.context;
        EXPECT_TRUE(says(error.context, other)) << error.context;
    }
}

TEST(Jma, OverAndUnknown) {
    Jma t;
    t.from = "6-";
    t.to = "over";
    t.areas = area("1", "5-", "over") + area("2", "不明", "不明") + area("3", "4", "不明") + area("4", "0", "1") +
              area("5", "5弱", "5強");
    const Alert alert = parsed(xml(t));
    EXPECT_EQ(alert.max_intensity, Intensity::six_lower);
    ASSERT_EQ(alert.areas.size(), 3u);  // unknown is left out, not taken for 0
    EXPECT_EQ(alert.areas[0].intensity, Intensity::five_lower);
    EXPECT_EQ(alert.areas[1].code, "3");
    EXPECT_EQ(alert.areas[1].intensity, Intensity::four);
    EXPECT_EQ(alert.areas[2].intensity, Intensity::one);
    t.from = t.to = "不明";
    EXPECT_FALSE(parsed(xml(t)).max_intensity);
}

TEST(Jma, CancelHasNoEarthquake) {
    Jma t;
    t.info_type = "取消";
    t.serial = "17";
    t.body = false;
    const Alert alert = parsed(xml(t));
    EXPECT_EQ(alert.kind, Kind::cancel);
    EXPECT_EQ(alert.serial, 17u);
    EXPECT_FALSE(alert.epicentre || alert.magnitude || alert.max_intensity || alert.depth_km);
    EXPECT_TRUE(alert.areas.empty());
}

TEST(Jma, InfoTypes) {
    Jma t;
    t.serial = "2";
    EXPECT_EQ(parsed(xml(t)).kind, Kind::update);
    t.info_type = "訂正";
    EXPECT_EQ(parsed(xml(t)).kind, Kind::update);
    t.serial = "1";
    EXPECT_EQ(parsed(xml(t)).kind, Kind::update);
    t.info_type = "遅延";
    EXPECT_TRUE(says(error_of(xml(t)).context, "Head/InfoType: \"遅延\""));
    t.info_type = "";
    EXPECT_TRUE(says(error_of(xml(t)).context, "Head/InfoType"));
}

TEST(Jma, StatusDecidesReality) {
    Jma t;
    t.status = "訓練";
    EXPECT_EQ(parsed(xml(t)).reality, Reality::exercise);
    for (const char* status : {"試験", "", "通常 だった", "Actual"}) {
        t.status = status;
        EXPECT_EQ(parsed(xml(t)).reality, Reality::test) << status;
    }
}

TEST(Jma, TestTelegramIsATestWhateverItsStatus) {
    Jma t;
    t.title = "緊急地震速報配信テスト";
    t.body = false;
    for (const char* status : {"試験", "通常"}) {
        t.status = status;
        EXPECT_EQ(parsed(xml(t)).reality, Reality::test);
    }
}

TEST(Jma, AssumedHypocentre) {
    Jma t;
    t.condition = "仮定震源要素";
    t.magnitude = "1.0";
    t.coordinate = "+35.1+139.2-10000/";
    EXPECT_TRUE(parsed(xml(t)).assumed_hypocentre);
}

TEST(Jma, TelegramKeyTellsApartWhatIsDifferent) {
    const Jma base;
    std::set<std::string> keys{parsed(xml(base)).telegram};
    auto differs = [&keys](const Jma& t) { return keys.insert(parsed(xml(t)).telegram).second; };
    Jma t = base;
    t.magnitude = "7.2";
    EXPECT_FALSE(differs(t));  // the same telegram by its head
    t = base, t.title = "緊急地震速報（地震動予報）";
    EXPECT_TRUE(differs(t));
    t = base, t.event = "20300101000001";
    EXPECT_TRUE(differs(t));
    t = base, t.serial = "2";
    EXPECT_TRUE(differs(t));
    t = base, t.info_type = "取消";
    EXPECT_TRUE(differs(t));
    t = base, t.status = "訓練";
    EXPECT_TRUE(differs(t));
}

TEST(Jma, Coordinates) {
    struct Case {
        const char* text;
        bool located;
        double latitude, longitude, depth_km;  // -1: none
    };
    for (const Case& c : {Case{"+33.2+132.4-50000/", true, 33.2, 132.4, 50}, {"-33.2-132.4-0/", true, -33.2, -132.4, 0},
                          {"+33.2+132.4/", true, 33.2, 132.4, -1}, {"+33.2+132.4", true, 33.2, 132.4, -1},
                          {"\n +33.2+132.4-10000/ \n", true, 33.2, 132.4, 10},
                          {"+33.2+132.4-9999999/", true, 33.2, 132.4, -1},  // 10,000 km deep: not believed
                          {"+91+132.4-50000/", false, 0, 0, -1}, {"+33.2+181-50000/", false, 0, 0, -1},
                          {"+33.2/", false, 0, 0, -1}, {"++/", false, 0, 0, -1}, {"/", false, 0, 0, -1},
                          {"", false, 0, 0, -1}, {"+nan+inf-1/", false, 0, 0, -1}, {"north", false, 0, 0, -1},
                          {"+1e999+1-1/", false, 0, 0, -1}}) {
        Jma t;
        t.coordinate = c.text;
        const Alert alert = parsed(xml(t));
        ASSERT_EQ(alert.epicentre.has_value(), c.located) << c.text;
        if (!c.located) continue;
        EXPECT_DOUBLE_EQ(alert.epicentre->latitude, c.latitude) << c.text;
        EXPECT_DOUBLE_EQ(alert.epicentre->longitude, c.longitude) << c.text;
        EXPECT_DOUBLE_EQ(alert.depth_km.value_or(-1), c.depth_km) << c.text;
    }
}

TEST(Jma, UnknownMagnitude) {
    for (const char* magnitude : {"NaN", "", "inf", "1e300", "-99", "seven", "7.1x"}) {
        Jma t;
        t.magnitude = magnitude;
        EXPECT_FALSE(parsed(xml(t)).magnitude) << magnitude;
    }
}

TEST(Jma, EventIdIsNeeded) {
    Jma t;
    t.event = "  ";
    EXPECT_TRUE(says(error_of(xml(t)).context, "Head/EventID"));
}

TEST(Jma, NamespacePrefixesDoNotMatter) {
    const std::string body =
        "<j:Report xmlns:j=\"a\"><j:Control><j:Title>緊急地震速報（予報）</j:Title><j:Status>通常</j:Status></j:Control>"
        "<h:Head xmlns:h=\"b\"><h:EventID>e</h:EventID><h:InfoType>発表</h:InfoType><h:Serial>3</h:Serial></h:Head>"
        "<Body><Earthquake><Magnitude>5.0</Magnitude></Earthquake></Body></j:Report>";
    const Alert alert = parsed(body);
    EXPECT_EQ(alert.event_id, "e");
    EXPECT_EQ(alert.serial, 3u);
    EXPECT_DOUBLE_EQ(alert.magnitude.value_or(0), 5);
}

TEST(Jma, SerialsThatAreNoneCountAsNone) {
    for (const char* serial : {"", "-1", "x", "1e300", "99999999999"}) {
        Jma t;
        t.serial = serial;
        EXPECT_EQ(parsed(xml(t)).serial, 0u) << serial;
    }
}

TEST(Jma, TextsAreOneBoundedLine) {
    Jma t;
    t.event = "a\nb\tc\x01" + std::string(10'000, 'x');
    const Alert alert = parsed(xml(t));
    EXPECT_EQ(alert.event_id.substr(0, 7), "a b c x");
    EXPECT_EQ(alert.event_id.size(), 512u);
    t.event.clear();
    for (int i = 0; i < 1000; ++i) t.event += "震";  // three bytes each: 512 is no multiple
    EXPECT_EQ(parsed(xml(t)).event_id.size(), 510u);
}

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
    for (const auto& [status, reality] :
         {std::pair{"Exercise", Reality::exercise}, {"Test", Reality::test}, {"System", Reality::test},
          {"Draft", Reality::test}, {"Actual", Reality::actual}}) {
        Cap t;
        t.status = status;
        EXPECT_EQ(parsed(xml(t)).reality, reality);
    }
    for (const char* status : {"", "actual", "Real"}) {
        Cap t;
        t.status = status;
        EXPECT_TRUE(says(error_of(xml(t)).context, "status: \"" + std::string(status) + "\"; Actual"));
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
        EXPECT_EQ(alert.references, (std::vector<std::string>{"s@example.org/a1", "s@example.org/a2"}));
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
        EXPECT_TRUE(says(error_of(xml(t)).context, "msgType: \"" + std::string(type) + "\"; Alert"));
    }
}

TEST(CapAlert, MissingFieldsAreNamed) {
    for (const char* field : {"identifier", "sender", "sent"}) {
        std::string body = xml(Cap{});
        const std::string open = "<" + std::string(field) + ">", close = "</" + std::string(field) + ">";
        body.erase(body.find(open), body.find(close) + close.size() - body.find(open));
        EXPECT_EQ(error_of(body).context, std::string(field) + ": missing");
    }
}

TEST(CapAlert, ShapesThatAreNoneAreLeftOut) {
    Cap t;
    t.infos = "<info><severity>Severe</severity><area>"
              "<polygon>35,139 36,139 35,139</polygon><polygon>35,139 36 36,140 35,139</polygon>"
              "<polygon>95,139 36,139 36,140 95,139</polygon><polygon/><polygon>x</polygon>"
              "<circle>35,139</circle><circle>35,139 -1</circle><circle>95,139 3</circle><circle/>"
              "<polygon>35,139 36,139 36,140 35,139</polygon><circle>35.5,139.5 12.5</circle></area></info>";
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
    t.infos = info("<severity>Minor</severity>", "wide") + info("<severity>Extreme</severity>", "here") +
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
    for (const char* bad : {"", "soon", "2020-02-30T15:55:58Z", "2020-02-20T25:55:58Z", "2020-02-20T15:55:58",
                            "1969-12-31T23:59:59Z", "2020-02-20T15:55:58+99:00", "2020-02-20"}) {
        EXPECT_FALSE(expires(bad)) << bad;
    }
    Cap t;
    t.infos = "<info><expires>2020-02-20T15:55:58Z</expires></info><info><expires>2020-02-20T16:55:58Z</expires></info>";
    EXPECT_EQ(parsed(xml(t)).expires_unix_s, 1582217758);
    t.infos += "<info/>";
    EXPECT_FALSE(parsed(xml(t)).expires_unix_s);
}

// --- JSON

nlohmann::json full() {
    return nlohmann::json::parse(R"({"version":1,"id":"m1","event":"e1","status":"actual","kind":"update",
        "title":"big [quake] \"}{","serial":3,"max_intensity":"6+","magnitude":7.2,"depth_km":30,
        "latitude":35.5,"longitude":139.5,"areas":[{"code":"440","intensity":"5-"}]})");
}

TEST(JsonAlert, Full) {
    const Alert alert = parsed(full().dump());
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
    const Alert alert = parsed(" \n{\"version\":1,\"id\":\"m\",\"event\":\"e\",\"status\":\"test\",\"kind\":\"alert\"}\n");
    EXPECT_EQ(alert.reality, Reality::test);
    EXPECT_FALSE(alert.max_intensity || alert.magnitude || alert.epicentre || alert.depth_km);
}

TEST(JsonAlert, ByteOrderMarkIsSkipped) { EXPECT_EQ(parsed("\xef\xbb\xbf" + full().dump()).event_id, "e1"); }

TEST(JsonAlert, Power) {
    for (const char* event : {"on_battery", "generator_failed", "utility_lost", "utility_restored"}) {
        const Alert alert = parsed(R"({"version":1,"id":"m","event":"ups","status":"actual","kind":"alert","power_event":")" +
                                   std::string(event) + "\"}");
        EXPECT_EQ(alert.source, Source::power);
        EXPECT_EQ(alert.power_event, event);
        EXPECT_EQ(alert.kind, std::string(event) == "utility_restored" ? Kind::cancel : Kind::alert);
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
        {"/max_intensity", "5", "max_intensity: accepted is one of 0 1 2 3 4 5- 5+ 6- 6+ 7, not \"5\""},
        {"/max_intensity", 7, "max_intensity: accepted is a text"},
        {"/magnitude", 10.1, "magnitude: accepted is a number from 0 to 10, not 10.1"},
        {"/magnitude", -0.1, "magnitude: accepted is a number from 0 to 10"},
        {"/magnitude", "7", "magnitude: accepted is a number from 0 to 10, not \"7\""},
        {"/magnitude", nlohmann::json::parse("[[7]]"), "magnitude: accepted is a number from 0 to 10, not [[7]]"},
        {"/depth_km", 801, "depth_km: accepted is a number from 0 to 800, not 801"},
        {"/latitude", 90.5, "latitude: accepted is a number from -90 to 90, not 90.5"},
        {"/latitude", out, "latitude: accepted is given together with longitude"},
        {"/longitude", -181, "longitude: accepted is a number from -180 to 180, not -181"},
        {"/longitude", out, "latitude: accepted is given together with longitude"},
        {"/areas", "440", "areas: accepted is a list"},
        {"/areas", nlohmann::json(std::vector<int>(4097)), "areas: accepted is a list of at most 4096 entries"},
        {"/areas/0", "440", "areas[0]: accepted is an object"},
        {"/areas/0/code", out, "areas[0].code: accepted is a text (missing)"},
        {"/areas/0/code", 440, "areas[0].code: accepted is a text"},
        {"/areas/0/intensity", out, "areas[0].intensity: accepted is one of"},
        {"/areas/0/intensity", "8", "areas[0].intensity: accepted is one of 0 1 2 3 4 5- 5+ 6- 6+ 7, not \"8\""},
        {"/areas/0/extra", 1, "areas[0].extra: unknown field"},
        {"/power_event", "blackout", "power_event: accepted is one of on_battery"},
        {"/power_event", 1, "power_event: accepted is a text"},
        {"/Magnitude", 7, "Magnitude: unknown field"},
    };
    for (const Case& c : cases) {
        nlohmann::json body = full();
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
    EXPECT_TRUE(says(error_of(R"({"areas":[{"code":"1","code":"2"}]})").context, "code: given twice"));
}

TEST(JsonAlert, HugeValuesAreNotEchoed) {
    auto body = full();
    body["magnitude"] = std::string(500'000, 'x');
    EXPECT_LT(error_of(body.dump()).context.size(), 200u);
    body = full();
    body[std::string(500'000, 'x')] = 1;
    EXPECT_LT(error_of(body.dump()).context.size(), 200u);
}

TEST(JsonAlert, BracketsInTextsDoNotHideDepth) {
    // Copying or printing such a value recurses: a stack overflow if it got that far.
    const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
    for (const std::string title : {std::string(), std::string(200'000, '}'), std::string("\\\"]]]]\\\\")}) {
        EXPECT_TRUE(says(error_of("{\"title\":\"" + title + "\",\"magnitude\":" + deep + "}").context, "16 levels"));
    }
    auto body = full();
    body["title"] = std::string(100, '[') + "\"" + std::string(100, '{');
    EXPECT_EQ(parsed(body.dump()).event_id, "e1");
}

TEST(JsonAlert, WhatIsNoJson) {
    const std::string good = full().dump();
    for (size_t size = 1; size < good.size(); ++size) EXPECT_EQ(error_of(good.substr(0, size)).code, Errc::corrupt);
    for (const char* bad : {"{\"magnitude\":1e999}", "{\"a\":NaN}", "{'a':1}", "{} {}", "{\"a\":\"\\ud800\"}"}) {
        EXPECT_EQ(error_of(bad).code, Errc::corrupt) << bad;
    }
}

// --- any format

TEST(Parse, WhatIsNoAlert) {
    for (const char* bad : {"", " \r\n\t", "hello", "[1]", "\"x\"", "42"}) EXPECT_EQ(error_of(bad).code, Errc::corrupt) << bad;
    EXPECT_TRUE(says(error_of("<html/>").context, "root element \"html\"; Report (JMA) and alert (CAP 1.2)"));
}

TEST(Parse, SizeLimit) {
    std::string body = full().dump();
    body += std::string(kBodyBytesMax - body.size(), ' ');
    EXPECT_EQ(parsed(body).event_id, "e1");
    EXPECT_TRUE(says(error_of(body + " ").context, "1 MiB"));
}

TEST(Parse, TruncatedXml) {
    for (const std::string& good : {xml(Jma{}), xml(Cap{})}) {
        for (size_t size = 1; size < good.size(); ++size) EXPECT_FALSE(parse_alert("", good.substr(0, size)).ok()) << size;
    }
}

TEST(Parse, DocumentTypesAreRefused) {
    for (const char* dtd : {"<!DOCTYPE alert [<!ENTITY a \"aaaa\">]>", "<!DOCTYPE alert SYSTEM \"file:///etc/passwd\">"}) {
        const Error error = error_of(dtd + xml(Cap{}));
        EXPECT_EQ(error.code, Errc::invalid_argument);
        EXPECT_TRUE(says(error.context, "document type"));
    }
    EXPECT_FALSE(parse_alert("", "<!doctype alert>" + xml(Cap{})).ok());
    // Entities are not expanded, whoever declares them.
    Cap t;
    t.identifier = "&x;";
    EXPECT_EQ(parsed(xml(t)).message, "s@example.org/&x;");
}

TEST(Parse, DeepXmlIsRefused) {
    const auto nested = [](const std::string& open, size_t n) {
        std::string body = "<alert>";
        for (size_t i = 0; i < n; ++i) body += open;
        for (size_t i = 0; i < n; ++i) body += "</a>";
        return body + "</alert>";
    };
    EXPECT_TRUE(says(error_of(nested("<a>", 64)).context, "sender"));
    EXPECT_TRUE(says(error_of(nested("<a>", 65)).context, "64 levels"));
    EXPECT_TRUE(says(error_of(nested("<a b=\"/>\">", 50'000)).context, "64 levels"));  // looks closed, is not
    EXPECT_TRUE(says(error_of(nested("<a>", 140'000)).context, "64 levels"));
    Cap wide;
    for (int i = 0; i < 1000; ++i) wide.infos += "<a/><b><c/></b><!-- <d> -->";
    EXPECT_EQ(parsed(xml(wide)).severity, "Severe");
}

TEST(Parse, UnclosedTagsCostNoTime) {
    std::string body;  // quadratic in a scanner that looks for the end of each
    while (body.size() < kBodyBytesMax - 2) body += "<a";
    EXPECT_EQ(error_of(body).code, Errc::corrupt);
}

TEST(Parse, NotUtf8) {
    const std::string good = xml(Jma{});
    for (const std::string bad : {"\xff", "\x80", "\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                  "\xf8\x88\x80\x80\x80", "\x8b\xd9\x8b\x7d" /* Shift_JIS */}) {
        Jma t;
        t.event = bad;
        const Error error = error_of(xml(t));
        EXPECT_EQ(error.code, Errc::corrupt);
        EXPECT_TRUE(says(error.context, "is not UTF-8")) << error.context;
        EXPECT_EQ(error_of("{\"id\":\"" + bad + "\"}").code, Errc::corrupt);
    }
    for (const char* fine : {"\xf0\x9f\x8f\x94", "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf", "\xdf\xbf"}) {
        Jma t;
        t.event = fine;
        EXPECT_EQ(parsed(xml(t)).event_id, fine);
    }
    std::string utf16;
    for (const char c : std::string("<alert/>")) utf16 += std::string(1, c) + std::string(1, '\0');
    EXPECT_FALSE(parse_alert("", "\xff\xfe" + utf16).ok());
}

TEST(Names, RoundTrip) {
    for (const char* name : {"0", "1", "2", "3", "4", "5-", "5+", "6-", "6+", "7"}) {
        const auto intensity = intensity_from(name);
        ASSERT_TRUE(intensity) << name;
        EXPECT_STREQ(to_string(*intensity), name);
    }
    for (const char* name : {"", "none", "5", "5弱", "8", "over", "不明"}) EXPECT_FALSE(intensity_from(name)) << name;
}

}  // namespace
}  // namespace evac::alert
