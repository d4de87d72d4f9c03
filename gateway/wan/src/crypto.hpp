#pragma once
// Records: AES-256-GCM with keys from the DTLS exporter, a 64-bit packet number as nonce, a replay
// window and a key-phase ratchet. Nothing here is home-made beyond composing OpenSSL's primitives;
// docs/wan-protocol.md argues it.
//
//   exporter("EXPORTER-evacgw-wan-v1", context = attempt id, 76 bytes) = id(8) tag(4)
//   connect->listen(32) listen->connect(32) key_n = HKDF-Expand(secret_n, "evacgw key", 32)    iv_n
//   = HKDF-Expand(secret_n, "evacgw iv", 12) secret_n+1 = HKDF-Expand(secret_n, "evacgw next", 32)
//   nonce = iv_n xor (0^4 || number as be64)
#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "evac/core/bytes.hpp"

struct evp_cipher_ctx_st;

namespace evac::wan {

using Secret = std::array<std::byte, 32>;

uint64_t unpredictable_u64();  // from OpenSSL

// HKDF-Expand (RFC 5869) with SHA-256 for at most 32 bytes: one HMAC.
void hkdf_expand(const Secret& secret, std::string_view info, std::span<std::byte> out);

// What a finished handshake leaves behind, as seen by one side. Wiped on destruction.
struct SessionSecrets {
    uint64_t id = 0;
    uint32_t tag = 0;
    Secret send{};
    Secret receive{};

    SessionSecrets() = default;
    SessionSecrets(const SessionSecrets&) = default;
    SessionSecrets& operator=(const SessionSecrets&) = default;
    ~SessionSecrets();
};

// One key of one phase. The EVP context is made once and only rekeyed.
class RecordKey {
  public:
    enum class Use : uint8_t { seal, open };
    explicit RecordKey(Use use);
    RecordKey(RecordKey&&) noexcept = default;
    RecordKey& operator=(RecordKey&&) noexcept = default;
    ~RecordKey();

    void set(const Secret& secret);
    // In place: header is authenticated, `payload` encrypted; the tag is written to `tag`.
    bool seal(uint64_t number, ByteSpan header, std::span<std::byte> payload,
              std::span<std::byte, 16> tag);
    // From `sealed` to `plain` (same length); false = not authentic, `plain` is then meaningless.
    bool open(uint64_t number, ByteSpan header, ByteSpan sealed, ByteSpan tag,
              std::span<std::byte> plain);

  private:
    struct Free {
        void operator()(evp_cipher_ctx_st* context) const;
    };
    std::array<std::byte, 12> nonce(uint64_t number) const;

    Use use_;
    std::unique_ptr<evp_cipher_ctx_st, Free> context_;
    std::array<std::byte, 12> iv_{};
};

// The sending direction: ratchets forward when told.
class SealKeys {
  public:
    explicit SealKeys(const Secret& secret);
    ~SealKeys();
    uint8_t phase() const { return static_cast<uint8_t>(generation_); }
    uint64_t generation() const { return generation_; }
    void advance();
    bool seal(uint64_t number, ByteSpan header, std::span<std::byte> payload,
              std::span<std::byte, 16> tag) {
        return key_.seal(number, header, payload, tag);
    }

  private:
    Secret secret_;
    uint64_t generation_ = 0;
    RecordKey key_;
};

// The receiving direction: holds previous, current and next key; the first authentic packet of the
// next phase makes it current. A packet number of the previous phase above the first of the current
// one is refused.
class OpenKeys {
  public:
    enum class Outcome : uint8_t { ok, bad_phase, bad_tag };
    explicit OpenKeys(const Secret& secret);
    ~OpenKeys();
    Outcome open(uint8_t phase, uint64_t number, ByteSpan header, ByteSpan sealed, ByteSpan tag,
                 std::span<std::byte> plain);
    uint64_t generation() const { return generation_; }

  private:
    void advance(uint64_t number);

    Secret next_secret_{};  // of generation_ + 1
    uint64_t generation_ = 0;
    uint64_t first_number_ = 0;  // lowest authentic number seen in the current phase
    bool has_previous_ = false;
    RecordKey previous_;
    RecordKey current_;
    RecordKey next_;
};

// Which packet numbers have been seen: a bitmap that slides with the highest authentic one.
class ReplayWindow {
  public:
    static constexpr uint64_t kNumbers = 8192;
    enum class Verdict : uint8_t { fresh, replayed, too_old };
    Verdict check(uint64_t number) const;
    void mark(uint64_t number);  // only after authentication; number must be fresh

  private:
    static constexpr size_t kWords = kNumbers / 64;
    std::array<uint64_t, kWords> bits_{};
    uint64_t top_ = 0;  // highest marked + 1
};

}  // namespace evac::wan
