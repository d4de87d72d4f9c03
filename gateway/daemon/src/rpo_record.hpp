#pragma once
// How old a VM's recovery point was over the last 24 hours, weighted by time: what an operator asks
// after "and what if the alert had come at another moment". Not kept over a restart of the daemon:
// `covered_s` says what time the record speaks of.
//
// Between observations the age grows with time; a new point counts from the observation that sees
// it (so an age is never understated). Slots of 5 minutes hold the worst age and the seconds within
// the target, hours a histogram of ages (buckets a factor of 2^(1/2) wide, ages spread evenly
// within one). About 8 KiB a VM, whatever happens. Owner: one thread.
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "evac/core/units.hpp"

namespace evac::daemon {

class RpoRecord {
  public:
    static constexpr uint64_t kSlotNs = 300 * kNsPerSecond;
    static constexpr uint64_t kSlots = 288;
    static constexpr uint64_t kSlotsPerHour = 12;
    static constexpr uint64_t kHours = kSlots / kSlotsPerHour;

    // `age_s`: none = there is no recovery point, which no target allows.
    void observe(uint64_t now_ns, std::optional<double> age_s, double target_s);
    // What comes until the next observation is not recorded: it runs at the peer, for instance.
    void stop() { observed_ = false; }

    struct Summary {
        double covered_s = 0;                    // of the last 24 hours
        double unprotected_s = 0;                // of these, without a recovery point
        double within_s = 0;                     // of these, with one no older than its target
        double p50_s = 0, p95_s = 0, max_s = 0;  // ages, while there was one
    };
    Summary summary(uint64_t now_ns) const;

  private:
    static constexpr size_t kBuckets = 48;  // from 0.25 s to 2.5 million
    struct Slot {
        uint64_t number = 0;  // since the clock's zero, + 1; 0 = never used
        float covered_s = 0, unprotected_s = 0, within_s = 0, max_s = 0;
    };
    struct Hour {
        uint64_t number = 0;
        std::array<float, kBuckets> seconds{};
    };
    void add(uint64_t from_ns, double seconds);
    static void spread(Hour& hour, double from_age_s, double seconds);

    std::vector<Slot> slots_;
    std::vector<Hour> hours_;
    bool observed_ = false;
    uint64_t last_ns_ = 0;
    std::optional<double> age_s_;  // at last_ns_
    double target_s_ = 0;
};

}  // namespace evac::daemon
