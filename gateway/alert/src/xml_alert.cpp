// JMA disaster-information XML (VXSE43, VXSE44, VXSE45) and OASIS CAP 1.2.
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <pugixml.hpp>
#include <sstream>

#include "formats.hpp"

namespace evac::alert {
namespace {

constexpr size_t kTextMax = 512;
constexpr size_t kReferencesBytesMax = 16 * 1024;
constexpr size_t kShapesMax = 4096;  // polygons, and circles; the body's size bounds their points
constexpr int kDepthMax = 64;

std::string_view local_name(const pugi::xml_node& node) {
    const std::string_view name = node.name();
    const size_t colon = name.rfind(':');
    return colon == std::string_view::npos ? name : name.substr(colon + 1);
}

// The first child of that name, whatever its namespace prefix.
pugi::xml_node child(const pugi::xml_node& node, std::string_view name) {
    for (const auto& c : node.children()) {
        if (local_name(c) == name) return c;
    }
    return {};
}

template <class... Names>
pugi::xml_node child(const pugi::xml_node& node, std::string_view first, Names... rest) {
    return child(child(node, first), rest...);
}

// Trimmed, bounded and on one line: it ends up in logs and messages.
std::string text(const pugi::xml_node& node, size_t bytes_max = kTextMax) {
    const std::string_view value = node.child_value();
    const size_t begin = value.find_first_not_of(" \t\r\n");
    if (begin == std::string_view::npos) return {};
    std::string out =
        clipped(value.substr(begin, value.find_last_not_of(" \t\r\n") - begin + 1), bytes_max);
    for (char& c : out) {
        if (has_control_characters({&c, 1})) c = ' ';
    }
    return out;
}

std::optional<double> number(std::string_view value) {
    if (!value.empty() && value.front() == '+') value.remove_prefix(1);
    double out = 0;
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), out);
    if (value.empty() || parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() ||
        !std::isfinite(out)) {
        return std::nullopt;
    }
    return out;
}

// ISO 6709: +33.2+132.4-50000/ (depth in metres, below sea level negative).
void read_coordinate(const std::string& value, Alert& alert) {
    std::vector<double> parts;
    size_t begin = 0;
    for (size_t i = 1; i <= value.size() && parts.size() < 3; ++i) {
        const bool ends =
            i == value.size() || value[i] == '+' || value[i] == '-' || value[i] == '/';
        if (!ends) continue;
        const auto part = number(std::string_view(value).substr(begin, i - begin));
        if (!part) return;
        parts.push_back(*part);
        begin = i;
        if (i < value.size() && value[i] == '/') break;
    }
    if (parts.size() < 2 || std::abs(parts[0]) > 90 || std::abs(parts[1]) > 180) return;
    alert.epicentre = Position{parts[0], parts[1]};
    const double depth_km = parts.size() > 2 ? -parts[2] / 1000 : -1;
    if (depth_km >= 0 && depth_km <= 800) alert.depth_km = depth_km;
}

// From..To. "over" means From or above: From is what is certain. 不明 (unknown) leaves what is
// known.
std::optional<Intensity> forecast(const pugi::xml_node& node) {
    const auto to = intensity_from(text(child(node, "To")));
    const auto from = intensity_from(text(child(node, "From")));
    return to ? to : from;
}

// The telegram type, which the body does not name, from the title; empty = none of ours.
std::string_view type_of(std::string_view title) {
    const auto has = [title](std::string_view part) {
        return title.find(part) != std::string_view::npos;
    };
    if (!has("緊急地震速報")) return {};
    if (has("テスト")) return "VXSE42";
    if (has("警報")) return "VXSE43";
    if (has("地震動予報")) return "VXSE45";
    return has("予報") ? "VXSE44" : std::string_view{};
}

