#pragma once
// Deterministic random numbers for simulation, back-off and jitter. Never for keys: those come from
// OpenSSL.
#include <cstdint>

namespace evac {

// splitmix64 (Steele, Lea, Flood 2014): one 64-bit state, passes BigCrush, any seed is good.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }
    // Uniform in [0, bound); bound >= 1. The modulo bias is below 2^-32 for bounds under 2^32.
    uint64_t below(uint64_t bound) { return next() % bound; }
    double unit() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
    bool chance(double probability) { return unit() < probability; }

  private:
    uint64_t state_;
};

}  // namespace evac
