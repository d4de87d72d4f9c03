// The behaviour of home, complete. Read together with the sequence diagram in home_handover.hpp.
// tests/golden/home_table.txt lists every (state, event) pair, the illegal ones too.
#include "evac/evacuation/home_handover.hpp"

namespace evac::evacuation {
namespace {

using S = State;
using E = HomeEventKind;
using G = HomeGuard;
using N = HomeNote;
using D = HomeDo;
using R = AbortReason;
constexpr auto kNo = Persist::no;
constexpr auto kLazy = Persist::lazy;
constexpr auto kDurable = Persist::durable;

// A move is always journaled; only armed <-> protected, which permits nothing, may be lost by a
// crash.
constexpr HomeRow move(S from, E on, G guard, S to, N note, D a = D::nothing, D b = D::nothing,
                       D c = D::nothing) {
    return {from, on, guard, to, kDurable, note, {a, b, c}, R::none};
}
constexpr HomeRow back(S from, E on, G guard, R reason, D c = D::send_abort) {
    return {from,  on, guard, S::aborted, kDurable, N::none, {D::stop_capture, D::resume_guest, c},
            reason};
}
// Back on away's own word that it gave the handover up.
constexpr HomeRow back_agreed(S from) {
    return {from,
            E::peer_aborted,
            G::always,
            S::aborted,
            kDurable,
            N::forgotten,
            {D::stop_capture, D::resume_guest, D::nothing},
            R::away_refused};
}
constexpr HomeRow forced_back(S from) {
    return {from,
            E::force_resume,
            G::always,
            S::aborted,
            kDurable,
            N::force,
            {D::stop_capture, D::resume_guest, D::send_abort},
            R::forced};
}
constexpr HomeRow yield(S from) {
    return {from,
            E::force_yield,
            G::peer_runs,
            S::running_away,
            kDurable,
            N::yield,
            {D::stop_capture, D::destroy_source, D::nothing},
            R::conflict};
}
constexpr HomeRow gone(S from) {
    return {from,
            E::guest_gone,
            G::always,
            S::lost,
            kDurable,
            N::none,
            {D::stop_capture, D::send_abort, D::report},
            R::guest_gone};
}
constexpr HomeRow stay(S at, E on, G guard, N note, D a = D::nothing, D b = D::nothing,
                       D c = D::nothing) {
    return {at, on, guard, at, kNo, note, {a, b, c}, R::none};
}
// `sealed`, evacuation: the only way to go back is to ask.
constexpr HomeRow ask(E on, G guard, R reason) {
    return {S::sealed,
            on,
            guard,
            S::sealed,
            kDurable,
            N::ask_abort,
            {D::send_abort, D::nothing, D::nothing},
            reason};
}
// Legal and without effect: late answers, repeated messages.
constexpr HomeRow ignore(S at, E on) {
    return stay(at, on, G::always, N::none);
}
constexpr HomeRow do_again(S at, E on, D a, D b = D::nothing, D c = D::nothing) {
    return stay(at, on, G::always, N::none, a, b, c);
}
constexpr HomeRow conflict_known(S at) {
    return stay(at, E::peer_conflict, G::peer_runs, N::none);
}
constexpr HomeRow conflict(S at) {
    return stay(at, E::peer_conflict, G::always, N::away_runs, D::report);
}

constexpr HomeRow kTable[] = {
    // ---- protected: the guest runs here ----
    {S::protected_, E::arm, G::always, S::armed, kLazy, N::none, {}, R::none},
    ignore(S::protected_, E::disarm),
    move(S::protected_, E::begin, G::always, S::draining, N::new_handover, D::send_prepare,
         D::start_drain),
    ignore(S::protected_, E::abort),
    yield(S::protected_),
    stay(S::protected_, E::restarted, G::unconfirmed, N::none, D::send_abort),
    stay(S::protected_, E::session_up, G::unconfirmed, N::none, D::send_abort),
    stay(S::protected_, E::resend_due, G::unconfirmed, N::none, D::send_abort),
    do_again(S::protected_, E::peer_prepared, D::send_abort),
    do_again(S::protected_, E::peer_sealed, D::send_abort),
    do_again(S::protected_, E::peer_not_sealed, D::send_abort),
    stay(S::protected_, E::peer_aborted, G::always, N::forgotten),
    conflict_known(S::protected_),
    conflict(S::protected_),
    ignore(S::protected_, E::drained),
    ignore(S::protected_, E::drain_failed),
    ignore(S::protected_, E::guest_stopped),
    ignore(S::protected_, E::stop_failed),
    ignore(S::protected_, E::captured),
    ignore(S::protected_, E::capture_failed),
    ignore(S::protected_, E::guest_resumed),
    ignore(S::protected_, E::resume_failed),
    ignore(S::protected_, E::guest_gone),

    // ---- armed: as protected ----
    ignore(S::armed, E::arm),
    {S::armed, E::disarm, G::always, S::protected_, kLazy, N::none, {}, R::none},
    move(S::armed, E::begin, G::always, S::draining, N::new_handover, D::send_prepare,
         D::start_drain),
    {S::armed, E::abort, G::always, S::protected_, kLazy, N::none, {}, R::none},
    yield(S::armed),
    stay(S::armed, E::restarted, G::unconfirmed, N::none, D::send_abort),
    stay(S::armed, E::session_up, G::unconfirmed, N::none, D::send_abort),
    stay(S::armed, E::resend_due, G::unconfirmed, N::none, D::send_abort),
    do_again(S::armed, E::peer_prepared, D::send_abort),
    do_again(S::armed, E::peer_sealed, D::send_abort),
    do_again(S::armed, E::peer_not_sealed, D::send_abort),
    stay(S::armed, E::peer_aborted, G::always, N::forgotten),
    conflict_known(S::armed),
    conflict(S::armed),
    ignore(S::armed, E::drained),
    ignore(S::armed, E::drain_failed),
    ignore(S::armed, E::guest_stopped),
    ignore(S::armed, E::stop_failed),
    ignore(S::armed, E::captured),
    ignore(S::armed, E::capture_failed),
    ignore(S::armed, E::guest_resumed),
    ignore(S::armed, E::resume_failed),
    ignore(S::armed, E::guest_gone),

    // ---- draining: the guest runs here, live work; frozen only when away is prepared, too ----
    ignore(S::draining, E::arm),
    ignore(S::draining, E::disarm),
    move(S::draining, E::drained, G::peer_is_prepared, S::frozen, N::drained, D::stop_guest),
    stay(S::draining, E::drained, G::always, N::drained),
    move(S::draining, E::peer_prepared, G::is_drained, S::frozen, N::prepared, D::stop_guest),
    stay(S::draining, E::peer_prepared, G::always, N::prepared),
    back(S::draining, E::drain_failed, G::always, R::drain_failed),
    back(S::draining, E::abort, G::always, R::cancelled),
    back_agreed(S::draining),
    gone(S::draining),
    yield(S::draining),
    do_again(S::draining, E::restarted, D::send_prepare, D::start_drain),
    do_again(S::draining, E::session_up, D::send_prepare),
    stay(S::draining, E::resend_due, G::peer_is_prepared, N::none),
    do_again(S::draining, E::resend_due, D::send_prepare),
    ignore(S::draining, E::peer_not_sealed),
    {S::draining,
     E::peer_conflict,
     G::always,
     S::aborted,
     kDurable,
     N::away_runs,
     {D::stop_capture, D::resume_guest, D::report},
     R::conflict},

    // ---- frozen: the guest stands still; no SEAL was sent, so home still decides alone ----
    ignore(S::frozen, E::arm),
    ignore(S::frozen, E::disarm),
    ignore(S::frozen, E::drained),
    ignore(S::frozen, E::drain_failed),
    do_again(S::frozen, E::guest_stopped, D::capture_final),
    move(S::frozen, E::captured, G::always, S::sealed, N::seal, D::send_final),
    stay(S::frozen, E::capture_failed, G::attempts_left, N::attempt, D::stop_guest),
    back(S::frozen, E::capture_failed, G::always, R::capture_failed),
    stay(S::frozen, E::stop_failed, G::attempts_left, N::attempt, D::stop_guest),
    back(S::frozen, E::stop_failed, G::always, R::stop_failed),
    back(S::frozen, E::abort, G::always, R::cancelled),
    back_agreed(S::frozen),
    stay(S::frozen, E::stop_limit, G::peer_runs, N::none),
    back(S::frozen, E::stop_limit, G::always, R::stopped_too_long),
    stay(S::frozen, E::away_silent, G::peer_runs, N::none),
    back(S::frozen, E::away_silent, G::always, R::away_silent),
    gone(S::frozen),
    yield(S::frozen),
    do_again(S::frozen, E::restarted, D::stop_guest),
    do_again(S::frozen, E::session_up, D::stop_guest),
    ignore(S::frozen, E::peer_prepared),
    ignore(S::frozen, E::peer_not_sealed),
    conflict_known(S::frozen),
    conflict(S::frozen),

    // ---- sealed: SEAL may be at away. planned: home still decides alone; evacuation: it asks ----
    ignore(S::sealed, E::arm),
    ignore(S::sealed, E::disarm),
    stay(S::sealed, E::peer_sealed, G::abort_asked, N::none, D::send_abort),
    move(S::sealed, E::peer_sealed, G::always, S::committed, N::none, D::send_commit),
    stay(S::sealed, E::peer_not_sealed, G::abort_asked, N::none, D::send_abort),
    stay(S::sealed, E::peer_not_sealed, G::resync, N::recapture, D::stop_guest),
    ignore(S::sealed, E::peer_not_sealed),
    stay(S::sealed, E::peer_seal_failed, G::abort_asked, N::none, D::send_abort),
    stay(S::sealed, E::peer_seal_failed, G::recapture, N::none),
    stay(S::sealed, E::peer_seal_failed, G::attempts_left, N::retry, D::stop_guest),
    back(S::sealed, E::peer_seal_failed, G::planned, R::seal_failed),
    ask(E::peer_seal_failed, G::always, R::seal_failed),
    stay(S::sealed, E::guest_stopped, G::recapture, N::none, D::capture_final),
    ignore(S::sealed, E::guest_stopped),
    {S::sealed,
     E::captured,
     G::recapture,
     S::sealed,
     kDurable,
     N::seal,
     {D::send_final, D::nothing, D::nothing},
     R::none},
    ignore(S::sealed, E::captured),
    stay(S::sealed, E::capture_failed, G::abort_asked, N::none, D::send_abort),
    stay(S::sealed, E::capture_failed, G::attempts_left, N::retry, D::stop_guest),
    back(S::sealed, E::capture_failed, G::planned, R::capture_failed),
    ask(E::capture_failed, G::always, R::capture_failed),
    stay(S::sealed, E::stop_failed, G::abort_asked, N::none, D::send_abort),
    stay(S::sealed, E::stop_failed, G::attempts_left, N::retry, D::stop_guest),
    back(S::sealed, E::stop_failed, G::planned, R::stop_failed),
    ask(E::stop_failed, G::always, R::stop_failed),
    back(S::sealed, E::abort, G::planned, R::cancelled),
    stay(S::sealed, E::abort, G::abort_asked, N::none, D::send_abort),
    ask(E::abort, G::always, R::cancelled),
    back_agreed(S::sealed),
    back(S::sealed, E::stop_limit, G::planned, R::stopped_too_long),
    back(S::sealed, E::away_silent, G::planned, R::away_silent),
    move(S::sealed, E::peer_committed, G::always, S::committed, N::none, D::stop_capture),
    move(S::sealed, E::peer_landed_paused, G::always, S::committed, N::held, D::stop_capture),
    move(S::sealed, E::peer_lost, G::always, S::committed, N::none, D::stop_capture, D::report),
    move(S::sealed, E::peer_running, G::always, S::running_away, N::none, D::stop_capture,
         D::destroy_source),
    forced_back(S::sealed),
    yield(S::sealed),
    do_again(S::sealed, E::guest_gone, D::report),
    stay(S::sealed, E::restarted, G::abort_asked, N::resync, D::send_abort),
    stay(S::sealed, E::restarted, G::always, N::resync, D::send_sealing),
    stay(S::sealed, E::session_up, G::abort_asked, N::resync, D::send_abort),
    stay(S::sealed, E::session_up, G::always, N::resync, D::send_sealing),
    stay(S::sealed, E::resend_due, G::abort_asked, N::none, D::send_abort),
    do_again(S::sealed, E::resend_due, D::send_sealing),
    ignore(S::sealed, E::drained),
    ignore(S::sealed, E::drain_failed),
    ignore(S::sealed, E::peer_prepared),
    conflict_known(S::sealed),
    conflict(S::sealed),

    // ---- committed: the right is away's; back only on away's word ----
    ignore(S::committed, E::arm),
    ignore(S::committed, E::disarm),
    move(S::committed, E::peer_running, G::always, S::running_away, N::none, D::destroy_source),
    back_agreed(S::committed),
    do_again(S::committed, E::peer_sealed, D::send_commit),
    stay(S::committed, E::peer_landed_paused, G::always, N::held),
    ignore(S::committed, E::peer_committed),
    do_again(S::committed, E::peer_lost, D::report),
    {S::committed,
     E::release_hold,
     G::always,
     S::committed,
     kDurable,
     N::clear_hold,
     {D::send_commit, D::nothing, D::nothing},
     R::none},
    forced_back(S::committed),
    yield(S::committed),
    do_again(S::committed, E::restarted, D::send_commit),
    do_again(S::committed, E::session_up, D::send_commit),
    do_again(S::committed, E::resend_due, D::send_commit),
    ignore(S::committed, E::peer_prepared),
    ignore(S::committed, E::peer_not_sealed),
    ignore(S::committed, E::peer_seal_failed),
    ignore(S::committed, E::drained),
    ignore(S::committed, E::drain_failed),
    ignore(S::committed, E::guest_stopped),
    ignore(S::committed, E::stop_failed),
    ignore(S::committed, E::captured),
    ignore(S::committed, E::capture_failed),
    do_again(S::committed, E::guest_gone, D::report),
    conflict_known(S::committed),
    conflict(S::committed),

    // ---- running_away: our copy is history ----
    ignore(S::running_away, E::arm),
    ignore(S::running_away, E::disarm),
    move(S::running_away, E::source_destroyed, G::always, S::released, N::none, D::send_released),
    ignore(S::running_away, E::destroy_failed),
    ignore(S::running_away, E::release_hold),
    do_again(S::running_away, E::restarted, D::destroy_source),
    do_again(S::running_away, E::resend_due, D::destroy_source),
    ignore(S::running_away, E::session_up),
    ignore(S::running_away, E::peer_running),
    ignore(S::running_away, E::peer_sealed),
    ignore(S::running_away, E::peer_committed),
    ignore(S::running_away, E::peer_landed_paused),
    ignore(S::running_away, E::drained),
    ignore(S::running_away, E::drain_failed),
    ignore(S::running_away, E::guest_stopped),
    ignore(S::running_away, E::stop_failed),
    ignore(S::running_away, E::captured),
    ignore(S::running_away, E::capture_failed),
    ignore(S::running_away, E::guest_gone),

    // ---- released: the end ----
    ignore(S::released, E::arm),
    ignore(S::released, E::disarm),
    ignore(S::released, E::source_destroyed),
    ignore(S::released, E::destroy_failed),
    ignore(S::released, E::release_hold),
    do_again(S::released, E::peer_running, D::send_released),
    do_again(S::released, E::restarted, D::send_released),
    ignore(S::released, E::session_up),
    ignore(S::released, E::peer_committed),
    ignore(S::released, E::peer_landed_paused),
    ignore(S::released, E::guest_gone),

    // ---- aborted: the guest is being resumed here ----
    ignore(S::aborted, E::arm),
    ignore(S::aborted, E::disarm),
    ignore(S::aborted, E::abort),
    move(S::aborted, E::guest_resumed, G::always, S::protected_, N::none),
    stay(S::aborted, E::resume_failed, G::attempts_left, N::attempt),  // again at resend_due
    {S::aborted,
     E::resume_failed,
     G::always,
     S::lost,
     kDurable,
     N::none,
     {D::report, D::nothing, D::nothing},
     R::guest_gone},
    gone(S::aborted),
    yield(S::aborted),
    do_again(S::aborted, E::restarted, D::stop_capture, D::resume_guest, D::send_abort),
    do_again(S::aborted, E::session_up, D::send_abort),
    do_again(S::aborted, E::resend_due, D::resume_guest, D::send_abort),
    stay(S::aborted, E::peer_aborted, G::always, N::forgotten),
    do_again(S::aborted, E::peer_prepared, D::send_abort),
    do_again(S::aborted, E::peer_sealed, D::send_abort),
    do_again(S::aborted, E::peer_not_sealed, D::send_abort),
    ignore(S::aborted, E::drained),
    ignore(S::aborted, E::drain_failed),
    ignore(S::aborted, E::guest_stopped),
    ignore(S::aborted, E::stop_failed),
    ignore(S::aborted, E::captured),
    ignore(S::aborted, E::capture_failed),
    conflict_known(S::aborted),
    conflict(S::aborted),

    // ---- lost: gone at home, or not to be resumed; an operator decides ----
    ignore(S::lost, E::arm),
    ignore(S::lost, E::disarm),
    ignore(S::lost, E::abort),
    forced_back(S::lost),
    yield(S::lost),
    stay(S::lost, E::restarted, G::unconfirmed, N::none, D::send_abort),
    stay(S::lost, E::session_up, G::unconfirmed, N::none, D::send_abort),
    stay(S::lost, E::resend_due, G::unconfirmed, N::none, D::send_abort),
    stay(S::lost, E::peer_aborted, G::always, N::forgotten),
    do_again(S::lost, E::peer_prepared, D::send_abort),
    do_again(S::lost, E::peer_sealed, D::send_abort),
    do_again(S::lost, E::peer_not_sealed, D::send_abort),
    ignore(S::lost, E::drained),
    ignore(S::lost, E::drain_failed),
    ignore(S::lost, E::guest_stopped),
    ignore(S::lost, E::stop_failed),
    ignore(S::lost, E::captured),
    ignore(S::lost, E::capture_failed),
    ignore(S::lost, E::resume_failed),
    ignore(S::lost, E::guest_gone),
    conflict_known(S::lost),
    conflict(S::lost),
};

}  // namespace

std::span<const HomeRow> home_table() {
    return kTable;
}

const char* to_string(HomeEventKind kind) {
    static constexpr const char* kNames[] = {"arm",
                                             "disarm",
                                             "begin",
                                             "abort",
                                             "release_hold",
                                             "force_resume",
                                             "force_yield",
                                             "drained",
                                             "drain_failed",
                                             "guest_stopped",
                                             "stop_failed",
                                             "captured",
                                             "capture_failed",
                                             "guest_resumed",
                                             "resume_failed",
                                             "guest_gone",
                                             "source_destroyed",
                                             "destroy_failed",
                                             "peer_prepared",
                                             "peer_sealed",
                                             "peer_seal_failed",
                                             "peer_not_sealed",
                                             "peer_committed",
                                             "peer_landed_paused",
                                             "peer_running",
                                             "peer_aborted",
                                             "peer_lost",
                                             "peer_conflict",
                                             "restarted",
                                             "session_up",
                                             "resend_due",
                                             "stop_limit",
                                             "away_silent"};
    static_assert(std::size(kNames) == static_cast<size_t>(HomeEventKind::count_));
    return kind < HomeEventKind::count_ ? kNames[static_cast<size_t>(kind)] : "?";
}

const char* to_string(HomeGuard guard) {
    static constexpr const char* kNames[] = {
        "always",      "planned", "peer_is_prepared", "is_drained", "attempts_left",
        "abort_asked", "resync",  "recapture",        "peer_runs",  "unconfirmed"};
    static_assert(std::size(kNames) == static_cast<size_t>(HomeGuard::unconfirmed) + 1);
    return kNames[static_cast<size_t>(guard)];
}

const char* to_string(HomeNote note) {
    static constexpr const char* kNames[] = {"none",   "new_handover", "drained",    "prepared",
                                             "seal",   "attempt",      "recapture",  "retry",
                                             "resync", "ask_abort",    "clear_hold", "forgotten",
                                             "held",   "away_runs",    "force",      "yield"};
    static_assert(std::size(kNames) == static_cast<size_t>(HomeNote::yield) + 1);
    return kNames[static_cast<size_t>(note)];
}

const char* to_string(HomeDo act) {
    static constexpr const char* kNames[] = {
        "nothing",       "send_prepare", "send_sealing",   "send_commit",   "send_abort",
        "send_released", "start_drain",  "stop_guest",     "capture_final", "send_final",
        "stop_capture",  "resume_guest", "destroy_source", "report"};
    static_assert(std::size(kNames) == static_cast<size_t>(HomeDo::report) + 1);
    return kNames[static_cast<size_t>(act)];
}

}  // namespace evac::evacuation