Result<Alert> parse_jma(const pugi::xml_node& report) {
    const auto control = child(report, "Control");
    const auto head = child(report, "Head");
    const std::string title = text(child(control, "Title"));
    const std::string status = text(child(control, "Status"));
    const std::string info_type = text(child(head, "InfoType"));
    const std::string serial = text(child(head, "Serial"));
    Alert alert;
    alert.source = Source::jma;
    alert.title = title;
    alert.type = type_of(title);
    if (alert.type.empty()) {
        return make_error(Errc::invalid_argument,
                          "Control/Title: \"" + title +
                              "\" is not an earthquake early warning (緊急地震速報: 警報, 予報, "
                              "地震動予報, 配信テスト)");
    }
    alert.event_id = text(child(head, "EventID"));
    if (alert.event_id.empty()) return make_error(Errc::invalid_argument, "Head/EventID: missing");
    alert.reality = Reality::test;
    if (status == "通常" && alert.type != "VXSE42") alert.reality = Reality::actual;
    if (status == "訓練") alert.reality = Reality::exercise;
    if (info_type == "取消") {
        alert.kind = Kind::cancel;
    } else if (info_type == "発表") {
        alert.kind = serial == "1" ? Kind::alert : Kind::update;
    } else if (info_type == "訂正") {
        alert.kind = Kind::update;
    } else {
        return make_error(Errc::invalid_argument,
                          "Head/InfoType: \"" + info_type + "\"; 発表, 訂正, 取消 are accepted");
    }
    if (const auto value = number(serial); value && *value >= 0 && *value < 1e9) {
        alert.serial = static_cast<uint32_t>(*value);
    }
    // A cancel repeats the last serial: type, serial, kind and status all belong to the key.
    alert.telegram =
        "jma/" + alert.type + "/" + alert.event_id + "/" + serial + "/" + info_type + "/" + status;
    const auto earthquake = child(report, "Body", "Earthquake");
    alert.assumed_hypocentre =
        text(child(earthquake, "Condition")).find("仮定震源要素") != std::string::npos;
    read_coordinate(text(child(earthquake, "Hypocenter", "Area", "Coordinate")), alert);
    const auto magnitude = number(text(child(earthquake, "Magnitude")));  // "NaN" when unknown
    if (magnitude && std::abs(*magnitude) <= 10) alert.magnitude = magnitude;
    const auto intensity = child(report, "Body", "Intensity", "Forecast");
    alert.max_intensity = forecast(child(intensity, "ForecastInt"));
    for (const auto& pref : intensity.children()) {
        if (local_name(pref) != "Pref") continue;
        for (const auto& area : pref.children()) {
            if (local_name(area) != "Area" || alert.areas.size() >= kAreasMax) continue;
            const auto value = forecast(child(area, "ForecastInt"));
            if (value) alert.areas.push_back({text(child(area, "Code")), *value});
        }
    }
    return alert;
}

std::optional<Position> position(std::string_view pair) {
    const size_t comma = pair.find(',');
    if (comma == std::string_view::npos) return std::nullopt;
    const auto latitude = number(pair.substr(0, comma));
    const auto longitude = number(pair.substr(comma + 1));
    if (!latitude || !longitude || std::abs(*latitude) > 90 || std::abs(*longitude) > 180)
        return std::nullopt;
    return Position{*latitude, *longitude};
}

// "lat,lon lat,lon ...", closed. Empty when malformed: the other areas still count.
std::vector<Position> polygon(const std::string& value) {
    std::vector<Position> points;
    std::istringstream stream(value);
    std::string pair;
    while (stream >> pair) {
        const auto point = position(pair);
        if (!point) return {};
        points.push_back(*point);
    }
    if (points.size() < 4) return {};
    return points;
}

// "lat,lon radius", in km.
std::optional<Circle> circle(const std::string& value) {
    std::istringstream stream(value);
    std::string centre, radius;
    if (!(stream >> centre >> radius)) return std::nullopt;
    const auto point = position(centre);
    const auto radius_km = number(radius);
    if (!point || !radius_km || *radius_km < 0) return std::nullopt;
    return Circle{*point, *radius_km};
}

