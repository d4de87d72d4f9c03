#include "evac/alert/webhook.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>

#include <array>
#include <charconv>
#include <fstream>
#include <vector>

namespace evac::alert {
namespace {

constexpr std::string_view kPrefix = "whsec_";
constexpr size_t kKeyBytesMin = 24;
constexpr size_t kKeyBytesMax = 64;
constexpr size_t kHeaderBytesMax = 2048;
constexpr size_t kSignaturesMax = 16;

std::vector<unsigned char> decode_base64(std::string_view text) {
    if (text.empty() || text.size() % 4 != 0) return {};
    std::vector<unsigned char> out(text.size() / 4 * 3);
    const int size = EVP_DecodeBlock(out.data(), reinterpret_cast<const unsigned char*>(text.data()),
                                     static_cast<int>(text.size()));
    if (size < 0) return {};
    size_t padding = 0;
    while (padding < 2 && text[text.size() - 1 - padding] == '=') ++padding;
    out.resize(static_cast<size_t>(size) - padding);
    return out;
}

Result<std::vector<unsigned char>> key_of(std::string_view secret) {
    if (secret.substr(0, kPrefix.size()) != kPrefix) {
        return make_error(Errc::invalid_argument, "webhook secret: \"whsec_\" and base64 of 24 to 64 bytes is accepted");
    }
    auto key = decode_base64(secret.substr(kPrefix.size()));
    if (key.size() < kKeyBytesMin || key.size() > kKeyBytesMax) {
        return make_error(Errc::invalid_argument, "webhook secret: \"whsec_\" and base64 of 24 to 64 bytes is accepted");
    }
    return key;
}

Error refused(const std::string& why) { return make_error(Errc::refused, why); }

}  // namespace

Status verify_webhook(const WebhookHeaders& headers, std::string_view body, std::string_view secret,
                      int64_t now_unix_s) {
    auto key = key_of(secret);
    EVAC_TRY(key);
    if (headers.id.empty() || headers.id.size() > kHeaderBytesMax) return refused("webhook-id: missing or too long");
    if (headers.signature.empty() || headers.signature.size() > kHeaderBytesMax) {
        return refused("webhook-signature: missing or too long");
    }
    int64_t timestamp = 0;
    const char* end = headers.timestamp.data() + headers.timestamp.size();
    const auto parsed = std::from_chars(headers.timestamp.data(), end, timestamp);
    if (headers.timestamp.empty() || parsed.ec != std::errc() || parsed.ptr != end || timestamp < 0) {
        return refused("webhook-timestamp: whole seconds since 1970 are accepted");
    }
    // Compared without a subtraction that a hostile number could overflow.
    if (timestamp > now_unix_s + kToleranceS || timestamp < now_unix_s - kToleranceS) {
        return refused("webhook-timestamp: " + headers.timestamp + " is more than " + std::to_string(kToleranceS) +
                       " s away from this gateway's clock (" + std::to_string(now_unix_s) + ")");
    }
    std::string content = headers.id + "." + headers.timestamp + ".";
    content += body;
    std::array<unsigned char, EVP_MAX_MD_SIZE> mac{};
    unsigned int mac_size = 0;
    if (HMAC(EVP_sha256(), key->data(), static_cast<int>(key->size()),
             reinterpret_cast<const unsigned char*>(content.data()), content.size(), mac.data(), &mac_size) == nullptr) {
        return make_error(Errc::internal, "HMAC-SHA256 failed");
    }
    bool match = false;
    std::string_view rest = headers.signature;
    for (size_t i = 0; i < kSignaturesMax && !rest.empty(); ++i) {
        const size_t space = rest.find(' ');
        const std::string_view one = rest.substr(0, space);
        rest = space == std::string_view::npos ? std::string_view{} : rest.substr(space + 1);
        if (one.substr(0, 3) != "v1,") continue;
        const auto given = decode_base64(one.substr(3));
        // Every candidate is compared in full, in constant time.
        match = (given.size() == mac_size && CRYPTO_memcmp(given.data(), mac.data(), mac_size) == 0) || match;
    }
    if (!match) return refused("webhook-signature: no v1 signature matches this gateway's secret");
    return {};
}

Result<std::string> load_webhook_secret(const std::string& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return io_error("webhook.secret_file '" + path + "'");
    if ((info.st_mode & 077) != 0) {
        return make_error(Errc::refused, "webhook.secret_file '" + path + "': others may read it; mode 0600 is accepted");
    }
    std::ifstream file(path);
    std::string secret;
    file >> secret;
    auto key = key_of(secret);
    if (!key.ok()) return make_error(key.error().code, "webhook.secret_file '" + path + "': " + key.error().context);
    return secret;
}

}  // namespace evac::alert
