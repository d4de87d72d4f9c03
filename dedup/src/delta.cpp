#include "delta.hpp"

#include <zstd.h>

#include <array>
#include <cstring>

#include "evac/core/assert.hpp"

namespace evac::dedup {

namespace {

constexpr size_t kMagicBytes = 4;
constexpr size_t kBlock = 64;  // equal stretches are skipped by so much at once
// Two numbers of one byte each begin a replacement: fewer equal bytes than this are not worth it.
constexpr size_t kGapMin = 4;
constexpr int kZstdDeltaLevel = 1;

size_t first_difference(const std::byte* a, const std::byte* b, size_t from) {
    while (from + kBlock <= kPageBytes && std::memcmp(a + from, b + from, kBlock) == 0) {
        from += kBlock;
    }
    while (from < kPageBytes && a[from] == b[from]) ++from;
    return from;
}

// The end of the replaced stretch that begins at `from`: where kGapMin equal bytes begin.
size_t end_of_difference(const std::byte* a, const std::byte* b, size_t from) {
    size_t equal = 0;
    size_t at = from;
    for (; at < kPageBytes && equal < kGapMin; ++at) equal = a[at] == b[at] ? equal + 1 : 0;
    return at - equal;
}

size_t varint_bytes(size_t value) {
    return value < 0x80 ? 1 : 2;  // at most 4096
}

std::byte* put_varint(std::byte* to, size_t value) {
    if (value >= 0x80) {
        *to++ = static_cast<std::byte>(value | 0x80);
        value >>= 7;
    }
    *to++ = static_cast<std::byte>(value);
    return to;
}

// At most two bytes: numbers up to 16383.
bool take_small(ByteSpan& from, size_t& value) {
    if (from.empty()) return false;
    value = std::to_integer<size_t>(from[0]);
    if (value < 0x80) {
        from = from.subspan(1);
        return true;
    }
    if (from.size() < 2 || std::to_integer<size_t>(from[1]) >= 0x80) return false;
    value = (value & 0x7f) | (std::to_integer<size_t>(from[1]) << 7);
    from = from.subspan(2);
    return true;
}

}  // namespace

void compose_shifted(PageSpan first, PageSpan second, uint32_t shift,
                     std::span<std::byte, kPageBytes> out) {
    EVAC_ASSERT(shift < kPageBytes);
    std::memcpy(out.data(), first.data() + shift, kPageBytes - shift);
    std::memcpy(out.data() + kPageBytes - shift, second.data(), shift);
}

std::optional<size_t> encode_patch(PageSpan base, PageSpan page, std::span<std::byte> out) {
    std::byte* to = out.data();
    std::byte* const end = to + out.size();
    size_t done = 0;
    for (;;) {
        const size_t from = first_difference(base.data(), page.data(), done);
        if (from == kPageBytes) return static_cast<size_t>(to - out.data());
        const size_t until = end_of_difference(base.data(), page.data(), from);
        const size_t length = until - from;
        const size_t needed = varint_bytes(from - done) + varint_bytes(length) + length;
        if (static_cast<size_t>(end - to) < needed) return std::nullopt;
        to = put_varint(to, from - done);
        to = put_varint(to, length);
        std::memcpy(to, page.data() + from, length);
        to += length;
        done = until;
    }
}

bool apply_patch(PageSpan base, ByteSpan patch, std::span<std::byte, kPageBytes> page) {
    std::memcpy(page.data(), base.data(), kPageBytes);
    size_t at = 0;
    while (!patch.empty()) {
        size_t skip = 0;
        size_t length = 0;
        if (!take_small(patch, skip) || !take_small(patch, length)) return false;
        if (length == 0 || length > patch.size()) return false;
        if (skip > kPageBytes - at || length > kPageBytes - at - skip) return false;
        at += skip;
        std::memcpy(page.data() + at, patch.data(), length);
        at += length;
        patch = patch.subspan(length);
    }
    return true;
}

struct DeltaEncoder::State {
    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() { ZSTD_freeCCtx(context); }
    ZSTD_CCtx* context = ZSTD_createCCtx();
    std::array<std::byte, kDeltaBytesMax> patch{};
    std::array<std::byte, kDeltaBytesMax + kMagicBytes> frame{};
};

DeltaEncoder::DeltaEncoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
DeltaEncoder::DeltaEncoder(DeltaEncoder&&) noexcept = default;
DeltaEncoder& DeltaEncoder::operator=(DeltaEncoder&&) noexcept = default;
DeltaEncoder::~DeltaEncoder() = default;

Result<DeltaEncoder> DeltaEncoder::create() {
    auto state = std::make_unique<State>();
    const bool ok =
        state->context != nullptr &&
        ZSTD_isError(ZSTD_CCtx_setParameter(state->context, ZSTD_c_compressionLevel,
                                            kZstdDeltaLevel)) == 0 &&
        ZSTD_isError(ZSTD_CCtx_setParameter(state->context, ZSTD_c_contentSizeFlag, 0)) == 0 &&
        ZSTD_isError(ZSTD_CCtx_setParameter(state->context, ZSTD_c_checksumFlag, 0)) == 0;
    if (!ok) return make_error(Errc::internal, "zstd: no compression context for deltas");
    return DeltaEncoder(std::move(state));
}

std::optional<DeltaEncoder::Delta> DeltaEncoder::encode(PageSpan base, PageSpan page,
                                                        size_t bytes_max) {
    EVAC_ASSERT(bytes_max <= kDeltaBytesMax);
    State& s = *state_;
    std::optional<Delta> best;
    if (const auto size = encode_patch(base, page, std::span(s.patch).first(bytes_max))) {
        best = Delta{DeltaKind::patch, ByteSpan(s.patch).first(*size)};
        if (*size <= kPatchGoodBytes) return best;
        bytes_max = *size;
    }
    // The patch is compressed again with its batch, this is not: it must be clearly smaller.
    if (best) bytes_max = bytes_max * 3 / 4;
    // A frame that did not fit leaves the context in its middle.
    ZSTD_CCtx_reset(s.context, ZSTD_reset_session_only);
    if (ZSTD_isError(ZSTD_CCtx_refPrefix(s.context, base.data(), base.size())) != 0) return best;
    const size_t size = ZSTD_compress2(s.context, s.frame.data(), bytes_max + kMagicBytes,
                                       page.data(), page.size());
    if (ZSTD_isError(size) != 0 || size <= kMagicBytes) return best;
    return Delta{DeltaKind::zstd, ByteSpan(s.frame).subspan(kMagicBytes, size - kMagicBytes)};
}

struct DeltaDecoder::State {
    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() { ZSTD_freeDCtx(context); }
    ZSTD_DCtx* context = ZSTD_createDCtx();
    std::array<std::byte, kPageBytes + kMagicBytes> frame{};
};

DeltaDecoder::DeltaDecoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
DeltaDecoder::DeltaDecoder(DeltaDecoder&&) noexcept = default;
DeltaDecoder& DeltaDecoder::operator=(DeltaDecoder&&) noexcept = default;
DeltaDecoder::~DeltaDecoder() = default;

Result<DeltaDecoder> DeltaDecoder::create() {
    auto state = std::make_unique<State>();
    if (state->context == nullptr) {
        return make_error(Errc::internal, "zstd: no decompression context for deltas");
    }
    const uint32_t magic = ZSTD_MAGICNUMBER;
    for (size_t i = 0; i < kMagicBytes; ++i) {
        state->frame[i] = static_cast<std::byte>(magic >> (8 * i));
    }
    return DeltaDecoder(std::move(state));
}

bool DeltaDecoder::apply(DeltaKind kind, PageSpan base, ByteSpan payload,
                         std::span<std::byte, kPageBytes> page) {
    if (kind == DeltaKind::patch) return apply_patch(base, payload, page);
    State& s = *state_;
    if (payload.empty() || payload.size() > kPageBytes) return false;
    std::memcpy(s.frame.data() + kMagicBytes, payload.data(), payload.size());
    const size_t size = payload.size() + kMagicBytes;
    // One frame only: the library would go on with a second one.
    if (ZSTD_findFrameCompressedSize(s.frame.data(), size) != size) return false;
    ZSTD_DCtx_reset(s.context, ZSTD_reset_session_only);
    if (ZSTD_isError(ZSTD_DCtx_refPrefix(s.context, base.data(), base.size())) != 0) return false;
    const size_t done =
        ZSTD_decompressDCtx(s.context, page.data(), page.size(), s.frame.data(), size);
    return done == kPageBytes;
}

}  // namespace evac::dedup
