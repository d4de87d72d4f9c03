// wan-emulator: see usage() in settings.cpp, or README.md.
#include <sys/prctl.h>
#include <sys/signalfd.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "emulator.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/unique_fd.hpp"
#include "settings.hpp"

namespace {

int run(const wan_emulator::Options& options) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    const evac::UniqueFd stop(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    // The default slack of 50 us would be a tenth of the grain.
    ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    const evac::SystemClock clock;
    auto emulator = wan_emulator::Emulator::open(options, clock);
    if (!emulator.ok()) {
        std::fprintf(stderr, "wan-emulator: %s\n", emulator.error().message().c_str());
        return emulator.error().code == evac::Errc::invalid_argument ? 2 : 1;
    }
    std::fprintf(stderr, "wan-emulator: ready\n");
    const evac::Status status = (*emulator)->run(stop.get());
    std::printf("%s\n", (*emulator)->stats_json().c_str());
    if (!status.ok()) std::fprintf(stderr, "wan-emulator: %s\n", status.error().message().c_str());
    return status.ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    const auto options =
        wan_emulator::parse_arguments(std::vector<std::string>(argv + 1, argv + argc));
    if (!options.ok()) {
        std::fprintf(stderr, "wan-emulator: %s\n", options.error().context.c_str());
        return 2;
    }
    if (options->help) {
        std::fputs(wan_emulator::usage().c_str(), stdout);
        return 0;
    }
    return run(*options);
}
