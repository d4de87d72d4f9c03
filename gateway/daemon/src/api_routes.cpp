#include "api_routes.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app.hpp"
#include "files.hpp"
#include "status_json.hpp"

namespace evac::daemon {
namespace {

using Json = nlohmann::json;
using api::HttpRequest;
using api::HttpResponse;

constexpr size_t kEchoMax = 80;  // of a refused value, in messages

HttpResponse json_response(int status, const Json& body) {
    return {status,
            body.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n",
            "application/json",
            {}};
}

HttpResponse error_response(const Error& error) {
    int status = 500;
    switch (error.code) {
        case Errc::invalid_argument:
            status = 400;
            break;
        case Errc::not_found:
            status = 404;
            break;
        case Errc::already_exists:
        case Errc::refused:
            status = 409;
            break;
        case Errc::unavailable:
            status = 503;
            break;
        default:
            break;
    }
    return json_response(status, {{"error", error.context}, {"code", to_string(error.code)}});
}

HttpResponse status_response(const Status& status, const Json& body = Json::object()) {
    return status.ok() ? json_response(202, body) : error_response(status.error());
}

// A JSON object whose fields are all known; anything else names the field.
class Fields {
  public:
    explicit Fields(const std::string& text) {
        if (text.empty()) {
            body_ = Json::object();
            return;
        }
        body_ = Json::parse(text, nullptr, false);
        if (!body_.is_object()) fail("body: a JSON object is accepted");
    }
    std::string text(const char* name, const std::string& fallback) {
        return take<std::string>(name, fallback, &Json::is_string, "a text");
    }
    bool flag(const char* name) {
        return take<bool>(name, false, &Json::is_boolean, "true or false");
    }
    double number(const char* name, double fallback, double low, double high) {
        const double value = take<double>(name, fallback, &Json::is_number, "a number");
        if (!std::isfinite(value) || value < low || value > high) {
            refuse(name, plain(value), "a number from " + plain(low) + " to " + plain(high));
        }
        return value;
    }
    std::vector<std::string> texts(const char* name) {
        std::vector<std::string> values;
        Json list = take<Json>(name, Json::array(), &Json::is_array, "a list of texts");
        for (const auto& item : list) {
            if (item.is_string()) {
                values.push_back(item.get<std::string>());
            } else {
                refuse(name, "a list with " + shown(item), "a list of texts");
            }
        }
        return values;
    }
    Status finish() {
        if (!error_ && !body_.empty()) fail(body_.begin().key() + ": unknown field");
        if (error_) return *error_;
        return {};
    }

