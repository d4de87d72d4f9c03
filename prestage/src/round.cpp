#include "evac/prestage/round.hpp"

#include <algorithm>
#include <optional>

#include "capture_socket.hpp"
#include "evac/core/units.hpp"
#include "evac/prestage/mapped_memory.hpp"
#include "evac/prestage/stream_guard.hpp"
#include "evac/qmp/client.hpp"
#include "migration_control.hpp"
#include "page_filter.hpp"
#include "precopy.hpp"
#include "write_protection.hpp"

namespace evac::prestage {
namespace {

using qmp::Json;

constexpr int kStopMs = 10'000;
constexpr int kEventMs = 2'000;        // for an event of something that has happened already
constexpr int kConnectMs = 5'000;      // from `migrate` to its connection
constexpr int kCompletionMs = 30'000;  // from the end of the stream to `completed`
constexpr uint64_t kSelfResumeNs =
    100 * kNsPerMs;  // after the first page; then we say cont (newer QEMUs, see below)

bool uses_snapshot(RoundMethod method) {
    return method == RoundMethod::sealed_live || method == RoundMethod::mapped_sealed;
}

bool is_final(RoundMethod method) {
    return method == RoundMethod::final_stopped || method == RoundMethod::mapped_final;
}

std::optional<RegionId> mapped_region(const Catalogue& catalogue, const RoundOptions& options) {
    if (!uses_mapping(options.method)) return std::nullopt;
    EVAC_ASSERT(options.mapped != nullptr);
    const auto& regions = catalogue.regions();
    const auto found = std::ranges::find(regions, options.mapped->block().name, &RegionInfo::name);
    EVAC_ASSERT(found != regions.end());
    return RegionId{static_cast<uint16_t>(found - regions.begin())};
}

// One round in progress. Every function is a step; a failure of any of them ends in recover().
class Round {
  public:
    Round(qmp::Client& client, Catalogue& catalogue, const Clock& clock, Logger& log,
          const RoundOptions& options, PageSink& sink)
        : client_(client),
          clock_(clock),
          log_(log),
          options_(options),
          catalogue_(catalogue),
          sink_(sink),
          mapped_(mapped_region(catalogue, options)),
          filter_(catalogue, sink, result_, mapped_) {
        result_.epoch = options.epoch;
        result_.method = options.method;
        start_ns_ = clock.now_ns();
        limits_.cancel = options.cancel;
        limits_.deadline_ns =
            start_ns_ + static_cast<uint64_t>(std::max(options.time_limit_ms, 0)) * kNsPerMs;
        limits_.silence_ns = uint64_t{kStreamSilenceMs} * kNsPerMs;
    }

    Result<RoundResult> run() {
        EVAC_TRY(check_state());
        Status outcome = capture();
        if (outcome.ok()) {
            result_.duration_ns = clock_.now_ns() - start_ns_;
            return std::move(result_);
        }
        Error error = outcome.error();
        if (!touched_) return error;
        end_stream();
        const Status recovered =
            recover(client_, {was_running_, saved_, options_.run_dir, kRecoveryMs}, clock_, log_);
        if (!recovered.ok()) {
            error.context += std::string("; AND THE GUEST COULD NOT BE BROUGHT BACK") +
                             (was_running_ ? " TO RUNNING: " : ": ") + recovered.error().message();
        }
        return error;
    }

    bool was_running() const { return was_running_; }

  private:
    // Before any wait for the monitor, because QEMU's main loop may be waiting for its stream. A
    // background snapshot is read to its end, because QEMU 7.2 leaves the guest's memory
    // write-protected otherwise.
    void end_stream() {
        if (!stream_.valid()) {
            release_guard();
            return;
        }
        if (!uses_snapshot(options_.method)) {
            abandon(stream_, client_.peer_pid());
        } else {
            const Status ended = discard(std::move(stream_), client_.peer_pid(), clock_);
            if (!ended.ok())
                log_.warning("capture " + client_.path() + ": " + ended.error().message());
        }
        release_guard();
    }

