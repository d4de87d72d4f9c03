#pragma once
// Certificates for tests, made with OpenSSL at run time. RSA: its signatures have one size (ECDSA's
// vary), so that simulations are reproducible. (OpenSSL's DTLS does not do Ed25519.)
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "evac/core/assert.hpp"
#include "evac/wan/tls_config.hpp"

namespace evac::wan::testing {

struct Identity {
    std::shared_ptr<EVP_PKEY> key;
    std::shared_ptr<X509> certificate;
};

inline std::string pem_of(X509* certificate) {
    const std::unique_ptr<BIO, int (*)(BIO*)> bio(BIO_new(BIO_s_mem()), &BIO_free);
    EVAC_ASSERT(PEM_write_bio_X509(bio.get(), certificate) == 1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<size_t>(size)};
}

inline std::string pem_of(EVP_PKEY* key) {
    const std::unique_ptr<BIO, int (*)(BIO*)> bio(BIO_new(BIO_s_mem()), &BIO_free);
    EVAC_ASSERT(PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) ==
                1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<size_t>(size)};
}

// RSA keys are slow to make, and tests need few different ones: a pool, used in turn.
inline std::shared_ptr<EVP_PKEY> next_key() {
    static std::array<std::shared_ptr<EVP_PKEY>, 4> pool;
    static size_t turn = 0;
    std::shared_ptr<EVP_PKEY>& key = pool[turn++ % pool.size()];
    if (key == nullptr) {
        key.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", size_t{2048}), &EVP_PKEY_free);
    }
    return key;
}

struct CertOptions {
    std::string name;
    long not_before_s = -3600;  // from now
    long not_after_s = 86400;
    bool authority = false;
    long serial = 2;
};

// Signed by `issuer`, or by itself when that is empty.
inline Identity make_identity(const CertOptions& options, const Identity* issuer = nullptr) {
    Identity made;
    made.key = next_key();
    made.certificate.reset(X509_new(), &X509_free);
    X509* x = made.certificate.get();
    EVAC_ASSERT(made.key != nullptr && x != nullptr);
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), options.serial);
    X509_gmtime_adj(X509_getm_notBefore(x), options.not_before_s);
    X509_gmtime_adj(X509_getm_notAfter(x), options.not_after_s);
    X509_NAME* name = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(options.name.c_str()), -1, -1,
                               0);
    X509_set_issuer_name(
        x, issuer != nullptr ? X509_get_subject_name(issuer->certificate.get()) : name);
    X509_set_pubkey(x, made.key.get());
    const auto extend = [&](int nid, const std::string& value) {
        X509V3_CTX context;
        X509V3_set_ctx(&context, issuer != nullptr ? issuer->certificate.get() : x, x, nullptr,
                       nullptr, 0);
        const std::unique_ptr<X509_EXTENSION, void (*)(X509_EXTENSION*)> extension(
            X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()), &X509_EXTENSION_free);
        EVAC_ASSERT(extension != nullptr && X509_add_ext(x, extension.get(), -1) == 1);
    };
    extend(NID_basic_constraints, options.authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (!options.authority) extend(NID_subject_alt_name, "DNS:" + options.name);
    EVP_PKEY* signer = issuer != nullptr ? issuer->key.get() : made.key.get();
    EVAC_ASSERT(X509_sign(x, signer, EVP_sha256()) > 0);
    return made;
}

// A revocation list of `issuer` naming the given serial numbers.
struct ListOptions {
    std::vector<long> revoked{};
    long last_update_s = -3600;  // from now
    long next_update_s = 86400;
};
inline std::string make_list(const ListOptions& options, const Identity& issuer) {
    const std::unique_ptr<X509_CRL, void (*)(X509_CRL*)> list(X509_CRL_new(), &X509_CRL_free);
    X509_CRL_set_version(list.get(), 1);
    X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(issuer.certificate.get()));
    const std::unique_ptr<ASN1_TIME, void (*)(ASN1_TIME*)> time(ASN1_TIME_new(), &ASN1_TIME_free);
    X509_gmtime_adj(time.get(), options.last_update_s);
    X509_CRL_set1_lastUpdate(list.get(), time.get());
    for (const long serial : options.revoked) {
        X509_REVOKED* entry = X509_REVOKED_new();
        const std::unique_ptr<ASN1_INTEGER, void (*)(ASN1_INTEGER*)> number(ASN1_INTEGER_new(),
                                                                            &ASN1_INTEGER_free);
        ASN1_INTEGER_set(number.get(), serial);
        X509_REVOKED_set_serialNumber(entry, number.get());
        X509_REVOKED_set_revocationDate(entry, time.get());
        EVAC_ASSERT(X509_CRL_add0_revoked(list.get(), entry) == 1);
    }
    X509_gmtime_adj(time.get(), options.next_update_s);
    X509_CRL_set1_nextUpdate(list.get(), time.get());
    X509_CRL_sort(list.get());
    EVAC_ASSERT(X509_CRL_sign(list.get(), issuer.key.get(), EVP_sha256()) > 0);
    const std::unique_ptr<BIO, int (*)(BIO*)> bio(BIO_new(BIO_s_mem()), &BIO_free);
    EVAC_ASSERT(PEM_write_bio_X509_CRL(bio.get(), list.get()) == 1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<size_t>(size)};
}

// One authority and the two sites, made once per program.
struct TestPki {
    Identity ca = make_identity({.name = "evacgw test CA", .authority = true, .serial = 1});
    Identity site_a = make_identity({.name = "site-a", .serial = 2}, &ca);
    Identity site_b = make_identity({.name = "site-b", .serial = 3}, &ca);

    static const TestPki& get() {
        static const TestPki pki;
        return pki;
    }
};

inline TlsPem pem_for(const Identity& own, const Identity& ca, const std::string& peer) {
    return {pem_of(own.certificate.get()),
            pem_of(own.key.get()),
            pem_of(ca.certificate.get()),
            peer,
            {},
            {}};
}

inline std::shared_ptr<const TlsContext> context_for(const Identity& own, const Identity& ca,
                                                     const std::string& peer) {
    auto context = TlsContext::from_pem(pem_for(own, ca, peer));
    EVAC_ASSERT(context.ok());
    return *context;
}

inline std::shared_ptr<const TlsContext> site_a_context() {
    static const auto context = context_for(TestPki::get().site_a, TestPki::get().ca, "site-b");
    return context;
}
inline std::shared_ptr<const TlsContext> site_b_context() {
    static const auto context = context_for(TestPki::get().site_b, TestPki::get().ca, "site-a");
    return context;
}

}  // namespace evac::wan::testing
