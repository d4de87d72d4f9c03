#pragma once
// The migration stream that a landing QEMU is fed: recorded header and RAM START, one RAM END with
// the blocks that are not mapped in place, recorded device state. The main RAM's pages are not in
// it: QEMU maps the staged file.
#include <functional>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/result.hpp"

namespace evac::landing {

struct SmallBlock {
    std::string name;  // as in the stream: "0000:00:01.0/vga.vram"
    std::string file;  // staged content
    uint64_t size_bytes = 0;
};

struct LandingState {
    Bytes prefix;  // file magic .. RAM START section with its footer
    uint32_t ram_section_id = 0;
    Bytes tail;  // FULL sections up to and including EOF
};

using StreamSink = std::function<Status(ByteSpan)>;

// Writes the whole stream to `sink` in pieces of at most 1 MiB. Errors: the sink's, or io when a
// block can't be read.
Status write_landing_stream(const LandingState& state, const std::vector<SmallBlock>& blocks,
                            const StreamSink& sink);

}  // namespace evac::landing
