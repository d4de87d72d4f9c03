#pragma once
// OpenSSL side of TlsContext. Seen by tls_config.cpp and dtls.cpp only.
#include <openssl/ssl.h>

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
    std::string ca_label;  // for messages: the file, or "the configured CA"
};

// Installed in dtls.cpp: certificate verification notes, stateless cookie.
void install_callbacks(SSL_CTX* context);

}  // namespace evac::wan
