#pragma once
// Values shared by both sides of a handover. Plain data; any thread may hold copies.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/ids.hpp"
#include "evac/evacuation/handover_message.hpp"

namespace evac::evacuation {

// Both clocks at one instant; every entry point takes one, nothing here reads a clock.
struct Now {
    uint64_t ns = 0;      // monotonic; durations and timers
    int64_t unix_ms = 0;  // for people, and for durations across a restart

    static Now of(const Clock& clock) { return {clock.now_ns(), clock.wall_unix_ms()}; }
};

enum class Role : uint8_t { home = 1, away = 2 };

// One list for both sides; `draining` and `frozen` do not occur at away. What each state permits is
// the tables' business (home_handover.hpp, away_handover.hpp). The numbers are in the journal:
// never reuse one.
enum class State : uint8_t {
    protected_ = 1,  // home runs it, away holds recovery points, no handover under way
    armed = 2,       // home: an alert is expected to become an evacuation; away: PREPARE accepted
    draining = 3,    // home: the VM's turn has begun, the guest still runs
    frozen = 4,      // home: the guest stands still, the last capture runs, no final SEAL was sent
    sealed = 5,      // home: the final SEAL may have been sent; away: it is applied completely
    committed = 6,   // the right to run is away's
    running_away = 7,  // it runs at away; home destroys its stopped source
    released = 8,      // end: it is away's own VM
    aborted =
        9,      // home: way back, the guest is being resumed; away: gave this handover up for good
    lost = 10,  // nobody can go on without an operator (see README.md)
};
inline constexpr State kStates[] = {
    State::protected_, State::armed,        State::draining, State::frozen,  State::sealed,
    State::committed,  State::running_away, State::released, State::aborted, State::lost};

const char* to_string(State state);
const char* to_string(Role role);

// How one handover is to be done. Fixed when its turn begins; away learns it from PREPARE.
struct HandoverOptions {
    Policy policy = Policy::planned;
    // evacuation: away, once sealed, runs after home was silent for this long. Must be >= 1000
    // then.
    uint32_t silence_ms = 10'000;
    // Away lands the guest paused and waits for release_hold (or silence, under `evacuation`).
    bool hold_landing = false;
    // Home goes back by itself when the guest stood still for this long and it may still decide
    // alone (frozen; sealed only under `planned`). 0 = no limit.
    uint32_t stopped_max_ms = 0;
    // Same, when away was not heard for this long. 0 = never.
    uint32_t away_patience_ms = 15'000;

    bool operator==(const HandoverOptions&) const = default;
};

// send_message, report and adopt_vm happen at once, in the order in which they were issued. All
// other acts of one VM happen one after the other, also in that order, over all calls (a stop_guest
// must not overtake an earlier resume_guest); those marked "-> ..." answer exactly once, except
// that a capture (or drain) that is still unanswered at stop_capture or at the next capture_final
// ends there and then and need not answer (a late answer does no harm).
enum class ActKind : uint8_t {
    // Either side.
    send_message,  // `message` to the peer on the control class, in order
    report,        // `text` is for the operator (conflicts, forced acts)

    // Home; the answers are HomeEvents, made with answer().
    // Final live work -> drained | drain_failed | guest_gone
    start_drain,
    // Stopping a stopped guest is success -> guest_stopped | stop_failed | guest_gone
    stop_guest,
    // One pass over the stopped guest; supersedes any capture of this VM. May answer at once when a
    // complete capture of this very stop is still held and nothing of it was lost
    // -> captured{epoch} | capture_failed
    capture_final,
    // Data plane: SEAL(vm, epoch, handover) after all pages; away answers with messages. Nothing to
    // do when `epoch` was superseded meanwhile.
    send_final,
    // Drop live work, final capture and unsent pages of this handover.
    stop_capture,
    // Resuming a running guest is success -> guest_resumed | resume_failed | guest_gone
    resume_guest,
    // The source must never run again: quit QEMU, keep the disks aside
    // -> source_destroyed | destroy_failed
    destroy_source,

    // Away; the answers are AwayEvents, made with answer().
    // Compatibility check, start QEMU waiting; ends the one of an older handover
    // -> landing_prepared | landing_refused
    prepare_landing,
    // Land the sealed copy (prepares if needed); `paused`: do not let it run. Landing a running
    // guest is success. `replayed`: an earlier process of this daemon may have done it already
    // -> landed | landed_paused | landing_failed (it certainly never ran, and the process is gone)
    //    | landing_lost (it ran, or may have, and is gone)
    run_landing,
    // End the landing process; ending nothing is success -> landing_cancelled
    cancel_landing,
    // Home has destroyed its source: the VM is ours.
    adopt_vm,
};
const char* to_string(ActKind kind);

// What the daemon must do now. Idempotent: every act may be issued again after a restart.
struct Act {
    ActKind kind{};
    Role role{};  // on whose behalf
    VmId vm{};
    HandoverId handover{};
    uint32_t ticket = 0;    // the answer carries it, with the handover; see answer()
    Epoch epoch{};          // send_final
    uint32_t attempt = 0;   // run_landing: 1..kLandingAttemptsMax
    bool paused = false;    // run_landing
    bool replayed = false;  // run_landing
    Message message{};      // send_message
    std::string text;       // report, and the reason of stop_capture, resume_guest, cancel_landing

    bool operator==(const Act&) const = default;
};
using Acts = std::vector<Act>;

inline constexpr uint32_t kSilenceMinMs =
    1000;  // less would let away run beside a home that hiccups
inline constexpr uint32_t kLandingAttemptsMax = 3;
inline constexpr uint32_t kCaptureAttemptsMax = 3;  // failed captures or seals in one handover
inline constexpr uint32_t kResumeAttemptsMax = 5;
inline constexpr uint64_t kResendNs = 2'000'000'000;  // a message that got no answer is sent again
inline constexpr size_t kTextMax = 256;               // bytes of a reason; longer ones are cut

}  // namespace evac::evacuation
