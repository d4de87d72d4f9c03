// JMA disaster-information XML (VXSE43, VXSE44, VXSE45) and OASIS CAP 1.2.
#include <charconv>
#include <cmath>
#include <pugixml.hpp>
#include <sstream>

#include "formats.hpp"

namespace evac::alert {
namespace {

constexpr size_t kTextMax = 512;
constexpr size_t kPolygonPointsMax = 10'000;
constexpr size_t kDepthMax = 64;

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

std::string text(const pugi::xml_node& node) {
    std::string value = node.child_value();
    const size_t begin = value.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos) return {};
    value = value.substr(begin, value.find_last_not_of(" \t\r\n") - begin + 1);
    return value.substr(0, kTextMax);
}

std::optional<double> number(std::string_view value) {
    if (!value.empty() && value.front() == '+') value.remove_prefix(1);
    double out = 0;
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), out);
    if (value.empty() || parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() || !std::isfinite(out)) {
        return std::nullopt;
    }
    return out;
}

// ISO 6709: +33.2+132.4-50000/ (depth in metres, below sea level negative).
void read_coordinate(const std::string& value, Alert& alert) {
    std::vector<double> parts;
    size_t begin = 0;
    for (size_t i = 1; i <= value.size() && parts.size() < 3; ++i) {
        const bool ends = i == value.size() || value[i] == '+' || value[i] == '-' || value[i] == '/';
        if (!ends) continue;
        const auto part = number(std::string_view(value).substr(begin, i - begin));
        if (!part) return;
        parts.push_back(*part);
        begin = i;
        if (i < value.size() && value[i] == '/') break;
    }
    if (parts.size() < 2 || std::abs(parts[0]) > 90 || std::abs(parts[1]) > 180) return;
    alert.epicentre = Position{parts[0], parts[1]};
    if (parts.size() > 2) alert.depth_km = -parts[2] / 1000;
}

