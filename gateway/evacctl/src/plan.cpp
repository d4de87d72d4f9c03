#include "evac/planner/plan.hpp"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "evac/core/clock.hpp"
#include "table.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

struct Options {
    bool dry_run = false;
    std::string inventory, svg, save_inventory;
    std::optional<double> rate_mbit, deadline_s;  // refused by the planner when out of range
    std::vector<std::string> freeze, exclude, priority, compare, post_copy;
    bool triage = false;
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

// "NAME=W"; the last '=' divides, so a name may hold one.
Result<std::pair<std::string, double>> name_and_weight(const std::string& text) {
    const size_t at = text.rfind('=');
    char* end = nullptr;
    const double weight = at == std::string::npos ? 0 : std::strtod(text.c_str() + at + 1, &end);
    if (at == std::string::npos || at == 0 || end == text.c_str() + at + 1 || *end != '\0') {
        return make_error(Errc::invalid_argument, "--priority: '" + text +
                                                      "' is refused; accepted: NAME=WEIGHT, a "
                                                      "weight of 1 or more");
    }
    return std::pair{text.substr(0, at), weight};
}

std::optional<planner::Policy> policy_named(const std::string& name) {
    for (const auto policy :
         {planner::Policy::fifo, planner::Policy::shortest_first, planner::Policy::ratio,
          planner::Policy::priority, planner::Policy::priority_per_second}) {
        if (name == planner::to_string(policy)) return policy;
    }
    return std::nullopt;
}

struct Compared {
    std::string name;
    planner::Plan plan;
};

// The same VMs by simpler rules, to see what the plan is worth.
Result<std::vector<Compared>> compare(const planner::PlanOutput& planned, const Options& options,
                                      const planner::SolveOptions& solve, const Clock& clock) {
    std::vector<Compared> out;
    for (const std::string& name : options.compare) {
        const auto policy = policy_named(name);
        if (!policy) {
            return make_error(Errc::invalid_argument,
                              "--compare: '" + name +
                                  "' is refused; accepted: fifo, shortest-first, a/b, priority, "
                                  "priority/s");
        }
        auto plan = planner::plan_by_policy(planned.inventory, *policy, solve, clock);
        EVAC_TRY(plan);
        out.push_back({name, std::move(*plan)});
    }
    return out;
}

std::string comparison_table(const planner::PlanOutput& planned,
                             const std::vector<Compared>& compared) {
    Table table({"ORDER BY", "MAKESPAN s", "WEIGHT IN TIME", "LATE", "STAY", "DOWNTIME s"});
    const auto add = [&table](const std::string& name, const planner::Evaluation& e) {
        table.add({name, decimal(e.makespan_s, 2), decimal(e.weighted_rescued, 0),
                   std::to_string(e.late), std::to_string(e.abandoned),
                   decimal(e.downtime_total_ms / 1000, 2)});
    };
    add("this plan", planned.plan.evaluation);
    for (const Compared& c : compared) add(c.name, c.plan.evaluation);
    return table.text();
}

std::string comparison_json(const std::string& plan_json, const std::vector<Compared>& compared) {
    auto root = nlohmann::ordered_json::parse(plan_json);
    root["compare"] = nlohmann::ordered_json::array();
    for (const Compared& c : compared) {
        const planner::Evaluation& e = c.plan.evaluation;
        root["compare"].push_back({{"policy", c.name},
                                   {"makespan_s", e.makespan_s},
                                   {"weighted_rescued", e.weighted_rescued},
                                   {"late", e.late},
                                   {"abandoned", e.abandoned},
                                   {"downtime_total_ms", e.downtime_total_ms}});
    }
    return root.dump(2, ' ', false, Json::error_handler_t::replace);
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
    for (const std::string& wanted : options.priority) {
        auto changed = name_and_weight(wanted);
        if (!changed.ok()) return fail(changed.error());
        plan_options.what_if.priority.push_back(std::move(*changed));
    }
    for (const auto& name : options.freeze)
        plan_options.solve.forced_mode.emplace_back(name, planner::Mode::freeze);
    for (const auto& name : options.post_copy)
        plan_options.solve.forced_mode.emplace_back(name, planner::Mode::post_copy);
    plan_options.solve.triage = options.triage;
    plan_options.advise = true;
    // The daemon's handover stops each guest for its last pass (live passes under KVM are pending):
    // plan what it does.
    if (options.inventory.empty()) plan_options.solve.forced_mode_all = planner::Mode::freeze;
    const SystemClock clock;
    auto plan = planner::plan_from_text(*text, plan_options, clock);
    if (!plan.ok()) return fail(plan.error());
    auto compared = compare(*plan, options, plan_options.solve, clock);
    if (!compared.ok()) return fail(compared.error());
    if (!options.save_inventory.empty() && !write_text(options.save_inventory, *text)) {
        return fail(make_error(
            Errc::io, "--save-inventory: '" + options.save_inventory + "' cannot be written"));
    }
    if (!options.svg.empty() && !write_text(options.svg, plan->svg())) {
        return fail(make_error(Errc::io, "--svg: '" + options.svg + "' cannot be written"));
    }
    std::string shown = context.json() ? plan->json() : plan->table();
    if (!compared->empty()) {
        shown = context.json() ? comparison_json(shown, *compared)
                               : shown + "\n" + comparison_table(*plan, *compared);
    }
    std::printf("%s\n", shown.c_str());
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
    verb->add_option("--post-copy", options->post_copy,
                     "what if this VM ran at the peer while its memory follows");
    verb->add_flag("--triage", options->triage,
                   "VMs that cannot make the deadline land from their recovery points");
    verb->add_option("--exclude", options->exclude, "without this VM");
    verb->add_option("--priority", options->priority,
                     "NAME=WEIGHT: what if this VM counted so much");
    verb->add_option("--compare", options->compare,
                     "beside it: fifo, shortest-first, a/b, priority or priority/s");
    verb->callback([&context, options] {
        context.chosen = [&context, options] { return run(context, *options); };
    });
}

}  // namespace evac::ctl
