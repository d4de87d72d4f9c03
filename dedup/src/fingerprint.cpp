#include "evac/dedup/fingerprint.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <array>
#include <cstring>
#include <string_view>

#include "evac/core/page_hash.hpp"

namespace evac::dedup {

namespace {

using Digest = std::array<unsigned char, 32>;

// SHA-256(label || secret). Digests of public-length inputs with an initialised library do not
// fail.
Digest derive(std::string_view label, ByteSpan secret) {
    Digest out{};
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    EVAC_ASSERT(context != nullptr);
    unsigned size = 0;
    const bool ok = EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1 &&
                    EVP_DigestUpdate(context, label.data(), label.size()) == 1 &&
                    EVP_DigestUpdate(context, secret.data(), secret.size()) == 1 &&
                    EVP_DigestFinal_ex(context, out.data(), &size) == 1 && size == out.size();
    EVP_MD_CTX_free(context);
    EVAC_ASSERT(ok);
    return out;
}

}  // namespace

bool is_zero_page(PageSpan page) {
    uint64_t head[2];
    std::memcpy(head, page.data(), sizeof head);
    if ((head[0] | head[1]) != 0) return false;
    // Equal to itself shifted by 16 zero bytes: libc's vectorised memcmp does the rest.
    return std::memcmp(page.data(), page.data() + sizeof head, kPageBytes - sizeof head) == 0;
}

uint64_t fingerprint_seed(ByteSpan secret) {
    const Digest digest = derive("evacgw fingerprint seed", secret);
    uint64_t seed = 0;
    for (size_t i = 8; i-- > 0;) seed = (seed << 8) | digest[i];
    return seed;
}

Fingerprint Fingerprinter::operator()(PageSpan page) const {
    return hash_page(seed_, page);
}

// SHA-256 over (key block || page), not HMAC. HMAC's outer pass defends against length extension,
// which needs the full final state and messages of varying length: here every message is exactly
// one key block and one page, and half of the state is cut off. A prefix key is then a PRF as good
// as SHA-256's compression function (NMAC's inner pass with fixed-length input). It costs 66
// compressions for a page against HMAC's 68, and needs no context copy, which duplicates
// (allocates) in OpenSSL 3. OpenSSL 3.0 re-creates its 112 bytes of SHA-256 state at each
// initialisation: one malloc and free per page, small beside 3 us of hashing. The way
// around it, SHA256_Update, is deprecated.
struct IdentityHasher::State {
    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() {
        OPENSSL_cleanse(key_block.data(), key_block.size());
        EVP_MD_CTX_free(context);
        EVP_MD_free(sha256);
    }

    std::array<unsigned char, 64> key_block{};
    EVP_MD* sha256 = nullptr;  // fetched once: an implicit fetch per page costs more than a lookup
    EVP_MD_CTX* context = nullptr;
    uint64_t fingerprint_seed = 0;
};

IdentityHasher::IdentityHasher(std::unique_ptr<State> state) : state_(std::move(state)) {}
IdentityHasher::IdentityHasher(IdentityHasher&&) noexcept = default;
IdentityHasher& IdentityHasher::operator=(IdentityHasher&&) noexcept = default;
IdentityHasher::~IdentityHasher() = default;

Result<IdentityHasher> IdentityHasher::create(ByteSpan secret) {
    if (secret.size() < kSecretBytesMin) {
        return make_error(Errc::invalid_argument,
                          "identity secret: " + std::to_string(secret.size()) +
                              " bytes, at least " + std::to_string(kSecretBytesMin) +
                              " are needed");
    }
    auto state = std::make_unique<State>();
    state->sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    state->context = EVP_MD_CTX_new();
    if (state->sha256 == nullptr || state->context == nullptr ||
        EVP_DigestInit_ex(state->context, state->sha256, nullptr) != 1) {
        return make_error(Errc::internal, "identity hash: OpenSSL does not offer SHA-256");
    }
    state->fingerprint_seed = evac::dedup::fingerprint_seed(secret);
    Digest key = derive("evacgw identity key", secret);
    std::memcpy(state->key_block.data(), key.data(), key.size());
    OPENSSL_cleanse(key.data(), key.size());
    return IdentityHasher(std::move(state));
}

uint64_t IdentityHasher::fingerprint_seed() const {
    return state_->fingerprint_seed;
}

Identity IdentityHasher::operator()(PageSpan page) {
    Digest digest;
    unsigned size = 0;
    EVP_MD_CTX* context = state_->context;
    const bool ok =
        EVP_DigestInit_ex(context, nullptr, nullptr) == 1 &&
        EVP_DigestUpdate(context, state_->key_block.data(), state_->key_block.size()) == 1 &&
        EVP_DigestUpdate(context, page.data(), page.size()) == 1 &&
        EVP_DigestFinal_ex(context, digest.data(), &size) == 1;
    EVAC_ASSERT(ok);
    Identity identity;
    std::memcpy(identity.data(), digest.data(), identity.size());
    return identity;
}

}  // namespace evac::dedup
