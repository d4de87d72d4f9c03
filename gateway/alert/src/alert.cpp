// Names and the choice of the format. The formats: jma.cpp, cap.cpp, json_alert.cpp.
#include "evac/alert/alert.hpp"

#include "formats.hpp"

namespace evac::alert {

const char* to_string(Source source) {
    switch (source) {
        case Source::jma: return "jma";
        case Source::cap: return "cap";
        case Source::json: return "json";
        case Source::power: return "power";
    }
    return "unknown";
}

const char* to_string(Reality reality) {
    switch (reality) {
        case Reality::actual: return "actual";
        case Reality::exercise: return "exercise";
        case Reality::test: return "test";
    }
    return "unknown";
}

const char* to_string(Kind kind) {
    switch (kind) {
        case Kind::alert: return "alert";
        case Kind::update: return "update";
        case Kind::cancel: return "cancel";
    }
    return "unknown";
}

namespace {
constexpr const char* kIntensities[] = {"none", "0", "1", "2", "3", "4", "5-", "5+", "6-", "6+", "7"};
}

std::optional<Intensity> intensity_from(std::string_view text) {
    for (size_t i = 1; i < std::size(kIntensities); ++i) {
        if (text == kIntensities[i]) return static_cast<Intensity>(i);
    }
    return std::nullopt;
}

const char* to_string(Intensity intensity) { return kIntensities[static_cast<size_t>(intensity)]; }

Result<Alert> parse_alert(std::string_view, std::string_view body) {
    if (body.size() > kBodyBytesMax) return make_error(Errc::invalid_argument, "alert: at most 1 MiB is accepted");
    const size_t first = body.find_first_not_of(" \t\r\n\xef\xbb\xbf");
    if (first == std::string_view::npos) return make_error(Errc::corrupt, "alert: empty body");
    if (body[first] == '{') return parse_json_alert(body);
    if (body[first] == '<') return parse_xml_alert(body);
    return make_error(Errc::corrupt, "alert: JMA disaster XML, CAP 1.2 or a JSON object is accepted");
}

}  // namespace evac::alert
