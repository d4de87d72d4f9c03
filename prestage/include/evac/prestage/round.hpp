#pragma once
// Runs one capture round of one VM over QMP.
//
//   sealed_live    stop, hook, `migrate` with background-snapshot: the guest resumes by itself
//                  while its RAM as of the stop is still being read. Disk and memory of one
//                  instant.
//   stopped_pass   stop, hook, one plain pass over the stopped guest, cont. Where
//                  background-snapshot is not available.
//   final_stopped  the same without cont: the guest stays stopped (run state postmigrate) for the
//                  handover.
//   precopy_live   one pre-copy kept open while the guest runs: all of RAM once, then again what
//                  was written, at live_bandwidth. It ends as a recovery point when QEMU finds
//                  nearly nothing left (7.2 then stops the guest whatever we do), when `seal_now`
//                  is set, or at live_limit_ms: bandwidth is raised, then the switchover forced;
//                  hook, rest of memory, device state, cont. Loses guest writes under TCG in QEMU
//                  7.2 (see capture_method.hpp): that it is KVM is the caller's to know. While it
//                  is open QEMU refuses device_add, another migration and capability changes.
//
//     runner                                QEMU                       guest
//     migrate ----------------------------> first pass -------------   runs
//     pages -> catalogue -> sink  <-------- pass, pass, pass ...       runs, is not slowed by us
//     [seal] max-bandwidth, downtime-limit > last pass, STOP           stands
//     on_stopped (disks)                    pre-switchover             stands
//     migrate-continue -------------------> rest of RAM, devices       stands
//     cont <------------------------------- completed                  runs
//
// Where the main RAM is mapped into this process (mapped_memory.hpp) it is compared in place, and
// only the rest (devices, small RAM blocks: below 1 MiB as a rule) comes through a migration with
// x-ignore-shared:
//
//   mapped_refresh  a scan of the running guest, which is not touched: what changed is on its way
//                   earlier. No recovery point: never complete.
//   mapped_sealed   scan, stop, hook, scan, `migrate` with background-snapshot and x-ignore-shared:
//                   the guest resumes by itself. Ends before the stop, incomplete, when the sink
//                   took not everything.
//   mapped_stopped  the same with a plain `migrate` and cont; see can_snapshot_beside_mapping.
//   mapped_final    as mapped_stopped without cont. The first scan is left out if the guest stands
//                   still already.
//
// The most important property: on every failure a guest that ran before runs again (final passes
// included), also when the monitor connection broke: recovery then opens one of its own. Bounded by
// kRecoveryMs after the stream's end. Capabilities and parameters are left as they were found
// (background-snapshot: off).
//
// Owner: one capture worker; nothing else may use the client meanwhile. The monitor is never waited
// for while the stream of a stopped or snapshotted guest is open: QEMU's main loop may itself wait
// for us to read it.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/log.hpp"
#include "evac/core/result.hpp"
#include "evac/prestage/captured_page.hpp"
#include "evac/prestage/catalogue.hpp"
#include "evac/prestage/stream_parser.hpp"

namespace evac::qmp {
class Client;
}

namespace evac::prestage {

class MappedMemory;
class StreamGuard;

inline constexpr int kRecoveryMs = 10'000;       // to get a guest running again after a failure
inline constexpr int kRoundLimitMs = 600'000;    // default of RoundOptions::time_limit_ms
inline constexpr int kStreamSilenceMs = 15'000;  // no byte for so long = failed
inline constexpr uint64_t kCaptureBandwidth = uint64_t{1} << 40;  // bytes/s set as max-bandwidth
// Of a live pre-copy. Its passes differ in epoch, so it has a number of them.
inline constexpr uint32_t kPrecopyEpochs = 1000;   // a good number for RoundOptions::epochs
inline constexpr uint32_t kPrecopyEpochsMin = 64;  // half of them are kept for the sealing
inline constexpr int kSinkWaitMs = 30'000;         // default of RoundOptions::sink_wait_ms
inline constexpr int kSinkWaitStoppedMs = 200;
inline constexpr int kConvergeMs = 2'000;  // of full speed before the switchover is forced
inline constexpr size_t kPassesKept = 16;  // the newest, in RoundResult::passes

enum class RoundMethod : uint8_t {
    sealed_live,
    stopped_pass,
    final_stopped,
    mapped_refresh,
    mapped_sealed,
    mapped_stopped,
    mapped_final,
    precopy_live,
};
const char* to_string(RoundMethod method);
bool uses_mapping(RoundMethod method);

struct RoundOptions {
    RoundMethod method = RoundMethod::sealed_live;
    Epoch epoch{};
    std::string run_dir;  // existing private directory on this host; the stream's socket (0600) is
                          // made in it
    // Called once when nothing speaks against the round, just before the VM is touched. Its failure
    // ends the round, and nothing was done.
    std::function<Status()> before_touch;
    // Called once with the guest stopped, before memory is read; the place for the disk
    // transaction. It may use the client. Its failure ends the round: the guest is resumed and the
    // error returned. Its time is guest pause.
    std::function<Status()> on_stopped;
    // Checked at least every 20 ms; set by any thread. The round then ends with Errc::cancelled: a
    // stopped pass at once, a sealed_live round when the rest of its stream has been read for
    // nothing (0.5 GB/s), the guest running meanwhile. Breaking it off would leave the guest's
    // memory write-protected (QEMU 7.2.22, see stream_guard.hpp).
    const std::atomic<bool>* cancel = nullptr;
    int time_limit_ms = kRoundLimitMs;  // as for cancel
    // Finishes a sealed_live stream should this process die; nullptr = the guest then hangs until
    // connect_or_rescue and ensure_running are called. Must outlive the round.
    StreamGuard* guard = nullptr;
    // The VM's main RAM; the mapped methods need it. Must outlive the round.
    MappedMemory* mapped = nullptr;

