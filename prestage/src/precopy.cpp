// A pre-copy that is kept open while its guest runs. Other than with a background snapshot the
// guest never waits for us while it runs, so the stream may be left unread: a full sink is waited
// for, and so is the time for a new epoch. Once the guest stands nothing is waited for any more.
#include "precopy.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "capture_socket.hpp"
#include "evac/core/units.hpp"
#include "evac/qmp/client.hpp"
#include "json_access.hpp"
#include "live_pages.hpp"
#include "migration_control.hpp"
#include "page_filter.hpp"

namespace evac::prestage {
namespace {

using qmp::Json;

constexpr size_t kReadBytes = 256 * 1024;  // between two looks at the monitor
constexpr int kConnectMs = 5'000;          // from `migrate` to its connection
constexpr int kEventMs = 2'000;            // for an event of something that has happened already
constexpr int kCompletionMs = 30'000;      // from the end of the stream to `completed`
constexpr int kCancelMs = 2'000;
constexpr long kWaitStepNs = 2'000'000;
// What QEMU may leave for the stop: of a live pass as little as can be said (0 would switch over
// after the first pass), then what passes at full speed leave, then anything.
constexpr uint64_t kLiveDowntimeMs = 1;
constexpr uint64_t kSealDowntimeMs = 30;
constexpr uint64_t kForceDowntimeMs = 1'999'000;
constexpr uint64_t kDefaultDowntimeMs = 300;               // QEMU's
constexpr uint64_t kDefaultBandwidth = uint64_t{1} << 27;  // QEMU's
constexpr const char* kPauseCapability = "pause-before-switchover";

void nap() {
    const timespec step{0, kWaitStepNs};
    ::nanosleep(&step, nullptr);
}

// The run state that QEMU noted before it stopped the guest for the switchover, from the device
// state; empty where it noted none. section := .. u8 11 "globalstate" u32 u32, u32 size, text, 0
std::string noted_run_state(const Bytes& tail) {
    static constexpr std::string_view kName = "\x0bglobalstate";
    static constexpr size_t kBefore = 12, kTextMax = 100;
    const std::string_view text(reinterpret_cast<const char*>(tail.data()), tail.size());
    const size_t at = text.find(kName);
    if (at == std::string_view::npos || text.size() - at < kName.size() + kBefore + kTextMax)
        return {};
    const std::string_view state = text.substr(at + kName.size() + kBefore, kTextMax);
    return std::string(state.substr(0, state.find('\0')));
}

class Precopy {
  public:
    Precopy(qmp::Client& client, Catalogue& catalogue, const Clock& clock, Logger& log,
            const RoundOptions& options, PageSink& sink)
        : client_(client),
          clock_(clock),
          log_(log),
          options_(options),
          sink_(sink),
          pages_(
              catalogue, result_,
              {[this](const CapturedPage& page) { return offer(page); }, [this] { next_epoch(); }}),
          filter_(catalogue, pages_, result_),
          parser_(filter_) {
        result_.epoch = options.epoch;
        result_.method = options.method;
        start_ns_ = epoch_ns_ = clock.now_ns();
        limits_.cancel = options.cancel;
        limits_.deadline_ns =
            start_ns_ + static_cast<uint64_t>(std::max(options.time_limit_ms, 0)) * kNsPerMs;
        limits_.silence_ns = uint64_t{kStreamSilenceMs} * kNsPerMs;
    }

    Result<RoundResult> run() {
        EVAC_TRY(check_options());
        EVAC_TRY(check_state());
        const Status outcome = capture();
        if (outcome.ok()) {
            result_.duration_ns = clock_.now_ns() - start_ns_;
            result_.pages_changed -= result_.pages_repeated;  // the filter counted every version
            return std::move(result_);
        }
        Error error = outcome.error();
        if (!touched_) return error;
        end_stream();
        const Status back = recover(
            client_, {!paused_by_other_, saved_, options_.run_dir, kRecoveryMs}, clock_, log_);
        if (!back.ok()) {
            error.context +=
                "; AND THE GUEST COULD NOT BE BROUGHT BACK TO RUNNING: " + back.error().message();
        } else if (paused_by_other_ && options_.on_left_stopped) {
            options_.on_left_stopped();
        }
        return error;
    }

