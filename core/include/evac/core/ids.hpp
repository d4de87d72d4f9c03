#pragma once
// Names for things that both gateways talk about. All are plain values.
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace evac {

// A VM, as numbered by its home gateway; unique within a pair and a direction, never reused.
enum class VmId : uint32_t {};
// A RAM block or a disk of a VM: index into the VM's region list (at most kRegionsMax).
enum class RegionId : uint16_t {};
// A round of a VM, counted from 1 by its home; 0 = none. A page version is (page, epoch).
enum class Epoch : uint32_t {};

inline constexpr uint16_t kRegionsMax = 64;

inline constexpr uint32_t raw(VmId id) {
    return static_cast<uint32_t>(id);
}
inline constexpr uint16_t raw(RegionId id) {
    return static_cast<uint16_t>(id);
}
inline constexpr uint32_t raw(Epoch id) {
    return static_cast<uint32_t>(id);
}

enum class RegionKind : uint8_t {
    main_ram = 0,   // the block that the landing QEMU maps in place (pc.ram)
    small_ram = 1,  // every other RAM block (vga.vram, ROMs): streamed at landing
    disk = 2,
};

// One 4 KiB page or block of a VM.
struct PageKey {
    VmId vm{};
    RegionId region{};
    uint64_t page = 0;  // index within the region, in units of kPageBytes

    auto operator<=>(const PageKey&) const = default;
};

// Seeded xxh3-128 of a page. Answers "is this what away has of this very page?" only; it never
// decides identity across VMs. All zero bits = unknown (never equal to a page's fingerprint in
// practice, and treated as unequal to everything).
struct Fingerprint {
    uint64_t low = 0;
    uint64_t high = 0;

    auto operator<=>(const Fingerprint&) const = default;
    bool known() const { return (low | high) != 0; }
};

// SHA-256 keyed with the pair's secret, truncated to 128 bits: identity across VMs and disks.
using Identity = std::array<std::byte, 16>;

}  // namespace evac

template <>
struct std::hash<evac::PageKey> {
    size_t operator()(const evac::PageKey& key) const noexcept {
        uint64_t x = (uint64_t{evac::raw(key.vm)} << 40) ^ (uint64_t{evac::raw(key.region)} << 32) ^
                     key.page;
        x ^= x >> 33;
        x *= 0xff51afd7ed558ccdULL;
        x ^= x >> 33;
        return static_cast<size_t>(x);
    }
};
