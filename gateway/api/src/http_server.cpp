#include "evac/api/http_server.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <optional>

#include "evac/core/unique_fd.hpp"

namespace evac::api {

struct HttpServer::Impl {
    HttpHandler handler;
    UniqueFd listener;
    std::string socket_path;  // removed at the end
    std::string cert, key, client_ca;
    MHD_Daemon* daemon = nullptr;

    ~Impl() {
        if (daemon != nullptr) MHD_stop_daemon(daemon);
        if (!socket_path.empty()) ::unlink(socket_path.c_str());
    }
};

namespace {

constexpr int kBacklog = 32;
constexpr int kStepsMax = 64;  // per run(): a large body must not keep the control thread for long

struct Pending {
    HttpRequest request;
    bool too_large = false;
};

MHD_Result add_value(void* target, MHD_ValueKind, const char* name, const char* value) {
    auto& values = *static_cast<std::map<std::string, std::string>*>(target);
    if (values.size() >= 64) return MHD_NO;
    values[name] = value != nullptr ? value : "";
    return MHD_YES;
}

MHD_Result add_header(void* target, MHD_ValueKind kind, const char* name, const char* value) {
    std::string lower(name);
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return add_value(target, kind, lower.c_str(), value);
}

gnutls_session_t tls_session(MHD_Connection* connection) {
    const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info != nullptr ? static_cast<gnutls_session_t>(info->tls_session) : nullptr;
}

// What is wrong with the client's certificate: the alert that says so, or none. libmicrohttpd
// trusts client_ca alone.
std::optional<gnutls_alert_description_t> client_fault(gnutls_session_t session) {
    unsigned count = 0;
    if (gnutls_certificate_get_peers(session, &count) == nullptr || count == 0)
        return GNUTLS_A_CERTIFICATE_REQUIRED;
    std::string purpose = GNUTLS_KP_TLS_WWW_CLIENT;
    gnutls_typed_vdata_st wanted{GNUTLS_DT_KEY_PURPOSE_OID,
                                 reinterpret_cast<unsigned char*>(purpose.data()), 0};
    unsigned faults = 0;
    if (gnutls_certificate_verify_peers(session, &wanted, 1, &faults) != GNUTLS_E_SUCCESS) {
        return GNUTLS_A_BAD_CERTIFICATE;
    }
    if (faults == 0) return std::nullopt;
    if ((faults & GNUTLS_CERT_EXPIRED) != 0) return GNUTLS_A_CERTIFICATE_EXPIRED;
    if ((faults & GNUTLS_CERT_SIGNER_NOT_FOUND) != 0) return GNUTLS_A_UNKNOWN_CA;
    return GNUTLS_A_BAD_CERTIFICATE;
}

// GnuTLS calls this during the handshake. libmicrohttpd sends no alert when a handshake fails;
// without one the sender's operator sees a closed connection and no reason.
int judge_client(gnutls_session_t session) {
    const auto fault = client_fault(session);
    if (!fault) return 0;
    gnutls_alert_send(session, GNUTLS_AL_FATAL, *fault);
    return GNUTLS_E_CERTIFICATE_ERROR;
}

// Before the handshake of each connection. libmicrohttpd itself asks for a certificate but never
// looks at it.
void on_connection(void*, MHD_Connection* connection, void**, MHD_ConnectionNotificationCode code) {
    const auto session = tls_session(connection);
    if (code == MHD_CONNECTION_NOTIFY_STARTED && session != nullptr) {
        gnutls_session_set_verify_function(session, judge_client);
    }
}

MHD_Result reply(MHD_Connection* connection, const HttpResponse& response) {
    MHD_Response* out = MHD_create_response_from_buffer(
        response.body.size(), const_cast<char*>(response.body.data()), MHD_RESPMEM_MUST_COPY);
    if (out == nullptr) return MHD_NO;
    MHD_add_response_header(out, MHD_HTTP_HEADER_CONTENT_TYPE, response.content_type.c_str());
    MHD_add_response_header(out, MHD_HTTP_HEADER_X_CONTENT_TYPE_OPTIONS, "nosniff");
    for (const auto& [name, value] : response.headers)
        MHD_add_response_header(out, name.c_str(), value.c_str());
    const MHD_Result queued =
        MHD_queue_response(connection, static_cast<unsigned>(response.status), out);
    MHD_destroy_response(out);
    return queued;
}

// libmicrohttpd calls this once for the header, then for each piece of the body, then once with no
// more data.
MHD_Result on_request(void* user, MHD_Connection* connection, const char* url, const char* method,
                      const char*, const char* data, size_t* data_size, void** state) {
    if (*state == nullptr) {
        auto pending = std::make_unique<Pending>();
        pending->request.method = method;
        pending->request.path = url;
        MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, add_value,
                                  &pending->request.query);
        MHD_get_connection_values(connection, MHD_HEADER_KIND, add_header,
                                  &pending->request.headers);
        *state = pending.release();  // owned by the connection until on_completed
        return MHD_YES;
    }
    auto& pending = *static_cast<Pending*>(*state);
    if (*data_size != 0) {
        if (pending.request.body.size() + *data_size > kBodyBytesMax) {
            pending.too_large = true;
            pending.request.body.clear();
        } else if (!pending.too_large) {
            pending.request.body.append(data, *data_size);
        }
        *data_size = 0;
        return MHD_YES;
    }
    if (pending.too_large) {
        return reply(
            connection,
            {413, R"({"error":"body: at most 1 MiB is accepted"})", "application/json", {}});
    }
    return reply(connection, (*static_cast<HttpHandler*>(user))(pending.request));
}

// With client_ca. When on_connection comes before the handshake is libmicrohttpd's habit, not its
// promise; so whoever got here is judged again.
MHD_Result on_judged_request(void* user, MHD_Connection* connection, const char* url,
                             const char* method, const char* version, const char* data,
                             size_t* data_size, void** state) {
    if (*state == nullptr) {
        const auto session = tls_session(connection);
        if (session == nullptr || client_fault(session)) {
            return reply(connection,
                         {403,
                          R"({"error":"client certificate: one of the client CA is accepted"})",
                          "application/json",
                          {}});
        }
    }
    return on_request(user, connection, url, method, version, data, data_size, state);
}

void on_completed(void*, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
    delete static_cast<Pending*>(*state);
    *state = nullptr;
}

Result<std::string> read_text(const std::string& path, const char* what) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return io_error(std::string(what) + " '" + path + "'");
    return std::string{std::istreambuf_iterator<char>(file), {}};
}

