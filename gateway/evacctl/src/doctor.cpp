#include <cstdio>

#include "verbs.hpp"

namespace evac::ctl {

void add_doctor(CLI::App& cli, Context& context) {
    auto* verb = cli.add_subcommand("doctor", "what is not as it should be, and what to do");
    verb->callback([&context] {
        context.chosen = [&context]() -> int {
            auto reply = context.client().get("/v1/doctor");
            if (!reply.ok()) return fail(reply.error());
            bool all = true;
            for (const auto& check : reply->body["checks"]) all = all && check["ok"].get<bool>();
            if (context.json()) {
                print_json(reply->body);
                return all ? kOk : kPartial;
            }
            for (const auto& check : reply->body["checks"]) {
                std::printf("%-4s %s: %s\n", check["ok"].get<bool>() ? "ok" : "BAD",
                            check["check"].get<std::string>().c_str(),
                            check["detail"].get<std::string>().c_str());
            }
            return all ? kOk : kPartial;
        };
    });
}

}  // namespace evac::ctl
