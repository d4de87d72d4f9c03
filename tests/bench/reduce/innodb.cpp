#include "innodb.hpp"

#include <algorithm>
#include <array>

namespace evac::reduce {

namespace {

constexpr size_t kFrameBytes = kInnodbFramePages * kPageBytes;
constexpr uint64_t kIndex = 17855;
// Undo, inode, system, transactions, file header; freed frames and others change seldom.
constexpr std::array<uint64_t, 5> kOtherTypes{2, 3, 6, 7, 8};
constexpr uint64_t kFramesMax = uint64_t{1} << 24;  // of a table: 256 GiB
constexpr uint64_t kNone = 0xffffffff;              // no neighbour
constexpr uint64_t kLsnMax = uint64_t{1} << 48;
constexpr uint64_t kSpacesMax = 1 << 16;
constexpr uint64_t kUndoSpaces = 0xffffff00;  // temporary and undo spaces are numbered from the top
constexpr uint64_t kFirstSlot = 99;           // offset of an index page's lowest record

uint64_t big_endian(const std::byte* at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | std::to_integer<uint64_t>(at[i]);
    return value;
}

bool is_number(uint64_t value) {
    return value < kFramesMax;
}

}  // namespace

bool is_innodb_frame(const std::byte* frame) {
    const uint64_t lsn = big_endian(frame + 16, 8);
    const uint64_t type = big_endian(frame + 24, 2);
    const uint64_t space = big_endian(frame + 34, 4);
    const bool header = big_endian(frame, 4) == 0 && is_number(big_endian(frame + 4, 4)) &&
                        lsn != 0 && lsn < kLsnMax && (space < kSpacesMax || space >= kUndoSpaces);
    if (!header) return false;
    if (type == kIndex) {
        const uint64_t previous = big_endian(frame + 8, 4);
        const uint64_t next = big_endian(frame + 12, 4);
        return (is_number(previous) || previous == kNone) && (is_number(next) || next == kNone) &&
               big_endian(frame + kFrameBytes - 10, 2) == kFirstSlot;
    }
    return std::find(kOtherTypes.begin(), kOtherTypes.end(), type) != kOtherTypes.end() &&
           big_endian(frame + kFrameBytes - 8, 4) == (lsn & kNone);
}

std::vector<bool> innodb_pages(const Dump& memory) {
    std::vector<bool> out(memory.pages());
    for (uint64_t page = 0; page + kInnodbFramePages <= memory.pages(); ++page) {
        if (!is_innodb_frame(memory.page(page).data())) continue;
        for (uint64_t i = 0; i < kInnodbFramePages; ++i) out[page + i] = true;
    }
    return out;
}

}  // namespace evac::reduce
