#pragma once
// LEB128 and zigzag, as batch.hpp's grammar uses them.
#include <cstdint>

#include "evac/core/bytes.hpp"

namespace evac::dedup {

inline void put_varint(ByteWriter& out, uint64_t value) {
    while (value >= 0x80) {
        out.u8(static_cast<uint8_t>(value | 0x80));
        value >>= 7;
    }
    out.u8(static_cast<uint8_t>(value));
}

// Fails the reader on more than ten bytes or on bits beyond 64.
inline uint64_t take_varint(ByteReader& in) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        const uint8_t byte = in.u8();
        if (!in.ok()) return 0;
        if (shift == 63 && byte > 1) break;
        value |= uint64_t{byte & 0x7fu} << shift;
        if ((byte & 0x80) == 0) return value;
    }
    in.fail();
    return 0;
}

// A page relative to the one expected. Unsigned arithmetic wraps, so no input overflows.
inline uint64_t zigzag(uint64_t value, uint64_t expected) {
    const uint64_t delta = value - expected;
    return (delta << 1) ^ (0 - (delta >> 63));
}
inline uint64_t unzigzag(uint64_t coded, uint64_t expected) {
    return expected + ((coded >> 1) ^ (0 - (coded & 1)));
}

}  // namespace evac::dedup
