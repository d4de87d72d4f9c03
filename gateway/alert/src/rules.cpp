#include "evac/alert/rules.hpp"

#include <algorithm>
#include <cmath>

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
            (b.longitude - a.longitude) * (p.latitude - a.latitude) / (b.latitude - a.latitude) + a.longitude;
        if (p.longitude < crossing) in = !in;
    }
    return in;
}

// Whether the rule's intensity is reached at the site, and the comparison in words.
bool intensity_reached(const Rule& rule, const std::optional<Position>& site, const Alert& alert, std::string& why) {
    const Intensity wanted = *rule.min_intensity;
    if (!rule.areas.empty()) {
        std::optional<Intensity> best;
        for (const auto& area : alert.areas) {
            if (std::find(rule.areas.begin(), rule.areas.end(), area.code) == rule.areas.end()) continue;
            if (!best || area.intensity > *best) best = area.intensity;
        }
        if (best) {
            why = std::string("area intensity ") + to_string(*best) + " against " + to_string(wanted);
            if (*best >= wanted) return true;
        }
    }
    // A placeholder magnitude (assumed hypocentre) says nothing about the shaking here.
    if (site && alert.epicentre && alert.magnitude && !alert.assumed_hypocentre) {
        const double distance = distance_km(*site, *alert.epicentre);
        const double estimate =
            estimated_intensity(*alert.magnitude, alert.depth_km.value_or(10), distance, kAmplification) + kSigma;
        why = "estimated intensity " + one_decimal(estimate) + " at the site (M" + one_decimal(*alert.magnitude) + ", " +
              one_decimal(distance) + " km) against " + to_string(wanted);
        if (estimate >= lower_bound(wanted)) return true;
    }
    if (rule.areas.empty() && alert.max_intensity && !(site && alert.epicentre)) {
        why = std::string("greatest intensity ") + to_string(*alert.max_intensity) + " against " + to_string(wanted);
        return *alert.max_intensity >= wanted;
    }
    if (why.empty()) why = "the alert says nothing about the intensity here";
    return false;
}

bool applies(const Rule& rule, const std::optional<Position>& site, const Alert& alert, std::string& why) {
    if (rule.source && *rule.source != alert.source) return false;
    if (rule.min_magnitude > 0 && (!alert.magnitude || alert.assumed_hypocentre || *alert.magnitude < rule.min_magnitude)) {
        why = "magnitude below " + one_decimal(rule.min_magnitude) + " or not given";
        return false;
    }
    if (rule.max_distance_km > 0) {
        if (!site || !alert.epicentre || distance_km(*site, *alert.epicentre) > rule.max_distance_km) {
            why = "farther than " + one_decimal(rule.max_distance_km) + " km or not located";
            return false;
        }
    }
    if (rule.min_intensity) {
        // CAP has no intensity: its area must hold the site, and its severity must be Severe or Extreme.
        if (alert.source == Source::cap) {
            const bool severe = alert.severity == "Severe" || alert.severity == "Extreme";
            bool here = false;
            for (const auto& polygon : alert.polygons) here = here || (site && inside(polygon, *site));
            for (const auto& area : alert.areas) {
                here = here || std::find(rule.areas.begin(), rule.areas.end(), area.code) != rule.areas.end();
            }
            why = "CAP severity " + alert.severity + (here ? ", the site is in its area" : ", the site is outside its area");
            return severe && here;
        }
        return intensity_reached(rule, site, alert, why);
    }
    why = alert.source == Source::power ? "power event " + alert.power_event : std::string("rule without an intensity");
    return true;
}

}  // namespace

const char* to_string(Action action) {
    switch (action) {
        case Action::none: return "none";
        case Action::exercise: return "exercise";
        case Action::arm: return "arm";
        case Action::evacuate: return "evacuate";
        case Action::cancel: return "cancel";
    }
    return "unknown";
}

double distance_km(const Position& a, const Position& b) {
    const double lat1 = a.latitude * kPi / 180, lat2 = b.latitude * kPi / 180;
    const double dlat = lat2 - lat1, dlon = (b.longitude - a.longitude) * kPi / 180;
    const double h = std::pow(std::sin(dlat / 2), 2) + std::cos(lat1) * std::cos(lat2) * std::pow(std::sin(dlon / 2), 2);
    return 2 * kEarthKm * std::asin(std::min(1.0, std::sqrt(h)));
}

