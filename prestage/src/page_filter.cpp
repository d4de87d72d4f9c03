#include "page_filter.hpp"

#include <algorithm>

namespace evac::prestage {
namespace {

Error changed(const std::string& what) {
    return make_error(Errc::refused, what + " since the VM was enrolled; enrol it again");
}

}  // namespace

Status PageFilter::ram_blocks(std::span<const RamBlock> blocks) {
    const std::vector<RegionInfo>& regions = catalogue_.regions();
    const auto is_ram = [](const RegionInfo& region) { return region.kind != RegionKind::disk; };
    for (const RamBlock& block : blocks) {
        const auto found = std::ranges::find_if(regions, [&](const RegionInfo& region) {
            return is_ram(region) && region.name == block.name;
        });
        if (found == regions.end()) return changed("RAM block '" + block.name + "' is new");
        if (found->size_bytes != block.size_bytes) {
            return changed("RAM block '" + block.name + "' has " +
                           std::to_string(block.size_bytes) + " bytes, it had " +
                           std::to_string(found->size_bytes));
        }
        const auto index = static_cast<uint16_t>(found - regions.begin());
        map_.push_back(RegionId{index});
        seen_.emplace_back((catalogue_.page_count(RegionId{index}) + 63) / 64);
        if (RegionId{index} != mapped_) pages_ += catalogue_.page_count(RegionId{index});
    }
    if (static_cast<ptrdiff_t>(blocks.size()) != std::ranges::count_if(regions, is_ram)) {
        return changed("a RAM block is gone");
    }
    return {};
}

void PageFilter::page(uint16_t block, uint64_t page, ByteSpan bytes) {
    note(block, page);
    const RegionId region = map_[block];
    const Observation seen = catalogue_.compare_and_update(region, page, bytes);
    if (seen.fingerprint == catalogue_.zero_fingerprint()) ++result_.pages_zero;
    forward(region, page, seen, bytes);
}

void PageFilter::zero_page(uint16_t block, uint64_t page, uint8_t fill) {
    if (fill != 0) {
        filled_.fill(std::byte{fill});
        this->page(block, page, filled_);
        return;
    }
    note(block, page);
    ++result_.pages_zero;
    forward(map_[block], page, catalogue_.update_zero(map_[block], page), {});
}

void PageFilter::note(uint16_t block, uint64_t page) {
    ++result_.pages_seen;
    uint64_t& word = seen_[block][page / 64];
    const uint64_t bit = uint64_t{1} << (page % 64);
    distinct_ += (word & bit) == 0 && map_[block] != mapped_ ? 1U : 0U;
    word |= bit;
}

void PageFilter::forward(RegionId region, uint64_t page, const Observation& seen, ByteSpan bytes) {
    if (seen.change == PageChange::unchanged) return;
    CapturedPage out;
    out.region = region;
    out.page = page;
    out.epoch = result_.epoch;
    out.fingerprint = seen.fingerprint;
    out.heat = seen.heat;
    out.is_zero = seen.change == PageChange::became_zero;
    if (!out.is_zero) out.bytes = bytes;
    if (sink_.page(out)) {
        ++result_.pages_changed;
    } else {
        ++result_.pages_dropped;
        catalogue_.set_unknown(region, page);
    }
}

}  // namespace evac::prestage
