#include "live_pages.hpp"

#include <algorithm>

namespace evac::prestage {

LivePages::LivePages(const Catalogue& catalogue, RoundResult& result, Hooks hooks)
    : result_(result), hooks_(std::move(hooks)) {
    const std::vector<RegionInfo>& regions = catalogue.regions();
    for (size_t i = 0; i < regions.size(); ++i) {
        const uint64_t pages = regions[i].kind == RegionKind::disk
                                   ? 0
                                   : catalogue.page_count(RegionId{static_cast<uint16_t>(i)});
        changed_.emplace_back((pages + 63) / 64);
        sent_in_epoch_.emplace_back((pages + 63) / 64);
    }
}

bool LivePages::test_and_set(Bits& bits, const CapturedPage& page) {
    uint64_t& word = bits[raw(page.region)][page.page / 64];
    const uint64_t bit = uint64_t{1} << (page.page % 64);
    const bool was_set = (word & bit) != 0;
    word |= bit;
    return was_set;
}

bool LivePages::page(const CapturedPage& page) {
    if (test_and_set(sent_in_epoch_, page)) {
        hooks_.next_epoch();
        result_.epoch = Epoch{raw(result_.epoch) + 1};
        for (auto& words : sent_in_epoch_) std::ranges::fill(words, 0);
        changed_in_epoch_ = 0;
        test_and_set(sent_in_epoch_, page);
    }
    CapturedPage out = page;
    out.epoch = result_.epoch;
    if (!hooks_.offer(out)) return false;
    ++changed_in_epoch_;
    if (test_and_set(changed_, page)) ++result_.pages_repeated;
    return true;
}

}  // namespace evac::prestage
