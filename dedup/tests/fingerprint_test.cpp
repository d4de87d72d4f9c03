#include "evac/dedup/fingerprint.hpp"

#include <gtest/gtest.h>
#include <openssl/crypto.h>

#include <cstdlib>

#include "util.hpp"

namespace evac::dedup {
namespace {

using test::Page;

// OpenSSL's allocations, counted from before main().
size_t openssl_allocations = 0;
size_t openssl_frees = 0;
void* counted_malloc(size_t size, const char*, int) {
    ++openssl_allocations;
    return std::malloc(size);
}
void* counted_realloc(void* old, size_t size, const char*, int) {
    return std::realloc(old, size);
}
void counted_free(void* old, const char*, int) {
    openssl_frees += old != nullptr;
    std::free(old);
}
const int counting = CRYPTO_set_mem_functions(counted_malloc, counted_realloc, counted_free);

Page counting_page() {
    Page page;
    for (size_t i = 0; i < kPageBytes; ++i) page[i] = std::byte(i * 7 + i / 256);
    return page;
}

std::string hex(const Identity& identity) {
    std::string out;
    for (const std::byte b : identity) {
        constexpr std::string_view digits = "0123456789abcdef";
        out += digits[std::to_integer<size_t>(b) >> 4];
        out += digits[std::to_integer<size_t>(b) & 15];
    }
    return out;
}

// The same values must come out of every other place that fingerprints pages (prestage,
// storage-sync).
TEST(Fingerprint, GoldenValues) {
    const uint64_t seed = fingerprint_seed(as_byte_span("golden secret of the pair"));
    EXPECT_EQ(seed, 0x89a1f621587ec1e5ULL);
    const Fingerprint of_counting = Fingerprinter(seed)(counting_page());
    EXPECT_EQ(of_counting.low, 0x581b8262f8f75446ULL);
    EXPECT_EQ(of_counting.high, 0xc6eb21adc7de147aULL);
    const Fingerprint of_zero = Fingerprinter(seed)(Page{});
    EXPECT_EQ(of_zero.low, 0xddb83bf1bb7557a2ULL);
    EXPECT_EQ(of_zero.high, 0xf2f0fef39b20cb77ULL);
}

TEST(Fingerprint, DependsOnSeedAndContent) {
    const Page page = counting_page();
    Page other = page;
    other[4095] ^= std::byte{1};
    EXPECT_NE(Fingerprinter(1)(page), Fingerprinter(2)(page));
    EXPECT_NE(Fingerprinter(1)(page), Fingerprinter(1)(other));
    EXPECT_EQ(Fingerprinter(1)(page), Fingerprinter(1)(page));
}

TEST(ZeroPage, EveryByteCounts) {
    Page page{};
    EXPECT_TRUE(is_zero_page(page));
    for (size_t i = 0; i < kPageBytes; ++i) {
        page[i] = std::byte{0x80};
        EXPECT_FALSE(is_zero_page(page)) << i;
        page[i] = std::byte{0};
    }
}

TEST(Identity, GoldenValue) {
    auto hasher = IdentityHasher::create(as_byte_span("golden secret of the pair"));
    ASSERT_TRUE(hasher.ok());
    EXPECT_EQ(hex((*hasher)(counting_page())), "75071be1529a360f396636bd7899cc5a");
}

TEST(Identity, DependsOnSecretAndContent) {
    auto one = IdentityHasher::create(as_byte_span("0123456789abcdef"));
    auto two = IdentityHasher::create(as_byte_span("0123456789abcdeg"));
    ASSERT_TRUE(one.ok() && two.ok());
    const Page page = counting_page();
    Page other = page;
    other[0] ^= std::byte{1};
    EXPECT_NE((*one)(page), (*two)(page));
    EXPECT_NE((*one)(page), (*one)(other));
    EXPECT_EQ((*one)(page), (*one)(page));
}

TEST(Identity, RefusesShortSecret) {
    const auto hasher = IdentityHasher::create(as_byte_span("0123456789abcde"));
    ASSERT_FALSE(hasher.ok());
    EXPECT_EQ(hasher.error().code, Errc::invalid_argument);
    EXPECT_NE(hasher.error().context.find("15 bytes"), std::string::npos);
}

// OpenSSL 3.0 makes its inner state anew at each initialisation, later versions keep it.
TEST(Identity, AllocatesAtMostOpenSslsOwnState) {
    ASSERT_EQ(counting, 1);
    IdentityHasher hasher = test::make_hasher();
    Page page = counting_page();
    (void)hasher(page);
    ASSERT_GT(openssl_allocations, 0u);  // the counter works
    const size_t allocations = openssl_allocations;
    const size_t frees = openssl_frees;
    for (int i = 0; i < 100; ++i) {
        page[5] = std::byte(i);
        (void)hasher(page);
    }
    EXPECT_LE(openssl_allocations - allocations, 100u);
    EXPECT_EQ(openssl_allocations - allocations, openssl_frees - frees);
}

}  // namespace
}  // namespace evac::dedup
