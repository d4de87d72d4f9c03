#include <gtest/gtest.h>

#include <set>

#include "evac/alert/alert.hpp"
#include "telegrams.hpp"

namespace evac::alert {
namespace {

using namespace telegrams;

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
    for (const auto& [title, type] : {std::pair{"緊急地震速報（警報）", "VXSE43"},
                                      {"緊急地震速報（予報）", "VXSE44"},
                                      {"緊急地震速報（地震動予報）", "VXSE45"},
                                      {"緊急地震速報配信テスト", "VXSE42"}}) {
        Jma t;
        t.title = title;
        EXPECT_EQ(parsed(xml(t)).type, type);
    }
    for (const char* other :
         {"震度速報", "津波警報・注意報・予報", "緊急地震速報", "", "緊急地震速報（その他）"}) {
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
    t.areas = area("1", "5-", "over") + area("2", "不明", "不明") + area("3", "4", "不明") +
              area("4", "0", "1") + area("5", "5弱", "5強");
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
    for (const Case& c :
         {Case{"+33.2+132.4-50000/", true, 33.2, 132.4, 50},
          {"-33.2-132.4-0/", true, -33.2, -132.4, 0},
          {"+33.2+132.4/", true, 33.2, 132.4, -1},
          {"+33.2+132.4", true, 33.2, 132.4, -1},
          {"\n +33.2+132.4-10000/ \n", true, 33.2, 132.4, 10},
          {"+33.2+132.4-9999999/", true, 33.2, 132.4, -1},  // 10,000 km deep: not believed
          {"+91+132.4-50000/", false, 0, 0, -1},
          {"+33.2+181-50000/", false, 0, 0, -1},
          {"+33.2/", false, 0, 0, -1},
          {"++/", false, 0, 0, -1},
          {"/", false, 0, 0, -1},
          {"", false, 0, 0, -1},
          {"+nan+inf-1/", false, 0, 0, -1},
          {"north", false, 0, 0, -1},
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
        "<j:Report "
        "xmlns:j=\"a\"><j:Control><j:Title>緊急地震速報（予報）</j:Title><j:Status>通常</"
        "j:Status></j:Control>"
        "<h:Head "
        "xmlns:h=\"b\"><h:EventID>e</h:EventID><h:InfoType>発表</h:InfoType><h:Serial>3</"
        "h:Serial></h:Head>"
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

// --- any format

TEST(Parse, WhatIsNoAlert) {
    for (const char* bad : {"", " \r\n\t", "hello", "[1]", "\"x\"", "42"})
        EXPECT_EQ(error_of(bad).code, Errc::corrupt) << bad;
    EXPECT_TRUE(says(error_of("<html/>").context,
                     "root element \"html\"; Report (JMA) and alert (CAP 1.2)"));
}

TEST(Parse, SizeLimit) {
    std::string body = full_json();
    body += std::string(kBodyBytesMax - body.size(), ' ');
    EXPECT_EQ(parsed(body).event_id, "e1");
    EXPECT_TRUE(says(error_of(body + " ").context, "1 MiB"));
}

TEST(Parse, TruncatedXml) {
    for (const std::string& good : {xml(Jma{}), xml(Cap{})}) {
        for (size_t size = 1; size < good.size(); ++size)
            EXPECT_FALSE(parse_alert("", good.substr(0, size)).ok()) << size;
    }
}

TEST(Parse, DocumentTypesAreRefused) {
    for (const char* dtd : {"<!DOCTYPE alert [<!ENTITY a \"aaaa\">]>",
                            "<!DOCTYPE alert SYSTEM \"file:///etc/passwd\">"}) {
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
    EXPECT_TRUE(says(error_of(nested("<a b=\"/>\">", 50'000)).context,
                     "64 levels"));  // looks closed, is not
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
    for (const std::string bad :
         {"\xff", "\x80", "\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
          "\xf8\x88\x80\x80\x80", "\x8b\xd9\x8b\x7d" /* Shift_JIS */}) {
        Jma t;
        t.event = bad;
        const Error error = error_of(xml(t));
        EXPECT_EQ(error.code, Errc::corrupt);
        EXPECT_TRUE(says(error.context, "is not UTF-8")) << error.context;
        EXPECT_EQ(error_of("{\"id\":\"" + bad + "\"}").code, Errc::corrupt);
    }
    for (const char* fine :
         {"\xf0\x9f\x8f\x94", "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf", "\xdf\xbf"}) {
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
    for (const char* name : {"", "none", "5", "5弱", "8", "over", "不明"})
        EXPECT_FALSE(intensity_from(name)) << name;
}

}  // namespace
}  // namespace evac::alert
