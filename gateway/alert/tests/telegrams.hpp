#pragma once
// Minimal telegrams for the tests, in the shape of the real ones.
#include <gtest/gtest.h>

#include <string>

#include "evac/alert/alert.hpp"

namespace evac::alert::telegrams {

struct Jma {
    std::string title = "緊急地震速報（警報）", status = "通常", info_type = "発表", serial = "1";
    std::string event = "20300101000000";
    std::string condition;  // of the earthquake
    std::string coordinate = "+35.1+139.2-20000/";
    std::string magnitude = "7.1";
    std::string from = "5+", to = "6-";  // greatest
    std::string areas;                   // area() after area()
    bool body = true;                    // a cancel has neither Earthquake nor Intensity
};

inline std::string area(const std::string& code, const std::string& from, const std::string& to) {
    return "<Pref><Name>p</Name><Code>9000</Code><Area><Name>a</Name><Code>" + code +
           "</Code><Category><Kind><Code>10</Code></Kind></Category><ForecastInt><From>" + from +
           "</From><To>" + to + "</To></ForecastInt></Area></Pref>";
}

inline std::string xml(const Jma& t) {
    std::string out =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Report "
        "xmlns=\"http://xml.kishou.go.jp/jmaxml1/\"><Control><Title>" +
        t.title + "</Title><DateTime>2030-01-01T00:00:00Z</DateTime><Status>" + t.status +
        "</Status></Control><Head "
        "xmlns=\"http://xml.kishou.go.jp/jmaxml1/informationBasis1/\"><Title>other</Title>"
        "<EventID>" +
        t.event + "</EventID><InfoType>" + t.info_type + "</InfoType><Serial>" + t.serial +
        "</Serial></Head><Body xmlns=\"http://xml.kishou.go.jp/jmaxml1/body/seismology1/\" "
        "xmlns:jmx_eb=\"http://xml.kishou.go.jp/jmaxml1/elementBasis1/\">";
    if (t.body) {
        out += "<Earthquake><Condition>" + t.condition +
               "</Condition><Hypocenter><Area><Name>n</Name><Code>1</Code>" +
               "<jmx_eb:Coordinate>" + t.coordinate + "</jmx_eb:Coordinate></Area></Hypocenter>" +
               "<jmx_eb:Magnitude type=\"Mj\">" + t.magnitude + "</jmx_eb:Magnitude></Earthquake>" +
               "<Intensity><Forecast><ForecastInt><From>" + t.from + "</From><To>" + t.to +
               "</To></ForecastInt>" + t.areas + "</Forecast></Intensity>";
    }
    return out + "</Body></Report>";
}

struct Cap {
    std::string status = "Actual", type = "Alert", identifier = "a1",
                sent = "2030-01-01T00:00:00+00:00";
    std::string references;
    std::string infos =
        "<info><event>quake</event><urgency>Immediate</urgency><severity>Severe</severity>"
        "<certainty>Likely</certainty><area><areaDesc>box</areaDesc>"
        "<polygon>35,139 36,139 36,140 35,140 35,139</polygon>"
        "<geocode><valueName>n</valueName><value>5909</value></geocode></area></info>";
};

inline std::string xml(const Cap& t) {
    return "<alert xmlns=\"urn:oasis:names:tc:emergency:cap:1.2\"><identifier>" + t.identifier +
           "</identifier><sender>s@example.org</sender><sent>" + t.sent + "</sent><status>" +
           t.status + "</status><msgType>" + t.type + "</msgType><scope>Public</scope>" +
           (t.references.empty() ? "" : "<references>" + t.references + "</references>") + t.infos +
           "</alert>";
}

// "sender,identifier,sent" of another message of this sender.
inline std::string reference(const std::string& identifier) {
    return "s@example.org," + identifier + ",2030-01-01T00:00:00+00:00";
}

inline Cap cap(const std::string& identifier, const std::string& type,
               const std::string& references) {
    Cap t;
    t.identifier = identifier;
    t.type = type;
    t.references = references;
    return t;
}

inline std::string full_json() {
    return R"({"version":1,"id":"m1","event":"e1","status":"actual","kind":"update",
        "title":"big [quake] \"}{","serial":3,"max_intensity":"6+","magnitude":7.2,"depth_km":30,
        "latitude":35.5,"longitude":139.5,"areas":[{"code":"440","intensity":"5-"}]})";
}

inline Alert parsed(const std::string& body) {
    auto alert = parse_alert("", body);
    EXPECT_TRUE(alert.ok()) << alert.error().message() << "\n" << body.substr(0, 2000);
    return alert.ok() ? *alert : Alert{};
}

inline Error error_of(const std::string& body) {
    const auto alert = parse_alert("application/json", body);
    EXPECT_FALSE(alert.ok()) << body.substr(0, 2000);
    return alert.ok() ? Error{} : alert.error();
}

inline bool says(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

inline Alert parsed(const Jma& telegram) {
    return parsed(xml(telegram));
}
inline Alert parsed(const Cap& telegram) {
    return parsed(xml(telegram));
}

}  // namespace evac::alert::telegrams
