// The Gantt chart. Time runs to the right; each row is a VM, or from kGanttRowsMax on a group of
// VMs that are neighbours in the order. Blue: live passes, orange: the guest is stopped, red: as
// orange or blue, but late.
#include <algorithm>
#include <cmath>
#include <map>

#include "evac/planner/report.hpp"
#include "report_text.hpp"

namespace evac::planner {
namespace {

constexpr double kLabelWidth = 210;
constexpr double kChartWidth = 760;
constexpr double kRightMargin = 240;
constexpr double kTop = 64;
constexpr double kRowHeight = 18;
constexpr double kBarHeight = 12;
constexpr double kRemarkHeight = 14;
constexpr size_t kGroupRows = 40;
constexpr size_t kLabelCharacters = 26;

struct Row {
    std::string label, title, note;
    double start_s = 0, stop_s = 0, link_end_s = 0,
           away_s = 0;  // stop: the guest stops (single VM)
    size_t vms = 0, late = 0, abandoned = 0;
};

std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            default:
                out += c;
        }
    }
    return out;
}

Row vm_row(const Inventory& inventory, const Plan& plan, VmIndex i) {
    const VmInput& input = inventory.vms[i];
    const VmOutcome& vm = plan.evaluation.vms[i];
    const std::string why = miss_text(inventory, plan, i);
    Row row;
    row.label = input.name;
    row.vms = 1;
    if (!moves(vm.mode)) {
        row.abandoned = 1;
        row.title = input.name + ": " + why;
        row.note = vm.mode == Mode::recovery_point ? "recovery point" : "abandoned";
        return row;
    }
    row.start_s = vm.start_s;
    row.link_end_s = vm.link_end_s;
    row.away_s = vm.away_s;
    row.stop_s = std::clamp(vm.away_s - vm.downtime_ms / 1000, vm.start_s, vm.link_end_s);
    row.late = vm.meets_deadline ? 0 : 1;
    row.title = input.name + ": " + std::string(to_string(vm.mode)) + ", link " +
                duration_text(vm.start_s) + " to " + duration_text(vm.link_end_s) + ", away " +
                duration_text(vm.away_s) + ", downtime " + fixed(vm.downtime_ms, 0) + " ms, " +
                fixed(vm.bytes_mib, 1) + " MiB" + (why.empty() ? "" : "; " + why);
    row.note = duration_text(vm.away_s) + (why.empty() ? "" : ", " + why);
    return row;
}

void add(Row& group, const Row& vm) {
    if (vm.abandoned == 0) {
        if (group.vms == group.abandoned) group.start_s = vm.start_s;
        group.link_end_s = group.stop_s = vm.link_end_s;
        group.away_s = std::max(group.away_s, vm.away_s);
    }
    group.vms += 1;
    group.late += vm.late;
    group.abandoned += vm.abandoned;
}

void describe(Row& group, size_t first, const std::string& first_name,
              const std::string& last_name) {
    group.label =
        std::to_string(first) + "-" + std::to_string(first + group.vms - 1) + "  " + first_name;
    group.title = std::to_string(group.vms) + " VMs, " + first_name + " to " + last_name +
                  ", away by " + duration_text(group.away_s) + ", late " +
                  std::to_string(group.late) + ", not moved " + std::to_string(group.abandoned);
    group.note = group.vms == group.abandoned ? "not moved" : duration_text(group.away_s);
    if (group.late > 0) group.note += ", " + std::to_string(group.late) + " late";
}

std::vector<Row> make_rows(const Inventory& inventory, const Plan& plan) {
    const std::vector<VmIndex>& order = plan.schedule.order;
    const size_t n = order.size();
    std::vector<Row> rows;
    const size_t count = n <= kGanttRowsMax ? n : kGroupRows;
    for (size_t r = 0; r < count; ++r) {
        const size_t first = n * r / count, last = n * (r + 1) / count;
        Row row;
        if (count == n) {
            row = vm_row(inventory, plan, order[r]);
        } else {
            for (size_t p = first; p < last; ++p) {
                add(row, vm_row(inventory, plan, order[p]));
            }
            describe(row, first + 1, inventory.vms[order[first]].name,
                     inventory.vms[order[last - 1]].name);
        }
        rows.push_back(std::move(row));
    }
    return rows;
}

class Canvas {
  public:
    Canvas(double span_s, size_t rows)
        : scale_(kChartWidth / span_s), height_(kTop + kRowHeight * static_cast<double>(rows)) {}

    double x(double seconds) const {
        return kLabelWidth + std::clamp(seconds * scale_, 0.0, kChartWidth);
    }
    double bottom() const { return height_; }
    void text(double x, double y, std::string_view style, std::string_view body) {
        out_ += "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" " + std::string(style) +
                ">" + escaped(body) + "</text>\n";
    }
    void box(double from_s, double to_s, double y, std::string_view fill) {
        const double width = std::max(x(to_s) - x(from_s), 0.6);  // always visible
        out_ += "<rect x=\"" + fixed(x(from_s), 1) + "\" y=\"" + fixed(y, 1) + "\" width=\"" +
                fixed(width, 1) + "\" height=\"" + fixed(kBarHeight, 1) + "\" fill=\"" +
                std::string(fill) + "\"/>\n";
    }
    void upright(double seconds, std::string_view colour, bool dashed) {
        out_ += "<line x1=\"" + fixed(x(seconds), 1) + "\" x2=\"" + fixed(x(seconds), 1) +
                "\" y1=\"" + fixed(kTop - 6, 1) + "\" y2=\"" + fixed(height_, 1) + "\" stroke=\"" +
                std::string(colour) + "\"" + (dashed ? " stroke-dasharray=\"4 3\"" : "") + "/>\n";
    }
    void raw(std::string_view markup) { out_ += markup; }
    std::string take() { return std::move(out_); }

