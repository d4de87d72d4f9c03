#pragma once
// The right to run one VM, seen from away. The protocol and its reasoning: home_handover.hpp.
// Sans-I/O; owner: the control thread.
//
//   protected --PREPARE--> armed --final sealed--> sealed --COMMIT | silence | force--> committed
//   committed --landed--> running_away --RELEASED--> released
//   armed, sealed --ABORT | refused | newer handover--> aborted --landing gone--> protected
//   committed --landing failed 3 times, or given back while held--> aborted
//   committed --it ran and is gone--> lost
#include <cstdint>
#include <span>
#include <string>

#include "evac/core/result.hpp"
#include "evac/evacuation/handover_types.hpp"
#include "evac/evacuation/home_handover.hpp"
#include "evac/evacuation/journal.hpp"

namespace evac::evacuation {

enum class AwayEventKind : uint8_t {
    // the operator
    release_hold,  // the held landing may run
    give_back,     // home may have it back (not after it may have run)
    force_run,  // `confirmed`: run the sealed copy, or the last recovery point, without home's word
    force_give_back,  // `confirmed`: from lost
    force_release,    // `confirmed`: home is gone for good, do not wait for RELEASED
    // the data plane: a SEAL record that carries `handover` ...
    final_sealed,  // ... was applied completely and durably, `epoch`
    final_failed,  // ... could not be
    // answers to acts; carry the act's handover id, others are ignored
    landing_prepared,
    landing_refused,
    landed,
    landed_paused,
    landing_failed,
    landing_lost,
    landing_cancelled,
    // raised by the object itself; refused by handle()
    home_prepare,
    home_sealing,
    home_commit,
    home_abort,
    home_released,
    restarted,
    session_up,
    resend_due,
    silence,
    count_,
};
inline constexpr AwayEventKind kAwayEventsFromOutside =
    AwayEventKind::home_prepare;  // those below it
const char* to_string(AwayEventKind kind);

struct AwayEvent {
    AwayEventKind kind{};
    HandoverId handover{};
    Epoch epoch{};
    std::string text;
    bool confirmed = false;
};

// The answer to `act`.
AwayEvent answer(const Act& act, AwayEventKind kind, std::string text = {});

enum class AwayGuard : uint8_t {
    always,
    new_id,           // the message is about a handover newer than ours
    current_id,       // ... about ours
    prepared,         // ... about ours, and the landing is prepared
    evacuation,       // the handover's policy
    attempts_left,    // of landings
    hold,             // the landing is to stay paused
    released_hold,    // it is, and this COMMIT of ours lets it run
    hold_evacuation,  // it is, and silence may let it run
    seal_failed,      // SEALING of ours asks about the epoch that could not be applied
};
enum class AwayNote : uint8_t {
    none,
    take_prepare,  // id and options of the message
    take_id,       // id only: everything up to it is given up
    prepared,
    failed,         // the epoch
    seal,           // the epoch
    commit,         // first landing; hold as the message says
    silent,         // first landing, without hold
    force,          // the same, by an operator
    force_outside,  // the same, of what is staged instead of the handover's seal
    attempt,        // next landing
    clear_hold,
    landed_paused,
    forced,
};
enum class AwayDo : uint8_t {
    nothing,
    send_prepared,
    send_sealed,
    send_seal_failed,
    send_not_sealed,
    send_committed,  // or LANDED_PAUSED once it is
    send_running,
    send_aborted,
    send_lost,
    prepare_landing,
    run_landing,
    cancel_landing,
    adopt_vm,
    report,
};

struct AwayRow {
    State from{};
    AwayEventKind on{};
    AwayGuard guard = AwayGuard::always;
    State to{};
    Persist persist = Persist::no;
    AwayNote note = AwayNote::none;
    AwayDo acts[3] = {AwayDo::nothing, AwayDo::nothing, AwayDo::nothing};
    AbortReason reason = AbortReason::none;
};
std::span<const AwayRow> away_table();
const char* to_string(AwayGuard guard);
const char* to_string(AwayNote note);
const char* to_string(AwayDo act);

class AwayHandover {
  public:
    AwayHandover(VmId vm, Journal& journal, std::span<const AwayRow> table = away_table());

    // Errors as HomeHandover::handle.
    Result<Acts> handle(const AwayEvent& event, Now now);
    Result<Acts> deliver(const Message& message, Now now);
    Result<Acts> restart(Now now);
    Result<Acts> session_up(Now now);
    // `home_silent_ns`: time without anything authenticated from home, see SilenceMeter.
    Result<Acts> tick(Now now, uint64_t home_silent_ns);

    VmId vm() const { return record_.vm; }
    State state() const { return record_.state; }
    const HandoverRecord& record() const { return record_; }
    // The staged copy may be written to (batches, seals) only while this is true.
    bool accepts_batches() const;
    bool landed_paused() const { return landed_paused_; }
    const std::string& detail() const { return detail_; }

  private:
    // What a row is chosen and carried out with: the event, and the message that raised it, if one
    // did.
    struct Cause {
        AwayEvent event;
        const Message* message = nullptr;
    };
    Result<Acts> fire(const Cause& cause, Now now);
    Result<Acts> fire(AwayEventKind kind, Now now);
    const AwayRow* select(const Cause& cause) const;
    bool holds(AwayGuard guard, const Cause& cause) const;
    HandoverRecord next_record(const AwayRow& row, const Cause& cause, Now now) const;
    void remember(const AwayRow& row, const Cause& cause);
    Acts acts_of(const AwayRow& row, const Cause& cause, Now now);
    Act act(ActKind kind) const;
    Act send(MessageKind kind, HandoverId about) const;
    HandoverId message_id() const;
    Error refusal(const AwayEvent& event) const;

    Journal& journal_;
    std::span<const AwayRow> table_;
    HandoverRecord record_;
    bool prepared_ = false;
    bool landed_paused_ = false;
    Epoch failed_{};        // of the final seal that could not be applied; 0 = none
    bool landing_ = false;  // run_landing is being executed
    uint64_t last_sent_ns_ = 0;
    std::string detail_;
};

}  // namespace evac::evacuation
