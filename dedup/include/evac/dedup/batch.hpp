#pragma once
// The batch: one message of reduced pages of one VM, home -> away.
//
//   batch    := header records literals
//   header   := version:u8 = 1   flags:u8 (bit 0: literals are one zstd frame; other bits 0)
//               literal_pages:le16 <= 16   vm:le32   sequence:le64 >= 1 (per VM, counted by home)
//               record_bytes:le32   literal_bytes:le32                               (24 bytes)
//   records  := record+                                          (exactly record_bytes bytes)
//   record   := 0x00 epoch:varint region:varint      GROUP: epoch (>= 1) and region (< 64) of the
//                                                    runs that follow; the first record is one
//             | 0x01 start:zigzag count:varint       ZERO run
//             | 0x02 start:zigzag count:varint       LITERAL run: the next `count` literal pages
//             | 0x03 start:zigzag count:varint source identity{count}
//                                                    REF run: page i has the content of source i
//   source   := vm:varint region:varint start:zigzag   `count` consecutive pages of away's copy
//   identity := 16 bytes
//   literals := 4096 * literal_pages raw bytes, or one zstd frame of exactly those
//
//   varint is LEB128 of at most 10 bytes. A zigzag start is relative to the page after the previous
//   run (0 after a GROUP); a source's start is relative to the page after the previous source run
//   of the batch (0 at first). A run is pages [start, start + count), count >= 1, within [0, 2^40).
//   Records are applied in order: a REF may name a page that an earlier record brought.
//
// Limits (checked on both sides): message <= kBatchBytesMax, 16 literal pages, 512 REF pages.
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

inline constexpr uint8_t kBatchVersion = 1;
inline constexpr size_t kBatchHeaderBytes = 24;
inline constexpr size_t kBatchBytesMax = 128 * 1024;
inline constexpr size_t kBatchLiteralPagesMax =
    16;  // 64 KiB: beyond, zstd gains little (facts: 10 %)
inline constexpr size_t kBatchReferencesMax =
    512;  // bounds away's work and home's retention per batch
inline constexpr size_t kBatchRecordBytesMax = 60 * 1024;
// A zero run may be long (a fresh disk); 2^28 pages are 1 TiB.
inline constexpr uint64_t kBatchZeroRunMax = uint64_t{1} << 28;

enum class BatchOp : uint8_t { zero = 1, literal = 2, reference = 3 };

struct BatchRun {
    BatchOp op{};
    Epoch epoch{};
    PageKey first;       // vm is the batch's
    uint64_t count = 0;  // pages
    Location source;     // reference: where page 0 of the run has its content from
    size_t index = 0;    // literal: first page in literals; reference: first in identities
};

// A decoded batch, or one being built. Reused: clear() keeps capacity.
struct BatchContent {
    VmId vm{};
    uint64_t sequence = 0;
    std::vector<BatchRun> runs;
    std::vector<Identity> identities;
    Bytes literals;  // 4096 bytes per literal page

    void clear();
    PageSpan literal(size_t index) const;
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

    // `key.vm` is the batch's VM (asserted: one VM per batch). Runs are joined when consecutive.
    void add_zero(const PageKey& key, Epoch epoch);
    void add_literal(const PageKey& key, Epoch epoch, PageSpan page);
    void add_reference(const PageKey& key, Epoch epoch, const Identity& identity,
                       const Location& source);

    struct Encoded {
        Bytes message;
        size_t record_bytes = 0;
        size_t literal_bytes = 0;  // on the wire
    };
    // Encodes and clears. The batch must not be empty.
    Encoded finish(uint64_t sequence);
    void discard();
    void set_zstd_level(int level);

  private:
    struct Zstd;
    explicit BatchBuilder(std::unique_ptr<Zstd> zstd);
    BatchRun* extendable(BatchOp op, const PageKey& key, Epoch epoch);
    void start_run(BatchOp op, const PageKey& key, Epoch epoch, const Location& source,
                   size_t index);

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
