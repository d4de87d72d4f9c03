// Names and the choice of the format. The formats: xml_alert.cpp, json_alert.cpp.
#include "evac/alert/alert.hpp"

#include "formats.hpp"

namespace evac::alert {

const char* to_string(Source source) {
    switch (source) {
        case Source::jma:
            return "jma";
        case Source::cap:
            return "cap";
        case Source::json:
            return "json";
        case Source::power:
            return "power";
    }
    return "unknown";
}

const char* to_string(Reality reality) {
    switch (reality) {
        case Reality::actual:
            return "actual";
        case Reality::exercise:
            return "exercise";
        case Reality::test:
            return "test";
    }
    return "unknown";
}

const char* to_string(Kind kind) {
    switch (kind) {
        case Kind::alert:
            return "alert";
        case Kind::update:
            return "update";
        case Kind::cancel:
            return "cancel";
    }
    return "unknown";
}

namespace {
constexpr const char* kIntensities[] = {"none", "0",  "1",  "2",  "3", "4",
                                        "5-",   "5+", "6-", "6+", "7"};

// Bytes of the UTF-8 sequence that starts the text; 0 = not valid (overlong, surrogate, above
// U+10FFFF, cut off).
size_t sequence_bytes(std::string_view text) {
    const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return 1;
    const size_t size = lead >= 0xc2 && lead <= 0xdf   ? 2
                        : (lead & 0xf0) == 0xe0        ? 3
                        : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                       : 0;
    if (size == 0 || size > text.size()) return 0;
    for (size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return 0;
    }
    const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return byte(1) >= low && byte(1) <= high ? size : 0;
}

// Where the first byte lies that is not UTF-8; npos = nowhere.
size_t first_bad_byte(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        const size_t size = sequence_bytes(text.substr(at));
        if (size == 0) return at;
        at += size;
    }
    return std::string_view::npos;
}
}  // namespace

std::optional<Intensity> intensity_from(std::string_view text) {
    for (size_t i = 1; i < std::size(kIntensities); ++i) {
        if (text == kIntensities[i]) return static_cast<Intensity>(i);
    }
    return std::nullopt;
}

const char* to_string(Intensity intensity) {
    return kIntensities[static_cast<size_t>(intensity)];
}

std::string clipped(std::string_view utf8, size_t bytes_max) {
    if (utf8.size() <= bytes_max) return std::string(utf8);
    while (bytes_max > 0 && (static_cast<unsigned char>(utf8[bytes_max]) & 0xc0) == 0x80)
        --bytes_max;
    return std::string(utf8.substr(0, bytes_max));
}

bool has_control_characters(std::string_view text) {
    for (const char c : text) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return true;
    }
    return false;
}

Result<Alert> parse_alert(std::string_view, std::string_view body) {
    if (body.size() > kBodyBytesMax)
        return make_error(Errc::invalid_argument, "alert: at most 1 MiB is accepted");
    if (const size_t bad = first_bad_byte(body); bad != std::string_view::npos) {
        return make_error(Errc::corrupt, "alert: byte " + std::to_string(bad) + " is not UTF-8");
    }
    const size_t first = body.find_first_not_of(" \t\r\n\xef\xbb\xbf");
    if (first == std::string_view::npos) return make_error(Errc::corrupt, "alert: empty body");
    if (body[first] == '{') return parse_json_alert(body);
    if (body[first] == '<') return parse_xml_alert(body);
    return make_error(Errc::corrupt,
                      "alert: JMA disaster XML, CAP 1.2 or a JSON object is accepted");
}

}  // namespace evac::alert
