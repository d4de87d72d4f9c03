#pragma once
// RoundMethod::precopy_live; the sequence and its promises stand in round.hpp. Internal to this
// library. Owner: the thread that runs the capture.
#include "evac/prestage/round.hpp"
#include "migration_control.hpp"

namespace evac::prestage {

Result<RoundResult> run_precopy(qmp::Client& client, Catalogue& catalogue, const Clock& clock,
                                Logger& log, const RoundOptions& options, PageSink& sink);

// What ensure_running has to put back when a gateway was killed in a live pre-copy: QEMU's
// defaults, since what was there before is not known. Empty when nothing looks like one.
SavedSettings precopy_leftovers(qmp::Client& client);

}  // namespace evac::prestage
