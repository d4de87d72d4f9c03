#pragma once
// CRC-32C (Castagnoli), as in iSCSI; crc32c("123456789") = 0xe3069283. Guards against torn and lost
// writes, not against an adversary.
#include <cstdint>

#include "evac/core/bytes.hpp"

namespace evac::storage_sync {

// Continues `crc` (0 to start).
uint32_t crc32c(uint32_t crc, ByteSpan bytes);

}  // namespace evac::storage_sync
