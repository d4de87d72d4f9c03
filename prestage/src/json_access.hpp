#pragma once
// Reading JSON that came from outside without exceptions: a missing or ill-typed member reads as
// its default.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace evac::prestage::json {

using Json = nlohmann::json;

inline const Json& member(const Json& object, std::string_view key) {
    static const Json kNull;
    if (!object.is_object()) return kNull;
    const auto found = object.find(key);
    return found == object.end() ? kNull : *found;
}
inline std::string text(const Json& value) {
    return value.is_string() ? value.get<std::string>() : std::string();
}
inline std::string text(const Json& object, std::string_view key) {
    return text(member(object, key));
}
inline bool flag(const Json& object, std::string_view key) {
    const Json& value = member(object, key);
    return value.is_boolean() && value.get<bool>();
}
// Negative numbers and fractions read as 0.
inline uint64_t number(const Json& object, std::string_view key) {
    const Json& value = member(object, key);
    return value.is_number_unsigned() ? value.get<uint64_t>() : 0;
}
inline const Json& array(const Json& value) {
    static const Json kEmpty = Json::array();
    return value.is_array() ? value : kEmpty;
}

}  // namespace evac::prestage::json
