#pragma once
// The batch: one message of reduced pages of one VM, home -> away.
//
//   batch    := header records literals
//   header   := version:u8 = 2   flags:u8 (bit 0: literals are one zstd frame; other bits 0)
//               literal_pages:le16 <= 16   vm:le32   sequence:le64 >= 1 (per VM, counted by home)
//               record_bytes:le32   literal_bytes:le32   delta_bytes:le32            (28 bytes)
//   records  := record+                                          (exactly record_bytes bytes)
//   record   := 0x00 epoch:varint region:varint      GROUP: epoch (>= 1) and region (< 64) of the
//                                                    runs that follow; the first record is one
//             | 0x01 start:zigzag count:varint       ZERO run
//             | 0x02 start:zigzag count:varint       LITERAL run: the next `count` literal pages
//             | 0x03 start:zigzag count:varint source identity{count}
//                                                    REF run: page i has the content of source i
//             | 0x04 start:zigzag count:varint source shift:varint identity{count}
//                                                    SHIFT run: page i is bytes [shift, 4096) of
//                                                    source i, then [0, shift) of source i + 1;
//                                                    shift in [1, 4095]
//             | 0x05 start:zigzag count:varint source shift:varint delta{count}
//                                                    DELTA run: the base of page i is source i, or
//                                                    composed as in SHIFT when shift is not 0
//   delta    := identity (of the result) base_tag:le32 coded:le16
//               coded = 2 * size + kind; size <= 4096; kind 0: patch, 1: zstd with the base as
//               prefix. The next `size` bytes of the delta bytes are its payload.
//   source   := vm:varint region:varint start:zigzag   `count` consecutive pages of away's copy
//               (SHIFT, and DELTA with a shift: one page more)
//   identity := 16 bytes
//   literals := 4096 * literal_pages bytes, then delta_bytes bytes; raw, or one zstd frame of them
//   patch    := (skip:varint length:varint byte{length})*   skip bytes of the base are kept, then
//               length >= 1 bytes replaced; what follows the last one is kept
//   zstd     := a zstd frame of 4096 bytes without its magic number
//
//   base_tag is the low half of the base's fingerprint's first word, as StagedTags has it: it tells
//   a changed base from a damaged delta. What decides is the identity of the result.
//
//   varint is LEB128 of at most 10 bytes. A zigzag start is relative to the page after the previous
//   run (0 after a GROUP); a source's start is relative to the page after the previous source run
//   of the batch (0 at first). A run is pages [start, start + count), count >= 1, within [0, 2^40).
//   Records are applied in order: a REF may name a page that an earlier record brought, and a DELTA
//   may name the page itself: its previous version.
//
// Limits (checked on both sides): message <= kBatchBytesMax, 4096 * literal_pages + delta_bytes <=
// 64 KiB, 512 pages that are verified (REF, SHIFT, DELTA).
// Version rule: a decoder refuses any other version; the session's handshake settles it beforehand.
// Sequential references cost 16 bytes and a few per run; a literal page its share of the frame.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/core/units.hpp"
#include "evac/dedup/fingerprint.hpp"
#include "evac/dedup/index.hpp"

namespace evac::dedup {

inline constexpr uint8_t kBatchVersion = 2;
inline constexpr size_t kBatchHeaderBytes = 28;
inline constexpr size_t kBatchBytesMax = 128 * 1024;
inline constexpr size_t kBatchLiteralPagesMax =
    16;  // 64 KiB: beyond, zstd gains little (facts: 10 %)
inline constexpr size_t kBatchLiteralBytesMax = kBatchLiteralPagesMax * kPageBytes;
inline constexpr size_t kBatchReferencesMax =
    512;  // of all kinds; bounds away's work and home's retention per batch
inline constexpr size_t kBatchRecordBytesMax = 60 * 1024;
// A zero run may be long (a fresh disk); 2^28 pages are 1 TiB.
inline constexpr uint64_t kBatchZeroRunMax = uint64_t{1} << 28;

enum class BatchOp : uint8_t { zero = 1, literal = 2, reference = 3, shifted = 4, delta = 5 };
enum class DeltaKind : uint8_t { patch = 0, zstd = 1 };

struct BatchRun {
    BatchOp op{};
    Epoch epoch{};
    PageKey first;       // vm is the batch's
    uint64_t count = 0;  // pages
    Location source;     // reference, shifted, delta: where page 0 has its content or base from
    uint32_t shift = 0;  // shifted: 1..4095; delta: 0..4095
    size_t index = 0;    // literal: first page in literals; else: first in identities
    size_t delta = 0;    // delta: first in deltas
};

struct BatchDelta {
    uint32_t base_tag = 0;
    DeltaKind kind{};
    uint32_t offset = 0;  // behind the literal pages
    uint32_t size = 0;
};

// A decoded batch, or one being built. Reused: clear() keeps capacity.
struct BatchContent {
    VmId vm{};
    uint64_t sequence = 0;
    std::vector<BatchRun> runs;
    std::vector<Identity> identities;
    std::vector<BatchDelta> deltas;
    Bytes literals;        // 4096 bytes per literal page; decoded: the payloads of deltas behind
    Bytes delta_payloads;  // being built only