double estimated_intensity(double magnitude_jma, double depth_km, double epicentral_distance_km, double amplification) {
    const double mw = magnitude_jma - 0.171;
    const double hypocentral = std::sqrt(epicentral_distance_km * epicentral_distance_km + depth_km * depth_km);
    const double x = std::max(3.0, hypocentral - 0.5 * std::pow(10, 0.5 * mw - 1.85));
    const double log_pgv600 =
        0.58 * mw + 0.0038 * depth_km - 1.29 - std::log10(x + 0.0028 * std::pow(10, 0.5 * mw)) - 0.002 * x;
    const double pgv = std::pow(10, log_pgv600) * 1.31 * amplification;
    return 2.68 + 1.72 * std::log10(pgv);
}

void RuleEngine::remember(const std::string& telegram) {
    if (telegram.empty() || !telegrams_.insert(telegram).second) return;
    telegram_order_.push_back(telegram);
    if (telegram_order_.size() > kTelegramsMax) {
        telegrams_.erase(telegram_order_.front());
        telegram_order_.pop_front();
    }
}

Decision RuleEngine::decide(const Alert& alert, int64_t now_unix_s) {
    Decision decision;
    // Exercises and tests live in names of their own: whatever they say, they never meet a live event.
    const bool live = alert.reality == Reality::actual;
    const std::string scope = live ? "" : std::string(to_string(alert.reality)) + "/";
    decision.event_id = scope + alert.event_id;
    if (telegrams_.count(alert.telegram) != 0) {
        decision.duplicate = true;
        decision.reason = "seen before";
        return decision;
    }
    remember(alert.telegram);
    if (alert.reality == Reality::test) {
        decision.reason = "a test never acts";
        return decision;
    }
    if (events_.count(decision.event_id) == 0) {
        event_order_.push_back(decision.event_id);
        if (event_order_.size() > kEventsMax) {
            events_.erase(event_order_.front());
            event_order_.pop_front();
        }
    }
    Event& event = events_[decision.event_id];
    if (alert.kind == Kind::cancel) {
        decision.action = !live ? Action::exercise : event.acted == Action::none ? Action::none : Action::cancel;
        decision.reason = event.acted == Action::none ? "cancelled before anything was done" : "the source cancels it";
        event.acted = Action::none;
        return decision;
    }
    // Serials count per telegram type: the title stands for the type.
    uint32_t& newest = event.serials[alert.source == Source::jma ? "jma/" + alert.title : to_string(alert.source)];
    if (alert.serial != 0 && alert.serial < newest) {
        decision.reason = "older than what came before (serial " + std::to_string(alert.serial) + " after " +
                          std::to_string(newest) + ")";
        return decision;
    }
    newest = std::max(newest, alert.serial);
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
    decision.reason = why;
    if (wanted == Action::none) return decision;
    if (wanted == Action::evacuate && rules_.sources_needed > 1) {
        // Sources name the same earthquake differently: what calls within the window counts, whatever its name.
        std::erase_if(calls_, [now_unix_s](const auto& call) { return now_unix_s - call.second > kSourcesWindowS; });
        if (live) calls_[alert.source] = now_unix_s;
        if (static_cast<int>(calls_.size()) < rules_.sources_needed) {
            decision.reason += "; " + std::to_string(calls_.size()) + " of " + std::to_string(rules_.sources_needed) +
                               " sources call for it: armed";
            wanted = Action::arm;
        }
    }
    if (!live) {
        decision.action = Action::exercise;
        decision.reason = std::string("exercise: would ") + to_string(wanted) + ": " + decision.reason;
        return decision;
    }
    if (wanted <= event.acted) {
        decision.reason = "already " + std::string(to_string(event.acted)) + "d: " + decision.reason;
        return decision;
    }
    event.acted = wanted;
    decision.action = wanted;
    return decision;
}

}  // namespace evac::alert
