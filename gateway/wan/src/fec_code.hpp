#pragma once
// Reed-Solomon parity over shards of bytes, on ISA-L's GF(2^8). No state, no allocation.
//
//   shard  = length(2, little-endian) payload        shorter ones count as padded with zeros
//   parity = sum over members i of c(row, i) * shard_i,    c(row, i) = 1 / ((128 | row) xor i)
//
// The coefficients are a Cauchy matrix (128..255 and 0..127 are disjoint), so any e parities
// recover any e missing members, and they do not depend on the block's size: a block may be closed
// with as many members as it has. Decoding is by syndromes: what is left of e parities after the
// members that arrived are taken out, times the inverse of an e x e matrix. Inverting the whole
// k x k matrix costs 3 to 15 times more at k = 16 (tests/fec_bench.cpp prints both).
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "evac/core/bytes.hpp"

namespace evac::wan {

inline constexpr size_t kFecMembersMax = 16;  // of one block
inline constexpr size_t kFecParityMax = 8;    // of one block
inline constexpr size_t kFecLengthBytes = 2;  // in front of the payload in a shard

uint8_t fec_coefficient(size_t row, size_t member);

// parity ^= c(row, member) * shard. `parity` is at least as long as `shard`.
void fec_add(std::span<std::byte> parity, size_t row, size_t member, ByteSpan shard);

// Recovers missing.size() members. In: syndromes[i] is the parity of rows[i] from which all members
// that arrived were taken out with fec_add (adding is subtracting); all of one length. Out: the
// shard of member missing[i] in out[i], of the same length. At most kFecParityMax.
void fec_solve(std::span<const uint8_t> rows, std::span<const uint8_t> missing,
               std::span<std::byte* const> syndromes, std::span<std::byte* const> out,
               size_t length);

}  // namespace evac::wan
