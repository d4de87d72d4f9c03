#include <array>
#include <unordered_map>
#include <vector>

#include "evac/dedup/reducer.hpp"

namespace evac::dedup {

struct StagedTags::Regions {
    struct Region {
        std::vector<uint32_t> tags;
        bool disk = false;
    };
    using Vm = std::array<Region, kRegionsMax>;

    Region* find(const Location& location) {
        if (raw(location.region) >= kRegionsMax) return nullptr;
        const auto vm = vms.find(raw(location.vm));
        return vm == vms.end() ? nullptr : &vm->second[raw(location.region)];
    }

    std::unordered_map<uint32_t, Vm> vms;
};

StagedTags::StagedTags() : regions_(std::make_unique<Regions>()) {}
StagedTags::~StagedTags() = default;

uint32_t StagedTags::tag(const Fingerprint& fingerprint) {
    const auto low = static_cast<uint32_t>(fingerprint.low);
    return low == 0 ? 1 : low;
}

uint32_t StagedTags::get(const Location& location) const {
    const Regions::Region* region = regions_->find(location);
    return region != nullptr && location.page < region->tags.size() ? region->tags[location.page]
                                                                    : 0;
}

bool StagedTags::set(const Location& location, uint32_t tag) {
    Regions::Region* region = regions_->find(location);
    if (region == nullptr || location.page >= region->tags.size()) return false;
    region->tags[location.page] = tag;
    return true;
}

bool StagedTags::is_disk(const Location& location) const {
    const Regions::Region* region = regions_->find(location);
    return region != nullptr && region->disk;
}

uint64_t StagedTags::pages(VmId vm, RegionId region) const {
    const Regions::Region* found = regions_->find(Location{vm, region, 0});
    return found == nullptr ? 0 : found->tags.size();
}

void StagedTags::set_region(VmId vm, RegionId id, RegionKind kind, uint64_t pages) {
    EVAC_ASSERT(raw(id) < kRegionsMax);
    Regions::Region& region = regions_->vms[raw(vm)][raw(id)];
    region.disk = kind == RegionKind::disk;
    if (region.tags.size() == pages) return;
    bytes_ -= region.tags.size() * sizeof(uint32_t);
    // A fresh vector: a resize would keep the old capacity, and the old tags.
    region.tags = std::vector<uint32_t>(pages, 0);
    bytes_ += pages * sizeof(uint32_t);
}

void StagedTags::clear_vm(VmId vm) {
    const auto found = regions_->vms.find(raw(vm));
    if (found == regions_->vms.end()) return;
    for (Regions::Region& region : found->second) {
        std::fill(region.tags.begin(), region.tags.end(), 0u);
    }
}

void StagedTags::forget_vm(VmId vm) {
    const auto found = regions_->vms.find(raw(vm));
    if (found == regions_->vms.end()) return;
    for (const Regions::Region& region : found->second)
        bytes_ -= region.tags.size() * sizeof(uint32_t);
    regions_->vms.erase(found);
}

}  // namespace evac::dedup
