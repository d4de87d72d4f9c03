#pragma once
// The two roles around one Transport. Each makes its producer or consumer threads, waits until it
// should end, and returns its own part of the final report.
//
//   stdout, one JSON object a line:
//     {"event":"ready", "port", "scavenger"}        port open, transport made
//     {"event":"transport", "text"}                 what the transport said, e.g. a refusal
//     {"event":"start", "ns"}                       send: session up, the load begins now
//     {"event":"end", ...}                          all counters; see report.cpp and the roles
// Times are CLOCK_MONOTONIC, which all processes and namespaces of one machine share.
#include <nlohmann/json_fwd.hpp>
#include <thread>

#include "evac/core/clock.hpp"
#include "evac/core/result.hpp"
#include "evac/wan/transport.hpp"
#include "options.hpp"

namespace wan_flow {

void say(const nlohmann::json& line);

// True when SIGTERM or SIGINT came within `wait_ms`. The signals are blocked by main() before any
// thread exists.
class StopSignal {
  public:
    StopSignal();
    ~StopSignal();
    StopSignal(const StopSignal&) = delete;
    StopSignal& operator=(const StopSignal&) = delete;
    bool wait_ms(int timeout_ms) const;

  private:
    int fd_;
};

// Waits for `fd` and resets it; at most 50 ms, so that a thread sees a stop request soon.
void await_event(int fd);
void drain_events(evac::wan::Transport& transport);

evac::Result<nlohmann::json> run_sender(const Options& options, evac::wan::Transport& transport,
                                        const evac::Clock& clock, const StopSignal& stop);
nlohmann::json run_receiver(const Options& options, evac::wan::Transport& transport,
                            const evac::Clock& clock, const StopSignal& stop);

}  // namespace wan_flow
