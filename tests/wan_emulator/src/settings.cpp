#include "settings.hpp"

#include <net/if.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace wan_emulator {
namespace {

using evac::Errc;
using evac::Error;
using evac::Result;
using evac::Status;

constexpr double kRateMax = 100e9;
constexpr double kDelayMsMax = 60'000;
constexpr double kDurationMaxS = 7 * 86400.0;
constexpr size_t kQuotedMax = 64;

Error not_accepted(std::string_view name, std::string_view value, const std::string& accepted) {
    return evac::make_error(Errc::invalid_argument, std::string(name) + " '" +
                                                        std::string(value.substr(0, kQuotedMax)) +
                                                        "': expected " + accepted);
}

// A finite decimal number at the front of `text`, which then holds the rest.
std::optional<double> take_number(std::string_view& text) {
    double value = 0;
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    if (error != std::errc{} || !std::isfinite(value)) return std::nullopt;
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    return value;
}

Result<uint64_t> parse_ms(std::string_view name, std::string_view text) {
    const auto value = parse_number(name, text, 0, kDelayMsMax);
    if (!value.ok()) return value.error();
    return static_cast<uint64_t>(std::llround(*value * 1e6));
}

Result<uint64_t> parse_integer(std::string_view name, std::string_view text, uint64_t min,
                               uint64_t max) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value < min || value > max) {
        return not_accepted(
            name, text,
            "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
    }
    return value;
}

// MEANLOSS:MEANBURST, loss in percent.
Status parse_ge(std::string_view name, std::string_view text, LinkSettings& settings) {
    const std::string accepted =
        "MEANLOSS:MEANBURST, loss 0 to 50 in percent, burst 1 to 10000 in packets, or off";
    if (text == "off") {
        settings.ge_loss = 0;
        settings.ge_burst = 1;
        return {};
    }
    std::string_view rest = text;
    const auto loss = take_number(rest);
    if (!loss || rest.empty() || rest[0] != ':') return not_accepted(name, text, accepted);
    rest.remove_prefix(1);
    const auto burst = take_number(rest);
    if (!burst || !rest.empty() || *loss < 0 || *loss > 50 || *burst < 1 || *burst > 10000) {
        return not_accepted(name, text, accepted);
    }
    settings.ge_loss = *loss / 100;
    settings.ge_burst = *burst;
    return {};
}

Status parse_outage(std::string_view name, std::string_view text,
                    std::vector<OutagePlan>& outages) {
    const size_t colon = text.find(':');
    const std::string accepted = "AT:FOR such as 5s:2s, counted from the start";
    if (colon == std::string_view::npos) return not_accepted(name, text, accepted);
    const auto at = parse_duration(name, text.substr(0, colon));
    const auto length = parse_duration(name, text.substr(colon + 1));
    if (!at.ok() || !length.ok()) return not_accepted(name, text, accepted);
    if (outages.size() == LinkModel::kOutagesMax / 2) {
        return not_accepted(name, text, "at most " + std::to_string(outages.size()) + " of them");
    }
    outages.push_back({*at, *length});
    return {};
}

Status parse_interface(std::string_view name, std::string_view text, std::string& interface) {
    if (text.empty() || text.size() >= IFNAMSIZ)
        return not_accepted(name, text, "an interface's name");
    interface = std::string(text);
    return {};
}

template <class T>
Status assign(Result<uint64_t> parsed, T& target) {
    if (!parsed.ok()) return parsed.error();
    target = static_cast<T>(*parsed);
    return {};
}

