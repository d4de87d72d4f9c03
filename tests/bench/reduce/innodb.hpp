#pragma once
// Which pages of a memory dump are quarters of InnoDB frames (16 KiB).
//
//   frame := 0 (no key):be32  number:be32  prev:be32  next:be32  lsn:be64  type:be16 flush_lsn:be64
//            space:be32 ... lsn_low:be32 checksum:be32                        (full_crc32 format)
//
// A frame lies in four neighbouring pages, at any page boundary. It is recognised by a header whose
// fields are in their ranges, and by its end: the directory slot of an index page's first record
// (always 99), or of other types the low half of the header's LSN. So also dirty frames are found:
// their LSN and checksum at the end are of the last flush.
#include <cstdint>
#include <vector>

#include "dump.hpp"

namespace evac::reduce {

inline constexpr uint64_t kInnodbFramePages = 4;

// `frame`: 16 KiB.
bool is_innodb_frame(const std::byte* frame);
// One flag per page.
std::vector<bool> innodb_pages(const Dump& memory);

}  // namespace evac::reduce
