#pragma once
// All AwayHandovers of a daemon: routing, timers, restart. Sans-I/O. Owner: the control thread.
// After every call execute the returned acts in order; Errc::io means that the journal failed:
// stop.
#include <map>
#include <span>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/evacuation/away_handover.hpp"
#include "evac/evacuation/journal.hpp"
#include "evac/evacuation/silence_meter.hpp"

namespace evac::evacuation {

class AwayDesk {
  public:
    // Builds the handovers that the journal knows. `journal` must outlive this.
    AwayDesk(Journal& journal, Now now, std::span<const AwayRow> table = away_table());

    Result<Acts> restart(Now now);
    // A VM that home stages here. Idempotent.
    Status add_vm(VmId vm);
    // Only in protected, released or lost.
    Status remove_vm(VmId vm);

    Result<Acts> handle(VmId vm, const AwayEvent& event, Now now);
    // Messages with is_from_home(kind). A VM that is not known here gets a handover of its own (its
    // id must be remembered as given up); prepare_landing is then to be answered with
    // landing_refused. Errors: refused when kVmsMax are there.
    Result<Acts> deliver(const Message& message, Now now);
    Result<Acts> session_up(Now now);
    void home_heard(Now now) { silence_.heard(now.ns); }
    // At least every 500 ms: the silence rule counts only time that was ticked through.
    Result<Acts> tick(Now now);

    const AwayHandover* find(VmId vm) const;
    std::vector<const AwayHandover*> all() const;

  private:
    Journal& journal_;
    std::span<const AwayRow> table_;
    std::map<VmId, AwayHandover> handovers_;
    SilenceMeter silence_;
};

}  // namespace evac::evacuation
