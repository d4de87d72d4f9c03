#pragma once
// Datagrams and frames: the codec only, no state. All integers little-endian except varints
// (QUIC's, RFC 9000 section 16: the two top bits of the first byte give the length 1, 2, 4 or 8;
// big-endian).
//
// clang-format off
//   handshake = 0x01 version(1)=0x01 attempt(8) dtls-records
//   data      = 0x02 phase(1) tag(4) number(8) sealed-frames gcm-tag(16)    the first 14 bytes: AAD
//   hint      = 0x03 version(1)=0x01 tag(4) number(8)    "I have no such session": unauthenticated
//
//   PADDING   = 0x00
//   PING      = 0x01
//   ACK       = 0x02 largest(v) delay_us(v) extra(v) first(v) {gap(v) length(v)}*extra {bytes(v) messages(v)}*4
//               first = packets acknowledged below `largest`, contiguous; gap = missing packets - 1;
//               length = acknowledged packets - 1; then per class the credit: cumulative bytes and messages
//   MESSAGE   = 0x10+class message(v) total(v) offset(v) length(v) bytes
//   skippable = type(1) >= 0x40, length(v), bytes        ignored when unknown: room for extensions
//   PARITY    = 0x40 length(v) block(v) k(1) m(1) row(1) back(v) {gap(v)}*(k-1) shard
//               one of m parities (fec_code.hpp) over the payloads of k packets of the same direction: the
//               first is `back` below the packet that carries the frame, then gap = packets left out;
//               k 1..16, m 1..8, row < m
//   RECOVERED = 0x41 length(v) total(v) number(v)*       packets rebuilt from parity: their MESSAGE frames were
//               taken. They are not in ACK, so that loss is still seen as such. total: ever rebuilt in the
//               session; at most 16 numbers
//   PATH_CHALLENGE = 0x50 0x08 value(8)    "are you at the address that I send this to?"
//   PATH_RESPONSE  = 0x51 0x08 value(8)    to where the challenge came from, with its value
//   PATH_MOVED     = 0x52 0x08 value(8)    "I see you elsewhere now": 2 x count + (1: not only the port)
// clang-format on
#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "evac/core/bytes.hpp"
#include "evac/wan/types.hpp"
#include "fec_code.hpp"

