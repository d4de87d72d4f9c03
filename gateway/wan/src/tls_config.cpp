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
constexpr const char* kProtocol = "evacgw/1";

struct Free {
    void operator()(BIO* p) const { BIO_free(p); }
    void operator()(X509* p) const { X509_free(p); }
    void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
    void operator()(X509_CRL* p) const { X509_CRL_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// A label names the field and, when there is one, the file: "wan.certificate_file
// /etc/evacgw/a.pem".
struct Labels {
    std::string certificate, key, ca, crl;
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

std::string text_of(const X509_NAME* name) {
    std::array<char, 256> text{};
    X509_NAME_oneline(name, text.data(), static_cast<int>(text.size()));
    return text.data();
}

std::string text_of(const ASN1_TIME* time) {
    const Owned<BIO> bio(BIO_new(BIO_s_mem()));
    if (time == nullptr || ASN1_TIME_print(bio.get(), time) != 1) return "no date";
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<size_t>(size)};
}

// A list that is signed by one of the authorities in the store, if its issuer is there at all.
bool signature_fits(X509_STORE* store, X509_CRL* list) {
    bool issuer_known = false;
    const STACK_OF(X509_OBJECT)* objects = X509_STORE_get0_objects(store);
    for (int i = 0; i < sk_X509_OBJECT_num(objects); ++i) {
        X509* ca = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        if (ca == nullptr ||
            X509_NAME_cmp(X509_get_subject_name(ca), X509_CRL_get_issuer(list)) != 0)
            continue;
        issuer_known = true;
        if (X509_CRL_verify(list, X509_get0_pubkey(ca)) == 1) return true;
    }
    return !issuer_known;  // of an intermediate authority: checked with the peer's chain
}

Status use_crl(SSL_CTX* context, const std::string& pem, const Labels& labels) {
    const Owned<BIO> bio = memory_bio(pem);
    X509_STORE* store = SSL_CTX_get_cert_store(context);
    int count = 0;
    while (X509_CRL* next = PEM_read_bio_X509_CRL(bio.get(), nullptr, nullptr, nullptr)) {
        const Owned<X509_CRL> list(next);
        const std::string issuer = text_of(X509_CRL_get_issuer(next));
        const ASN1_TIME* until = X509_CRL_get0_nextUpdate(next);
        if (until != nullptr && X509_cmp_current_time(until) <= 0) {
            return invalid(labels.crl + ": the revocation list of " + issuer + " expired on " +
                           text_of(until) + "; a current one is expected");
        }
        if (!signature_fits(store, next)) {
            return invalid(labels.crl + ": the revocation list of " + issuer +
                           " is not signed by that authority in " + labels.ca);
        }
        if (X509_STORE_add_crl(store, next) != 1)
            return invalid(labels.crl + ": the revocation list of " + issuer + " is not usable");
        ++count;
    }
    if (count == 0) return invalid(labels.crl + ": holds no revocation list; PEM is expected");
    ERR_clear_error();
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_CRL_CHECK);
    return {};
}

// "evacgw/1", or with a pair "evacgw/1-" and 16 hex digits of its digest.
void name_protocol(const std::string& pair, TlsContext::Impl& impl) {
    impl.protocol = kProtocol;
    impl.pair_label = std::string("'") + kProtocol + "' (no pair configured)";
    if (!pair.empty()) {
        const std::string text = "evacgw pair " + pair;
        std::array<unsigned char, 32> digest{};
        EVP_Q_digest(nullptr, "SHA256", nullptr, text.data(), text.size(), digest.data(), nullptr);
        impl.protocol += '-';
        for (size_t i = 0; i < 8; ++i) {
            impl.protocol += "0123456789abcdef"[digest[i] >> 4];
            impl.protocol += "0123456789abcdef"[digest[i] & 15];
        }
        impl.pair_label = "'" + impl.protocol + "' (pair '" + pair + "')";
    }
    impl.alpn = static_cast<char>(impl.protocol.size()) + impl.protocol;
}

Status configure(TlsContext::Impl& impl) {
    SSL_CTX* context = impl.context.get();
    const std::string& peer_name = impl.expected_peer_name;
    // Session resumption would make a new session out of an old secret; renegotiation is never
    // needed.
    SSL_CTX_set_options(context, SSL_OP_NO_QUERY_MTU | SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                     SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    X509_VERIFY_PARAM* verify = SSL_CTX_get0_param(context);
    X509_VERIFY_PARAM_set_hostflags(verify, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    const bool ok =
        SSL_CTX_set_min_proto_version(context, DTLS1_2_VERSION) == 1 &&
        SSL_CTX_set_max_proto_version(context, DTLS1_2_VERSION) == 1 &&
        SSL_CTX_set_cipher_list(context, kCiphers) == 1 &&
        SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1 &&
        SSL_CTX_set_alpn_protos(context, reinterpret_cast<const unsigned char*>(impl.alpn.data()),
                                static_cast<unsigned>(impl.alpn.size())) == 0 &&
        X509_VERIFY_PARAM_set1_host(verify, peer_name.data(), peer_name.size()) == 1;
    if (!ok) return invalid("wan: OpenSSL refuses the DTLS settings");
    install_callbacks(context, &impl);
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
    impl->crl_label = labels.crl;
    name_protocol(pem.pair, *impl);
    SSL_CTX* context = impl->context.get();
    EVAC_TRY(configure(*impl));
    EVAC_TRY(use_certificate(context, pem.certificate, labels));
    EVAC_TRY(use_key(context, pem.key, labels));
    EVAC_TRY(use_ca(context, pem.ca, labels));
    if (!pem.crl.empty()) EVAC_TRY(use_crl(context, pem.crl, labels));
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
    std::string crl;
    if (!files.crl_file.empty()) {
        auto read = read_file("wan.crl_file", files.crl_file);
        EVAC_TRY(read);
        if (read->empty()) {
            return make_error(Errc::invalid_argument, "wan.crl_file " + files.crl_file +
                                                          ": holds no revocation list; PEM is "
                                                          "expected");
        }
        crl = std::move(*read);
    }
    const Labels labels{"wan.certificate_file " + files.certificate_file,
                        "wan.key_file " + files.key_file, "wan.ca_file " + files.ca_file,
                        "wan.crl_file " + files.crl_file};
    auto impl = build({std::move(*certificate), std::move(*key), std::move(*ca),
                       files.expected_peer_name, std::move(crl), files.pair},
                      labels);
    EVAC_TRY(impl);
    return std::shared_ptr<const TlsContext>(new TlsContext(std::move(*impl)));
}

Result<std::shared_ptr<const TlsContext>> TlsContext::from_pem(const TlsPem& pem) {
    auto impl = build(pem, {"wan.certificate", "wan.key", "wan.ca", "wan.crl"});
    EVAC_TRY(impl);
    return std::shared_ptr<const TlsContext>(new TlsContext(std::move(*impl)));
}

}  // namespace evac::wan
