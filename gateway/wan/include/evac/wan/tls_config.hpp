#pragma once
// Who we are and whom we accept: certificate, key, CA and the peer's name, loaded and checked once
// at start. A TlsContext is immutable after loading and may be shared by endpoints of one thread.
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
};

struct TlsPem {  // the same, already read
    std::string certificate;
    std::string key;
    std::string ca;
    std::string expected_peer_name;
};

class TlsContext {
  public:
    // Errors name the field, the file and what is accepted: missing or unreadable file, not PEM,
    // key that does not belong to the certificate, own certificate expired, empty name.
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
