#include "evac/evacuation/away_handover.hpp"

#include <algorithm>

namespace evac::evacuation {
namespace {

bool needs_confirmation(AwayEventKind kind) {
    return kind == AwayEventKind::force_run || kind == AwayEventKind::force_give_back ||
           kind == AwayEventKind::force_release;
}

// Answers and seals name their handover; the operator means whatever is there.
bool names_handover(AwayEventKind kind) {
    return kind >= AwayEventKind::final_sealed && kind < kAwayEventsFromOutside;
}

bool ends_landing(AwayEventKind kind) {
    return kind == AwayEventKind::landed || kind == AwayEventKind::landed_paused ||
           kind == AwayEventKind::landing_failed || kind == AwayEventKind::landing_lost;
}

AwayEventKind event_of(MessageKind kind) {
    switch (kind) {
        case MessageKind::prepare:
            return AwayEventKind::home_prepare;
        case MessageKind::sealing:
            return AwayEventKind::home_sealing;
        case MessageKind::commit:
            return AwayEventKind::home_commit;
        case MessageKind::abort:
            return AwayEventKind::home_abort;
        default:
            return AwayEventKind::home_released;
    }
}

}  // namespace

AwayEvent answer(const Act& act, AwayEventKind kind, std::string text) {
    AwayEvent event;
    event.kind = kind;
    event.handover = act.handover;
    event.text = std::move(text);
    return event;
}

AwayHandover::AwayHandover(VmId vm, Journal& journal, std::span<const AwayRow> table)
    : journal_(journal), table_(table) {
    const HandoverRecord* known = journal.find(Role::away, vm);
    if (known != nullptr) record_ = *known;
    record_.role = Role::away;
    record_.vm = vm;
}

Result<Acts> AwayHandover::handle(const AwayEvent& event, Now now) {
    if (event.kind >= kAwayEventsFromOutside) {
        return make_error(Errc::invalid_argument,
                          std::string(to_string(event.kind)) + ": not an event from outside");
    }
    if (names_handover(event.kind) && event.handover != record_.handover) return Acts{};
    const Cause cause{event, nullptr};
    if (select(cause) == nullptr) return refusal(event);
    if (needs_confirmation(event.kind) && !event.confirmed) {
        return make_error(Errc::refused,
                          std::string(to_string(event.kind)) + " of vm " +
                              std::to_string(raw(record_.vm)) +
                              ": may leave two copies running; needs to be confirmed");
    }
    return fire(cause, now);
}

Result<Acts> AwayHandover::deliver(const Message& message, Now now) {
    if (!is_from_home(message.kind) || message.vm != record_.vm) return Acts{};
    Cause cause;
    cause.event.kind = event_of(message.kind);
    cause.event.handover = message.handover;
    cause.event.epoch = message.epoch;
    if (message.kind == MessageKind::abort && message.reason != AbortReason::none) {
        cause.event.text = to_string(message.reason);
    }
    cause.message = &message;
    return fire(cause, now);
}

Result<Acts> AwayHandover::restart(Now now) {
    return fire(AwayEventKind::restarted, now);
}
Result<Acts> AwayHandover::session_up(Now now) {
    return fire(AwayEventKind::session_up, now);
}

Result<Acts> AwayHandover::tick(Now now, uint64_t home_silent_ns) {
    const bool waits = record_.state == State::sealed || record_.state == State::committed;
    if (waits && home_silent_ns >= record_.options.silence_ms * uint64_t{1'000'000}) {
        const Cause cause{{AwayEventKind::silence, record_.handover, {}, {}, false}, nullptr};
        if (select(cause) != nullptr) return fire(cause, now);
    }
    if (now.ns - last_sent_ns_ < kResendNs) return Acts{};
    last_sent_ns_ = now.ns;
    return fire(AwayEventKind::resend_due, now);
}

bool AwayHandover::accepts_batches() const {
    return record_.state == State::protected_ || record_.state == State::armed;
}

HandoverId AwayHandover::message_id() const {
    return record_.outside ? HandoverId{} : record_.handover;
}

Result<Acts> AwayHandover::fire(AwayEventKind kind, Now now) {
    Cause cause;
    cause.event.kind = kind;
    cause.event.handover = record_.handover;
    return fire(cause, now);
}

// The order is the rule of the whole library: decide, journal, only then remember and let act.
Result<Acts> AwayHandover::fire(const Cause& cause, Now now) {
    const AwayRow* row = select(cause);
    if (ends_landing(cause.event.kind)) landing_ = false;
    if (row == nullptr) return Acts{};
    const HandoverRecord next = next_record(*row, cause, now);
    if (row->persist != Persist::no) {
        EVAC_TRY(journal_.append(
            next, row->persist == Persist::durable ? Durability::durable : Durability::lazy));
    }
    record_ = next;
    remember(*row, cause);
    return acts_of(*row, cause, now);
}

const AwayRow* AwayHandover::select(const Cause& cause) const {
    for (const AwayRow& row : table_) {
        if (row.from == record_.state && row.on == cause.event.kind && holds(row.guard, cause))
            return &row;
    }
    return nullptr;
}

bool AwayHandover::holds(AwayGuard guard, const Cause& cause) const {
    const bool current = cause.event.handover == message_id();
    const HandoverOptions& o = record_.options;
    switch (guard) {
        case AwayGuard::always:
            return true;
        case AwayGuard::new_id:
            return cause.event.handover > record_.handover;
        case AwayGuard::current_id:
            return current;
        case AwayGuard::prepared:
            return current && prepared_;
        case AwayGuard::evacuation:
            return o.policy == Policy::evacuation;
        case AwayGuard::attempts_left:
            return record_.attempts < kLandingAttemptsMax;
        case AwayGuard::hold:
            return o.hold_landing;
        case AwayGuard::released_hold:
            return current && o.hold_landing && cause.message != nullptr && !cause.message->hold;
        case AwayGuard::seal_failed:
            return current && raw(failed_) != 0 && cause.event.epoch == failed_;
        case AwayGuard::hold_evacuation:
            return o.hold_landing && o.policy == Policy::evacuation;
    }
    return false;
}

HandoverRecord AwayHandover::next_record(const AwayRow& row, const Cause& cause, Now now) const {
    HandoverRecord next = record_;
    next.state = row.to;
    if (row.to != row.from) next.since_unix_ms = now.unix_ms;
    if (row.reason != AbortReason::none) next.reason = row.reason;
    switch (row.note) {
        case AwayNote::take_prepare:
            next = HandoverRecord{};
            next.role = Role::away;
            next.vm = record_.vm;
            next.state = row.to;
            next.since_unix_ms = now.unix_ms;
            next.handover = cause.event.handover;
            if (cause.message != nullptr) {
                next.options.policy = cause.message->policy;
                next.options.silence_ms = std::max(cause.message->silence_ms, kSilenceMinMs);
                next.options.hold_landing = cause.message->hold;
            }
            break;
        case AwayNote::take_id:
            next.handover = cause.event.handover;
            break;
        case AwayNote::seal:
            next.epoch = cause.event.epoch;
            break;
        case AwayNote::commit:
            next.attempts = 1;
            if (cause.message != nullptr && !cause.message->hold) next.options.hold_landing = false;
            break;
        case AwayNote::silent:
        case AwayNote::force:
        case AwayNote::force_outside:
            next.attempts = 1;
            next.options.hold_landing = false;
            next.by_silence = row.note == AwayNote::silent;
            next.forced = row.note != AwayNote::silent;
            next.outside = row.note == AwayNote::force_outside;
            break;
        case AwayNote::attempt:
            ++next.attempts;
            break;
        case AwayNote::clear_hold:
            next.options.hold_landing = false;
            break;
        case AwayNote::forced:
            next.forced = true;
            break;
        default:
            break;
    }
    if (row.to == State::protected_) next.outside = false;
    return next;
}

void AwayHandover::remember(const AwayRow& row, const Cause& cause) {
    if (row.to != row.from) landed_paused_ = false;
    if (row.note == AwayNote::take_prepare) prepared_ = false;
    if (row.note == AwayNote::prepared) prepared_ = true;
    if (row.note == AwayNote::failed) failed_ = cause.event.epoch;
    if (row.to != row.from || row.note == AwayNote::take_prepare) failed_ = Epoch{};
    if (row.note == AwayNote::landed_paused) landed_paused_ = true;
    if (row.note == AwayNote::silent) detail_ = "home was silent";
    if (!cause.event.text.empty()) detail_ = cause.event.text.substr(0, kTextMax);
    if (row.reason != AbortReason::none && cause.event.text.empty())
        detail_ = to_string(row.reason);
}

Act AwayHandover::act(ActKind kind) const {
    Act act;
    act.kind = kind;
    act.role = Role::away;
    act.vm = record_.vm;
    act.handover = record_.handover;
    act.epoch = record_.epoch;
    act.text = detail_;
    return act;
}

Act AwayHandover::send(MessageKind kind, HandoverId about) const {
    Act out = act(ActKind::send_message);
    out.text.clear();
    out.message.kind = kind;
    out.message.vm = record_.vm;
    out.message.handover = about;
    out.message.epoch = record_.epoch;
    if (kind == MessageKind::aborted) {
        out.message.floor = record_.handover;
        out.message.reason = about == record_.handover ? record_.reason : AbortReason::superseded;
    }
    if (kind == MessageKind::aborted || kind == MessageKind::lost ||
        kind == MessageKind::seal_failed) {
        out.message.text = detail_;
    }
    return out;
}

Acts AwayHandover::acts_of(const AwayRow& row, const Cause& cause, Now now) {
    Acts acts;
    const HandoverId about = cause.message != nullptr ? cause.message->handover : record_.handover;
    for (const AwayDo what : row.acts) {
        switch (what) {
            case AwayDo::nothing:
                break;
            case AwayDo::send_prepared:
                acts.push_back(send(MessageKind::prepared, message_id()));
                break;
            case AwayDo::send_sealed:
                acts.push_back(send(MessageKind::sealed, message_id()));
                break;
            case AwayDo::send_seal_failed: {
                Act failed = send(MessageKind::seal_failed, message_id());
                failed.message.epoch = cause.event.epoch;
                acts.push_back(std::move(failed));
                break;
            }
            case AwayDo::send_not_sealed:
                acts.push_back(send(MessageKind::not_sealed, message_id()));
                break;
            case AwayDo::send_committed:
                acts.push_back(
                    send(landed_paused_ ? MessageKind::landed_paused : MessageKind::committed,
                         message_id()));
                break;
            case AwayDo::send_running:
                acts.push_back(send(MessageKind::running, message_id()));
                break;
            case AwayDo::send_aborted:
                acts.push_back(send(MessageKind::aborted, about));
                break;
            case AwayDo::send_lost:
                acts.push_back(send(MessageKind::lost, message_id()));
                break;
            case AwayDo::prepare_landing:
                acts.push_back(act(ActKind::prepare_landing));
                break;
            case AwayDo::run_landing: {
                // One at a time: an answer of an earlier one must never give the right back while a
                // later one lets the guest run. The earlier one's answer issues the next.
                if (landing_) break;
                landing_ = true;
                Act run = act(ActKind::run_landing);
                run.attempt = record_.attempts;
                run.paused = record_.options.hold_landing;
                run.replayed = cause.event.kind == AwayEventKind::restarted;
                acts.push_back(std::move(run));
                break;
            }
            case AwayDo::cancel_landing:
                acts.push_back(act(ActKind::cancel_landing));
                break;
            case AwayDo::adopt_vm:
                acts.push_back(act(ActKind::adopt_vm));
                break;
            case AwayDo::report: {
                Act report = act(ActKind::report);
                report.text = std::string(to_string(cause.event.kind)) + " -> " +
                              to_string(record_.state) + (detail_.empty() ? "" : ": " + detail_);
                acts.push_back(std::move(report));
                break;
            }
        }
        if (!acts.empty() && acts.back().kind == ActKind::send_message) last_sent_ns_ = now.ns;
    }
    return acts;
}

Error AwayHandover::refusal(const AwayEvent& event) const {
    std::string text = std::string(to_string(event.kind)) + " of vm " +
                       std::to_string(raw(record_.vm)) + ": not possible in state " +
                       to_string(record_.state);
    if (event.kind == AwayEventKind::give_back)
        text += " (only while armed, sealed, or landed and held)";
    return make_error(Errc::refused, std::move(text));
}

}  // namespace evac::evacuation
