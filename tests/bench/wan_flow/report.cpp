#include "report.hpp"

#include <sys/resource.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace wan_flow {
namespace {

// A line such as "VmRSS:     1234 kB" of /proc/self/status.
size_t status_bytes(const std::string& name) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind(name + ":", 0) == 0) return std::stoul(line.substr(name.size() + 1)) * 1024;
    }
    return 0;
}

}  // namespace

size_t rss_bytes() {
    return status_bytes("VmRSS");
}

size_t peak_rss_bytes() {
    return status_bytes("VmHWM");
}

void reset_peak_rss() {
    std::ofstream("/proc/self/clear_refs") << "5";
}

double process_cpu_s() {
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval& t) {
        return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
    };
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

size_t memory_limit_bytes(const evac::wan::TransportConfig& config) {
    size_t sum = 0;
    for (const auto& limits : config.endpoint.classes) {
        sum += limits.send_bytes_max + limits.receive_bytes_max + config.receive_ring_bytes +
               config.send_buffer_bytes;
    }
    return sum;
}

nlohmann::json stats_json(const evac::wan::Stats& stats) {
    nlohmann::json json{
        {"sessions", stats.sessions},
        {"rtt_smoothed_us", stats.rtt_smoothed_ns / 1000},
        {"rtt_min_us", stats.rtt_min_ns / 1000},
        {"delivery_rate_bits_per_s", stats.delivery_rate_bits_per_s},
        {"pacing_rate_bits_per_s", stats.pacing_rate_bits_per_s},
        {"window_bytes", stats.window_bytes},
        {"loss_ppm", stats.loss_ppm},
        {"packets_sent", stats.packets_sent},
        {"packets_received", stats.packets_received},
        {"packets_lost", stats.packets_lost},
        {"packets_spurious", stats.packets_spurious},
        {"bytes_sent", stats.bytes_sent},
        {"bytes_received", stats.bytes_received},
        {"probes_sent", stats.probes_sent},
        {"rekeys", stats.rekeys},
    };
    for (size_t i = 0; i < evac::wan::kClasses; ++i) {
        const auto& c = stats.classes[i];
        json["classes"][evac::wan::to_string(static_cast<evac::wan::Class>(i))] = {
            {"sent_bytes", c.sent_bytes},
            {"received_bytes", c.received_bytes},
            {"retransmitted_bytes", c.retransmitted_bytes}};
    }
    json["drops"] = nlohmann::json::object();
    for (size_t i = 0; i < evac::wan::kDropReasons; ++i) {
        if (stats.drops[i] != 0)
            json["drops"][evac::wan::to_string(static_cast<evac::wan::DropReason>(i))] =
                stats.drops[i];
    }
    return json;
}

nlohmann::json port_json(const evac::wan_port::PortCounters& counters) {
    return {
        {"tx_packets", counters.tx_packets},          {"tx_dropped", counters.tx_dropped},
        {"rx_packets", counters.rx_packets},          {"rx_not_ours", counters.rx_not_ours},
        {"rx_malformed", counters.rx_malformed},      {"rx_bad_checksum", counters.rx_bad_checksum},
        {"rx_ring_dropped", counters.rx_ring_dropped}};
}

}  // namespace wan_flow
