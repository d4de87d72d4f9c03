// What a parsed configuration points to: files, keys, addresses.
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "config.hpp"
#include "config_text.hpp"
#include "evac/alert/webhook.hpp"
#include "evac/core/unique_fd.hpp"
#include "evac/wan/tls_config.hpp"
#include "evac/wan_port/address.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace evac::daemon {
namespace {

constexpr size_t kConfigBytesMax = 1024 * 1024;
constexpr size_t kSecretHexMin = 64;  // 32 bytes
constexpr size_t kSecretHexMax = 1024;
constexpr size_t kPairIdBytes = 8;

}  // namespace

Result<std::string> read_file(const std::string& key, const std::string& path, mode_t* mode) {
    const std::string field = key + " '" + path + "'";
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file.valid()) return io_error(field);
    struct stat info {};
    if (::fstat(file.get(), &info) != 0) return io_error(field);
    if (!S_ISREG(info.st_mode))
        return make_error(Errc::invalid_argument, field + ": a regular file is accepted");
    if (mode != nullptr) *mode = info.st_mode;
    std::string text(kConfigBytesMax + 1, '\0');
    size_t size = 0;
    while (size < text.size()) {
        const ssize_t part = ::read(file.get(), text.data() + size, text.size() - size);
        if (part < 0) return io_error(field);
        if (part == 0) break;
        size += static_cast<size_t>(part);
    }
    if (size > kConfigBytesMax)
        return make_error(Errc::invalid_argument, field + ": at most 1 MiB is accepted");
    text.resize(size);
    return text;
}

Result<std::string> load_pair_secret(const std::string& path) {
    const std::string field = "pair.secret_file '" + path + "'";
    mode_t mode = 0;
    auto text = read_file("pair.secret_file", path, &mode);
    EVAC_TRY(text);
    if ((mode & 077) != 0)
        return make_error(Errc::refused, field + ": others may read it; mode 0600 is accepted");
    text->erase(text->find_last_not_of(" \t\r\n") + 1);
    if (text->size() < kSecretHexMin || text->size() > kSecretHexMax ||
        text->find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
        return make_error(Errc::invalid_argument,
                          field + ": 64 or more hex digits are accepted (at most 1024)");
    }
    return text;
}

namespace {

Status check_address(const std::string& key, const std::string& text, bool may_be_any) {
    const auto address = wan_port::parse_udp_address(text);
    if (!address.ok())
        return make_error(Errc::invalid_argument, key + ": " + address.error().context);
    if (address->port == 0) return refuse(key, quoted(text), "a port from 1 to 65535");
    if (address->ip == 0 && !may_be_any)
        return refuse(key, quoted(text), "the address of one host");
    return {};
}

Status check_port(const WanConfig& wan) {
    static const std::string kDpdk = "dpdk:";
    if (wan.port == "kernel" && wan.vlan != 0) {
        return refuse(
            "wan.vlan", std::to_string(wan.vlan),
            "0 with wan.port = \"kernel\", as kernel UDP cannot tag: give the local "
            "address to a VLAN interface (ip link add link IF name IF.ID type vlan id ID)");
    }
    if (wan.vlan_priority != 0 && wan.vlan == 0) {
        return refuse("wan.vlan_priority", std::to_string(wan.vlan_priority), "0 without wan.vlan");
    }
    if (wan.port == "kernel" || (wan.port.rfind(kDpdk, 0) == 0 && wan.port.size() > kDpdk.size()))
        return {};
    return refuse("wan.port", quoted(wan.port),
                  "\"dpdk:af_packet:INTERFACE\", \"dpdk:af_xdp:INTERFACE\", "
                  "\"dpdk:memif:SOCKET[,role=server|client]\", "
                  "\"dpdk:PCI-ADDRESS-OR-EAL-VDEV\", \"kernel\"");
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
    for (size_t at = text.find(from); at != std::string::npos;
         at = text.find(from, at + to.size())) {
        text.replace(at, from.size(), to);
    }
}

// The transport's own check, with the names of this configuration's keys.
Result<std::shared_ptr<const wan::TlsContext>> load_tls(const WanConfig& wan,
                                                        const std::string& peer,
                                                        const std::string& pair) {
    EVAC_TRY(read_file("wan.ca", wan.ca));
    EVAC_TRY(read_file("wan.cert", wan.cert));
    EVAC_TRY(read_file("wan.key", wan.key));
    if (!wan.crl.empty()) EVAC_TRY(read_file("wan.crl", wan.crl));
    auto tls = wan::TlsContext::load({wan.cert, wan.key, wan.ca, peer, wan.crl, pair});
    if (tls.ok()) return tls;
    std::string text = tls.error().context;
    replace_all(text, "wan.certificate_file ", "wan.cert ");
    replace_all(text, "wan.key_file ", "wan.key ");
    replace_all(text, "wan.ca_file ", "wan.ca ");
    replace_all(text, "wan.crl_file ", "wan.crl ");
    return make_error(Errc::invalid_argument, text);
}

// Names the pair without saying its secret.
std::string pair_id(const std::string& secret) {
    static constexpr unsigned char kPurpose[] = "evacgw pair id";
    std::array<unsigned char, 32> mac{};
    unsigned size = 0;
    if (HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), kPurpose,
             sizeof kPurpose - 1, mac.data(), &size) == nullptr)
        return {};
    static constexpr char kHex[] = "0123456789abcdef";
    std::string text;
    for (size_t i = 0; i < kPairIdBytes; ++i) {
        text += kHex[mac[i] >> 4];
        text += kHex[mac[i] & 15];
    }
    return text;
}

