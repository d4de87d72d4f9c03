// Any text: refused with a message, or read, and then it round-trips and can be planned.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "evac/planner/plan.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace evac::planner;
    const auto inventory = parse_inventory({reinterpret_cast<const char*>(data), size});
    if (!inventory.ok()) {
        if (inventory.error().context.empty() || inventory.error().context.size() > 2000)
            std::abort();
        return 0;
    }
    const std::string text = to_json(*inventory);
    const auto again = parse_inventory(text);
    if (!again.ok() || to_json(*again) != text) std::abort();

    PlanOptions options;
    options.solve.turns_max = 2000;
    options.solve.exact_small = inventory->vms.size() <= 5;
    const evac::ManualClock clock;
    const auto output = plan_from_inventory(*inventory, options, clock);
    if (!output.ok()) std::abort();
    const Evaluation& evaluation = output->plan.evaluation;
    if (!std::isfinite(evaluation.makespan_s) || evaluation.makespan_s < 0) std::abort();
    if (!(output->plan.stats.lower_bound_s <= evaluation.makespan_s)) std::abort();
    if (output->json().empty() || output->table().empty() || output->svg().empty()) std::abort();
    return 0;
}
