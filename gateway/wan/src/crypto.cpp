#include "crypto.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "evac/core/assert.hpp"

namespace evac::wan {
namespace {

unsigned char* u(std::byte* p) {
    return reinterpret_cast<unsigned char*>(p);
}
const unsigned char* u(const std::byte* p) {
    return reinterpret_cast<const unsigned char*>(p);
}

void wipe(Secret& secret) {
    OPENSSL_cleanse(secret.data(), secret.size());
}

Secret next_of(const Secret& secret) {
    Secret next;
    hkdf_expand(secret, "evacgw next", next);
    return next;
}

}  // namespace

uint64_t unpredictable_u64() {
    uint64_t value = 0;
    EVAC_ASSERT(RAND_bytes(reinterpret_cast<unsigned char*>(&value), sizeof value) == 1);
    return value;
}

void hkdf_expand(const Secret& secret, std::string_view info, std::span<std::byte> out) {
    EVAC_ASSERT(out.size() <= 32 && info.size() <= 32);
    std::array<std::byte, 33> input{};  // T(1) = HMAC(secret, info || 0x01)
    std::memcpy(input.data(), info.data(), info.size());
    input[info.size()] = std::byte{1};
    std::array<std::byte, 32> block{};
    unsigned int size = 0;
    const unsigned char* made = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                                     u(input.data()), info.size() + 1, u(block.data()), &size);
    EVAC_ASSERT(made != nullptr && size == block.size());
    std::copy_n(block.begin(), out.size(), out.begin());
    OPENSSL_cleanse(block.data(), block.size());
}

SessionSecrets::~SessionSecrets() {
    wipe(send);
    wipe(receive);
}

void RecordKey::Free::operator()(evp_cipher_ctx_st* context) const {
    EVP_CIPHER_CTX_free(context);
}

RecordKey::RecordKey(Use use) : use_(use), context_(EVP_CIPHER_CTX_new()) {
    EVAC_ASSERT(context_ != nullptr);
}

RecordKey::~RecordKey() {
    OPENSSL_cleanse(iv_.data(), iv_.size());
}

void RecordKey::set(const Secret& secret) {
    Secret key;
    hkdf_expand(secret, "evacgw key", key);
    hkdf_expand(secret, "evacgw iv", iv_);
    const int ok = EVP_CipherInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, u(key.data()),
                                     nullptr, use_ == Use::seal ? 1 : 0);
    EVAC_ASSERT(ok == 1);
    wipe(key);
}

std::array<std::byte, 12> RecordKey::nonce(uint64_t number) const {
    std::array<std::byte, 12> nonce = iv_;
    for (size_t i = 0; i < 8; ++i)
        nonce[4 + i] ^= static_cast<std::byte>((number >> (56 - 8 * i)) & 0xff);
    return nonce;
}

bool RecordKey::seal(uint64_t number, ByteSpan header, std::span<std::byte> payload,
                     std::span<std::byte, 16> tag) {
    const auto iv = nonce(number);
    EVP_CIPHER_CTX* c = context_.get();
    int size = 0;
    return EVP_EncryptInit_ex(c, nullptr, nullptr, nullptr, u(iv.data())) == 1 &&
           EVP_EncryptUpdate(c, nullptr, &size, u(header.data()),
                             static_cast<int>(header.size())) == 1 &&
           EVP_EncryptUpdate(c, u(payload.data()), &size, u(payload.data()),
                             static_cast<int>(payload.size())) == 1 &&
           EVP_EncryptFinal_ex(c, u(payload.data()) + size, &size) == 1 &&
           EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, 16, tag.data()) == 1;
}

bool RecordKey::open(uint64_t number, ByteSpan header, ByteSpan sealed, ByteSpan tag,
                     std::span<std::byte> plain) {
    const auto iv = nonce(number);
    std::array<std::byte, 16> expected;
    std::memcpy(expected.data(), tag.data(), expected.size());
    EVP_CIPHER_CTX* c = context_.get();
    int size = 0;
    return EVP_DecryptInit_ex(c, nullptr, nullptr, nullptr, u(iv.data())) == 1 &&
           EVP_DecryptUpdate(c, nullptr, &size, u(header.data()),
                             static_cast<int>(header.size())) == 1 &&
           EVP_DecryptUpdate(c, u(plain.data()), &size, u(sealed.data()),
                             static_cast<int>(sealed.size())) == 1 &&
           EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, 16, expected.data()) == 1 &&
           EVP_DecryptFinal_ex(c, u(plain.data()) + size, &size) == 1;
}

SealKeys::SealKeys(const Secret& secret) : secret_(secret), key_(RecordKey::Use::seal) {
    key_.set(secret_);
}

SealKeys::~SealKeys() {
    wipe(secret_);
}

void SealKeys::advance() {
    secret_ = next_of(secret_);
    ++generation_;
    key_.set(secret_);
}

OpenKeys::OpenKeys(const Secret& secret)
    : previous_(RecordKey::Use::open), current_(RecordKey::Use::open), next_(RecordKey::Use::open) {
    current_.set(secret);
    next_secret_ = next_of(secret);
    next_.set(next_secret_);
}

OpenKeys::~OpenKeys() {
    wipe(next_secret_);
}

OpenKeys::Outcome OpenKeys::open(uint8_t phase, uint64_t number, ByteSpan header, ByteSpan sealed,
                                 ByteSpan tag, std::span<std::byte> plain) {
    const auto current = static_cast<uint8_t>(generation_);
    if (phase == current) {
        if (!current_.open(number, header, sealed, tag, plain)) return Outcome::bad_tag;
        first_number_ = std::min(first_number_, number);
        return Outcome::ok;
    }
    if (phase == static_cast<uint8_t>(current + 1)) {
        if (!next_.open(number, header, sealed, tag, plain)) return Outcome::bad_tag;
        advance(number);
        return Outcome::ok;
    }
    if (has_previous_ && phase == static_cast<uint8_t>(current - 1) && number < first_number_) {
        return previous_.open(number, header, sealed, tag, plain) ? Outcome::ok : Outcome::bad_tag;
    }
    return Outcome::bad_phase;
}

void OpenKeys::advance(uint64_t number) {
    std::swap(previous_, current_);
    std::swap(current_, next_);
    has_previous_ = true;
    ++generation_;
    first_number_ = number;
    next_secret_ = next_of(next_secret_);
    next_.set(next_secret_);
}

ReplayWindow::Verdict ReplayWindow::check(uint64_t number) const {
    if (number >= top_) return Verdict::fresh;
    if (top_ - number > kNumbers) return Verdict::too_old;
    const uint64_t slot = number % kNumbers;
    return (bits_[slot / 64] >> (slot % 64)) & 1 ? Verdict::replayed : Verdict::fresh;
}

void ReplayWindow::mark(uint64_t number) {
    if (number >= top_) {
        const uint64_t from = top_;
        const uint64_t to = number + 1;
        if (to - from >= kNumbers) {
            bits_.fill(0);
        } else {
            for (uint64_t n = from; n < to; ++n) {
                const uint64_t slot = n % kNumbers;
                bits_[slot / 64] &= ~(uint64_t{1} << (slot % 64));
            }
        }
        top_ = to;
    }
    const uint64_t slot = number % kNumbers;
    bits_[slot / 64] |= uint64_t{1} << (slot % 64);
}

}  // namespace evac::wan
