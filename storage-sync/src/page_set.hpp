#pragma once
// Pages of one disk that the next point must read again, as runs. Bounded: what does not fit is
// kept coarser, so that a page which was added is never forgotten, and others are read needlessly.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>

namespace evac::storage_sync {

class PageSet {
  public:
    // 64 bytes each: 4 MiB per disk.
    static constexpr size_t kRunsMax = 65'536;

    struct Run {
        uint64_t begin = 0;
        uint64_t end = 0;
    };

    explicit PageSet(size_t runs_max = kRunsMax) : runs_max_(runs_max) {}

    // [begin, end); nothing when empty.
    void add(uint64_t begin, uint64_t end) {
        if (begin >= end) return;
        insert(begin, end);
        while (runs_.size() > runs_max_) coarsen();
    }
    void add(const PageSet& other) {
        for (const auto& [begin, end] : other.runs_) add(begin, end);
    }
    void clear() {
        runs_.clear();
        grain_ = 1;
    }
    bool empty() const { return runs_.empty(); }
    size_t runs() const { return runs_.size(); }

    // The run that holds `page`, or else the next one behind it; empty (0, 0) when there is none.
    Run at_or_after(uint64_t page) const {
        auto next = runs_.upper_bound(page);
        if (next != runs_.begin() && std::prev(next)->second > page) --next;
        return next == runs_.end() ? Run{} : Run{next->first, next->second};
    }

  private:
    void insert(uint64_t begin, uint64_t end) {
        begin -= begin % grain_;
        if (end % grain_ != 0) end += grain_ - end % grain_;
        auto at = runs_.upper_bound(begin);
        if (at != runs_.begin() && std::prev(at)->second >= begin) --at;
        while (at != runs_.end() && at->first <= end) {
            begin = std::min(begin, at->first);
            end = std::max(end, at->second);
            at = runs_.erase(at);
        }
        runs_.emplace(begin, end);
    }
    void coarsen() {
        grain_ *= 2;
        const auto old = std::exchange(runs_, {});
        for (const auto& [begin, end] : old) insert(begin, end);
    }

    size_t runs_max_;
    uint64_t grain_ = 1;                 // pages; a power of two
    std::map<uint64_t, uint64_t> runs_;  // begin -> end, apart from each other
};

}  // namespace evac::storage_sync