  private:
    Status check_options() const {
        const auto wrong = [](const char* field, uint64_t value, const std::string& accepted) {
            return make_error(Errc::invalid_argument, std::string(field) + ": " +
                                                          std::to_string(value) +
                                                          " is refused; accepted: " + accepted);
        };
        if (options_.epochs < kPrecopyEpochsMin) {
            return wrong("epochs", options_.epochs, std::to_string(kPrecopyEpochsMin) + " or more");
        }
        if (raw(options_.epoch) > UINT32_MAX - options_.epochs)
            return wrong("epoch", raw(options_.epoch), "below 2^32 less the number of epochs");
        if (options_.first_bandwidth == 0) return wrong("first_bandwidth", 0, "1 or more bytes/s");
        if (options_.live_bandwidth == 0) return wrong("live_bandwidth", 0, "1 or more bytes/s");
        if (options_.live_limit_ms <= 0) return wrong("live_limit_ms", 0, "1 or more");
        return {};
    }

    Status check_state() {
        const auto guest = query_guest(client_);
        if (!guest.ok()) return guest.error();
        const auto migration = query_migration(client_);
        if (!migration.ok()) return migration.error();
        if (guest->status != "running") {
            return make_error(Errc::refused, "the VM is '" + guest->status +
                                                 "'; a round (precopy_live) needs it running");
        }
        if (migration->busy()) {
            return make_error(Errc::refused, "a migration that is not ours is in progress ('" +
                                                 migration->status + "')");
        }
        return {};
    }

    Status apply_all_settings() {
        EVAC_TRY(apply_settings(client_, false, options_.first_bandwidth, saved_));
        const auto parameters = client_.execute("query-migrate-parameters");
        if (!parameters.ok()) return parameters.error();
        // Found on, it was switched off just now and is noted to be put back as it was.
        const bool noted = std::ranges::any_of(
            saved_.capabilities, [](const auto& entry) { return entry.first == kPauseCapability; });
        if (!noted) saved_.capabilities.emplace_back(kPauseCapability, false);
        const Json on{{"capability", kPauseCapability}, {"state", true}};
        EVAC_TRY(
            client_.execute("migrate-set-capabilities", Json{{"capabilities", Json::array({on})}}));
        saved_.downtime_limit_ms = json::number(*parameters, "downtime-limit");
        EVAC_TRY(
            client_.execute("migrate-set-parameters", Json{{"downtime-limit", kLiveDowntimeMs}}));
        return {};
    }

    Status capture() {
        auto socket =
            CaptureSocket::listen(options_.run_dir, std::to_string(client_.peer_pid()) + "-" +
                                                        std::to_string(raw(options_.epoch)) + "-" +
                                                        std::to_string(start_ns_));
        if (!socket.ok()) return socket.error();
        EVAC_TRY(limits_.check(clock_.now_ns(), clock_.now_ns()));
        if (options_.before_touch) EVAC_TRY(options_.before_touch());
        touched_ = true;
        EVAC_TRY(apply_all_settings());
        client_.drop_events();
        EVAC_TRY(client_.execute("migrate", Json{{"uri", socket->uri()}}));
        WaitLimits connect = limits_;
        connect.deadline_ns = clock_.now_ns() + uint64_t{kConnectMs} * kNsPerMs;
        auto stream = socket->accept(clock_, connect, [this] { return check_not_over(client_); });
        if (!stream.ok()) return stream.error();
        stream_ = std::move(stream).value();
        EVAC_TRY(follow());
        EVAC_TRY(switch_over());
        EVAC_TRY(await_completed());
        EVAC_TRY(resume());
        const Status restored = restore_settings(client_, saved_);
        if (!restored.ok()) {
            log_.warning("capture " + client_.path() +
                         ": migration settings not put back: " + restored.error().message());
        }
        return {};
    }

