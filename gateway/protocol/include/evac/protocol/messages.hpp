#pragma once
// What the two gateways say to each other, above the transport. All integers little-endian.
//
//   message  := kind:u8 body
//   text     := size:le32 bytes[size]                 (size limits below)
//
//   home                                   away        class
//    |-- HELLO ------------------------------|          control   both ways, first in every session
//    |-- ENROL {regions, facts, argv} ------>|          control
//    |<------ ENROL_RESULT {ok, epoch} ------|          control   away prepared files and tried the
//    landing command
//    |-- FINGERPRINTS_REQUEST {ranges} ----->|          control   after a session loss: of what was
//    in flight; all of it when the copy is another one
//    |<------ FINGERPRINTS (parts) ----------|          disk
//    |-- BATCH ... ------------------------->|          demand | disk | bulk
//    |<------ BATCH_ACK, NAK ----------------|          control
//    |-- SEAL {epoch, batches, state} ------>|          as the VM's last batch; complete when
//    `batches` arrived
//    |<------ SEAL_RESULT {epoch, ok} -------|          control
//    |<-----> HANDOVER {evacuation's own grammar}       control
//    |-- FORGET ---------------------------->|          control
//    |<-----> HEARTBEAT -------------------->|          control   authenticated liveness, every 500
//    ms; armed: start landings ahead
//    |<-----> ECHO ------------------------->|          control   answered at once; `evacctl link
//    test`
//    |-- BALLAST --------------------------->|          bulk      counted by the transport, then
//    thrown away; `evacctl link test`
//
// Version rule: kProtocolVersion is in HELLO; a peer of another version is refused by name, nothing
// else is said. Decoders are total: any bytes give a message or an Error (corrupt), with bounded
// memory.
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"

