#pragma once
// What capture workers do: examine a VM, run a pass, stop and resume it. Blocking; each is one
// job's body and touches only what it is given.
#include <optional>
#include <string>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"
#include "home_vm.hpp"

namespace evac::daemon {

struct JobContext {
    ReducerStage& reducer;
    const Clock& clock;
    Logger& log;
    std::string run_dir;
    std::string home_dir;  // registry; marks of rounds under way are beside it
    uint64_t fingerprint_seed = 0;
    std::optional<prestage::CaptureMethod> wanted{};  // of the VM that is examined
    prestage::StreamGuard* guard = nullptr;  // finishes open streams should this process die
    prestage::CatalogueFile catalogue{};     // of the VM that is examined; no path: in memory
};

// A round may stop the guest: the mark says so to the process after this one. Without it a guest
// that stands still was stopped by somebody else, and stays so. It holds QEMU's pid and whether the
// round was live; a crash of the host ends both, so it is not synced.
std::string round_mark(const std::string& home_dir, const std::string& name);

enum class Before : uint8_t {
    unknown,    // new here
    enrolled,   // a gateway before this one may have been killed in a round: the guest is brought
                // back first, see round_mark
    away_runs,  // by a forced act, as away says: never resumed
};

// Connects, checks, prepares tracking. Errors: refused (with all reasons), and what QMP says.
Result<Examined> examine_vm(const JobContext& context, const std::string& name,
                            const std::string& qmp_path, Before before);

// After a restart in the middle of a handover the guest stands still and must not be probed: what
// was learned at enrolment (facts, disks, argv in `known`) is taken as it was.
Result<Examined> reattach_vm(const JobContext& context, const std::string& name,
                             const std::string& qmp_path, const Examined& known);

struct PassRequest {
    VmId vm{};
    uint32_t generation = 0;
    Epoch epoch{};
    size_t lane = 0;  // capture worker
    // Of the VM's flow: what its pages are charged to, here and in its queue.
    prestage::PageBudget::Account account = prestage::PageBudget::kCommon;
    PassKind kind = PassKind::seal;
    std::string tag;  // of files
    prestage::CaptureMethod method = prestage::CaptureMethod::stopped;
    // Of a continuous one.
    uint32_t epochs = 1;  // [epoch, epoch + epochs)
    int live_limit_ms = 0;
    uint64_t live_bandwidth = 0;  // bytes/s

    bool is_final() const { return kind == PassKind::final_pass; }
};
// A VM with mapped memory is refreshed, sealed and finished by mapping, but for one whose scan
// would stop it for longer than this: it is sealed by a background snapshot, where QEMU allows
// that.
inline constexpr uint64_t kMappedPauseMaxNs = 100 * kNsPerMs;
struct PassMeans {
    bool background_snapshot = false;  // of all RAM
    bool mapped = false;
    bool mapped_snapshot = false;
    uint64_t whole_scan_ns = 0;  // measured; 0 = not yet
    bool continuous = false;     // the method of choice, then without the mapping
};
prestage::RoundMethod pass_method(PassKind kind, const PassMeans& means);
// Whether a refresh has to go ahead of this pass to measure what pass_method needs to know. A scan
// that was somewhat too slow may have been disturbed: it is measured again.
bool must_measure(PassKind kind, const PassMeans& means);

// Errors: refused (a refresh of a VM whose memory is not mapped), and what the round says. Not
// while a seal of this VM waits for its answer, unless it is the final pass.
Result<PassResult> run_pass(const JobContext& context, CaptureSet& set, bool can_seal_live,
                            const PassRequest& request);

// These pages of a disk were captured and are lost: the next pass reads them, whatever the bitmap
// says.
void read_again(CaptureSet& set, const prestage::PageRange& range);

Status stop_guest(CaptureSet& set);
// Before a final pass over a guest that stands still already. QEMU refuses a second migration from
// `postmigrate`, so a pass that has to be repeated (the session was lost, this daemon was
// restarted) needs cont and stop at once: legal only before the copy at away is sealed, which the
// state machine has made sure of.
Status make_capturable(CaptureSet& set);
// Also from postmigrate, i.e. after a final pass; running already is success.
Status resume_guest(CaptureSet& set);
// QEMU quits; its process is gone when this returns ok.
Status destroy_guest(CaptureSet& set);

}  // namespace evac::daemon
