#include "migration_control.hpp"

#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "capture_socket.hpp"
#include "evac/core/units.hpp"
#include "json_access.hpp"
#include "write_protection.hpp"

namespace evac::prestage {
namespace {

using qmp::Json;

constexpr int kQmpMs = 5'000;
constexpr long kPollNs = 2'000'000;
constexpr std::string_view kBackgroundSnapshot = "background-snapshot";
constexpr uint64_t kHealBandwidth = uint64_t{1} << 40;

void pause_ns(long ns) {
    timespec left{0, ns};
    while (::nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

int left_ms(const Clock& clock, uint64_t deadline_ns, int most_ms) {
    const uint64_t now_ns = clock.now_ns();
    const uint64_t left = now_ns >= deadline_ns ? 0 : (deadline_ns - now_ns) / kNsPerMs;
    return std::max(1, static_cast<int>(std::min<uint64_t>(left, static_cast<uint64_t>(most_ms))));
}

Json capability(const std::string& name, bool on) {
    return Json{{"capability", name}, {"state", on}};
}

// One attempt on one connection; called again until the deadline.
Status recover_once(qmp::Client& client, bool was_running, const Clock& clock,
                    uint64_t deadline_ns) {
    const auto ended = await_migration_end(client, true, clock, deadline_ns);
    if (!ended.ok() && !client.usable()) return ended.error();
    if (!was_running) return ended.ok() ? Status{} : Status{ended.error()};
    const auto guest = query_guest(client);
    if (!guest.ok()) return guest.error();
    if (guest->running) return {};
    EVAC_TRY(client.execute("cont", Json::object(), left_ms(clock, deadline_ns, kQmpMs)));
    const auto after = query_guest(client);
    if (!after.ok()) return after.error();
    if (!after->running)
        return make_error(Errc::refused, "the guest is '" + after->status + "' after cont");
    return {};
}

}  // namespace

bool MigrationState::busy() const {
    static constexpr std::array<std::string_view, 5> kIdle{"", "none", "completed", "failed",
                                                           "cancelled"};
    return std::ranges::find(kIdle, std::string_view(status)) == kIdle.end();
}

uint64_t event_time_us(const qmp::Json& event) {
    const Json& stamp = json::member(event, "timestamp");
    return json::number(stamp, "seconds") * 1'000'000 + json::number(stamp, "microseconds");
}

Result<GuestState> query_guest(qmp::Client& client) {
    const auto answer = client.execute("query-status", Json::object(), kQmpMs);
    if (!answer.ok()) return answer.error();
    return GuestState{json::text(*answer, "status"), json::flag(*answer, "running")};
}

Result<MigrationState> query_migration(qmp::Client& client) {
    const auto answer = client.execute("query-migrate", Json::object(), kQmpMs);
    if (!answer.ok()) return answer.error();
    MigrationState state;
    state.status = json::text(*answer, "status");
    state.error = json::text(*answer, "error-desc");
    for (const Json& reason : json::array(json::member(*answer, "blocked-reasons"))) {
        state.blockers.push_back(json::text(reason));
    }
    return state;
}

Status check_not_over(qmp::Client& client) {
    const auto state = query_migration(client);
    if (!state.ok()) return state.error();
    if (state->busy()) return {};
    return make_error(Errc::io, "QEMU ended the migration as '" + state->status +
                                    "' before it connected: " + state->error);
}

Status apply_settings(qmp::Client& client, bool background_snapshot, uint64_t max_bandwidth,
                      SavedSettings& saved) {
    static constexpr std::array<std::string_view, 1> kSnapshot{kBackgroundSnapshot};
    return apply_capabilities(client, std::span(kSnapshot).first(background_snapshot ? 1 : 0),
                              max_bandwidth, saved);
}

Status apply_capabilities(qmp::Client& client, std::span<const std::string_view> wanted,
                          uint64_t max_bandwidth, SavedSettings& saved) {
    const auto parameters = client.execute("query-migrate-parameters", Json::object(), kQmpMs);
    if (!parameters.ok()) return parameters.error();
    const std::string tls = json::text(*parameters, "tls-creds");
    if (!tls.empty()) {
        return make_error(Errc::refused,
                          "migration parameter tls-creds is '" + tls +
                              "'; a capture goes through a local socket and needs it unset");
    }
    const auto capabilities = client.execute("query-migrate-capabilities", Json::object(), kQmpMs);
    if (!capabilities.ok()) return capabilities.error();
    Json changes = Json::array();
    Json snapshot_on = Json::array();
    std::vector<std::pair<std::string, bool>> found;
    std::vector<std::string_view> missing(wanted.begin(), wanted.end());
    for (const Json& entry : json::array(*capabilities)) {
        const std::string name = json::text(entry, "capability");
        std::erase(missing, std::string_view(name));
        if (name == "events") continue;
        const bool state = json::flag(entry, "state");
        const bool on = std::ranges::find(wanted, std::string_view(name)) != wanted.end();
        if (state == on) continue;
        (name == kBackgroundSnapshot && on ? snapshot_on : changes).push_back(capability(name, on));
        found.emplace_back(name, state && name != kBackgroundSnapshot);
    }
    if (!missing.empty()) {
        return make_error(Errc::refused, "this QEMU has no capability " + std::string(missing[0]) +
                                             " (QEMU 6.0 and later have)");
    }
    if (!found.empty()) saved.capabilities = std::move(found);
    for (const Json* part : {&changes, &snapshot_on}) {
        if (part->empty()) continue;
        EVAC_TRY(client.execute("migrate-set-capabilities", Json{{"capabilities", *part}}, kQmpMs));
    }
    const uint64_t bandwidth = json::number(*parameters, "max-bandwidth");
    if (bandwidth != max_bandwidth) {
        saved.max_bandwidth = bandwidth;
        EVAC_TRY(client.execute("migrate-set-parameters", Json{{"max-bandwidth", max_bandwidth}},
                                kQmpMs));
    }
    return {};
}

Status restore_settings(qmp::Client& client, const SavedSettings& saved) {
    Status outcome;
    if (!saved.capabilities.empty()) {
        Json changes = Json::array();
        for (const auto& [name, state] : saved.capabilities)
            changes.push_back(capability(name, state));
        const auto done =
            client.execute("migrate-set-capabilities", Json{{"capabilities", changes}}, kQmpMs);
        if (!done.ok()) outcome = done.error();
    }
    if (saved.max_bandwidth.has_value()) {
        const auto done = client.execute("migrate-set-parameters",
                                         Json{{"max-bandwidth", *saved.max_bandwidth}}, kQmpMs);
        if (!done.ok()) outcome = done.error();
    }
    if (saved.downtime_limit_ms.has_value()) {
        const auto done = client.execute(
            "migrate-set-parameters", Json{{"downtime-limit", *saved.downtime_limit_ms}}, kQmpMs);
        if (!done.ok()) outcome = done.error();
    }
    return outcome;
}

Result<MigrationState> await_migration_end(qmp::Client& client, bool cancel, const Clock& clock,
                                           uint64_t deadline_ns) {
    while (true) {
        auto state = query_migration(client);
        if (!state.ok()) return state.error();
        if (!state->busy()) return state;
        if (clock.now_ns() >= deadline_ns) {
            return make_error(Errc::timeout,
                              "the migration stays in state '" + state->status + "'");
        }
        if (cancel) {
            EVAC_TRY(client.execute("migrate_cancel", Json::object(),
                                    left_ms(clock, deadline_ns, kQmpMs)));
            cancel = false;
        }
        pause_ns(kPollNs);
    }
}

namespace {

// QEMU 7.2 forgets nothing of a broken background snapshot until the next one completes.
Status heal(qmp::Client& client, const std::string& run_dir, const Clock& clock) {
    auto socket = CaptureSocket::listen(
        run_dir, std::to_string(client.peer_pid()) + "-heal-" + std::to_string(clock.now_ns()));
    if (!socket.ok()) return socket.error();
    SavedSettings saved;
    Status outcome = apply_settings(client, true, kHealBandwidth, saved);
    UniqueFd stream;
    if (outcome.ok()) {
        const auto begun = client.execute("migrate", Json{{"uri", socket->uri()}}, kQmpMs);
        if (!begun.ok()) outcome = begun.error();
    }
    if (outcome.ok()) {
        WaitLimits limits;
        limits.deadline_ns = clock.now_ns() + uint64_t{kQmpMs} * kNsPerMs;
        limits.silence_ns = uint64_t{kQmpMs} * kNsPerMs;
        auto accepted = socket->accept(clock, limits, [&client] { return check_not_over(client); });
        outcome = accepted.ok() ? discard(std::move(accepted).value(), client.peer_pid(), clock)
                                : Status{accepted.error()};
    }
    if (outcome.ok()) {
        const auto end =
            await_migration_end(client, false, clock, clock.now_ns() + uint64_t{kQmpMs} * kNsPerMs);
        if (!end.ok()) outcome = end.error();
    }
    const Status restored = restore_settings(client, saved);
    return outcome.ok() ? restored : outcome;
}

// On whatever connection works; false = try again.
Status recover_on(qmp::Client& client, const Recovery& recovery, bool lifted, const Clock& clock,
                  Logger& log, uint64_t deadline_ns) {
    EVAC_TRY(recover_once(client, recovery.was_running, clock, deadline_ns));
    const auto late = lift_write_protection(client.peer_pid());
    if (late.ok() && *late > 0) lifted = true;
    const auto warn = [&](const char* what, const Error& error) {
        log.warning("capture " + client.path() + ": " + what + ": " + error.message());
    };
    if (lifted) {
        log.warning("capture " + client.path() +
                    ": a background snapshot broke; its write protection was taken off");
    }
    if (lifted || recovery.heal) {
        if (recovery.was_running && !recovery.run_dir.empty()) {
            const Status healed = heal(client, recovery.run_dir, clock);
            if (!healed.ok()) warn("QEMU may refuse the next plain migration", healed.error());
            EVAC_TRY(recover_once(client, true, clock, deadline_ns));
        }
    }
    const Status restored = restore_settings(client, recovery.saved);
    if (!restored.ok()) warn("migration settings not put back", restored.error());
    return {};
}

}  // namespace

Status recover(qmp::Client& client, const Recovery& recovery, const Clock& clock, Logger& log) {
    const uint64_t deadline_ns =
        clock.now_ns() + static_cast<uint64_t>(recovery.limit_ms) * kNsPerMs;
    // Before the monitor is asked anything: its thread may be what hangs.
    const auto lifted = lift_write_protection(client.peer_pid());
    if (!lifted.ok()) log.warning("capture " + client.path() + ": " + lifted.error().message());
    std::unique_ptr<qmp::Client> own;  // when the given connection is lost
    Status outcome;
    while (true) {
        qmp::Client* active = own ? own.get() : &client;
        if (!active->usable()) {
            auto opened = qmp::Client::connect(client.path(), left_ms(clock, deadline_ns, kQmpMs));
            if (opened.ok()) {
                own = std::move(opened).value();
                active = own.get();
            } else {
                outcome = opened.error();
                // Nobody listens any more: QEMU is gone, and the guest with it.
                if (outcome.error().sys_errno == ECONNREFUSED ||
                    outcome.error().sys_errno == ENOENT)
                    return outcome;
            }
        }
        if (active->usable()) {
            outcome =
                recover_on(*active, recovery, lifted.ok() && *lifted > 0, clock, log, deadline_ns);
            if (outcome.ok()) return {};
        }
        if (clock.now_ns() >= deadline_ns) return outcome;
        pause_ns(10 * kPollNs);
    }
}

}  // namespace evac::prestage
