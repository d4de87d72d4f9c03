#pragma once
// Numbers and names for people.
#include <string>
#include <string_view>
#include <vector>

#include "evac/planner/replan.hpp"

namespace evac::planner {

// "" when it is away in time, else why not: "late", "waits for db", "no room at away"...
std::string miss_text(const Inventory& inventory, const Plan& plan, VmIndex vm);
// One line per advice: "20000 Mbit/s (now 10000): weight 8 of 9 in time instead of 6, ...".
std::vector<std::string> advice_lines(const Inventory& inventory,
                                      const std::vector<Advice>& advice);

std::string fixed(double value, int decimals);
// "0.42 s", "12.3 s", "5 min 03 s", "2 h 05 min", "3.1 days"
std::string duration_text(double seconds);
// Left- or right-aligned to `width` characters (UTF-8 code points count one); longer text is cut
// with "~".
std::string pad(std::string_view text, size_t width);
std::string pad_left(std::string_view text, size_t width);

}  // namespace evac::planner
