#pragma once
// The daemon's log: one line per message on standard error (journald adds the rest), rate-limited.
#include <atomic>
#include <memory>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"

namespace evac::daemon {

class DaemonLog final : public Logger {
  public:
    static constexpr uint32_t kLinesPerSecondMax =
        200;  // beyond: dropped, and counted in the next second's first line

    explicit DaemonLog(LogLevel level);
    ~DaemonLog() override;
    void write(LogLevel level, std::string_view text) override;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
    LogLevel level_;
    SystemClock clock_;
    std::atomic<uint64_t> second_{0};
    std::atomic<uint32_t> lines_{0};
    std::atomic<uint32_t> dropped_{0};
};

}  // namespace evac::daemon
