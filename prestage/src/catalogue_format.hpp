#pragma once
// The file of a catalogue, mapped whole. All integers little-endian.
//
// clang-format off
//   file    := header state data
//   header  := "EVACCAT1" version:le32(1) boot:text zero_low:le64 zero_high:le64 vm:le32 uuid:text
//              n:le16 n * (kind:u8 bytes:le64 name:text) xxh64(all before):le64     written once
//   text    := size:le32 bytes
//   state   := at kStateOffset: word:le64 * kStateWords, each changed by one store
//   data    := at kDataOffset, per region, each part from a multiple of 64 on:
//              fingerprints (low:le64 high:le64)*, heat u8*, open bits le64*, sealing bits le64*
// clang-format on
//
// `boot` is the kernel's boot id: what a killed process left in the mapping is all there, what a
// crash of the host left is not, so a file of another boot is worth nothing. `zero` is the
// fingerprint of a page of zeros: another seed shows there.
#include <array>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/prestage/captured_page.hpp"

namespace evac::prestage {

inline constexpr size_t kStateOffset = 28 * 1024;
inline constexpr size_t kDataOffset = 32 * 1024;
inline constexpr size_t kCatalogueTextMax = 255;

enum class StateWord : uint8_t { formed, copy_id, sealed, sealing, ended };
inline constexpr size_t kStateWords = 5;
inline constexpr uint64_t kFormed = 0x6465'6d72'6f66'6163;  // the file was formed to its end

struct CatalogueHeader {
    std::string boot_id;
    Fingerprint zero{};
    VmId vm{};
    std::string uuid;
    std::vector<RegionInfo> regions;

    bool operator==(const CatalogueHeader&) const = default;
};
// invalid_argument: a text is longer than kCatalogueTextMax, too many regions.
Result<Bytes> encode_catalogue_header(const CatalogueHeader& header);
// Total: any bytes give a header or `corrupt`. What stands behind the checksum is not looked at.
Result<CatalogueHeader> decode_catalogue_header(ByteSpan bytes);
void append_checksum(Bytes& header);  // over what is there
// The words behind `formed`, as a process left them: plausible?
bool plausible_state(const std::array<uint64_t, kStateWords>& words);

// Where the parts of a region lie in the file.
struct CataloguePart {
    uint64_t pages = 0, fingerprints = 0, heat = 0, open = 0, sealing = 0;
};
struct CatalogueLayout {
    std::vector<CataloguePart> regions;
    uint64_t bytes = 0;
};
CatalogueLayout catalogue_layout(const std::vector<RegionInfo>& regions);

}  // namespace evac::prestage
