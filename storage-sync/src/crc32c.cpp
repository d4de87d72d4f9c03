#include "crc32c.hpp"

#include <array>
#include <cstring>

namespace evac::storage_sync {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected

constexpr std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
        table[i] = crc;
    }
    return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

uint32_t by_table(uint32_t crc, const unsigned char* at, size_t size) {
    for (size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ kTable[(crc ^ at[i]) & 0xff];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t by_instruction(uint32_t crc, const unsigned char* at,
                                                          size_t size) {
    uint64_t wide = crc;
    for (; size >= 8; size -= 8, at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, at, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    return by_table(static_cast<uint32_t>(wide), at, size);
}
#endif

}  // namespace

uint32_t crc32c(uint32_t crc, ByteSpan bytes) {
    const unsigned char* at = reinterpret_cast<const unsigned char*>(bytes.data());
#if defined(__x86_64__)
    static const bool has_instruction = __builtin_cpu_supports("sse4.2");
    if (has_instruction) return ~by_instruction(~crc, at, bytes.size());
#endif
    return ~by_table(~crc, at, bytes.size());
}

}  // namespace evac::storage_sync
