#pragma once
// RoundMethod::precopy_live; the sequence and its promises stand in round.hpp. Internal to this
// library. Owner: the thread that runs the capture.
#include "evac/prestage/round.hpp"

namespace evac::prestage {

Result<RoundResult> run_precopy(qmp::Client& client, Catalogue& catalogue, const Clock& clock,
                                Logger& log, const RoundOptions& options, PageSink& sink);

}  // namespace evac::prestage
