#include "evac/prestage/dirty_queue.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "evac/core/assert.hpp"

namespace evac::prestage {

namespace {

constexpr uint64_t used_of(uint64_t account) {
    return account & UINT32_MAX;
}
constexpr uint64_t guaranteed_of(uint64_t account) {
    return account >> 32;
}
constexpr uint64_t committed_of(uint64_t account) {
    return std::max(used_of(account), guaranteed_of(account));
}

}  // namespace

uint64_t PageBudget::commit(uint64_t pages) {
    uint64_t committed = committed_.load();
    uint64_t taken = 0;
    do {
        taken = std::min(pages, budget_pages_ - committed);
        if (taken == 0) return 0;
    } while (!committed_.compare_exchange_weak(committed, committed + taken));
    return taken;
}

bool PageBudget::try_reserve(Account account) {
    std::atomic<uint64_t>& word = accounts_[account];
    uint64_t seen = word.load();
    while (used_of(seen) < guaranteed_of(seen)) {
        if (!word.compare_exchange_weak(seen, seen + 1)) continue;
        used_pages_.fetch_add(1, std::memory_order_relaxed);
        return true;
    }
    if (commit(1) == 0) return false;
    seen = word.fetch_add(1);
    // Meanwhile below its guarantee: that room was committed before.
    if (used_of(seen) < guaranteed_of(seen)) committed_.fetch_sub(1);
    used_pages_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

void PageBudget::release(uint64_t pages, Account account) {
    const uint64_t before = accounts_[account].fetch_sub(pages);
    EVAC_ASSERT(used_of(before) >= pages);
    used_pages_.fetch_sub(pages, std::memory_order_relaxed);
    committed_.fetch_sub(committed_of(before) - committed_of(before - pages));
}

uint64_t PageBudget::used_pages(Account account) const {
    return used_of(accounts_[account].load(std::memory_order_relaxed));
}

uint64_t PageBudget::guaranteed_pages(Account account) const {
    return guaranteed_of(accounts_[account].load(std::memory_order_relaxed));
}

void PageBudget::guarantee(Account account, uint64_t pages) {
    EVAC_ASSERT(account < kAccounts);
    if (account == kCommon) return;
    std::atomic<uint64_t>& word = accounts_[account];
    const uint64_t old_pages = guaranteed_of(word.load());
    uint64_t extra = 0;
    if (pages > old_pages) {
        extra = commit(pages - old_pages);
        pages = old_pages + extra;
    }
    uint64_t seen = word.load();
    uint64_t next = 0;
    do {
        next = (pages << 32) | used_of(seen);
    } while (!word.compare_exchange_weak(seen, next));
    committed_.fetch_sub(extra + committed_of(seen) - committed_of(next));
}

PageBudget::Account PageBudget::open() {
    for (Account& account : closed_) {
        if (used_pages(account) != 0) continue;
        std::swap(account, closed_.back());
        const Account reused = closed_.back();
        closed_.pop_back();
        return reused;
    }
    return opened_ + 1 < kAccounts ? ++opened_ : kCommon;
}

void PageBudget::close(Account account) {
    if (account == kCommon) return;
    guarantee(account, 0);
    closed_.push_back(account);
}

uint32_t PagePool::allocate() {
    if (free_.empty()) {
        const size_t first = slabs_.size() * kSlabPages;
        EVAC_ASSERT(first + kSlabPages < kNoSlot);
        slabs_.push_back(std::make_unique_for_overwrite<std::byte[]>(kSlabPages * kPageBytes));
        for (uint32_t i = kSlabPages; i-- > 0;) free_.push_back(static_cast<uint32_t>(first) + i);
    }
    const uint32_t slot = free_.back();
    free_.pop_back();
    return slot;
}

void PagePool::free(uint32_t slot) {
    free_.push_back(slot);
}

std::byte* PagePool::bytes(uint32_t slot) {
    return slabs_[slot / kSlabPages].get() + size_t{slot % kSlabPages} * kPageBytes;
}

namespace {

// 0..15: obligations, 16..31: the others; within each by heat.
uint32_t list_of(uint8_t heat, bool obligation) {
    return (obligation ? 0u : 16u) + heat / 16u;
}

}  // namespace

DirtyQueue::DirtyQueue(PagePool& pool, const std::vector<RegionInfo>& regions,
                       PageBudget::Account account)
    : pool_(pool), account_(account), map_(pool.hash_seed_) {
    EVAC_ASSERT(regions.size() <= kRegionsMax);
    region_pages_.reserve(regions.size());
    for (const RegionInfo& region : regions) {
        EVAC_ASSERT(region.size_bytes <= kRegionBytesMax);
        region_pages_.push_back((region.size_bytes + kPageBytes - 1) / kPageBytes);
    }
}

DirtyQueue::~DirtyQueue() {
    clear();
}

uint32_t DirtyQueue::find(RegionId region, uint64_t page, uint32_t hash) const {
    EVAC_ASSERT(raw(region) < region_pages_.size() && page < region_pages_[raw(region)]);
    return map_.find(hash, [&](uint32_t at) {
        return entries_[at].page == page && entries_[at].region == raw(region);
    });
}

bool DirtyQueue::contains(RegionId region, uint64_t page) const {
    return find(region, page, map_.hash(region, page)) != kNone;
}

void DirtyQueue::link(uint32_t at, uint32_t list) {
    Entry& entry = entries_[at];
    List& target = lists_[list];
    entry.list = static_cast<uint8_t>(list);
    entry.next = kNone;
    entry.previous = target.tail;
    if (target.tail != kNone) {
        entries_[target.tail].next = at;
    } else {
        target.head = at;
        list_mask_ |= 1u << list;
    }
    target.tail = at;
}

void DirtyQueue::unlink(uint32_t at) {
    const Entry& entry = entries_[at];
    List& source = lists_[entry.list];
    (entry.previous != kNone ? entries_[entry.previous].next : source.head) = entry.next;
    (entry.next != kNone ? entries_[entry.next].previous : source.tail) = entry.previous;
    if (source.head == kNone) list_mask_ &= ~(1u << entry.list);
}

// Puts the page's content and description into an entry that is in no list or stays in its list.
void DirtyQueue::store(Entry& entry, const CapturedPage& page) {
    if (page.is_zero) {
        if (entry.slot != PagePool::kNoSlot) pool_.free(entry.slot);
        entry.slot = PagePool::kNoSlot;
    } else {
        EVAC_ASSERT(page.bytes.size() == kPageBytes);
        if (entry.slot == PagePool::kNoSlot) entry.slot = pool_.allocate();
        std::memcpy(pool_.bytes(entry.slot), page.bytes.data(), kPageBytes);
    }
    entry.fingerprint = page.fingerprint;
    entry.epoch = raw(page.epoch);
    entry.heat = page.heat;
}

EnqueueOutcome DirtyQueue::replace(uint32_t at, const CapturedPage& page, bool obligation) {
    Entry& entry = entries_[at];
    if (raw(page.epoch) < entry.epoch) return EnqueueOutcome::stale;
    const bool duplicate = page.fingerprint.known() && page.fingerprint == entry.fingerprint;
    if (duplicate) {
        entry.epoch = raw(page.epoch);
        entry.heat = page.heat;
    } else {
        zero_pages_ += page.is_zero ? 1 : 0;
        zero_pages_ -= entry.slot == PagePool::kNoSlot ? 1 : 0;
        store(entry, page);
    }
    // An obligation stays one until it is sent.
    const uint32_t list = list_of(page.heat, obligation || entry.list < 16);
    if (list != entry.list) {
        unlink(at);
        link(at, list);
    }
    return duplicate ? EnqueueOutcome::duplicate : EnqueueOutcome::replaced;
}

EnqueueOutcome DirtyQueue::enqueue(const CapturedPage& page, bool obligation) {
    const uint32_t hash = map_.hash(page.region, page.page);
    const uint32_t at = find(page.region, page.page, hash);
    if (at != kNone) return replace(at, page, obligation);
    if (!pool_.budget().try_reserve(account_)) return EnqueueOutcome::full;
    return add(page, obligation, hash);
}

EnqueueOutcome DirtyQueue::enqueue_reserved(const CapturedPage& page, bool obligation) {
    const uint32_t hash = map_.hash(page.region, page.page);
    const uint32_t at = find(page.region, page.page, hash);
    if (at == kNone) return add(page, obligation, hash);
    pool_.budget().release(1, account_);
    return replace(at, page, obligation);
}

// The page does not wait yet, and its room is reserved.
EnqueueOutcome DirtyQueue::add(const CapturedPage& page, bool obligation, uint32_t hash) {
    uint32_t at = 0;
    if (!free_entries_.empty()) {
        at = free_entries_.back();
        free_entries_.pop_back();
    } else {
        at = static_cast<uint32_t>(entries_.size());
        EVAC_ASSERT(at != kNone);
        entries_.emplace_back();
    }
    Entry& entry = entries_[at];
    entry.slot = PagePool::kNoSlot;
    entry.region = raw(page.region);
    entry.page = static_cast<uint32_t>(page.page);
    store(entry, page);
    link(at, list_of(page.heat, obligation));
    map_.insert(hash, at);
    ++size_;
    if (page.is_zero) ++zero_pages_;
    return EnqueueOutcome::queued;
}

std::optional<CapturedPage> DirtyQueue::take() {
    if (list_mask_ == 0) return std::nullopt;
    const uint32_t at = lists_[std::countr_zero(list_mask_)].head;
    const Entry& entry = entries_[at];
    CapturedPage out;
    out.region = RegionId{entry.region};
    out.page = entry.page;
    out.epoch = Epoch{entry.epoch};
    out.fingerprint = entry.fingerprint;
    out.heat = entry.heat;
    out.is_zero = entry.slot == PagePool::kNoSlot;
    if (out.is_zero) {
        --zero_pages_;
    } else {
        out.bytes = {pool_.bytes(entry.slot), kPageBytes};
        pool_.free(entry.slot);  // its content stays until an enqueue allocates it
    }
    unlink(at);
    map_.erase(map_.hash(out.region, out.page), at);
    free_entries_.push_back(at);
    --size_;
    pool_.budget().release(1, account_);
    // A first copy is not what usually waits: its lists are given back.
    if (size_ == 0 && entries_.size() > kKeptEntries) {
        std::vector<Entry>().swap(entries_);
        std::vector<uint32_t>().swap(free_entries_);
        map_.reset();
    }
    return out;
}

void DirtyQueue::clear() {
    while (take().has_value()) {
    }
}

}  // namespace evac::prestage
