#pragma once
// Who we are and whom we accept: certificate, key, CA, revocation list, the peer's name and the
// pair, loaded and checked together. A TlsContext is immutable after loading; renewing anything
// means loading another and handing it to Endpoint::set_tls() or Transport::set_tls().
// No OpenSSL type shows here.
#include <memory>
#include <string>

#include "evac/core/result.hpp"

namespace evac::wan {

struct TlsFiles {
    std::string certificate_file;    // PEM, our certificate (then intermediates, if any)
    std::string key_file;            // PEM, its private key, without a passphrase
    std::string ca_file;             // PEM, the authorities that may sign the peer
    std::string expected_peer_name;  // DNS name in the peer's SAN, or its CN when it has no SAN
    // PEM, revocation lists of the authorities that sign the peer; empty = nobody is revoked. With
    // a list, a peer without a valid one of its authority is refused.
    std::string crl_file{};
    // Both sites must have the same; empty at both = no check. Bound into the handshake as a
    // digest, so that the two gateways of one pair refuse those of another with a reason.
    std::string pair{};
};

struct TlsPem {  // the same, already read
    std::string certificate;
    std::string key;
    std::string ca;
    std::string expected_peer_name;
    std::string crl{};
    std::string pair{};
};

class TlsContext {
  public:
    // Errors name the field, the file and what is accepted: missing or unreadable file, not PEM,
    // key that does not belong to the certificate, own certificate expired, empty name, a
    // revocation list that has expired or that none of the authorities signed.
    static Result<std::shared_ptr<const TlsContext>> load(const TlsFiles& files);
    static Result<std::shared_ptr<const TlsContext>> from_pem(const TlsPem& pem);

    ~TlsContext();
    TlsContext(const TlsContext&) = delete;
    TlsContext& operator=(const TlsContext&) = delete;

    struct Impl;
    const Impl& impl() const { return *impl_; }

  private:
    explicit TlsContext(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace evac::wan
