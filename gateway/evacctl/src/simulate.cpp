#include "evac/planner/simulate.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "evac/core/clock.hpp"
#include "evac/planner/simulate_report.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

struct Options {
    std::string inventory, scenario, report;
    std::optional<uint64_t> seeds;
};

Result<std::string> text_of(const std::string& option, const std::string& path) {
    std::error_code unknown;
    std::ifstream file(path, std::ios::binary);
    // Reading a directory throws; a device may never end.
    if (!file || !std::filesystem::is_regular_file(path, unknown)) {
        return make_error(
            Errc::invalid_argument,
            option + ": '" + path + "' cannot be read; the path of a JSON file is accepted");
    }
    return std::string{std::istreambuf_iterator<char>(file), {}};
}

Result<planner::Scenario> scenario_of(const Options& options) {
    const auto text = text_of("--scenario", options.scenario);
    EVAC_TRY(text);
    auto scenario = planner::parse_scenario(*text);
    EVAC_TRY(scenario);
    if (options.seeds) {
        if (*options.seeds < 1 || *options.seeds > planner::kSeedsMax) {
            return make_error(Errc::invalid_argument,
                              "--seeds: " + std::to_string(*options.seeds) +
                                  " is refused; accepted: a whole number from 1 to " +
                                  std::to_string(planner::kSeedsMax));
        }
        scenario->seeds = *options.seeds;
    }
    return scenario;
}

// On a terminal only, and on standard error: the result is what goes to standard output.
planner::SimulationProgress progress_bar() {
    if (isatty(STDERR_FILENO) == 0) return {};
    return [](size_t done, size_t total) {
        std::fprintf(stderr, "\revacctl: %zu of %zu evacuations%s", done, total,
                     done == total ? "\n" : "");
    };
}

int run(const Context& context, const Options& options) {
    const auto inventory_text = text_of("--inventory", options.inventory);
    if (!inventory_text.ok()) return fail(inventory_text.error());
    const auto inventory = planner::parse_inventory(*inventory_text);
    if (!inventory.ok()) return fail(inventory.error());
    const auto scenario = scenario_of(options);
    if (!scenario.ok()) return fail(scenario.error());
    const SystemClock clock;
    const auto simulation = planner::simulate(*inventory, *scenario, clock, progress_bar());
    if (!simulation.ok()) return fail(simulation.error());
    if (!options.report.empty()) {
        std::ofstream file(options.report);
        file << planner::simulation_to_html(*simulation);
        if (!file.flush()) {
            return fail(
                make_error(Errc::io, "--report: '" + options.report + "' cannot be written"));
        }
    }
    const std::string out = context.json() ? planner::simulation_to_json(*simulation)
                                           : planner::simulation_to_table(*simulation);
    std::printf("%s", out.c_str());
    return simulation->feasible() ? kOk : kInfeasible;
}

}  // namespace

void add_simulate(CLI::App& cli, Context& context) {
    auto options = std::make_shared<Options>();
    auto* verb = cli.add_subcommand(
        "simulate", "plays evacuations of an inventory in virtual time, without a daemon");
    verb->add_option("--inventory", options->inventory, "as of plan --save-inventory")->required();
    verb->add_option("--scenario", options->scenario, "what happens (docs/simulation.md)")
        ->required();
    verb->add_option("--seeds", options->seeds, "so many evacuations, instead of the scenario's");
    verb->add_option("--report", options->report, "write a page with plots (HTML)");
    verb->callback([&context, options] {
        context.chosen = [&context, options] { return run(context, *options); };
    });
}

}  // namespace evac::ctl
