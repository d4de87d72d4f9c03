#include "fec_policy.hpp"

#include <algorithm>
#include <cmath>

namespace evac::wan {
namespace {

constexpr uint64_t kRunEndsAfterAcked = 32;
constexpr double kForgotten = 0.1;  // lost packets that are left of one after some windows
constexpr uint64_t kRunGapMax = 2;  // acknowledgements in between have numbers, too

}  // namespace

void LossMeter::on_acked() {
    acked_ += 1;
    if (run_length_ > 0 && ++acked_since_ >= kRunEndsAfterAcked) end_run();
    age();
}

void LossMeter::on_lost(uint64_t number) {
    const bool goes_on = run_length_ > 0 && number > run_last_ && number - run_last_ <= kRunGapMax;
    if (!goes_on) end_run();
    ++run_length_;
    run_last_ = number;
    acked_since_ = 0;
}

void LossMeter::on_spurious() {
    lost_ = std::max(lost_ - 1, 0.0);
    runs_ = std::min(runs_, lost_);
}

void LossMeter::end_run() {
    if (run_length_ > 0 && run_length_ <= kRunMax) {
        lost_ += static_cast<double>(run_length_);
        runs_ += 1;
    }
    run_length_ = 0;
    acked_since_ = 0;
    age();
}

void LossMeter::age() {
    if (acked_ + lost_ < kWindow) return;
    acked_ /= 2;
    lost_ /= 2;
    runs_ /= 2;
}

bool LossMeter::lossy() const {
    return lost_ > kForgotten && loss() >= kLossMin;
}

double LossMeter::loss() const {
    const double all = acked_ + lost_;
    return all > 0 ? std::min(kLossMax, lost_ / all) : 0;
}

double LossMeter::burst() const {
    return runs_ > 0 ? std::clamp(lost_ / runs_, 1.0, kBurstMax) : 1;
}

double fec_failure(const FecBlockShape& shape, size_t parity) {
    const double interleave = static_cast<double>(std::max<size_t>(shape.interleave, 1));
    const double hit = std::max(1.0, std::round(shape.burst / interleave));
    const double events = std::ceil(static_cast<double>(shape.members + parity) / hit);
    const auto bearable = static_cast<size_t>(static_cast<double>(parity) / hit);
    const double p = std::clamp(shape.loss, 0.0, 0.99);
    double term = std::pow(1 - p, events);  // none lost
    double sum = term;
    for (size_t j = 0; j < bearable; ++j) {
        term *= (events - static_cast<double>(j)) / static_cast<double>(j + 1) * p / (1 - p);
        sum += std::max(term, 0.0);
    }
    return std::max(0.0, 1 - sum);
}

size_t fec_parity(const FecBlockShape& shape, double target, size_t parity_max) {
    for (size_t parity = 0; parity < parity_max; ++parity) {
        if (fec_failure(shape, parity) <= target) return parity;
    }
    return parity_max;
}

uint64_t fec_spacing_ns(double burst, uint64_t packet_ns) {
    const double wanted = kBurstsApart * burst * static_cast<double>(packet_ns);
    return static_cast<uint64_t>(
        std::clamp(wanted, static_cast<double>(kSpacingMinNs), static_cast<double>(kSpacingMaxNs)));
}

bool fec_tail_pays(double loss, size_t packets, size_t parity_packets, uint64_t packet_ns,
                   uint64_t rtt_ns) {
    const double any_lost = 1 - std::pow(1 - loss, static_cast<double>(packets));
    return static_cast<double>(parity_packets) * static_cast<double>(packet_ns) <
           static_cast<double>(rtt_ns) * any_lost;
}

}  // namespace evac::wan
