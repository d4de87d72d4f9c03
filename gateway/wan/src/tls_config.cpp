#include "evac/wan/tls_config.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "tls_impl.hpp"

namespace evac::wan {
namespace {

constexpr size_t kPemBytesMax = 1u << 20;
constexpr const char* kCiphers = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384";
constexpr std::array<unsigned char, 9> kAlpn{8, 'e', 'v', 'a', 'c', 'g', 'w', '/', '1'};

struct Free {
    void operator()(BIO* p) const { BIO_free(p); }
    void operator()(X509* p) const { X509_free(p); }
    void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// A label names the field and, when there is one, the file: "wan.certificate_file
// /etc/evacgw/a.pem".
struct Labels {
    std::string certificate, key, ca;
};

Error invalid(std::string text) {
    ERR_clear_error();
    return make_error(Errc::invalid_argument, std::move(text));
}

Result<std::string> read_file(const char* field, const std::string& path) {
    if (path.empty()) {
        return make_error(Errc::invalid_argument,
                          std::string(field) + ": empty; the path of a PEM file is expected");
    }
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"),
                                                               &std::fclose);
    if (file == nullptr) return io_error(std::string(field) + ": cannot open " + path);
    std::string text(kPemBytesMax + 1, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), file.get()));
    if (std::ferror(file.get()) != 0)
        return io_error(std::string(field) + ": cannot read " + path, EIO);
    if (text.size() > kPemBytesMax) {
        return make_error(
            Errc::invalid_argument,
            std::string(field) + ": " + path + " is larger than 1 MiB; a PEM file is expected");
    }
    return text;
}

Owned<BIO> memory_bio(const std::string& text) {
    return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Never asks for a passphrase: a daemon has nobody to ask.
int no_passphrase(char*, int, int, void*) {
    return -1;
}

Status use_certificate(SSL_CTX* context, const std::string& pem, const Labels& labels) {
    const Owned<BIO> bio = memory_bio(pem);
    const Owned<X509> leaf(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (leaf == nullptr)
        return invalid(labels.certificate + ": holds no certificate; PEM is expected");
    if (X509_cmp_current_time(X509_get0_notAfter(leaf.get())) <= 0) {
        return invalid(labels.certificate + ": the certificate has expired");
    }
    if (SSL_CTX_use_certificate(context, leaf.get()) != 1) {
        return invalid(labels.certificate +
                       ": the certificate is not usable (weak or unsupported key)");
    }
    while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
        const Owned<X509> intermediate(next);
        if (SSL_CTX_add1_chain_cert(context, intermediate.get()) != 1) {
            return invalid(labels.certificate + ": an intermediate certificate is not usable");
        }
    }
    ERR_clear_error();
    return {};
}

Status use_key(SSL_CTX* context, const std::string& pem, const Labels& labels) {
    const Owned<BIO> bio = memory_bio(pem);
    const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &no_passphrase, nullptr));
    if (key == nullptr) {
        return invalid(labels.key + ": holds no private key; PEM without a passphrase is expected");
    }
    const int kind = EVP_PKEY_get_base_id(key.get());
    if (kind != EVP_PKEY_EC && kind != EVP_PKEY_RSA) {
        // OpenSSL 3.0 offers Ed25519 for TLS but not for DTLS; it would fail later with "no shared
        // cipher".
        return invalid(
            labels.key +
            ": the key's type is not usable with DTLS 1.2; accepted: ECDSA (P-256) or RSA");
    }
    if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 ||
        SSL_CTX_check_private_key(context) != 1) {
        return invalid(labels.key + ": the key does not belong to the certificate in " +
                       labels.certificate);
    }
    return {};
}