Result<UniqueFd> listen_on(int family, const sockaddr* address, socklen_t size,
                           const std::string& name) {
    UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) return io_error("socket for " + name);
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (::bind(fd.get(), address, size) != 0) return io_error("listen on '" + name + "'");
    if (::listen(fd.get(), kBacklog) != 0) return io_error("listen on '" + name + "'");
    return fd;
}

}  // namespace

namespace {

// libmicrohttpd says a line for each handshake that fails, which anybody can bring about.
void log_bounded(void*, const char* format, va_list arguments) {
    constexpr uint64_t kLinesPerMinute = 10;
    static std::atomic<uint64_t> minute{0}, lines{0};
    const auto now = static_cast<uint64_t>(std::time(nullptr)) / 60;
    if (minute.exchange(now) != now) lines = 0;
    if (lines++ < kLinesPerMinute) std::vfprintf(stderr, format, arguments);
}

}  // namespace

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::listen_unix(const std::string& path,
                                                            HttpHandler handler) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path)) {
        return make_error(Errc::invalid_argument,
                          "API socket '" + path + "': 1 to 107 characters are accepted");
    }
    std::copy(path.begin(), path.end(), address.sun_path);
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    {
        // A socket file without a server is left over from a killed process.
        const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (::connect(probe.get(), generic, sizeof(address)) == 0) {
            return make_error(Errc::refused,
                              "API socket '" + path + "': another process serves it");
        }
        ::unlink(path.c_str());
    }
    auto impl = std::make_unique<Impl>();
    const mode_t before = ::umask(0177);
    auto listener = listen_on(AF_UNIX, generic, sizeof(address), path);
    ::umask(before);
    EVAC_TRY(listener);
    impl->listener = std::move(*listener);
    impl->socket_path = path;
    impl->handler = std::move(handler);
    impl->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_ERROR_LOG, 0, nullptr, nullptr, on_request, &impl->handler,
        MHD_OPTION_EXTERNAL_LOGGER, log_bounded, nullptr, MHD_OPTION_LISTEN_SOCKET,
        impl->listener.get(), MHD_OPTION_CONNECTION_LIMIT, kConnectionsMax,
        MHD_OPTION_CONNECTION_TIMEOUT, kIdleSecondsMax, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        nullptr, MHD_OPTION_END);
    if (impl->daemon == nullptr) return io_error("HTTP server on '" + path + "'");
    impl->listener.release();  // libmicrohttpd closes it
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

