#pragma once
// What the tests of the rules share.
#include <string>
#include <vector>

#include "evac/alert/rules.hpp"
#include "telegrams.hpp"

namespace evac::alert {

inline constexpr int64_t kNow = 1'900'000'000;
inline constexpr Position kSite{35.5, 139.5};

inline Rule rule(Action action = Action::evacuate) {
    Rule out;
    out.action = action;
    return out;
}

inline Rule intensity_rule(Intensity least, std::vector<std::string> areas = {},
                           Action action = Action::evacuate) {
    Rule out = rule(action);
    out.min_intensity = least;
    out.areas = std::move(areas);
    return out;
}

inline RuleEngine engine(std::vector<Rule> rules, int sources_needed = 1) {
    return RuleEngine({std::move(rules), kSite, sources_needed});
}

// A JSON alert of which each is a telegram of its own.
inline Alert json(const std::string& event = "e", Kind kind = Kind::alert,
                  Reality reality = Reality::actual, uint32_t serial = 0) {
    static int number = 0;
    Alert out;
    out.source = Source::json;
    out.type = "json";
    out.reality = reality;
    out.kind = kind;
    out.event_id = event;
    out.serial = serial;
    out.telegram = "json/" + std::to_string(++number);
    return out;
}

inline Alert quake(double magnitude, double depth_km, Position epicentre,
                   const std::string& event = "e") {
    Alert out = json(event);
    out.magnitude = magnitude;
    out.depth_km = depth_km;
    out.epicentre = epicentre;
    return out;
}

}  // namespace evac::alert
