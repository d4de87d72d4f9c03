#pragma once
// Reducer: changed pages in, encoded batches out. Home side; owned by the reducer thread.
//
//   add(page) -> zero
//             -> reference (index hit, and what was last sent to that place has this page's tag)
//             -> shifted reference (all eight 512-byte pieces of two neighbours agree; at shifts
//                that are no multiple of 512 their content does)
//             -> delta against the previous version, or against the page that shares most pieces,
//                when its content is at hand (page cache, or a BaseReader) and it is small
//             -> literal: with up to 15 others under zstd, or raw
//             -> batch full or flush() -> sink(EncodedBatch) -> WAN
//   away: acknowledge(vm, sequence), preceded by nak(vm, sequence, page, epoch) for each page whose
//   reference or delta did not hold: its content, retained here until then, goes out as a literal.
//
// What the caller must keep:
//  - The sink's batches go to away in order per lane (a lane = a WAN class).
//    Pages may be referenced as soon as they were added, because away resolves in order; across
//    lanes a reference may come before its target: a round trip (NAK), never a wrong page.
//  - One epoch of one page goes through one lane: away cannot order two versions of one epoch.
//  - At away a reference that was not resolved stays owed until a put of that page with the same or
//    a newer epoch, and a seal waits for it; so home may send SEAL before the acknowledgements.
//  - No version of a later epoch is added before the seal of the earlier one was answered; else a
//    NAK may be answered `superseded` by a page of the later epoch.
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/core/units.hpp"
#include "evac/dedup/batch.hpp"
#include "evac/dedup/fingerprint.hpp"
#include "evac/dedup/index.hpp"

namespace evac::dedup {

inline constexpr size_t kLanesMax = 4;

struct PageItem {
    PageKey key;
    Epoch epoch{};
    Fingerprint fingerprint;  // ignored for a zero page
    bool is_zero = false;
    std::span<const std::byte> page;  // kPageBytes; empty for a zero page. Valid during the call.
    uint8_t lane = 3;                 // < kLanesMax: WAN class of the batch
};

struct EncodedBatch {
    VmId vm{};
    uint64_t sequence = 0;  // from 1, +1 per batch of the VM, over all lanes
    uint8_t lane = 0;
    uint32_t pages = 0;
    uint64_t content_bytes = 0;  // of the pages that are not zero
    Bytes message;               // behind ReducerOptions::headroom_bytes of zeros
};

enum class Rung : uint8_t {
    zero,
    reference_same_vm,
    reference_other_vm,
    shifted_same_vm,
    shifted_other_vm,
    delta_previous,  // against the same page's last version
    delta_same_vm,
    delta_other_vm,
    literal,
};
inline constexpr size_t kRungCount = 9;
const char* to_string(Rung rung);

struct RungStats {
    uint64_t pages = 0;
    uint64_t raw_bytes = 0;
    // References: 16 bytes of identity each; deltas 22 and, as literals, their share of the frame
    // by size before compression. Run headers and batch headers are in header_bytes, so that the
    // sum over all is what went to the sink.
    uint64_t wire_bytes = 0;
};

struct RungTable {
    std::array<RungStats, kRungCount> memory;  // pages of RAM, by Rung
    std::array<RungStats, kRungCount> disk;    // pages of disks, by Rung
    uint64_t references_to_memory = 0;  // where content was found, for all rungs but zero, literal
    uint64_t references_to_disk = 0;
    uint64_t header_bytes = 0;
};

struct ReducerStats : RungTable {
    uint64_t batches = 0;
    uint64_t message_bytes = 0;           // all of it
    uint64_t stale_hits = 0;              // index hits whose place has been overwritten since
    uint64_t literals_for_retention = 0;  // hits sent as literals because the retention was full
    uint64_t raw_pages = 0;               // literals whose batch went uncompressed
    uint64_t base_reads = 0;              // of the BaseReader
    uint64_t base_reads_stale = 0;        // it has newer content than away, or none
    uint64_t bases_absent = 0;            // a base was found whose content is not at hand
    uint64_t learned = 0;                 // pages entered by learn() and reindex()
    uint64_t naks = 0;
    uint64_t naks_resent = 0;  // counted under Rung::literal again
    uint64_t naks_superseded = 0;
    uint64_t naks_unknown = 0;
    uint64_t retained_pages = 0;  // now
    uint64_t tag_bytes = 0;       // now: StagedTags, 4 bytes per page
    uint64_t sketch_bytes = 0;    // now: address space; memory as far as pages were seen
    uint64_t cache_bytes = 0;     // now, likewise
};

enum class NakOutcome : uint8_t {
    resent,      // the content is in the open batch of the lane given to nak(), as a literal
    superseded,  // a later version of the page has been added since: nothing to do
    unknown,     // content no longer here: the caller marks the page unknown in its catalogue
};

// What is done for a page. Pages that went without a rung are not learned for it either.
struct Effort {
    bool references = true;  // aligned references
    bool similar = true;     // shifted references and deltas; needs references
    bool compress = true;    // false: literals raw
    int zstd_level = 1;      // -7..19

