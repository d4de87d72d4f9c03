#pragma once
// What a pass does with each page of the stream: the catalogue says whether away has it, and only
// what differs goes to the sink. Also counts which pages came. Owner: the capture worker.
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evac/prestage/captured_page.hpp"
#include "evac/prestage/catalogue.hpp"
#include "evac/prestage/round.hpp"
#include "evac/prestage/stream_parser.hpp"

namespace evac::prestage {

// Sends what the catalogue does not know to the sink, and keeps count of which pages came.
class PageFilter final : public StreamSink {
  public:
    // All must outlive the filter. Counts go into `result`, whose epoch is that of the pages.
    // `mapped`: a region whose pages are not expected in the stream.
    PageFilter(Catalogue& catalogue, PageSink& sink, RoundResult& result,
               std::optional<RegionId> mapped = std::nullopt)
        : catalogue_(catalogue), sink_(sink), result_(result), mapped_(mapped) {}

    Status ram_blocks(std::span<const RamBlock> blocks) override;
    void page(uint16_t block, uint64_t page, ByteSpan bytes) override;
    void zero_page(uint16_t block, uint64_t page, uint8_t fill) override;

    uint64_t missing() const { return pages_ - distinct_; }

  private:
    void note(uint16_t block, uint64_t page);
    void forward(RegionId region, uint64_t page, const Observation& seen, ByteSpan bytes);

    Catalogue& catalogue_;
    PageSink& sink_;
    RoundResult& result_;
    const std::optional<RegionId> mapped_;
    std::vector<RegionId> map_;                // stream block -> region
    std::vector<std::vector<uint64_t>> seen_;  // one bit per page
    uint64_t pages_ = 0;
    uint64_t distinct_ = 0;
    std::array<std::byte, kPageBytes> filled_{};
};

}  // namespace evac::prestage
