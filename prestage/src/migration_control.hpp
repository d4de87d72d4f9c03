#pragma once
// The QMP side of a capture: guest and migration state, the settings that a capture changes and
// puts back, and the way back to a running guest after any failure. Internal to this library.
// Owner: the thread that runs the capture.
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"
#include "evac/core/result.hpp"
#include "evac/qmp/client.hpp"

namespace evac::prestage {

struct GuestState {
    std::string status;  // "running", "paused", "postmigrate", ...
    bool running = false;
};
Result<GuestState> query_guest(qmp::Client& client);

struct MigrationState {
    std::string status;  // empty before the first migration
    std::string error;
    std::vector<std::string> blockers;
    bool busy() const;  // neither never begun nor at an end
};
Result<MigrationState> query_migration(qmp::Client& client);

struct SavedSettings {
    std::optional<uint64_t> downtime_limit_ms;               // set by a live pre-copy only
    std::vector<std::pair<std::string, bool>> capabilities;  // those that were changed, as found
    std::optional<uint64_t> max_bandwidth;
};
// All capabilities off but `wanted` and `events`, which changes nothing for us; max-bandwidth as
// given. Refuses when migrations use TLS. What was changed is in `saved` also after a failure.
// background-snapshot is set last and by itself, because QEMU judges it by the capabilities in
// force: RAM in a file of a disk file system is no obstacle once x-ignore-shared leaves it out.
Status apply_capabilities(qmp::Client& client, std::span<const std::string_view> wanted,
                          uint64_t max_bandwidth, SavedSettings& saved);
inline Status apply_capabilities(qmp::Client& client,
                                 std::initializer_list<std::string_view> wanted,
                                 uint64_t max_bandwidth, SavedSettings& saved) {
    return apply_capabilities(client, std::span(wanted.begin(), wanted.size()), max_bandwidth,
                              saved);
}
// None but background-snapshot, as asked for.
Status apply_settings(qmp::Client& client, bool background_snapshot, uint64_t max_bandwidth,
                      SavedSettings& saved);
// As found; only background-snapshot is always left off, because an earlier gateway that was killed
// may have left it on.
Status restore_settings(qmp::Client& client, const SavedSettings& saved);

// An error when the migration that was begun is over (before it connected).
Status check_not_over(qmp::Client& client);

// Waits until no migration is busy, cancelling when `cancel`. Errors: timeout, or the monitor's.
Result<MigrationState> await_migration_end(qmp::Client& client, bool cancel, const Clock& clock,
                                           uint64_t deadline_ns);

// The way back after a failed capture: ends whatever migration is open, puts settings back and, if
// `was_running`, gets the guest running. Opens a monitor connection of its own when the client's is
// gone. Nobody may be reading a stream of this VM any more. Write protection that a broken
// background snapshot left behind is taken off first, and what it leaves inside QEMU (the next
// plain migration fails) is healed by one background snapshot whose bytes are discarded; that needs
// `run_dir`, empty = do not heal.
struct Recovery {
    bool was_running = false;
    SavedSettings saved;
    std::string run_dir;
    int limit_ms = 0;
    bool heal = false;  // also when nothing is write-protected now
};
Status recover(qmp::Client& client, const Recovery& recovery, const Clock& clock, Logger& log);

// Microseconds since 1970 of a QMP event; 0 if it has none.
uint64_t event_time_us(const qmp::Json& event);

}  // namespace evac::prestage
