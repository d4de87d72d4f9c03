#pragma once
// Numbers and names for people.
#include <string>
#include <string_view>

namespace evac::planner {

std::string fixed(double value, int decimals);
// "0.42 s", "12.3 s", "5 min 03 s", "2 h 05 min", "3.1 days"
std::string duration_text(double seconds);
// Left- or right-aligned to `width` characters (UTF-8 code points count one); longer text is cut
// with "~".
std::string pad(std::string_view text, size_t width);
std::string pad_left(std::string_view text, size_t width);

}  // namespace evac::planner
