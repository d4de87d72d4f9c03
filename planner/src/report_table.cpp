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

std::string note(const Inventory& inventory, const Plan& plan, VmIndex i) {
    const VmOutcome& vm = plan.evaluation.vms[i];
    std::string text = miss_text(inventory, plan, i);
    if (moves(vm.mode) && !vm.meets_downtime_limit) {
        if (!text.empty()) text += "; ";
        text += "downtime limit " + fixed(inventory.vms[i].max_downtime_ms, 0) + " ms";
    }
    return text;
}

std::string row(const Inventory& inventory, const Plan& plan, size_t rank, VmIndex i,
                size_t name_width) {
    const VmInput& input = inventory.vms[i];
    const VmOutcome& vm = plan.evaluation.vms[i];
    const bool goes = vm.mode != Mode::abandon;
    const auto time = [goes](double s) { return pad_left(goes ? fixed(s, 2) : "-", 11); };
    std::string line = vm.meets_deadline ? "  " : "! ";
    line += pad_left(std::to_string(rank), 6) + "  " + pad(input.name, name_width) + "  " +
            pad(to_string(vm.mode), 8) + pad_left(fixed(input.priority, 0), 8) +
            pad_left(fixed(vm.bytes_mib, 1), 12) + time(vm.start_s) + time(vm.link_end_s) +
            time(vm.away_s) + pad_left(goes ? fixed(vm.downtime_ms, 0) : "-", 13);
    const std::string remark = note(inventory, plan, i);
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
    const size_t on_time = n - e.late - e.abandoned - e.recovery_points;
    std::string text = "\nmakespan     " + duration_text(e.makespan_s) + " for " +
                       std::to_string(n - e.abandoned - e.recovery_points) + " VMs, " +
                       fixed(bytes_mib, 1) + " MiB at " + fixed(inventory.link.goodput_mbit, 1) +
                       " Mbit/s\n";
    text += "proved       no order of these modes is done before " +
            duration_text(plan.stats.lower_bound_s) + " (gap " + fixed(plan.stats.gap * 100, 2) +
            " %" + (plan.stats.exact ? ", this order is the best one)\n" : ")\n");
    if (inventory.deadline_s) {
        text += "deadline     " + duration_text(*inventory.deadline_s) + ": " +
                std::to_string(on_time) + " of " + std::to_string(n) + " VMs, weight " +
                fixed(e.weighted_rescued, 0) + " of " + fixed(e.weighted_total, 0) +
                (on_time == n ? "" : "  ! NOT ALL IN TIME") + "\n";
    }
    if (e.recovery_points > 0) {
        text += "recovery     " + std::to_string(e.recovery_points) +
                " VMs land from their recovery points (weight " +
                fixed(e.weighted_recovery_point, 0) + "): what they did since is lost\n";
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

std::string miss_text(const Inventory& inventory, const Plan& plan, VmIndex vm) {
    const MissReason reason = vm < plan.reason.size() ? plan.reason[vm] : MissReason{};
    const VmOutcome& outcome = plan.evaluation.vms[vm];
    std::string why;
    switch (reason.miss) {
        case Miss::none:
            return "";
        case Miss::late:
            why = "misses the deadline";
            break;
        case Miss::waits:
            why = "misses the deadline, waits for " + inventory.vms[reason.waits_for].name;
            break;
        case Miss::never_drains:
            why = "writes faster than the link drains it";
            break;
        case Miss::no_room:
            why = "no room at away";
            break;
        case Miss::forced:
            why = "as asked";
            break;
        case Miss::failed:
            why = "failed";
            break;
    }
    if (outcome.mode == Mode::recovery_point) {
        const auto age_s = inventory.vms[vm].recovery_point_age_s;
        return "lands from its recovery point" +
               (age_s ? ", " + duration_text(*age_s) + " old" : std::string()) + ": " + why;
    }
    return outcome.mode == Mode::abandon ? "abandoned: " + why : why;
}

namespace {

std::string gain_text(const Advice& a) {
    std::string text;
    if (a.after.weighted_rescued > a.before.weighted_rescued) {
        text = "weight " + fixed(a.after.weighted_rescued, 0) + " in time instead of " +
               fixed(a.before.weighted_rescued, 0) + ", ";
    }
    return text + "makespan " + duration_text(a.after.makespan_s) + " instead of " +
           duration_text(a.before.makespan_s);
}

std::string names_text(const Inventory& inventory, const std::vector<VmIndex>& vms) {
    constexpr size_t kNamesShown = 5;
    std::string text;
    for (size_t i = 0; i < std::min(vms.size(), kNamesShown); ++i)
        text += (i == 0 ? "" : ", ") + inventory.vms[vms[i]].name;
    if (vms.size() > kNamesShown)
        text += " and " + std::to_string(vms.size() - kNamesShown) + " more";
    return text;
}

}  // namespace

std::vector<std::string> advice_lines(const Inventory& inventory,
                                      const std::vector<Advice>& advice) {
    std::vector<std::string> lines;
    for (const Advice& a : advice) {
        std::string what;
        switch (a.kind) {
            case Advice::Kind::bandwidth:
                what = fixed(a.goodput_mbit, 1) + " Mbit/s";
                break;
            case Advice::Kind::stage:
                what = "rounds twice as often (half as much unstaged) for " +
                       names_text(inventory, a.vms);
                break;
            case Advice::Kind::freeze:
                what = "freezing " + names_text(inventory, a.vms);
                break;
        }
        lines.push_back(what + ": " + gain_text(a));
    }
    return lines;
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

std::string plan_to_table(const Inventory& inventory, const Plan& plan,
                          const std::vector<Advice>& advice) {
    size_t name_width = kNameWidthMin;
    for (const VmInput& vm : inventory.vms) name_width = std::max(name_width, characters(vm.name));
    name_width = std::min(name_width, kNameWidthMax);
    std::string text = heading(name_width);
    size_t rank = 0;
    for (const VmIndex i : plan.schedule.order) {
        text += row(inventory, plan, ++rank, i, name_width);
    }
    text += totals(inventory, plan);
    for (const std::string& line : advice_lines(inventory, advice))
        text += "would help   " + line + "\n";
    return text;
}

}  // namespace evac::planner
