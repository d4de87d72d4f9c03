#include "evac/evacuation/handover_types.hpp"

namespace evac::evacuation {

const char* to_string(State state) {
    switch (state) {
        case State::protected_:
            return "protected";
        case State::armed:
            return "armed";
        case State::draining:
            return "draining";
        case State::frozen:
            return "frozen";
        case State::sealed:
            return "sealed";
        case State::committed:
            return "committed";
        case State::running_away:
            return "running_away";
        case State::released:
            return "released";
        case State::aborted:
            return "aborted";
        case State::lost:
            return "lost";
    }
    return "?";
}

const char* to_string(Role role) {
    return role == Role::home ? "home" : "away";
}

const char* to_string(ActKind kind) {
    switch (kind) {
        case ActKind::send_message:
            return "send_message";
        case ActKind::report:
            return "report";
        case ActKind::start_drain:
            return "start_drain";
        case ActKind::stop_guest:
            return "stop_guest";
        case ActKind::capture_final:
            return "capture_final";
        case ActKind::send_final:
            return "send_final";
        case ActKind::stop_capture:
            return "stop_capture";
        case ActKind::resume_guest:
            return "resume_guest";
        case ActKind::destroy_source:
            return "destroy_source";
        case ActKind::prepare_landing:
            return "prepare_landing";
        case ActKind::run_landing:
            return "run_landing";
        case ActKind::cancel_landing:
            return "cancel_landing";
        case ActKind::adopt_vm:
            return "adopt_vm";
    }
    return "?";
}

}  // namespace evac::evacuation
