#pragma once
// Logging port. A module that has something to say takes a Logger& by constructor; the daemon
// supplies the real one. Never called from the packet loop or per page. Implementations are
// thread-safe and bounded.
#include <string_view>

namespace evac {

enum class LogLevel : unsigned char { debug, info, warning, error };

class Logger {
  public:
    virtual ~Logger() = default;
    virtual void write(LogLevel level, std::string_view text) = 0;

    void debug(std::string_view text) { write(LogLevel::debug, text); }
    void info(std::string_view text) { write(LogLevel::info, text); }
    void warning(std::string_view text) { write(LogLevel::warning, text); }
    void error(std::string_view text) { write(LogLevel::error, text); }
};

class NullLogger final : public Logger {
  public:
    void write(LogLevel, std::string_view) override {}
};

}  // namespace evac
