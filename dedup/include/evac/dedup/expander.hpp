#pragma once
// Expander: batches in, pages out. Away side; owned by the ingest thread.
//
// A batch is checked whole before its first page is put, so hostile bytes apply nothing. A
// reference is believed only when the content read at the named place has the named keyed identity,
// a delta only when its base has the named tag and what comes out has the identity; otherwise the
// page is in `naks`, and home sends it again as a literal.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/core/units.hpp"
#include "evac/dedup/batch.hpp"
#include "evac/dedup/fingerprint.hpp"

namespace evac::dedup {

// Port to away's staged copies. All calls come from the ingest thread; none keeps the spans.
class StagedPages {
  public:
    virtual ~StagedPages() = default;
    // The newest version put, also of rounds not sealed yet. Any error means "cannot be
    // referenced". `key` comes from the peer: no such VM, region or page is an error (not_found),
    // never a crash.
    virtual Status read(const PageKey& key, std::span<std::byte, kPageBytes> out) = 0;
    // An error ends the batch (disk full, page outside its region, unknown VM). Repeating a put is
    // harmless.
    virtual Status put(const PageKey& key, Epoch epoch,
                       std::span<const std::byte, kPageBytes> page) = 0;
    // Pages [first.page, first.page + count), count in [1, kBatchZeroRunMax]; from the peer, so the
    // range must be checked against the region.
    virtual Status put_zero(const PageKey& first, Epoch epoch, uint64_t count) = 0;
};

struct Nak {
    PageKey key;
    Epoch epoch{};
    auto operator<=>(const Nak&) const = default;
};

struct ExpandCounters {
    uint64_t zero_pages = 0;
    uint64_t literal_pages = 0;
    uint64_t referenced_pages = 0;  // verified and put
    uint64_t shifted_pages = 0;     // likewise
    uint64_t delta_pages = 0;       // likewise
    uint64_t mismatched_pages = 0;  // NAK: other content at the place, or another base
    uint64_t unreadable_pages = 0;  // NAK: the place could not be read
    uint64_t damaged_deltas = 0;    // NAK: right base, but no delta, or of another page

    void add(const ExpandCounters& other);
};

struct Expanded {
    VmId vm{};
    uint64_t sequence = 0;
    // What away owes now: pages whose reference did not hold and that no later record of the batch
    // brought. Each once; at most kBatchReferencesMax. Counters count every failed reference.
    std::vector<Nak> naks;
    ExpandCounters counters;
};

class Expander {
  public:
    // `staged` must outlive the expander; `hasher` has the pair's secret, as home's.
    static Result<std::unique_ptr<Expander>> create(IdentityHasher hasher, StagedPages& staged);
    ~Expander();
    Expander(const Expander&) = delete;
    Expander& operator=(const Expander&) = delete;

    // corrupt: the message is not a batch, nothing was put. Other codes: `staged` refused a put;
    // pages before it are put already.
    Result<Expanded> expand(ByteSpan message);

    // The pair's secret has changed. Batches on their way still name identities under the old one:
    // they are accepted until the next change. Deltas and references under neither are NAKed.
    void rekey(IdentityHasher hasher);

    const ExpandCounters& totals() const;

  private:
    struct Impl;
    explicit Expander(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace evac::dedup
