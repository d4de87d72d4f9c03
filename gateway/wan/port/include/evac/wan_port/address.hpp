#pragma once
// IPv4 addresses as text. Pure functions; an Error names the text and what is accepted.
#include <cstdint>
#include <string>
#include <string_view>

#include "evac/core/result.hpp"

namespace evac::wan_port {

// An interface's address with its on-link network.
struct Ipv4Prefix {
    uint32_t ip = 0;            // host byte order
    uint8_t prefix_length = 0;  // 0..32
    bool operator==(const Ipv4Prefix&) const = default;
};

Result<uint32_t> parse_ipv4(std::string_view text);           // "10.77.0.1", four decimal parts
Result<Ipv4Prefix> parse_ipv4_prefix(std::string_view text);  // "10.77.0.1/24"
std::string ipv4_to_string(uint32_t ip);

}  // namespace evac::wan_port
