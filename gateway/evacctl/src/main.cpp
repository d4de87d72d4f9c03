// evacctl: the operator's command. Exit codes: 0 ok, 1 error, 2 usage, 3 infeasible or deadline
// missed, 4 partial.
#include <cstdio>

#include "verbs.hpp"

namespace evac::ctl {

int fail(const Error& error) {
    std::fprintf(stderr, "evacctl: %s\n", error.context.c_str());
    return error.code == Errc::invalid_argument ? kUsage : kError;
}

int print_json(const Json& value) {
    std::printf("%s\n", value.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
    return kOk;
}

}  // namespace evac::ctl

int main(int argc, char** argv) {
    using namespace evac::ctl;
    CLI::App cli{"evacctl: status, plan and control of the evacuation gateway"};
    Context context;
    cli.require_subcommand(1);
    cli.fallthrough();
    cli.add_option("--socket", context.socket_path, "API socket of evacgwd")->capture_default_str();
    cli.add_option("-o,--output", context.output, "table or json")
        ->check(CLI::IsMember({"table", "json"}));
    cli.set_version_flag("--version", "evacctl " EVAC_VERSION);
    add_status(cli, context);
    add_plan(cli, context);
    add_simulate(cli, context);
    add_vm(cli, context);
    add_evacuate(cli, context);
    add_evacuation(cli, context);
    add_abort(cli, context);
    add_alert(cli, context);
    add_report(cli, context);
    add_link(cli, context);
    add_doctor(cli, context);
    try {
        cli.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
        return cli.exit(e) == 0 ? kOk : kUsage;
    }
    return context.chosen ? context.chosen() : kUsage;
}