    // --- precopy_live only
    uint32_t epochs = 1;  // [epoch, epoch + epochs) are the round's; at least kPrecopyEpochsMin
    // bytes/s, > 0; of the first pass, over all of RAM, and after it. QEMU switches over by itself
    // when a pass leaves less than 1 ms of what it sends, and after a first pass of under 100 ms.
    uint64_t first_bandwidth = kCaptureBandwidth;
    uint64_t live_bandwidth = kCaptureBandwidth;
    int live_limit_ms = 0;  // sealed when so old, but not before its first pass is over
    // For room in the sink while the guest runs; then the page is dropped, and no other is waited
    // for until the sink takes one. With the guest stopped: kSinkWaitStoppedMs in all.
    int sink_wait_ms = kSinkWaitMs;
    // Set by any thread: seal now, likewise. Seen within 20 ms.
    const std::atomic<bool>* seal_now = nullptr;
    // The round failed because somebody else paused the guest: it was left so.
    std::function<void()> on_left_stopped;
};

// A pass of a live pre-copy over what was written during the one before.
struct LivePass {
    uint64_t duration_ns = 0;
    uint64_t pages_changed = 0;
};

struct RoundResult {
    Epoch epoch{};  // the newest used: the one to be sealed
    RoundMethod method{};
    uint64_t pages_seen = 0;      // pages in the stream or scanned, repeats included
    uint64_t pages_zero = 0;      // of those, all zero bits
    uint64_t pages_changed = 0;   // handed to the sink, zero or not
    uint64_t pages_repeated = 0;  // precopy_live: later versions of those, not counted above
    uint64_t pages_dropped = 0;   // refused by the sink; their catalogue entries are unknown now
    uint64_t pages_missing = 0;   // pages of RAM that were never brought
    uint64_t stream_bytes = 0;
    // STOP to RESUME by QEMU's own event timestamps; 0 for final passes (the pause has not ended)
    // and where the guest was not stopped.
    uint64_t pause_ns = 0;
    // From just before `stop` was sent, by our clock, to the RESUME event's timestamp: an upper
    // bound of the pause that includes the wait for QEMU's main loop (and up to 1 ms of rounding).
    uint64_t pause_upper_ns = 0;
    uint64_t hook_ns = 0;      // part of the pause spent in on_stopped
    uint64_t scan_ns = 0;      // part of the pause spent comparing mapped memory
    uint64_t duration_ns = 0;  // whole round
    DeviceState device_state;
    uint32_t pass_count = 0;       // precopy_live: passes that brought changed pages
    std::vector<LivePass> passes;  // precopy_live: the newest kPassesKept, without the first
    bool forced = false;           // precopy_live: sealed because it was asked for or old

    // Only a complete round may be sealed. mapped_refresh always misses what is not mapped.
    bool complete() const { return pages_dropped == 0 && pages_missing == 0; }
};

class RoundRunner {
  public:
    // All must outlive the runner. The catalogue's RAM regions (kind != disk) must be the VM's RAM
    // blocks, by name.
    RoundRunner(qmp::Client& client, Catalogue& catalogue, const Clock& clock, Logger& log);

    // Errors: refused (VM not running, capability or migration refused, RAM blocks differ from the
    // catalogue's: enrol again), cancelled, timeout, corrupt (stream), io, or what the hook
    // returned. After an error the context says so if the guest could NOT be brought back to
    // running.
    Result<RoundResult> run(const RoundOptions& options, PageSink& sink);

    // After a successful final pass whose handover was called off: the guest runs again (only if
    // it ran before). Never call it once away may own the VM.
    Status resume_after_final();

  private:
    qmp::Client& client_;
    Catalogue& catalogue_;
    const Clock& clock_;
    Logger& log_;
    bool ran_before_final_ = false;
};

// For a daemon that restarts and finds a VM as its predecessor left it. Waits up to kRecoveryMs for
// an open migration (a guard may be reading it), then cancels it; takes leftover write protection
// off, switches background-snapshot off, and gets the guest running. Never for a VM that away may
// own.
Status ensure_running(qmp::Client& client, const std::string& run_dir, const Clock& clock,
                      Logger& log);

// Client::connect for a daemon that restarts: when the monitor accepts the connection but does not
// answer in time, as after the death of a gateway without a guard (QEMU's main loop itself may hang
// in protected memory), frees the process of write protection that nobody serves (found by the
// socket's credentials; needs CAP_SYS_PTRACE) and tries once more.
Result<std::unique_ptr<qmp::Client>> connect_or_rescue(const std::string& qmp_socket_path,
                                                       int timeout_ms, Logger& log);

}  // namespace evac::prestage
