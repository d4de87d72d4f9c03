#include "evac/landing/stream.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "evac/core/unique_fd.hpp"
#include "evac/core/units.hpp"

namespace evac::landing {
namespace {

// Flags and section types of QEMU's stream (migration/ram.c, migration/savevm.c), big-endian
// throughout.
constexpr uint64_t kRamZero = 0x02;
constexpr uint64_t kRamPage = 0x08;
constexpr uint64_t kRamEos = 0x10;
constexpr uint64_t kRamContinue = 0x20;
constexpr uint8_t kSectionEnd = 0x03;
constexpr uint8_t kSectionFooter = 0x7e;
constexpr size_t kPieceBytes = 1024 * 1024;

bool is_zero(ByteSpan page) {
    return std::all_of(page.begin(), page.end(), [](std::byte b) { return b == std::byte{0}; });
}

// One block: every page is written, zero ones too, because the destination filled ROM and video
// memory beforehand.
Status write_block(const SmallBlock& block, Bytes& piece, const StreamSink& sink) {
    if (block.name.empty() || block.name.size() > 255) {
        return make_error(Errc::invalid_argument,
                          "RAM block name '" + block.name + "': 1 to 255 bytes are accepted");
    }
    const UniqueFd file(::open(block.file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return io_error("open staged block '" + block.file + "'");
    ByteWriter writer(piece);
    std::array<std::byte, kPageBytes> page;
    for (uint64_t offset = 0; offset < block.size_bytes; offset += kPageBytes) {
        page.fill(std::byte{0});
        const ssize_t n = ::pread(file.get(), page.data(), page.size(), static_cast<off_t>(offset));
        if (n < 0) return io_error("read staged block '" + block.file + "'");
        const bool zero = is_zero(page);
        const uint64_t flags = (zero ? kRamZero : kRamPage) | (offset == 0 ? 0 : kRamContinue);
        writer.be64(offset | flags);
        if (offset == 0) {
            writer.u8(static_cast<uint8_t>(block.name.size()));
            writer.put(block.name);
        }
        if (zero) {
            writer.u8(0);
        } else {
            writer.put(page);
        }
        if (piece.size() >= kPieceBytes - 2 * kPageBytes) {
            EVAC_TRY(sink(piece));
            piece.clear();
        }
    }
    return {};
}

}  // namespace

Status write_landing_stream(const LandingState& state, const std::vector<SmallBlock>& blocks,
                            const StreamSink& sink) {
    EVAC_TRY(sink(state.prefix));
    Bytes piece;
    piece.reserve(kPieceBytes);
    ByteWriter writer(piece);
    writer.u8(kSectionEnd);
    writer.be32(state.ram_section_id);
    for (const auto& block : blocks) EVAC_TRY(write_block(block, piece, sink));
    writer.be64(kRamEos);
    writer.u8(kSectionFooter);
    writer.be32(state.ram_section_id);
    EVAC_TRY(sink(piece));
    return sink(state.tail);
}

}  // namespace evac::landing
