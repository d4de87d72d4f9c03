#pragma once
// Turns a fault while reading a mapped file that belongs to somebody else into a flag. Internal to
// this library.
#include <cstddef>

#include "evac/core/result.hpp"

namespace evac::prestage {

// While one is alive, a SIGBUS of this thread within [base, base + size) replaces the whole range
// by zeros and sets hit(). The reader checks hit() before it uses what it read. One per thread at a
// time.
class FaultGuard {
  public:
    FaultGuard(std::byte* base, size_t size);
    ~FaultGuard();
    FaultGuard(const FaultGuard&) = delete;
    FaultGuard& operator=(const FaultGuard&) = delete;

    bool hit() const;
};

}  // namespace evac::prestage
