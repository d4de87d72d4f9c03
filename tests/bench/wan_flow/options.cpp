#include "options.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "evac/wan/types.hpp"

namespace wan_flow {
namespace {

bool take_address(const char* name, const std::string& text, evac::wan_port::UdpAddress& address) {
    const auto parsed = evac::wan_port::parse_udp_address(text);
    if (!parsed.ok()) {
        std::fprintf(stderr, "wan-flow: %s: %s\n", name, parsed.error().message().c_str());
        return false;
    }
    address = *parsed;
    return true;
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv, int& exit_code) {
    constexpr size_t kStampBytes = 16;  // sequence number and time of sending
    Options options;
    std::string role, local, peer;
    CLI::App cli{"wan-flow: one end of a measured flow over the gateway's WAN transport"};
    cli.add_option("--role", role, "send (connects) or receive (listens)")
        ->required()
        ->check(CLI::IsMember({"send", "receive"}));
    cli.add_option("--port", options.port, "kernel, or dpdk:af_packet:INTERFACE")->required();
    cli.add_option("--local", local, "our address, IP:PORT")->required();
    cli.add_option("--peer", peer, "the other end's address, IP:PORT")->required();
    cli.add_option("--cert", options.tls.certificate_file, "PEM")->required();
    cli.add_option("--key", options.tls.key_file, "PEM")->required();
    cli.add_option("--ca", options.tls.ca_file, "PEM")->required();
    cli.add_option("--peer-name", options.tls.expected_peer_name, "in its certificate")->required();
    cli.add_option("--seconds", options.seconds, "send: of load; receive: at most this long")
        ->required()
        ->check(CLI::Range(0.1, 3600.0));
    cli.add_option("--bulk-bytes", options.bulk_bytes, "of a bulk message, 0 = none")
        ->check(CLI::Number & (CLI::Range(size_t{0}, size_t{0}) |
                               CLI::Range(kStampBytes, evac::wan::kMessageBytesMax)));
    cli.add_option("--control-per-s", options.control_per_s, "control messages, 0 = none")
        ->check(CLI::Range(0.0, 10'000.0));
    cli.add_option("--control-after-s", options.control_after_s, "first control message")
        ->check(CLI::Range(0.0, 3600.0));
    cli.add_option("--control-bytes", options.control_bytes, "of a control message")
        ->check(CLI::Range(kStampBytes, evac::wan::kMessageBytesMax));
    cli.add_option("--ceiling-mbit", options.ceiling_mbit, "rate ceiling, 0 = the default")
        ->check(CLI::Range(0.0, 100'000.0));
    cli.add_flag("--scavenger", options.scavenger, "yield to other traffic");
    try {
        cli.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        exit_code = cli.exit(error) == 0 ? 0 : 2;
        return std::nullopt;
    }
    exit_code = 2;
    if (options.port != "kernel" && options.port.rfind("dpdk:", 0) != 0) {
        std::fprintf(stderr,
                     "wan-flow: --port \"%s\": expected kernel or dpdk:af_packet:INTERFACE\n",
                     options.port.c_str());
        return std::nullopt;
    }
    options.role = role == "send" ? Role::send : Role::receive;
    if (!take_address("--local", local, options.local)) return std::nullopt;
    if (!take_address("--peer", peer, options.peer)) return std::nullopt;
    return options;
}

}  // namespace wan_flow
