#pragma once
// Turns byte extents (ascending, touching) into page runs of one class each. A page that several
// extents share takes the strongest class: content beats zeros beats nothing; a page that only
// partly reads as zeros has content.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "evac/core/units.hpp"

namespace evac::storage_sync {

enum class PageClass : uint8_t { skip, zeros, content };

struct PageRun {
    uint64_t first = 0;
    uint64_t count = 0;
    PageClass kind{};
};

class PageRuns {
  public:
    explicit PageRuns(uint64_t size_bytes) : size_bytes_(size_bytes) {}

    void add(uint64_t begin, uint64_t end, PageClass kind) {
        if (begin >= end || kind == PageClass::skip) return;
        uint64_t first = begin / kPageBytes;
        const uint64_t last = (end - 1) / kPageBytes;
        if (kind == PageClass::zeros) {
            // Only whole pages are zeros; what sticks out at either side is read.
            const bool end_is_whole = end % kPageBytes == 0 || end == size_bytes_;
            if (begin % kPageBytes != 0) push(first++, 1, PageClass::content);
            if (first > last) return;
            const uint64_t whole = last - first + (end_is_whole ? 1 : 0);
            if (whole > 0) push(first, whole, PageClass::zeros);
            if (!end_is_whole) push(last, 1, PageClass::content);
            return;
        }
        push(first, last - first + 1, kind);
    }
    std::vector<PageRun>& runs() { return runs_; }

  private:
    void push(uint64_t first, uint64_t count, PageClass kind) {
        if (!runs_.empty()) {
            PageRun& back = runs_.back();
            const uint64_t back_end = back.first + back.count;
            if (first < back_end) {  // shares one page with the run before
                if (back.kind >= kind) {
                    const uint64_t overlap = std::min(count, back_end - first);
                    first += overlap;
                    count -= overlap;
                } else {
                    back.count -= back_end - first;
                    if (back.count == 0) runs_.pop_back();
                }
            }
        }
        if (count == 0) return;
        if (!runs_.empty() && runs_.back().kind == kind &&
            runs_.back().first + runs_.back().count == first) {
            runs_.back().count += count;
        } else {
            runs_.push_back({first, count, kind});
        }
    }

    uint64_t size_bytes_;
    std::vector<PageRun> runs_;
};

}  // namespace evac::storage_sync