    // Reads while the guest runs, until it stands at the switchover.
    Status follow() {
        last_byte_ns_ = clock_.now_ns();
        while (true) {
            const auto more = read_some();
            if (!more.ok()) return more.error();
            if (!*more) {
                return with_reason(make_error(Errc::io, "the stream ended before the switchover"));
            }
            watch();
            EVAC_TRY(failure_);
            if (!stopped_) continue;
            const auto state = query_migration(client_);
            if (!state.ok()) return state.error();
            if (state->status == "pre-switchover") return {};
            if (!state->busy()) {
                return make_error(Errc::io, "QEMU ended the migration as '" + state->status +
                                                "': " + state->error);
            }
        }
    }

    // The guest stands: the disks' point, then the rest.
    Status switch_over() {
        if (options_.on_stopped) {
            const uint64_t before_ns = clock_.now_ns();
            const Status hooked = options_.on_stopped();
            result_.hook_ns = clock_.now_ns() - before_ns;
            EVAC_TRY(hooked);
        }
        continued_ = true;  // from here on QEMU's main loop may wait for us to read
        EVAC_TRY(client_.execute("migrate-continue", Json{{"state", "pre-switchover"}}));
        last_byte_ns_ = clock_.now_ns();
        while (true) {
            const auto more = read_some();
            if (!more.ok()) return more.error();
            EVAC_TRY(failure_);
            if (!*more) break;
        }
        abandon(stream_, client_.peer_pid());  // it has ended: QEMU is closing its side
        auto device_state = parser_.finish();
        if (!device_state.ok()) return with_reason(device_state.error());
        result_.device_state = std::move(device_state).value();
        result_.stream_bytes = parser_.stream_bytes();
        result_.pages_missing = filter_.missing();
        return {};
    }

    Status await_completed() {
        const auto state = await_migration_end(
            client_, false, clock_, clock_.now_ns() + uint64_t{kCompletionMs} * kNsPerMs);
        if (!state.ok()) return state.error();
        if (state->status == "completed") return {};
        return make_error(Errc::io,
                          "QEMU ended the migration as '" + state->status + "': " + state->error);
    }

    // A stream that ended early: QEMU knows why.
    Error with_reason(Error error) {
        const auto state = query_migration(client_);
        if (state.ok() && !state->error.empty()) error.context += "; QEMU says: " + state->error;
        return error;
    }

    Status resume() {
        const std::string noted = noted_run_state(result_.device_state.tail);
        if (!noted.empty() && noted != "running") {
            paused_by_other_ = true;
            return make_error(Errc::refused, "the VM was '" + noted +
                                                 "' by somebody else's doing when its round ended; "
                                                 "it is left stopped");
        }
        EVAC_TRY(client_.execute("cont"));
        const auto event = client_.wait_event("RESUME", kEventMs);
        if (!event.ok()) return event.error();
        const uint64_t resume_us = event_time_us(*event);
        const auto guest = query_guest(client_);
        if (!guest.ok()) return guest.error();
        if (!guest->running)
            return make_error(Errc::io, "the guest is '" + guest->status + "' after its round");
        if (resume_us > stop_us_) result_.pause_ns = (resume_us - stop_us_) * 1000;
        result_.pause_upper_ns = result_.pause_ns;
        return {};
    }

    // One read at most, and at most kPollMs of waiting for it. False: the stream has ended.
    Result<bool> read_some() {
        const ssize_t n = ::recv(stream_.get(), buffer_.get(), kReadBytes, 0);
        const int failure = errno;
        if (n == 0) return false;
        if (n > 0) {
            EVAC_TRY(parser_.push({buffer_.get(), static_cast<size_t>(n)}));
            last_byte_ns_ = clock_.now_ns();
        } else if (failure != EAGAIN && failure != EINTR) {
            return io_error("reading the migration stream", failure);
        }
        EVAC_TRY(limits_.check(clock_.now_ns(), last_byte_ns_));
        if (n < 0) {
            // What the monitor says next, and cancel, are looked at in the next turn.
            pollfd waiter{stream_.get(), POLLIN, 0};
            ::poll(&waiter, 1, stopped_ ? 1 : kPollMs);
        }
        return true;
    }