    void clear();
    PageSpan literal(size_t index) const;
    // Decoded only.
    ByteSpan payload(const BatchDelta& delta) const;
    size_t literal_pages = 0;
};

// A page in terms of pages that away has.
struct DeltaSource {
    Location base;
    uint32_t shift = 0;
    uint32_t base_tag = 0;
    DeltaKind kind{};
    ByteSpan payload;
};

// Builds and encodes one batch at a time. Owner: the reducer thread.
class BatchBuilder {
  public:
    // Level: zstd's, -7..19. internal: zstd context cannot be made.
    static Result<BatchBuilder> create(int zstd_level);
    BatchBuilder(BatchBuilder&&) noexcept;
    BatchBuilder& operator=(BatchBuilder&&) noexcept;
    ~BatchBuilder();

    bool empty() const { return content_.runs.empty(); }
    // One more page of any kind fits. Programmer error to add when it does not.
    bool has_room() const;
    bool has_room_for_literal() const;
    bool has_room_for_reference() const;
    bool has_room_for_delta(size_t payload_bytes) const;

    // `key.vm` is the batch's VM (asserted: one VM per batch). Runs are joined when consecutive.
    void add_zero(const PageKey& key, Epoch epoch);
    void add_literal(const PageKey& key, Epoch epoch, PageSpan page);
    void add_reference(const PageKey& key, Epoch epoch, const Identity& identity,
                       const Location& source);
    void add_shifted(const PageKey& key, Epoch epoch, const Identity& identity,
                     const Location& source, uint32_t shift);
    void add_delta(const PageKey& key, Epoch epoch, const Identity& identity,
                   const DeltaSource& delta);

    struct Encoded {
        Bytes message;
        size_t record_bytes = 0;
        size_t literal_bytes = 0;  // on the wire: literal pages and deltas
        size_t raw_literal_bytes = 0;
        size_t raw_delta_bytes = 0;
        bool compressed = false;
    };
    // Encodes and clears. The batch must not be empty. The message stands behind `headroom_bytes`
    // of zeros.
    Encoded finish(uint64_t sequence, size_t headroom_bytes = 0);
    void discard();
    void set_zstd_level(int level);
    void set_compress(bool on);  // false: literals go raw

  private:
    struct Zstd;
    explicit BatchBuilder(std::unique_ptr<Zstd> zstd);
    BatchRun* extendable(BatchOp op, const PageKey& key, Epoch epoch);
    BatchRun& start_run(BatchOp op, const PageKey& key, Epoch epoch, const Location& source,
                        size_t index);
    // The run that the page joins or begins.
    BatchRun& sourced_run(BatchOp op, const PageKey& key, Epoch epoch, const Location& source,
                          uint32_t shift);
    ByteSpan frame(const Bytes& plain);

    BatchContent content_;
    size_t bytes_bound_ = 0;  // upper bound of the encoded records
    std::unique_ptr<Zstd> zstd_;
};

// Decodes bytes of the peer: never crashes, never allocates more than a batch may hold, checks
// everything before it returns. Owner: the ingest thread.
class BatchDecoder {
  public:
    static Result<BatchDecoder> create();
    BatchDecoder(BatchDecoder&&) noexcept;
    BatchDecoder& operator=(BatchDecoder&&) noexcept;
    ~BatchDecoder();

    // corrupt: names what is wrong; `out` is then unspecified. `out` is overwritten, its capacity
    // reused.
    Status decode(ByteSpan message, BatchContent& out);

  private:
    struct Zstd;
    explicit BatchDecoder(std::unique_ptr<Zstd> zstd);
    std::unique_ptr<Zstd> zstd_;
};

}  // namespace evac::dedup