namespace evac::protocol {

// 2: ECHO, BALLAST; deltas, shifts. 3: copies have ids, fingerprints of ranges.
inline constexpr uint16_t kProtocolVersion = 3;
inline constexpr size_t kMessageBytesMax = 256 * 1024;
inline constexpr size_t kNameBytesMax = 255;
inline constexpr size_t kReasonBytesMax = 4096;
inline constexpr size_t kFactsBytesMax = 64 * 1024;
inline constexpr size_t kArgumentsMax = 512;
inline constexpr size_t kArgumentBytesMax = 16 * 1024;
inline constexpr size_t kFingerprintsMax = 8192;  // per message: at most 128 KiB + 1 KiB of bits
inline constexpr size_t kRangesMax = 8192;        // of one request: at most 112 KiB
inline constexpr size_t kNaksMax = 512;
inline constexpr size_t kAcksMax = 1024;
inline constexpr size_t kEchoFillerMax = 4096;
inline constexpr size_t kDeviceStateBytesMax =
    200 * 1024;  // compressed; about 20 KiB for a q35 guest

// 0x01  version:le16 site:text boot:le64 wall:le64
struct Hello {
    uint16_t version = kProtocolVersion;
    std::string site;
    uint64_t boot_id = 0;  // random per daemon process
    int64_t wall_unix_ms = 0;
};

struct RegionSpec {
    RegionKind kind{};
    uint64_t bytes = 0;
    std::string name;
};

// 0x02  vm:le32 name:text uuid:text nregions:le16 (kind:u8 bytes:le64 name:text)* facts:text
// nargs:le16 (arg:text)*
//       epoch:le32
struct Enrol {
    VmId vm{};
    std::string name;
    std::string uuid;  // of the enrolment: a re-added VM of the same name is another VM
    std::vector<RegionSpec> regions;
    std::string facts;              // prestage's VmFacts as JSON
    std::vector<std::string> argv;  // landing template
    Epoch last_epoch{};             // the newest that home used
};

// 0x03  vm:le32 ok:u8 reason:text sealed:le32 newest:le32 point:le64
struct EnrolResult {
    VmId vm{};
    bool ok = false;
    std::string reason;
    Epoch sealed{};             // newest complete recovery point, 0 = none
    Epoch newest{};             // newest epoch seen in any page
    int64_t point_unix_ms = 0;  // the instant of the recovery point `sealed`
};

struct FingerprintRange {
    RegionId region{};
    uint64_t first_page = 0;
    uint32_t pages = 0;  // at least 1
    bool operator==(const FingerprintRange&) const = default;
};

// 0x04  vm:le32 request:le32 after:le64 copy:le64 count:le16 (region:le16 first:le64 pages:le32)*
//       A copy with another id, or a range outside of it, is answered with all of the copy: what
//       home believes is about another one. No range: one part without a page.
struct FingerprintsRequest {
    VmId vm{};
    uint32_t request_id = 0;  // comes back in each part: those of an older request are not believed
    uint64_t after_batches =
        0;  // answered when so many batches of this session have come: home sends none meanwhile
    uint64_t copy_id = 0;  // that home knows; 0: none
    std::vector<FingerprintRange> ranges;
};

// 0x05  vm:le32 request:le32 copy:le64 region:le16 first:le64 count:le32 last:u8
// zero_bits:u8[(count+7)/8]
//       (low:le64 high:le64)*
//       one fingerprint per page whose bit is clear; last = 1 in the very last part of the VM
struct Fingerprints {
    VmId vm{};
    uint32_t request_id = 0;
    uint64_t copy_id = 0;  // of the copy that they are of
    RegionId region{};
    uint64_t first_page = 0;
    bool last = false;
    std::vector<bool> zero;
    std::vector<Fingerprint>
        values;  // of all pages; those of zero pages are unset on the wire and here
};

// 0x06  vm:le32 count:le16 sequence:le64*
struct BatchAck {
    VmId vm{};
    std::vector<uint64_t> sequences;
};

struct NakPage {
    RegionId region{};
    uint64_t page = 0;
    Epoch epoch{};
    bool operator==(const NakPage&) const = default;
};

// 0x07  vm:le32 sequence:le64 count:le16 (region:le16 page:le64 epoch:le32)*
struct Nak {
    VmId vm{};
    uint64_t sequence = 0;
    std::vector<NakPage> pages;
};

// 0x08  vm:le32 epoch:le32 batches:le64 handover:le64 wall:le64 state:text
struct Seal {
    VmId vm{};
    Epoch epoch{};
    uint64_t batches = 0;       // ever sent for this VM in this session
    uint64_t handover = 0;      // not 0: the final seal of this handover
    int64_t point_unix_ms = 0;  // the instant that the recovery point stands for
    Bytes device_state;         // see device_state.hpp
};

// 0x09  vm:le32 epoch:le32 ok:u8 reason:text apply:le64 ; about seals without a handover: those are
// answered by HANDOVER
struct SealResult {
    VmId vm{};
    Epoch epoch{};
    bool ok = false;
    std::string reason;
    uint64_t apply_ns = 0;
};

// 0x0a  bytes to the end
struct Handover {
    Bytes payload;
};

// 0x0b  vm:le32
struct Forget {
    VmId vm{};
};

// 0x0c  wall:le64 armed:u8
struct Heartbeat {
    int64_t wall_unix_ms = 0;
    bool armed = false;
};

// 0x0d  bytes to the end
struct Batch {
    Bytes payload;
};

// 0x0e  nonce:le64 reply:u8 filler to the end
struct Echo {
    uint64_t nonce = 0;
    bool reply = false;
    Bytes filler;  // at most kEchoFillerMax; comes back as it went
};

// 0x0f  bytes to the end
struct Ballast {
    Bytes filler;
};

using Message =
    std::variant<Hello, Enrol, EnrolResult, FingerprintsRequest, Fingerprints, BatchAck, Nak, Seal,
                 SealResult, Handover, Forget, Heartbeat, Batch, Echo, Ballast>;

Bytes encode(const Message& message);
// A batch is the bulk of all traffic: made without a copy. `message` is the payload behind
// kBatchHeadroomBytes that are free (asserted).
inline constexpr size_t kBatchHeadroomBytes = 1;
void encode_batch(Bytes& message);
Result<Message> decode(ByteSpan bytes);
const char* name_of(const Message& message);

}  // namespace evac::protocol
