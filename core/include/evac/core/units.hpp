#pragma once
#include <cstddef>
#include <cstdint>

namespace evac {

inline constexpr size_t kPageBytes =
    4096;  // the unit of capture, dedup and staging, memory and disk alike
inline constexpr uint64_t kMiB = 1024 * 1024;
inline constexpr uint64_t kNsPerMs = 1'000'000;
inline constexpr uint64_t kNsPerSecond = 1'000'000'000;

}  // namespace evac
