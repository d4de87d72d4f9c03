#include "evac/wan/types.hpp"

namespace evac::wan {

const char* to_string(Class c) {
    constexpr std::array<const char*, kClasses> names{"control", "demand", "disk", "bulk"};
    return index(c) < names.size() ? names[index(c)] : "?";
}

const char* to_string(RateMode mode) {
    switch (mode) {
        case RateMode::startup:
            return "startup";
        case RateMode::steady:
            return "steady";
        case RateMode::compete:
            return "compete";
        case RateMode::drain:
            return "drain";
    }
    return "unknown";
}

const char* to_string(SessionState state) {
    switch (state) {
        case SessionState::down:
            return "down";
        case SessionState::handshaking:
            return "handshaking";
        case SessionState::up:
            return "up";
        case SessionState::silent:
            return "silent";
    }
    return "?";
}

const char* to_string(SendResult result) {
    switch (result) {
        case SendResult::ok:
            return "ok";
        case SendResult::full:
            return "full";
        case SendResult::session_changed:
            return "session_changed";
        case SendResult::not_connected:
            return "not_connected";
        case SendResult::invalid:
            return "invalid";
    }
    return "?";
}

const char* to_string(Dropped::Reason reason) {
    switch (reason) {
        case Dropped::Reason::expired:
            return "expired";
        case Dropped::Reason::cancelled:
            return "cancelled";
        case Dropped::Reason::too_late:
            return "too_late";
    }
    return "?";
}

const char* to_string(DropReason reason) {
    constexpr std::array<const char*, kDropReasons> names{"too_short",
                                                          "unknown_type",
                                                          "bad_version",
                                                          "wrong_address",
                                                          "unknown_session",
                                                          "bad_phase",
                                                          "replayed",
                                                          "too_old",
                                                          "bad_tag",
                                                          "malformed_frame",
                                                          "flow_violation",
                                                          "reassembly_full",
                                                          "handshake_malformed",
                                                          "handshake_no_cookie",
                                                          "handshake_unexpected",
                                                          "handshake_limited",
                                                          "handshake_failed",
                                                          "hint_ignored"};
    const auto i = static_cast<size_t>(reason);
    return i < names.size() ? names[i] : "?";
}

}  // namespace evac::wan