Result<std::unique_ptr<HttpServer>> HttpServer::listen_tls(const std::string& where,
                                                           const TlsFiles& tls,
                                                           HttpHandler handler) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    const size_t colon = where.rfind(':');
    uint16_t port = 0;
    const bool parsed =
        colon != std::string::npos &&
        ::inet_pton(AF_INET, where.substr(0, colon).c_str(), &address.sin_addr) == 1 &&
        std::from_chars(where.data() + colon + 1, where.data() + where.size(), port).ptr ==
            where.data() + where.size();
    if (!parsed)
        return make_error(Errc::invalid_argument, "listen '" + where + "': ip:port is accepted");
    address.sin_port = htons(port);
    auto impl = std::make_unique<Impl>();
    auto cert = read_text(tls.cert, "webhook certificate");
    EVAC_TRY(cert);
    auto key = read_text(tls.key, "webhook key");
    EVAC_TRY(key);
    impl->cert = std::move(*cert);
    impl->key = std::move(*key);
    if (!tls.client_ca.empty()) {
        auto client_ca = read_text(tls.client_ca, "webhook client CA");
        EVAC_TRY(client_ca);
        impl->client_ca = std::move(*client_ca);
    }
    auto listener =
        listen_on(AF_INET, reinterpret_cast<const sockaddr*>(&address), sizeof(address), where);
    EVAC_TRY(listener);
    impl->listener = std::move(*listener);
    impl->handler = std::move(handler);
    const bool judges = !tls.client_ca.empty();
    std::array<MHD_OptionItem, 3> client_options{};  // MHD_OPTION_END each
    if (judges) {
        client_options[0] = {MHD_OPTION_HTTPS_MEM_TRUST, 0, impl->client_ca.data()};
        client_options[1] = {MHD_OPTION_NOTIFY_CONNECTION,
                             reinterpret_cast<intptr_t>(on_connection), nullptr};
    }
    impl->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_ERROR_LOG | MHD_USE_TLS, port, nullptr, nullptr,
        judges ? on_judged_request : on_request, &impl->handler, MHD_OPTION_EXTERNAL_LOGGER,
        log_bounded, nullptr, MHD_OPTION_LISTEN_SOCKET, impl->listener.get(),
        MHD_OPTION_HTTPS_MEM_CERT, impl->cert.c_str(), MHD_OPTION_HTTPS_MEM_KEY, impl->key.c_str(),
        MHD_OPTION_HTTPS_PRIORITIES, "SECURE128:-VERS-TLS1.0:-VERS-TLS1.1",
        MHD_OPTION_CONNECTION_LIMIT, kConnectionsMax, MHD_OPTION_CONNECTION_TIMEOUT,
        kIdleSecondsMax, MHD_OPTION_NOTIFY_COMPLETED, on_completed, nullptr, MHD_OPTION_ARRAY,
        client_options.data(), MHD_OPTION_END);
    if (impl->daemon == nullptr) {
        return make_error(Errc::invalid_argument, "webhook on '" + where + "': certificate '" +
                                                      tls.cert + "' or key '" + tls.key +
                                                      "' cannot be used");
    }
    impl->listener.release();
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::wait_fd() const {
    const MHD_DaemonInfo* info = MHD_get_daemon_info(impl_->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    return info != nullptr ? info->epoll_fd : -1;
}

int HttpServer::timeout_ms() const {
    MHD_UNSIGNED_LONG_LONG timeout = 0;
    if (MHD_get_timeout(impl_->daemon, &timeout) != MHD_YES) return -1;
    return static_cast<int>(std::min<MHD_UNSIGNED_LONG_LONG>(timeout, 60'000));
}

// One step reads one piece of a body; what then waits inside libmicrohttpd or TLS does not show on
// wait_fd().
void HttpServer::run() {
    for (int step = 0; step < kStepsMax; ++step) {
        MHD_run(impl_->daemon);
        if (timeout_ms() != 0) return;
    }
}

}  // namespace evac::api
