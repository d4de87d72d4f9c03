#pragma once
// Between the filter and the sink of a stream of several passes. Internal to this library. Owner:
// the thread that runs the capture.
//
// Such a stream brings a page more than once. Away orders versions of a page by epoch, so two
// versions never share one: the page that would be sent twice in an epoch begins the next. That
// moment is also where a pass ends, because within one pass QEMU sends a page once.
#include <functional>
#include <vector>

#include "evac/prestage/captured_page.hpp"
#include "evac/prestage/catalogue.hpp"
#include "evac/prestage/round.hpp"

namespace evac::prestage {

class LivePages final : public PageSink {
  public:
    struct Hooks {
        std::function<bool(const CapturedPage&)> offer;  // to the sink, perhaps after a wait
        std::function<void()> next_epoch;  // before one begins; changed_in_epoch() is the old one's
    };
    // Both must outlive it. result.epoch is the first epoch, and advances; pages_repeated is
    // counted.
    LivePages(const Catalogue& catalogue, RoundResult& result, Hooks hooks);

    bool page(const CapturedPage& page) override;
    uint64_t changed_in_epoch() const { return changed_in_epoch_; }

  private:
    // A bit per page of each region of RAM: 1/32,768 of the memory each.
    using Bits = std::vector<std::vector<uint64_t>>;
    static bool test_and_set(Bits& bits, const CapturedPage& page);

    RoundResult& result_;
    Hooks hooks_;
    Bits changed_, sent_in_epoch_;
    uint64_t changed_in_epoch_ = 0;
};

}  // namespace evac::prestage
