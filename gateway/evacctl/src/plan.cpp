#include "evac/planner/plan.hpp"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "evac/core/clock.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

struct Options {
    bool dry_run = false;
    std::string inventory, svg, save_inventory;
    std::optional<double> rate_mbit, deadline_s;  // refused by the planner when out of range
    std::vector<std::string> freeze, exclude;
};

Result<std::string> inventory_text(const Context& context, const Options& options) {
    if (options.inventory.empty()) {
        auto reply = context.client().get("/v1/inventory");
        EVAC_TRY(reply);
        if (reply->body.contains("vms") && reply->body["vms"].empty()) {
            return make_error(Errc::refused, "no VM is enrolled: there is nothing to plan");
        }
        return reply->text;
    }
    std::error_code unknown;
    std::ifstream file(options.inventory, std::ios::binary);
    // Reading a directory throws; a device may never end.
    if (!file || !std::filesystem::is_regular_file(options.inventory, unknown)) {
        return make_error(Errc::invalid_argument,
                          "--inventory: '" + options.inventory +
                              "' cannot be read; the path of a JSON file is accepted");
    }
    return std::string{std::istreambuf_iterator<char>(file), {}};
}

bool write_text(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text;
    return static_cast<bool>(file.flush());
}

int run(const Context& context, const Options& options) {
    if (!options.dry_run) {
        return fail(make_error(Errc::invalid_argument,
                               "plan: only --dry-run is accepted; `evacctl evacuate` acts"));
    }
    auto text = inventory_text(context, options);
    if (!text.ok()) return fail(text.error());
    planner::PlanOptions plan_options;
    plan_options.what_if.goodput_mbit = options.rate_mbit;
    plan_options.what_if.deadline_s = options.deadline_s;
    plan_options.what_if.exclude = options.exclude;
    for (const auto& name : options.freeze)
        plan_options.solve.forced_mode.emplace_back(name, planner::Mode::freeze);
    // The daemon's handover stops each guest for its last pass (live passes under KVM are pending):
    // plan what it does.
    if (options.inventory.empty()) plan_options.solve.forced_mode_all = planner::Mode::freeze;
    const SystemClock clock;
    auto plan = planner::plan_from_text(*text, plan_options, clock);
    if (!plan.ok()) return fail(plan.error());
    if (!options.save_inventory.empty() && !write_text(options.save_inventory, *text)) {
        return fail(make_error(
            Errc::io, "--save-inventory: '" + options.save_inventory + "' cannot be written"));
    }
    if (!options.svg.empty() && !write_text(options.svg, plan->svg())) {
        return fail(make_error(Errc::io, "--svg: '" + options.svg + "' cannot be written"));
    }
    std::printf("%s\n", context.json() ? plan->json().c_str() : plan->table().c_str());
    return plan->feasible() ? kOk : kInfeasible;
}

}  // namespace

void add_plan(CLI::App& cli, Context& context) {
    auto options = std::make_shared<Options>();
    auto* verb = cli.add_subcommand(
        "plan", "the order that empties the site soonest, and when each VM would be away");
    verb->add_flag("--dry-run", options->dry_run, "plan only (the only mode)");
    verb->add_option("--inventory", options->inventory, "plan from this file, without a daemon");
    verb->add_option("--save-inventory", options->save_inventory,
                     "write the inventory that was planned");
    verb->add_option("--svg", options->svg, "write the Gantt chart");
    verb->add_option("--rate", options->rate_mbit, "what if the link had this goodput, Mbit/s");
    verb->add_option("--deadline", options->deadline_s, "what if this were the deadline, seconds");
    verb->add_option("--freeze", options->freeze,
                     "what if this VM were stopped for its whole turn");
    verb->add_option("--exclude", options->exclude, "without this VM");
    verb->callback([&context, options] {
        context.chosen = [&context, options] { return run(context, *options); };
    });
}

}  // namespace evac::ctl