namespace evac::wan {

inline constexpr uint8_t kTypeHandshake = 0x01;
inline constexpr uint8_t kTypeData = 0x02;
inline constexpr uint8_t kTypeHint = 0x03;
inline constexpr uint8_t kVersion = 0x01;

inline constexpr size_t kHandshakeHeaderBytes = 10;
inline constexpr size_t kDataHeaderBytes = 14;
inline constexpr size_t kHintBytes = 14;
inline constexpr size_t kTagBytes = 16;

inline constexpr uint8_t kFramePadding = 0x00;
inline constexpr uint8_t kFramePing = 0x01;
inline constexpr uint8_t kFrameAck = 0x02;
inline constexpr uint8_t kFrameMessage = 0x10;    // + class
inline constexpr uint8_t kFrameSkippable = 0x40;  // and above
inline constexpr uint8_t kFrameParity = 0x40;
inline constexpr uint8_t kFrameRecovered = 0x41;

inline constexpr uint8_t kFramePathChallenge = 0x50;  // 0x50..0x5f: the path
inline constexpr uint8_t kFramePathResponse = 0x51;
inline constexpr uint8_t kFramePathMoved = 0x52;
inline constexpr size_t kPathFrameBytes = 10;
inline constexpr size_t kPathDatagramBytes = kDataHeaderBytes + kPathFrameBytes + kTagBytes;

inline constexpr size_t kAckRangesMax = 32;
inline constexpr size_t kFragmentsPerPacketMax = 16;
// Largest MESSAGE frame header: type 1, message 8, total 4, offset 4, length 2.
inline constexpr size_t kMessageHeaderBytesMax = 19;
// What a covered payload leaves free so that parity over it fits a packet: PARITY with k = 16 and
// gaps below 64 (type 1, length 2, block 4, k m row 3, back 4, gaps 15), the shard's length, a
// PING.
inline constexpr size_t kFecReserveBytes = 1 + 2 + 4 + 3 + 4 + 15 + kFecLengthBytes + 1;
inline constexpr size_t kRecoveredNumbersMax = 16;
inline constexpr uint64_t kParitySpanMax = 1u << 20;  // packet numbers from first member to carrier
inline constexpr uint64_t kVarintMax = (1ull << 62) - 1;

struct DataHeader {
    uint8_t phase = 0;
    uint32_t session_tag = 0;
    uint64_t number = 0;
};

struct AckRange {  // inclusive
    uint64_t first = 0;
    uint64_t last = 0;
};

struct Credit {  // cumulative over the session
    uint64_t bytes = 0;
    uint64_t messages = 0;
};

struct AckFrame {
    uint64_t delay_us = 0;
    size_t range_count = 0;
    std::array<AckRange, kAckRangesMax> ranges{};  // descending, disjoint, not adjacent
    std::array<Credit, kClasses> credit{};
};

struct Fragment {
    Class c = Class::control;
    uint64_t message = 0;
    uint32_t total = 0;
    uint32_t offset = 0;
    ByteSpan bytes;
};

struct ParityFrame {
    uint64_t block = 0;
    uint64_t carrier = 0;  // number of the packet that carries it; not on the wire
    uint64_t back = 0;     // carrier - numbers[0]; set by parsing
    uint8_t row = 0;
    uint8_t rows = 0;  // m
    size_t members = 0;
    std::array<uint64_t, kFecMembersMax> numbers{};  // ascending; when parsed, from numbers[0] = 0
    ByteSpan shard;
};

struct RecoveredFrame {
    uint64_t total = 0;
    size_t count = 0;
    std::array<uint64_t, kRecoveredNumbersMax> numbers{};
};

// Everything in one packet. Views into the payload.
struct Frames {
    bool elicits_ack = false;
    bool has_ack = false;
    AckFrame ack;
    std::optional<uint64_t> path_challenge;  // the last of each, should there be several
    std::optional<uint64_t> path_response;
    std::optional<uint64_t> path_moved;
    size_t fragment_count = 0;
    std::array<Fragment, kFragmentsPerPacketMax> fragments{};
    bool has_parity = false;
    ParityFrame parity;
    bool has_recovered = false;
    RecoveredFrame recovered;
};

// Appends to a fixed buffer; what does not fit makes ok() false and writes nothing more.
class PacketWriter {
  public:
    explicit PacketWriter(std::span<std::byte> out) : out_(out) {}
    bool ok() const { return ok_; }
    size_t size() const { return size_; }
    size_t room() const { return out_.size() - size_; }
    void u8(uint8_t v);
    void le32(uint32_t v);
    void le64(uint64_t v);
    void varint(uint64_t v);
    void put(ByteSpan bytes);

  private:
    std::byte* claim(size_t size);
    std::span<std::byte> out_;
    size_t size_ = 0;
    bool ok_ = true;
};

size_t varint_bytes(uint64_t v);
uint64_t read_varint(ByteReader& reader);

void write_data_header(PacketWriter& out, const DataHeader& header);
// False when `datagram` is too short to hold a header, a frame and a tag.
bool read_data_header(ByteSpan datagram, DataHeader& header);

void write_ack(PacketWriter& out, const AckFrame& ack);
void write_path_frame(PacketWriter& out, uint8_t type, uint64_t value);
void write_fragment(PacketWriter& out, const Fragment& fragment);
size_t fragment_header_bytes(const Fragment& fragment, size_t length);

void write_parity(PacketWriter& out, const ParityFrame& parity);
size_t parity_frame_bytes(const ParityFrame& parity, uint64_t carrier);
void write_recovered(PacketWriter& out, const RecoveredFrame& recovered);
size_t recovered_frame_bytes(const RecoveredFrame& recovered);

// Parses a decrypted payload. False: breaks the grammar (nothing of it may be used).
bool parse_frames(ByteSpan payload, Frames& frames);
// Turns a parsed frame's numbers into packet numbers, given the packet that carried it. False: it
// covers what cannot be.
bool place_parity(ParityFrame& parity, uint64_t carrier);

}  // namespace evac::wan