Status apply_option(Options& options, std::string_view name, std::string_view value) {
    const std::string dashed = "--" + std::string(name);
    if (name == "a") return parse_interface(dashed, value, options.interface_a);
    if (name == "b") return parse_interface(dashed, value, options.interface_b);
    if (name == "outage") return parse_outage(dashed, value, options.outages);
    if (name == "seed") return assign(parse_integer(dashed, value, 0, UINT64_MAX), options.seed);
    if (name == "packets-max")
        return assign(parse_integer(dashed, value, 16, 1 << 20), options.packets_max);
    if (name == "grain-us") {
        EVAC_TRY(assign(parse_integer(dashed, value, 1, 10'000), options.grain_ns));
        options.grain_ns *= 1000;
        return {};
    }
    if (name == "control") {
        if (value.empty() || value.size() > 100)
            return not_accepted(dashed, value, "a path of 1 to 100 bytes");
        options.control_path = std::string(value);
        return {};
    }
    const Status status = apply_setting(options.link, name, value);
    if (status.ok()) return {};
    if (status.error().code == Errc::not_found) {
        return evac::make_error(
            Errc::invalid_argument,
            "unknown option '" + dashed.substr(0, kQuotedMax) + "'; see --help");
    }
    return evac::make_error(status.error().code, "--" + status.error().context);
}

std::vector<std::string_view> words_of(std::string_view line) {
    std::vector<std::string_view> words;
    while (words.size() < 5) {
        const size_t start = line.find_first_not_of(" \t\r\n");
        if (start == std::string_view::npos) break;
        line.remove_prefix(start);
        const size_t end = std::min(line.find_first_of(" \t\r\n"), line.size());
        words.push_back(line.substr(0, end));
        line.remove_prefix(end);
    }
    return words;
}

}  // namespace

Result<double> parse_number(std::string_view name, std::string_view text, double min, double max) {
    std::string_view rest = text;
    const auto value = take_number(rest);
    if (!value || !rest.empty() || *value < min || *value > max) {
        const auto shown = [](double bound) { return std::to_string(static_cast<int64_t>(bound)); };
        return not_accepted(name, text, "a number from " + shown(min) + " to " + shown(max));
    }
    return *value;
}

Result<uint64_t> parse_rate(std::string_view name, std::string_view text) {
    const std::string accepted = "a rate such as 50mbit, 1.5gbit or 800kbit, or 0 for no limit";
    std::string_view rest = text;
    const auto value = take_number(rest);
    double scale = 0;
    if (rest == "gbit") scale = 1e9;
    if (rest == "mbit") scale = 1e6;
    if (rest == "kbit") scale = 1e3;
    if (rest == "bit" || text == "0") scale = 1;
    if (!value || scale == 0 || *value < 0 || *value * scale > kRateMax)
        return not_accepted(name, text, accepted);
    const double rate = std::round(*value * scale);
    // Below 1 kbit/s one packet takes minutes: a slip of the pen.
    if (rate != 0 && rate < 1000) return not_accepted(name, text, accepted + "; at least 1kbit");
    return static_cast<uint64_t>(rate);
}

Result<uint64_t> parse_duration(std::string_view name, std::string_view text) {
    std::string_view rest = text;
    const auto value = take_number(rest);
    double scale = 0;
    if (rest.empty() || rest == "s") scale = 1;
    if (rest == "ms") scale = 1e-3;
    if (rest == "us") scale = 1e-6;
    if (!value || scale == 0 || *value < 0 || *value * scale > kDurationMaxS) {
        return not_accepted(name, text, "a duration such as 2s, 300ms or 2, at most 7 days");
    }
    return static_cast<uint64_t>(std::llround(*value * scale * 1e9));
}

Status apply_setting(LinkSettings& settings, std::string_view name, std::string_view value) {
    if (name == "rate") return assign(parse_rate(name, value), settings.rate_bits_per_s);
    if (name == "delay-ms") return assign(parse_ms(name, value), settings.delay_ns);
    if (name == "jitter-ms") return assign(parse_ms(name, value), settings.jitter_ns);
    if (name == "ge") return parse_ge(name, value, settings);
    if (name == "rtt-ms") {
        EVAC_TRY(assign(parse_ms(name, value), settings.delay_ns));
        settings.delay_ns /= 2;
        return {};
    }
    if (name == "loss") {
        const auto percent = parse_number(name, value, 0, 100);
        if (!percent.ok()) return percent.error();
        settings.loss = *percent / 100;
        return {};
    }
    if (name == "queue-kib") {
        const auto kib = parse_integer(name, value, 0, 1U << 20);
        if (!kib.ok()) return kib.error();
        settings.queue_bytes = *kib * 1024;
        return {};
    }
    return evac::make_error(Errc::not_found,
                            "unknown setting '" + std::string(name.substr(0, kQuotedMax)) + "'");
}

Result<Options> parse_arguments(const std::vector<std::string>& arguments) {
    Options options;
    for (size_t i = 0; i < arguments.size(); ++i) {
        std::string_view word = arguments[i];
        if (word == "--help" || word == "-h") {
            options.help = true;
            return options;
        }
        if (!word.starts_with("--")) {
            return not_accepted("argument", word, "an option that starts with --; see --help");
        }
        word.remove_prefix(2);
        std::string_view value;
        if (const size_t equals = word.find('='); equals != std::string_view::npos) {
            value = word.substr(equals + 1);
            word = word.substr(0, equals);
        } else if (++i < arguments.size()) {
            value = arguments[i];
        } else {
            return evac::make_error(
                Errc::invalid_argument,
                "--" + std::string(word.substr(0, kQuotedMax)) + ": value missing");
        }
        EVAC_TRY(apply_option(options, word, value));
    }
    for (const auto& [name, interface] :
         {std::pair{"--a", &options.interface_a}, {"--b", &options.interface_b}}) {
        if (interface->empty()) return not_accepted(name, "", "an interface's name");
    }
    if (options.interface_a == options.interface_b) {
        return not_accepted("--b", options.interface_b, "another interface than --a");
    }
    return options;
}

Result<Command> parse_command(std::string_view line) {
    const auto words = words_of(line);
    const std::string accepted =
        "rate|rtt-ms|delay-ms|jitter-ms|loss|ge|queue-kib VALUE [a-b|b-a], outage FOR [a-b|b-a], "
        "stats or help";
    if (words.empty()) return not_accepted("command", "", accepted);
    Command command;
    command.name = std::string(words[0].substr(0, kQuotedMax));
    if (words.size() == 1 && (words[0] == "stats" || words[0] == "help")) {
        command.kind = words[0] == "stats" ? Command::Kind::stats : Command::Kind::help;
        return command;
    }
    if (words.size() < 2 || words.size() > 3) return not_accepted("command", line, accepted);
    if (words.size() == 3) {
        if (words[2] != "a-b" && words[2] != "b-a")
            return not_accepted("direction", words[2], "a-b or b-a");
        command.a_to_b = words[2] == "a-b";
        command.b_to_a = !command.a_to_b;
    }
    if (words[0] == "outage") {
        command.kind = Command::Kind::outage;
        EVAC_TRY(assign(parse_duration("outage", words[1]), command.outage_ns));
        return command;
    }
    command.kind = Command::Kind::set;
    command.value = std::string(words[1]);
    LinkSettings scratch;
    const Status status = apply_setting(scratch, command.name, command.value);
    if (!status.ok() && status.error().code == Errc::not_found)
        return not_accepted("command", line, accepted);
    EVAC_TRY(status);
    return command;
}

std::string usage() {
    return "usage: wan-emulator --a IF --b IF [options]\n"
           "Joins two Ethernet interfaces of this network namespace through an emulated WAN link, "
           "both ways.\n"
           "  --rate RATE          e.g. 100mbit (default), 1gbit, 0 = unlimited; of Ethernet "
           "frames\n"
           "  --rtt-ms N           round trip, half each way (default 20)\n"
           "  --jitter-ms N        adds 0 to N each way, order kept (default 0)\n"
           "  --loss PERCENT       independent loss (default 0)\n"
           "  --ge LOSS:BURST      Gilbert-Elliott: mean loss in percent, mean burst in packets "
           "(default off)\n"
           "  --queue-kib N        drop-tail queue (default 256)\n"
           "  --outage AT:FOR      nothing passes from AT for FOR, e.g. 5s:2s; repeatable\n"
           "  --seed N             of the losses and the jitter (default 1)\n"
           "  --control PATH       Unix socket for lines such as 'rate 50mbit', 'loss 1', 'outage "
           "2s', 'stats'\n"
           "  --grain-us N         a busy emulator wakes this often; packets are up to N late "
           "(default 200)\n"
           "  --packets-max N      on the way at once, each direction (default 32768)\n"
           "Ends on SIGTERM or SIGINT and prints its counters as JSON. Exit codes: 0 ended, 1 "
           "error, 2 usage.\n"
           "Switch the offloads of the ends off (ethtool -K IF tx off rx off sg off tso off gso "
           "off gro off).\n";
}

}  // namespace wan_emulator
