#pragma once
// HTTP(S) for the API (Unix socket) and the alert webhook (TCP with TLS), over libmicrohttpd. It
// has no thread of its own: the control thread polls wait_fd() and calls run(), so that handlers
// run where the state lives, without locks. Limits: kBodyBytesMax, kConnectionsMax,
// kIdleSecondsMax; beyond them a request gets 413, is refused, or is closed.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "evac/core/result.hpp"

namespace evac::api {

inline constexpr size_t kBodyBytesMax = 1024 * 1024;
inline constexpr unsigned kConnectionsMax = 64;
inline constexpr unsigned kIdleSecondsMax = 15;

struct HttpRequest {
    std::string method;  // upper case
    std::string path;    // without the query
    std::map<std::string, std::string> query;
    std::map<std::string, std::string> headers;  // names in lower case
    std::string body;
};

struct HttpResponse {
    int status = 200;
    std::string body;
    std::string content_type = "application/json";
    std::map<std::string, std::string> headers;
};

using HttpHandler = std::function<HttpResponse(const HttpRequest&)>;

struct TlsFiles {
    std::string cert, key;
    std::string client_ca;  // only clients with a valid certificate of this CA are served; empty:
                            // none is asked for
};

class HttpServer {
  public:
    // The socket file is replaced when stale and is made with mode 0600. Errors: io; refused when
    // another process serves it.
    static Result<std::unique_ptr<HttpServer>> listen_unix(const std::string& path,
                                                           HttpHandler handler);
    // `address` is "ip:port". Errors: invalid_argument, io (certificate or key missing, address in
    // use).
    static Result<std::unique_ptr<HttpServer>> listen_tls(const std::string& address,
                                                          const TlsFiles& tls, HttpHandler handler);
    ~HttpServer();
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    int wait_fd() const;
    // Milliseconds until run() must be called even if wait_fd() stays quiet; -1 = none.
    int timeout_ms() const;
    void run();

  private:
    struct Impl;
    explicit HttpServer(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace evac::api