// "2026-11-21T02:30:00+09:00"
std::optional<int64_t> unix_time(const std::string& value) {
    unsigned year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, zone_hour = 0,
             zone_minute = 0;
    char sign = 0;
    const int fields = std::sscanf(value.c_str(), "%4u-%2u-%2uT%2u:%2u:%2u%c%2u:%2u", &year, &month,
                                   &day, &hour, &minute, &second, &sign, &zone_hour, &zone_minute);
    const bool zone =
        fields == 9 && (sign == '+' || sign == '-') && zone_hour <= 14 && zone_minute <= 59;
    if (!zone && !(fields == 7 && sign == 'Z')) return std::nullopt;
    if (year < 1970 || year > 9999 || hour > 23 || minute > 59 || second > 60) return std::nullopt;
    const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(year)),
                                           std::chrono::month(month), std::chrono::day(day)};
    if (!date.ok()) return std::nullopt;
    const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
    const int64_t offset_s = (int64_t{zone_hour} * 60 + zone_minute) * 60 * (sign == '-' ? -1 : 1);
    return days * 86'400 + int64_t{hour} * 3600 + int64_t{minute} * 60 + second - offset_s;
}

// "sender,identifier,sent sender,identifier,sent": the messages that this one updates or cancels.
std::vector<std::string> referenced(const std::string& references) {
    std::vector<std::string> out;
    std::istringstream stream(references);
    std::string one;
    while (out.size() < kReferencesMax && stream >> one) {
        const size_t a = one.find(',');
        const size_t b = one.rfind(',');
        if (a == std::string::npos || b <= a + 1 || a == 0) continue;
        out.push_back(clipped(one.substr(0, a) + "/" + one.substr(a + 1, b - a - 1), 2 * kTextMax));
    }
    return out;
}

void read_areas(const pugi::xml_node& info, Alert& alert) {
    for (const auto& area : info.children()) {
        if (local_name(area) != "area") continue;
        for (const auto& part : area.children()) {
            if (local_name(part) == "polygon" && alert.polygons.size() < kShapesMax) {
                auto points = polygon(part.child_value());
                if (!points.empty()) alert.polygons.push_back(std::move(points));
            } else if (local_name(part) == "circle" && alert.circles.size() < kShapesMax) {
                if (const auto shape = circle(part.child_value())) alert.circles.push_back(*shape);
            } else if (local_name(part) == "geocode" && alert.areas.size() < kAreasMax) {
                alert.areas.push_back({text(child(part, "value")), Intensity::none});
            }
        }
    }
}

// 0: nothing to be done about it (past, unlikely, all clear).
size_t rank_of(const pugi::xml_node& info) {
    if (text(child(info, "urgency")) == "Past" || text(child(info, "certainty")) == "Unlikely")
        return 0;
    for (const auto& part : info.children()) {
        if (local_name(part) == "responseType" && text(part) == "AllClear") return 0;
    }
    const std::string severity = text(child(info, "severity"));
    return severity == "Extreme" ? 4 : severity == "Severe" ? 3 : severity == "Moderate" ? 2 : 1;
}

// One info per language or degree of danger: the severest counts, with the areas of all that are
// Severe at least (or as severe as it): a wide Minor area must not borrow the severity of a small
// Extreme one.
void read_infos(const pugi::xml_node& root, Alert& alert) {
    pugi::xml_node severest;
    size_t best = 0;
    for (const auto& info : root.children()) {
        if (local_name(info) != "info" || (severest && rank_of(info) <= best)) continue;
        severest = info;
        best = rank_of(info);
    }
    alert.title = text(child(severest, "event"));
    alert.severity = text(child(severest, "severity"));
    alert.urgency = severest && best == 0 ? "Past" : text(child(severest, "urgency"));
    alert.certainty = text(child(severest, "certainty"));
    bool endless = false;
    for (const auto& info : root.children()) {
        if (local_name(info) != "info" || rank_of(info) < std::min<size_t>(best, 3)) continue;
        read_areas(info, alert);
        const auto expires = unix_time(text(child(info, "expires")));
        endless = endless || !expires;
        if (expires)
            alert.expires_unix_s = std::max(*expires, alert.expires_unix_s.value_or(*expires));
    }
    if (endless) alert.expires_unix_s.reset();
}

