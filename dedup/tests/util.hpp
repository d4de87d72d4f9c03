#pragma once
// Shared by dedup's tests: pages, secrets, an in-memory StagedPages.
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>

#include "evac/core/random.hpp"
#include "evac/dedup/expander.hpp"
#include "evac/dedup/reducer.hpp"

namespace evac::dedup::test {

using Page = std::array<std::byte, kPageBytes>;

inline constexpr std::string_view kSecret = "a secret of the pair, for tests";

inline IdentityHasher make_hasher() {
    return std::move(IdentityHasher::create(as_byte_span(kSecret))).value();
}
inline Fingerprinter make_fingerprinter() {
    return Fingerprinter(fingerprint_seed(as_byte_span(kSecret)));
}

// Incompressible and different for each id >= 1; id 0 is the zero page.
inline Page page_of(uint64_t id) {
    Page page{};
    if (id == 0) return page;
    Random random(id * 0x1234567);
    for (size_t i = 0; i < kPageBytes; i += 8) {
        const uint64_t word = random.next();
        std::memcpy(page.data() + i, &word, 8);
    }
    return page;
}
// Compressible, different for each id.
inline Page text_page_of(uint64_t id) {
    Page page{};
    for (size_t i = 0; i < kPageBytes; ++i) page[i] = std::byte("gateway!"[i % 8]);
    std::memcpy(page.data(), &id, 8);
    return page;
}

// The page with `count` bytes changed within 1.5 KiB, at places of the seed's choice.
inline Page mutated(Page page, uint64_t seed, size_t count) {
    Random random(seed * 77 + 1);
    const size_t first = random.below(kPageBytes - 1536);
    for (size_t i = 0; i < count; ++i) {
        page[first + random.below(1536)] = std::byte(random.below(256));
    }
    return page;
}
// first[shift..) ++ second[..shift).
inline Page shifted(const Page& first, const Page& second, size_t shift) {
    Page page{};
    std::memcpy(page.data(), first.data() + shift, kPageBytes - shift);
    std::memcpy(page.data() + kPageBytes - shift, second.data(), shift);
    return page;
}

class MemoryStaged : public StagedPages {
  public:
    Status read(const PageKey& key, std::span<std::byte, kPageBytes> out) override {
        const auto at = pages.find(key);
        if (at == pages.end() || unreadable.contains(key))
            return make_error(Errc::not_found, "page");
        std::memcpy(out.data(), at->second.second.data(), kPageBytes);
        return {};
    }
    Status put(const PageKey& key, Epoch epoch,
               std::span<const std::byte, kPageBytes> page) override {
        if (key.page >= page_limit)
            return make_error(Errc::invalid_argument, "page outside region");
        auto& [held_epoch, held] = pages[key];
        if (held_epoch > epoch) return {};
        held_epoch = epoch;
        std::memcpy(held.data(), page.data(), kPageBytes);
        return {};
    }
    Status put_zero(const PageKey& first, Epoch epoch, uint64_t count) override {
        if (first.page >= page_limit || count > page_limit - first.page) {
            return make_error(Errc::invalid_argument, "pages outside region");
        }
        for (uint64_t i = 0; i < count; ++i) {
            EVAC_TRY(put(PageKey{first.vm, first.region, first.page + i}, epoch, Page{}));
        }
        return {};
    }

    std::map<PageKey, std::pair<Epoch, Page>> pages;
    std::set<PageKey> unreadable;
    uint64_t page_limit = 4096;
};

// A directory that goes away with the object.
class TempDirectory {
  public:
    TempDirectory() {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "evac_dedup_XXXXXX").string();
        path_ = mkdtemp(pattern.data());
    }
    ~TempDirectory() { std::filesystem::remove_all(path_); }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

}  // namespace evac::dedup::test
