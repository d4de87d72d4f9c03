// A real server and a real client (libcurl), over a Unix socket and over TLS.
#include "evac/api/http_server.hpp"

#include <curl/curl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>

namespace evac::api {
namespace {

size_t collect(char* data, size_t size, size_t count, void* out) {
    static_cast<std::string*>(out)->append(data, size * count);
    return size * count;
}

struct Reply {
    CURLcode code = CURLE_OK;
    long status = 0;
    std::string body;
};

class HttpServerTest : public testing::Test {
  protected:
    HttpServerTest() {
        char pattern[] = "/tmp/evac-api-XXXXXX";
        folder_ = mkdtemp(pattern);
    }
    ~HttpServerTest() override {
        stop_ = true;
        if (thread_.joinable()) thread_.join();
        server_.reset();
        std::filesystem::remove_all(folder_);
    }
    void serve(std::unique_ptr<HttpServer> server) {
        server_ = std::move(server);
        thread_ = std::thread([this] {
            while (!stop_) {
                pollfd waiter{server_->wait_fd(), POLLIN, 0};
                poll(&waiter, 1, 20);
                server_->run();
            }
        });
    }
    Reply get(const std::string& url, const std::string& unix_path,
              const std::string* body = nullptr) {
        Reply reply = attempt(url, unix_path, body, "", CURL_SSLVERSION_DEFAULT);
        EXPECT_EQ(reply.code, CURLE_OK) << curl_easy_strerror(reply.code);
        return reply;
    }
    // `client` names a certificate of make_certificate(), "" sends none.
    Reply attempt(const std::string& url, const std::string& unix_path, const std::string* body,
                  const std::string& client, long tls_version) {
        Reply reply;
        const std::string certificate = folder_ + "/" + client + ".pem",
                          key = folder_ + "/" + client + ".key";
        CURL* curl = curl_easy_init();
        curl_easy_setopt(curl, CURLOPT_SSLVERSION, tls_version);
        if (!client.empty()) {
            curl_easy_setopt(curl, CURLOPT_SSLCERT, certificate.c_str());
            curl_easy_setopt(curl, CURLOPT_SSLKEY, key.c_str());
        }
        curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
        if (!unix_path.empty()) curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, unix_path.c_str());
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reply.body);
        curl_easy_setopt(curl, CURLOPT_TIMEOUT, 10L);
        if (body != nullptr) {
            curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(body->size()));
            curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->data());
        }
        reply.code = curl_easy_perform(curl);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply.status);
        curl_easy_cleanup(curl);
        return reply;
    }
    // NAME.pem and NAME.key, signed by `issuer`, or by itself when that is "". Without a purpose it
    // is for any.
    void make_certificate(const std::string& name, const std::string& issuer,
                          const std::string& purpose, int days) {
        const std::string file = folder_ + "/" + name, ca = folder_ + "/" + issuer;
        const std::string request =
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=" + name +
            " -keyout " + file + ".key";
        std::string command = request + " -x509 -days 1 -out " + file + ".pem > /dev/null 2>&1";
        if (!issuer.empty()) {
            command = "(echo " + (purpose.empty() ? "" : "extendedKeyUsage=" + purpose) + " > " +
                      file + ".ext && " + request + " -new -out " + file +
                      ".csr && openssl x509 -req -in " + file + ".csr -CA " + ca + ".pem -CAkey " +
                      ca + ".key -CAcreateserial -days " + std::to_string(days) + " -extfile " +
                      file + ".ext -out " + file + ".pem) > /dev/null 2>&1";
        }
        ASSERT_EQ(std::system(command.c_str()), 0) << command;
    }
    static HttpResponse echo(const HttpRequest& r) {
        const auto name = r.query.find("name");
        return {r.method == "POST" ? 202 : 200,
                r.method + " " + r.path + " " + (name == r.query.end() ? "-" : name->second) + " " +
                    std::to_string(r.body.size()),
                "text/plain",
                {}};
    }

    std::string folder_;
    std::unique_ptr<HttpServer> server_;
    std::thread thread_;
    std::atomic<bool> stop_{false};
};

