#include "evac/alert/rules.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace evac::alert {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kEarthKm = 6371.0;
constexpr double kAmplification = 1.5;  // ARV: 1 triggers too late on ordinary ground
constexpr double kSigma = 0.4;          // of the estimate, in intensity
constexpr int64_t kSourcesWindowS = 120;

// Lower bounds of JMA's classes on the continuous scale.
double lower_bound(Intensity intensity) {
    static constexpr double kBounds[] = {-10, 0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.0, 5.5, 6.0, 6.5};
    return kBounds[static_cast<size_t>(intensity)];
}

std::string one_decimal(double value) {
    const double rounded = std::round(value * 10) / 10;
    std::string text = std::to_string(rounded);
    return text.substr(0, text.find('.') + 2);
}

bool inside(const std::vector<Position>& polygon, const Position& p) {
    bool in = false;
    for (size_t i = 0, j = polygon.size() - 1; i < polygon.size(); j = i++) {
        const auto& a = polygon[i];
        const auto& b = polygon[j];
        if ((a.latitude > p.latitude) == (b.latitude > p.latitude)) continue;
        const double crossing =
            (b.longitude - a.longitude) * (p.latitude - a.latitude) / (b.latitude - a.latitude) +
            a.longitude;
        if (p.longitude < crossing) in = !in;
    }
    return in;
}

// Whether the rule's intensity is reached at the site, and the comparison in words.
bool intensity_reached(const Rule& rule, const std::optional<Position>& site, const Alert& alert,
                       std::string& why) {
    const Intensity wanted = *rule.min_intensity;
    if (!rule.areas.empty()) {
        std::optional<Intensity> best;
        for (const auto& area : alert.areas) {
            if (std::find(rule.areas.begin(), rule.areas.end(), area.code) == rule.areas.end())
                continue;
            if (!best || area.intensity > *best) best = area.intensity;
        }
        if (best) {
            why =
                std::string("area intensity ") + to_string(*best) + " against " + to_string(wanted);
            if (*best >= wanted) return true;
        }
    }
    // A placeholder magnitude (assumed hypocentre) says nothing about the shaking here.
    if (site && alert.epicentre && alert.magnitude && !alert.assumed_hypocentre) {
        const double distance = distance_km(*site, *alert.epicentre);
        const double estimate = estimated_intensity(*alert.magnitude, alert.depth_km.value_or(10),
                                                    distance, kAmplification) +
                                kSigma;
        why = "estimated intensity " + one_decimal(estimate) + " at the site (M" +
              one_decimal(*alert.magnitude) + ", " + one_decimal(distance) + " km) against " +
              to_string(wanted);
        if (estimate >= lower_bound(wanted)) return true;
    }
    if (rule.areas.empty() && alert.max_intensity && !(site && alert.epicentre)) {
        why = std::string("greatest intensity ") + to_string(*alert.max_intensity) + " against " +
              to_string(wanted);
        return *alert.max_intensity >= wanted;
    }
    if (why.empty()) why = "the alert says nothing about the intensity here";
    return false;
}

bool area_named(const Rule& rule, const Alert& alert) {
    for (const auto& area : alert.areas) {
        if (std::find(rule.areas.begin(), rule.areas.end(), area.code) != rule.areas.end())
            return true;
    }
    return false;
}

bool in_shape(const std::optional<Position>& site, const Alert& alert) {
    if (!site) return false;
    for (const auto& polygon : alert.polygons) {
        if (inside(polygon, *site)) return true;
    }
    for (const auto& circle : alert.circles) {
        if (distance_km(*site, circle.centre) <= circle.radius_km) return true;
    }
    return false;
}

bool applies(const Rule& rule, const std::optional<Position>& site, const Alert& alert,
             std::string& why) {
    if (rule.source && *rule.source != alert.source) return false;
    if (alert.urgency == "Past" || alert.certainty == "Unlikely") {
        why = "past, unlikely or all clear";
        return false;
    }
    if (rule.min_magnitude > 0 &&
        (!alert.magnitude || alert.assumed_hypocentre || *alert.magnitude < rule.min_magnitude)) {
        why = "magnitude below " + one_decimal(rule.min_magnitude) + " or not given";
        return false;
    }
    if (rule.max_distance_km > 0) {
        if (!site || !alert.epicentre ||
            distance_km(*site, *alert.epicentre) > rule.max_distance_km) {
            why = "farther than " + one_decimal(rule.max_distance_km) + " km or not located";
            return false;
        }
    }
    if (rule.min_intensity) {
        // CAP has no intensity: its area must hold the site, and its severity must be Severe or
        // Extreme.
        if (alert.source == Source::cap) {
            const bool severe = alert.severity == "Severe" || alert.severity == "Extreme";
            const bool here = area_named(rule, alert) || in_shape(site, alert);
            why = "CAP severity " + alert.severity +
                  (here ? ", the site is in its area" : ", the site is outside its area");
            return severe && here;
        }
        return intensity_reached(rule, site, alert, why);
    }
    if (!rule.areas.empty() && !area_named(rule, alert) && !in_shape(site, alert)) {
        why = "none of the rule's areas is named";
        return false;
    }
    why = alert.source == Source::power ? "power event " + alert.power_event
                                        : std::string("rule without an intensity");
    return true;
}

}  // namespace

