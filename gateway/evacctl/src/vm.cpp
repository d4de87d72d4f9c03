#include <unistd.h>

#include <cstdio>

#include "table.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

constexpr double kPollS = 0.2;

struct AddOptions {
    std::string name, qmp;
    std::string capture = "auto";
    double priority = 1;
    double max_downtime_ms = 1000;
    double rpo_s = 0;  // the daemon's
    double wait_s = 60;
};

// Waits until the VM is accepted by both sites, or says why it is not.
int add(const Context& context, const AddOptions& options) {
    const Client client = context.client();
    auto reply = client.post("/v1/vms", {{"name", options.name},
                                         {"qmp", options.qmp},
                                         {"priority", options.priority},
                                         {"max_downtime_ms", options.max_downtime_ms},
                                         {"rpo_target_s", options.rpo_s},
                                         {"capture", options.capture}});
    if (!reply.ok()) return fail(reply.error());
    Json vm = reply->body;
    for (double waited_s = 0; waited_s < options.wait_s; waited_s += kPollS) {
        auto now = client.get("/v1/vms/" + path_step(options.name));
        if (!now.ok()) return fail(now.error());
        vm = now->body;
        const std::string phase = vm["phase"];
        if (phase == "active" || phase == "syncing") {
            if (context.json()) return print_json(vm);
            std::printf("%s: enrolled, %.0f MiB of memory, %zu disks, method: %s (%s)\n",
                        options.name.c_str(), vm["memory_mib"].get<double>(), vm["disks"].size(),
                        vm["method"].get<std::string>().c_str(),
                        vm["method_why"].get<std::string>().c_str());
            return kOk;
        }
        if (phase == "refused" ||
            (phase == "offline" && !vm["detail"].get<std::string>().empty())) {
            // Nothing half-applied: what was refused is not kept.
            static_cast<void>(client.remove("/v1/vms/" + path_step(options.name)).ok());
            std::fprintf(stderr, "evacctl: vm '%s' cannot be protected: %s\n", options.name.c_str(),
                         vm["detail"].get<std::string>().c_str());
            return kError;
        }
        ::usleep(static_cast<useconds_t>(kPollS * 1e6));
    }
    std::fprintf(
        stderr, "evacctl: vm '%s' is known but not yet accepted (%s); the gateway goes on trying\n",
        options.name.c_str(), vm["phase"].get<std::string>().c_str());
    return kPartial;
}

int list(const Context& context) {
    auto reply = context.client().get("/v1/vms");
    if (!reply.ok()) return fail(reply.error());
    if (context.json()) return print_json(reply->body);
    Table table({"VM", "STATE", "PRIORITY", "MEMORY MiB", "DISKS", "QMP"});
    for (const auto& vm : reply->body) {
        table.add({vm["name"], vm["state"], decimal(vm["priority"], 0),
                   decimal(vm["memory_mib"], 0), std::to_string(vm["disks"].size()), vm["qmp"]});
    }
    std::printf("%s", table.text().c_str());
    return kOk;
}

std::string shown(const Json& value) {
    if (value.is_null()) return "-";
    return value.is_string() ? value.get<std::string>() : value.dump();
}

void print_rungs(const Json& rungs) {
    Table table({"RUNG", "PAGES", "SHARE %", "RAW MiB", "WIRE MiB", "SAVED MiB"});
    for (const auto& rung : rungs) {
        table.add({rung["rung"], std::to_string(rung["pages"].get<uint64_t>()),
                   decimal(rung["share_pct"], 1), decimal(rung["raw_mib"], 1),
                   decimal(rung["wire_mib"], 1), decimal(rung["saved_mib"], 1)});
    }
    std::printf("\nrungs\n%s", table.text().c_str());
}

