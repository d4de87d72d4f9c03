#pragma once
// A file of memory or of a disk, mapped read-only, as pages.
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "evac/core/result.hpp"
#include "evac/dedup/fingerprint.hpp"

namespace evac::reduce {

class Dump {
  public:
    // io: it cannot be read; invalid_argument: empty, or not whole pages.
    static Result<Dump> open(const std::string& path);
    Dump(Dump&& other) noexcept
        : bytes_(std::exchange(other.bytes_, nullptr)), pages_(std::exchange(other.pages_, 0)) {}
    Dump& operator=(Dump&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        std::swap(pages_, other.pages_);
        return *this;
    }
    ~Dump();

    uint64_t pages() const { return pages_; }
    dedup::PageSpan page(uint64_t number) const {
        return dedup::PageSpan(bytes_ + number * kPageBytes, kPageBytes);
    }

  private:
    Dump(const std::byte* bytes, uint64_t pages) : bytes_(bytes), pages_(pages) {}

    const std::byte* bytes_ = nullptr;
    uint64_t pages_ = 0;
};

}  // namespace evac::reduce
