#pragma once
#include <string>
#include <string_view>

#include "evac/alert/alert.hpp"

namespace evac::alert {

// At most bytes_max bytes, cut between characters.
std::string clipped(std::string_view utf8, size_t bytes_max);
bool has_control_characters(std::string_view text);

// Both take valid UTF-8 (parse_alert has checked it).
Result<Alert> parse_json_alert(std::string_view body);
Result<Alert> parse_xml_alert(std::string_view body);

}  // namespace evac::alert
