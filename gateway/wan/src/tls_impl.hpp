#pragma once
// OpenSSL side of TlsContext. Seen by tls_config.cpp and dtls.cpp only.
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "evac/wan/tls_config.hpp"

namespace evac::wan {

struct SslCtxFree {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

struct TlsContext::Impl {
    std::unique_ptr<SSL_CTX, SslCtxFree> context;
    std::string expected_peer_name;
    std::string ca_label;    // for messages: the file, or "the configured CA"
    std::string crl_label;   // the same for the revocation list
    std::string protocol;    // ALPN: the version and, when one is configured, a digest of the pair
    std::string pair_label;  // for messages
    std::string alpn;        // `protocol` as TLS wants it
};

struct X509Free {
    void operator()(X509* p) const { X509_free(p); }
    void operator()(STACK_OF(X509) * p) const { sk_X509_pop_free(p, X509_free); }
};

struct PeerIdentity {
    std::unique_ptr<X509, X509Free> leaf;
    std::unique_ptr<STACK_OF(X509), X509Free> chain;
    std::string protocol;
};

// Installed in dtls.cpp: certificate verification notes, stateless cookie.
void install_callbacks(SSL_CTX* context, const TlsContext::Impl* impl);

}  // namespace evac::wan
