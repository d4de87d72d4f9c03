#pragma once
// A DTLS 1.2 handshake as a step function on datagrams, and the stateless cookie exchange in front
// of it. OpenSSL's own timers are disabled: the handshaker resends the last flight verbatim (dtls
// replay checks drop what had arrived), which keeps time an argument.
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "crypto.hpp"
#include "evac/core/bytes.hpp"
#include "evac/wan/endpoint.hpp"
#include "evac/wan/tls_config.hpp"
#include "evac/wan_port/datagram_port.hpp"

struct ssl_st;

namespace evac::wan {

inline constexpr size_t kFlightDatagramsMax = 32;  // a certificate chain of about 40 KiB
inline constexpr size_t kHandshakeMtuMax =
    1200;  // below OpenSSL's 4 KiB write buffer, and any path

// One datagram in, a queue of datagrams out: BIO_s_mem would join them.
struct DatagramQueue {
    ByteSpan input;
    bool has_input = false;
    std::vector<Bytes> output;
};

// Where a hello came from: what its cookie binds.
struct HelloOrigin {
    wan_port::UdpAddress from{};
    uint64_t attempt = 0;
    uint64_t now_ns = 0;
    class CookieSecret* secret = nullptr;
    bool verified = false;  // the listener has seen the right cookie; OpenSSL asks once more
};

// Changes every kLifeNs; cookies of the previous secret still count.
class CookieSecret {
  public:
    static constexpr uint64_t kLifeNs = 30'000'000'000;
    using Cookie = std::array<std::byte, 32>;
    Cookie make(const HelloOrigin& origin);
    bool verify(const HelloOrigin& origin, ByteSpan cookie);

  private:
    Cookie with(const Secret& secret, const HelloOrigin& origin) const;
    void rotate(uint64_t now_ns);
    Secret current_{};
    Secret previous_{};
    uint64_t since_ns_ = 0;
    bool started_ = false;
};

class DtlsHandshake {
  public:
    enum class Progress : uint8_t { working, done, failed };

    DtlsHandshake(std::shared_ptr<const TlsContext> tls, Role role);
    ~DtlsHandshake();
    DtlsHandshake(const DtlsHandshake&) = delete;
    DtlsHandshake& operator=(const DtlsHandshake&) = delete;

    // Client: makes the first hello. Server (comes from DtlsListener): answers the hello that was
    // accepted.
    Progress start();
    Progress feed(ByteSpan datagram);
    // Datagrams made since the last call (an alert, too, after a failure).
    std::vector<Bytes> take_output() { return std::exchange(queue_.output, {}); }
    const std::string& failure() const { return failure_; }
    bool refused() const {
        return refused_;
    }  // by either side's rules, as opposed to a damaged exchange
    // After done. False: the peer's TLS lacks the extended master secret.
    bool export_secrets(uint64_t attempt, SessionSecrets& secrets);

    void note_verify_failure(std::string text) { verify_failure_ = std::move(text); }

  private:
    friend class DtlsListener;
    Progress step();
    std::string describe_failure();

    struct Free {
        void operator()(ssl_st* ssl) const;
    };
    std::shared_ptr<const TlsContext> tls_;
    Role role_;
    DatagramQueue queue_;
    HelloOrigin origin_;  // while listening
    std::unique_ptr<ssl_st, Free> ssl_;
    std::string verify_failure_;
    std::string failure_;
    bool refused_ = false;
};

// Answers hellos without a cookie and keeps nothing about them.
class DtlsListener {
  public:
    enum class Verdict : uint8_t { malformed, cookie_sent, accepted };
    explicit DtlsListener(std::shared_ptr<const TlsContext> tls) : tls_(std::move(tls)) {}

    // cookie_sent: `reply` holds the answer. accepted: `handshake` holds the hello (do not feed it
    // again); start() answers it.
    Verdict offer(HelloOrigin origin, ByteSpan datagram, std::vector<Bytes>& reply,
                  std::unique_ptr<DtlsHandshake>& handshake);

  private:
    std::shared_ptr<const TlsContext> tls_;
    CookieSecret secret_;
    std::unique_ptr<DtlsHandshake> spare_;
};

// True when `datagram` (DTLS part) is a HelloVerifyRequest: the peer's site answers.
bool is_hello_verify(ByteSpan datagram);

}  // namespace evac::wan
