#include "page_filter.hpp"

#include <algorithm>

namespace evac::prestage {
namespace {

Error changed_since(const std::string& what) {
    return make_error(Errc::refused, what + " since the VM was enrolled; enrol it again");
}

}  // namespace

PageFilter::PageFilter(Catalogue& catalogue, PageSink& sink, RoundResult& result, Hooks hooks)
    : catalogue_(catalogue), sink_(sink), result_(result), hooks_(std::move(hooks)) {}

Status PageFilter::ram_blocks(std::span<const RamBlock> blocks) {
    const std::vector<RegionInfo>& regions = catalogue_.regions();
    const auto is_ram = [](const RegionInfo& region) { return region.kind != RegionKind::disk; };
    for (const RamBlock& block : blocks) {
        const auto found = std::ranges::find_if(regions, [&](const RegionInfo& region) {
            return is_ram(region) && region.name == block.name;
        });
        if (found == regions.end()) return changed_since("RAM block '" + block.name + "' is new");
        if (found->size_bytes != block.size_bytes) {
            return changed_since("RAM block '" + block.name + "' has " +
                                 std::to_string(block.size_bytes) + " bytes, it had " +
                                 std::to_string(found->size_bytes));
        }
        const auto index = static_cast<uint16_t>(found - regions.begin());
        const uint64_t pages = catalogue_.page_count(RegionId{index});
        map_.push_back(RegionId{index});
        seen_.emplace_back((pages + 63) / 64);
        changed_.emplace_back((pages + 63) / 64);
        if (hooks_.next_epoch) sent_in_epoch_.emplace_back((pages + 63) / 64);
        pages_ += pages;
    }
    if (static_cast<ptrdiff_t>(blocks.size()) != std::ranges::count_if(regions, is_ram)) {
        return changed_since("a RAM block is gone");
    }
    return {};
}

void PageFilter::page(uint16_t block, uint64_t page, ByteSpan bytes) {
    note(block, page);
    const Observation seen = catalogue_.compare_and_update(map_[block], page, bytes);
    if (seen.fingerprint == catalogue_.zero_fingerprint()) ++result_.pages_zero;
    forward(block, page, seen, bytes);
}

void PageFilter::zero_page(uint16_t block, uint64_t page, uint8_t fill) {
    if (fill != 0) {
        filled_.fill(std::byte{fill});
        this->page(block, page, filled_);
        return;
    }
    note(block, page);
    ++result_.pages_zero;
    forward(block, page, catalogue_.update_zero(map_[block], page), {});
}

bool PageFilter::test_and_set(Bits& bits, uint16_t block, uint64_t page) {
    uint64_t& word = bits[block][page / 64];
    const uint64_t bit = uint64_t{1} << (page % 64);
    const bool was_set = (word & bit) != 0;
    word |= bit;
    return was_set;
}

void PageFilter::note(uint16_t block, uint64_t page) {
    ++result_.pages_seen;
    if (!test_and_set(seen_, block, page)) ++distinct_;
}

void PageFilter::forward(uint16_t block, uint64_t page, const Observation& seen, ByteSpan bytes) {
    if (seen.change == PageChange::unchanged) return;
    if (hooks_.next_epoch && test_and_set(sent_in_epoch_, block, page)) {
        hooks_.next_epoch();
        result_.epoch = Epoch{raw(result_.epoch) + 1};
        for (auto& words : sent_in_epoch_) std::ranges::fill(words, 0);
        changed_in_epoch_ = 0;
        test_and_set(sent_in_epoch_, block, page);
    }
    CapturedPage out;
    out.region = map_[block];
    out.page = page;
    out.epoch = result_.epoch;
    out.fingerprint = seen.fingerprint;
    out.heat = seen.heat;
    out.is_zero = seen.change == PageChange::became_zero;
    if (!out.is_zero) out.bytes = bytes;
    if (hooks_.offer ? hooks_.offer(out) : sink_.page(out)) {
        ++result_.pages_changed;
        ++changed_in_epoch_;
        if (!test_and_set(changed_, block, page)) ++result_.pages_changed_once;
    } else {
        ++result_.pages_dropped;
        catalogue_.set_unknown(out.region, page);
    }
}

}  // namespace evac::prestage
