#pragma once
// Time comes by constructor, so that the same code runs in simulation.
#include <cstdint>

namespace evac {

class Clock {
  public:
    virtual ~Clock() = default;
    virtual uint64_t now_ns() const = 0;       // monotonic, any origin
    virtual int64_t wall_unix_ms() const = 0;  // for people and protocols; may jump
};

class SystemClock final : public Clock {
  public:
    uint64_t now_ns() const override;
    int64_t wall_unix_ms() const override;
};

// Tests and simulations: moves only when told.
class ManualClock final : public Clock {
  public:
    uint64_t now_ns() const override { return now_ns_; }
    int64_t wall_unix_ms() const override { return wall_unix_ms_; }
    void advance_ns(uint64_t delta_ns) {
        now_ns_ += delta_ns;
        wall_unix_ms_ = start_unix_ms_ + static_cast<int64_t>(now_ns_ / 1'000'000);
    }

  private:
    static constexpr int64_t start_unix_ms_ = 1'700'000'000'000;
    uint64_t now_ns_ = 1;
    int64_t wall_unix_ms_ = start_unix_ms_;
};

}  // namespace evac