    bool operator==(const Effort&) const = default;
};

struct ReducerOptions {
    int zstd_level = 1;                       // -7..19
    uint64_t retained_bytes_max = 16 * kMiB;  // raw content of references not yet acknowledged
    bool references = true;                   // false: zero and literal only
    bool similar = true;                      // false: no shifted references, no deltas
    uint64_t tag_bytes_max = 4096 * kMiB;  // set_region beyond is refused (1 GiB of tags = 1 TiB)
    // 8 bytes per piece, 8 pieces per disk block, 4 per page of RAM: 128 MiB find the blocks of 8
    // GiB of distinct content. Taken as it fills.
    uint64_t sketch_table_bytes = 128 * kMiB;
    uint64_t sketch_page_bytes_max = 1024 * kMiB;  // 5 MiB per GiB; regions beyond: no sketches
    size_t headroom_bytes = 0;  // left free before each message, for the header of what carries it
    uint64_t cache_bytes = 256 * kMiB;  // content of pages sent last, to delta against
};

struct ReindexProgress {
    bool running = false;
    uint64_t pages_done = 0;
    uint64_t pages_total = 0;  // of all declared regions
};

// Port to content at home. Called by the reducer thread, at most twice per page.
class BaseReader {
  public:
    virtual ~BaseReader() = default;
    // What the place holds at home now, quickly (no round trip, no waiting), or false. It may be
    // newer than what away has: the reducer compares its fingerprint before it is used.
    virtual bool read(const Location& location, std::span<std::byte, kPageBytes> out) = 0;
};

// The index's key of a page: its fingerprint, which the capture stage has computed anyhow. Only a
// page that goes as a reference or a delta is hashed with SHA-256, because that is what away
// checks.
Identity index_key(const Fingerprint& fingerprint);

// What was last sent to each place at away: low 32 bits of the fingerprint, 0 = unknown or zero
// page. Owned by the Reducer.
class StagedTags {
  public:
    static uint32_t tag(const Fingerprint& fingerprint);  // never 0

    // 0 when the region or page does not exist.
    uint32_t get(const Location& location) const;
    bool set(const Location& location, uint32_t tag);  // false: no such place
    bool is_disk(const Location& location) const;
    void set_region(VmId vm, RegionId region, RegionKind kind, uint64_t pages);
    uint64_t pages(VmId vm, RegionId region) const;  // 0: not declared
    void clear_vm(VmId vm);                          // all unknown; regions stay
    void forget_vm(VmId vm);
    uint64_t bytes() const { return bytes_; }

    StagedTags();
    ~StagedTags();
    StagedTags(const StagedTags&) = delete;
    StagedTags& operator=(const StagedTags&) = delete;

  private:
    struct Regions;
    std::unique_ptr<Regions> regions_;
    uint64_t bytes_ = 0;
};

class Reducer {
  public:
    // Called by add, flush and nak; at most two batches per call of add or nak. The caller checks
    // its queue before it adds.
    using Sink = std::function<void(EncodedBatch&&)>;

    // `index` must outlive the reducer. invalid_argument names the option that is wrong.
    static Result<std::unique_ptr<Reducer>> create(const ReducerOptions& options,
                                                   IdentityHasher hasher, Index& index, Sink sink);
    ~Reducer();
    Reducer(const Reducer&) = delete;
    Reducer& operator=(const Reducer&) = delete;

    // Declares or resizes a region; its tags become unknown when the size changes. Pages of
    // undeclared regions are sent as literals and never referenced. invalid_argument: region >=
    // kRegionsMax, pages > kLocationPagesMax; refused: tag_bytes_max.
    Status set_region(VmId vm, RegionId region, RegionKind kind, uint64_t pages);
    // After a session loss: what away has, from `first_page` on (may come in parts). Unknown
    // fingerprints become unknown tags. invalid_argument: outside a declared region.
    Status load_tags(VmId vm, RegionId region, uint64_t first_page,
                     std::span<const Fingerprint> fingerprints);
    // The VM is gone: tags, retained content and its open batches are dropped.
    void forget_vm(VmId vm);
    // Session loss: open batches and retained content are dropped, tags become unknown, and the
    // VM's next batch has `next_sequence`. The caller reloads its catalogue from away, and sends
    // again what differs.
    void reset_vm(VmId vm, uint64_t next_sequence = 1);

    Rung add(const PageItem& item);
    // The same for several, whose index lookups go together (MultiGet). Contents must be valid
    // during the call.
    void add_all(std::span<const PageItem> items);
    // From the next page on; the level from the next batch of a lane on.
    void set_effort(const Effort& effort);
    const Effort& effort() const;
    // Null (the default): deltas against what the cache holds only. Must outlive the reducer.
    void set_base_reader(BaseReader* reader);

    // A page that away has already (seen and not sent): indexed and sketched, nothing is sent.
    // Ignored when the place's tag is another.
    void learn(const PageItem& item);
    // The pair's secret has changed: everything said about away is unknown until load_tags, old
    // index entries miss, pages go as literals meanwhile. Nothing waits.
    void rekey(IdentityHasher hasher);
    // Looks at up to `pages` pages; those that away has and that are not sketched are read through
    // the BaseReader and learned. False: the pass is through (or there is no reader).
    // begin_reindex() starts a pass; forget_vm() ends it.
    void begin_reindex();
    bool reindex(uint64_t pages);
    ReindexProgress reindex_progress() const;
    // Emits every open batch (of a lane; of a VM): when the queue is empty, and before a SEAL.
    void flush();
    void flush_vm(VmId vm);

    // Away took the batch; call nak for its NAKs first. Unknown sequences are ignored.
    void acknowledge(VmId vm, uint64_t sequence);
    // `lane`: where the content goes, normally the lane of the batch. The caller flushes when idle.
    NakOutcome nak(VmId vm, uint64_t sequence, const PageKey& key, Epoch epoch, uint8_t lane);

    // Sequence of the last batch given to the sink (0: none): the number that SEAL carries.
    uint64_t batches_emitted(VmId vm) const;
    // Pages added but not yet given to the sink, over all lanes of the VM.
    uint64_t open_pages(VmId vm) const;
    void set_zstd_level(int level);  // clamped to -7..19
    const ReducerStats& stats() const;
    const RungTable* stats_of(VmId vm) const;  // null: nothing of it was added yet

  private:
    struct Impl;
    explicit Reducer(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace evac::dedup
