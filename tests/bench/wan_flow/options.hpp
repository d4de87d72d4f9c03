#pragma once
// Command line of wan-flow. Values are checked here; the errors name field, value, accepted.
#include <cstddef>
#include <optional>
#include <string>

#include "evac/wan/tls_config.hpp"
#include "evac/wan_port/address.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace wan_flow {

enum class Role { send, receive };  // send connects, receive listens

struct Options {
    Role role = Role::send;
    std::string port;  // "kernel" or "dpdk:DEVICE", as in the daemon's configuration
    evac::wan_port::UdpAddress local;
    evac::wan_port::UdpAddress peer;
    evac::wan::TlsFiles tls;
    double seconds = 0;             // send: of load; receive: at most so long
    size_t bulk_bytes = 64 * 1024;  // of a bulk message; 0 = no bulk
    double control_per_s = 0;       // 0 = no control messages
    double control_after_s = 2;     // the first one, counted from the start of the load
    size_t control_bytes = 1024;    // of a control message
    double ceiling_mbit = 0;        // 0 = the transport's own default
    bool scavenger = false;
};

// Empty when the program should end with `exit_code` (help, or a bad command line, already said).
std::optional<Options> parse_options(int argc, char** argv, int& exit_code);

}  // namespace wan_flow
