#pragma once
// Constants of the batch format that only its two halves need.
#include <cstddef>
#include <cstdint>

namespace evac::dedup {

inline constexpr uint8_t kGroupOp = 0;
inline constexpr size_t kDeltaFixedBytes = 16 + 4 + 2;  // identity, base tag, coded size
inline constexpr uint8_t kFlagZstd = 1;
inline constexpr int kZstdLevelMin = -7;
inline constexpr int kZstdLevelMax = 19;

}  // namespace evac::dedup