    void release_guard() {
        if (held_) options_.guard->release(guard_number_);
        held_ = false;
    }

    Status check_state() {
        const auto guest = query_guest(client_);
        if (!guest.ok()) return guest.error();
        const bool may_be_paused = is_final(options_.method);
        if (guest->status != "running" && !(may_be_paused && guest->status == "paused")) {
            return make_error(Errc::refused, "the VM is '" + guest->status + "'; a round (" +
                                                 to_string(options_.method) + ") needs it running" +
                                                 (may_be_paused ? " or paused" : ""));
        }
        was_running_ = guest->running;
        const auto migration = query_migration(client_);
        if (!migration.ok()) return migration.error();
        if (migration->busy()) {
            return make_error(Errc::refused, "a migration that is not ours is in progress ('" +
                                                 migration->status + "')");
        }
        return {};
    }

    Status capture() {
        if (mapped_ && was_running_) {
            EVAC_TRY(scan());
            // The guest is not stopped for what would be no recovery point.
            const bool full = scan_.stopped_early && !is_final(options_.method);
            if (full || options_.method == RoundMethod::mapped_refresh) {
                result_.pages_missing = ram_pages() - scan_.pages_seen;
                return {};
            }
            // The scan took its time: is everything still as it was found?
            EVAC_TRY(check_state());
            if (!was_running_ && !is_final(options_.method))
                return make_error(Errc::refused, "the VM was paused while it was scanned");
            // The next scan may bring newer versions of the same pages: away tells them apart by
            // their epoch.
            if (!is_final(options_.method)) result_.epoch = Epoch{raw(options_.epoch) + 1};
        }
        auto socket =
            CaptureSocket::listen(options_.run_dir, std::to_string(client_.peer_pid()) + "-" +
                                                        std::to_string(raw(options_.epoch)) + "-" +
                                                        std::to_string(start_ns_));
        if (!socket.ok()) return socket.error();
        if (options_.before_touch) EVAC_TRY(options_.before_touch());
        touched_ = true;
        const bool snapshot = uses_snapshot(options_.method);
        EVAC_TRY(apply_capabilities(client_, capabilities(), kCaptureBandwidth, saved_));
        EVAC_TRY(stop_guest());
        if (mapped_) {
            result_.pages_dropped = 0;  // only what this scan drops is missing
            EVAC_TRY(scan());
            result_.scan_ns = scan_.duration_ns;
            if (scan_.stopped_early) return end_unsealed();
        }
        EVAC_TRY(limits_.check(clock_.now_ns(), clock_.now_ns()));
        EVAC_TRY(client_.execute("migrate", Json{{"uri", socket->uri()}}));
        // Not to be cancelled: a stream that QEMU has begun must be ended in an orderly way.
        WaitLimits connect;
        connect.deadline_ns = clock_.now_ns() + uint64_t{kConnectMs} * kNsPerMs;
        connect.silence_ns = uint64_t{kConnectMs} * kNsPerMs;
        auto stream = socket->accept(clock_, connect, [this] { return check_not_over(client_); });
        if (!stream.ok()) return stream.error();
        stream_ = std::move(stream).value();
        if (options_.guard != nullptr && snapshot) {
            guard_number_ = start_ns_;
            const Status held = options_.guard->hold(guard_number_, stream_.get());
            if (!held.ok())
                log_.warning("capture " + client_.path() + ": " + held.error().message());
            held_ = held.ok();
        }
        EVAC_TRY(read_stream());
        EVAC_TRY(await_completed());
        if (!is_final(options_.method)) EVAC_TRY(await_running());
        put_settings_back();
        return {};
    }

    void put_settings_back() {
        const Status restored = restore_settings(client_, saved_);
        if (!restored.ok()) {
            log_.warning("capture " + client_.path() +
                         ": migration settings not put back: " + restored.error().message());
        }
    }

