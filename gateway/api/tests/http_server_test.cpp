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
    Reply get(const std::string& url, const std::string& unix_path, const std::string* body = nullptr) {
        Reply reply;
        CURL* curl = curl_easy_init();
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
        const CURLcode code = curl_easy_perform(curl);
        EXPECT_EQ(code, CURLE_OK) << curl_easy_strerror(code);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply.status);
        curl_easy_cleanup(curl);
        return reply;
    }
    static HttpResponse echo(const HttpRequest& r) {
        const auto name = r.query.find("name");
        return {r.method == "POST" ? 202 : 200,
                r.method + " " + r.path + " " + (name == r.query.end() ? "-" : name->second) + " " +
                    std::to_string(r.body.size()),
                "text/plain", {}};
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
    { auto first = HttpServer::listen_unix(path, echo); ASSERT_TRUE(first.ok()); }
    EXPECT_TRUE(HttpServer::listen_unix(path, echo).ok());
}

TEST_F(HttpServerTest, Tls) {
    const std::string make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=t "
                             "-keyout " + folder_ + "/k.pem -out " + folder_ + "/c.pem 2>/dev/null";
    ASSERT_EQ(std::system(make.c_str()), 0);
    EXPECT_EQ(HttpServer::listen_tls("nonsense", {folder_ + "/c.pem", folder_ + "/k.pem", ""}, echo).error().code,
              Errc::invalid_argument);
    EXPECT_EQ(HttpServer::listen_tls("127.0.0.1:0", {folder_ + "/absent", folder_ + "/k.pem", ""}, echo).error().code,
              Errc::io);
    const std::string address = "127.0.0.1:" + std::to_string(20000 + getpid() % 20000);
    auto server = HttpServer::listen_tls(address, {folder_ + "/c.pem", folder_ + "/k.pem", ""}, echo);
    ASSERT_TRUE(server.ok()) << server.error().message();
    serve(std::move(*server));
    const std::string body = "{}";
    EXPECT_EQ(get("https://" + address + "/v1/alerts", "", &body).body, "POST /v1/alerts - 2");
}

}  // namespace
}  // namespace evac::api
