#pragma once
// What parsing the configuration (config.cpp) and checking what it names (config_check.cpp) share.
#include <sys/types.h>

#include <string>

#include "evac/core/result.hpp"

namespace evac::daemon {

inline constexpr size_t kEchoMax = 80;  // of a refused value, in messages

inline std::string quoted(const std::string& text) {
    return '"' + (text.size() > kEchoMax ? text.substr(0, kEchoMax) + "..." : text) + '"';
}

inline Error refuse(const std::string& key, const std::string& value, const std::string& accepted) {
    return make_error(Errc::invalid_argument,
                      key + ": " + value + " is refused; accepted: " + accepted);
}

// A regular file of at most 1 MiB. `key` opens the message. Opening never waits for a writer of a
// pipe.
Result<std::string> read_file(const std::string& key, const std::string& path,
                              mode_t* mode = nullptr);

}  // namespace evac::daemon