    std::span<const std::string_view> capabilities() const {
        static constexpr std::array<std::string_view, 2> kBoth{"background-snapshot",
                                                               "x-ignore-shared"};
        const size_t first = uses_snapshot(options_.method) ? 0 : 1;
        return std::span(kBoth).subspan(first, (mapped_ ? 2U : 1U) - first);
    }

    uint64_t ram_pages() const {
        uint64_t pages = 0;
        for (size_t i = 0; i < catalogue_.regions().size(); ++i) {
            const bool is_disk = catalogue_.regions()[i].kind == RegionKind::disk;
            if (!is_disk) pages += catalogue_.page_count(RegionId{static_cast<uint16_t>(i)});
        }
        return pages;
    }

    // Compares the mapped RAM as it is now.
    Status scan() {
        ScanRequest request;
        request.region = *mapped_;
        request.epoch = result_.epoch;
        request.check = [this] {
            const uint64_t now_ns = clock_.now_ns();
            return limits_.check(now_ns, now_ns);
        };
        auto scanned = options_.mapped->scan(catalogue_, sink_, request);
        if (!scanned.ok()) return scanned.error();
        scan_ = *scanned;
        result_.pages_seen += scan_.pages_seen;
        result_.pages_zero += scan_.pages_zero;
        result_.pages_changed += scan_.pages_changed;
        result_.pages_dropped += scan_.stopped_early ? 1 : 0;
        return {};
    }

    // The sink was full in the middle of the stopped scan: no recovery point. The guest goes on, or
    // stands still after a final pass as it would have.
    Status end_unsealed() {
        result_.pages_missing = ram_pages() - scan_.pages_seen;
        if (!is_final(options_.method)) {
            EVAC_TRY(client_.execute("cont"));
            EVAC_TRY(await_running());
        }
        put_settings_back();
        return {};
    }

    // Stops the guest and lets the caller take the disks' point in time.
    Status stop_guest() {
        client_.drop_events();
        stop_wall_ms_ = clock_.wall_unix_ms();
        if (was_running_) {
            EVAC_TRY(client_.execute("stop", Json::object(), kStopMs));
            const auto event = client_.wait_event("STOP", kEventMs);
            if (!event.ok()) return event.error();
            stop_us_ = event_time_us(*event);
        }
        if (!options_.on_stopped) return {};
        const uint64_t before_ns = clock_.now_ns();
        const Status hooked = options_.on_stopped();
        result_.hook_ns = clock_.now_ns() - before_ns;
        return hooked;
    }

    Status read_stream() {
        StreamParser parser(filter_);
        const auto take = [&parser](ByteSpan chunk) -> Result<bool> {
            EVAC_TRY(parser.push(chunk));
            return true;
        };
        EVAC_TRY(drain(stream_.get(), clock_, limits_, take, [&] { watch_resume(parser); }));
        abandon(stream_, client_.peer_pid());  // it has ended: QEMU is closing its side
        release_guard();
        auto device_state = parser.finish();
        if (!device_state.ok()) return with_reason(device_state.error());
        result_.device_state = std::move(device_state).value();
        result_.stream_bytes = parser.stream_bytes();
        result_.pages_missing = filter_.missing();
        if (result_.device_state.shared_left_out != mapped_.has_value()) {
            return make_error(Errc::corrupt,
                              "the migration stream leaves shared RAM out, or does not, "
                              "against what was asked for (x-ignore-shared)");
        }
        return {};
    }

