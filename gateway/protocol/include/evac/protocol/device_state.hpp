#pragma once
// The part of a recovery point that is neither a page nor a block: the migration stream around the
// pages.
//   state := 0x01 zstd-frame( section:le32 prefix:text tail:text )
#include "evac/core/bytes.hpp"
#include "evac/core/result.hpp"

namespace evac::protocol {

inline constexpr size_t kDeviceStateRawBytesMax = 16 * 1024 * 1024;

struct DeviceStateBlob {
    uint32_t ram_section_id = 0;
    Bytes prefix;
    Bytes tail;
};

Result<Bytes> pack(const DeviceStateBlob& state);
Result<DeviceStateBlob> unpack_device_state(ByteSpan bytes);

}  // namespace evac::protocol
