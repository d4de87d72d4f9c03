#pragma once
// What to do about an alert. Owner: one thread (control). Bounded memory: the newest kTelegramsMax
// telegrams and kEventsMax events are remembered, and as many of exercises and tests, which never
// push live ones out.
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
inline constexpr size_t kEventsMax =
    256;                                // beyond: the oldest that nothing was done about goes first
inline constexpr size_t kTypesMax = 8;  // telegram types with serials of their own, per event
inline constexpr size_t kMessagesMax = 64;     // CAP messages known to belong to one event
inline constexpr int64_t kExpiryGraceS = 300;  // clocks differ as much as the webhook tolerates

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
    // At the site: the greater of area forecast (if areas are given) and estimate + 1 sigma. CAP
    // knows no intensity: there any value asks for Severe or Extreme with the site in the area.
    std::optional<Intensity> min_intensity;
    double min_magnitude = 0;
    double max_distance_km = 0;  // 0 = any
    std::vector<std::string>
        areas;  // codes that mean this site; without min_intensity one must be named
    Action action = Action::evacuate;
};

struct RuleSet {
    std::vector<Rule> rules;
    std::optional<Position> site;
    int sources_needed =
        1;  // distinct sources that must call for evacuation of what happens within two minutes
};

struct Decision {
    Action action = Action::none;
    bool duplicate = false;  // this very telegram was seen before: nothing is done
    std::string event_id;
    std::string reason;  // for the operator: what was compared with what
};

class RuleEngine {
  public:
    explicit RuleEngine(RuleSet rules) : rules_(std::move(rules)) {}

    // A cancel of an exercise never touches a live event; a lower serial is logged only; an update
    // of an event that has been acted on is no new action.
    Decision decide(const Alert& alert, int64_t now_unix_s);

    // For the durable memory: load before the first decide, oldest first. `event_id` and `action`
    // are a decision's; without them an update after a restart acts again and a cancel finds
    // nothing to cancel.
    void remember(const std::string& telegram);
    void remember_action(const std::string& event_id, Action action);

  private:
    struct Newest {
        uint32_t serial = 0;
        bool cancelled =
            false;  // a cancel repeats the serial: what comes after it with the same one is older
    };
    struct Event {
        Action acted = Action::none;
        bool cancelled = false;
        std::map<std::string, Newest> serials;  // by telegram type
        std::vector<std::string> messages;      // CAP messages that led here
    };
    struct Telegrams {
        std::deque<std::string> order;
        std::set<std::string> known;
        void add(const std::string& telegram);
    };
    // Exercises and tests have a memory of their own: whatever they say, they never meet a live
    // event.
    struct Memory {
        Telegrams telegrams;
        std::map<std::string, Event> events;
        std::deque<std::string> order;
        std::map<std::string, std::string> event_of_message;

        std::string event_of(const Alert& alert) const;
        Event& event(const std::string& id);
    };
    struct Call {
        int64_t unix_s = 0;
        std::string event_id;
    };
    void judge(const Alert& alert, Event& event, int64_t now_unix_s, Decision& decision);
    void cancel(const Alert& alert, Event& event, Decision& decision);
    std::pair<Action, std::string> strongest_rule(const Alert& alert) const;

    RuleSet rules_;
    Memory live_, drills_;
    std::map<Source, Call> calls_;  // when each source last called for evacuation
};

// Si & Midorikawa (1999) peak ground velocity, as an intensity on JMA's continuous scale at ARV
// `amplification`; the estimate's one sigma is about 0.4. M6.5, depth 40 km, 43 km from the
// hypocentre: 4.43 at ARV 1.
double estimated_intensity(double magnitude_jma, double depth_km, double epicentral_distance_km,
                           double amplification);
double distance_km(const Position& a, const Position& b);  // great circle

}  // namespace evac::alert
