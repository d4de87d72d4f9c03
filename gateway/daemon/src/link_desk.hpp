#pragma once
// The line as an operator sees it, and `evacctl link test`: for some seconds class bulk is kept
// full with ballast behind whatever is really sent, while control messages of 1 KiB are timed. So
// it says what an evacuation would find, and what control costs meanwhile. Owner: the control
// thread.
//
//   start -> (1/5 of the time to come up to speed) -> measured -> result()
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/result.hpp"
#include "evac/wan/transport.hpp"
#include "peer_link.hpp"
#include "reducer_stage.hpp"

namespace evac::daemon {

inline constexpr double kLinkTestSecondsMin = 1;
inline constexpr double kLinkTestSecondsMax = 300;

class LinkDesk {
  public:
    LinkDesk(wan::Transport& transport, PeerLink& link, ReducerStage& reducer, const Clock& clock)
        : transport_(transport), link_(link), reducer_(reducer), clock_(clock) {}

    // Errors: refused while one runs. The caller sees to it that no evacuation runs.
    Status start(double seconds);
    // An alert goes before a test.
    void stop(const char* why);
    bool running() const { return running_; }
    void tick();
    void on_echo(const protocol::Echo& echo);
    // The present or last test: {"running", "seconds", "goodput_mbit", ...}; null before the first.
    nlohmann::json result() const;
    // The line now: rate, round trip, losses, queues per class.
    nlohmann::json link_json(const std::string& port_name) const;

  private:
    struct Sample {
        uint64_t ns = 0;
        wan::Stats stats;
    };
    Sample sample() const { return {clock_.now_ns(), transport_.stats()}; }
    void finish();

    wan::Transport& transport_;
    PeerLink& link_;
    ReducerStage& reducer_;
    const Clock& clock_;

    bool running_ = false;
    bool tested_ = false;
    std::string cut_;  // why the last test ended early
    double seconds_ = 0;
    wan::SessionId session_{};
    uint64_t begun_ns_ = 0, measure_from_ns_ = 0, until_ns_ = 0, next_echo_ns_ = 0;
    uint64_t idle_rtt_ns_ = 0;
    uint64_t echoes_ = 0;
    Sample from_, to_;
    std::vector<uint64_t> echo_rtt_ns_;  // at most kLinkTestSecondsMax / the interval
};

}  // namespace evac::daemon
