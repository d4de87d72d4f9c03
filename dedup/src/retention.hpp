#pragma once
// The content of pages that went out as references, kept until away has acknowledged their batch.
// Memory is taken in chunks as needed, up to the limit, and kept for reuse. Owner: the reducer
// thread.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "evac/core/ids.hpp"
#include "evac/dedup/fingerprint.hpp"
#include "evac/dedup/index.hpp"

namespace evac::dedup {

class Retention {
  public:
    // Names one kept page. Stale (find answers null) once the page was released or superseded.
    struct Ticket {
        PageKey key;
        Epoch epoch{};
        Location source;
        bool two_sources = false;  // shifted: the next page, too
        uint32_t source_tag = 0;
        uint32_t slot = 0;
        uint64_t serial = 0;
    };

    explicit Retention(uint64_t bytes_max);

    bool has_room() const { return live_ < slots_max_; }
    uint64_t pages() const { return live_; }

    // has_room() must hold.
    Ticket keep(const PageKey& key, Epoch epoch, const Location& source, PageSpan page);
    // A newer version of the page is on its way: its older content will never be asked for.
    void supersede(const PageKey& key);
    const std::byte* find(const Ticket& ticket) const;  // kPageBytes, or null
    void release(const Ticket& ticket);                 // stale: nothing

  private:
    static constexpr size_t kChunkPages = 64;

    struct Slot {
        PageKey key;
        uint64_t serial = 0;  // 0 = free
    };
    std::byte* content(uint32_t slot) const;
    void free_slot(uint32_t slot);
    size_t bucket_of(const PageKey& key) const;  // of the page, or the free one where it belongs
    void erase_bucket(size_t bucket);

    uint64_t slots_max_;
    uint64_t live_ = 0;
    uint64_t serial_ = 0;
    std::vector<Slot> slots_;
    std::vector<uint32_t> free_;
    std::vector<std::unique_ptr<std::byte[]>> chunks_;
    // The one live slot of a page, plus one; 0 = free. Linear probing at a load of at most a half:
    // a map of nodes would allocate for each page.
    std::vector<uint32_t> by_page_;
};

}  // namespace evac::dedup
