#pragma once
// What to do about an alert. Owner: one thread (control). Bounded memory: the newest kTelegramsMax telegrams and
// kEventsMax events are remembered.
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "evac/alert/alert.hpp"

namespace evac::alert {

inline constexpr size_t kTelegramsMax = 1024;
inline constexpr size_t kEventsMax = 256;

enum class Action : uint8_t {
    none,      // recorded, nothing follows
    exercise,  // would have acted; shown, never acted on
    arm,
    evacuate,
    cancel,
};
const char* to_string(Action action);

struct Rule {
    std::optional<Source> source;  // nullopt = any
    std::optional<Intensity> min_intensity;  // at the site: area forecast if areas are given, else estimated + 1 sigma
    double min_magnitude = 0;
    double max_distance_km = 0;  // 0 = any
    std::vector<std::string> areas;  // codes that mean this site
    Action action = Action::evacuate;
};

struct RuleSet {
    std::vector<Rule> rules;
    std::optional<Position> site;
    int sources_needed = 1;  // distinct sources that must call for evacuation of what happens within two minutes
};

struct Decision {
    Action action = Action::none;
    bool duplicate = false;  // this very telegram was seen before: nothing is done
    std::string event_id;
    std::string reason;      // for the operator: what was compared with what
};

class RuleEngine {
  public:
    explicit RuleEngine(RuleSet rules) : rules_(std::move(rules)) {}

    // A cancel of an exercise never touches a live event; a lower serial is logged only; an update of an event that has
    // been acted on is no new action.
    Decision decide(const Alert& alert, int64_t now_unix_s);

    // For the durable memory of telegrams: load before the first decide; newest last.
    void remember(const std::string& telegram);

  private:
    struct Event {
        Action acted = Action::none;
        std::map<std::string, uint32_t> serials;  // by telegram type; at most a handful
    };
    RuleSet rules_;
    std::deque<std::string> telegram_order_;
    std::set<std::string> telegrams_;
    std::map<std::string, Event> events_;
    std::deque<std::string> event_order_;
    std::map<Source, int64_t> calls_;  // when each source last called for evacuation
};

// Si & Midorikawa (1999) peak ground velocity, as an intensity on JMA's continuous scale at ARV `amplification`; the
// estimate's one sigma is about 0.4. facts: M6.5, depth 40 km, fault distance about 43 km -> 4.43 at ARV 1.
double estimated_intensity(double magnitude_jma, double depth_km, double epicentral_distance_km, double amplification);
double distance_km(const Position& a, const Position& b);  // great circle

}  // namespace evac::alert
