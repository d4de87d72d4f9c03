#pragma once
// Which way a VM is captured, and why: decided at enrolment, and again when its heat changes.
//
//   mapped      memory read in place; needs shared memory that we can map
//   sealed      rounds with background-snapshot: a consistent point, the guest runs meanwhile
//   continuous  a pre-copy kept open, sealed from time to time (RoundMethod::precopy_live); for
//               hot guests, or on demand. KVM alone: under TCG QEMU 7.2 does not re-arm a vCPU's
//               TLB when it reads the dirty bitmap, so that later writes are missed
//   stopped     one pass over the stopped guest; always possible
//
// Order of preference: mapped; continuous if the guest is hot; sealed; stopped. A method that was
// asked for is taken or refused at enrolment, never replaced; a single round may have to go another
// way (gateway/daemon: home_method, pass_method).
//
// Hot, from the dirty model dirty(t) (dirty_model.hpp), with M = memory in MiB, T = time from one
// round to the next, L = time for which a pre-copy stays open, b = its bandwidth in MiB/s, and p =
// the length of its passes in steady state, dirty(p) = b p (no shorter than kPassMinS):
//
//   a round resends M for every dirty(T) that is new; a pre-copy resends M once in L, and dirty(p)
//   in every p. What is not yet captured at any time: dirty(T) there, dirty(p) here.
//
//   hot  <=>  dirty(T) >= kHotMib                 there is something to gain
//        and  dirty(p) <= kHotGain dirty(T)       the backlog gets that much smaller
//        and  M / L + dirty(p) / p <= M / T       and the host does not copy more for it
//
// A guest that is hot stays hot until dirty(T) < kHotMib / 2 or one of the others fails.
//
// Values only; thread-safe.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/prestage/dirty_model.hpp"
#include "evac/prestage/enrolment.hpp"

namespace evac::prestage {

inline constexpr double kHotMib = 64;
inline constexpr double kHotGain = 0.5;
inline constexpr double kPassMinS = 0.1;  // QEMU's window for its rate

enum class CaptureMethod : uint8_t { mapped, sealed, continuous, stopped };
const char* to_string(CaptureMethod method);
// "mapped", "sealed", "continuous", "stopped"; "auto" is nullopt. invalid_argument names `field`,
// the value and what is accepted.
Result<std::optional<CaptureMethod>> parse_capture(std::string_view field, std::string_view text);

struct HeatInputs {
    double memory_mib = 0;        // M
    double round_interval_s = 0;  // T > 0
    double live_s = 0;            // L > 0
    double live_mib_s = 0;        // b > 0
    bool was_hot = false;
};
// Length of a pre-copy's passes in steady state, between kPassMinS and `live_s`.
double steady_pass_s(const std::vector<DirtyTerm>& terms, double live_mib_s, double live_s);
bool is_hot(const std::vector<DirtyTerm>& terms, const HeatInputs& in);

struct MethodInputs {
    const VmFacts& facts;
    std::string mapping_refused;  // why its memory cannot be mapped; empty = it can
    std::optional<CaptureMethod> wanted;
    bool hot = false;
};

struct MethodRejection {
    CaptureMethod method{};
    std::string why;
};
struct MethodChoice {
    CaptureMethod method = CaptureMethod::stopped;
    std::string why;                        // one sentence for the operator
    std::vector<MethodRejection> rejected;  // the other methods, in the order of preference
};

// Errors: refused, when `wanted` is not possible: names the value, why, and what is accepted.
Result<MethodChoice> choose_method(const MethodInputs& in);

}  // namespace evac::prestage
