#pragma once
// The right to run one VM, seen from home. Sans-I/O: events and time come in, acts come out, the
// journal is written in between. Owner: the control thread.
//
// The protocol (J = journaled durably before the next arrow; names of messages in
// handover_message.hpp):
//
//   home                                            away
//   protected / armed                               protected
//     begin, J draining(h)
//     ---------------- PREPARE(h, policy) ---------->
//     live work                                     J armed(h); compatibility check, QEMU waits
//     <--------------- PREPARED(h) ------------------
//     drained and prepared: J frozen(h)
//     stop guest; capture ~~~~ pages (data) ~~~~~~~~> applied to the log, not to the images
//     captured(e): J sealed(h, e)
//     ~~~~~~~~~~~~~~~~ SEAL(h, e) (data) ~~~~~~~~~~~> applied completely; J sealed(h, e)
//     <--------------- SEALED(h, e) ----------------- | evacuation, home was silent
//     J committed(h)                                | for silence_ms: J committed(h), runs
//     ---------------- COMMIT(h) ------------------->
//                                                   J committed(h), landing n; run it
//     <--------------- RUNNING(h) ------------------- J running_away(h)
//     J running_away(h); destroy the stopped source
//     J released(h)
//     ---------------- RELEASED(h) -----------------> J released(h): its own VM
//
// Why no two copies run. Home resumes only in `aborted`, away lets run only in `committed`.
//   - From draining and frozen: no SEAL(h) was sent, so away cannot be sealed, nor committed, in h.
//   - From sealed, planned: away needs COMMIT(h), which is sent only after J committed(h).
//   - From sealed, evacuation, and from committed: only after ABORTED(h), which away sends only
//     after J aborted(h); from there it never enters committed with h again (ids only grow, and the
//     last one is journaled).
//   No step relies on a clock: after a mistaken silence away runs too early, while home stands
//   still until it is told.
// Why not none. Home destroys only after RUNNING(h), which away sends after the guest ran. A
//   landing that fails for good is given back (J aborted, ABORTED). Every message is a fact that
//   stays true or a question; home repeats its question until it is answered, away repeats
//   RUNNING until RELEASED: after faults end both converge.
// One stop per handover. Between the first stop_guest of h and the end of h the guest never runs at
//   home, so every capture of h has the same content. After a restart or a new session home in
//   `sealed` asks (SEALING), and only if away is NOT_SEALED it captures again, with a later epoch.
//   SEALED(h) counts whatever its epoch.
// Forced acts (force_resume, force_yield; force_run at away) leave these proofs: they need
//   `confirmed`, are journaled as forced, and a contradiction that shows up later is reported.
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "evac/core/result.hpp"
#include "evac/evacuation/handover_types.hpp"
#include "evac/evacuation/journal.hpp"

namespace evac::evacuation {

enum class HomeEventKind : uint8_t {
    // the executor and the operator
    arm,
    disarm,
    begin,         // `options`
    abort,         // go back if that is still possible
    release_hold,  // the held landing may run
    force_resume,  // `confirmed`: run here without away's word
    force_yield,   // `confirmed`: away runs it (it has said so): destroy ours
    // answers to acts; carry the act's handover id, others are ignored
    drained,
    drain_failed,
    guest_stopped,
    stop_failed,
    captured,  // `epoch`
    capture_failed,
    guest_resumed,
    resume_failed,
    guest_gone,
    source_destroyed,
    destroy_failed,
    // raised by the object itself from messages, time and restarts; refused by handle()
    peer_prepared,
    peer_sealed,
    peer_seal_failed,
    peer_not_sealed,
    peer_committed,
    peer_landed_paused,
    peer_running,
    peer_aborted,
    peer_lost,
    peer_conflict,  // away has, or says it has, the right under another handover id
    restarted,
    session_up,
    resend_due,
    stop_limit,
    away_silent,
    count_,
};
inline constexpr HomeEventKind kHomeEventsFromOutside =
    HomeEventKind::peer_prepared;  // those below it
const char* to_string(HomeEventKind kind);

struct HomeEvent {
    HomeEventKind kind{};
    HandoverId handover{};  // answers: that of the act
    uint32_t ticket = 0;    // answers: that of the act
    Epoch epoch{};          // captured
    std::string text;       // reason, for people
    bool confirmed = false;
    HandoverOptions options{};  // begin
};

// The answer to `act`.
HomeEvent answer(const Act& act, HomeEventKind kind, Epoch epoch = {}, std::string text = {});

// Conditions of a row; rows of one (state, event) are tried in order, the first that holds is
// taken.
enum class HomeGuard : uint8_t {
    always,
    planned,           // the handover's policy
    peer_is_prepared,  // PREPARED came
    is_drained,        // the live work is done
    attempts_left,     // of captures and seals, or of resumes
    abort_asked,       // journaled: goes back as soon as away agrees
    resync,            // a restart or a new session: what was sent may be lost
    recapture,         // a new final capture is under way in `sealed`
    peer_runs,         // away said RUNNING where it must not
    unconfirmed,       // away did not yet say that it gave the last handover up
};
// What a row remembers besides the state.
enum class HomeNote : uint8_t {
    none,
    new_handover,  // takes the next id and the options
    drained,
    prepared,
    seal,  // the epoch
    attempt,
    recapture,
    retry,  // attempt and recapture
    resync,
    ask_abort,
    clear_hold,
    forgotten,  // away gave the handover up
    held,       // away has landed it, paused
    away_runs,
    force,
    yield,
};
enum class HomeDo : uint8_t {
    nothing,
    send_prepare,
    send_sealing,
    send_commit,
    send_abort,
    send_released,
    start_drain,
    stop_guest,
    capture_final,
    send_final,
    stop_capture,
    resume_guest,
    destroy_source,
    report,
};
enum class Persist : uint8_t { no, lazy, durable };

struct HomeRow {
    State from{};
    HomeEventKind on{};
    HomeGuard guard = HomeGuard::always;
    State to{};
    Persist persist = Persist::no;
    HomeNote note = HomeNote::none;
    HomeDo acts[3] = {HomeDo::nothing, HomeDo::nothing, HomeDo::nothing};  // in this order
    AbortReason reason = AbortReason::none;
};
// The whole behaviour. (state, event) pairs without a row are illegal: handle() refuses, messages
// are ignored.
std::span<const HomeRow> home_table();
const char* to_string(HomeGuard guard);
const char* to_string(HomeNote note);
const char* to_string(HomeDo act);

// The parts of the guest's pause as home saw them; 0 = not reached. From this process's life only.
struct PauseParts {
    uint64_t stop_ns = 0;     // decision to freeze -> guest stands still
    uint64_t capture_ns = 0;  // -> last page captured
    uint64_t seal_ns = 0;     // -> away has it all
    uint64_t landing_ns = 0;  // -> word that it runs
};

class HomeHandover {
  public:
    // A VM without a record starts as protected. `journal` must outlive this; `table` is the real
    // one except in tests that plant faults.
    HomeHandover(VmId vm, Journal& journal, std::span<const HomeRow> table = home_table());