const char* to_string(Action action) {
    switch (action) {
        case Action::none:
            return "none";
        case Action::exercise:
            return "exercise";
        case Action::arm:
            return "arm";
        case Action::evacuate:
            return "evacuate";
        case Action::cancel:
            return "cancel";
    }
    return "unknown";
}

double distance_km(const Position& a, const Position& b) {
    const double lat1 = a.latitude * kPi / 180, lat2 = b.latitude * kPi / 180;
    const double dlat = lat2 - lat1, dlon = (b.longitude - a.longitude) * kPi / 180;
    const double h = std::pow(std::sin(dlat / 2), 2) +
                     std::cos(lat1) * std::cos(lat2) * std::pow(std::sin(dlon / 2), 2);
    return 2 * kEarthKm * std::asin(std::min(1.0, std::sqrt(h)));
}

double estimated_intensity(double magnitude_jma, double depth_km, double epicentral_distance_km,
                           double amplification) {
    const double mw = magnitude_jma - 0.171;
    const double hypocentral =
        std::sqrt(epicentral_distance_km * epicentral_distance_km + depth_km * depth_km);
    const double x = std::max(3.0, hypocentral - 0.5 * std::pow(10, 0.5 * mw - 1.85));
    const double log_pgv600 = 0.58 * mw + 0.0038 * depth_km - 1.29 -
                              std::log10(x + 0.0028 * std::pow(10, 0.5 * mw)) - 0.002 * x;
    const double pgv = std::pow(10, log_pgv600) * 1.31 * amplification;
    return 2.68 + 1.72 * std::log10(pgv);
}

void RuleEngine::Telegrams::add(const std::string& telegram) {
    if (telegram.empty() || !known.insert(telegram).second) return;
    order.push_back(telegram);
    if (order.size() > kTelegramsMax) {
        known.erase(order.front());
        order.pop_front();
    }
}

// A CAP message may refer to the last update only: follow what is known, rather one that was acted
// on.
std::string RuleEngine::Memory::event_of(const Alert& alert) const {
    std::string found = alert.event_id;
    bool known = false;
    for (const auto& message : alert.references) {
        const auto entry = event_of_message.find(message);
        if (entry == event_of_message.end()) continue;
        if (events.at(entry->second).acted != Action::none) return entry->second;
        if (!known) found = entry->second;
        known = true;
    }
    return found;
}

RuleEngine::Event& RuleEngine::Memory::event(const std::string& id) {
    const auto found = events.find(id);
    if (found != events.end()) return found->second;
    if (order.size() >= kEventsMax) {
        auto oldest = std::find_if(order.begin(), order.end(), [this](const auto& name) {
            return events.at(name).acted == Action::none;
        });
        if (oldest == order.end()) oldest = order.begin();
        for (const auto& message : events.at(*oldest).messages) event_of_message.erase(message);
        events.erase(*oldest);
        order.erase(oldest);
    }
    order.push_back(id);
    return events[id];
}

void RuleEngine::remember(const std::string& telegram) {
    live_.telegrams.add(telegram);
}

void RuleEngine::remember_action(const std::string& event_id, Action action) {
    if (action == Action::arm || action == Action::evacuate) {
        Event& event = live_.event(event_id);
        event.acted = std::max(event.acted, action);
    } else if (action == Action::cancel) {
        Event& event = live_.event(event_id);
        event.acted = Action::none;
        event.cancelled = true;
    }
}

