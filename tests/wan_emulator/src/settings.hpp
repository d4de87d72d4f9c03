#pragma once
// What an operator may say, on the command line and on the control socket alike. Pure: text in,
// values out; an error names the option, the value and what is accepted.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"
#include "link_model.hpp"

namespace wan_emulator {

// "name" is the option's as the user wrote it, for the error text.
evac::Result<uint64_t> parse_rate(std::string_view name,
                                  std::string_view text);  // "50mbit", "1.5gbit", "0"
evac::Result<uint64_t> parse_duration(std::string_view name,
                                      std::string_view text);  // "2s", "300ms", "2" = seconds; ns
evac::Result<double> parse_number(std::string_view name, std::string_view text, double min,
                                  double max);

// Sets the one setting that `name` (without dashes) names: rate, rtt-ms, delay-ms, jitter-ms, loss,
// ge, queue-kib. not_found when it names none.
evac::Status apply_setting(LinkSettings& settings, std::string_view name, std::string_view value);

struct OutagePlan {
    uint64_t at_ns = 0;  // after the start
    uint64_t for_ns = 0;
};

struct Options {
    std::string interface_a, interface_b;
    LinkSettings link;
    std::vector<OutagePlan> outages;
    uint64_t seed = 1;
    std::string control_path;     // empty = no control socket
    uint64_t grain_ns = 500'000;  // how often a busy emulator wakes
    size_t packets_max = 32768;   // on the way at once, each direction
    bool help = false;
};

evac::Result<Options> parse_arguments(const std::vector<std::string>& arguments);
std::string usage();

// A line of the control socket: SETTING VALUE [a-b|b-a], outage FOR [a-b|b-a], stats, help.
struct Command {
    enum class Kind : unsigned char { set, outage, stats, help };
    Kind kind = Kind::help;
    bool a_to_b = true, b_to_a = true;
    std::string name, value;  // set: checked already
    uint64_t outage_ns = 0;
};
evac::Result<Command> parse_command(std::string_view line);

}  // namespace wan_emulator
