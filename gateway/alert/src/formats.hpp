#pragma once
#include <string_view>

#include "evac/alert/alert.hpp"

namespace evac::alert {

Result<Alert> parse_json_alert(std::string_view body);
Result<Alert> parse_xml_alert(std::string_view body);

}  // namespace evac::alert
