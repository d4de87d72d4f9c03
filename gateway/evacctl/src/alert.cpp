#include <cstdio>

#include "verbs.hpp"

namespace evac::ctl {

void add_alert(CLI::App& cli, Context& context) {
    auto* alert = cli.add_subcommand("alert", "alerts");
    alert->require_subcommand(1);
    auto* test = alert->add_subcommand(
        "test", "send a test alert through parser and rules; it can never move a VM");
    test->callback([&context] {
        context.chosen = [&context]() -> int {
            auto reply = context.client().post("/v1/alerts/test", Json::object());
            if (!reply.ok()) return fail(reply.error());
            if (context.json()) return print_json(reply->body);
            std::printf("%s\n", reply->body["result"].get<std::string>().c_str());
            return kOk;
        };
    });
    auto* list = alert->add_subcommand("list", "what came in, and what was made of it");
    list->callback([&context] {
        context.chosen = [&context]() -> int {
            auto reply = context.client().get("/v1/alerts");
            if (!reply.ok()) return fail(reply.error());
            if (context.json()) return print_json(reply->body);
            for (const auto& entry : reply->body) {
                std::printf("%s  %s  %s: %s\n", entry["event"].get<std::string>().c_str(),
                            entry["reality"].get<std::string>().c_str(),
                            entry["action"].get<std::string>().c_str(),
                            entry["reason"].get<std::string>().c_str());
            }
            return kOk;
        };
    });
}

}  // namespace evac::ctl
