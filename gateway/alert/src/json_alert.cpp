// The documented JSON (docs/alerts.md), version 1.
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "formats.hpp"

namespace evac::alert {
namespace {

using Json = nlohmann::json;
constexpr size_t kTextMax = 256;
constexpr int kDepthMax = 16;    // an alert needs three levels
constexpr size_t kEchoMax = 64;  // of a refused value, in messages

class Reader {
  public:
    explicit Reader(Json body, std::string path) : body_(std::move(body)), path_(std::move(path)) {
        if (!body_.is_object()) {
            error_ = make_error(Errc::invalid_argument,
                                path_.substr(0, path_.size() - 1) + ": accepted is an object");
        }
    }
    std::string text(const char* name, bool needed) {
        const Json value = take(name);
        if (value.is_null()) {
            if (needed) fail(name, "a text (missing)");
            return {};
        }
        if (!value.is_string() || value.get_ref<const std::string&>().size() > kTextMax ||
            (needed && value.get_ref<const std::string&>().empty()) ||
            has_control_characters(value.get_ref<const std::string&>())) {
            fail(name, "a text of 1 to 256 bytes without control characters");
            return {};
        }
        return value.get<std::string>();
    }
    std::optional<double> number(const char* name, int64_t low, int64_t high, bool whole = false) {
        const Json value = take(name);
        if (value.is_null()) return std::nullopt;
        if (value.is_number()) {
            const auto given = value.get<double>();
            if (std::isfinite(given) && given >= static_cast<double>(low) &&
                given <= static_cast<double>(high) && (!whole || given == std::floor(given))) {
                return given;
            }
        }
        fail(name, std::string(whole ? "a whole number" : "a number") + " from " +
                       std::to_string(low) + " to " + std::to_string(high) + ", not " +
                       clipped(value.dump(), kEchoMax));
        return std::nullopt;
    }
    std::optional<Intensity> intensity(const char* name) {
        const std::string value = text(name, false);
        if (value.empty()) return std::nullopt;
        const auto found = intensity_from(value);
        if (!found)
            fail(name, "one of 0 1 2 3 4 5- 5+ 6- 6+ 7, not \"" + clipped(value, kEchoMax) + "\"");
        return found;
    }
    template <class T, size_t N>
    T choice(const char* name, const std::pair<const char*, T> (&options)[N]) {
        const std::string value = text(name, false);
        std::string accepted;
        for (const auto& [label, result] : options) {
            if (value == label) return result;
            accepted += std::string(accepted.empty() ? "" : ", ") + label;
        }
        fail(name,
             "one of " + accepted +
                 (value.empty() ? " (missing)" : ", not \"" + clipped(value, kEchoMax) + "\""));
        return options[0].second;
    }
    Json list(const char* name) {
        Json value = take(name);
        if (value.is_null()) return Json(Json::value_t::array);
        if (value.is_array() && value.size() <= kAreasMax) return value;
        fail(name, "a list of at most 4096 entries");
        return Json(Json::value_t::array);
    }
    Status finish() {
        if (!error_ && body_.is_object() && !body_.empty()) {
            error_ = make_error(Errc::invalid_argument,
                                path_ + clipped(body_.begin().key(), kEchoMax) + ": unknown field");
        }
        if (error_) return *error_;
        return {};
    }
    void fail(const std::string& name, const std::string& accepted) {
        if (!error_)
            error_ = make_error(Errc::invalid_argument, path_ + name + ": accepted is " + accepted);
    }

