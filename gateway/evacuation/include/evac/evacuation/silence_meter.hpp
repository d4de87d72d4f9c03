#pragma once
// How long the peer has been silent, in time that this process really lived through: a gap between
// two looks (a suspended or starved daemon, whose peer's packets wait in the socket) counts as 1 s
// at most. Owner: the control thread.
#include <algorithm>
#include <cstdint>

namespace evac::evacuation {

class SilenceMeter {
  public:
    static constexpr uint64_t kGapMaxNs = 1'000'000'000;

    explicit SilenceMeter(uint64_t now_ns) : looked_ns_(now_ns) {}
    // Something authenticated arrived (any packet of the peer's session).
    void heard(uint64_t now_ns) {
        silent_ns_ = 0;
        looked_ns_ = now_ns;
    }
    uint64_t look(uint64_t now_ns) {
        if (now_ns > looked_ns_) silent_ns_ += std::min(now_ns - looked_ns_, kGapMaxNs);
        looked_ns_ = now_ns;
        return silent_ns_;
    }

  private:
    uint64_t looked_ns_;
    uint64_t silent_ns_ = 0;
};

}  // namespace evac::evacuation