Status use_ca(SSL_CTX* context, const std::string& pem, const Labels& labels) {
    const Owned<BIO> bio = memory_bio(pem);
    X509_STORE* store = SSL_CTX_get_cert_store(context);
    int count = 0;
    while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
        const Owned<X509> ca(next);
        if (X509_STORE_add_cert(store, ca.get()) != 1) {
            return invalid(labels.ca + ": an authority's certificate is not usable");
        }
        ++count;
    }
    if (count == 0) return invalid(labels.ca + ": holds no certificate; PEM is expected");
    ERR_clear_error();
    return {};
}

int select_alpn(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
                unsigned int in_size, void*) {
    unsigned char* chosen = nullptr;
    if (SSL_select_next_proto(&chosen, out_size, kAlpn.data(), kAlpn.size(), in, in_size) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

Status configure(SSL_CTX* context, const std::string& peer_name) {
    // Session resumption would make a new session out of an old secret; renegotiation is never
    // needed.
    SSL_CTX_set_options(context, SSL_OP_NO_QUERY_MTU | SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                     SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    X509_VERIFY_PARAM* verify = SSL_CTX_get0_param(context);
    X509_VERIFY_PARAM_set_hostflags(verify, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    const bool ok = SSL_CTX_set_min_proto_version(context, DTLS1_2_VERSION) == 1 &&
                    SSL_CTX_set_max_proto_version(context, DTLS1_2_VERSION) == 1 &&
                    SSL_CTX_set_cipher_list(context, kCiphers) == 1 &&
                    SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1 &&
                    SSL_CTX_set_alpn_protos(context, kAlpn.data(), kAlpn.size()) == 0 &&
                    X509_VERIFY_PARAM_set1_host(verify, peer_name.data(), peer_name.size()) == 1;
    if (!ok) return invalid("wan: OpenSSL refuses the DTLS settings");
    SSL_CTX_set_alpn_select_cb(context, &select_alpn, nullptr);
    install_callbacks(context);
    return {};
}

Result<std::unique_ptr<TlsContext::Impl>> build(const TlsPem& pem, const Labels& labels) {
    if (pem.expected_peer_name.empty()) {
        return make_error(
            Errc::invalid_argument,
            "wan.expected_peer_name: empty; the name in the peer's certificate is expected");
    }
    auto impl = std::make_unique<TlsContext::Impl>();
    impl->context.reset(SSL_CTX_new(DTLS_method()));
    if (impl->context == nullptr) return invalid("wan: OpenSSL has no DTLS");
    impl->expected_peer_name = pem.expected_peer_name;
    impl->ca_label = labels.ca;
    SSL_CTX* context = impl->context.get();
    EVAC_TRY(configure(context, pem.expected_peer_name));
    EVAC_TRY(use_certificate(context, pem.certificate, labels));
    EVAC_TRY(use_key(context, pem.key, labels));
    EVAC_TRY(use_ca(context, pem.ca, labels));
    return impl;
}

}  // namespace

TlsContext::TlsContext(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TlsContext::~TlsContext() = default;

Result<std::shared_ptr<const TlsContext>> TlsContext::load(const TlsFiles& files) {
    auto certificate = read_file("wan.certificate_file", files.certificate_file);
    EVAC_TRY(certificate);
    auto key = read_file("wan.key_file", files.key_file);
    EVAC_TRY(key);
    auto ca = read_file("wan.ca_file", files.ca_file);
    EVAC_TRY(ca);
    const Labels labels{"wan.certificate_file " + files.certificate_file,
                        "wan.key_file " + files.key_file, "wan.ca_file " + files.ca_file};
    auto impl =
        build({std::move(*certificate), std::move(*key), std::move(*ca), files.expected_peer_name},
              labels);
    EVAC_TRY(impl);
    return std::shared_ptr<const TlsContext>(new TlsContext(std::move(*impl)));
}

Result<std::shared_ptr<const TlsContext>> TlsContext::from_pem(const TlsPem& pem) {
    auto impl = build(pem, {"wan.certificate", "wan.key", "wan.ca"});
    EVAC_TRY(impl);
    return std::shared_ptr<const TlsContext>(new TlsContext(std::move(*impl)));
}

}  // namespace evac::wan
