#include "evac/wan_port/address.hpp"

#include <charconv>

#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan_port {
namespace {

// A decimal number without sign or leading zeros ("010" is octal to some readers), at most `max`.
bool parse_decimal(std::string_view text, uint32_t max, uint32_t& value) {
    if (text.empty() || text.size() > 5 || (text.size() > 1 && text[0] == '0')) return false;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size() && value <= max;
}

bool parse_dotted(std::string_view text, uint32_t& ip) {
    ip = 0;
    for (int part = 0; part < 4; ++part) {
        const size_t dot = text.find('.');
        if ((dot == std::string_view::npos) != (part == 3)) return false;
        uint32_t value = 0;
        if (!parse_decimal(text.substr(0, dot), 255, value)) return false;
        ip = (ip << 8) | value;
        if (part < 3) text.remove_prefix(dot + 1);
    }
    return true;
}

Error bad_text(std::string_view text, const char* accepted) {
    // The text may come from anywhere: quote no more of it than a person needs.
    return make_error(Errc::invalid_argument,
                      "address '" + std::string(text.substr(0, 64)) + "': expected " + accepted);
}

}  // namespace

Result<uint32_t> parse_ipv4(std::string_view text) {
    uint32_t ip = 0;
    if (!parse_dotted(text, ip)) return bad_text(text, "an IPv4 address such as 10.77.0.1");
    return ip;
}

Result<Ipv4Prefix> parse_ipv4_prefix(std::string_view text) {
    const size_t slash = text.find('/');
    Ipv4Prefix prefix;
    uint32_t length = 0;
    if (slash == std::string_view::npos || !parse_dotted(text.substr(0, slash), prefix.ip) ||
        !parse_decimal(text.substr(slash + 1), 32, length)) {
        return bad_text(text, "ADDRESS/PREFIX such as 10.77.0.1/24");
    }
    prefix.prefix_length = static_cast<uint8_t>(length);
    return prefix;
}

std::string ipv4_to_string(uint32_t ip) {
    std::string text;
    for (int shift = 24; shift >= 0; shift -= 8) {
        text += std::to_string((ip >> shift) & 0xff);
        if (shift != 0) text += '.';
    }
    return text;
}

Result<UdpAddress> parse_udp_address(const std::string& text) {
    const size_t colon = text.find(':');
    UdpAddress address;
    uint32_t port = 0;
    const std::string_view view = text;
    if (colon == std::string::npos || !parse_dotted(view.substr(0, colon), address.ip) ||
        !parse_decimal(view.substr(colon + 1), 65535, port)) {
        return bad_text(text, "ADDRESS:PORT such as 10.77.0.1:4500");
    }
    address.port = static_cast<uint16_t>(port);
    return address;
}

std::string to_string(const UdpAddress& address) {
    return ipv4_to_string(address.ip) + ':' + std::to_string(address.port);
}

}  // namespace evac::wan_port