    // --- beside the reading, guest running

    void watch() {
        if (stopped_ || !failure_.ok()) return;
        const auto event = client_.wait_event("STOP", 0);
        if (event.ok()) return note_stop(*event);
        if (!client_.usable()) return fail(event.error());
        if (!parser_.ram_setup_seen() || filter_.missing() != 0) return;  // the first pass is on
        const uint64_t now_ns = clock_.now_ns();
        const bool asked = options_.seal_now != nullptr && options_.seal_now->load();
        const bool old = now_ns - start_ns_ >= uint64_t(options_.live_limit_ms) * kNsPerMs;
        if (sealing_since_ns_ != 0) {
            if (!forcing_ && now_ns - sealing_since_ns_ >= uint64_t{kConvergeMs} * kNsPerMs) {
                forcing_ = true;
                set_parameters(kCaptureBandwidth, kForceDowntimeMs);
            }
        } else if (asked || old) {
            sealing_since_ns_ = now_ns;
            set_parameters(kCaptureBandwidth, kSealDowntimeMs);
        } else if (!slowed_) {
            slowed_ = true;
            if (options_.live_bandwidth != options_.first_bandwidth)
                set_parameters(options_.live_bandwidth, kLiveDowntimeMs);
        }
    }

    void set_parameters(uint64_t bandwidth, uint64_t downtime_limit_ms) {
        const auto set = client_.execute(
            "migrate-set-parameters",
            Json{{"max-bandwidth", bandwidth}, {"downtime-limit", downtime_limit_ms}});
        if (!set.ok()) fail(set.error());
    }

    // Stopped by QEMU for the switchover, or by somebody else? Should the switchover follow
    // somebody's stop at once, the device state tells, see resume().
    void note_stop(const Json& event) {
        const auto guest = query_guest(client_);
        if (!guest.ok()) return fail(guest.error());
        if (guest->running) return;  // stopped and resumed by somebody since
        if (guest->status != "finish-migrate") {
            paused_by_other_ = true;
            return fail(
                make_error(Errc::refused, "the VM is '" + guest->status +
                                              "' by somebody else's doing; its round is given up"));
        }
        stopped_ = true;
        result_.forced = sealing_since_ns_ != 0;
        stop_us_ = event_time_us(event);
    }

    void fail(Error error) {
        if (failure_.ok()) failure_ = std::move(error);
    }

    bool cancelled() const {
        return options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed);
    }

    // --- the filter's hooks

    bool offer(const CapturedPage& page) {
        if (!failure_.ok() || cancelled()) return false;
        if (sink_.page(page)) {
            gave_up_ = false;
            return true;
        }
        const uint64_t begin_ns = clock_.now_ns();
        // After one wait in vain no other page waits until the sink takes one again.
        while (!gave_up_ && failure_.ok() && !cancelled()) {
            nap();
            watch();
            const uint64_t waited_ns = clock_.now_ns() - begin_ns;
            if (sink_.page(page)) {
                if (stopped_) stopped_wait_ns_ += waited_ns;
                return true;
            }
            const int most_ms = stopped_ ? kSinkWaitStoppedMs : std::max(options_.sink_wait_ms, 0);
            gave_up_ = waited_ns + (stopped_ ? stopped_wait_ns_ : 0) >=
                       static_cast<uint64_t>(most_ms) * kNsPerMs;
        }
        return false;
    }

