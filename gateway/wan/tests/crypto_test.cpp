#include "crypto.hpp"

#include <gtest/gtest.h>

#include <set>

#include "evac/core/random.hpp"
#include "packet.hpp"

namespace evac::wan {
namespace {

Secret secret_of(uint8_t fill) {
    Secret s;
    s.fill(std::byte{fill});
    return s;
}

std::string hex(ByteSpan bytes) {
    constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (const std::byte b : bytes) {
        out.push_back(digits[std::to_integer<unsigned>(b) >> 4]);
        out.push_back(digits[std::to_integer<unsigned>(b) & 15]);
    }
    return out;
}

struct Sealed {
    std::array<std::byte, 14> header{};
    Bytes payload;
    std::array<std::byte, 16> tag{};
};

Sealed seal(SealKeys& keys, uint64_t number, std::string_view text) {
    Sealed out;
    PacketWriter writer(out.header);
    write_data_header(writer, {keys.phase(), 7, number});
    const ByteSpan plain = as_byte_span(text);
    out.payload.assign(plain.begin(), plain.end());
    EXPECT_TRUE(keys.seal(number, out.header, out.payload, out.tag));
    return out;
}

OpenKeys::Outcome open(OpenKeys& keys, uint8_t phase, uint64_t number, const Sealed& s,
                       std::string* text = nullptr) {
    Bytes plain(s.payload.size());
    const auto outcome = keys.open(phase, number, s.header, s.payload, s.tag, plain);
    if (text != nullptr) *text = std::string(as_text(plain));
    return outcome;
}

// RFC 5869 A.1: T(1) of its 42-byte output, with its PRK.
TEST(Crypto, HkdfExpandMatchesTheRfc) {
    const std::array<unsigned char, 32> prk{0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf,
                                            0x0d, 0xdc, 0x3f, 0x0d, 0xc4, 0x7b, 0xba, 0x63,
                                            0x90, 0xb6, 0xc7, 0x3b, 0xb5, 0x0f, 0x9c, 0x31,
                                            0x22, 0xec, 0x84, 0x4a, 0xd7, 0xc2, 0xb3, 0xe5};
    Secret secret;
    for (size_t i = 0; i < secret.size(); ++i) secret[i] = std::byte{prk[i]};
    std::array<std::byte, 32> out{};
    hkdf_expand(secret, std::string_view("\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9", 10), out);
    EXPECT_EQ(hex(out), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
}

// A whole packet under fixed keys: pins header, nonce, AAD, key and IV derivation. The ciphertexts
// were checked with `openssl enc -aes-256-ctr` under a key and a nonce derived by another program.
TEST(Crypto, GoldenRecord) {
    SealKeys keys(secret_of(1));
    const Sealed s = seal(keys, 5, "evacgw");
    const std::string golden = hex(s.header) + hex(s.payload) + hex(s.tag);
    EXPECT_EQ(golden,
              "0200070000000500000000000000"
              "5f9f801f86a3"
              "db01470d3b1eab85344d578ae403cc5f");
    keys.advance();
    const Sealed next = seal(keys, 6, "evacgw");
    EXPECT_EQ(hex(next.header) + hex(next.payload) + hex(next.tag),
              "0201070000000600000000000000"
              "819beb2e343a"
              "5e81a2cb8f3f9dbcd2604649c293aff0");
}

TEST(Crypto, OpensWhatWasSealedAndNothingElse) {
    SealKeys sealing(secret_of(1));
    OpenKeys opening(secret_of(1));
    Sealed s = seal(sealing, 9, "a message");
    std::string text;
    EXPECT_EQ(open(opening, 0, 9, s, &text), OpenKeys::Outcome::ok);
    EXPECT_EQ(text, "a message");
    EXPECT_EQ(open(opening, 0, 10, s), OpenKeys::Outcome::bad_tag);  // another number
    for (size_t bit = 0; bit < 8 * s.header.size(); ++bit) {
        Sealed bad = s;
        bad.header[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
        EXPECT_EQ(open(opening, 0, 9, bad), OpenKeys::Outcome::bad_tag);
    }
    for (size_t i = 0; i < s.payload.size(); ++i) {
        Sealed bad = s;
        bad.payload[i] ^= std::byte{0x80};
        EXPECT_EQ(open(opening, 0, 9, bad), OpenKeys::Outcome::bad_tag);
    }
    Sealed bad = s;
    bad.tag[15] ^= std::byte{1};
    EXPECT_EQ(open(opening, 0, 9, bad), OpenKeys::Outcome::bad_tag);
    OpenKeys other(secret_of(2));
    EXPECT_EQ(open(other, 0, 9, s), OpenKeys::Outcome::bad_tag);
}

TEST(Crypto, KeyPhasesFollowEachOther) {
    SealKeys sealing(secret_of(3));
    OpenKeys opening(secret_of(3));
    const Sealed late = seal(sealing, 1, "late");
    const Sealed first = seal(sealing, 0, "first");
    EXPECT_EQ(open(opening, 0, 0, first), OpenKeys::Outcome::ok);
    for (uint64_t n = 2; n < 600; ++n) {  // the phase byte wraps
        sealing.advance();
        const Sealed s = seal(sealing, n, "next");
        EXPECT_EQ(open(opening, sealing.phase(), n, s), OpenKeys::Outcome::ok);
        EXPECT_EQ(opening.generation(), n - 1);
        if (n == 2) {
            // Reordered across the change: the previous key still opens what is older.
            EXPECT_EQ(open(opening, 0, 1, late), OpenKeys::Outcome::ok);
        }
    }
    EXPECT_EQ(open(opening, static_cast<uint8_t>(sealing.phase() + 2), 700, first),
              OpenKeys::Outcome::bad_phase);
    // The old phase may not be used for numbers above the change.
    EXPECT_EQ(open(opening, static_cast<uint8_t>(sealing.phase() - 1), 700, first),
              OpenKeys::Outcome::bad_phase);
    // A forged packet of the next phase does not move the keys.
    const uint64_t generation = opening.generation();
    EXPECT_EQ(open(opening, static_cast<uint8_t>(sealing.phase() + 1), 701, first),
              OpenKeys::Outcome::bad_tag);
    EXPECT_EQ(opening.generation(), generation);
}

// Against a plain model: a set of everything seen.
TEST(Crypto, ReplayWindowAgreesWithAModel) {
    Random random(11);
    for (int round = 0; round < 20; ++round) {
        ReplayWindow window;
        std::set<uint64_t> seen;
        uint64_t top = 0;
        for (int i = 0; i < 20000; ++i) {
            const uint64_t pick = random.below(100);
            uint64_t number = 0;
            if (pick < 60) {
                number = top + random.below(4);
            } else if (pick < 99) {
                number = top - std::min(top, random.below(ReplayWindow::kNumbers + 100));
            } else {
                number = top + random.below(3 * ReplayWindow::kNumbers);
            }
            const auto verdict = window.check(number);
            if (top > number && top - number > ReplayWindow::kNumbers) {
                EXPECT_EQ(verdict, ReplayWindow::Verdict::too_old);
                continue;
            }
            EXPECT_EQ(verdict, seen.count(number) > 0 ? ReplayWindow::Verdict::replayed
                                                      : ReplayWindow::Verdict::fresh);
            if (verdict == ReplayWindow::Verdict::fresh && random.chance(0.8)) {
                window.mark(number);
                seen.insert(number);
                top = std::max(top, number + 1);
            }
        }
    }
}

}  // namespace
}  // namespace evac::wan
