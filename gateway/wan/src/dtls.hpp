#pragma once
// A DTLS 1.2 handshake as a step function on datagrams, and the stateless cookie exchange in front
// of it. OpenSSL's own timers are disabled: the handshaker resends the last flight verbatim (dtls
// replay checks drop what had arrived), which keeps time an argument.
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "crypto.hpp"
#include "evac/core/bytes.hpp"
#include "evac/wan/endpoint.hpp"
#include "evac/wan/tls_config.hpp"
#include "evac/wan_port/datagram_port.hpp"
#include "packet.hpp"

struct ssl_st;
struct evp_cipher_ctx_st;

namespace evac::wan {

inline constexpr size_t kFlightDatagramsMax = 32;  // a certificate chain of about 40 KiB
// With our header a datagram that any path carries; below OpenSSL's 4 KiB write buffer.
inline constexpr size_t kHandshakeMtuMax = kDatagramBytesMin - kHandshakeHeaderBytes;

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

// A cookie is one AES-256 block: address, port and attempt fill it, and under a secret key a block
// cipher is a function that nobody else can compute. The key changes every kLifeNs; cookies of the
// previous one still count. Nothing allocates after the first cookie.
class CookieSecret {
  public:
    static constexpr uint64_t kLifeNs = 30'000'000'000;
    using Cookie = std::array<std::byte, 16>;
    CookieSecret();
    Cookie make(const HelloOrigin& origin);
    bool verify(const HelloOrigin& origin, ByteSpan cookie);

  private:
    struct Free {
        void operator()(evp_cipher_ctx_st* context) const;
    };
    using Key = std::unique_ptr<evp_cipher_ctx_st, Free>;
    static void renew(Key& key);
    static Cookie with(const Key& key, const HelloOrigin& origin);
    void rotate(uint64_t now_ns);
    Key current_;
    Key previous_;
    uint64_t since_ns_ = 0;
    bool started_ = false;
};

// What answers a hello without a (valid) cookie.
struct CookieReply {
    wan_port::UdpAddress to{};
    uint64_t attempt = 0;
    std::array<std::byte, 6> record_sequence{};  // of the hello; the answer has the same
    CookieSecret::Cookie cookie{};
};
// hello-verify = record(22, 0xfeff, epoch 0, sequence(6), length(2))
//                handshake(3, length(3), 0(2), 0(3), length(3)) 0xfeff(2) size(1) cookie
void write_cookie_reply(PacketWriter& out, const CookieReply& reply);

// The parts of a ClientHello that the cookie exchange needs; none when it is not one, whole.
struct HelloView {
    std::array<std::byte, 6> record_sequence{};
    ByteSpan cookie;
};
std::optional<HelloView> parse_hello(ByteSpan datagram);

// The peer's certificates as they were verified, to be judged again by a later context.
struct PeerIdentity;
// Empty when `tls` accepts the peer; times are not looked at. `role` is ours.
std::string why_distrusted(const TlsContext& tls, Role role, const PeerIdentity& identity);

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

    std::shared_ptr<const PeerIdentity> peer_identity() const;  // after done
    const TlsContext* context() const { return tls_.get(); }

    void note_verify_failure(std::string text) { verify_failure_ = std::move(text); }
    void note_pair_failure(std::string text) { pair_failure_ = std::move(text); }

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
    std::string pair_failure_;
    std::string failure_;
    bool refused_ = false;
};

// Answers hellos without a cookie and keeps nothing about them.
class DtlsListener {
  public:
    enum class Verdict : uint8_t { malformed, cookie_sent, accepted };
    explicit DtlsListener(std::shared_ptr<const TlsContext> tls) : tls_(std::move(tls)) {}
    void set_tls(std::shared_ptr<const TlsContext> tls) {
        tls_ = std::move(tls);
        spare_.reset();
    }

    // cookie_sent: `reply` is the answer; OpenSSL has not been asked and nothing was allocated.
    // accepted: `handshake` holds the hello (do not feed it again); start() answers it.
    Verdict offer(HelloOrigin origin, ByteSpan datagram, CookieReply& reply,
                  std::unique_ptr<DtlsHandshake>& handshake);

  private:
    std::shared_ptr<const TlsContext> tls_;
    CookieSecret secret_;
    std::unique_ptr<DtlsHandshake> spare_;
};

// True when `datagram` (DTLS part) is a HelloVerifyRequest: the peer's site answers.
bool is_hello_verify(ByteSpan datagram);

}  // namespace evac::wan
