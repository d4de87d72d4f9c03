#pragma once
// The pages of one VM that wait to be sent. Constant time to enqueue, to drop a duplicate, to
// replace the waiting version in place and to take, and memory for what waits only, whatever the
// VM's size: a hash map finds the waiting entry (its growth, when more pages wait than ever before,
// is amortised), and entries hang in 32 lists (obligations first, then by heat), coldest list
// first, found by a bit mask.
//
// Owners: DirtyQueue and PagePool belong to the reducer thread. PageBudget is thread-safe.
//
// A full queue must never stall a capture, so room is taken before a page is handed over:
//   capture worker:  if (!budget.try_reserve()) return false;   // dropped; then push to the ring
//   (release if it is full) reducer:         queue.enqueue_reserved(page);              // cannot
//   be full; gives back what it does not need
// A caller on the reducer thread itself may use enqueue(), which reserves by itself and may answer
// `full`.
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/units.hpp"
#include "evac/prestage/captured_page.hpp"
#include "evac/prestage/page_map.hpp"

namespace evac::prestage {

// What one waiting page is charged, zero page or not: content, entry (40), its place in the map (11
// to 22) and in the lists of free entries and slots (8).
inline constexpr uint64_t kQueuedPageBytes = kPageBytes + 72;

// Byte budget of all waiting pages of all VMs, with an account per VM. A VM always finds room up to
// what it is guaranteed; beyond, it may hold what is free and nobody else is guaranteed: so one
// VM's flood cannot take the others' room, and a VM alone may have nearly all. Pages that are in
// use or guaranteed ("committed": the sum over accounts of max(used, guaranteed)) never exceed the
// budget.
//
// try_reserve() and release(): any thread, constant time, lock-free. Accounts: one thread.
class PageBudget {
  public:
    using Account = uint32_t;
    static constexpr Account kCommon = 0;  // always there, guaranteed nothing
    static constexpr Account kAccounts = 16'385;

    explicit PageBudget(uint64_t budget_bytes)
        : budget_pages_(budget_bytes / kQueuedPageBytes),
          accounts_(std::make_unique<std::atomic<uint64_t>[]>(kAccounts)) {}

    bool try_reserve(Account account = kCommon);  // one page; false = full
    void release(uint64_t pages = 1, Account account = kCommon);
    uint64_t used_pages() const { return used_pages_.load(std::memory_order_relaxed); }
    uint64_t used_pages(Account account) const;
    uint64_t guaranteed_pages(Account account) const;
    uint64_t budget_pages() const { return budget_pages_; }

    Account open();               // kCommon when there are no more
    void close(Account account);  // its pages may still be released; used again when it is empty
    // As far as there is room that nobody uses or was guaranteed; ask again later for the rest.
    void guarantee(Account account, uint64_t pages);

  private:
    uint64_t commit(uint64_t pages);  // as many of them as there is room for

    const uint64_t budget_pages_;
    std::atomic<uint64_t> used_pages_{0};
    // Never less than the sum over accounts: raised before an account grows, lowered after it
    // shrinks.
    std::atomic<uint64_t> committed_{0};
    std::unique_ptr<std::atomic<uint64_t>[]> accounts_;  // guaranteed << 32 | used, pages
    Account opened_ = kCommon;
    std::vector<Account> closed_;
};

// 4 KiB slots shared by the queues of all VMs. Grows by slabs of 1 MiB up to its budget and keeps
// them.
class PagePool {
  public:
    // `hash_seed`: of the queues' maps; a guest should not be able to guess it.
    explicit PagePool(uint64_t budget_bytes, uint64_t hash_seed = 0)
        : budget_(budget_bytes), hash_seed_(hash_seed) {}
    PagePool(const PagePool&) = delete;
    PagePool& operator=(const PagePool&) = delete;

    PageBudget& budget() { return budget_; }
    uint64_t slab_bytes() const { return slabs_.size() * kSlabPages * kPageBytes; }

