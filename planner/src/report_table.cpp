#include <algorithm>
#include <cmath>
#include <cstdio>

#include "evac/planner/report.hpp"
#include "report_text.hpp"

namespace evac::planner {
namespace {

constexpr size_t kNameWidthMin = 4;
constexpr size_t kNameWidthMax = 32;

bool continuation(char c) {
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

size_t characters(std::string_view text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return !continuation(c); }));
}

std::string_view first_characters(std::string_view text, size_t count) {
    size_t end = 0;
    while (end < text.size() && (count > 0 || continuation(text[end]))) {
        if (!continuation(text[end])) --count;
        ++end;
    }
    return text.substr(0, end);
}

std::string note(const VmInput& input, const VmOutcome& vm) {
    if (vm.mode == Mode::abandon) return "abandoned";
    std::string text;
    if (!vm.meets_deadline) text = "misses the deadline";
    if (!vm.meets_downtime_limit) {
        if (!text.empty()) text += "; ";
        text += "downtime limit " + fixed(input.max_downtime_ms, 0) + " ms";
    }
    return text;
}

std::string row(size_t rank, const VmInput& input, const VmOutcome& vm, size_t name_width) {
    const bool goes = vm.mode != Mode::abandon;
    const auto time = [goes](double s) { return pad_left(goes ? fixed(s, 2) : "-", 11); };
    std::string line = vm.meets_deadline ? "  " : "! ";
    line += pad_left(std::to_string(rank), 6) + "  " + pad(input.name, name_width) + "  " +
            pad(to_string(vm.mode), 8) + pad_left(fixed(input.priority, 0), 8) +
            pad_left(fixed(vm.bytes_mib, 1), 12) + time(vm.start_s) + time(vm.link_end_s) +
            time(vm.away_s) + pad_left(goes ? fixed(vm.downtime_ms, 0) : "-", 13);
    const std::string remark = note(input, vm);
    if (!remark.empty()) line += "  " + remark;
    return line + "\n";
}

std::string heading(size_t name_width) {
    return "  " + pad_left("turn", 6) + "  " + pad("name", name_width) + "  " + pad("mode", 8) +
           pad_left("weight", 8) + pad_left("wire MiB", 12) + pad_left("start s", 11) +
           pad_left("link end s", 11) + pad_left("away s", 11) + pad_left("downtime ms", 13) + "\n";
}

std::string totals(const Inventory& inventory, const Plan& plan) {
    const Evaluation& e = plan.evaluation;
    const size_t n = inventory.vms.size();
    double bytes_mib = 0;
    for (const VmOutcome& vm : e.vms) bytes_mib += vm.bytes_mib;
    const size_t on_time = n - e.late - e.abandoned;
    std::string text = "\nmakespan     " + duration_text(e.makespan_s) + " for " +
                       std::to_string(n - e.abandoned) + " VMs, " + fixed(bytes_mib, 1) +
                       " MiB at " + fixed(inventory.link.goodput_mbit, 1) + " Mbit/s\n";
    text += "proved       no order of these modes is done before " +
            duration_text(plan.stats.lower_bound_s) + " (gap " + fixed(plan.stats.gap * 100, 2) +
            " %" + (plan.stats.exact ? ", this order is the best one)\n" : ")\n");
    if (inventory.deadline_s) {
        text += "deadline     " + duration_text(*inventory.deadline_s) + ": " +
                std::to_string(on_time) + " of " + std::to_string(n) + " VMs, weight " +
                fixed(e.weighted_rescued, 0) + " of " + fixed(e.weighted_total, 0) +
                (on_time == n ? "" : "  ! NOT ALL IN TIME") + "\n";
    }
    if (e.abandoned > 0) {
        text += "abandoned    " + std::to_string(e.abandoned) + " VMs stay behind\n";
    }
    return text + "downtime     " + duration_text(e.downtime_total_ms / 1000) +
           " summed over all VMs\n" + "solved in    " + fixed(plan.stats.solve_ms, 1) + " ms\n";
}

}  // namespace

std::string fixed(double value, int decimals) {
    char buffer[64];
    const char* format = std::abs(value) < 1e15 ? "%.*f" : "%.*e";
    std::snprintf(buffer, sizeof buffer, format, decimals, value);
    return buffer;
}

std::string duration_text(double seconds) {
    if (seconds < 10) return fixed(seconds, 2) + " s";
    if (seconds < 59.95) return fixed(seconds, 1) + " s";
    if (seconds >= 2 * 86400.0) return fixed(seconds / 86400, 1) + " days";
    const double rounded = std::round(seconds);
    const double minutes = std::floor(rounded / 60);
    const auto two = [](double v) { return (v < 10 ? "0" : "") + fixed(v, 0); };
    if (rounded < 3600) return fixed(minutes, 0) + " min " + two(rounded - minutes * 60) + " s";
    const double hours = std::floor(minutes / 60);
    return fixed(hours, 0) + " h " + two(minutes - hours * 60) + " min";
}

std::string pad(std::string_view text, size_t width) {
    const size_t length = characters(text);
    if (length > width) return std::string(first_characters(text, width - 1)) + "~";
    return std::string(text) + std::string(width - length, ' ');
}

std::string pad_left(std::string_view text, size_t width) {
    const size_t length = characters(text);
    if (length >= width) return " " + std::string(text);  // a number is never cut
    return std::string(width - length, ' ') + std::string(text);
}

std::string plan_to_table(const Inventory& inventory, const Plan& plan) {
    size_t name_width = kNameWidthMin;
    for (const VmInput& vm : inventory.vms) name_width = std::max(name_width, characters(vm.name));
    name_width = std::min(name_width, kNameWidthMax);
    std::string text = heading(name_width);
    size_t rank = 0;
    for (const VmIndex i : plan.schedule.order) {
        text += row(++rank, inventory.vms[i], plan.evaluation.vms[i], name_width);
    }
    return text + totals(inventory, plan);
}

}  // namespace evac::planner
