#pragma once
// Incremental parser of QEMU's migration stream, as far as capture needs it (QEMU 7.2, RAM version
// 4):
//
//   stream  := magic(u32 'QEVM') u32 3 config ram-start (ram-part)* [ram-end] tail <end of stream>
//   config  := 07 u32 n, machine[n], { 05 u8 n, name[n], u32 version, body }*
//   section := (01|04) u32 id, u8 n, idstr[n], u32 instance, u32 version, body, 7e u32 id
//            | (02|03) u32 id, body, 7e u32 id
//   tail    := (section of type 04)+ 00 06 u32 n, json[n]
//
// With background-snapshot there is no ram-end. Everything from the first section of type 04 on is
// kept opaque (it has no length prefixes); at the end of the stream the JSON is cut off. A stream
// without a complete tail is no checkpoint.
//
// Owner: one thread (the capture worker). Pages are handed out without a copy unless they straddle
// two chunks. Every byte may be hostile: errors are Errc::corrupt (not the format) or Errc::refused
// (a feature we do not take).
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/core/units.hpp"

namespace evac::prestage {

inline constexpr size_t kTailBytesMax = 64 * kMiB;
inline constexpr size_t kMachineNameBytesMax = 127;

struct RamBlock {
    std::string name;
    uint64_t size_bytes = 0;

    bool operator==(const RamBlock&) const = default;
};

// All of a checkpoint that is not RAM pages. A landing sends: prefix, then 03 <ram_section_id>
// pages EOS 7e <ram_section_id>, then tail, and shuts its write side down.
struct DeviceState {
    std::string machine;           // alias resolved: "pc-q35-7.2"
    std::vector<RamBlock> blocks;  // in the stream's order
    uint32_t ram_section_id = 0;
    // magic .. footer of the RAM START section, as a stream without capabilities has it: what
    // x-ignore-shared adds (its name, an address a block) is left out, so that a landing need not
    // set it
    Bytes prefix;
    Bytes tail;  // first FULL section .. 00 (EOF) inclusive; the JSON description is cut off
    bool shared_left_out = false;  // x-ignore-shared: pages of shared blocks are not in the stream

    bool operator==(const DeviceState&) const = default;
};

class StreamSink {
  public:
    virtual ~StreamSink() = default;
    // Once, before any page. An error ends the parse with that error.
    virtual Status ram_blocks(std::span<const RamBlock> blocks) = 0;
    // `block` indexes the list above; page < ceil(size / kPageBytes). `bytes` has kPageBytes, valid
    // during the call.
    virtual void page(uint16_t block, uint64_t page, ByteSpan bytes) = 0;
    virtual void zero_page(uint16_t block, uint64_t page,
                           uint8_t fill) = 0;  // kPageBytes times `fill`
};

class StreamParser {
  public:
    // `sink` must outlive the parser.
    explicit StreamParser(StreamSink& sink, size_t tail_bytes_max = kTailBytesMax);

    // Feeds bytes in chunks of any size. After an error every further call returns the same error.
    Status push(ByteSpan chunk);
    // The stream has ended: the checkpoint's device state, or why the stream was no complete
    // checkpoint. Once.
    Result<DeviceState> finish();

    uint64_t stream_bytes() const { return stream_bytes_; }  // pushed so far
    bool ram_setup_seen() const { return ram_setup_seen_; }  // ram_blocks() was called
    bool pages_seen() const { return pages_seen_; }          // at least one page came
    bool tail_begun() const { return state_ == State::tail; }

  private:
    enum class State : uint8_t {
        magic,
        config,
        section,
        ram_setup,
        ram_blocks,
        ram_body,
        footer,
        tail,
        failed
    };

    // One element at the front of `in`: bytes used, 0 when more bytes are needed, or why it is not
    // acceptable.
    Result<size_t> step(ByteSpan in);
    Result<size_t> parse_magic(ByteSpan in);
    Result<size_t> parse_config(ByteSpan in);
    Result<size_t> parse_section(ByteSpan in);
    Result<size_t> parse_subsection(ByteSpan in);
    Result<size_t> parse_ram_start(ByteSpan in);
    Result<size_t> parse_ram_setup(ByteSpan in);
    Result<size_t> parse_ram_block(ByteSpan in);
    Result<size_t> parse_ram_entry(ByteSpan in);
    Result<size_t> parse_footer(ByteSpan in);
    Result<size_t> consume(ByteSpan in);  // as many elements as are complete
    Status append_tail(ByteSpan bytes);
    Status deliver(uint64_t address, ByteSpan content, bool is_zero);
    Status select_block(std::string_view name);
    Error corrupt(std::string what) const;
    Error refused(std::string what) const;

    StreamSink& sink_;
    const size_t tail_bytes_max_;
    State state_ = State::magic;
    Error error_;
    uint64_t stream_bytes_ = 0;  // pushed
    uint64_t parsed_bytes_ = 0;  // consumed; the offset in messages
    Bytes carry_;  // front of an element that straddles chunks; below kElementBytesMax
    DeviceState out_;
    size_t left_out_ = 0;  // bytes at the end of the current element that the prefix does not keep
    uint64_t setup_left_bytes_ = 0;  // of MEM_SIZE's total, not yet named by blocks
    uint16_t block_ = 0;
    bool block_known_ = false;
    bool ram_setup_seen_ = false;
    bool prefix_complete_ = false;  // the START section's footer was consumed
    bool ram_ended_ = false;
    bool ram_end_section_ = false;  // the current section is END
    bool pages_seen_ = false;
};

}  // namespace evac::prestage
