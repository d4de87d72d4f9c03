#pragma once
// How much of a guest is written in a given time, fitted online from its rounds:
//
//   dirty(t) = sum over k of W_k (1 - exp(-r_k t / W_k)),  at most two scales
//
// A guest has a small set of pages that it writes all the time and a large one that it touches now
// and then; one scale misses a busy database by a quarter, two are within some percent. With
// tau_k = W_k / r_k fixed the formula is linear in W_k, so the fit tries a grid of (tau_1, tau_2)
// and solves each by least squares of the relative errors, W_k >= 0; a sample's weight halves every
// kHalfLife samples, so that a guest's past (its boot) is forgotten. The second scale is taken only
// when it lowers the error by kSecondScaleGain; rounds of one length cannot tell two scales apart.
//
// Where the samples leave it open how far the set goes on growing (all intervals alike), the guess
// is a set a quarter larger than what one interval wrote. Values only; no thread of its own; memory
// is kSamplesMax samples.
#include <cstddef>
#include <deque>
#include <vector>

namespace evac::prestage {

struct DirtyTerm {
    double working_set_mib = 0;  // W > 0
    double rate_mib_s = 0;       // r > 0, at t = 0
};

double dirty_mib(const std::vector<DirtyTerm>& terms, double seconds);

class DirtyModel {
  public:
    static constexpr size_t kSamplesMax = 32;
    static constexpr double kHalfLife = 3;
    static constexpr double kSecondScaleGain = 0.8;  // of the error with one scale

    // `changed_mib` distinct MiB differed after `interval_s`. Anything but finite numbers with
    // interval_s > 0 and changed_mib >= 0 is ignored.
    void add(double interval_s, double changed_mib);
    bool empty() const { return samples_.empty(); }
    // 0 to 2 terms; none when nothing was written. No term exceeds `memory_mib`.
    std::vector<DirtyTerm> fit(double memory_mib) const;

  private:
    struct Sample {
        double interval_s, changed_mib;
    };
    std::deque<Sample> samples_;  // oldest first
};

}  // namespace evac::prestage
