#include "link_desk.hpp"

#include <algorithm>

namespace evac::daemon {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kEchoEveryNs = 20 * kNsPerMs;
constexpr size_t kEchoBytes = 1024;
constexpr double kWarmUpShare = 0.2;
constexpr uint64_t kAnswersNs = kNsPerSecond;  // waits so long for the last echoes

double mbit(uint64_t bits) {
    return static_cast<double>(bits) / 1e6;
}
double ms(uint64_t ns) {
    return static_cast<double>(ns) / 1e6;
}

double percentile_ms(std::vector<uint64_t> values, double share) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    return ms(values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))]);
}

uint64_t acked_bytes(const wan::Stats& stats) {
    uint64_t total = 0;
    for (const auto& c : stats.classes) total += c.acked_bytes;
    return total;
}

Json fec_json(const wan::Stats& stats) {
    return {{"active", stats.fec_active != 0},
            {"parity_sent", stats.fec_packets_sent},
            {"parity_received", stats.fec_packets_received},
            {"recovered", stats.fec_recovered},
            {"recovered_by_peer", stats.fec_recovered_by_peer}};
}

}  // namespace

Status LinkDesk::start(double seconds) {
    if (running_) return make_error(Errc::refused, "a test of the link runs already");
    if (!link_.up()) return make_error(Errc::unavailable, "the peer is not connected");
    running_ = tested_ = true;
    cut_.clear();
    seconds_ = seconds;
    session_ = link_.session();
    begun_ns_ = next_echo_ns_ = clock_.now_ns();
    const auto length_ns = static_cast<uint64_t>(seconds * 1e9);
    measure_from_ns_ = begun_ns_ + static_cast<uint64_t>(seconds * kWarmUpShare * 1e9);
    until_ns_ = begun_ns_ + length_ns;
    echoes_ = 0;
    echo_rtt_ns_.clear();
    from_ = to_ = {};
    idle_rtt_ns_ = transport_.stats().rtt_min_ns;
    reducer_.command(to_reducer::SendBallast{until_ns_});
    return {};
}

void LinkDesk::stop(const char* why) {
    if (!running_) return;
    cut_ = why;
    finish();
}

void LinkDesk::finish() {
    running_ = false;
    if (to_.ns == 0) to_ = sample();
    reducer_.command(to_reducer::SendBallast{0});
}

void LinkDesk::tick() {
    if (!running_) return;
    if (link_.session() != session_) return stop("the session with the peer was lost");
    const uint64_t now_ns = clock_.now_ns();
    if (from_.ns == 0 && now_ns >= measure_from_ns_) from_ = sample();
    if (to_.ns == 0 && now_ns >= until_ns_) to_ = sample();
    if (to_.ns != 0) {
        if (echo_rtt_ns_.size() == echoes_ || now_ns >= until_ns_ + kAnswersNs) finish();
        return;
    }
    if (now_ns < next_echo_ns_) return;
    next_echo_ns_ = now_ns + kEchoEveryNs;
    ++echoes_;
    link_.send(protocol::Echo{now_ns, false, Bytes(kEchoBytes)});
}

void LinkDesk::on_echo(const protocol::Echo& echo) {
    if (!echo.reply) {
        link_.send(protocol::Echo{echo.nonce, true, echo.filler});
        return;
    }
    const uint64_t now_ns = clock_.now_ns();
    // What a former test asked is not this one's.
    if (!running_ || echo.nonce < begun_ns_ || echo.nonce > now_ns) return;
    if (echo_rtt_ns_.size() < echoes_) echo_rtt_ns_.push_back(now_ns - echo.nonce);
}