struct Free {
    void operator()(BIO* p) const { BIO_free(p); }
    void operator()(X509* p) const { X509_free(p); }
    void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

Owned<BIO> memory_bio(const std::string& text) {
    return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Result<Owned<X509>> read_certificate(const std::string& key, const std::string& path) {
    auto pem = read_file(key, path);
    EVAC_TRY(pem);
    Owned<X509> certificate(PEM_read_bio_X509(memory_bio(*pem).get(), nullptr, nullptr, nullptr));
    ERR_clear_error();
    if (certificate != nullptr) return certificate;
    return make_error(Errc::invalid_argument,
                      key + " '" + path + "': holds no certificate; PEM is accepted");
}

Status check_webhook(const WebhookConfig& webhook) {
    EVAC_TRY(check_address("webhook.listen", webhook.listen, true));
    const auto certificate = read_certificate("webhook.cert", webhook.cert);
    EVAC_TRY(certificate);
    const auto pem = read_file("webhook.key", webhook.key);
    EVAC_TRY(pem);
    // Never asks for a passphrase: a daemon has nobody to ask.
    const auto nobody = [](char*, int, int, void*) { return -1; };
    const Owned<EVP_PKEY> key(
        PEM_read_bio_PrivateKey(memory_bio(*pem).get(), nullptr, nobody, nullptr));
    const bool match = key != nullptr && X509_check_private_key(certificate->get(), key.get()) == 1;
    ERR_clear_error();
    const std::string field = "webhook.key '" + webhook.key + "'";
    if (key == nullptr) {
        return make_error(Errc::invalid_argument,
                          field + ": holds no private key; PEM without a passphrase is accepted");
    }
    if (!match) {
        return make_error(
            Errc::invalid_argument,
            field + ": does not belong to the certificate in webhook.cert '" + webhook.cert + "'");
    }
    if (!webhook.client_ca.empty())
        EVAC_TRY(read_certificate("webhook.client_ca", webhook.client_ca));
    EVAC_TRY(alert::load_webhook_secret(webhook.secret_file));
    return {};
}

}  // namespace

Result<std::shared_ptr<const wan::TlsContext>> load_wan_tls(const Config& config,
                                                            const std::string& secret) {
    return load_tls(config.wan, config.peer_site, pair_id(secret));
}

Status check_config(const Config& config) {
    EVAC_TRY(check_port(config.wan));
    EVAC_TRY(check_address("wan.local", config.wan.local, config.wan.port == "kernel"));
    EVAC_TRY(check_address("wan.peer", config.wan.peer, false));
    if (!config.wan.gateway.empty()) {
        const auto gateway = wan_port::parse_ipv4(config.wan.gateway);
        if (!gateway.ok())
            return make_error(Errc::invalid_argument, "wan.gateway: " + gateway.error().context);
    }
    if (config.api_socket.size() >= sizeof(sockaddr_un::sun_path)) {
        return refuse("api.socket", quoted(config.api_socket), "a path of 1 to 107 characters");
    }
    EVAC_TRY(load_pair_secret(config.pair_secret_file));
    EVAC_TRY(load_tls(config.wan, config.peer_site, {}));
    if (config.webhook.enabled) EVAC_TRY(check_webhook(config.webhook));
    return {};
}

}  // namespace evac::daemon
