#include "catalogue_format.hpp"

#include <xxhash.h>

#include <algorithm>

#include "evac/core/assert.hpp"
#include "evac/core/units.hpp"

namespace evac::prestage {
namespace {

constexpr std::string_view kMagic = "EVACCAT1";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kPartAlign = 64;

Error corrupt(const std::string& what) {
    return make_error(Errc::corrupt, "catalogue file: " + what);
}

uint64_t checksum(ByteSpan bytes) {
    return XXH64(bytes.data(), bytes.size(), 0);
}

}  // namespace

void append_checksum(Bytes& header) {
    const uint64_t sum = checksum(header);
    ByteWriter(header).le64(sum);
}

Result<Bytes> encode_catalogue_header(const CatalogueHeader& header) {
    const bool short_names =
        std::all_of(header.regions.begin(), header.regions.end(),
                    [](const RegionInfo& r) { return r.name.size() <= kCatalogueTextMax; });
    if (!short_names || header.boot_id.size() > kCatalogueTextMax ||
        header.uuid.size() > kCatalogueTextMax || header.regions.size() > kRegionsMax) {
        return make_error(Errc::invalid_argument,
                          "catalogue file: texts of at most " + std::to_string(kCatalogueTextMax) +
                              " bytes and at most " + std::to_string(kRegionsMax) +
                              " regions are accepted");
    }
    Bytes out;
    ByteWriter w(out);
    w.put(kMagic);
    w.le32(kVersion);
    w.put_sized(header.boot_id);
    w.le64(header.zero.low);
    w.le64(header.zero.high);
    w.le32(raw(header.vm));
    w.put_sized(header.uuid);
    w.le16(static_cast<uint16_t>(header.regions.size()));
    for (const RegionInfo& region : header.regions) {
        w.u8(static_cast<uint8_t>(region.kind));
        w.le64(region.size_bytes);
        w.put_sized(region.name);
    }
    append_checksum(out);
    EVAC_ASSERT(out.size() <= kStateOffset);  // 64 * 268 bytes and 800 of other things
    return out;
}

Result<CatalogueHeader> decode_catalogue_header(ByteSpan bytes) {
    ByteReader r(bytes);
    if (as_text(r.take(kMagic.size())) != kMagic) return corrupt("it is none");
    const uint32_t version = r.le32();
    if (r.ok() && version != kVersion) {
        return corrupt("format version " + std::to_string(version) + ", this build reads " +
                       std::to_string(kVersion));
    }
    CatalogueHeader header;
    header.boot_id = r.text_sized(kCatalogueTextMax);
    header.zero.low = r.le64();
    header.zero.high = r.le64();
    header.vm = VmId{r.le32()};
    header.uuid = r.text_sized(kCatalogueTextMax);
    const uint16_t count = r.le16();
    if (!r.ok() || count > kRegionsMax) return corrupt("damaged");
    for (uint16_t i = 0; r.ok() && i < count; ++i) {
        RegionInfo region;
        const uint8_t kind = r.u8();
        region.kind = static_cast<RegionKind>(kind);
        region.size_bytes = r.le64();
        region.name = r.text_sized(kCatalogueTextMax);
        if (kind > static_cast<uint8_t>(RegionKind::disk) || region.size_bytes > kRegionBytesMax)
            r.fail();
        header.regions.push_back(std::move(region));
    }
    const size_t covered = r.offset();
    const uint64_t sum = r.le64();
    if (!r.ok() || sum != checksum(bytes.first(covered))) return corrupt("damaged");
    return header;
}

bool plausible_state(const std::array<uint64_t, kStateWords>& words) {
    const auto word = [&words](StateWord which) { return words[static_cast<size_t>(which)]; };
    return word(StateWord::formed) == kFormed && word(StateWord::ended) <= UINT32_MAX &&
           word(StateWord::sealed) <= word(StateWord::ended) &&
           word(StateWord::sealing) <= word(StateWord::ended);
}

CatalogueLayout catalogue_layout(const std::vector<RegionInfo>& regions) {
    CatalogueLayout layout;
    uint64_t at = kDataOffset;
    const auto take = [&at](uint64_t bytes) {
        const uint64_t begin = at;
        at += (bytes + kPartAlign - 1) / kPartAlign * kPartAlign;
        return begin;
    };
    for (const RegionInfo& region : regions) {
        CataloguePart part;
        part.pages = (region.size_bytes + kPageBytes - 1) / kPageBytes;
        const uint64_t bitmap_bytes = (part.pages + 63) / 64 * sizeof(uint64_t);
        part.fingerprints = take(part.pages * sizeof(Fingerprint));
        part.heat = take(part.pages);
        part.open = take(bitmap_bytes);
        part.sealing = take(bitmap_bytes);
        layout.regions.push_back(part);
    }
    layout.bytes = at;
    return layout;
}

}  // namespace evac::prestage
