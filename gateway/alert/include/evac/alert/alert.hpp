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

enum class Source : uint8_t { jma, cap, json, power };
enum class Reality : uint8_t { actual, exercise, test };  // only actual can move a VM
enum class Kind : uint8_t { alert, update, cancel };

const char* to_string(Source source);
const char* to_string(Reality reality);
const char* to_string(Kind kind);

// JMA's scale, lowest first. 0 = below 1.
enum class Intensity : uint8_t { none, zero, one, two, three, four, five_lower, five_upper, six_lower, six_upper, seven };
std::optional<Intensity> intensity_from(std::string_view text);  // "5-"
const char* to_string(Intensity intensity);

struct AreaIntensity {
    std::string code;
    Intensity intensity{};  // the upper end of the forecast ("over" = the lower end's next meaning: see alert.cpp)
};

struct Position {
    double latitude = 0, longitude = 0;
};

struct Alert {
    Source source{};
    Reality reality = Reality::test;  // unless the telegram says otherwise
    Kind kind{};
    std::string telegram;   // dedup key: (telegram type, event, serial, info type, status) for JMA
    std::string event_id;   // one earthquake, one power failure: updates and cancels carry the same
    std::string title;      // for people
    uint32_t serial = 0;
    std::optional<Position> epicentre;
    std::optional<double> depth_km, magnitude;
    bool assumed_hypocentre = false;  // magnitude and depth are placeholders: use area intensities only
    std::optional<Intensity> max_intensity;
    std::vector<AreaIntensity> areas;
    std::vector<std::vector<Position>> polygons;  // CAP areas, closed
    std::string severity, urgency, certainty;     // CAP
    std::optional<int64_t> expires_unix_s;
    std::string power_event;  // "on_battery", "generator_failed", "utility_lost", "utility_restored"
};

// The body decides the format (JMA disaster XML VXSE43/44/45, CAP 1.2, documented JSON); content_type is a hint.
// Errors: invalid_argument naming the field, its value and what is accepted; corrupt for what cannot be parsed.
// VXSE42 (test telegram) and unknown telegram types parse as Reality::test or are refused by name.
Result<Alert> parse_alert(std::string_view content_type, std::string_view body);

}  // namespace evac::alert
