#include <cstdio>
#include <ctime>

#include "table.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

std::string number_or_dash(const Json& object, const char* field, int digits) {
    return object.contains(field) && object[field].is_number()
               ? decimal(object[field].get<double>(), digits)
               : "-";
}

std::string signed_or_dash(const Json& object, const char* field, int digits) {
    const std::string text = number_or_dash(object, field, digits);
    return text == "-" || text.front() == '-' ? text : "+" + text;
}

std::string when(const Json& report) {
    const std::time_t seconds = report["since_unix_ms"].get<int64_t>() / 1000;
    std::tm utc{};
    ::gmtime_r(&seconds, &utc);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%SZ", &utc);
    return text;
}

int list(const Context& context) {
    auto reply = context.client().get("/v1/reports");
    if (!reply.ok()) return fail(reply.error());
    if (context.json()) return print_json(reply->body);
    Table table({"ID", "WHEN", "EVENT", "VMS", "MOVED", "PREDICTED s", "ACTUAL s", "ERROR s",
                 "ERROR %", "PER VM s"});
    for (const auto& r : reply->body) {
        table.add({r["id"], when(r), r["event"], number_or_dash(r, "vms", 0),
                   number_or_dash(r, "moved", 0), number_or_dash(r, "predicted_makespan_s", 2),
                   number_or_dash(r, "actual_makespan_s", 2), signed_or_dash(r, "error_s", 2),
                   signed_or_dash(r, "error_pct", 1), number_or_dash(r, "vm_error_mean_s", 2)});
    }
    std::printf("%s", table.text().c_str());
    return kOk;
}

int show(const Context& context, const std::string& id) {
    auto reply = context.client().get("/v1/reports/" + path_step(id));
    if (!reply.ok()) return fail(reply.error());
    const Json& r = reply->body;
    if (context.json()) return print_json(r);
    std::printf("Evacuation %s (%s), %s: %s moved, %s returned, %s stuck\n",
                r["event"].get<std::string>().c_str(), r["reason"].get<std::string>().c_str(),
                when(r).c_str(), number_or_dash(r, "moved", 0).c_str(),
                number_or_dash(r, "returned", 0).c_str(), number_or_dash(r, "stuck", 0).c_str());
    std::printf("predicted    %s s, actual %s s: error %s s (%s %%)\n",
                number_or_dash(r, "predicted_makespan_s", 2).c_str(),
                number_or_dash(r, "actual_makespan_s", 2).c_str(),
                signed_or_dash(r, "error_s", 2).c_str(), signed_or_dash(r, "error_pct", 1).c_str());
    std::printf("per VM       off by %s s on average, at worst %s s\n",
                number_or_dash(r, "vm_error_mean_s", 2).c_str(),
                signed_or_dash(r, "vm_error_worst_s", 2).c_str());
    if (r.contains("replans")) {
        for (const auto& replan : r["replans"]) {
            std::printf("re-planned   at %s s: %s\n", number_or_dash(replan, "at_s", 1).c_str(),
                        replan["text"].get<std::string>().c_str());
        }
    }
    Table table({"VM", "OUTCOME", "PREDICTED s", "AWAY s", "ERROR s", "PREDICTED DOWN ms",
                 "DOWNTIME ms", "WIRE MiB"});
    for (const auto& vm : r["vms"]) {
        table.add({vm["name"], vm["outcome"], number_or_dash(vm, "predicted_away_s", 2),
                   number_or_dash(vm, "away_s", 2), signed_or_dash(vm, "error_s", 2),
                   number_or_dash(vm, "predicted_downtime_ms", 0),
                   number_or_dash(vm, "downtime_ms", 0), number_or_dash(vm, "wire_mib", 2)});
    }
    std::printf("\n%s", table.text().c_str());
    return kOk;
}

}  // namespace

void add_report(CLI::App& cli, Context& context) {
    struct Options {
        std::string id = "last";
        bool list = false;
    };
    auto options = std::make_shared<Options>();
    auto* verb = cli.add_subcommand(
        "report", "what was predicted for an evacuation, and what came: per VM and in all");
    verb->add_option("ID", options->id, "of the list; or last")->capture_default_str();
    verb->add_flag("--list", options->list, "all that are kept");
    verb->callback([&context, options] {
        context.chosen = [&context, options] {
            return options->list ? list(context) : show(context, options->id);
        };
    });
}

}  // namespace evac::ctl
