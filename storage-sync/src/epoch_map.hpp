#pragma once
// Epoch of each page while it is written in place (before the first seal): so that a late, older
// version does not replace a newer one. 4 bytes per page in chunks of 4096 pages; a chunk of one
// epoch takes 16 bytes. Lost in a crash, together with the session that could bring older versions.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "evac/core/ids.hpp"

namespace evac::storage_sync {

class EpochMap {
  public:
    explicit EpochMap(uint64_t page_count)
        : chunks_((page_count + kChunkPages - 1) / kChunkPages) {}

    // False: a newer version is there.
    bool may_put(uint64_t page, Epoch epoch) const { return at(page) <= raw(epoch); }
    void set(uint64_t page, Epoch epoch) { slot(page) = raw(epoch); }

    // Marks [first, first + count) as far as it is not newer; calls accept(first, count) for each
    // marked part.
    template <class Accept>
    auto set_run(uint64_t first, uint64_t count, Epoch epoch, Accept accept)
        -> decltype(accept(first, count)) {
        uint64_t page = first;
        const uint64_t end = first + count;
        while (page < end) {
            if (!may_put(page, epoch)) {
                ++page;
                continue;
            }
            const uint64_t begin = page;
            while (page < end && may_put(page, epoch)) page = mark(page, end, epoch);
            auto status = accept(begin, page - begin);
            if (!status.ok()) return status;
        }
        return {};
    }

  private:
    static constexpr uint64_t kChunkPages = 4096;
    struct Chunk {
        uint32_t uniform = 0;  // of all pages while `each` is empty
        std::unique_ptr<uint32_t[]> each{};
    };

    uint32_t at(uint64_t page) const {
        const Chunk& chunk = chunks_[page / kChunkPages];
        return chunk.each ? chunk.each[page % kChunkPages] : chunk.uniform;
    }
    uint32_t& slot(uint64_t page) {
        Chunk& chunk = chunks_[page / kChunkPages];
        if (!chunk.each) {
            chunk.each = std::make_unique<uint32_t[]>(kChunkPages);
            std::fill_n(chunk.each.get(), kChunkPages, chunk.uniform);
        }
        return chunk.each[page % kChunkPages];
    }
    // Marks one page, or a whole chunk when it is of one epoch; returns the page behind.
    uint64_t mark(uint64_t page, uint64_t end, Epoch epoch) {
        Chunk& chunk = chunks_[page / kChunkPages];
        if (!chunk.each && page % kChunkPages == 0 && end - page >= kChunkPages) {
            chunk.uniform = raw(epoch);
            return page + kChunkPages;
        }
        slot(page) = raw(epoch);
        return page + 1;
    }

    std::vector<Chunk> chunks_;
};

}  // namespace evac::storage_sync