int show(const Context& context, const std::string& name) {
    auto reply = context.client().get("/v1/vms/" + path_step(name));
    if (!reply.ok()) return fail(reply.error());
    if (context.json()) return print_json(reply->body);
    const Json& vm = reply->body;
    for (const auto& [key, value] : vm.items()) {
        if (!value.is_structured()) std::printf("%-20s %s\n", key.c_str(), shown(value).c_str());
    }
    for (const auto& r : vm["method_rejected"]) {
        std::printf("%-20s %s: %s\n", "method not taken", shown(r["method"]).c_str(),
                    shown(r["why"]).c_str());
    }
    for (const auto& disk : vm["disks"]) {
        std::printf("%-20s %s, %.0f MiB\n", "disk", shown(disk["name"]).c_str(),
                    disk["mib"].get<double>());
    }
    for (const char* group : {"rpo_24h", "dirty", "pacing"}) {
        std::printf("\n%s\n", group);
        for (const auto& [key, value] : vm[group].items()) {
            if (!value.is_structured())
                std::printf("  %-18s %s\n", key.c_str(), shown(value).c_str());
        }
    }
    for (const auto& term : vm["dirty"]["terms"]) {
        std::printf("  %-18s W %.1f MiB, r %.2f MiB/s\n", "term",
                    term["working_set_mib"].get<double>(), term["rate_mib_s"].get<double>());
    }
    print_rungs(vm["rungs"]);
    return kOk;
}

int simple(const Result<Reply>& reply, const std::string& text) {
    if (!reply.ok()) return fail(reply.error());
    std::printf("%s\n", text.c_str());
    return kOk;
}

}  // namespace

void add_vm(CLI::App& cli, Context& context) {
    auto* vm = cli.add_subcommand("vm", "VMs under protection");
    vm->require_subcommand(1);
    auto options = std::make_shared<AddOptions>();
    auto* add_verb = vm->add_subcommand("add", "protect a running VM");
    add_verb->add_option("name", options->name, "name: letters, digits, . _ -")->required();
    add_verb->add_option("--qmp", options->qmp, "its QMP Unix socket, for the gateway alone")
        ->required();
    add_verb->add_option("--priority", options->priority, "weight, 1 or more");
    add_verb->add_option("--max-downtime-ms", options->max_downtime_ms,
                         "limit of its pause in a handover");
    add_verb->add_option("--rpo", options->rpo_s,
                         "its recovery point gets no older, seconds; 0 = as configured");
    add_verb->add_option("--capture", options->capture,
                         "auto, or only so: mapped, sealed, continuous, stopped");
    add_verb->add_option("--wait", options->wait_s, "seconds to wait for both sites' word");
    add_verb->callback([&context, options] {
        context.chosen = [&context, options] { return add(context, *options); };
    });
    vm->add_subcommand("list", "all VMs")->callback([&context] {
        context.chosen = [&context] { return list(context); };
    });
    auto name = std::make_shared<std::string>();
    auto* show_verb = vm->add_subcommand("show", "one VM, all that is known");
    show_verb->add_option("name", *name)->required();
    show_verb->callback(
        [&context, name] { context.chosen = [&context, name] { return show(context, *name); }; });
    auto* remove_verb =
        vm->add_subcommand("remove", "end the protection of a VM; its copy at the peer is deleted");
    remove_verb->add_option("name", *name)->required();
    remove_verb->callback([&context, name] {
        context.chosen = [&context, name] {
            return simple(context.client().remove("/v1/vms/" + path_step(*name)),
                          *name + ": removed");
        };
    });
    auto action = std::make_shared<std::string>();
    auto confirm = std::make_shared<std::string>();
    auto* force_verb =
        vm->add_subcommand("force", "decide where the gateway must not: see docs/evacctl.md first");
    force_verb
        ->add_option("action", *action,
                     "at the VM's home: resume, yield; away: run, give-back, release, drop")
        ->required();
    force_verb->add_option("name", *name)->required();
    force_verb->add_option("--confirm", *confirm,
                           "the VM's name again; without it, says what the act means");
    force_verb->callback([&context, name, action, confirm] {
        context.chosen = [&context, name, action, confirm] {
            const Json body{{"action", *action}, {"confirm", *confirm}};
            return simple(
                context.client().post("/v1/vms/" + path_step(*name) + "/force", body),
                *name + ": " + *action + " is forced; evacctl status shows what comes of it");
        };
    });
    auto* release_verb = vm->add_subcommand(
        "release", "let a landing that is held paused run (at the site where it landed)");
    release_verb->add_option("name", *name)->required();
    release_verb->callback([&context, name] {
        context.chosen = [&context, name] {
            return simple(
                context.client().post("/v1/vms/" + path_step(*name) + "/release", Json::object()),
                *name + ": released");
        };
    });
}

}  // namespace evac::ctl
