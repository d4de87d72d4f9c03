#pragma once
// The two hashes of a page and the zero test.
//
//   Fingerprint  "is this what away has of this very page?": seeded xxh3-128. A tenant may find
//                collisions; a guest that collides with itself harms only itself.
//   Identity     "is this the same content as some other page of any VM?": keyed SHA-256, 128 bits.
//
// Derivation from the pair's secret (both gateways, and all modules that fingerprint, must agree):
//   seed         = first 8 bytes, little-endian, of SHA-256("evacgw fingerprint seed" || secret)
//   Fingerprint  = XXH3_128bits_withSeed(page, 4096, seed) as {low64, high64}; all-zero, which
//                  means "unknown", is replaced by {low = 1, high = 0}
//   identity key = SHA-256("evacgw identity key" || secret), padded with zeros to 64 bytes
//   Identity     = first 16 bytes of SHA-256(identity key || page)
// Golden values: tests/fingerprint_test.cpp.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/core/units.hpp"

namespace evac::dedup {

using PageSpan = std::span<const std::byte, kPageBytes>;

inline constexpr size_t kSecretBytesMin = 16;

// True when all 4096 bytes are zero. Leaves at the first 16 bytes for almost every other page.
bool is_zero_page(PageSpan page);

// The seed of Fingerprinter. The secret may have any size; it is not kept.
uint64_t fingerprint_seed(ByteSpan secret);

// Stateless apart from the seed: may be copied and used by any thread.
class Fingerprinter {
  public:
    explicit Fingerprinter(uint64_t seed) : seed_(seed) {}

    // Never all-zero.
    Fingerprint operator()(PageSpan page) const;

  private:
    uint64_t seed_;
};

// One owning thread each: it reuses one OpenSSL context.
class IdentityHasher {
  public:
    // invalid_argument: secret shorter than kSecretBytesMin; internal: OpenSSL refused SHA-256.
    static Result<IdentityHasher> create(ByteSpan secret);

    IdentityHasher(IdentityHasher&&) noexcept;
    IdentityHasher& operator=(IdentityHasher&&) noexcept;
    ~IdentityHasher();

    Identity operator()(PageSpan page);
    uint64_t fingerprint_seed() const;  // of the same secret

  private:
    struct State;
    explicit IdentityHasher(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace evac::dedup
