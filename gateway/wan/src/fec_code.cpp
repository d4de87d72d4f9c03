#include "fec_code.hpp"

#include <isa-l/erasure_code.h>

#include "evac/core/assert.hpp"

namespace evac::wan {
namespace {

constexpr uint8_t kRowBase = 128;
constexpr size_t kTableBytes = 32;  // ISA-L's expansion of one coefficient

unsigned char* raw(std::byte* p) {
    return reinterpret_cast<unsigned char*>(p);
}

struct Tables {
    // [row][member]: multiplication tables, made once.
    std::array<std::array<std::array<unsigned char, kTableBytes>, kFecMembersMax>, kFecParityMax>
        table;
    Tables() {
        for (size_t row = 0; row < kFecParityMax; ++row) {
            for (size_t member = 0; member < kFecMembersMax; ++member) {
                unsigned char c = fec_coefficient(row, member);
                ec_init_tables(1, 1, &c, table[row][member].data());
            }
        }
    }
};

}  // namespace

uint8_t fec_coefficient(size_t row, size_t member) {
    EVAC_ASSERT(row < kFecParityMax && member < kFecMembersMax);
    return gf_inv(static_cast<unsigned char>((kRowBase | row) ^ member));
}

void fec_add(std::span<std::byte> parity, size_t row, size_t member, ByteSpan shard) {
    static const Tables tables;
    EVAC_ASSERT(row < kFecParityMax && member < kFecMembersMax && shard.size() <= parity.size());
    // ISA-L takes its inputs by pointer to non-const; it writes to the parity only.
    auto* table = const_cast<unsigned char*>(tables.table[row][member].data());
    auto* source = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(shard.data()));
    unsigned char* target = raw(parity.data());
    ec_encode_data_update(static_cast<int>(shard.size()), 1, 1, 0, table, source, &target);
}

void fec_solve(std::span<const uint8_t> rows, std::span<const uint8_t> missing,
               std::span<std::byte* const> syndromes, std::span<std::byte* const> out,
               size_t length) {
    const size_t e = missing.size();
    EVAC_ASSERT(e > 0 && e <= kFecParityMax && rows.size() == e && syndromes.size() == e &&
                out.size() == e);
    std::array<unsigned char, kFecParityMax * kFecParityMax> matrix{}, inverse{};
    for (size_t i = 0; i < e; ++i) {
        for (size_t j = 0; j < e; ++j) matrix[i * e + j] = fec_coefficient(rows[i], missing[j]);
    }
    const int singular = gf_invert_matrix(matrix.data(), inverse.data(), static_cast<int>(e));
    EVAC_ASSERT(singular == 0);  // rows and members are distinct: a Cauchy matrix has an inverse
    std::array<unsigned char, kTableBytes * kFecParityMax * kFecParityMax> tables;
    ec_init_tables(static_cast<int>(e), static_cast<int>(e), inverse.data(), tables.data());
    std::array<unsigned char*, kFecParityMax> from{}, to{};
    for (size_t i = 0; i < e; ++i) {
        from[i] = raw(syndromes[i]);
        to[i] = raw(out[i]);
    }
    ec_encode_data(static_cast<int>(length), static_cast<int>(e), static_cast<int>(e),
                   tables.data(), from.data(), to.data());
}

}  // namespace evac::wan