Result<Alert> parse_cap(const pugi::xml_node& root) {
    Alert alert;
    alert.source = Source::cap;
    alert.type = "cap";
    const std::string sender = text(child(root, "sender"));
    const std::string identifier = text(child(root, "identifier"));
    const std::string sent = text(child(root, "sent"));
    if (sender.empty()) return make_error(Errc::invalid_argument, "sender: missing");
    if (identifier.empty()) return make_error(Errc::invalid_argument, "identifier: missing");
    if (sent.empty()) return make_error(Errc::invalid_argument, "sent: missing");
    const std::string status = text(child(root, "status"));
    if (status == "Actual") {
        alert.reality = Reality::actual;
    } else if (status == "Exercise") {
        alert.reality = Reality::exercise;
    } else if (status == "Test" || status == "System" || status == "Draft") {
        alert.reality = Reality::test;
    } else {
        return make_error(
            Errc::invalid_argument,
            "status: \"" + status + "\"; Actual, Exercise, System, Test, Draft are accepted");
    }
    const std::string type = text(child(root, "msgType"));
    if (type == "Alert") {
        alert.kind = Kind::alert;
    } else if (type == "Update") {
        alert.kind = Kind::update;
    } else if (type == "Cancel") {
        alert.kind = Kind::cancel;
    } else {
        return make_error(Errc::invalid_argument,
                          "msgType: \"" + type + "\"; Alert, Update, Cancel are accepted");
    }
    alert.telegram = "cap/" + sender + "/" + identifier + "/" + sent + "/" + type + "/" + status;
    alert.message = sender + "/" + identifier;
    alert.event_id = alert.message;
    if (alert.kind != Kind::alert) {
        alert.references = referenced(text(child(root, "references"), kReferencesBytesMax));
        if (alert.references.empty()) {
            return make_error(Errc::invalid_argument,
                              "references: an Update or Cancel needs \"sender,identifier,sent\" of "
                              "what it refers to");
        }
        alert.event_id = alert.references.front();
    }
    read_infos(root, alert);
    return alert;
}

// pugixml parses and frees without recursion, so depth can be looked at afterwards.
bool too_deep(const pugi::xml_node& root) {
    int depth = 0;
    for (pugi::xml_node node = root; node;) {
        if (depth > kDepthMax) return true;
        if (node.first_child()) {
            node = node.first_child();
            ++depth;
            continue;
        }
        while (node && depth > 0 && !node.next_sibling()) {
            node = node.parent();
            --depth;
        }
        if (depth == 0) return false;
        node = node.next_sibling();
    }
    return false;
}

}  // namespace

Result<Alert> parse_xml_alert(std::string_view body) {
    // pugixml expands no entities of a document type; refusing one altogether leaves nothing to
    // argue about.
    if (body.find("<!DOCTYPE") != std::string_view::npos ||
        body.find("<!ENTITY") != std::string_view::npos) {
        return make_error(Errc::invalid_argument, "alert: a document type is not accepted");
    }
    pugi::xml_document document;
    const auto parsed =
        document.load_buffer(body.data(), body.size(), pugi::parse_default, pugi::encoding_utf8);
    if (!parsed) {
        return make_error(Errc::corrupt, std::string("alert: not well-formed XML at byte ") +
                                             std::to_string(parsed.offset) + ": " +
                                             parsed.description());
    }
    const auto root = document.document_element();
    if (too_deep(root))
        return make_error(Errc::invalid_argument, "alert: nested deeper than 64 levels");
    if (local_name(root) == "Report") return parse_jma(root);
    if (local_name(root) == "alert") return parse_cap(root);
    return make_error(Errc::invalid_argument,
                      "alert: root element \"" + clipped(root.name(), 64) +
                          "\"; Report (JMA) and alert (CAP 1.2) are accepted");
}

}  // namespace evac::alert
