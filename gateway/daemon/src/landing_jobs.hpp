#pragma once
// What landing workers do with a landing QEMU: compare it, load it and let it run, end it.
// Blocking; each is one job's body and touches only what it is given. `dir`: state_dir/staged/<id>.
#include <string>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"
#include "evac/evacuation/away_handover.hpp"
#include "evac/landing/lander.hpp"

namespace evac::daemon {

struct LandingOutcome {
    evacuation::AwayEventKind kind = evacuation::AwayEventKind::landing_failed;
    std::string text;
};

// What a waiting QEMU is, against what the source was. Empty = it fits.
Result<std::string> differences(landing::Lander& lander, const std::string& home_facts,
                                const Clock& clock, Logger& log);

// Written before the first `cont` of a landing and removed when its process has been ended before
// that: says that the guest may have run, whatever became of its process since.
std::string marker_of(const std::string& dir);

LandingOutcome land(landing::Lander& lander, const std::string& dir,
                    const landing::LandingState& state,
                    const std::vector<landing::SmallBlock>& blocks, bool paused);

// Ends a landing that did not come about. Whether a QEMU of this VM is there is found out, never
// assumed: a daemon before this one may have started it.
LandingOutcome end_landing(landing::Lander* lander, const std::string& dir,
                           const std::string& text);

}  // namespace evac::daemon