    // Between two reads: picks up RESUME without waiting for it. From QEMU 8.2 on [not tried here]
    // a background snapshot leaves a guest stopped that was stopped before; its pages flow only
    // after device state and write protection are in place, so that cont is right then. The answer
    // is not waited for: to resume, QEMU may need us to go on reading.
    void watch_resume(const StreamParser& parser) {
        if (!uses_snapshot(options_.method) || resume_us_ != 0 || !client_.usable()) return;
        const auto event = client_.wait_event("RESUME", 0);
        if (event.ok()) {
            resume_us_ = event_time_us(*event);
            return;
        }
        if (!parser.pages_seen()) return;
        const uint64_t now_ns = clock_.now_ns();
        if (first_page_ns_ == 0) first_page_ns_ = now_ns;
        if (cont_sent_ || now_ns - first_page_ns_ < kSelfResumeNs) return;
        cont_sent_ = true;
        static_cast<void>(client_.execute("cont", Json::object(), 1).ok());
    }

    Status await_completed() {
        const auto state = await_migration_end(
            client_, false, clock_, clock_.now_ns() + uint64_t{kCompletionMs} * kNsPerMs);
        if (!state.ok()) return state.error();
        if (state->status == "completed") return {};
        return make_error(Errc::io,
                          "QEMU ended the migration as '" + state->status + "': " + state->error);
    }

    // The guest runs (again), and the pause is known.
    Status await_running() {
        const bool migrated = options_.method == RoundMethod::stopped_pass ||
                              options_.method == RoundMethod::mapped_stopped;
        if (migrated && !result_.device_state.tail.empty()) EVAC_TRY(client_.execute("cont"));
        // Newer QEMUs leave a guest stopped that was stopped before a background snapshot [not
        // tried here]; a mapped seal's stream is over before watch_resume() says cont.
        if (uses_snapshot(options_.method) && resume_us_ == 0 && !cont_sent_) {
            const auto now = query_guest(client_);
            if (now.ok() && now->status == "paused") EVAC_TRY(client_.execute("cont"));
        }
        const bool resumed_by_itself = resume_us_ != 0;
        if (resume_us_ == 0) {
            auto event = client_.wait_event("RESUME", kEventMs);
            if (!event.ok()) {
                EVAC_TRY(client_.execute("cont"));
                event = client_.wait_event("RESUME", kEventMs);
                if (!event.ok()) return event.error();
            }
            resume_us_ = event_time_us(*event);
        }
        const auto guest = query_guest(client_);
        if (!guest.ok()) return guest.error();
        // It ran again while its stream was read, and was paused then: somebody else's doing, to be
        // left as it is.
        const bool paused_by_other = resumed_by_itself && guest->status == "paused";
        if (!guest->running && !paused_by_other) {
            return make_error(Errc::io, "the guest is '" + guest->status + "' after its round");
        }
        if (resume_us_ > stop_us_) result_.pause_ns = (resume_us_ - stop_us_) * 1000;
        const uint64_t stop_wall_us = static_cast<uint64_t>(stop_wall_ms_) * 1000;
        if (resume_us_ > stop_wall_us) result_.pause_upper_ns = (resume_us_ - stop_wall_us) * 1000;
        return {};
    }

    // A stream that failed to come or ended early: QEMU knows why.
    Error with_reason(Error error) {
        const auto state = query_migration(client_);
        if (state.ok() && !state->error.empty()) error.context += "; QEMU says: " + state->error;
        return error;
    }

