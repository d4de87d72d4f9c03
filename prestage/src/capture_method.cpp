#include "evac/prestage/capture_method.hpp"

#include <algorithm>
#include <array>

namespace evac::prestage {
namespace {

constexpr std::array<CaptureMethod, 4> kMethods{CaptureMethod::mapped, CaptureMethod::sealed,
                                                CaptureMethod::continuous, CaptureMethod::stopped};

// Empty: possible.
std::string impossible(CaptureMethod method, const MethodInputs& in) {
    switch (method) {
        case CaptureMethod::mapped:
            return in.mapping_refused;
        case CaptureMethod::sealed:
            if (in.facts.background_snapshot) return {};
            return in.facts.background_snapshot_reason.empty()
                       ? "background-snapshot is not available"
                       : in.facts.background_snapshot_reason;
        case CaptureMethod::continuous:
            if (in.facts.accelerator == "kvm") return {};
            return "accelerator is '" + in.facts.accelerator +
                   "'; kvm is accepted (a capture of several passes loses guest writes under TCG "
                   "in QEMU 7.2)";
        case CaptureMethod::stopped:
            return {};
    }
    return "unknown method";
}

const char* meaning(CaptureMethod method) {
    switch (method) {
        case CaptureMethod::mapped:
            return "its memory is shared and read in place";
        case CaptureMethod::sealed:
            return "background-snapshot works: it runs on while a round is read";
        case CaptureMethod::continuous:
            return "it writes more between two rounds than a pre-copy kept open would leave";
        case CaptureMethod::stopped:
            return "nothing better is possible: it stands still while a round is read";
    }
    return "";
}

// Why a method that is possible was not taken.
std::string passed_over(CaptureMethod method, CaptureMethod chosen, const MethodInputs& in) {
    if (in.wanted.has_value()) return std::string(to_string(chosen)) + " was asked for";
    if (method == CaptureMethod::continuous && !in.hot)
        return "it is not hot: rounds leave no more to send";
    if (method == CaptureMethod::stopped) return "the guest would stand still in every round";
    return std::string(to_string(chosen)) + " is better";
}

std::string possible_methods(const MethodInputs& in) {
    std::string out = "auto";
    for (const CaptureMethod method : kMethods) {
        if (impossible(method, in).empty()) out += std::string(", ") + to_string(method);
    }
    return out;
}

double pass_gap(const std::vector<DirtyTerm>& terms, double mib_s, double seconds) {
    return dirty_mib(terms, seconds) - mib_s * seconds;
}

}  // namespace

const char* to_string(CaptureMethod method) {
    switch (method) {
        case CaptureMethod::mapped:
            return "mapped";
        case CaptureMethod::sealed:
            return "sealed";
        case CaptureMethod::continuous:
            return "continuous";
        case CaptureMethod::stopped:
            return "stopped";
    }
    return "?";
}

Result<std::optional<CaptureMethod>> parse_capture(std::string_view field, std::string_view text) {
    if (text == "auto") return std::optional<CaptureMethod>();
    for (const CaptureMethod method : kMethods) {
        if (text == to_string(method)) return std::optional<CaptureMethod>(method);
    }
    constexpr size_t kEchoMax = 80;
    return make_error(Errc::invalid_argument,
                      std::string(field) + ": '" + std::string(text.substr(0, kEchoMax)) +
                          "' is refused; accepted: auto, mapped, sealed, continuous, stopped");
}

// dirty(p) - b p falls for good once it falls, since dirty is concave: the crossing is bisected.
double steady_pass_s(const std::vector<DirtyTerm>& terms, double live_mib_s, double live_s) {
    double low = kPassMinS, high = std::max(live_s, kPassMinS);
    if (pass_gap(terms, live_mib_s, low) <= 0) return low;
    if (pass_gap(terms, live_mib_s, high) > 0) return high;
    for (int i = 0; i < 60; ++i) {
        const double middle = (low + high) / 2;
        (pass_gap(terms, live_mib_s, middle) > 0 ? low : high) = middle;
    }
    return high;
}

bool is_hot(const std::vector<DirtyTerm>& terms, const HeatInputs& in) {
    if (!(in.memory_mib > 0) || !(in.round_interval_s > 0) || !(in.live_s > 0) ||
        !(in.live_mib_s > 0))
        return false;
    const double rounds_mib = dirty_mib(terms, in.round_interval_s);
    const double pass_s = steady_pass_s(terms, in.live_mib_s, in.live_s);
    const double pass_mib = dirty_mib(terms, pass_s);
    return rounds_mib >= (in.was_hot ? kHotMib / 2 : kHotMib) &&
           pass_mib <= kHotGain * rounds_mib &&
           in.memory_mib / in.live_s + pass_mib / pass_s <= in.memory_mib / in.round_interval_s;
}

Result<MethodChoice> choose_method(const MethodInputs& in) {
    MethodChoice choice;
    if (in.wanted.has_value()) {
        const std::string why_not = impossible(*in.wanted, in);
        if (!why_not.empty()) {
            return make_error(Errc::refused, std::string("capture: '") + to_string(*in.wanted) +
                                                 "' is refused: " + why_not +
                                                 "; accepted for this VM: " + possible_methods(in));
        }
        choice.method = *in.wanted;
        choice.why = "it was asked for";
    } else {
        const auto possible = [&](CaptureMethod method) { return impossible(method, in).empty(); };
        choice.method = possible(CaptureMethod::mapped)                 ? CaptureMethod::mapped
                        : in.hot && possible(CaptureMethod::continuous) ? CaptureMethod::continuous
                        : possible(CaptureMethod::sealed)               ? CaptureMethod::sealed
                                                                        : CaptureMethod::stopped;
        choice.why = meaning(choice.method);
    }
    for (const CaptureMethod method : kMethods) {
        if (method == choice.method) continue;
        std::string why = impossible(method, in);
        if (why.empty()) why = passed_over(method, choice.method, in);
        choice.rejected.push_back({method, std::move(why)});
    }
    return choice;
}

}  // namespace evac::prestage
