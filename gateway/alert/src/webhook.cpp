#include "evac/alert/webhook.hpp"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <vector>

#include "evac/core/unique_fd.hpp"

namespace evac::alert {
namespace {

constexpr std::string_view kPrefix = "whsec_";
constexpr size_t kKeyBytesMin = 24;
constexpr size_t kKeyBytesMax = 64;
constexpr size_t kHeaderBytesMax = 2048;
constexpr size_t kSignaturesMax = 16;

constexpr size_t kSecretFileBytesMax = 1024;

// Empty = not base64. EVP_DecodeBlock alone takes blanks around the text and "=" inside it as
// zeros.
std::vector<unsigned char> decode_base64(std::string_view text) {
    if (text.empty() || text.size() % 4 != 0) return {};
    const std::string_view digits = text.substr(0, text.size() - (text.ends_with("==")  ? 2
                                                                  : text.ends_with('=') ? 1
                                                                                        : 0));
    if (digits.find_first_not_of(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") !=
        std::string_view::npos) {
        return {};
    }
    std::vector<unsigned char> out(text.size() / 4 * 3);
    const int size =
        EVP_DecodeBlock(out.data(), reinterpret_cast<const unsigned char*>(text.data()),
                        static_cast<int>(text.size()));
    if (size < 0) return {};
    out.resize(static_cast<size_t>(size) - (text.size() - digits.size()));
    return out;
}

Result<std::vector<unsigned char>> key_of(std::string_view secret) {
    if (secret.substr(0, kPrefix.size()) != kPrefix) {
        return make_error(Errc::invalid_argument,
                          "webhook secret: \"whsec_\" and base64 of 24 to 64 bytes is accepted");
    }
    auto key = decode_base64(secret.substr(kPrefix.size()));
    if (key.size() < kKeyBytesMin || key.size() > kKeyBytesMax) {
        return make_error(Errc::invalid_argument,
                          "webhook secret: \"whsec_\" and base64 of 24 to 64 bytes is accepted");
    }
    return key;
}

Error refused(const std::string& why) {
    return make_error(Errc::refused, why);
}

}  // namespace

Status verify_webhook(const WebhookHeaders& headers, std::string_view body, std::string_view secret,
                      int64_t now_unix_s) {
    auto key = key_of(secret);
    EVAC_TRY(key);
    if (headers.id.empty() || headers.id.size() > kHeaderBytesMax)
        return refused("webhook-id: missing or too long");
    // The dot parts the signed content: with one in the id, bytes could move between id, timestamp
    // and body.
    if (headers.id.find('.') != std::string::npos)
        return refused("webhook-id: must not hold a \".\"");
    if (headers.signature.empty() || headers.signature.size() > kHeaderBytesMax) {
        return refused("webhook-signature: missing or too long");
    }
    int64_t timestamp = 0;
    const char* end = headers.timestamp.data() + headers.timestamp.size();
    const auto parsed = std::from_chars(headers.timestamp.data(), end, timestamp);
    if (headers.timestamp.empty() || parsed.ec != std::errc() || parsed.ptr != end ||
        timestamp < 0) {
        return refused("webhook-timestamp: whole seconds since 1970 are accepted");
    }
    // Compared without a subtraction that a hostile number could overflow.
    if (timestamp > now_unix_s + kToleranceS || timestamp < now_unix_s - kToleranceS) {
        return refused("webhook-timestamp: " + headers.timestamp + " is more than " +
                       std::to_string(kToleranceS) + " s away from this gateway's clock (" +
                       std::to_string(now_unix_s) + ")");
    }
    std::string content = headers.id + "." + headers.timestamp + ".";
    content += body;
    std::array<unsigned char, EVP_MAX_MD_SIZE> mac{};
    unsigned int mac_size = 0;
    if (HMAC(EVP_sha256(), key->data(), static_cast<int>(key->size()),
             reinterpret_cast<const unsigned char*>(content.data()), content.size(), mac.data(),
             &mac_size) == nullptr) {
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
        match =
            (given.size() == mac_size && CRYPTO_memcmp(given.data(), mac.data(), mac_size) == 0) ||
            match;
    }
    if (!match) return refused("webhook-signature: no v1 signature matches this gateway's secret");
    return {};
}

Result<std::string> load_webhook_secret(const std::string& path) {
    const std::string field = "webhook.secret_file '" + path + "'";
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file.valid()) return io_error(field);
    struct stat info {};
    if (::fstat(file.get(), &info) != 0) return io_error(field);
    if (!S_ISREG(info.st_mode))
        return make_error(Errc::invalid_argument, field + ": a regular file is accepted");
    if ((info.st_mode & 077) != 0) {
        return make_error(Errc::refused, field + ": others may read it; mode 0600 is accepted");
    }
    std::string secret(kSecretFileBytesMax + 1, '\0');
    const ssize_t size = ::read(file.get(), secret.data(), secret.size());
    if (size < 0) return io_error(field);
    secret.resize(static_cast<size_t>(size));
    secret.erase(secret.find_last_not_of(" \t\r\n") + 1);
    auto key = key_of(secret);
    if (!key.ok()) return make_error(key.error().code, field + ": " + key.error().context);
    return secret;
}

}  // namespace evac::alert
