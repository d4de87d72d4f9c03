#include "alert_desk.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "evac/alert/webhook.hpp"
#include "files.hpp"

namespace evac::daemon {
namespace {

using Json = nlohmann::json;

Result<alert::RuleSet> rules_from(const Config& config) {
    alert::RuleSet set;
    set.sources_needed = config.alert_sources_needed;
    if (config.site.has_position)
        set.site = alert::Position{config.site.latitude, config.site.longitude};
    for (const auto& rule : config.alert_rules) {
        alert::Rule out;
        if (rule.source == "jma") out.source = alert::Source::jma;
        if (rule.source == "cap") out.source = alert::Source::cap;
        if (rule.source == "json") out.source = alert::Source::json;
        if (rule.source == "power") out.source = alert::Source::power;
        if (!rule.min_intensity.empty())
            out.min_intensity = alert::intensity_from(rule.min_intensity);
        out.min_magnitude = rule.min_magnitude;
        out.max_distance_km = rule.max_distance_km;
        out.areas = rule.areas;
        out.action = rule.action == "arm" ? alert::Action::arm : alert::Action::evacuate;
        const bool needs_position =
            (out.min_intensity && out.areas.empty()) || out.max_distance_km > 0;
        if (needs_position && !set.site) {
            return make_error(Errc::invalid_argument,
                              "alert.rule: min_intensity without areas, and max_distance_km, need "
                              "site.latitude and "
                              "site.longitude");
        }
        set.rules.push_back(std::move(out));
    }
    return set;
}

Json to_json(const AlertDesk::Entry& e) {
    return {{"unix_ms", e.unix_ms}, {"telegram", e.telegram}, {"event", e.event_id},
            {"title", e.title},     {"reality", e.reality},   {"action", e.action},
            {"reason", e.reason}};
}

api::HttpResponse answer(int status, const Json& body) {
    return {status,
            body.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n",
            "application/json",
            {}};
}

std::string header(const api::HttpRequest& request, const char* name) {
    const auto found = request.headers.find(name);
    return found == request.headers.end() ? std::string() : found->second;
}

}  // namespace

Result<std::unique_ptr<AlertDesk>> AlertDesk::create(const Config& config, const Clock& clock,
                                                     Logger& log, Actions actions) {
    auto rules = rules_from(config);
    EVAC_TRY(rules);
    std::string secret;
    if (config.webhook.enabled) {
        auto loaded = alert::load_webhook_secret(config.webhook.secret_file);
        EVAC_TRY(loaded);
        secret = std::move(*loaded);
    }
    std::unique_ptr<AlertDesk> desk(new AlertDesk(clock, log, std::move(actions), std::move(*rules),
                                                  config.site.state_dir + "/alerts.jsonl",
                                                  std::move(secret)));
    EVAC_TRY(desk->load());
    return desk;
}

Status AlertDesk::load() {
    std::ifstream file(path_);
    std::string line;
    while (std::getline(file, line)) {
        const Json record = Json::parse(line, nullptr, false);
        if (!record.is_object()) continue;
        Entry entry{record.value("unix_ms", int64_t{0}), record.value("telegram", ""),
                    record.value("event", ""),           record.value("title", ""),
                    record.value("reality", ""),         record.value("action", ""),
                    record.value("reason", "")};
        engine_.remember(entry.telegram);
        for (const auto action :
             {alert::Action::arm, alert::Action::evacuate, alert::Action::cancel}) {
            if (entry.action == alert::to_string(action))
                engine_.remember_action(entry.event_id, action);
        }
        if (entries_.size() == kEntriesMax) entries_.pop_front();
        entries_.push_back(std::move(entry));
    }
    return {};
}

// Rewritten whole: at most kEntriesMax short lines, a few times per earthquake.
Status AlertDesk::record(const Entry& entry) {
    if (entries_.size() == kEntriesMax) entries_.pop_front();
    entries_.push_back(entry);
    std::string text;
    for (const auto& e : entries_)
        text += to_json(e).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    return write_file_durably(path_, text);
}

api::HttpResponse AlertDesk::serve(const api::HttpRequest& request) {
    if (request.path != "/v1/alerts")
        return answer(404, {{"error", "path: /v1/alerts is accepted"}});
    if (request.method != "POST") return answer(405, {{"error", "method: POST is accepted"}});
    const alert::WebhookHeaders headers{header(request, "webhook-id"),
                                        header(request, "webhook-timestamp"),
                                        header(request, "webhook-signature")};
    const int64_t now_s = clock_.wall_unix_ms() / 1000;
    const Status verified = alert::verify_webhook(headers, request.body, secret_, now_s);
    if (!verified.ok()) {
        log_.warning("webhook refused: " + verified.error().message());
        return answer(401, {{"error", verified.error().context}});
    }
    auto parsed = alert::parse_alert(header(request, "content-type"), request.body);
    if (!parsed.ok()) {
        log_.warning("webhook: alert not understood: " + parsed.error().message());
        return answer(400, {{"error", parsed.error().context}});
    }
    const alert::Decision decision = engine_.decide(*parsed, now_s);
    if (decision.duplicate)
        return answer(200, {{"action", "none"}, {"event", decision.event_id}, {"duplicate", true}});
    Entry entry{clock_.wall_unix_ms(),
                parsed->telegram,
                decision.event_id,
                parsed->title,
                alert::to_string(parsed->reality),
                alert::to_string(decision.action),
                decision.reason};
    const Status recorded = record(entry);
    // An alert that cannot be recorded is acted on all the same: the disk may be the first thing
    // that the earthquake took, and the journal of the handovers refuses by itself where it must.
    if (!recorded.ok()) log_.error("alert record: " + recorded.error().message());
    log_.warning("alert " + decision.event_id + ": " + entry.action + ": " + decision.reason);
    const Status acted = act(decision);
    if (!acted.ok()) log_.error("alert " + decision.event_id + ": " + acted.error().message());
    Json body{{"action", entry.action},
              {"event", decision.event_id},
              {"reason", decision.reason},
              {"duplicate", false}};
    if (!acted.ok()) body["error"] = acted.error().message();
    return answer(202, body);
}

Status AlertDesk::act(const alert::Decision& decision) {
    switch (decision.action) {
        case alert::Action::none:
        case alert::Action::exercise:
            return {};
        case alert::Action::arm:
            return actions_.arm(decision.event_id, decision.reason);
        case alert::Action::evacuate:
            return actions_.evacuate(decision.event_id, decision.reason);
        case alert::Action::cancel:
            return actions_.cancel(decision.event_id);
    }
    return {};
}

Result<std::string> AlertDesk::self_test() {
    const std::string id = "test-" + random_hex(8);
    const Json body{{"version", 1},    {"id", id},
                    {"event", id},     {"status", "test"},
                    {"kind", "alert"}, {"title", "connectivity test of this gateway"}};
    auto parsed = alert::parse_alert("application/json", body.dump());
    EVAC_TRY(parsed);
    const auto decision = engine_.decide(*parsed, clock_.wall_unix_ms() / 1000);
    if (decision.action != alert::Action::none) {
        return make_error(Errc::internal,
                          std::string("a test alert led to ") + alert::to_string(decision.action));
    }
    return std::string("parsed and judged: no action, as it must be (") + decision.reason + ")";
}

}  // namespace evac::daemon
