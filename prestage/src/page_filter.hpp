#pragma once
// Sends what the catalogue does not know to the sink, and keeps count of which pages came. Internal
// to this library. Owner: the thread that runs the capture.
//
// A stream of several passes brings a page more than once. Away orders versions of a page by epoch,
// so two versions never share one: the page that would be sent twice in an epoch begins the next
// (result.epoch). That moment is also where a pass ends, because within one pass QEMU sends a page
// once.
#include <array>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "evac/prestage/catalogue.hpp"
#include "evac/prestage/round.hpp"
#include "evac/prestage/stream_parser.hpp"

namespace evac::prestage {

class PageFilter final : public StreamSink {
  public:
    struct Hooks {
        // Gives a page to the sink, perhaps after a wait; empty: the sink's answer counts at once.
        std::function<bool(const CapturedPage&)> offer;
        // Before a new epoch; empty: the stream has one pass, a repeated page is sent again as is.
        std::function<void()> next_epoch;
    };

    PageFilter(Catalogue& catalogue, PageSink& sink, RoundResult& result, Hooks hooks = {});

    // Refused when the blocks are not the catalogue's.
    Status ram_blocks(std::span<const RamBlock> blocks) override;
    void page(uint16_t block, uint64_t page, ByteSpan bytes) override;
    void zero_page(uint16_t block, uint64_t page, uint8_t fill) override;

    uint64_t missing() const { return pages_ - distinct_; }
    bool first_pass_over() const { return pages_ != 0 && distinct_ == pages_; }
    uint64_t changed_in_epoch() const { return changed_in_epoch_; }

  private:
    // A bit per page of each RAM block.
    using Bits = std::vector<std::vector<uint64_t>>;
    static bool test_and_set(Bits& bits, uint16_t block, uint64_t page);
    void note(uint16_t block, uint64_t page);
    void forward(uint16_t block, uint64_t page, const Observation& seen, ByteSpan bytes);

    Catalogue& catalogue_;
    PageSink& sink_;
    RoundResult& result_;
    Hooks hooks_;
    std::vector<RegionId> map_;  // stream block -> region
    Bits seen_, changed_, sent_in_epoch_;
    uint64_t pages_ = 0;
    uint64_t distinct_ = 0;
    uint64_t changed_in_epoch_ = 0;
    std::array<std::byte, kPageBytes> filled_{};
};

}  // namespace evac::prestage
