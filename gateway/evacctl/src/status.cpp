#include <cstdio>

#include "table.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

std::string number_or_dash(const Json& value, int digits) {
    return value.is_number() ? decimal(value.get<double>(), digits) : "-";
}

void print_evacuability(const Json& status) {
    if (!status.contains("evacuability")) return;
    const Json& now = status["evacuability"];
    std::string windows;
    for (const auto& window : now["windows"]) {
        windows += (windows.empty() ? "" : ", ") + std::to_string(window["vms"].get<int>()) +
                   " VMs in " + decimal(window["window_s"].get<double>() / 60, 0) + " min";
        if (window["weight"] != now["weight"]) {
            windows += " (weight " + decimal(window["weight"].get<double>(), 0) + " of " +
                       decimal(now["weight"].get<double>(), 0) + ")";
        }
    }
    std::printf("If the alert came now: all out in %.1f s (%s), measured %.0f s ago\n",
                now["makespan_s"].get<double>(), windows.c_str(), now["age_s"].get<double>());
}

// How each VM is captured, what it writes, and what reduction took of its pages.
void print_prestaging(const Json& vms) {
    Table table({"VM", "METHOD", "WRITES MiB IN 5 s", "60 s", "ZERO %", "REFERENCE %", "SHIFTED %",
                 "DELTA %", "LITERAL %", "SAVED MiB"});
    for (const auto& vm : vms) {
        double zero = 0, reference = 0, shifted = 0, delta = 0, literal = 0, saved_mib = 0;
        for (const auto& rung : vm["rungs"]) {
            const std::string name = rung["rung"];
            const double share = rung["share_pct"];
            saved_mib += rung["saved_mib"].get<double>();
            (name == "zero"                    ? zero
             : name.rfind("reference", 0) == 0 ? reference
             : name.rfind("shifted", 0) == 0   ? shifted
             : name.rfind("delta", 0) == 0     ? delta
                                               : literal) += share;
        }
        const Json& dirty = vm["dirty"];
        table.add({vm["name"], vm["method"], number_or_dash(dirty["after_5s_mib"], 1),
                   number_or_dash(dirty["after_60s_mib"], 1), decimal(zero, 1),
                   decimal(reference, 1), decimal(shifted, 1), decimal(delta, 1),
                   decimal(literal, 1), decimal(saved_mib, 1)});
    }
    std::printf("\nPrestaging (pages by rung of reduction; more: evacctl vm show NAME)\n%s",
                table.text().c_str());
}

int run(const Context& context) {
    auto reply = context.client().get("/v1/status");
    if (!reply.ok()) return fail(reply.error());
    const Json& s = reply->body;
    if (context.json()) return print_json(s);
    const Json& link = s["link"];
    std::printf(
        "Site %s, peer %s: %s, round trip %.1f ms, %.1f Mbit/s seen, loss %.2f %%, over %s\n",
        s["site"].get<std::string>().c_str(), s["peer"].get<std::string>().c_str(),
        s["peer_connected"].get<bool>() ? "connected" : "NOT CONNECTED",
        link["rtt_ms"].get<double>(), link["delivery_mbit"].get<double>(),
        link["loss_pct"].get<double>(), link["port"].get<std::string>().c_str());
    std::printf("Rule in force: %s%s\n", s["policy"].get<std::string>().c_str(),
                s["policy"] == "evacuation"
                    ? (": once sealed, away may run after " +
                       decimal(s["silence_s"].get<double>(), 0) + " s of silence")
                          .c_str()
                    : ": away never runs without an explicit commit");
    print_evacuability(s);
    if (!s["vms"].empty()) {
        Table table({"VM", "STATE", "RPO s", "24h MAX s", "IN TARGET %", "BACKLOG MiB", "DRAIN s",
                     "COPY MiB", "WIRE MiB", "ROUNDS", "PAUSE ms", "MAX ms", "DETAIL"});
        for (const auto& vm : s["vms"]) {
            const Json& day = vm["rpo_24h"];
            table.add({vm["name"], vm["state"], number_or_dash(vm["rpo_s"], 1),
                       number_or_dash(day["max_s"], 1), number_or_dash(day["within_pct"], 1),
                       decimal(vm["backlog_mib"], 1), number_or_dash(vm["backlog_s"], 1),
                       decimal(vm["staged_mib"], 0), decimal(vm["wire_mib"], 1),
                       std::to_string(vm["rounds"].get<int>()), decimal(vm["pause_ms_median"], 1),
                       decimal(vm["pause_ms_max"], 1), vm["detail"]});
        }
        std::printf("\nHome here\n%s", table.text().c_str());
        print_prestaging(s["vms"]);
        if (s["rpo_stretch"].get<double>() > 1) {
            std::printf(
                "Not all RPO targets can be kept within the CPU share and on this line: they "
                "are stretched up to %.1f times, by priority\n",
                s["rpo_stretch"].get<double>());
        }
    }
    if (!s["staged"].empty()) {
        Table table({"VM", "STATE", "RECOVERY POINT", "AGE s", "OWN", "DETAIL"});
        for (const auto& vm : s["staged"]) {
            table.add({vm["name"], vm["state"], std::to_string(vm["sealed_epoch"].get<int>()),
                       number_or_dash(vm["point_age_s"], 0), vm["own"].get<bool>() ? "yes" : "no",
                       vm["detail"]});
        }
        std::printf("\nStaged here for %s\n%s", s["peer"].get<std::string>().c_str(),
                    table.text().c_str());
    }
    if (s["evacuation"].is_object()) std::printf("\n%s", evacuation_table(s["evacuation"]).c_str());
    return kOk;
}

}  // namespace

void add_status(CLI::App& cli, Context& context) {
    auto* verb = cli.add_subcommand(
        "status", "protection of every VM, the link, and what an alert would mean now");
    verb->callback([&context] { context.chosen = [&context] { return run(context); }; });
}

}  // namespace evac::ctl
