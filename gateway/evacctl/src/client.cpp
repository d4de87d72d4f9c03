#include "client.hpp"

#include <curl/curl.h>

#include <memory>

namespace evac::ctl {
namespace {

constexpr size_t kAnswerBytesMax = 256 * 1024 * 1024;
constexpr long kTimeoutS = 30;

size_t collect(char* data, size_t size, size_t count, void* out) {
    auto& text = *static_cast<std::string*>(out);
    if (text.size() + size * count > kAnswerBytesMax) return 0;
    text.append(data, size * count);
    return size * count;
}

Errc code_of(long status) {
    switch (status) {
        case 400:
            return Errc::invalid_argument;
        case 404:
            return Errc::not_found;
        case 409:
            return Errc::refused;
        case 503:
            return Errc::unavailable;
        default:
            return Errc::internal;
    }
}

}  // namespace

std::string path_step(const std::string& text) {
    static constexpr char kHex[] = "0123456789ABCDEF";
    std::string out;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                           (c >= 'A' && c <= 'Z') || c == '-' || c == '.' || c == '_' || c == '~';
        if (plain) {
            out += c;
        } else {
            out += {'%', kHex[byte >> 4], kHex[byte & 15]};
        }
    }
    return out;
}

Result<Reply> Client::call(const char* method, const std::string& path, const Json* body) const {
    const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
    if (!curl) return make_error(Errc::internal, "libcurl cannot be started");
    Reply reply;
    const std::string url = "http://evacgwd" + path;
    const std::string payload = body == nullptr ? std::string() : body->dump();
    curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_PATH_AS_IS, 1L);  // ".." is a name like any other
    curl_easy_setopt(curl.get(), CURLOPT_UNIX_SOCKET_PATH, socket_path_.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &reply.text);
    curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT, kTimeoutS);
    curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
    if (body != nullptr) curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, payload.c_str());
    const CURLcode code = curl_easy_perform(curl.get());
    if (code == CURLE_COULDNT_CONNECT) {
        return make_error(Errc::unavailable,
                          "no evacgwd answers at '" + socket_path_ +
                              "': is it running, and are you root? (--socket names another)");
    }
    if (code != CURLE_OK) {
        return make_error(Errc::unavailable,
                          "evacgwd at '" + socket_path_ + "': " + curl_easy_strerror(code));
    }
    curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &reply.status);
    reply.body = Json::parse(reply.text, nullptr, false);
    if (reply.status >= 400) {
        const bool said = reply.body.is_object() && reply.body.contains("error") &&
                          reply.body["error"].is_string();
        return make_error(code_of(reply.status),
                          said ? reply.body["error"].get<std::string>() : reply.text);
    }
    if (reply.body.is_discarded())
        return make_error(Errc::corrupt, "evacgwd answered with something that is not JSON");
    return reply;
}

}  // namespace evac::ctl