  private:
    Json take(const char* name) {
        if (!body_.is_object() || !body_.contains(name)) return {};
        Json value = body_[name];
        body_.erase(name);
        return value;
    }
    Json body_;
    std::string path_;
    std::optional<Error> error_;
};

constexpr std::pair<const char*, Reality> kRealities[] = {
    {"actual", Reality::actual}, {"exercise", Reality::exercise}, {"test", Reality::test}};
constexpr std::pair<const char*, Kind> kKinds[] = {
    {"alert", Kind::alert}, {"update", Kind::update}, {"cancel", Kind::cancel}};

// Copying and printing a value recurse, so depth is bounded before anything is parsed. Brackets
// inside texts do not count: closing ones there would hide real depth.
bool too_deep(std::string_view body) {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < body.size(); ++i) {
        const char c = body[i];
        if (quoted) {
            if (c == '\\') ++i;
            quoted = c != '"';
        } else {
            quoted = c == '"';
            depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
            if (depth > kDepthMax) return true;
        }
    }
    return false;
}

// Refuses a field given twice: what a person reads first ("test") and what a parser keeps
// ("actual") would differ.
Result<Json> parse(std::string_view body) {
    std::vector<std::set<std::string>> names;
    std::string twice;
    const auto watch = [&](int, Json::parse_event_t event, Json& value) {
        if (event == Json::parse_event_t::object_start) names.emplace_back();
        if (event == Json::parse_event_t::object_end) names.pop_back();
        if (event == Json::parse_event_t::key &&
            !names.back().insert(value.get<std::string>()).second) {
            twice = clipped(value.get_ref<const std::string&>(), kEchoMax);
        }
        return true;
    };
    Json parsed = Json::parse(body, watch, false);
    if (parsed.is_discarded()) return make_error(Errc::corrupt, "alert: not valid JSON");
    if (!twice.empty()) return make_error(Errc::invalid_argument, twice + ": given twice");
    return parsed;
}

Status read_areas(Reader& r, Alert& alert) {
    const Json areas = r.list("areas");
    for (size_t i = 0; i < areas.size(); ++i) {
        Reader area(areas[i], "areas[" + std::to_string(i) + "].");
        AreaIntensity entry;
        entry.code = area.text("code", true);
        if (const auto intensity = area.intensity("intensity")) {
            entry.intensity = *intensity;
        } else {
            area.fail("intensity", "one of 0 1 2 3 4 5- 5+ 6- 6+ 7 (missing)");
        }
        EVAC_TRY(area.finish());
        alert.areas.push_back(std::move(entry));
    }
    return {};
}

}  // namespace

Result<Alert> parse_json_alert(std::string_view body) {
    if (too_deep(body))
        return make_error(Errc::invalid_argument, "alert: nested deeper than 16 levels");
    auto parsed = parse(body);
    EVAC_TRY(parsed);
    Reader r(std::move(*parsed), "");
    Alert alert;
    alert.source = Source::json;
    alert.type = "json";
    if (const auto version = r.number("version", 1, 1, true); !version)
        r.fail("version", "1 (missing)");
    const std::string id = r.text("id", true);
    alert.event_id = r.text("event", true);
    alert.reality = r.choice("status", kRealities);
    alert.kind = r.choice("kind", kKinds);
    alert.title = r.text("title", false);
    if (const auto serial = r.number("serial", 0, 4'294'967'295, true))
        alert.serial = static_cast<uint32_t>(*serial);
    alert.max_intensity = r.intensity("max_intensity");
    alert.magnitude = r.number("magnitude", 0, 10);
    alert.depth_km = r.number("depth_km", 0, 800);
    const auto latitude = r.number("latitude", -90, 90);
    const auto longitude = r.number("longitude", -180, 180);
    if (latitude.has_value() != longitude.has_value())
        r.fail("latitude", "given together with longitude");
    if (latitude && longitude) alert.epicentre = Position{*latitude, *longitude};
    EVAC_TRY(read_areas(r, alert));
    alert.power_event = r.text("power_event", false);
    if (!alert.power_event.empty()) {
        static constexpr std::string_view kPower[] = {"on_battery", "generator_failed",
                                                      "utility_lost", "utility_restored"};
        alert.source = Source::power;
        alert.type = "power";
        bool known = false;
        for (const auto name : kPower) known = known || alert.power_event == name;
        if (!known)
            r.fail("power_event",
                   "one of on_battery, generator_failed, utility_lost, utility_restored");
        if (alert.power_event == "utility_restored") alert.kind = Kind::cancel;
    }
    EVAC_TRY(r.finish());
    // An id used again with another meaning is another telegram: a drill must not hide what follows
    // it.
    alert.telegram = "json/" + id + "/" + std::to_string(alert.serial) + "/" +
                     to_string(alert.kind) + "/" + to_string(alert.reality);
    return alert;
}

}  // namespace evac::alert
