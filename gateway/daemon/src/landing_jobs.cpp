#include "landing_jobs.hpp"

#include <filesystem>

#include "evac/prestage/enrolment.hpp"
#include "files.hpp"

namespace evac::daemon {

using evacuation::AwayEventKind;

Result<std::string> differences(landing::Lander& lander, const std::string& home_facts,
                                const Clock& clock, Logger& log) {
    auto home = prestage::facts_from_text(home_facts);
    EVAC_TRY(home);
    auto away = prestage::collect_facts(*lander.monitor(), {}, clock, log);
    EVAC_TRY(away);
    std::string text;
    for (const auto& difference : prestage::compare(*home, *away)) {
        text += (text.empty() ? "" : "; ") + difference.message();
    }
    return text;
}

namespace {

bool marked(const std::string& dir) {
    return std::filesystem::exists(marker_of(dir));
}

}  // namespace

std::string marker_of(const std::string& dir) {
    return dir + "/may-have-run";
}

LandingOutcome end_landing(landing::Lander* lander, const std::string& dir,
                           const std::string& text) {
    if (lander == nullptr) {
        if (marked(dir)) return {AwayEventKind::landing_lost, text};
        return {AwayEventKind::landing_failed, text};
    }
    if (lander->monitor() != nullptr || lander->attach().ok()) {
        const auto state = lander->run_state();
        if (state.ok() && *state == "running") return {AwayEventKind::landed, {}};
    }
    const bool may_have_run = marked(dir);
    const Status killed = lander->kill();
    if (!killed.ok() || may_have_run) {
        return {AwayEventKind::landing_lost,
                text + (killed.ok() ? "" : "; " + killed.error().message())};
    }
    return {AwayEventKind::landing_failed, text};
}

LandingOutcome land(landing::Lander& lander, const std::string& dir,
                    const landing::LandingState& state,
                    const std::vector<landing::SmallBlock>& blocks, bool paused) {
    if (lander.monitor() == nullptr && !lander.attach().ok()) {
        // A guest that may have run is not rolled back to the recovery point by starting it again.
        if (marked(dir))
            return {AwayEventKind::landing_lost, "its process, which may have run, is gone"};
        const Status launched = lander.launch();
        if (!launched.ok()) return end_landing(&lander, dir, launched.error().message());
    }
    auto run_state = lander.run_state();
    if (!run_state.ok()) return end_landing(&lander, dir, run_state.error().message());
    if (*run_state == "running") return {AwayEventKind::landed, {}};
    if (*run_state == "inmigrate") {
        const Status loaded = lander.load(state, blocks);
        if (!loaded.ok()) return end_landing(&lander, dir, loaded.error().message());
    }
    if (paused) return {AwayEventKind::landed_paused, {}};
    const Status written = write_file_durably(marker_of(dir), "\n");
    if (!written.ok()) return end_landing(&lander, dir, written.error().message());
    const Status resumed = lander.resume();
    if (resumed.ok()) return {AwayEventKind::landed, {}};
    return end_landing(&lander, dir, resumed.error().message());
}

}  // namespace evac::daemon
