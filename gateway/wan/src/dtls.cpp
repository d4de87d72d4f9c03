#include "dtls.hpp"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstring>

#include "evac/core/assert.hpp"
#include "tls_impl.hpp"

namespace evac::wan {
namespace {

constexpr unsigned kNeverUs =
    2'000'000'000;  // OpenSSL's retransmission timer: longer than any attempt
constexpr std::string_view kExporterLabel = "EXPORTER-evacgw-wan-v1";

// ---- datagram-queue BIO ----

DatagramQueue& queue_of(BIO* bio) {
    return *static_cast<DatagramQueue*>(BIO_get_data(bio));
}

int queue_read(BIO* bio, char* out, int size) {
    DatagramQueue& queue = queue_of(bio);
    BIO_clear_retry_flags(bio);
    if (!queue.has_input) {
        BIO_set_retry_read(bio);
        return -1;
    }
    queue.has_input = false;
    const size_t taken = std::min(queue.input.size(), static_cast<size_t>(std::max(size, 0)));
    if (taken > 0) std::memcpy(out, queue.input.data(), taken);
    return static_cast<int>(taken);
}

int queue_write(BIO* bio, const char* data, int size) {
    DatagramQueue& queue = queue_of(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0) return size;
    if (queue.output.size() < kFlightDatagramsMax) {
        const auto* bytes = reinterpret_cast<const std::byte*>(data);
        queue.output.emplace_back(bytes, bytes + size);
    }
    return size;
}

long queue_ctrl(BIO*, int command, long, void*) {
    switch (command) {
        case BIO_CTRL_FLUSH:
            return 1;
        case BIO_CTRL_DGRAM_QUERY_MTU:
        case BIO_CTRL_DGRAM_GET_MTU:
        case BIO_CTRL_DGRAM_GET_FALLBACK_MTU:
            return static_cast<long>(kHandshakeMtuMax);
        default:
            return 0;
    }
}

BIO_METHOD* queue_method() {
    static BIO_METHOD* const method = [] {
        BIO_METHOD* m =
            BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "evac datagram queue");
        EVAC_ASSERT(m != nullptr);
        BIO_meth_set_read(m, &queue_read);
        BIO_meth_set_write(m, &queue_write);
        BIO_meth_set_ctrl(m, &queue_ctrl);
        return m;
    }();
    return method;
}

BIO* new_queue_bio(DatagramQueue& queue) {
    BIO* bio = BIO_new(queue_method());
    EVAC_ASSERT(bio != nullptr);
    BIO_set_data(bio, &queue);
    BIO_set_init(bio, 1);
    return bio;
}

// ---- callbacks ----

std::string name_text(const X509* certificate) {
    std::array<char, 256> text{};
    X509_NAME_oneline(X509_get_subject_name(certificate), text.data(),
                      static_cast<int>(text.size()));
    return text.data();
}

int note_verification(int ok, X509_STORE_CTX* store) {
    if (ok == 1) return 1;
    auto* ssl =
        static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* handshake = static_cast<DtlsHandshake*>(SSL_get_app_data(ssl));
    const int code = X509_STORE_CTX_get_error(store);
    const X509* certificate = X509_STORE_CTX_get_current_cert(store);
    std::string text = X509_verify_cert_error_string(code);
    if (certificate != nullptr) text += ", certificate subject " + name_text(certificate);
    if (handshake != nullptr) handshake->note_verify_failure(std::move(text));
    return 0;
}

HelloOrigin* origin_of(SSL* ssl) {
    return static_cast<HelloOrigin*>(SSL_get_ex_data(ssl, 1));
}

int make_cookie(SSL* ssl, unsigned char* cookie, unsigned int* size) {
    const HelloOrigin* origin = origin_of(ssl);
    if (origin == nullptr || origin->secret == nullptr) return 0;
    const CookieSecret::Cookie made = origin->secret->make(*origin);
    std::memcpy(cookie, made.data(), made.size());
    *size = static_cast<unsigned int>(made.size());
    return 1;
}

int check_cookie(SSL* ssl, const unsigned char* cookie, unsigned int size) {
    const HelloOrigin* origin = origin_of(ssl);
    if (origin == nullptr) return 0;
    if (origin->verified) return 1;
    if (origin->secret == nullptr) return 0;
    return origin->secret->verify(*origin, {reinterpret_cast<const std::byte*>(cookie), size}) ? 1
                                                                                               : 0;
}

unsigned int never(SSL*, unsigned int) {
    return kNeverUs;
}

void reserve_ex_data() {
    // Index 0 is SSL_set_app_data; index 1 is ours.
    static const int reserved = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    EVAC_ASSERT(reserved == 1);
}

}  // namespace

