#pragma once
// One alert telegram of any format, reduced to what the rules need. Plain values.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"

namespace evac::alert {

inline constexpr size_t kBodyBytesMax = 1024 * 1024;
inline constexpr size_t kAreasMax = 4096;
inline constexpr size_t kReferencesMax = 64;

enum class Source : uint8_t { jma, cap, json, power };
enum class Reality : uint8_t { actual, exercise, test };  // only actual can move a VM
enum class Kind : uint8_t { alert, update, cancel };

const char* to_string(Source source);
const char* to_string(Reality reality);
const char* to_string(Kind kind);

// JMA's scale, lowest first. 0 = below 1.
enum class Intensity : uint8_t {
    none,
    zero,
    one,
    two,
    three,
    four,
    five_lower,
    five_upper,
    six_lower,
    six_upper,
    seven,
};
std::optional<Intensity> intensity_from(std::string_view text);  // "5-"
const char* to_string(Intensity intensity);

struct AreaIntensity {
    std::string code;
    Intensity intensity{};  // upper end of the forecast; "5- or above" (over) is 5-
};

struct Position {
    double latitude = 0, longitude = 0;
};

struct Circle {
    Position centre;
    double radius_km = 0;
};

struct Alert {
    Source source{};
    Reality reality = Reality::test;  // unless the telegram says otherwise
    Kind kind{};
    std::string
        telegram;      // dedup key, holds the status: a drill never makes a live one a duplicate
    std::string type;  // "VXSE43", "cap", "json": serials count per type
    std::string event_id;  // one earthquake, one power failure: updates and cancels carry the same
    std::string title;     // for people
    uint32_t serial = 0;
    std::optional<Position> epicentre;
    std::optional<double> depth_km, magnitude;
    bool assumed_hypocentre =
        false;  // magnitude and depth are placeholders: use area intensities only
    std::optional<Intensity> max_intensity;
    std::vector<AreaIntensity> areas;
    // CAP. A message names the messages it updates or cancels, not its event: the engine follows
    // them.
    std::string message;                          // this one, "sender/identifier"
    std::vector<std::string> references;          // at most kReferencesMax
    std::vector<std::vector<Position>> polygons;  // closed
    std::vector<Circle> circles;
    std::string severity, urgency, certainty;  // of the severest info that still holds
    std::optional<int64_t> expires_unix_s;
    std::string
        power_event;  // "on_battery", "generator_failed", "utility_lost", "utility_restored"
};

// The body decides the format (JMA disaster XML VXSE42 to 45, CAP 1.2, documented JSON);
// content_type is a hint. Errors: invalid_argument naming the field, its value and what is
// accepted; corrupt for what cannot be parsed. VXSE42 (test telegram) parses as Reality::test;
// other telegram types are refused by name. Any thread.
Result<Alert> parse_alert(std::string_view content_type, std::string_view body);

}  // namespace evac::alert
