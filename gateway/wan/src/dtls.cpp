#include "dtls.hpp"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
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

bool concerns_list(int code) {
    return code == X509_V_ERR_CERT_REVOKED || code == X509_V_ERR_UNABLE_TO_GET_CRL ||
           code == X509_V_ERR_CRL_HAS_EXPIRED || code == X509_V_ERR_CRL_NOT_YET_VALID ||
           code == X509_V_ERR_CRL_SIGNATURE_FAILURE;
}

std::string verify_text(int code, const X509* certificate, const TlsContext::Impl& impl) {
    std::string text = X509_verify_cert_error_string(code);
    if (concerns_list(code)) text += " (" + impl.crl_label + ")";
    if (certificate != nullptr) text += ", certificate subject " + name_text(certificate);
    return text;
}

int note_verification(int ok, X509_STORE_CTX* store) {
    if (ok == 1) return 1;
    auto* ssl =
        static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* handshake = static_cast<DtlsHandshake*>(SSL_get_app_data(ssl));
    const int code = X509_STORE_CTX_get_error(store);
    if (handshake != nullptr) {
        handshake->note_verify_failure(verify_text(code, X509_STORE_CTX_get_current_cert(store),
                                                   handshake->context()->impl()));
    }
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

std::string offered(const unsigned char* in, unsigned int size) {
    std::string text;
    for (unsigned int at = 0; at < size && text.size() < 200;) {
        const unsigned int length = std::min<unsigned int>(in[at], size - at - 1);
        ++at;
        text += text.empty() ? "'" : ", '";
        for (const unsigned int end = at + length; at < end; ++at)
            text += in[at] > ' ' && in[at] < 0x7f ? static_cast<char>(in[at]) : '?';
        text += "'";
    }
    return text.empty() ? "nothing" : text;
}

int select_alpn(SSL* ssl, const unsigned char** out, unsigned char* out_size,
                const unsigned char* in, unsigned int in_size, void* arg) {
    const auto& impl = *static_cast<const TlsContext::Impl*>(arg);
    unsigned char* chosen = nullptr;
    if (SSL_select_next_proto(
            &chosen, out_size, reinterpret_cast<const unsigned char*>(impl.alpn.data()),
            static_cast<unsigned int>(impl.alpn.size()), in, in_size) != OPENSSL_NPN_NEGOTIATED) {
        if (auto* handshake = static_cast<DtlsHandshake*>(SSL_get_app_data(ssl))) {
            handshake->note_pair_failure("we refuse the peer, it is of another pair: it offers " +
                                         offered(in, in_size) + "; accepted is " + impl.pair_label);
        }
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
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

void install_callbacks(SSL_CTX* context, const TlsContext::Impl* impl) {
    SSL_CTX_set_alpn_select_cb(context, &select_alpn, const_cast<TlsContext::Impl*>(impl));
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                       &note_verification);
    SSL_CTX_set_cookie_generate_cb(context, &make_cookie);
    SSL_CTX_set_cookie_verify_cb(context, &check_cookie);
}

// ---- cookies ----

void CookieSecret::Free::operator()(evp_cipher_ctx_st* context) const {
    EVP_CIPHER_CTX_free(context);
}

CookieSecret::CookieSecret() : current_(EVP_CIPHER_CTX_new()), previous_(EVP_CIPHER_CTX_new()) {
    for (Key* key : {&current_, &previous_}) {
        const int ok = EVP_EncryptInit_ex(key->get(), EVP_aes_256_ecb(), nullptr, nullptr, nullptr);
        EVAC_ASSERT(ok == 1);
        renew(*key);
        EVP_CIPHER_CTX_set_padding(key->get(), 0);
    }
}

void CookieSecret::renew(Key& key) {
    Secret secret;
    auto* bytes = reinterpret_cast<unsigned char*>(secret.data());
    EVAC_ASSERT(RAND_bytes(bytes, static_cast<int>(secret.size())) == 1);
    EVAC_ASSERT(EVP_EncryptInit_ex(key.get(), nullptr, nullptr, bytes, nullptr) == 1);
    OPENSSL_cleanse(secret.data(), secret.size());
}

void CookieSecret::rotate(uint64_t now_ns) {
    if (!started_) since_ns_ = now_ns;
    started_ = true;
    if (now_ns - since_ns_ < kLifeNs) return;
    std::swap(current_, previous_);
    renew(current_);
    since_ns_ = now_ns;
}

CookieSecret::Cookie CookieSecret::with(const Key& key, const HelloOrigin& origin) {
    Cookie block{};
    PacketWriter writer(block);
    writer.le32(origin.from.ip);
    writer.le64(origin.attempt);
    writer.le32(origin.from.port);
    EVAC_ASSERT(writer.ok() && writer.size() == block.size());
    Cookie cookie{};
    int size = 0;
    const int ok =
        EVP_EncryptUpdate(key.get(), reinterpret_cast<unsigned char*>(cookie.data()), &size,
                          reinterpret_cast<const unsigned char*>(block.data()), block.size());
    EVAC_ASSERT(ok == 1 && size == static_cast<int>(cookie.size()));
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

namespace {

constexpr uint8_t kRecordHandshake = 22;
constexpr uint8_t kClientHello = 1;
constexpr uint8_t kHelloVerify = 3;
constexpr uint8_t kDtlsMajor = 0xfe;
constexpr uint8_t kDtls10Minor = 0xff;

void be16(PacketWriter& out, size_t v) {
    out.u8(static_cast<uint8_t>(v >> 8));
    out.u8(static_cast<uint8_t>(v & 0xff));
}
void be24(PacketWriter& out, size_t v) {
    out.u8(static_cast<uint8_t>(v >> 16));
    be16(out, v & 0xffff);
}
size_t be(ByteReader& reader, size_t bytes) {
    size_t value = 0;
    for (const std::byte b : reader.take(bytes)) value = value << 8 | std::to_integer<size_t>(b);
    return value;
}

}  // namespace

void write_cookie_reply(PacketWriter& out, const CookieReply& reply) {
    const size_t body = 3 + reply.cookie.size();
    out.u8(kRecordHandshake);
    out.u8(kDtlsMajor);
    out.u8(kDtls10Minor);
    be16(out, 0);
    out.put(reply.record_sequence);
    be16(out, 12 + body);
    out.u8(kHelloVerify);
    be24(out, body);
    be16(out, 0);
    be24(out, 0);
    be24(out, body);
    out.u8(kDtlsMajor);
    out.u8(kDtls10Minor);
    out.u8(static_cast<uint8_t>(reply.cookie.size()));
    out.put(reply.cookie);
}

std::optional<HelloView> parse_hello(ByteSpan datagram) {
    // record: type(1) version(2) epoch(2) sequence(6) length(2)
    // handshake: type(1) length(3) sequence(2) fragment offset(3) fragment length(3)
    // hello: version(2) random(32) session(1 + n) cookie(1 + n) ...
    ByteReader reader(datagram);
    HelloView view;
    if (reader.u8() != kRecordHandshake || reader.u8() != kDtlsMajor) return std::nullopt;
    reader.u8();
    if (be(reader, 2) != 0) return std::nullopt;
    const ByteSpan sequence = reader.take(view.record_sequence.size());
    const size_t record = be(reader, 2);
    if (!reader.ok() || record > reader.remaining()) return std::nullopt;
    std::copy(sequence.begin(), sequence.end(), view.record_sequence.begin());
    ByteReader body(reader.take(record));
    if (body.u8() != kClientHello) return std::nullopt;
    const size_t length = be(body, 3);
    be(body, 2);
    if (be(body, 3) != 0 || be(body, 3) != length || !body.ok() || body.remaining() != length)
        return std::nullopt;
    if (body.u8() != kDtlsMajor) return std::nullopt;
    body.u8();
    body.take(32);
    body.take(body.u8());
    view.cookie = body.take(body.u8());
    if (!body.ok() || body.at_end()) return std::nullopt;  // suites must follow
    return view;
}

// ---- identity ----

std::shared_ptr<const PeerIdentity> DtlsHandshake::peer_identity() const {
    auto identity = std::make_shared<PeerIdentity>();
    identity->leaf.reset(SSL_get1_peer_certificate(ssl_.get()));
    if (const STACK_OF(X509)* chain = SSL_get_peer_cert_chain(ssl_.get()))
        identity->chain.reset(X509_chain_up_ref(const_cast<STACK_OF(X509)*>(chain)));
    identity->protocol = tls_->impl().protocol;
    return identity;
}

std::string why_distrusted(const TlsContext& tls, Role role, const PeerIdentity& identity) {
    const TlsContext::Impl& impl = tls.impl();
    if (identity.protocol != impl.protocol) return "the session is over: this is another pair now";
    const std::unique_ptr<X509_STORE_CTX, void (*)(X509_STORE_CTX*)> check(X509_STORE_CTX_new(),
                                                                           &X509_STORE_CTX_free);
    SSL_CTX* context = impl.context.get();
    const bool ready = check != nullptr &&
                       X509_STORE_CTX_init(check.get(), SSL_CTX_get_cert_store(context),
                                           identity.leaf.get(), identity.chain.get()) == 1 &&
                       X509_STORE_CTX_set_default(
                           check.get(), role == Role::connect ? "ssl_server" : "ssl_client") == 1;
    EVAC_ASSERT(ready);
    X509_VERIFY_PARAM* param = X509_STORE_CTX_get0_param(check.get());
    X509_VERIFY_PARAM_set1(param, SSL_CTX_get0_param(context));
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_NO_CHECK_TIME);
    const bool trusted = X509_verify_cert(check.get()) == 1;
    const int code = X509_STORE_CTX_get_error(check.get());
    ERR_clear_error();
    if (trusted) return {};
    return "the session is over, the peer's certificate is not accepted any more: " +
           verify_text(code, identity.leaf.get(), impl);
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
    if (!pair_failure_.empty()) {
        refused_ = true;
        return pair_failure_;
    }
    const unsigned long code = ERR_peek_error();
    const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
    const std::string text = reason == nullptr ? "no reason given" : reason;
    if (code != 0 && ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET) {
        refused_ = true;
        const bool pair = ERR_GET_REASON(code) == SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL;
        return "the peer refuses the handshake: " + text +
               (pair ? "; ours is " + impl.pair_label + ", it must be the same at both sites" : "");
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
    const unsigned char* protocol = nullptr;
    unsigned int protocol_size = 0;
    SSL_get0_alpn_selected(ssl_.get(), &protocol, &protocol_size);
    if (std::string_view(reinterpret_cast<const char*>(protocol), protocol_size) !=
        tls_->impl().protocol) {
        failure_ = "the peer did not agree to " + tls_->impl().pair_label;
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

DtlsListener::Verdict DtlsListener::offer(HelloOrigin origin, ByteSpan datagram, CookieReply& reply,
                                          std::unique_ptr<DtlsHandshake>& handshake) {
    const std::optional<HelloView> hello = parse_hello(datagram);
    if (!hello) return Verdict::malformed;
    if (!secret_.verify(origin, hello->cookie)) {
        reply.to = origin.from;
        reply.attempt = origin.attempt;
        reply.record_sequence = hello->record_sequence;
        reply.cookie = secret_.make(origin);
        return Verdict::cookie_sent;
    }
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
    spare_->take_output();
    if (result <= 0) {
        ERR_clear_error();
        spare_.reset();
        return Verdict::malformed;
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
