#pragma once
// REST over the daemon's Unix socket.
#include <nlohmann/json.hpp>
#include <string>

#include "evac/core/result.hpp"

namespace evac::ctl {

using Json = nlohmann::json;

struct Reply {
    long status = 0;
    Json body;
    std::string text;
};

// A text of the operator's as one step of a path: what is not a letter, a digit or - . _ ~ is
// escaped.
std::string path_step(const std::string& text);

class Client {
  public:
    explicit Client(std::string socket_path) : socket_path_(std::move(socket_path)) {}
    // Errors: unavailable (no daemon there: says what to do), or what the daemon answered
    // (invalid_argument for 400, not_found 404, refused 409, unavailable 503, internal otherwise).
    Result<Reply> get(const std::string& path) const { return call("GET", path, nullptr); }
    Result<Reply> post(const std::string& path, const Json& body) const {
        return call("POST", path, &body);
    }
    Result<Reply> remove(const std::string& path) const { return call("DELETE", path, nullptr); }

  private:
    Result<Reply> call(const char* method, const std::string& path, const Json* body) const;
    std::string socket_path_;
};

}  // namespace evac::ctl
