// The documented JSON (docs/alerts.md), version 1.
#include <cmath>
#include <nlohmann/json.hpp>

#include "formats.hpp"

namespace evac::alert {
namespace {

using Json = nlohmann::json;
constexpr size_t kTextMax = 256;

class Reader {
  public:
    explicit Reader(Json body, std::string path) : body_(std::move(body)), path_(std::move(path)) {
        if (!body_.is_object()) fail("", "an object");
    }
    std::string text(const char* name, bool needed) {
        const Json value = take(name);
        if (value.is_null()) {
            if (needed) fail(name, "a text (missing)");
            return {};
        }
        if (!value.is_string() || value.get_ref<const std::string&>().size() > kTextMax ||
            (needed && value.get_ref<const std::string&>().empty())) {
            fail(name, "a text of 1 to 256 bytes");
            return {};
        }
        return value.get<std::string>();
    }
    std::optional<double> number(const char* name, double low, double high) {
        const Json value = take(name);
        if (value.is_null()) return std::nullopt;
        if (value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() >= low &&
            value.get<double>() <= high) {
            return value.get<double>();
        }
        fail(name, "a number from " + std::to_string(low) + " to " + std::to_string(high) + ", not " + value.dump());
        return std::nullopt;
    }
    std::optional<Intensity> intensity(const char* name) {
        const std::string value = text(name, false);
        if (value.empty()) return std::nullopt;
        const auto found = intensity_from(value);
        if (!found) fail(name, "one of 0 1 2 3 4 5- 5+ 6- 6+ 7, not \"" + value + "\"");
        return found;
    }
    template <class T, size_t N>
    T choice(const char* name, const std::pair<const char*, T> (&options)[N]) {
        const std::string value = text(name, true);
        std::string accepted;
        for (const auto& [label, result] : options) {
            if (value == label) return result;
            accepted += std::string(accepted.empty() ? "" : ", ") + label;
        }
        fail(name, "one of " + accepted + ", not \"" + value + "\"");
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
            error_ = make_error(Errc::invalid_argument, path_ + body_.begin().key() + ": unknown field");
        }
        if (error_) return *error_;
        return {};
    }
    void fail(const std::string& name, const std::string& accepted) {
        if (!error_) error_ = make_error(Errc::invalid_argument, path_ + name + ": accepted is " + accepted);
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

}  // namespace

Result<Alert> parse_json_alert(std::string_view body) {
    // Depth is bounded before the parser recurses into it; an alert needs three levels.
    int depth = 0;
    for (const char c : body) {
        depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
        if (depth > 16) return make_error(Errc::invalid_argument, "alert: nested deeper than 16 levels");
    }
    Json parsed = Json::parse(body, nullptr, false);
    if (parsed.is_discarded()) return make_error(Errc::corrupt, "alert: not valid JSON");
    Reader r(std::move(parsed), "");
    Alert alert;
    alert.source = Source::json;
    if (const auto version = r.number("version", 1, 1); !version) r.fail("version", "1 (missing)");
    const std::string id = r.text("id", true);
    alert.event_id = r.text("event", true);
    alert.reality = r.choice("status", kRealities);
    alert.kind = r.choice("kind", kKinds);
    alert.title = r.text("title", false);
    if (const auto serial = r.number("serial", 0, 4294967295.0)) alert.serial = static_cast<uint32_t>(*serial);
    alert.max_intensity = r.intensity("max_intensity");
    alert.magnitude = r.number("magnitude", 0, 10);
    alert.depth_km = r.number("depth_km", 0, 800);
    const auto latitude = r.number("latitude", -90, 90);
    const auto longitude = r.number("longitude", -180, 180);
    if (latitude.has_value() != longitude.has_value()) r.fail("latitude", "given together with longitude");
    if (latitude && longitude) alert.epicentre = Position{*latitude, *longitude};
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
    alert.power_event = r.text("power_event", false);
    if (!alert.power_event.empty()) {
        static constexpr std::string_view kPower[] = {"on_battery", "generator_failed", "utility_lost", "utility_restored"};
        alert.source = Source::power;
        bool known = false;
        for (const auto name : kPower) known = known || alert.power_event == name;
        if (!known) r.fail("power_event", "one of on_battery, generator_failed, utility_lost, utility_restored");
        if (alert.power_event == "utility_restored") alert.kind = Kind::cancel;
    }
    EVAC_TRY(r.finish());
    alert.telegram = "json/" + id;
    return alert;
}

}  // namespace evac::alert
