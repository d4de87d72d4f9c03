#pragma once
// A page as its difference to a base page. Two codings (grammar: batch.hpp):
//   patch  bytes replaced in place: a few hundred ns, and small enough for what a database changes
//   zstd   with the base as prefix, for bytes that moved: tried when the patch is not small
// Owners: the encoder the reducer thread, the decoder the ingest thread.
#include <memory>
#include <optional>
#include <span>

#include "evac/core/result.hpp"
#include "evac/dedup/batch.hpp"

namespace evac::dedup {

// Above, a page is cheaper as a literal: it shares its batch's frame (about 1.4 KiB at 3:1).
inline constexpr size_t kDeltaBytesMax = 1536;
// Up to here the patch is not worth improving (16 bytes of identity go with it anyway).
inline constexpr size_t kPatchGoodBytes = 320;

// Page i of a SHIFT: first[shift..4096) ++ second[0..shift).
void compose_shifted(PageSpan first, PageSpan second, uint32_t shift,
                     std::span<std::byte, kPageBytes> out);

// Writes the patch; nullopt when it would be larger than out.
std::optional<size_t> encode_patch(PageSpan base, PageSpan page, std::span<std::byte> out);
// False: not a patch of a page; `page` is then unspecified.
bool apply_patch(PageSpan base, ByteSpan patch, std::span<std::byte, kPageBytes> page);

class DeltaEncoder {
  public:
    static Result<DeltaEncoder> create();
    DeltaEncoder(DeltaEncoder&&) noexcept;
    DeltaEncoder& operator=(DeltaEncoder&&) noexcept;
    ~DeltaEncoder();

    struct Delta {
        DeltaKind kind{};
        ByteSpan payload;  // valid until the next encode
    };
    // nullopt: not smaller than `bytes_max` (at most kDeltaBytesMax).
    std::optional<Delta> encode(PageSpan base, PageSpan page, size_t bytes_max = kDeltaBytesMax);

  private:
    struct State;
    explicit DeltaEncoder(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

class DeltaDecoder {
  public:
    static Result<DeltaDecoder> create();
    DeltaDecoder(DeltaDecoder&&) noexcept;
    DeltaDecoder& operator=(DeltaDecoder&&) noexcept;
    ~DeltaDecoder();

    // From a peer: any bytes give a page or false; never more than a page is written.
    bool apply(DeltaKind kind, PageSpan base, ByteSpan payload,
               std::span<std::byte, kPageBytes> page);

  private:
    struct State;
    explicit DeltaDecoder(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace evac::dedup