    // Half of the epochs are for the live time, a quarter for the sealing, the rest for what comes
    // when the guest stands; until then there is a least time between two of them.
    void next_epoch() {
        const uint64_t used = raw(result_.epoch) - raw(options_.epoch) + 1;
        if (used >= options_.epochs) {
            fail(make_error(Errc::refused, "the round has used its " +
                                               std::to_string(options_.epochs) + " epochs"));
        }
        while (!stopped_ && failure_.ok() && !cancelled()) {
            const bool sealing = sealing_since_ns_ != 0;
            const uint64_t span_ms =
                static_cast<uint64_t>(sealing ? kConvergeMs : options_.live_limit_ms);
            const uint64_t least_ns = span_ms * kNsPerMs / (options_.epochs / (sealing ? 4 : 2));
            if (clock_.now_ns() - epoch_ns_ >= least_ns) break;
            nap();
            watch();
        }
        const uint64_t now_ns = clock_.now_ns();
        if (++result_.pass_count > 1) {
            if (result_.passes.size() == kPassesKept) result_.passes.erase(result_.passes.begin());
            result_.passes.push_back({now_ns - epoch_ns_, pages_.changed_in_epoch()});
        }
        epoch_ns_ = now_ns;
    }

    // --- the way back

    // A guest that stands at the switchover is freed by cancelling, which the monitor can always
    // do until migrate-continue; afterwards QEMU may need to see the stream fail first.
    void end_stream() {
        if (!stream_.valid()) return;
        if (!continued_) {
            std::unique_ptr<qmp::Client> own;
            if (!client_.usable()) {
                auto opened = qmp::Client::connect(client_.path(), kCancelMs);
                if (opened.ok()) own = std::move(opened).value();
            }
            qmp::Client& active = own ? *own : client_;
            if (active.usable()) {
                const auto done = active.execute("migrate_cancel", Json::object(), kCancelMs);
                if (!done.ok())
                    log_.warning("capture " + client_.path() + ": " + done.error().message());
            }
        }
        abandon(stream_, client_.peer_pid());
    }

    qmp::Client& client_;
    const Clock& clock_;
    Logger& log_;
    const RoundOptions& options_;
    PageSink& sink_;
    RoundResult result_;
    LivePages pages_;
    PageFilter filter_;
    StreamParser parser_;
    std::unique_ptr<std::byte[]> buffer_ = std::make_unique_for_overwrite<std::byte[]>(kReadBytes);
    WaitLimits limits_;
    SavedSettings saved_;
    UniqueFd stream_;
    Status failure_;  // found beside the reading
    uint64_t start_ns_ = 0;
    uint64_t last_byte_ns_ = 0;
    uint64_t epoch_ns_ = 0;  // begin of the present epoch
    uint64_t sealing_since_ns_ = 0;
    uint64_t stopped_wait_ns_ = 0;
    uint64_t stop_us_ = 0;  // of QEMU's event, its wall clock
    bool touched_ = false;
    bool forcing_ = false;    // the switchover, whatever is left
    bool slowed_ = false;     // to live_bandwidth
    bool stopped_ = false;    // the guest, by QEMU for the switchover
    bool continued_ = false;  // migrate-continue was said
    bool gave_up_ = false;    // waiting for the sink
    bool paused_by_other_ = false;
};

}  // namespace

Result<RoundResult> run_precopy(qmp::Client& client, Catalogue& catalogue, const Clock& clock,
                                Logger& log, const RoundOptions& options, PageSink& sink) {
    Precopy precopy(client, catalogue, clock, log, options, sink);
    return precopy.run();
}

SavedSettings precopy_leftovers(qmp::Client& client) {
    SavedSettings out;
    const auto parameters = client.execute("query-migrate-parameters");
    if (!parameters.ok()) return out;
    const uint64_t downtime_ms = json::number(*parameters, "downtime-limit");
    if (downtime_ms != kLiveDowntimeMs && downtime_ms != kSealDowntimeMs &&
        downtime_ms != kForceDowntimeMs)
        return out;
    out.capabilities.emplace_back(kPauseCapability, false);
    out.downtime_limit_ms = kDefaultDowntimeMs;
    out.max_bandwidth = kDefaultBandwidth;
    return out;
}

}  // namespace evac::prestage
