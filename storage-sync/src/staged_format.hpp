#pragma once
// The files of a staged VM, all integers little-endian:
//
//   meta     := "EVACSVM1" u32 version(2) u32 body_size body u32 crc32c(all before)
//   body     := u32 vm  text name  text ram_dir  u16 n  n * (u8 kind  text name  u64 size_bytes)
//               u8 flags(1 = landed)  u32 restoring_to  u64 log_generation
//               u16 n  n * (u32 epoch  u64 batches  u64 wall_unix_ms  u64 state_size  u32
//               state_crc)  u64 copy_id (version 2 on; version 1 is read as 0)
//   text     := u32 size, bytes
//   log-G    := header(kind "EVACLOG1") record* [seal]     G = generation; nothing counts behind a
//   seal undo-E   := header(kind "EVACUND1") record* end        what E replaced; without its end it
//   is worth nothing header   := 8 bytes kind  u32 version(1)  u32 vm  u64 number(G or E)  u64
//   nonce  u32 crc32c(all before) record   := u32 crc  u8 type  u8 flags  u16 region  u32 epoch u64
//   a  u64 b  payload
//     page   := type 1, a = page, b = 0, payload 4096 bytes
//     zeros  := type 2, a = first page, b = count, no payload
//     seal   := type 3, a = batches, b = wall_unix_ms, flags 1 = undo-E was written, region 0,
//               payload = u32 size, device state
//     end    := type 4, a = number of records before it, no payload
//   crc      := crc32c(nonce, u64 offset of the record in the file, everything of the record behind
//   crc) state-E  := the device state of point E, checked by meta
//
// The nonce of undo-E follows from the nonce of its log and the offset of its seal record, so that
// an undo file of an attempt that failed is never taken for the one that belongs to the seal. The
// nonce and the offset in the crc: a torn page's bytes are a guest's; it must not be able to forge
// a record. A version other than these is refused.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/units.hpp"
#include "evac/storage_sync/files.hpp"
#include "evac/storage_sync/staged_vm.hpp"

namespace evac::storage_sync {

inline constexpr uint32_t kFormatVersion = 1;  // of logs
inline constexpr uint32_t kMetaVersion = 2;
inline constexpr uint64_t kMetaBytesMax = 256 * 1024;
inline constexpr uint64_t kLogHeaderBytes = 36;
inline constexpr uint64_t kRecordHeaderBytes = 28;
inline constexpr uint64_t kPageRecordBytes = kRecordHeaderBytes + kPageBytes;

struct MetaPoint {
    Epoch epoch{};
    uint64_t batches = 0;
    int64_t wall_unix_ms = 0;
    uint64_t state_bytes = 0;
    uint32_t state_crc = 0;

    bool operator==(const MetaPoint&) const = default;
};
struct Meta {
    StagedSpec spec;
    std::string ram_dir;
    bool landed = false;
    Epoch restoring_to{};  // 0 = not restoring
    uint64_t log_generation = 1;
    std::vector<MetaPoint> points;  // oldest first
    uint64_t copy_id = 0;           // 0: written before there were any
};
// invalid_argument names the field.
Status check_spec(const StagedSpec& spec);
Bytes encode_meta(const Meta& meta);
Result<Meta> decode_meta(ByteSpan bytes);  // corrupt

enum class LogKind : uint8_t { log, undo };
struct LogHeader {
    LogKind kind{};
    VmId vm{};
    uint64_t number = 0;
    uint64_t nonce = 0;
};
Bytes encode_log_header(const LogHeader& header);
Result<LogHeader> decode_log_header(ByteSpan bytes);  // exactly kLogHeaderBytes; corrupt

enum class RecordType : uint8_t { page = 1, zeros = 2, seal = 3, end = 4 };
struct LogRecord {
    RecordType type{};
    uint8_t flags = 0;
    RegionId region{};
    Epoch epoch{};
    uint64_t a = 0;
    uint64_t b = 0;
    ByteSpan payload{};       // page: 4096 bytes; seal: the device state
    uint64_t offset = 0;      // in the file; filled by the scan
    uint64_t size_bytes = 0;  // of the whole record; filled by the scan
};
// What stands before the payload in the file (for a seal with the payload's size).
Bytes encode_record_head(const LogRecord& record, uint64_t nonce);

// Reads records until the first that is torn, damaged or absent. Bounded: one record in memory.
class LogScan {
  public:
    LogScan(File& file, uint64_t nonce, uint64_t file_bytes)
        : file_(file), nonce_(nonce), file_bytes_(file_bytes) {}

    // nullopt = no further whole record. The payload is valid until the next call.
    Result<std::optional<LogRecord>> next();
    uint64_t offset() const { return offset_; }  // behind the last whole record

  private:
    Result<bool> fill(uint64_t offset, uint64_t size);

    File& file_;
    const uint64_t nonce_;
    const uint64_t file_bytes_;
    uint64_t offset_ = kLogHeaderBytes;
    Bytes window_;
    uint64_t window_offset_ = 0;
};

inline uint64_t page_count_of(uint64_t size_bytes) {
    return (size_bytes + kPageBytes - 1) / kPageBytes;
}

}  // namespace evac::storage_sync
