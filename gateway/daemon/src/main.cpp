// evacgwd: the evacuation gateway's daemon. Exit codes: 0 stopped when asked, 1 failed, 2 usage or
// configuration.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "app.hpp"
#include "config.hpp"
#include "evac/prestage/stream_guard.hpp"
#include "logger.hpp"

namespace {

// One line, whatever the configuration holds.
int refuse(const evac::Error& error) {
    std::string text = error.message();
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    }
    std::fprintf(stderr, "evacgwd: %s\n", text.c_str());
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App cli{"evacgwd: evacuation gateway daemon"};
    std::string config_path;
    bool check = false;
    bool verbose = false;
    cli.add_option("--config", config_path, "configuration file (TOML)")->required();
    cli.add_flag("--check", check,
                 "read the configuration and the files it names, say what is wrong, and end");
    cli.add_flag("--verbose", verbose, "log at level debug");
    cli.set_version_flag("--version", "evacgwd " EVAC_VERSION);
    try {
        cli.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
        return cli.exit(e) == 0 ? 0 : 2;
    }
    // Blocked before any thread exists, so that all inherit it: the control thread reads signals
    // from a descriptor.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    signal(SIGPIPE, SIG_IGN);

    evac::daemon::DaemonLog log(verbose ? evac::LogLevel::debug : evac::LogLevel::info);
    auto config = evac::daemon::load_config(config_path);
    if (!config.ok()) return refuse(config.error());
    const evac::Status checked = evac::daemon::check_config(*config);
    if (!checked.ok()) return refuse(checked.error());
    if (check) {
        std::printf("%s: ok\n", config_path.c_str());
        return 0;
    }
    // A child that finishes open capture streams should we be killed; forked before any thread
    // exists.
    auto guard = evac::prestage::StreamGuard::start();
    if (!guard.ok()) {
        std::fprintf(stderr, "evacgwd: %s\n", guard.error().message().c_str());
        return 1;
    }
    auto app = evac::daemon::App::create(std::move(*config), log, &*guard);
    if (!app.ok()) {
        std::fprintf(stderr, "evacgwd: %s\n", app.error().message().c_str());
        return app.error().code == evac::Errc::invalid_argument ||
                       app.error().code == evac::Errc::refused
                   ? 2
                   : 1;
    }
    return (*app)->run();
}
