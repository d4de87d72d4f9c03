#include "open_delta.hpp"

#include <algorithm>

namespace evac::storage_sync {

size_t OpenDelta::index_of(uint64_t key) const {
    uint64_t x = key * 0x9e3779b97f4a7c15ULL;
    x ^= x >> 32;
    return static_cast<size_t>(x) & (slots_.size() - 1);
}

const OpenDelta::Slot* OpenDelta::find_slot(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    for (size_t i = index_of(key);; i = (i + 1) & (slots_.size() - 1)) {
        if (slots_[i].key_plus_1 == key + 1) return &slots_[i];
        if (slots_[i].key_plus_1 == 0) return nullptr;
    }
}

const OpenDelta::Run* OpenDelta::find_run(RegionId region, uint64_t page) const {
    const auto runs = runs_.find(raw(region));
    if (runs == runs_.end()) return nullptr;
    auto after = runs->second.upper_bound(page);
    if (after == runs->second.begin()) return nullptr;
    --after;
    return page < after->second.end ? &after->second : nullptr;
}

void OpenDelta::grow() {
    std::vector<Slot> old(slots_.empty() ? 1024 : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
        if (slot.key_plus_1 == 0) continue;
        size_t i = index_of(slot.key_plus_1 - 1);
        while (slots_[i].key_plus_1 != 0) i = (i + 1) & (slots_.size() - 1);
        slots_[i] = slot;
    }
}

bool OpenDelta::set_slot(uint64_t key, Epoch epoch, uint64_t offset, bool zero) {
    if ((page_count_ + 1) * 4 > slots_.size() * 3) grow();
    size_t i = index_of(key);
    while (slots_[i].key_plus_1 != 0 && slots_[i].key_plus_1 != key + 1)
        i = (i + 1) & (slots_.size() - 1);
    Slot& slot = slots_[i];
    if (slot.key_plus_1 != 0 && slot.epoch > raw(epoch)) return false;
    if (slot.key_plus_1 == 0) ++page_count_;
    slot = {key + 1, (offset << 1) | (zero ? 1 : 0), raw(epoch)};
    newest_epoch_ = std::max(newest_epoch_, raw(epoch));
    return true;
}

bool OpenDelta::is_newest(RegionId region, uint64_t page, Epoch epoch) const {
    const Run* run = find_run(region, page);
    if (run != nullptr && run->epoch > raw(epoch)) return false;
    const Slot* slot = find_slot(key_of(region, page));
    return slot == nullptr || slot->epoch <= raw(epoch);
}

bool OpenDelta::put_page(RegionId region, uint64_t page, Epoch epoch, uint64_t offset) {
    if (!is_newest(region, page, epoch)) return false;
    return set_slot(key_of(region, page), epoch, offset, false);
}

// Cuts the run that spans `page` into two.
void OpenDelta::split_at(Runs& runs, uint64_t page) {
    auto after = runs.lower_bound(page);
    if (after == runs.begin() || (after != runs.end() && after->first == page)) return;
    --after;
    if (after->second.end <= page) return;
    runs.emplace(page, Run{after->second.end, after->second.offset, after->second.epoch});
    after->second.end = page;
}

void OpenDelta::put_zeros(RegionId region, uint64_t first, uint64_t count, Epoch epoch,
                          uint64_t offset) {
    if (count <= kRunPagesMin) {
        for (uint64_t page = first; page < first + count; ++page) {
            if (is_newest(region, page, epoch)) set_slot(key_of(region, page), epoch, offset, true);
        }
        return;
    }
    const uint64_t end = first + count;
    Runs& runs = runs_[raw(region)];
    const size_t before = runs.size();
    split_at(runs, first);
    split_at(runs, end);
    // Newer runs stay; the gaps between them, and what is older, become this run.
    uint64_t at = first;
    auto next = runs.lower_bound(first);
    while (at < end) {
        while (next != runs.end() && next->first < end && next->second.epoch <= raw(epoch))
            next = runs.erase(next);
        const uint64_t gap_end = next == runs.end() ? end : std::min(end, next->first);
        if (at < gap_end) runs.emplace_hint(next, at, Run{gap_end, offset, raw(epoch)});
        if (next == runs.end() || next->first >= end) break;
        at = next->second.end;
        ++next;
    }
    run_count_ += runs.size() - before;
    newest_epoch_ = std::max(newest_epoch_, raw(epoch));
}

OpenDelta::Found OpenDelta::find(RegionId region, uint64_t page) const {
    const Run* run = find_run(region, page);
    const Slot* slot = find_slot(key_of(region, page));
    if (slot == nullptr) return {run == nullptr ? Kind::none : Kind::zero, 0};
    const uint64_t offset = slot->offset_and_zero >> 1;
    if (run != nullptr && newer(run->epoch, run->offset, slot->epoch, offset))
        return {Kind::zero, 0};
    return {(slot->offset_and_zero & 1) != 0 ? Kind::zero : Kind::logged, offset};
}

std::vector<OpenDelta::ZeroRun> OpenDelta::collect_runs() const {
    std::vector<ZeroRun> collected;
    for (const auto& [region, runs] : runs_) {
        for (const auto& [first, run] : runs) {
            collected.push_back({RegionId{region}, first, run.end - first});
        }
    }
    return collected;
}

std::vector<OpenDelta::Page> OpenDelta::collect_pages() const {
    std::vector<Page> collected;
    collected.reserve(page_count_);
    for (const Slot& slot : slots_) {
        if (slot.key_plus_1 == 0) continue;
        const Page page{slot.key_plus_1 - 1, slot.offset_and_zero >> 1,
                        (slot.offset_and_zero & 1) != 0};
        const Run* run = find_run(page.region(), page.page());
        if (run != nullptr && newer(run->epoch, run->offset, slot.epoch, page.offset)) continue;
        collected.push_back(page);
    }
    std::sort(collected.begin(), collected.end(),
              [](const Page& a, const Page& b) { return a.key < b.key; });
    return collected;
}

void OpenDelta::clear() {
    slots_ = {};
    runs_.clear();
    page_count_ = 0;
    run_count_ = 0;
    newest_epoch_ = 0;
}

}  // namespace evac::storage_sync
