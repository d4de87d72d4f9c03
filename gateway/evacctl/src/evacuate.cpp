#include <unistd.h>

#include <cstdio>

#include "table.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

constexpr double kPollS = 0.2;

struct Options {
    std::string reason = "by the operator";
    std::vector<std::string> vms;
    bool planned = false;
    bool hold_landing = false;
    bool no_wait = false;
    double wait_s = 3600;
    double deadline_s = 0;
};

int evacuate(const Context& context, const Options& options) {
    Json body{{"reason", options.reason},
              {"planned", options.planned},
              {"hold_landing", options.hold_landing}};
    if (options.deadline_s > 0) body["deadline_s"] = options.deadline_s;
    if (!options.vms.empty()) body["vms"] = options.vms;
    auto reply = context.client().post("/v1/evacuation", body);
    if (!reply.ok()) return fail(reply.error());
    const std::string event = reply->body["event"];
    const std::string waits_for = reply->body["waits_for"];
    if (!waits_for.empty()) {
        std::fprintf(stderr, "evacctl: evacuation %s is ordered, and waits: %s\n", event.c_str(),
                     waits_for.c_str());
    }
    if (options.no_wait) {
        if (waits_for.empty()) std::printf("evacuation %s has begun\n", event.c_str());
        return waits_for.empty() ? kOk : kPartial;
    }
    return follow_evacuation(context, options.wait_s, options.hold_landing);
}

int exit_code(const Json& evacuation) {
    const bool all = evacuation["stuck"].get<int>() == 0 &&
                     evacuation["returned"].get<int>() == 0 && evacuation["left"].empty();
    if (all) return kOk;
    return evacuation["moved"].get<int>() == 0 ? kError : kPartial;
}

}  // namespace

std::string evacuation_table(const Json& e) {
    Table table(
        {"VM", "STATE", "OUTCOME", "AWAY s", "PREDICTED s", "DOWNTIME ms", "WIRE MiB", "DETAIL"});
    for (const auto& vm : e["vms"]) {
        table.add({vm["name"], vm["state"], vm["outcome"],
                   vm["away_s"].is_number() ? decimal(vm["away_s"], 2) : "-",
                   decimal(vm["predicted_away_s"], 2), decimal(vm["downtime_ms"], 0),
                   decimal(vm.value("wire_mib", 0.0), 2), vm["detail"]});
    }
    std::string head = "Evacuation " + e["event"].get<std::string>() + " (" +
                       e["reason"].get<std::string>() + "): " + e["stage"].get<std::string>() +
                       ", " + std::to_string(e["moved"].get<int>()) + " moved, " +
                       std::to_string(e["moving"].get<int>()) + " moving, " +
                       std::to_string(e["waiting"].get<int>()) + " waiting, " +
                       std::to_string(e["returned"].get<int>()) + " returned, " +
                       std::to_string(e["stuck"].get<int>()) + " stuck\n";
    if (e["finished"].get<bool>() && e["alert_to_last_running_s"].get<double>() > 0) {
        head += "Alert to last VM running away: " + decimal(e["alert_to_last_running_s"], 2) +
                " s (predicted " + decimal(e["predicted_makespan_s"], 2) + " s), " +
                decimal(e["wire_mib_after_alert"], 2) + " MiB on the wire\n";
    }
    if (!e["waits_for"].get<std::string>().empty())
        head += "It waits: " + e["waits_for"].get<std::string>() + "\n";
    std::string left;
    for (const auto& vm : e["left"]) {
        left += "Not part of it: " + vm["name"].get<std::string>() + " (" +
                vm["why"].get<std::string>() + ")\n";
    }
    return head + table.text() + left;
}

int follow_evacuation(const Context& context, double seconds_max, bool until_held) {
    const bool live = ::isatty(1) != 0 && !context.json();
    Json last;
    for (double waited_s = 0; waited_s < seconds_max; waited_s += kPollS) {
        auto reply = context.client().get("/v1/evacuation");
        if (!reply.ok()) return fail(reply.error());
        last = reply->body;
        if (!last.is_object()) {
            std::fprintf(stderr, "evacctl: no evacuation is under way\n");
            return kError;
        }
        bool all_held = until_held;
        for (const auto& vm : last["vms"]) {
            all_held = all_held && (vm["landed_paused"].get<bool>() || vm["outcome"] == "moved" ||
                                    vm["outcome"] == "returned");
        }
        all_held = all_held && !last["vms"].empty();
        const bool done = last["finished"].get<bool>() || all_held;
        if (live) {
            std::printf("\r%d of %zu away, %d moving   ", last["moved"].get<int>(),
                        last["vms"].size(), last["moving"].get<int>());
            std::fflush(stdout);
        }
        if (done) {
            if (live) std::printf("\n");
            if (context.json()) {
                print_json(last);
            } else {
                std::printf("%s", evacuation_table(last).c_str());
            }
            return exit_code(last);
        }
        ::usleep(static_cast<useconds_t>(kPollS * 1e6));
    }
    std::fprintf(stderr, "evacctl: still under way after %.0f s; it goes on\n", seconds_max);
    return kPartial;
}

void add_evacuate(CLI::App& cli, Context& context) {
    auto options = std::make_shared<Options>();
    auto* verb = cli.add_subcommand("evacuate", "move the protected VMs to the peer now");
    verb->add_option("vms", options->vms, "only these; all when none is named");
    verb->add_option("--reason", options->reason, "for the record");
    verb->add_flag("--planned", options->planned,
                   "a planned move: the peer never runs a VM without our explicit commit");
    verb->add_flag("--hold-landing", options->hold_landing,
                   "land paused; `evacctl vm release` at the peer lets each run");
    verb->add_flag("--no-wait", options->no_wait, "do not wait for the end");
    verb->add_option("--deadline", options->deadline_s,
                     "seconds until the site may be dark: the order saves the most by then");
    verb->add_option("--wait", options->wait_s, "seconds to wait at most");
    verb->callback([&context, options] {
        context.chosen = [&context, options] { return evacuate(context, *options); };
    });
}

void add_evacuation(CLI::App& cli, Context& context) {
    auto* verb = cli.add_subcommand("evacuation", "the present or last evacuation");
    auto follow = std::make_shared<bool>(false);
    verb->add_flag("--follow", *follow, "until it is finished");
    verb->callback([&context, follow] {
        context.chosen = [&context, follow]() -> int {
            if (*follow) return follow_evacuation(context, 86'400, false);
            auto reply = context.client().get("/v1/evacuation");
            if (!reply.ok()) return fail(reply.error());
            if (context.json()) return print_json(reply->body);
            if (!reply->body.is_object()) {
                std::printf("There was no evacuation.\n");
                return kOk;
            }
            std::printf("%s", evacuation_table(reply->body).c_str());
            return reply->body["finished"].get<bool>() ? exit_code(reply->body) : kOk;
        };
    });
}

void add_abort(CLI::App& cli, Context& context) {
    auto* verb = cli.add_subcommand(
        "abort", "call the evacuation off: what is not yet committed stays or goes back");
    verb->callback([&context] {
        context.chosen = [&context]() -> int {
            auto reply = context.client().remove("/v1/evacuation");
            if (!reply.ok()) return fail(reply.error());
            auto evacuation = context.client().get("/v1/evacuation");
            if (!evacuation.ok()) return fail(evacuation.error());
            if (!evacuation->body.is_object()) {
                std::printf("Called off before any VM was moved.\n");
                return kOk;
            }
            return follow_evacuation(context, 60, false) == kError ? kError : kOk;
        };
    });
}

}  // namespace evac::ctl
