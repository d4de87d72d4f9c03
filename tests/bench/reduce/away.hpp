#pragma once
// Away's copy of one VM in memory.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "evac/dedup/expander.hpp"

namespace evac::reduce {

class Away : public dedup::StagedPages {
  public:
    Away(uint64_t ram_pages, uint64_t disk_pages) : pages_{ram_pages, disk_pages} {
        for (size_t region = 0; region < pages_.size(); ++region) {
            // Zero pages take no memory.
            void* at =
                mmap(nullptr, std::max<size_t>(1, pages_[region]) * kPageBytes,
                     PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            EVAC_ASSERT(at != MAP_FAILED);
            bytes_[region] = static_cast<std::byte*>(at);
        }
    }
    ~Away() override {
        for (size_t region = 0; region < pages_.size(); ++region) {
            munmap(bytes_[region], std::max<size_t>(1, pages_[region]) * kPageBytes);
        }
    }
    Away(const Away&) = delete;
    Away& operator=(const Away&) = delete;

    Status read(const PageKey& key, std::span<std::byte, kPageBytes> out) override {
        if (!inside(key, 1)) return make_error(Errc::not_found, "page");
        std::memcpy(out.data(), at(key), kPageBytes);
        return {};
    }
    Status put(const PageKey& key, Epoch, std::span<const std::byte, kPageBytes> page) override {
        if (!inside(key, 1)) return make_error(Errc::invalid_argument, "page outside its region");
        std::memcpy(at(key), page.data(), kPageBytes);
        return {};
    }
    Status put_zero(const PageKey& first, Epoch, uint64_t count) override {
        if (!inside(first, count)) {
            return make_error(Errc::invalid_argument, "pages outside their region");
        }
        // Untouched pages stay so.
        madvise(at(first), count * kPageBytes, MADV_DONTNEED);
        return {};
    }

    dedup::PageSpan page(RegionId region, uint64_t number) const {
        return dedup::PageSpan(bytes_[raw(region)] + number * kPageBytes, kPageBytes);
    }
    void damage(RegionId region, uint64_t number) {
        bytes_[raw(region)][number * kPageBytes + 7] ^= std::byte{1};
    }

  private:
    bool inside(const PageKey& key, uint64_t count) const {
        return raw(key.region) < pages_.size() && key.page < pages_[raw(key.region)] &&
               count <= pages_[raw(key.region)] - key.page;
    }
    std::byte* at(const PageKey& key) { return bytes_[raw(key.region)] + key.page * kPageBytes; }

    std::array<uint64_t, 2> pages_;  // by region
    std::array<std::byte*, 2> bytes_{};
};

}  // namespace evac::reduce
