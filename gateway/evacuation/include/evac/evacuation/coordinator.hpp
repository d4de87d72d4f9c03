#pragma once
// The evacuation executor at home: owns the HomeHandovers, begins turns in the plan's order,
// remembers the evacuation across restarts, reports progress. Sans-I/O. Owner: the control thread.
//
// After every call: execute the returned acts in order. An Errc::io error means that the journal
// failed: stop the daemon; the acts of the failed call are issued again by restart().
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/evacuation/home_handover.hpp"
#include "evac/evacuation/journal.hpp"
#include "evac/evacuation/silence_meter.hpp"

namespace evac::evacuation {

// The same event again: which VMs that came back get new turns.
enum class Again : uint8_t {
    none,
    came_back,  // by themselves
    all,        // also those that an operator kept at home
};

struct EvacuationRequest {
    std::string event_id;  // of the alert or of the operator's command; 1..kTextMax bytes
    std::string reason;
    HandoverOptions options{};
    std::vector<Turn> order;  // first turn first; every VM was added
    Again again = Again::none;
};

struct CoordinatorOptions {
    uint32_t lookahead_vms = 2;                  // at most so many in draining, frozen or sealed
    uint64_t lookahead_bytes = 4 * 1024 * 1024;  // no new turn while more waits for the link
    uint32_t turns_max = 3;                      // per VM and evacuation, after aborts
    uint64_t turn_pause_ns = 1'000'000'000;      // before a VM that came back gets its next turn
};

enum class Outcome : uint8_t {
    none,     // not part of the evacuation
    waiting,  // its turn has not come
    moving,
    moved,     // released
    returned,  // runs at home: cancelled, or its turns are used up
    stuck,     // lost, or waits for an operator
};
const char* to_string(Outcome outcome);

struct VmProgress {
    VmId vm{};
    State state{};
    Outcome outcome{};
    int64_t since_unix_ms = 0;
    uint32_t turns = 0;
    uint64_t downtime_ms = 0;  // so far, or in all
    uint32_t predicted_downtime_ms = 0;
    uint32_t predicted_away_ms = 0;
    uint64_t away_ms = 0;  // from the start of the evacuation to RUNNING; 0 = not yet
    bool landed_paused = false;
    bool abort_asked = false;
    bool kept_home = false;  // by an operator
    PauseParts parts;
    std::string detail;
};

struct Progress {
    Stage stage{};
    std::string event_id;
    std::string reason;
    Policy policy{};
    uint32_t silence_ms = 0;
    int64_t since_unix_ms = 0;
    uint32_t waiting = 0, moving = 0, moved = 0, returned = 0, stuck = 0;
    std::vector<VmProgress> vms;  // those of the evacuation in its order, then the others by VmId
};

class Coordinator {
  public:
    // Builds the handovers that the journal knows. `journal` must outlive this.
    Coordinator(Journal& journal, CoordinatorOptions options, Now now,
                std::span<const HomeRow> table = home_table());

    // After construction and after all VMs were added: issues what the journaled states ask for.
    Result<Acts> restart(Now now);

    // Idempotent. Errors: refused when kVmsMax are there.
    Status add_vm(VmId vm);
    // Only in protected, released or lost, and not waiting for its turn.
    Status remove_vm(VmId vm);

    // All added VMs are armed; harmless. A second call with the same event is nothing.
    Result<Acts> arm(std::string_view event_id, std::string_view reason, Now now);
    // Begins, or extends a running one by VMs that are not in it (an evacuation also takes over an
    // armed stage and a planned move: turns not yet begun get its options, unless it asks
    // for held landings and the running one does not). The same event again
    // changes nothing for VMs that came back (but see Again), also when the evacuation was done
    // before; another event gives them new turns. Turns begin in advance(). Errors:
    // invalid_argument, not_found (a VM that was not added), refused (a planned move while an
    // evacuation runs; a cancel is under way).
    Result<Acts> evacuate(const EvacuationRequest& request, Now now);
    // The alert is off: waiting VMs stay, those under way go back where that is still possible,
    // those past the commit finish. `event_id` must be the running one, or empty for whichever
    // runs.
    Result<Acts> cancel(std::string_view event_id, Now now);
    // A new order for turns that have not begun; VMs missing in it keep their place at the end.
    Status reorder(std::span<const Turn> order);

    // True when a VM waits and neither limit forbids its turn.
    bool may_start_next(uint64_t queued_bytes, Now now) const;
    // Begins as many turns as may_start_next allows. `queued_bytes`: what waits for the link now.
    Result<Acts> advance(uint64_t queued_bytes, Now now);

    // Answers to acts (Role::home), and operator events of one VM.
    Result<Acts> handle(VmId vm, const HomeEvent& event, Now now);
    // Messages with !is_from_home(kind). One for an unknown VM is ignored.
    Result<Acts> deliver(const Message& message, Now now);
    Result<Acts> session_up(Now now);
    void away_heard(Now now) { silence_.heard(now.ns); }
    // At least every 500 ms. Includes timers of all VMs; does not begin turns.
    Result<Acts> tick(Now now);

    const HomeHandover* find(VmId vm) const;
    bool is_at_home(VmId vm) const;  // no handover of it is under way: it runs here
    Stage stage() const { return evacuation_.stage; }
    const std::string& event_id() const { return evacuation_.event_id; }
    int64_t since_unix_ms() const { return evacuation_.since_unix_ms; }
    // True when evacuate() with this event goes on with the present one instead of beginning anew.
    bool joins(std::string_view event_id) const {
        return evacuation_.stage == Stage::evacuating ||
               (evacuation_.stage == Stage::done && evacuation_.event_id == event_id);
    }
    Progress progress(Now now) const;

  private:
    struct Slot {
        HomeHandover handover;
        bool queued = false;     // waits for a turn
        bool keep_home = false;  // an operator aborted its turn: no further one in this evacuation
        uint32_t turns = 0;
        uint64_t not_before_ns = 0;
        uint64_t away_ms = 0;
        Turn turn{};
        bool listed = false;  // part of the evacuation
    };
    Status check(const EvacuationRequest& request) const;
    Status save(EvacuationRecord next);
    Result<Acts> go_back(Now now);
    Status settle(Slot& slot, State before, Now now);
    Status finish_if_done(Now now);
    const Slot* next_turn(Now now) const;
    uint32_t in_flight() const;
    Outcome outcome(const Slot& slot) const;
    VmProgress vm_progress(const Slot& slot, Now now) const;

    Journal& journal_;
    CoordinatorOptions options_;
    std::span<const HomeRow> table_;
    std::map<VmId, Slot> slots_;
    EvacuationRecord evacuation_;
    SilenceMeter silence_;
};

}  // namespace evac::evacuation