void install_callbacks(SSL_CTX* context) {
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                       &note_verification);
    SSL_CTX_set_cookie_generate_cb(context, &make_cookie);
    SSL_CTX_set_cookie_verify_cb(context, &check_cookie);
}

// ---- cookies ----

void CookieSecret::rotate(uint64_t now_ns) {
    if (started_ && now_ns - since_ns_ < kLifeNs) return;
    previous_ = current_;
    EVAC_ASSERT(RAND_bytes(reinterpret_cast<unsigned char*>(current_.data()),
                           static_cast<int>(current_.size())) == 1);
    if (!started_) previous_ = current_;
    started_ = true;
    since_ns_ = now_ns;
}

CookieSecret::Cookie CookieSecret::with(const Secret& secret, const HelloOrigin& origin) const {
    Bytes input;
    input.reserve(16);
    ByteWriter writer(input);
    writer.le32(origin.from.ip);
    writer.le16(origin.from.port);
    writer.le64(origin.attempt);
    Cookie cookie{};
    unsigned int size = 0;
    HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
         reinterpret_cast<const unsigned char*>(input.data()), input.size(),
         reinterpret_cast<unsigned char*>(cookie.data()), &size);
    EVAC_ASSERT(size == cookie.size());
    return cookie;
}

CookieSecret::Cookie CookieSecret::make(const HelloOrigin& origin) {
    rotate(origin.now_ns);
    return with(current_, origin);
}

bool CookieSecret::verify(const HelloOrigin& origin, ByteSpan cookie) {
    rotate(origin.now_ns);
    if (cookie.size() != sizeof(Cookie)) return false;
    const Cookie now = with(current_, origin);
    const Cookie before = with(previous_, origin);
    return CRYPTO_memcmp(now.data(), cookie.data(), now.size()) == 0 ||
           CRYPTO_memcmp(before.data(), cookie.data(), before.size()) == 0;
}

// ---- handshake ----

void DtlsHandshake::Free::operator()(ssl_st* ssl) const {
    SSL_free(ssl);
}

DtlsHandshake::DtlsHandshake(std::shared_ptr<const TlsContext> tls, Role role)
    : tls_(std::move(tls)), role_(role), ssl_(SSL_new(tls_->impl().context.get())) {
    EVAC_ASSERT(ssl_ != nullptr);
    reserve_ex_data();
    SSL_set_app_data(ssl_.get(), this);
    SSL_set_ex_data(ssl_.get(), 1, &origin_);
    BIO* bio = new_queue_bio(queue_);
    SSL_set_bio(ssl_.get(), bio, bio);
    DTLS_set_timer_cb(ssl_.get(), &never);
    SSL_set_mtu(ssl_.get(), static_cast<long>(kHandshakeMtuMax));
    if (role_ == Role::listen) {
        SSL_set_accept_state(ssl_.get());
    } else {
        SSL_set_connect_state(ssl_.get());
    }
}

DtlsHandshake::~DtlsHandshake() {
    ERR_clear_error();
}

DtlsHandshake::Progress DtlsHandshake::start() {
    return step();
}

DtlsHandshake::Progress DtlsHandshake::feed(ByteSpan datagram) {
    queue_.input = datagram;
    queue_.has_input = true;
    const Progress progress = step();
    queue_.has_input = false;
    queue_.input = {};
    return progress;
}

