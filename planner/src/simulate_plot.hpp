#pragma once
// Small SVG plots: a frame with axes, curves, bands and bars. Only numbers and fixed words go in.
#include <string>
#include <string_view>
#include <vector>

namespace evac::planner {

inline constexpr size_t kPlotColours = 6;
std::string_view plot_colour(size_t series);

// x from 0 to `end_s` (seconds), y from 0 to 100 %.
class SharePlot {
  public:
    SharePlot(std::string_view title, double end_s);
    void upright(double at_s, std::string_view label);
    void band(const std::vector<double>& at_s, const std::vector<double>& low,
              const std::vector<double>& high, size_t series);
    void curve(const std::vector<double>& at_s, const std::vector<double>& share, size_t series);
    std::string svg(const std::vector<std::string>& legend) &&;

  private:
    double x(double at_s) const;
    static double y(double share);

    double end_s_;
    std::string out_;
};

// One bar per series, each with parts on top of each other, and the range p5 to p95 of the whole.
struct Bar {
    std::string label;
    std::vector<double> parts;
    double low = 0, high = 0;
};
std::string bar_plot(std::string_view title, const std::vector<std::string>& parts,
                     const std::vector<Bar>& bars);

}  // namespace evac::planner