    // Errors: refused (illegal now; nothing changed), invalid_argument (options), io (journal
    // failed: the daemon must stop; no act was permitted).
    Result<Acts> handle(const HomeEvent& event, Now now);
    // A message of away about this VM. Never refuses what is merely stale.
    Result<Acts> deliver(const Message& message, Now now);
    // After construction from a journal: the acts that the state asks for. Once, before anything
    // else.
    Result<Acts> restart(Now now);
    // A new authenticated session with away exists (also after away restarted).
    Result<Acts> session_up(Now now);
    // Timers. At least every 500 ms. `away_silent_ns`: see SilenceMeter.
    Result<Acts> tick(Now now, uint64_t away_silent_ns);

    VmId vm() const { return record_.vm; }
    State state() const { return record_.state; }
    const HandoverRecord& record() const { return record_; }
    // True when rounds (sealed prestaging) of this VM may be sent: away has no landing of it in its
    // way.
    bool may_prestage() const;
    bool landed_paused() const { return landed_paused_; }
    bool away_runs() const { return away_runs_; }
    // Milliseconds that the guest has stood still so far, or stood still in all once it runs again;
    // 0 if not.
    uint64_t downtime_ms(Now now) const;
    const PauseParts& pause_parts() const { return parts_; }
    // The last thing worth telling a person: reason of an abort, conflict, what is waited for.
    const std::string& detail() const { return detail_; }

  private:
    Result<Acts> fire(const HomeEvent& event, Now now);
    Result<Acts> fire(HomeEventKind kind, Now now, std::string text = {});
    const HomeRow* select(HomeEventKind kind) const;
    bool holds(HomeGuard guard) const;
    HandoverRecord next_record(const HomeRow& row, const HomeEvent& event, Now now) const;
    void remember(const HomeRow& row, const HomeEvent& event);
    Acts acts_of(const HomeRow& row, const HomeEvent& event, Now now);
    Act act(ActKind kind) const;
    Act send(MessageKind kind) const;
    Error refusal(const HomeEvent& event) const;
    void mark_times(const HomeRow& row, HomeEventKind kind, Now now);

    Journal& journal_;
    std::span<const HomeRow> table_;
    HandoverRecord record_;
    HandoverId floor_{};  // away refuses ids up to this
    bool drained_ = false;
    bool prepared_ = false;
    bool resync_ = false;     // sealed: ask away before trusting what was sent
    bool recapture_ = false;  // sealed: capture once more
    bool confirmed_ = false;  // nothing of an earlier handover is in the way at away
    bool landed_paused_ = false;
    bool away_runs_ = false;
    HandoverId conflict_{};  // under which away says that it runs the VM; 0 = outside any
    bool resuming_ = false;  // resume_guest is being executed
    bool stopping_ = false;  // stop_guest is being executed; a capture follows
    uint32_t tickets_ = 0;
    uint32_t capture_ticket_ = 0;  // of the capture whose answer counts; 0 = none
    uint32_t attempts_ = 0;
    uint64_t last_sent_ns_ = 0;
    uint64_t mark_ns_ = 0;  // end of the last part of the pause; 0 = no pause measured
    PauseParts parts_;
    std::string detail_;
};

}  // namespace evac::evacuation
