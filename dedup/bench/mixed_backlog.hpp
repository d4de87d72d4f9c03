#pragma once
// A deterministic backlog such as a gateway finds at an alert: zero, duplicate, text-like,
// binary-like, incompressible and slightly changed pages, over a disk that away has already.
#include <array>
#include <cstring>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/dedup/reducer.hpp"

namespace evac::dedup::bench {

inline constexpr VmId kVm{1};
inline constexpr RegionId kDisk{0};
inline constexpr RegionId kRam{1};

// Words of a vocabulary with a skewed choice: about 3.5:1 under zstd 1.
inline void fill_text(std::byte* page, Random& random) {
    for (size_t at = 0; at < kPageBytes;) {
        const uint64_t rank = random.below(1 + random.below(3000));
        Random word(rank * 7919 + 1);
        const size_t length = 2 + word.below(9);
        for (size_t i = 0; i < length && at < kPageBytes; ++i, ++at) {
            page[at] = std::byte('a' + word.below(26));
        }
        if (at < kPageBytes) page[at++] = std::byte(random.chance(0.05) ? '\n' : ' ');
    }
}

// Records of small numbers, pointers and padding: about 2.5:1.
inline void fill_binary(std::byte* page, Random& random) {
    const uint64_t heap = 0x7f0000000000 + random.below(1 << 20) * 4096;
    for (size_t at = 0; at < kPageBytes; at += 32) {
        const uint64_t words[4] = {random.below(4096), heap + random.below(1 << 16) * 16,
                                   random.chance(0.3) ? random.next() : 0, random.below(3)};
        std::memcpy(page + at, words, 32);
    }
}

inline void fill_random(std::byte* page, Random& random) {
    for (size_t at = 0; at < kPageBytes; at += 8) {
        const uint64_t word = random.next();
        std::memcpy(page + at, &word, 8);
    }
}

class MixedBacklog {
  public:
    enum Kind : uint8_t { zero, duplicate, text, binary, incompressible, changed, kKinds };

    MixedBacklog(uint64_t pages, uint64_t seed)
        : disk_(pages / 4 * kPageBytes), ram_(pages * kPageBytes), kinds_(pages) {
        Random random(seed);
        for (uint64_t i = 0; i < disk_pages(); ++i) fill(disk_.data() + i * kPageBytes, random);
        for (uint64_t i = 0; i < pages; ++i) fill_ram(i, random);
        const Fingerprinter fingerprinter(
            fingerprint_seed(as_byte_span("a secret for the benchmark")));
        for (uint64_t i = 0; i < disk_pages(); ++i) disk_prints_.push_back(fingerprinter(disk(i)));
        for (uint64_t i = 0; i < pages; ++i) ram_prints_.push_back(fingerprinter(ram(i)));
    }

    uint64_t pages() const { return kinds_.size(); }
    uint64_t disk_pages() const { return disk_.size() / kPageBytes; }
    PageSpan disk(uint64_t i) const { return PageSpan(disk_.data() + i * kPageBytes, kPageBytes); }
    PageSpan ram(uint64_t i) const { return PageSpan(ram_.data() + i * kPageBytes, kPageBytes); }
    PageItem disk_item(uint64_t i) const {
        return PageItem{PageKey{kVm, kDisk, i}, Epoch{1}, disk_prints_[i], false, disk(i), 2};
    }
    // `elide`: a zero page is named as such; else it is content like any other.
    PageItem ram_item(uint64_t i, bool elide = true) const {
        const bool is_zero = kinds_[i] == zero && elide;
        PageItem item{PageKey{kVm, kRam, i}, Epoch{1}, ram_prints_[i], is_zero, {}, 3};
        if (!is_zero) item.page = ram(i);
        return item;
    }

  private:
    static void fill(std::byte* page, Random& random) {
        switch (random.below(8)) {
            case 0:
                return fill_random(page, random);
            case 1:
            case 2:
            case 3:
                return fill_binary(page, random);
            default:
                return fill_text(page, random);
        }
    }
    // Stretches of one kind, as memory has them: 1 to 32 pages.
    void fill_ram(uint64_t i, Random& random) {
        if (left_ == 0) {
            left_ = 1 + random.below(32);
            const uint64_t dice = random.below(100);
            kind_ = dice < 25   ? zero
                    : dice < 45 ? duplicate
                    : dice < 65 ? text
                    : dice < 83 ? binary
                    : dice < 90 ? incompressible
                                : changed;
            source_ = random.below(disk_pages() - 32);
        }
        --left_;
        kinds_[i] = kind_;
        std::byte* page = ram_.data() + i * kPageBytes;
        switch (kind_) {
            case text:
                return fill_text(page, random);
            case binary:
                return fill_binary(page, random);
            case incompressible:
                return fill_random(page, random);
            case zero:
                return;
            default:
                break;
        }
        std::memcpy(page, disk(source_++).data(), kPageBytes);
        if (kind_ != changed) return;
        const size_t at = random.below(kPageBytes - 1024);
        for (int n = 0; n < 150; ++n) page[at + random.below(1024)] = std::byte(random.below(256));
    }

    Bytes disk_, ram_;
    std::vector<Kind> kinds_;
    std::vector<Fingerprint> disk_prints_, ram_prints_;
    Kind kind_ = zero;
    uint64_t left_ = 0;
    uint64_t source_ = 0;
};

}  // namespace evac::dedup::bench