// From..To. "over" means From or above; 不明 (unknown) leaves what is known.
std::optional<Intensity> forecast(const pugi::xml_node& node) {
    const auto to = intensity_from(text(child(node, "To")));
    const auto from = intensity_from(text(child(node, "From")));
    return to ? to : from;
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
    alert.event_id = text(child(head, "EventID"));
    if (alert.event_id.empty()) return make_error(Errc::invalid_argument, "Head/EventID: missing");
    // Only these are earthquake early warnings (VXSE43 warning, VXSE44 forecast, VXSE45 with areas); a test telegram
    // (VXSE42) has 配信テスト in its title.
    const bool test_telegram = title.find("テスト") != std::string::npos;
    if (title.find("緊急地震速報") == std::string::npos) {
        return make_error(Errc::invalid_argument, "Control/Title: \"" + title +
                                                      "\" is not an earthquake early warning (緊急地震速報)");
    }
    alert.reality = Reality::test;
    if (status == "通常" && !test_telegram) alert.reality = Reality::actual;
    if (status == "訓練") alert.reality = Reality::exercise;
    if (info_type == "取消") {
        alert.kind = Kind::cancel;
    } else if (info_type == "発表") {
        alert.kind = serial == "1" ? Kind::alert : Kind::update;
    } else if (info_type == "訂正") {
        alert.kind = Kind::update;
    } else {
        return make_error(Errc::invalid_argument, "Head/InfoType: \"" + info_type + "\"; 発表, 訂正, 取消 are accepted");
    }
    if (const auto value = number(serial); value && *value >= 0 && *value < 1e9) alert.serial = static_cast<uint32_t>(*value);
    // A cancel repeats the last serial: type, serial, kind and status all belong to the key.
    alert.telegram = "jma/" + title + "/" + alert.event_id + "/" + serial + "/" + info_type + "/" + status;
    const auto earthquake = child(report, "Body", "Earthquake");
    alert.assumed_hypocentre = text(child(earthquake, "Condition")) == "仮定震源要素";
    read_coordinate(text(child(earthquake, "Hypocenter", "Area", "Coordinate")), alert);
    alert.magnitude = number(text(child(earthquake, "Magnitude")));
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

std::vector<Position> polygon(const std::string& value) {
    std::vector<Position> points;
    std::istringstream stream(value);
    std::string pair;
    while (stream >> pair && points.size() < kPolygonPointsMax) {
        const size_t comma = pair.find(',');
        if (comma == std::string::npos) return {};
        const auto latitude = number(pair.substr(0, comma));
        const auto longitude = number(pair.substr(comma + 1));
        if (!latitude || !longitude || std::abs(*latitude) > 90 || std::abs(*longitude) > 180) return {};
        points.push_back({*latitude, *longitude});
    }
    if (points.size() < 4) return {};
    return points;
}

// "sender,identifier,sent": the event is the one that the oldest reference names.
std::string referenced(const std::string& references) {
    const std::string first = references.substr(0, references.find(' '));
    const size_t a = first.find(',');
    const size_t b = first.rfind(',');
    if (a == std::string::npos || b <= a) return {};
    return first.substr(0, a) + "/" + first.substr(a + 1, b - a - 1);
}

Result<Alert> parse_cap(const pugi::xml_node& root) {
    Alert alert;
    alert.source = Source::cap;
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
        return make_error(Errc::invalid_argument,
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
        return make_error(Errc::invalid_argument, "msgType: \"" + type + "\"; Alert, Update, Cancel are accepted");
    }
    alert.telegram = "cap/" + sender + "/" + identifier + "/" + sent;
    alert.event_id = sender + "/" + identifier;
    if (alert.kind != Kind::alert) {
        const std::string original = referenced(text(child(root, "references")));
        if (original.empty()) return make_error(Errc::invalid_argument, "references: an Update or Cancel needs it");
        alert.event_id = original;
    }
    const auto info = child(root, "info");
    alert.title = text(child(info, "event"));
    alert.severity = text(child(info, "severity"));
    alert.urgency = text(child(info, "urgency"));
    alert.certainty = text(child(info, "certainty"));
    for (const auto& area : info.children()) {
        if (local_name(area) != "area") continue;
        for (const auto& part : area.children()) {
            if (local_name(part) == "polygon" && alert.polygons.size() < 256) {
                auto points = polygon(part.child_value());
                if (!points.empty()) alert.polygons.push_back(std::move(points));
            } else if (local_name(part) == "geocode" && alert.areas.size() < kAreasMax) {
                alert.areas.push_back({text(child(part, "value")), Intensity::none});
            }
        }
    }
    return alert;
}

size_t depth_of(std::string_view body) {
    size_t depth = 0, deepest = 0;
    for (size_t i = 0; i + 1 < body.size(); ++i) {
        if (body[i] != '<') continue;
        if (body[i + 1] == '/') {
            depth -= depth > 0 ? 1 : 0;
        } else if (body[i + 1] != '?' && body[i + 1] != '!') {
            const size_t end = body.find('>', i);
            if (end != std::string_view::npos && body[end - 1] != '/') deepest = std::max(deepest, ++depth);
        }
    }
    return deepest;
}

}  // namespace

Result<Alert> parse_xml_alert(std::string_view body) {
    // pugixml expands no entities of a document type; refusing one altogether leaves nothing to argue about.
    if (body.find("<!DOCTYPE") != std::string_view::npos || body.find("<!ENTITY") != std::string_view::npos) {
        return make_error(Errc::invalid_argument, "alert: a document type is not accepted");
    }
    if (depth_of(body) > kDepthMax) return make_error(Errc::invalid_argument, "alert: nested deeper than 64 levels");
    pugi::xml_document document;
    const auto parsed = document.load_buffer(body.data(), body.size(), pugi::parse_default, pugi::encoding_utf8);
    if (!parsed) {
        return make_error(Errc::corrupt, std::string("alert: not well-formed XML at byte ") +
                                             std::to_string(parsed.offset) + ": " + parsed.description());
    }
    const auto root = document.document_element();
    if (local_name(root) == "Report") return parse_jma(root);
    if (local_name(root) == "alert") return parse_cap(root);
    return make_error(Errc::invalid_argument, "alert: root element \"" + std::string(root.name()).substr(0, 64) +
                                                  "\"; Report (JMA) and alert (CAP 1.2) are accepted");
}

}  // namespace evac::alert
