#include "rpo_record.hpp"

#include <algorithm>
#include <cmath>

namespace evac::daemon {
namespace {

constexpr double kLeastS = 0.25;  // upper end of the first bucket

double seconds_of(uint64_t ns) {
    return static_cast<double>(ns) / static_cast<double>(kNsPerSecond);
}

double upper_s(size_t bucket) {
    return kLeastS * std::exp2(static_cast<double>(bucket) / 2);
}

double lower_s(size_t bucket) {
    return bucket == 0 ? 0 : upper_s(bucket - 1);
}

}  // namespace

void RpoRecord::observe(uint64_t now_ns, std::optional<double> age_s, double target_s) {
    if (observed_ && now_ns > last_ns_) {
        uint64_t from_ns = last_ns_;
        if (now_ns - from_ns > kSlots * kSlotNs) {
            from_ns = now_ns - kSlots * kSlotNs;
            if (age_s_) *age_s_ += seconds_of(from_ns - last_ns_);
        }
        while (from_ns < now_ns) {
            const uint64_t end_ns = std::min(now_ns, (from_ns / kSlotNs + 1) * kSlotNs);
            add(from_ns, seconds_of(end_ns - from_ns));
            from_ns = end_ns;
        }
    }
    observed_ = true;
    last_ns_ = now_ns;
    age_s_ = age_s;
    target_s_ = target_s;
}

// Within one slot; the age grows by what is added.
void RpoRecord::add(uint64_t from_ns, double seconds) {
    if (slots_.empty()) {
        slots_.resize(kSlots);
        hours_.resize(kHours);
    }
    const uint64_t number = from_ns / kSlotNs + 1;
    Slot& slot = slots_[number % kSlots];
    if (slot.number != number) slot = Slot{number};
    const uint64_t hour_number = (number - 1) / kSlotsPerHour + 1;
    Hour& hour = hours_[hour_number % kHours];
    if (hour.number != hour_number) hour = Hour{hour_number, {}};
    slot.covered_s += static_cast<float>(seconds);
    if (!age_s_) {
        slot.unprotected_s += static_cast<float>(seconds);
        return;
    }
    slot.within_s += static_cast<float>(std::clamp(target_s_ - *age_s_, 0.0, seconds));
    spread(hour, *age_s_, seconds);
    *age_s_ += seconds;
    slot.max_s = std::max(slot.max_s, static_cast<float>(*age_s_));
}

void RpoRecord::spread(Hour& hour, double from_age_s, double seconds) {
    const double to_age_s = from_age_s + seconds;
    for (size_t i = 0; i < kBuckets; ++i) {
        const double end_s = i + 1 == kBuckets ? INFINITY : upper_s(i);
        const double part_s = std::min(to_age_s, end_s) - std::max(from_age_s, lower_s(i));
        if (part_s > 0) hour.seconds[i] += static_cast<float>(part_s);
        if (to_age_s <= end_s) return;
    }
}

RpoRecord::Summary RpoRecord::summary(uint64_t now_ns) const {
    Summary out;
    const uint64_t newest = now_ns / kSlotNs + 1;
    for (const Slot& slot : slots_) {
        if (slot.number == 0 || slot.number + kSlots <= newest) continue;
        out.covered_s += static_cast<double>(slot.covered_s);
        out.unprotected_s += static_cast<double>(slot.unprotected_s);
        out.within_s += static_cast<double>(slot.within_s);
        out.max_s = std::max(out.max_s, static_cast<double>(slot.max_s));
    }
    std::array<double, kBuckets> seconds{};
    double all_s = 0;
    const uint64_t newest_hour = (newest - 1) / kSlotsPerHour + 1;
    for (const Hour& hour : hours_) {
        if (hour.number == 0 || hour.number + kHours <= newest_hour) continue;
        for (size_t i = 0; i < kBuckets; ++i) {
            seconds[i] += static_cast<double>(hour.seconds[i]);
            all_s += static_cast<double>(hour.seconds[i]);
        }
    }
    const auto percentile = [&](double share) {
        double wanted_s = share * all_s;
        for (size_t i = 0; i < kBuckets; ++i) {
            if (seconds[i] > 0 && wanted_s <= seconds[i]) {
                const double age_s = lower_s(i) + (upper_s(i) - lower_s(i)) * wanted_s / seconds[i];
                return std::min(age_s, out.max_s);
            }
            wanted_s -= seconds[i];
        }
        return out.max_s;
    };
    if (all_s > 0) {
        out.p50_s = percentile(0.5);
        out.p95_s = percentile(0.95);
    }
    return out;
}

}  // namespace evac::daemon
