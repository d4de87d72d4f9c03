#include "evac/protocol/device_state.hpp"

#include <zstd.h>

namespace evac::protocol {
namespace {
constexpr uint8_t kVersion = 1;
constexpr int kLevel = 3;  // 80-130 KB once a round: ratio matters more than speed
}  // namespace

Result<Bytes> pack(const DeviceStateBlob& state) {
    Bytes plain;
    ByteWriter w(plain);
    w.le32(state.ram_section_id);
    w.put_sized(ByteSpan(state.prefix));
    w.put_sized(ByteSpan(state.tail));
    if (plain.size() > kDeviceStateRawBytesMax) {
        return make_error(Errc::refused,
                          "device state of " + std::to_string(plain.size()) + " bytes: at most " +
                              std::to_string(kDeviceStateRawBytesMax) + " are accepted");
    }
    Bytes out(1 + ZSTD_compressBound(plain.size()));
    out[0] = std::byte{kVersion};
    const size_t size =
        ZSTD_compress(out.data() + 1, out.size() - 1, plain.data(), plain.size(), kLevel);
    if (ZSTD_isError(size) != 0) return make_error(Errc::internal, "zstd: device state");
    out.resize(1 + size);
    return out;
}

Result<DeviceStateBlob> unpack_device_state(ByteSpan bytes) {
    if (bytes.size() < 2 || bytes[0] != std::byte{kVersion}) {
        return make_error(Errc::corrupt, "device state: unknown version");
    }
    const ByteSpan frame = bytes.subspan(1);
    const unsigned long long size = ZSTD_getFrameContentSize(frame.data(), frame.size());
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN ||
        size > kDeviceStateRawBytesMax) {
        return make_error(Errc::corrupt, "device state: not a zstd frame of an accepted size");
    }
    Bytes plain(size);
    if (ZSTD_decompress(plain.data(), plain.size(), frame.data(), frame.size()) != size) {
        return make_error(Errc::corrupt, "device state: damaged zstd frame");
    }
    ByteReader r(plain);
    DeviceStateBlob state;
    state.ram_section_id = r.le32();
    const ByteSpan prefix = r.take_sized(kDeviceStateRawBytesMax);
    const ByteSpan tail = r.take_sized(kDeviceStateRawBytesMax);
    if (!r.at_end()) return make_error(Errc::corrupt, "device state: truncated");
    state.prefix.assign(prefix.begin(), prefix.end());
    state.tail.assign(tail.begin(), tail.end());
    return state;
}

}  // namespace evac::protocol