    qmp::Client& client_;
    const Clock& clock_;
    Logger& log_;
    const RoundOptions& options_;
    Catalogue& catalogue_;
    PageSink& sink_;
    RoundResult result_;
    const std::optional<RegionId> mapped_;
    ScanResult scan_;  // the last one
    PageFilter filter_;
    WaitLimits limits_;
    SavedSettings saved_;
    UniqueFd stream_;
    uint64_t guard_number_ = 0;
    bool held_ = false;  // by the guard
    uint64_t start_ns_ = 0;
    bool was_running_ = false;
    bool touched_ = false;  // something of the VM was changed: a failure needs recovery
    bool cont_sent_ = false;
    int64_t stop_wall_ms_ = 0;
    uint64_t stop_us_ = 0, resume_us_ = 0;  // of QEMU's events, its wall clock
    uint64_t first_page_ns_ = 0;
};

}  // namespace

bool uses_mapping(RoundMethod method) {
    return method == RoundMethod::mapped_refresh || method == RoundMethod::mapped_sealed ||
           method == RoundMethod::mapped_stopped || method == RoundMethod::mapped_final;
}

const char* to_string(RoundMethod method) {
    switch (method) {
        case RoundMethod::sealed_live:
            return "sealed_live";
        case RoundMethod::stopped_pass:
            return "stopped_pass";
        case RoundMethod::final_stopped:
            return "final_stopped";
        case RoundMethod::mapped_refresh:
            return "mapped_refresh";
        case RoundMethod::mapped_sealed:
            return "mapped_sealed";
        case RoundMethod::mapped_stopped:
            return "mapped_stopped";
        case RoundMethod::mapped_final:
            return "mapped_final";
        case RoundMethod::precopy_live:
            return "precopy_live";
    }
    return "?";
}

RoundRunner::RoundRunner(qmp::Client& client, Catalogue& catalogue, const Clock& clock, Logger& log)
    : client_(client), catalogue_(catalogue), clock_(clock), log_(log) {}

Result<RoundResult> RoundRunner::run(const RoundOptions& options, PageSink& sink) {
    if (options.method == RoundMethod::precopy_live) {
        ran_before_final_ = false;
        return run_precopy(client_, catalogue_, clock_, log_, options, sink);
    }
    Round round(client_, catalogue_, clock_, log_, options, sink);
    auto result = round.run();
    ran_before_final_ = result.ok() && is_final(options.method) && round.was_running();
    return result;
}

Status RoundRunner::resume_after_final() {
    if (!ran_before_final_) return {};
    Recovery recovery;
    recovery.was_running = true;
    recovery.limit_ms = kRecoveryMs;
    EVAC_TRY(recover(client_, recovery, clock_, log_));
    ran_before_final_ = false;
    return {};
}

Status ensure_running(qmp::Client& client, const std::string& run_dir, const Clock& clock,
                      Logger& log) {
    // A guard of the gateway that died may be reading its last stream to the end: give it time
    // before cancelling. At a live pre-copy's switchover the guest waits for nobody else.
    const auto found = query_migration(client);
    if (!found.ok() || found->status != "pre-switchover") {
        const uint64_t deadline_ns = clock.now_ns() + uint64_t{kRecoveryMs} * kNsPerMs;
        const auto state = await_migration_end(client, false, clock, deadline_ns);
        if (!state.ok()) log.warning("capture " + client.path() + ": " + state.error().message());
    }
    Recovery recovery;
    recovery.was_running = true;
    recovery.saved = precopy_leftovers(client);
    for (const char* ours : {"background-snapshot", "x-ignore-shared"})
        recovery.saved.capabilities.emplace_back(ours, false);
    recovery.run_dir = run_dir;
    recovery.limit_ms = kRecoveryMs;
    recovery.heal = has_userfault_fd(client.peer_pid());
    return recover(client, recovery, clock, log);
}

Result<std::unique_ptr<qmp::Client>> connect_or_rescue(const std::string& qmp_socket_path,
                                                       int timeout_ms, Logger& log) {
    auto client = qmp::Client::connect(qmp_socket_path, timeout_ms);
    if (client.ok() || client.error().code != Errc::timeout) return client;
    const auto pid = listener_pid(qmp_socket_path);
    if (!pid.ok()) return client;
    const auto lifted = lift_write_protection(*pid);
    if (!lifted.ok()) {
        Error error = client.error();
        error.context += "; " + lifted.error().message();
        return error;
    }
    if (*lifted == 0) return client;
    log.warning("QMP " + qmp_socket_path + ": QEMU hung in write-protected memory and was freed");
    return qmp::Client::connect(qmp_socket_path, std::max(timeout_ms, qmp::kDefaultTimeoutMs));
}

}  // namespace evac::prestage
