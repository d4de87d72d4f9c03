#include "logger.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "evac/core/units.hpp"

namespace evac::daemon {

struct DaemonLog::Impl {
    std::shared_ptr<spdlog::logger> log;
};

DaemonLog::DaemonLog(LogLevel level) : impl_(std::make_unique<Impl>()), level_(level) {
    impl_->log = std::make_shared<spdlog::logger>(
        "evacgwd", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    impl_->log->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
    impl_->log->set_level(spdlog::level::debug);
    impl_->log->flush_on(spdlog::level::debug);
}

DaemonLog::~DaemonLog() = default;

void DaemonLog::write(LogLevel level, std::string_view text) {
    if (level < level_) return;
    const uint64_t second = clock_.now_ns() / kNsPerSecond;
    uint64_t seen = second_.load();
    if (seen != second && second_.compare_exchange_strong(seen, second)) {
        lines_ = 0;
        const uint32_t dropped = dropped_.exchange(0);
        if (dropped != 0) impl_->log->warn("{} log lines were dropped", dropped);
    }
    if (lines_.fetch_add(1) >= kLinesPerSecondMax) {
        ++dropped_;
        return;
    }
    static constexpr spdlog::level::level_enum kLevels[] = {
        spdlog::level::debug, spdlog::level::info, spdlog::level::warn, spdlog::level::err};
    impl_->log->log(kLevels[static_cast<size_t>(level)], "{}", text);
}

}  // namespace evac::daemon
