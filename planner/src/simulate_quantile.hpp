#pragma once
// Quantiles with linear interpolation between the two neighbours (R's type 7, numpy's default).
#include <cmath>
#include <vector>

namespace evac::planner {

// `sorted` ascending, not empty; 0 <= q <= 1. Infinity is a value like others.
inline double quantile(const std::vector<double>& sorted, double q) {
    const double at = q * static_cast<double>(sorted.size() - 1);
    const auto low = static_cast<size_t>(at);
    const double part = at - static_cast<double>(low);
    if (part == 0 || low + 1 == sorted.size() || sorted[low] == sorted[low + 1]) return sorted[low];
    return sorted[low] + part * (sorted[low + 1] - sorted[low]);
}

}  // namespace evac::planner