DtlsHandshake::Progress DtlsHandshake::step() {
    ERR_clear_error();
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) return Progress::done;
    const int error = SSL_get_error(ssl_.get(), result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return Progress::working;
    failure_ = describe_failure();
    ERR_clear_error();
    return Progress::failed;
}

std::string DtlsHandshake::describe_failure() {
    const TlsContext::Impl& impl = tls_->impl();
    if (!verify_failure_.empty()) {
        refused_ = true;
        return "we refuse the peer's certificate: " + verify_failure_ +
               "; accepted is a valid certificate for '" + impl.expected_peer_name +
               "' signed by " + impl.ca_label;
    }
    const unsigned long code = ERR_peek_error();
    const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
    const std::string text = reason == nullptr ? "no reason given" : reason;
    if (code != 0 && ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET) {
        refused_ = true;
        return "the peer refuses the handshake: " + text;
    }
    return "the handshake failed: " + text;
}

bool DtlsHandshake::export_secrets(uint64_t attempt, SessionSecrets& secrets) {
    // Without it the exporter is not bound to this very handshake (RFC 7627).
    if (SSL_get_extms_support(ssl_.get()) != 1) {
        failure_ = "the peer's TLS lacks the extended master secret";
        refused_ = true;
        return false;
    }
    Bytes context;
    ByteWriter(context).le64(attempt);
    std::array<std::byte, 76> material{};
    const int ok = SSL_export_keying_material(
        ssl_.get(), reinterpret_cast<unsigned char*>(material.data()), material.size(),
        kExporterLabel.data(), kExporterLabel.size(),
        reinterpret_cast<const unsigned char*>(context.data()), context.size(), 1);
    if (ok != 1) {
        failure_ = "the key export failed";
        return false;
    }
    ByteReader reader(material);
    secrets.id = reader.le64();
    if (secrets.id == 0) secrets.id = 1;  // 0 means none
    secrets.tag = reader.le32();
    Secret& forward = role_ == Role::connect ? secrets.send : secrets.receive;
    Secret& backward = role_ == Role::connect ? secrets.receive : secrets.send;
    std::memcpy(forward.data(), material.data() + 12, forward.size());
    std::memcpy(backward.data(), material.data() + 44, backward.size());
    OPENSSL_cleanse(material.data(), material.size());
    return true;
}

// ---- listener ----

DtlsListener::Verdict DtlsListener::offer(HelloOrigin origin, ByteSpan datagram,
                                          std::vector<Bytes>& reply,
                                          std::unique_ptr<DtlsHandshake>& handshake) {
    if (spare_ == nullptr) spare_ = std::make_unique<DtlsHandshake>(tls_, Role::listen);
    origin.secret = &secret_;
    spare_->origin_ = origin;
    spare_->queue_.input = datagram;
    spare_->queue_.has_input = true;
    ERR_clear_error();
    const std::unique_ptr<BIO_ADDR, void (*)(BIO_ADDR*)> unused(BIO_ADDR_new(), &BIO_ADDR_free);
    const int result = DTLSv1_listen(spare_->ssl_.get(), unused.get());
    spare_->queue_.has_input = false;
    spare_->queue_.input = {};
    reply = spare_->take_output();
    if (result <= 0) {
        ERR_clear_error();
        if (result < 0) spare_.reset();
        return reply.empty() ? Verdict::malformed : Verdict::cookie_sent;
    }
    handshake = std::move(spare_);
    handshake->origin_.secret = nullptr;
    handshake->origin_.verified = true;
    return Verdict::accepted;
}

bool is_hello_verify(ByteSpan datagram) {
    // record: type(1)=22 version(2) epoch(2) sequence(6) length(2), then handshake type(1)=3
    return datagram.size() > 13 && datagram[0] == std::byte{22} && datagram[13] == std::byte{3};
}

}  // namespace evac::wan