  private:
    friend class DirtyQueue;
    static constexpr uint32_t kSlabPages = 256;
    static constexpr uint32_t kNoSlot = UINT32_MAX;

    uint32_t allocate();
    void free(uint32_t slot);
    std::byte* bytes(uint32_t slot);

    PageBudget budget_;
    const uint64_t hash_seed_;
    std::vector<std::unique_ptr<std::byte[]>> slabs_;
    std::vector<uint32_t> free_;
};

enum class EnqueueOutcome : uint8_t {
    queued,
    replaced,   // a newer version took the waiting one's place
    duplicate,  // the waiting version has the same fingerprint; its epoch was raised
    stale,      // a newer epoch is waiting already; nothing changed
    full,       // no room (enqueue() only); nothing changed
};

class DirtyQueue {
  public:
    // `pool` must outlive the queue. Region sizes as in Catalogue. Memory: the pool's pages, and at
    // most 72 bytes for each of as many pages as ever waited at once. Its pages are charged to
    // `account`.
    DirtyQueue(PagePool& pool, const std::vector<RegionInfo>& regions,
               PageBudget::Account account = PageBudget::kCommon);
    ~DirtyQueue();
    DirtyQueue(const DirtyQueue&) = delete;
    DirtyQueue& operator=(const DirtyQueue&) = delete;

    // `obligation`: needed by a recovery point or a handover in progress; taken before all others.
    EnqueueOutcome enqueue(const CapturedPage& page, bool obligation = false);
    // The caller holds one reserved page of pool.budget(), of this account; it is used or given
    // back.
    EnqueueOutcome enqueue_reserved(const CapturedPage& page, bool obligation = false);

    // Obligations first, then the coldest, within one class of heat the longest waiting. `bytes` of
    // the result stays valid until the next enqueue on any queue of the same pool.
    std::optional<CapturedPage> take();
    bool contains(RegionId region, uint64_t page) const;
    void clear();  // O(waiting pages)

    bool empty() const { return size_ == 0; }
    uint64_t size() const { return size_; }  // waiting pages
    // Of the queue itself; the pages are in the pool.
    uint64_t memory_bytes() const {
        return map_.bytes() + entries_.capacity() * sizeof(Entry) +
               free_entries_.capacity() * sizeof(uint32_t);
    }
    uint64_t content_bytes() const {
        return (size_ - zero_pages_) * kPageBytes;
    }  // without zero pages

  private:
    static constexpr size_t kKeptEntries = 16 * 1024;  // of an empty queue, about 1 MiB
    static constexpr uint32_t kNone = PageMap::kNone;
    static constexpr uint32_t kLists = 32;
    struct Entry {
        Fingerprint fingerprint;
        uint32_t page;
        uint32_t epoch;
        uint32_t slot;  // PagePool::kNoSlot for a zero page
        uint32_t next;
        uint32_t previous;
        uint16_t region;
        uint8_t heat;
        uint8_t list;
    };
    struct List {
        uint32_t head = kNone;
        uint32_t tail = kNone;
    };

    // kNone: it does not wait.
    uint32_t find(RegionId region, uint64_t page, uint32_t hash) const;
    EnqueueOutcome add(const CapturedPage& page, bool obligation, uint32_t hash);
    EnqueueOutcome replace(uint32_t at, const CapturedPage& page, bool obligation);
    void store(Entry& entry, const CapturedPage& page);
    void link(uint32_t at, uint32_t list);
    void unlink(uint32_t at);

    PagePool& pool_;
    const PageBudget::Account account_;
    std::vector<uint64_t> region_pages_;
    PageMap map_;
    std::vector<Entry> entries_;
    std::vector<uint32_t> free_entries_;
    List lists_[kLists];
    uint32_t list_mask_ = 0;  // bit l set: list l is not empty
    uint64_t size_ = 0;
    uint64_t zero_pages_ = 0;
};

}  // namespace evac::prestage
