#include "simulate_plot.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "report_text.hpp"

namespace evac::planner {
namespace {

constexpr std::array<std::string_view, kPlotColours> kColours{"#1f6fb4", "#d9730d", "#2e8b57",
                                                              "#b03060", "#6f5bb0", "#7a6a00"};
constexpr std::array<std::string_view, 3> kPartColours{"#c0392b", "#e6a23c", "#9aa5b1"};
constexpr double kWidth = 860, kHeight = 330;
constexpr double kLeft = 56, kRight = 20, kTop = 44, kBottom = 46;
constexpr double kPlotWidth = kWidth - kLeft - kRight, kPlotHeight = kHeight - kTop - kBottom;
constexpr double kLegendStep = 118;
constexpr double kBarsLeft = 130, kBarsRight = 110, kBarStep = 30, kBarHeight = 18;

std::string number(double value) {
    return fixed(value, 1);
}

std::string text(double x, double y, std::string_view style, std::string_view body) {
    return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + std::string(style) + ">" +
           std::string(body) + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2, std::string_view style) {
    return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
           "\" y2=\"" + number(y2) + "\" " + std::string(style) + "/>\n";
}

std::string box(double x, double y, double width, double height, std::string_view fill) {
    return "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(width) +
           "\" height=\"" + number(height) + "\" fill=\"" + std::string(fill) + "\"/>\n";
}

std::string frame(double width, double height, std::string_view title) {
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 " +
           fixed(width, 0) + " " + fixed(height, 0) + "\" width=\"" + fixed(width, 0) +
           "\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\">\n" +
           text(8, 18, "font-size=\"14\" font-weight=\"bold\"", title);
}

// 1, 2 or 5 times a power of ten, giving 5 to 12 ticks.
double tick_step(double span) {
    const double power = std::pow(10.0, std::floor(std::log10(span / 5)));
    for (const double m : {1.0, 2.0, 5.0}) {
        if (span / (power * m) <= 12) return power * m;
    }
    return power * 10;
}

}  // namespace

std::string_view plot_colour(size_t series) {
    return kColours[series % kColours.size()];
}

SharePlot::SharePlot(std::string_view title, double end_s) : end_s_(std::max(end_s, 1e-3)) {
    out_ = frame(kWidth, kHeight, title);
    for (int percent = 0; percent <= 100; percent += 20) {
        const double at = y(percent / 100.0);
        out_ += line(kLeft, at, kLeft + kPlotWidth, at, "stroke=\"#e3e6ea\"");
        out_ += text(kLeft - 6, at + 4, "text-anchor=\"end\"", std::to_string(percent) + " %");
    }
    const double step = tick_step(end_s_);
    const double label_every = end_s_ / step > 8 ? 2 : 1;
    for (int k = 0; k <= 12 && step * k <= end_s_ * 1.0001; ++k) {
        out_ += line(x(step * k), kTop, x(step * k), kTop + kPlotHeight, "stroke=\"#e3e6ea\"");
        if (std::fmod(k, label_every) != 0) continue;
        out_ += text(x(step * k), kTop + kPlotHeight + 16, "text-anchor=\"middle\"",
                     k == 0 ? "0" : duration_text(step * k));
    }
}

double SharePlot::x(double at_s) const {
    return kLeft + std::clamp(at_s / end_s_, 0.0, 1.0) * kPlotWidth;
}

double SharePlot::y(double share) {
    return kTop + (1 - std::clamp(share, 0.0, 1.0)) * kPlotHeight;
}

void SharePlot::upright(double at_s, std::string_view label) {
    if (at_s > end_s_) return;
    out_ += line(x(at_s), kTop, x(at_s), kTop + kPlotHeight,
                 "stroke=\"#c0392b\" stroke-dasharray=\"4 3\"");
    const bool right_half = at_s > end_s_ * 0.8;
    out_ += text(x(at_s) + (right_half ? -4 : 4), kTop + kPlotHeight - 6,
                 right_half ? "fill=\"#c0392b\" text-anchor=\"end\"" : "fill=\"#c0392b\"", label);
}

void SharePlot::band(const std::vector<double>& at_s, const std::vector<double>& low,
                     const std::vector<double>& high, size_t series) {
    std::string points;
    for (size_t i = 0; i < at_s.size(); ++i) {
        points += number(x(at_s[i])) + "," + number(y(high[i])) + " ";
    }
    for (size_t i = at_s.size(); i > 0; --i) {
        points += number(x(at_s[i - 1])) + "," + number(y(low[i - 1])) + " ";
    }
    out_ += "<polygon points=\"" + points + "\" fill=\"" + std::string(plot_colour(series)) +
            "\" fill-opacity=\"0.15\"/>\n";
}

void SharePlot::curve(const std::vector<double>& at_s, const std::vector<double>& share,
                      size_t series) {
    std::string points;
    for (size_t i = 0; i < at_s.size(); ++i) {
        points += number(x(at_s[i])) + "," + number(y(share[i])) + " ";
    }
    out_ += "<polyline points=\"" + points + "\" fill=\"none\" stroke-width=\"1.8\" stroke=\"" +
            std::string(plot_colour(series)) + "\"/>\n";
}

std::string SharePlot::svg(const std::vector<std::string>& legend) && {
    for (size_t i = 0; i < legend.size(); ++i) {
        const double at = kLeft + kLegendStep * static_cast<double>(i);
        out_ += box(at, kHeight - 16, 14, 4, plot_colour(i));
        out_ += text(at + 19, kHeight - 10, "", legend[i]);
    }
    return std::move(out_) + "</svg>\n";
}

std::string bar_plot(std::string_view title, const std::vector<std::string>& parts,
                     const std::vector<Bar>& bars) {
    const double rows = static_cast<double>(bars.size());
    const double height = kTop + kBarStep * rows + 28;
    double most = 1;
    for (const Bar& bar : bars) {
        double sum = 0;
        for (const double part : bar.parts) sum += part;
        most = std::max({most, sum, bar.high});
    }
    const double scale = (kWidth - kBarsLeft - kBarsRight) / most;
    std::string out = frame(kWidth, height, title);
    for (size_t r = 0; r < bars.size(); ++r) {
        const Bar& bar = bars[r];
        const double top = kTop + kBarStep * static_cast<double>(r);
        const double middle = top + kBarHeight / 2;
        out += text(kBarsLeft - 8, middle + 4, "text-anchor=\"end\"", bar.label);
        double at = kBarsLeft, sum = 0;
        for (size_t p = 0; p < bar.parts.size(); ++p) {
            out += box(at, top, bar.parts[p] * scale, kBarHeight,
                       kPartColours[p % kPartColours.size()]);
            at += bar.parts[p] * scale;
            sum += bar.parts[p];
        }
        const double low = kBarsLeft + bar.low * scale, high = kBarsLeft + bar.high * scale;
        if (bar.high > bar.low) {
            out += line(low, middle, high, middle, "stroke=\"#222\"");
            out += line(low, middle - 4, low, middle + 4, "stroke=\"#222\"");
            out += line(high, middle - 4, high, middle + 4, "stroke=\"#222\"");
        }
        out += text(std::max(at, high) + 6, middle + 4, "", fixed(sum, 1));
    }
    for (size_t p = 0; p < parts.size(); ++p) {
        const double at = kBarsLeft + 2 * kLegendStep * static_cast<double>(p);
        out += box(at, height - 16, 14, 8, kPartColours[p % kPartColours.size()]);
        out += text(at + 19, height - 8, "", parts[p]);
    }
    return out + "</svg>\n";
}

}  // namespace evac::planner
