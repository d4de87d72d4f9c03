#pragma once
// A landing QEMU from start to running. Owned by one landing worker thread at a time; every call is
// bounded.
//
//   launch()  starts QEMU paused with the staged files mapped, outliving this process; the VM
//   cannot run yet load()    feeds device state and small blocks; afterwards the VM stands paused
//   at the instant of the recovery point resume()  lets it run: the caller must hold the journaled
//   right to do so kill()    ends a landing that must not run (abort, drill clean-up) attach()
//   finds a QEMU that an earlier daemon process launched
#include <memory>
#include <string>
#include <vector>

#include "evac/core/log.hpp"
#include "evac/core/result.hpp"
#include "evac/landing/stream.hpp"

namespace evac::qmp {
class Client;
}

namespace evac::landing {

struct LaunchOptions {
    std::vector<std::string> argv;
    std::string dir;  // qmp.sock, incoming.sock, qemu.log, qemu.pid live here
    int start_timeout_ms = 20'000;
    int load_timeout_ms = 60'000;
};

class Lander {
  public:
    Lander(LaunchOptions options, Logger& logger);
    ~Lander();
    Lander(const Lander&) = delete;
    Lander& operator=(const Lander&) = delete;

    // Errors: io/timeout with the end of QEMU's own log; refused when a QEMU of this VM is already
    // there.
    Status launch();
    // Errors: not_found when no QEMU of this VM lives.
    Status attach();

    Status load(const LandingState& state, const std::vector<SmallBlock>& blocks);
    Status resume();

    // QEMU's run state: "inmigrate" (launched), "paused"/"prelaunch" (loaded), "running", ...
    Result<std::string> run_state();
    Status kill();

    qmp::Client* monitor() { return monitor_.get(); }  // null before launch/attach
    std::string qmp_path() const { return options_.dir + "/qmp.sock"; }

  private:
    Status spawn();
    Status connect_monitor();
    std::string log_tail() const;

    LaunchOptions options_;
    Logger& logger_;
    std::unique_ptr<qmp::Client> monitor_;
    int pid_ = 0;
};

// False for a process that is gone or only waits to be reaped.
bool process_lives(int pid);
// The process that wrote `dir`/qemu.pid, if it is still that QEMU; 0 otherwise.
int living_qemu(const std::string& dir);

}  // namespace evac::landing