Decision RuleEngine::decide(const Alert& alert, int64_t now_unix_s) {
    const bool live = alert.reality == Reality::actual;
    Memory& memory = live ? live_ : drills_;
    Decision decision;
    const std::string id = memory.event_of(alert);
    decision.event_id = live ? id : std::string(to_string(alert.reality)) + "/" + id;
    if (live_.telegrams.known.count(alert.telegram) +
            drills_.telegrams.known.count(alert.telegram) !=
        0) {
        decision.duplicate = true;
        decision.reason = "seen before";
        return decision;
    }
    memory.telegrams.add(alert.telegram);
    if (alert.reality == Reality::test) {
        decision.reason = "a test never acts";
        return decision;
    }
    Event& event = memory.event(id);
    if (!alert.message.empty() && event.messages.size() < kMessagesMax &&
        memory.event_of_message.emplace(alert.message, id).second) {
        event.messages.push_back(alert.message);
    }
    judge(alert, event, now_unix_s, decision);
    return decision;
}

void RuleEngine::judge(const Alert& alert, Event& event, int64_t now_unix_s, Decision& decision) {
    const bool live = alert.reality == Reality::actual;
    const bool cancels = alert.kind == Kind::cancel;
    if (event.serials.size() < kTypesMax || event.serials.count(alert.type) != 0) {
        Newest& newest = event.serials[alert.type];
        const bool older = alert.serial < newest.serial ||
                           (alert.serial == newest.serial && newest.cancelled && !cancels);
        if (alert.serial != 0 && older) {
            decision.reason =
                "older than what came before (serial " + std::to_string(alert.serial) + " after " +
                std::to_string(newest.serial) + (newest.cancelled ? ", a cancel)" : ")");
            return;
        }
        newest = {std::max(newest.serial, alert.serial), cancels};
    }
    if (cancels) return cancel(alert, event, decision);
    // CAP has no serials, and a delivery that is tried again may come after its cancel; a new
    // danger has a new message.
    if (event.cancelled && alert.source == Source::cap) {
        decision.reason = "cancelled before it came";
        return;
    }
    if (alert.expires_unix_s && *alert.expires_unix_s + kExpiryGraceS < now_unix_s) {
        decision.reason =
            "expired " + std::to_string(now_unix_s - *alert.expires_unix_s) + " s ago";
        return;
    }
    event.cancelled = false;
    Action wanted = Action::none;
    std::tie(wanted, decision.reason) = strongest_rule(alert);
    if (wanted == Action::none) return;
    if (wanted == Action::evacuate && rules_.sources_needed > 1) {
        // Sources name the same earthquake differently: what calls within the window counts,
        // whatever its name.
        std::erase_if(calls_, [now_unix_s](const auto& c) {
            return now_unix_s - c.second.unix_s > kSourcesWindowS;
        });
        if (live) calls_[alert.source] = {now_unix_s, decision.event_id};
        if (static_cast<int>(calls_.size()) < rules_.sources_needed) {
            decision.reason += "; " + std::to_string(calls_.size()) + " of " +
                               std::to_string(rules_.sources_needed) +
                               " sources call for it: armed";
            wanted = Action::arm;
        }
    }
    if (!live) {
        decision.action = Action::exercise;
        decision.reason =
            std::string("exercise: would ") + to_string(wanted) + ": " + decision.reason;
        return;
    }
    if (wanted <= event.acted) {
        decision.reason =
            (event.acted == Action::arm ? "already armed: " : "already evacuating: ") +
            decision.reason;
        return;
    }
    event.acted = wanted;
    decision.action = wanted;
}

void RuleEngine::cancel(const Alert& alert, Event& event, Decision& decision) {
    event.cancelled = true;
    if (alert.reality != Reality::actual) {
        decision.action = Action::exercise;
        decision.reason = "exercise: would cancel";
        return;
    }
    // A source that has taken its word back is no second source for another one.
    std::erase_if(calls_,
                  [&](const auto& call) { return call.second.event_id == decision.event_id; });
    decision.action = event.acted == Action::none ? Action::none : Action::cancel;
    decision.reason =
        event.acted == Action::none ? "nothing under way to cancel" : "the source cancels it";
    event.acted = Action::none;
}

// The greatest action of the rules that apply, with the comparison that led there.
std::pair<Action, std::string> RuleEngine::strongest_rule(const Alert& alert) const {
    Action wanted = Action::none;
    std::string why = "no rule for source " + std::string(to_string(alert.source));
    for (const Rule& rule : rules_.rules) {
        std::string reason;
        if (!applies(rule, rules_.site, alert, reason)) {
            if (wanted == Action::none && !reason.empty()) why = reason;
            continue;
        }
        if (rule.action > wanted) {
            wanted = rule.action;
            why = reason;
        }
    }
    return {wanted, why};
}

}  // namespace evac::alert
