#include "replan_reason.hpp"

#include <cmath>
#include <unordered_map>

#include "inventory_rules.hpp"

namespace evac::planner {
namespace {

constexpr double kShownChange = 0.05;  // smaller ones of rates and backlogs are measurement noise

bool differs(double a, double b) {
    return std::abs(a - b) > kShownChange * std::max(std::abs(a), std::abs(b));
}

double write_rate(const VmInput& vm) {
    double sum = vm.disk_write_mib_s;
    for (const DirtyScale& scale : vm.dirty) sum += scale.rate_mib_s;
    return sum;
}

std::string deadline_text(const std::optional<double>& deadline_s) {
    return deadline_s ? rules::shown(*deadline_s) + " s" : "none";
}

}  // namespace

std::string what_changed(const Inventory& before, const Inventory& now, const Progress& progress) {
    std::string text;
    const auto add = [&text](const std::string& part) {
        if (!text.empty()) text += "; ";
        text += part;
    };
    const auto count = [&add](size_t vms, const char* what) {
        if (vms != 0) add(std::to_string(vms) + (vms == 1 ? " VM " : " VMs ") + what);
    };
    if (before.link.goodput_mbit != now.link.goodput_mbit) {
        add("goodput " + rules::shown(before.link.goodput_mbit) + " -> " +
            rules::shown(now.link.goodput_mbit) + " Mbit/s");
    }
    if (before.deadline_s != now.deadline_s) {
        add("deadline " + deadline_text(before.deadline_s) + " -> " +
            deadline_text(now.deadline_s));
    }
    std::unordered_map<std::string_view, const VmInput*> old;
    for (const VmInput& vm : before.vms) old.emplace(vm.name, &vm);
    size_t failed = 0, added = 0, rates = 0, backlogs = 0, weights = 0;
    for (size_t i = 0; i < now.vms.size(); ++i) {
        if (progress.state[i] == VmState::failed) ++failed;
        if (progress.state[i] != VmState::waiting) continue;
        const auto it = old.find(now.vms[i].name);
        if (it == old.end()) {
            ++added;
            continue;
        }
        if (differs(write_rate(*it->second), write_rate(now.vms[i]))) ++rates;
        if (differs(it->second->unstaged_mib, now.vms[i].unstaged_mib)) ++backlogs;
        if (it->second->priority != now.vms[i].priority) ++weights;
    }
    count(failed, "failed");
    count(added, "new");
    count(rates, "with another dirty rate");
    count(backlogs, "with another backlog");
    count(weights, "with another priority");
    return text.empty() ? "nothing changed" : text;
}

}  // namespace evac::planner
