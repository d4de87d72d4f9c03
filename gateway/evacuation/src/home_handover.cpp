#include "evac/evacuation/home_handover.hpp"

#include <algorithm>

namespace evac::evacuation {
namespace {

Status check(const HandoverOptions& options) {
    if (options.policy == Policy::evacuation && options.silence_ms < kSilenceMinMs) {
        return make_error(Errc::invalid_argument,
                          "silence_ms: " + std::to_string(options.silence_ms) +
                              ", at least 1000 under policy evacuation");
    }
    return {};
}

bool needs_confirmation(HomeEventKind kind) {
    return kind == HomeEventKind::force_resume || kind == HomeEventKind::force_yield;
}

bool is_answer(HomeEventKind kind) {
    return kind >= HomeEventKind::drained && kind < kHomeEventsFromOutside;
}

HomeEventKind event_of(MessageKind kind) {
    switch (kind) {
        case MessageKind::prepared:
            return HomeEventKind::peer_prepared;
        case MessageKind::sealed:
            return HomeEventKind::peer_sealed;
        case MessageKind::seal_failed:
            return HomeEventKind::peer_seal_failed;
        case MessageKind::not_sealed:
            return HomeEventKind::peer_not_sealed;
        case MessageKind::committed:
            return HomeEventKind::peer_committed;
        case MessageKind::landed_paused:
            return HomeEventKind::peer_landed_paused;
        case MessageKind::running:
            return HomeEventKind::peer_running;
        case MessageKind::aborted:
            return HomeEventKind::peer_aborted;
        default:
            return HomeEventKind::peer_lost;
    }
}

uint32_t clamp_ms(int64_t ms) {
    return static_cast<uint32_t>(std::clamp<int64_t>(ms, 0, UINT32_MAX));
}

}  // namespace

HomeEvent answer(const Act& act, HomeEventKind kind, Epoch epoch, std::string text) {
    HomeEvent event;
    event.kind = kind;
    event.handover = act.handover;
    event.ticket = act.ticket;
    event.epoch = epoch;
    event.text = std::move(text);
    return event;
}

HomeHandover::HomeHandover(VmId vm, Journal& journal, std::span<const HomeRow> table)
    : journal_(journal), table_(table) {
    const HandoverRecord* known = journal.find(Role::home, vm);
    if (known != nullptr) record_ = *known;
    record_.role = Role::home;
    record_.vm = vm;
    confirmed_ = raw(record_.handover) == 0;
}

Result<Acts> HomeHandover::handle(const HomeEvent& event, Now now) {
    if (event.kind >= kHomeEventsFromOutside) {
        return make_error(Errc::invalid_argument,
                          std::string(to_string(event.kind)) + ": not an event from outside");
    }
    if (is_answer(event.kind) && event.handover != record_.handover) return Acts{};
    // A capture that another one, or a new session, has made worthless.
    const bool of_capture =
        event.kind == HomeEventKind::captured || event.kind == HomeEventKind::capture_failed;
    if (of_capture && event.ticket == 0) {
        return make_error(
            Errc::invalid_argument,
            std::string(to_string(event.kind)) + ": needs the ticket of its act, see answer()");
    }
    if (of_capture && event.ticket != capture_ticket_) return Acts{};
    if (select(event.kind) == nullptr) return refusal(event);
    if (needs_confirmation(event.kind) && !event.confirmed) {
        return make_error(Errc::refused,
                          std::string(to_string(event.kind)) + " of vm " +
                              std::to_string(raw(record_.vm)) +
                              ": may leave two copies running; needs to be confirmed");
    }
    if (event.kind == HomeEventKind::begin) EVAC_TRY(check(event.options));
    return fire(event, now);
}

Result<Acts> HomeHandover::deliver(const Message& message, Now now) {
    if (is_from_home(message.kind) || message.vm != record_.vm) return Acts{};
    const bool ours = message.handover == (record_.outside ? HandoverId{} : record_.handover);
    if (message.kind == MessageKind::aborted) floor_ = std::max(floor_, message.floor);
    if (message.kind == MessageKind::running) {
        const State s = record_.state;
        const bool fits = ours && (s == State::sealed || s == State::committed ||
                                   s == State::running_away || s == State::released);
        const std::string text = "away says that it runs this VM (its handover " +
                                 std::to_string(raw(message.handover)) + ", ours " +
                                 std::to_string(raw(record_.handover)) + ", " + to_string(s) + ")";
        if (!fits) conflict_ = message.handover;
        return fire(fits ? HomeEventKind::peer_running : HomeEventKind::peer_conflict, now, text);
    }
    if (!ours) return Acts{};
    // An answer about an earlier SEAL of this handover.
    if (message.kind == MessageKind::seal_failed && message.epoch != record_.epoch) return Acts{};
    std::string text = message.text;
    if (message.kind == MessageKind::aborted && message.reason != AbortReason::none) {
        text = std::string(to_string(message.reason)) + (text.empty() ? "" : ": " + text);
    }
    return fire(event_of(message.kind), now, std::move(text));
}

Result<Acts> HomeHandover::restart(Now now) {
    return fire(HomeEventKind::restarted, now);
}
Result<Acts> HomeHandover::session_up(Now now) {
    return fire(HomeEventKind::session_up, now);
}

Result<Acts> HomeHandover::tick(Now now, uint64_t away_silent_ns) {
    const HandoverOptions& o = record_.options;
    const bool stands_still = record_.state == State::frozen || record_.state == State::sealed;
    if (stands_still && o.stopped_max_ms != 0 && downtime_ms(now) >= o.stopped_max_ms &&
        select(HomeEventKind::stop_limit) != nullptr) {
        return fire(HomeEventKind::stop_limit, now,
                    "stood still for " + std::to_string(downtime_ms(now)) + " ms");
    }
    if (stands_still && o.away_patience_ms != 0 &&
        away_silent_ns >= o.away_patience_ms * uint64_t{1'000'000} &&
        select(HomeEventKind::away_silent) != nullptr) {
        return fire(HomeEventKind::away_silent, now);
    }
    if (now.ns - last_sent_ns_ < kResendNs) return Acts{};
    last_sent_ns_ = now.ns;
    return fire(HomeEventKind::resend_due, now);
}

bool HomeHandover::may_prestage() const {
    const State s = record_.state;
    return confirmed_ && !away_runs_ &&
           (s == State::protected_ || s == State::armed || s == State::draining);
}

uint64_t HomeHandover::downtime_ms(Now now) const {
    if (record_.stopped_unix_ms == 0) return record_.downtime_ms;
    return clamp_ms(now.unix_ms - record_.stopped_unix_ms);
}

Result<Acts> HomeHandover::fire(HomeEventKind kind, Now now, std::string text) {
    HomeEvent event;
    event.kind = kind;
    event.handover = record_.handover;
    event.text = std::move(text);
    return fire(event, now);
}

// The order is the rule of the whole library: decide, journal, only then remember and let act.
Result<Acts> HomeHandover::fire(const HomeEvent& event, Now now) {
    const HomeRow* row = select(event.kind);
    if (row == nullptr) return Acts{};
    const HandoverRecord next = next_record(*row, event, now);
    if (row->persist != Persist::no) {
        EVAC_TRY(journal_.append(
            next, row->persist == Persist::durable ? Durability::durable : Durability::lazy));
    }
    mark_times(*row, event.kind, now);
    record_ = next;
    remember(*row, event);
    return acts_of(*row, event, now);
}

const HomeRow* HomeHandover::select(HomeEventKind kind) const {
    for (const HomeRow& row : table_) {
        if (row.from == record_.state && row.on == kind && holds(row.guard)) return &row;
    }
    return nullptr;
}

bool HomeHandover::holds(HomeGuard guard) const {
    switch (guard) {
        case HomeGuard::always:
            return true;
        case HomeGuard::planned:
            return record_.options.policy == Policy::planned;
        case HomeGuard::peer_is_prepared:
            return prepared_;
        case HomeGuard::is_drained:
            return drained_;
        case HomeGuard::attempts_left:
            return attempts_ + 1 <
                   (record_.state == State::aborted ? kResumeAttemptsMax : kCaptureAttemptsMax);
        case HomeGuard::abort_asked:
            return record_.abort_asked;
        case HomeGuard::resync:
            return resync_;
        case HomeGuard::recapture:
            return recapture_;
        case HomeGuard::peer_runs:
            return away_runs_;
        case HomeGuard::unconfirmed:
            return !confirmed_;
    }
    return false;
}

// The record as it will be journaled.
HandoverRecord HomeHandover::next_record(const HomeRow& row, const HomeEvent& event,
                                         Now now) const {
    HandoverRecord next = record_;
    next.state = row.to;
    if (row.to != row.from) {
        next.since_unix_ms = now.unix_ms;
        next.abort_asked = false;
    }
    if (row.reason != AbortReason::none) next.reason = row.reason;
    switch (row.note) {
        case HomeNote::new_handover:
            next.handover = HandoverId{std::max(raw(record_.handover), raw(floor_)) + 1};
            next.epoch = Epoch{};
            next.options = event.options;
            next.reason = AbortReason::none;
            next.forced = false;
            next.outside = false;
            next.stopped_unix_ms = 0;
            next.downtime_ms = 0;
            break;
        case HomeNote::seal:
            next.epoch = event.epoch;
            break;
        case HomeNote::ask_abort:
            next.abort_asked = true;
            break;
        case HomeNote::clear_hold:
            next.options.hold_landing = false;
            break;
        case HomeNote::force:
            next.forced = true;
            break;
        case HomeNote::yield:
            // Away waits for word about the handover under which it runs the VM.
            next.forced = true;
            next.outside = raw(conflict_) == 0;
            if (!next.outside) next.handover = conflict_;
            break;
        default:
            break;
    }
    if (row.to == State::frozen && row.from != State::frozen) next.stopped_unix_ms = now.unix_ms;
    const bool runs_again = (row.to == State::running_away && row.from != State::running_away) ||
                            (row.from == State::aborted && row.to == State::protected_);
    if (runs_again && record_.stopped_unix_ms != 0) {
        next.downtime_ms = clamp_ms(now.unix_ms - record_.stopped_unix_ms);
        next.stopped_unix_ms = 0;
    }
    return next;
}

// What is not journaled: a restart may forget it.
void HomeHandover::remember(const HomeRow& row, const HomeEvent& event) {
    if (row.to != row.from) {
        attempts_ = 0;
        resync_ = recapture_ = landed_paused_ = false;
    }
    if (!event.text.empty()) detail_ = event.text.substr(0, kTextMax);
    if (row.reason != AbortReason::none) {
        detail_ = to_string(row.reason);
        if (!event.text.empty() && event.text != detail_)
            detail_ += ": " + event.text.substr(0, kTextMax);
    }
    if (row.to == State::aborted && row.from != State::aborted) confirmed_ = false;
    switch (row.note) {
        case HomeNote::new_handover:
            drained_ = prepared_ = away_runs_ = false;
            detail_.clear();
            break;
        case HomeNote::drained:
            drained_ = true;
            break;
        case HomeNote::prepared:
            prepared_ = confirmed_ = true;
            break;
        case HomeNote::seal:
            recapture_ = false;
            break;
        case HomeNote::attempt:
            ++attempts_;
            break;
        case HomeNote::retry:
            ++attempts_;
            recapture_ = true;
            break;
        case HomeNote::recapture:
            resync_ = false;
            recapture_ = true;
            break;
        case HomeNote::resync:
            resync_ = true;
            break;
        case HomeNote::forgotten:
            away_runs_ = false;
            confirmed_ = true;
            break;
        case HomeNote::held:
            landed_paused_ = true;
            break;
        case HomeNote::away_runs:
            away_runs_ = true;
            break;
        default:
            break;
    }
    if (event.kind == HomeEventKind::guest_resumed || event.kind == HomeEventKind::resume_failed ||
        event.kind == HomeEventKind::guest_gone || row.to != State::aborted) {
        resuming_ = false;
    }
    const bool stands_still = row.to == State::frozen || row.to == State::sealed;
    if (event.kind == HomeEventKind::guest_stopped || event.kind == HomeEventKind::stop_failed ||
        event.kind == HomeEventKind::guest_gone || !stands_still) {
        stopping_ = false;
    }
}

void HomeHandover::mark_times(const HomeRow& row, HomeEventKind kind, Now now) {
    if (row.note == HomeNote::new_handover) parts_ = PauseParts{}, mark_ns_ = 0;
    if (row.to == State::frozen && row.from != State::frozen) {
        mark_ns_ = now.ns;
        return;
    }
    if (mark_ns_ == 0) return;
    uint64_t* part = nullptr;
    if (row.from == State::frozen && kind == HomeEventKind::guest_stopped) part = &parts_.stop_ns;
    if (row.from == State::frozen && row.to == State::sealed) part = &parts_.capture_ns;
    if (row.from == State::sealed && row.to == State::committed) part = &parts_.seal_ns;
    if (row.to == State::running_away && row.from != row.to) part = &parts_.landing_ns;
    if (part == nullptr) return;
    *part += now.ns - mark_ns_;
    mark_ns_ = row.to == State::running_away ? 0 : now.ns;
}

Act HomeHandover::act(ActKind kind) const {
    Act act;
    act.ticket = tickets_;
    act.kind = kind;
    act.role = Role::home;
    act.vm = record_.vm;
    act.handover = record_.handover;
    act.epoch = record_.epoch;
    act.text = detail_;
    return act;
}

Act HomeHandover::send(MessageKind kind) const {
    Act out = act(ActKind::send_message);
    out.text.clear();
    out.message.kind = kind;
    out.message.vm = record_.vm;
    out.message.handover = record_.outside ? HandoverId{} : record_.handover;
    out.message.epoch = record_.epoch;
    if (kind == MessageKind::prepare) {
        out.message.policy = record_.options.policy;
        out.message.silence_ms = record_.options.silence_ms;
    }
    if (kind == MessageKind::prepare || kind == MessageKind::commit) {
        out.message.hold = record_.options.hold_landing;
    }
    if (kind == MessageKind::abort) out.message.reason = record_.reason;
    return out;
}

Acts HomeHandover::acts_of(const HomeRow& row, const HomeEvent& event, Now now) {
    Acts acts;
    for (const HomeDo what : row.acts) {
        switch (what) {
            case HomeDo::nothing:
                break;
            case HomeDo::send_prepare:
                acts.push_back(send(MessageKind::prepare));
                break;
            case HomeDo::send_sealing:
                acts.push_back(send(MessageKind::sealing));
                break;
            case HomeDo::send_commit:
                acts.push_back(send(MessageKind::commit));
                break;
            case HomeDo::send_abort:
                acts.push_back(send(MessageKind::abort));
                break;
            case HomeDo::send_released:
                acts.push_back(send(MessageKind::released));
                break;
            case HomeDo::start_drain:
                acts.push_back(act(ActKind::start_drain));
                break;
            case HomeDo::stop_guest:
                // A capture follows; whatever was captured before is worth nothing any more.
                capture_ticket_ = 0;
                if (stopping_) break;
                stopping_ = true;
                acts.push_back(act(ActKind::stop_guest));
                break;
            case HomeDo::capture_final:
                capture_ticket_ = ++tickets_;
                acts.push_back(act(ActKind::capture_final));
                break;
            case HomeDo::send_final:
                acts.push_back(act(ActKind::send_final));
                break;
            case HomeDo::stop_capture:
                acts.push_back(act(ActKind::stop_capture));
                break;
            case HomeDo::resume_guest:
                // One at a time: a second one could outlive this handover and meet the next one's
                // stop.
                if (resuming_) break;
                resuming_ = true;
                acts.push_back(act(ActKind::resume_guest));
                break;
            case HomeDo::destroy_source:
                acts.push_back(act(ActKind::destroy_source));
                break;
            case HomeDo::report: {
                Act report = act(ActKind::report);
                report.text = std::string(to_string(record_.state)) + ", " + to_string(event.kind) +
                              (detail_.empty() ? "" : ": " + detail_);
                acts.push_back(std::move(report));
                break;
            }
        }
        if (!acts.empty() && acts.back().kind == ActKind::send_message) last_sent_ns_ = now.ns;
    }
    return acts;
}

Error HomeHandover::refusal(const HomeEvent& event) const {
    std::string text = std::string(to_string(event.kind)) + " of vm " +
                       std::to_string(raw(record_.vm)) + ": not possible in state " +
                       to_string(record_.state);
    if (event.kind == HomeEventKind::abort) text += " (the right to run it is away's)";
    if (event.kind == HomeEventKind::force_yield && !away_runs_)
        text += " (away does not say that it runs)";
    return make_error(Errc::refused, std::move(text));
}

}  // namespace evac::evacuation
