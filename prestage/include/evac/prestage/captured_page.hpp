#pragma once
// What a capture hands on: one page of memory or disk that differs from what the catalogue knew.
#include <cstdint>
#include <string>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"

namespace evac::prestage {

// One entry of a VM's region list; its index in that list is its RegionId.
struct RegionInfo {
    std::string name;  // RAM block id ("pc.ram") or disk node name
    RegionKind kind = RegionKind::small_ram;
    uint64_t size_bytes = 0;

    bool operator==(const RegionInfo&) const = default;
};

inline constexpr uint64_t kRegionBytesMax = uint64_t{1}
                                            << 43;  // 8 TiB: page numbers stay below 2^31

struct CapturedPage {
    RegionId region{};
    uint64_t page = 0;  // index within the region, in units of kPageBytes
    Epoch epoch{};
    Fingerprint fingerprint{};
    uint8_t heat = 0;      // 0 = never seen to change, 255 = changes in every round
    bool is_zero = false;  // then `bytes` is empty
    ByteSpan bytes{};      // kPageBytes; valid only as long as the giver of the page says
};

// Port: where a capture puts changed pages. Called by the capture worker. Must not block: a stalled
// capture stalls the guest's writes. Returns false when the page could not be taken (queue full);
// the caller then forgets the page's fingerprint, so that the next round brings it again.
// `page.bytes` is valid during the call only.
class PageSink {
  public:
    virtual ~PageSink() = default;
    virtual bool page(const CapturedPage& page) = 0;
};

}  // namespace evac::prestage