Json LinkDesk::result() const {
    if (!tested_) return {};
    Json out{{"running", running_}, {"seconds", seconds_}, {"cut", cut_}};
    const double elapsed_s = static_cast<double>(clock_.now_ns() - begun_ns_) / 1e9;
    out["elapsed_s"] = running_ ? std::min(elapsed_s, seconds_) : seconds_;
    const bool measured = from_.ns != 0 && to_.ns > from_.ns;
    if (running_ || !measured) return out;
    const double span_s = static_cast<double>(to_.ns - from_.ns) / 1e9;
    const uint64_t bytes = acked_bytes(to_.stats) - acked_bytes(from_.stats);
    const uint64_t sent = to_.stats.packets_sent - from_.stats.packets_sent;
    const uint64_t lost = to_.stats.packets_lost - from_.stats.packets_lost;
    out["measured_s"] = span_s;
    out["goodput_mbit"] = static_cast<double>(bytes) * 8 / 1e6 / span_s;
    out["loss_pct"] = sent == 0 ? 0 : 100 * static_cast<double>(lost) / static_cast<double>(sent);
    out["rtt_before_ms"] = ms(idle_rtt_ns_);
    out["control"] = {{"sent", echoes_},
                      {"answered", echo_rtt_ns_.size()},
                      {"rtt_ms_median", percentile_ms(echo_rtt_ns_, 0.5)},
                      {"rtt_ms_p99", percentile_ms(echo_rtt_ns_, 0.99)},
                      {"rtt_ms_max", percentile_ms(echo_rtt_ns_, 1)}};
    return out;
}

Json LinkDesk::link_json(const std::string& port_name) const {
    const wan::Stats stats = transport_.stats();
    Json classes = Json::array();
    for (size_t i = 0; i < wan::kClasses; ++i) {
        const auto& c = stats.classes[i];
        classes.push_back({{"class", wan::to_string(static_cast<wan::Class>(i))},
                           {"queued_bytes", c.queued_bytes},
                           {"unsent_bytes", c.unsent_bytes},
                           {"sent_bytes", c.sent_bytes},
                           {"received_bytes", c.received_bytes},
                           {"retransmitted_bytes", c.retransmitted_bytes},
                           {"parity_bytes", c.parity_bytes}});
    }
    Json drops = Json::object();
    for (size_t i = 0; i < wan::kDropReasons; ++i) {
        if (stats.drops[i] != 0)
            drops[wan::to_string(static_cast<wan::DropReason>(i))] = stats.drops[i];
    }
    return {{"port", port_name},
            {"state", wan::to_string(transport_.state())},
            {"rtt_ms", ms(stats.rtt_smoothed_ns)},
            {"rtt_min_ms", ms(stats.rtt_min_ns)},
            {"delivery_mbit", mbit(stats.delivery_rate_bits_per_s)},
            {"pacing_mbit", mbit(stats.pacing_rate_bits_per_s)},
            {"ceiling_mbit", mbit(stats.ceiling_bits_per_s)},
            {"loss_pct", static_cast<double>(stats.loss_ppm) / 1e4},
            {"loss_burst", static_cast<double>(stats.loss_burst_milli) / 1e3},
            {"queue_delay_ms", ms(stats.queue_delay_ns)},
            {"rate_mode", wan::to_string(static_cast<wan::RateMode>(stats.rate_mode))},
            {"scavenging", stats.scavenging != 0},
            {"path_mtu_bytes", stats.path_mtu_bytes},
            {"path_changes", stats.path_changes},
            {"fec", fec_json(stats)},
            {"memory_bytes", stats.memory_bytes},
            {"memory_bytes_max", stats.memory_bytes_max},
            {"inflight_bytes", stats.inflight_bytes},
            {"window_bytes", stats.window_bytes},
            {"sessions", stats.sessions},
            {"rekeys", stats.rekeys},
            {"packets_sent", stats.packets_sent},
            {"packets_received", stats.packets_received},
            {"packets_lost", stats.packets_lost},
            {"packets_spurious", stats.packets_spurious},
            {"bytes_sent", stats.bytes_sent},
            {"bytes_received", stats.bytes_received},
            {"silent_ms", ms(stats.silent_ns)},
            {"classes", classes},
            {"drops", drops}};
}

}  // namespace evac::daemon
