#pragma once
// Port for a third site that knows who may run a VM: one compare-and-swap on the VM's ownership
// key. With it neither side has to guess from silence: away claims before it commits by silence,
// home claims back before it resumes from `sealed` without away's word. Not consulted yet: no
// implementation, no caller.
#include <functional>

#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/evacuation/handover_types.hpp"

namespace evac::evacuation {

class Witness {
  public:
    virtual ~Witness() = default;
    // Makes `owner` the holder of (vm, handover) if nobody, or `owner` itself, holds it. Calls
    // `done` on the control thread: true = it is ours now; false = the other side has it; an error
    // = unknown, decide nothing. A claim is never taken back for the same handover.
    virtual void claim(VmId vm, HandoverId handover, Role owner,
                       std::function<void(Result<bool>)> done) = 0;
};

}  // namespace evac::evacuation