TEST_F(HttpServerTest, UnixSocket) {
    const std::string path = folder_ + "/api.sock";
    auto server = HttpServer::listen_unix(path, echo);
    ASSERT_TRUE(server.ok()) << server.error().message();
    struct stat info {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    auto second = HttpServer::listen_unix(path, echo);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code, Errc::refused);
    serve(std::move(*server));
    EXPECT_EQ(get("http://x/v1/a?name=b%20c", path).body, "GET /v1/a b c 0");
    const std::string body(100000, 'x');
    const Reply posted = get("http://x/p", path, &body);
    EXPECT_EQ(posted.status, 202);
    EXPECT_EQ(posted.body, "POST /p - 100000");
    const std::string huge(kBodyBytesMax + 1, 'x');
    EXPECT_EQ(get("http://x/p", path, &huge).status, 413);
}

TEST_F(HttpServerTest, StaleSocketIsReplaced) {
    const std::string path = folder_ + "/api.sock";
    {
        auto first = HttpServer::listen_unix(path, echo);
        ASSERT_TRUE(first.ok());
    }
    EXPECT_TRUE(HttpServer::listen_unix(path, echo).ok());
}

TEST_F(HttpServerTest, Tls) {
    const std::string make =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=t "
        "-keyout " +
        folder_ + "/k.pem -out " + folder_ + "/c.pem 2>/dev/null";
    ASSERT_EQ(std::system(make.c_str()), 0);
    EXPECT_EQ(HttpServer::listen_tls("nonsense", {folder_ + "/c.pem", folder_ + "/k.pem", ""}, echo)
                  .error()
                  .code,
              Errc::invalid_argument);
    EXPECT_EQ(
        HttpServer::listen_tls("127.0.0.1:0", {folder_ + "/absent", folder_ + "/k.pem", ""}, echo)
            .error()
            .code,
        Errc::io);
    const std::string address = "127.0.0.1:" + std::to_string(20000 + getpid() % 20000);
    auto server =
        HttpServer::listen_tls(address, {folder_ + "/c.pem", folder_ + "/k.pem", ""}, echo);
    ASSERT_TRUE(server.ok()) << server.error().message();
    serve(std::move(*server));
    const std::string body = "{}";
    EXPECT_EQ(get("https://" + address + "/v1/alerts", "", &body).body, "POST /v1/alerts - 2");
}

TEST_F(HttpServerTest, ClientCertificatesAreJudged) {
    for (const char* authority : {"server", "ca", "stranger"})
        make_certificate(authority, "", "", 1);
    make_certificate("good", "ca", "clientAuth", 1);
    make_certificate("good-for-all", "ca", "", 1);
    make_certificate("expired", "ca", "clientAuth", -1);
    make_certificate("for-servers", "ca", "serverAuth", 1);
    make_certificate("strangers", "stranger", "clientAuth", 1);
    const std::string file = folder_ + "/server",
                      address = "127.0.0.1:" + std::to_string(20000 + getpid() % 20000);
    std::atomic<int> handled{0};
    auto server =
        HttpServer::listen_tls(address, {file + ".pem", file + ".key", folder_ + "/ca.pem"},
                               [&handled](const HttpRequest& request) {
                                   ++handled;
                                   return echo(request);
                               });
    ASSERT_TRUE(server.ok()) << server.error().message();
    serve(std::move(*server));
    const std::string url = "https://" + address + "/v1/alerts", body = "{}";
    // With TLS 1.3 the client is done with its handshake, and may have sent its request, before it
    // is judged.
    for (const long version :
         std::initializer_list<long>{CURL_SSLVERSION_MAX_TLSv1_2, CURL_SSLVERSION_TLSv1_3}) {
        for (const char* client : {"", "expired", "for-servers", "strangers", "stranger"}) {
            const Reply reply = attempt(url, "", &body, client, version);
            EXPECT_NE(reply.code, CURLE_OK)
                << "'" << client << "' was answered: " << reply.status << " " << reply.body;
            EXPECT_EQ(handled, 0) << client;
        }
        for (const char* client : {"good", "good-for-all"}) {
            EXPECT_EQ(attempt(url, "", &body, client, version).body, "POST /v1/alerts - 2");
        }
        EXPECT_EQ(handled.exchange(0), 2);
    }
}

}  // namespace
}  // namespace evac::api
