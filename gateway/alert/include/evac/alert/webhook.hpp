#pragma once
// Standard Webhooks: HMAC-SHA256 over "id.timestamp.body". Pure functions; any thread.
#include <cstdint>
#include <string>
#include <string_view>

#include "evac/core/result.hpp"

namespace evac::alert {

inline constexpr int64_t kToleranceS = 300;

struct WebhookHeaders {
    std::string id, timestamp,
        signature;  // webhook-id, webhook-timestamp, webhook-signature; empty = absent
};

// `secret` is "whsec_" + base64 (24 to 64 bytes), as read from the file. Constant-time comparison;
// any of several space-separated v1 signatures may match. Errors: refused, saying which header is
// missing, stale or wrong (never echoing a signature); invalid_argument for a malformed secret.
Status verify_webhook(const WebhookHeaders& headers, std::string_view body, std::string_view secret,
                      int64_t now_unix_s);

// Reads and checks the secret's file (mode 0600). Errors: io, refused (others may read it),
// invalid_argument.
Result<std::string> load_webhook_secret(const std::string& path);

}  // namespace evac::alert
