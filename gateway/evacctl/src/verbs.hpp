#pragma once
// One file per verb: each adds its subcommand and, when chosen, runs and returns the exit code.
#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "client.hpp"
#include "evac/core/result.hpp"

namespace evac::ctl {

// Documented exit codes (docs/evacctl.md).
enum Exit : int { kOk = 0, kError = 1, kUsage = 2, kInfeasible = 3, kPartial = 4 };

struct Context {
    std::string socket_path = "/run/evacgw/api.sock";
    std::string output = "table";
    std::function<int()> chosen;

    Client client() const { return Client(socket_path); }
    bool json() const { return output == "json"; }
};

// Prints the error on standard error; usage for invalid arguments, else error.
int fail(const Error& error);
int print_json(const Json& value);

void add_status(CLI::App& cli, Context& context);
void add_plan(CLI::App& cli, Context& context);
void add_simulate(CLI::App& cli, Context& context);
void add_vm(CLI::App& cli, Context& context);
void add_evacuate(CLI::App& cli, Context& context);
void add_evacuation(CLI::App& cli, Context& context);
void add_abort(CLI::App& cli, Context& context);
void add_alert(CLI::App& cli, Context& context);
void add_doctor(CLI::App& cli, Context& context);
void add_link(CLI::App& cli, Context& context);
void add_report(CLI::App& cli, Context& context);

// Shows a running evacuation until it is finished; the exit code says how it ended.
int follow_evacuation(const Context& context, double seconds_max, bool until_held);
std::string evacuation_table(const Json& evacuation);

}  // namespace evac::ctl