  private:
    template <class T>
    T take(const char* name, T fallback, bool (Json::*is)() const noexcept, const char* accepted) {
        if (!body_.is_object() || !body_.contains(name)) return fallback;
        // Moved, never copied: copying recurses, and a hostile body may be nested hundreds of
        // thousands deep.
        Json value = std::move(body_[name]);
        body_.erase(name);
        if ((value.*is)()) {
            if constexpr (std::is_same_v<T, Json>) {
                return value;
            } else {
                return value.get<T>();
            }
        }
        refuse(name, shown(value), accepted);
        return fallback;
    }
    // Never dumps a list or an object: that recurses.
    static std::string shown(const Json& value) {
        if (value.is_array()) return "a list";
        if (value.is_object()) return "an object";
        const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
        return text.size() > kEchoMax ? text.substr(0, kEchoMax) + "..." : text;
    }
    static std::string plain(double value) {
        std::ostringstream out;
        out << value;
        return out.str();
    }
    void refuse(const std::string& name, const std::string& value, const std::string& accepted) {
        fail(name + ": " + value + " is refused; accepted: " + accepted);
    }
    void fail(const std::string& text) {
        if (!error_) error_ = make_error(Errc::invalid_argument, text);
    }
    Json body_;
    std::optional<Error> error_;
};

HttpResponse add_vm(App& app, const HttpRequest& r) {
    Fields fields(r.body);
    HomeService::AddRequest request;
    request.name = fields.text("name", "");
    request.qmp_path = fields.text("qmp", "");
    request.priority = fields.number("priority", 1, 1, 1e6);
    request.max_downtime_ms = fields.number("max_downtime_ms", 1000, 1, 1e9);
    request.rpo_target_s = fields.number("rpo_target_s", 0, 0, 604'800);
    auto capture = prestage::parse_capture("capture", fields.text("capture", "auto"));
    const Status checked = fields.finish();
    if (!checked.ok()) return error_response(checked.error());
    if (!capture.ok()) return error_response(capture.error());
    request.capture = *capture;
    auto id = app.home().add(request);
    if (!id.ok()) return error_response(id.error());
    return json_response(202, vm_json(app, *app.home().find(*id)));
}

// What an operator may decide where the state machine must not: each can leave two copies running
// if he is wrong.
struct ForcedAct {
    const char* name;
    bool at_home;
    evacuation::HomeEventKind home;
    evacuation::AwayEventKind away;
    const char* meaning;
};
constexpr ForcedAct kForcedActs[] = {
    {"run",
     false,
     {},
     evacuation::AwayEventKind::force_run,
     "runs its sealed copy here, or the last recovery point; right only if its home is gone for "
     "good"},
    {"give-back",
     false,
     {},
     evacuation::AwayEventKind::force_give_back,
     "lets its home run it again; right only if it does not run here"},
    {"release",
     false,
     {},
     evacuation::AwayEventKind::force_release,
     "ends the waiting for its home, which is gone for good; it is this site's own then"},
    {"drop",
     false,
     {},
     {},
     "deletes its copy and recovery points here; right only if nobody needs them"},
    {"resume",
     true,
     evacuation::HomeEventKind::force_resume,
     {},
     "runs it here again; right only if it does not run at the peer and never will"},
    {"yield",
     true,
     evacuation::HomeEventKind::force_yield,
     {},
     "destroys the copy here; right only if the peer's is to stay"},
};

template <class Event, class Kind, class Machine>
HttpResponse forced(App& app, VmId id, Kind kind, Machine& machine) {
    Event event;
    event.kind = kind;
    event.confirmed = true;
    if (const auto* handover = machine.find(id)) event.handover = handover->record().handover;
    const auto state = [&] {
        const auto* handover = machine.find(id);
        return handover == nullptr ? evacuation::State::protected_ : handover->state();
    };
    const auto before = state();
    auto acts = machine.handle(id, event, app.now());
    if (!acts.ok()) return error_response(acts.error());
    if (acts->empty() && state() == before) {
        return error_response(make_error(Errc::refused, std::string("nothing to force: it is ") +
                                                            evacuation::to_string(before)));
    }
    app.execute(std::move(acts));
    return json_response(202, Json::object());
}

HttpResponse force_vm(App& app, const HttpRequest& r, const std::string& name) {
    Fields fields(r.body);
    const std::string action = fields.text("action", "");
    const std::string confirm = fields.text("confirm", "");
    const Status checked = fields.finish();
    if (!checked.ok()) return error_response(checked.error());
    const auto* act = std::find_if(std::begin(kForcedActs), std::end(kForcedActs),
                                   [&](const ForcedAct& a) { return action == a.name; });
    if (act == std::end(kForcedActs)) {
        return error_response(make_error(
            Errc::invalid_argument, "action: '" + action.substr(0, kEchoMax) +
                                        "' is refused; accepted: run, give-back, release, drop "
                                        "(away), resume, yield (home)"));
    }
    const HomeVm* vm = act->at_home ? app.home().find(name) : nullptr;
    const AwayVm* staged = act->at_home ? nullptr : app.away().find(name);
    if (vm == nullptr && staged == nullptr) {
        return error_response(make_error(
            Errc::not_found,
            "vm '" + name + "' is not " + (act->at_home ? "enrolled" : "staged") + " here"));
    }
    if (confirm != name) {
        std::string text = std::string("confirm: '") + confirm.substr(0, kEchoMax) +
                           "' is refused; accepted: the VM's name. '" + action + "' " +
                           act->meaning;
        if (staged != nullptr && staged->point_unix_ms != 0) {
            const int64_t age_s = (app.clock().wall_unix_ms() - staged->point_unix_ms) / 1000;
            text += "; its last recovery point is " + std::to_string(age_s) + " s old";
        }
        if (app.peer_connected()) text += "; THE OTHER SITE IS CONNECTED NOW";
        return error_response(make_error(Errc::invalid_argument, text));
    }
    if (staged != nullptr && act->away == evacuation::AwayEventKind::force_run &&
        raw(staged->sealed) == 0) {
        return error_response(
            make_error(Errc::refused, "vm '" + name + "' has no recovery point here"));
    }
    const auto* landing = staged == nullptr ? nullptr : app.desk().find(staged->id);
    const bool gone = landing != nullptr && landing->state() == evacuation::State::lost;
    if (gone && act->away == evacuation::AwayEventKind::force_run) {
        return error_response(make_error(
            Errc::refused,
            "vm '" + name +
                "' ran here and its memory is gone: no recovery point fits its disks any more. "
                "Start it by hand from its disks (" +
                app.config().site.state_dir + "/staged/" + std::to_string(raw(staged->id)) +
                "/copy), or `vm force give-back` it"));
    }
    if (action == "drop") return status_response(app.away().drop_unused(staged->id));
    if (act->at_home)
        return forced<evacuation::HomeEvent>(app, vm->id, act->home, app.coordinator());
    return forced<evacuation::AwayEvent>(app, staged->id, act->away, app.desk());
}

HttpResponse vm_route(App& app, const HttpRequest& r, const std::string& rest) {
    const size_t slash = rest.find('/');
    const std::string name = rest.substr(0, slash);
    const std::string verb = slash == std::string::npos ? "" : rest.substr(slash + 1);
    if (verb == "force" && r.method == "POST") return force_vm(app, r, name);
    if (verb == "release" && r.method == "POST") {
        AwayVm* staged = app.away().find(name);
        if (staged == nullptr)
            return error_response(
                make_error(Errc::not_found, "vm '" + name + "' is not staged here"));
        evacuation::AwayEvent event;
        event.kind = evacuation::AwayEventKind::release_hold;
        if (const auto* handover = app.desk().find(staged->id))
            event.handover = handover->record().handover;
        auto acts = app.desk().handle(staged->id, event, app.now());
        if (!acts.ok()) return error_response(acts.error());
        app.execute(std::move(acts));
        return json_response(202, Json::object());
    }
    HomeVm* vm = app.home().find(name);
    if (vm == nullptr)
        return error_response(make_error(Errc::not_found, "vm '" + name + "' is not enrolled"));
    if (verb.empty() && r.method == "GET") return json_response(200, vm_json(app, *vm));
    if (verb.empty() && r.method == "DELETE") return status_response(app.home().remove(name));
    return json_response(
        405, {{"error", "method: GET, DELETE, or POST .../release or .../force are accepted"}});
}

HttpResponse evacuate(App& app, const HttpRequest& r) {
    Fields fields(r.body);
    EvacuateRequest request;
    request.reason = fields.text("reason", "by the operator");
    request.event_id = fields.text("event", "operator-" + random_hex(4));
    request.planned = fields.flag("planned");
    request.hold_landing = fields.flag("hold_landing");
    request.deadline_s = fields.number("deadline_s", 0, 0, 1e9);
    request.vms = fields.texts("vms");
    const Status checked = fields.finish();
    if (!checked.ok()) return error_response(checked.error());
    const Status ordered = app.evacuate(request);
    const bool stands = app.standing_order() != nullptr && request.vms.empty();
    const std::string waits_for = stands ? app.waits_for() : "";
    const std::string event = waits_for.empty() ? app.coordinator().event_id() : request.event_id;
    return status_response(ordered, {{"event", event}, {"waits_for", waits_for}});
}

HttpResponse test_link(App& app, const HttpRequest& r) {
    Fields fields(r.body);
    const double seconds = fields.number("seconds", 10, kLinkTestSecondsMin, kLinkTestSecondsMax);
    const Status checked = fields.finish();
    if (!checked.ok()) return error_response(checked.error());
    const auto stage = app.coordinator().stage();
    if (stage == evacuation::Stage::armed || stage == evacuation::Stage::evacuating ||
        app.standing_order() != nullptr) {
        return error_response(
            make_error(Errc::refused, "an evacuation is armed or under way: the line is needed"));
    }
    return status_response(app.link_desk().start(seconds));
}

HttpResponse plan(App& app) {
    const planner::PlanOutput* plan = app.plans().recent();
    if (plan == nullptr) {
        return error_response(app.home().vms().empty()
                                  ? make_error(Errc::refused, "no VM is enrolled: nothing to plan")
                                  : make_error(Errc::unavailable, "no plan yet, try again"));
    }
    return json_response(200, {{"age_s", app.plans().recent_age_s()},
                               {"plan", Json::parse(plan->json())},
                               {"table", plan->table()},
                               {"feasible", plan->feasible()}});
}

}  // namespace

HttpResponse serve_api(App& app, const HttpRequest& r) {
    const std::string& path = r.path;
    const bool get = r.method == "GET";
    const bool post = r.method == "POST";
    if (path == "/v1/status" && get) return json_response(200, status_json(app));
    if (path == "/v1/plan" && get) return plan(app);
    if (path == "/v1/inventory" && get) {
        return {200, planner::to_json(app.inventory()) + "\n", "application/json", {}};
    }
    if (path == "/v1/link" && get) {
        return json_response(200, app.link_desk().link_json(app.peer_port_name()));
    }
    if (path == "/v1/link/test" && get) return json_response(200, app.link_desk().result());
    if (path == "/v1/link/test" && post) return test_link(app, r);
    if (path == "/v1/vms" && get) return json_response(200, status_json(app)["vms"]);
    if (path == "/v1/vms" && post) return add_vm(app, r);
    if (path.rfind("/v1/vms/", 0) == 0) return vm_route(app, r, path.substr(8));
    if (path == "/v1/evacuation" && get) return json_response(200, evacuation_json(app));
    if (path == "/v1/evacuation" && post) return evacuate(app, r);
    if (path == "/v1/evacuation" && r.method == "DELETE")
        return status_response(app.cancel_evacuation(""));
    if (path == "/v1/reports" && get) return json_response(200, app.reports().list());
    if (path.rfind("/v1/reports/", 0) == 0 && get) {
        auto report = app.reports().find(path.substr(12));
        return report.ok() ? json_response(200, *report) : error_response(report.error());
    }
    if (path == "/v1/doctor" && get) return json_response(200, doctor_json(app));
    if (path == "/v1/alerts" && get) {
        Json list = Json::array();
        for (const auto& e : app.alerts().entries()) {
            list.push_back({{"unix_ms", e.unix_ms},
                            {"event", e.event_id},
                            {"title", e.title},
                            {"reality", e.reality},
                            {"action", e.action},
                            {"reason", e.reason}});
        }
        return json_response(200, list);
    }
    if (path == "/v1/alerts/test" && post) {
        auto tested = app.alerts().self_test();
        if (!tested.ok()) return error_response(tested.error());
        return json_response(200, {{"result", *tested}});
    }
    return json_response(404,
                         {{"error", "path: '" + path + "' with " + r.method + " is not known"}});
}

}  // namespace evac::daemon