  private:
    double scale_;
    double height_;
    std::string out_;
};

// 1, 2 or 5 times a power of ten, giving 5 to 12 ticks.
double tick_step(double span_s) {
    const double power = std::pow(10.0, std::floor(std::log10(span_s / 5)));
    for (const double m : {1.0, 2.0, 5.0}) {
        if (span_s / (power * m) <= 12) return power * m;
    }
    return power * 10;
}

void draw_axis(Canvas& canvas, double span_s) {
    const double step = tick_step(span_s);
    for (int k = 0; k <= 12 && step * k <= span_s * 1.0001; ++k) {
        canvas.upright(step * k, "#e3e6ea", false);
        canvas.text(canvas.x(step * k), kTop - 10, "class=\"s\" text-anchor=\"middle\"",
                    step * k == 0 ? "0" : duration_text(step * k));
    }
}

void draw_row(Canvas& canvas, const Row& row, double y) {
    canvas.raw("<g><title>" + escaped(row.title) + "</title>\n");
    const bool bad = row.late + row.abandoned > 0;
    canvas.text(8, y + kBarHeight - 2, bad ? "class=\"bad\"" : "",
                pad(row.label, kLabelCharacters));
    const double bar = y;
    double after_bar = kLabelWidth;
    if (row.vms > row.abandoned) {
        const bool all_late = row.late == row.vms;
        canvas.box(row.start_s, row.stop_s, bar, all_late ? "#e5a19b" : "#4a86c5");
        if (row.stop_s < row.away_s) {
            canvas.box(row.stop_s, row.away_s, bar, all_late ? "#c0392b" : "#f0a04b");
        }
        after_bar = canvas.x(row.away_s);
    }
    canvas.text(after_bar + 5, y + kBarHeight - 2, bad ? "class=\"s bad\"" : "class=\"s\"",
                row.note);
    canvas.raw("</g>\n");
}

// Why VMs are not away in time, counted, and what would help: under the chart.
std::vector<std::string> remarks(const Inventory& inventory, const Plan& plan,
                                 const std::vector<Advice>& advice) {
    std::map<std::string, size_t> why;
    for (const MissReason& reason : plan.reason) {
        if (reason.miss != Miss::none) ++why[std::string(to_string(reason.miss))];
    }
    std::vector<std::string> lines;
    for (const auto& [name, count] : why)
        lines.push_back(std::to_string(count) + " not away in time: " + name);
    for (const std::string& line : advice_lines(inventory, advice))
        lines.push_back("would help: " + line);
    return lines;
}

}  // namespace

std::string plan_to_svg(const Inventory& inventory, const Plan& plan,
                        const std::vector<Advice>& advice) {
    const std::vector<Row> rows = make_rows(inventory, plan);
    const double makespan = plan.evaluation.makespan_s;
    double span = std::max(makespan, 1e-3);
    // A deadline far beyond the end would flatten the bars.
    const bool deadline_shown = inventory.deadline_s && *inventory.deadline_s <= 4 * span;
    if (deadline_shown) span = std::max(span, *inventory.deadline_s);
    Canvas canvas(span, rows.size());
    draw_axis(canvas, span);
    for (size_t r = 0; r < rows.size(); ++r) {
        draw_row(canvas, rows[r], kTop + kRowHeight * static_cast<double>(r) + 3);
    }
    canvas.upright(plan.stats.lower_bound_s, "#7f8c8d", true);
    if (deadline_shown) {
        canvas.upright(*inventory.deadline_s, "#c0392b", true);
        canvas.text(canvas.x(*inventory.deadline_s), canvas.bottom() + 14,
                    "class=\"s bad\" text-anchor=\"middle\"",
                    "deadline " + duration_text(*inventory.deadline_s));
    }
    const double width = kLabelWidth + kChartWidth + kRightMargin;
    const std::vector<std::string> below = remarks(inventory, plan, advice);
    const double height = canvas.bottom() + 42 + kRemarkHeight * static_cast<double>(below.size());
    const Evaluation& e = plan.evaluation;
    std::string head = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + fixed(width, 0) +
                       "\" height=\"" + fixed(height, 0) + "\" viewBox=\"0 0 " + fixed(width, 0) +
                       " " + fixed(height, 0) +
                       "\" font-family=\"sans-serif\" font-size=\"12\">\n" +
                       "<style>.s{font-size:10px;fill:#555}.bad{fill:#c0392b}</style>\n" +
                       "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
    const size_t n = inventory.vms.size();
    std::string title = "Evacuation plan: " + std::to_string(n - e.abandoned - e.recovery_points) +
                        " of " + std::to_string(n) + " VMs away in " + duration_text(makespan) +
                        " at " + fixed(inventory.link.goodput_mbit, 1) + " Mbit/s";
    if (e.late > 0) title += ", " + std::to_string(e.late) + " after the deadline";
    canvas.text(8, 22, "font-size=\"15\" font-weight=\"bold\"", title);
    canvas.text(
        8, canvas.bottom() + 32, "class=\"s\"",
        "blue: transfer while the guest runs; orange: guest stopped (for a group: switchover); "
        "red: late; grey dashes: proved lower bound " +
            duration_text(plan.stats.lower_bound_s));
    for (size_t i = 0; i < below.size(); ++i) {
        canvas.text(8, canvas.bottom() + 32 + kRemarkHeight * static_cast<double>(i + 1),
                    "class=\"s\"", below[i]);
    }
    return head + canvas.take() + "</svg>\n";
}

}  // namespace evac::planner
