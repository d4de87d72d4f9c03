// The behaviour of away, complete. Read together with the sequence diagram in home_handover.hpp.
// tests/golden/away_table.txt lists every (state, event) pair, the illegal ones too.
#include "evac/evacuation/away_handover.hpp"

namespace evac::evacuation {
namespace {

using S = State;
using E = AwayEventKind;
using G = AwayGuard;
using N = AwayNote;
using D = AwayDo;
using R = AbortReason;
constexpr auto kNo = Persist::no;
constexpr auto kDurable = Persist::durable;

constexpr AwayRow move(S from, E on, G guard, S to, N note, D a = D::nothing, D b = D::nothing,
                       D c = D::nothing) {
    return {from, on, guard, to, kDurable, note, {a, b, c}, R::none};
}
constexpr AwayRow stay(S at, E on, G guard, N note, D a = D::nothing, D b = D::nothing,
                       D c = D::nothing) {
    return {at, on, guard, at, kNo, note, {a, b, c}, R::none};
}
constexpr AwayRow keep(S at, E on, G guard, N note, D a = D::nothing, D b = D::nothing) {
    return {at, on, guard, at, kDurable, note, {a, b, D::nothing}, R::none};
}
// The handover is given up for good: journaled first, then said.
constexpr AwayRow give_up(S from, E on, G guard, R reason, N note = N::none) {
    return {from,
            on,
            guard,
            S::aborted,
            kDurable,
            note,
            {D::send_aborted, D::cancel_landing, D::nothing},
            reason};
}
constexpr AwayRow supersede(S from, E on) {
    return give_up(from, on, G::new_id, R::superseded, N::take_id);
}
constexpr AwayRow ignore(S at, E on) {
    return stay(at, on, G::always, N::none);
}
constexpr AwayRow answer(S at, E on, D act, G guard = G::always) {
    return stay(at, on, guard, N::none, act);
}

constexpr AwayRow kTable[] = {
    // ---- protected: recovery points arrive; handovers up to the journaled id are given up ----
    move(S::protected_, E::home_prepare, G::new_id, S::armed, N::take_prepare, D::prepare_landing),
    answer(S::protected_, E::home_prepare, D::send_aborted),
    keep(S::protected_, E::home_sealing, G::new_id, N::take_id, D::send_aborted),
    answer(S::protected_, E::home_sealing, D::send_aborted),
    keep(S::protected_, E::home_commit, G::new_id, N::take_id, D::send_aborted),
    answer(S::protected_, E::home_commit, D::send_aborted),
    keep(S::protected_, E::home_abort, G::new_id, N::take_id, D::send_aborted),
    answer(S::protected_, E::home_abort, D::send_aborted),
    ignore(S::protected_, E::home_released),
    move(S::protected_, E::force_run, G::always, S::committed, N::force_outside, D::report,
         D::run_landing),
    ignore(S::protected_, E::final_sealed),
    ignore(S::protected_, E::final_failed),
    ignore(S::protected_, E::landing_prepared),
    ignore(S::protected_, E::landing_refused),
    ignore(S::protected_, E::landed_paused),
    ignore(S::protected_, E::landing_cancelled),

    // ---- armed: PREPARE accepted, the handover's SEAL may come ----
    stay(S::armed, E::landing_prepared, G::always, N::prepared, D::send_prepared),
    give_up(S::armed, E::landing_refused, G::always, R::away_refused),
    move(S::armed, E::home_prepare, G::new_id, S::armed, N::take_prepare, D::prepare_landing),
    answer(S::armed, E::home_prepare, D::send_prepared, G::prepared),
    stay(S::armed, E::home_prepare, G::current_id, N::none),
    answer(S::armed, E::home_prepare, D::send_aborted),
    supersede(S::armed, E::home_sealing),
    answer(S::armed, E::home_sealing, D::send_seal_failed, G::seal_failed),
    answer(S::armed, E::home_sealing, D::send_not_sealed, G::current_id),
    answer(S::armed, E::home_sealing, D::send_aborted),
    supersede(S::armed, E::home_commit),
    answer(S::armed, E::home_commit, D::send_not_sealed, G::current_id),
    answer(S::armed, E::home_commit, D::send_aborted),
    supersede(S::armed, E::home_abort),
    give_up(S::armed, E::home_abort, G::current_id, R::cancelled),
    answer(S::armed, E::home_abort, D::send_aborted),
    ignore(S::armed, E::home_released),
    move(S::armed, E::final_sealed, G::always, S::sealed, N::seal, D::send_sealed),
    stay(S::armed, E::final_failed, G::always, N::failed, D::send_seal_failed),
    move(S::armed, E::force_run, G::always, S::committed, N::force_outside, D::report,
         D::run_landing),
    give_up(S::armed, E::give_back, G::always, R::given_back),
    stay(S::armed, E::restarted, G::always, N::none, D::prepare_landing),
    ignore(S::armed, E::session_up),
    ignore(S::armed, E::landing_cancelled),

    // ---- sealed: complete. COMMIT, or silence under `evacuation`, gives the right to run ----
    move(S::sealed, E::home_commit, G::current_id, S::committed, N::commit, D::run_landing),
    supersede(S::sealed, E::home_commit),
    answer(S::sealed, E::home_commit, D::send_aborted),
    move(S::sealed, E::silence, G::evacuation, S::committed, N::silent, D::report, D::run_landing,
         D::send_committed),
    move(S::sealed, E::force_run, G::always, S::committed, N::force, D::report, D::run_landing,
         D::send_committed),
    give_up(S::sealed, E::give_back, G::always, R::given_back),
    supersede(S::sealed, E::home_abort),
    give_up(S::sealed, E::home_abort, G::current_id, R::cancelled),
    answer(S::sealed, E::home_abort, D::send_aborted),
    move(S::sealed, E::home_prepare, G::new_id, S::armed, N::take_prepare, D::prepare_landing),
    answer(S::sealed, E::home_prepare, D::send_sealed, G::current_id),
    answer(S::sealed, E::home_prepare, D::send_aborted),
    supersede(S::sealed, E::home_sealing),
    answer(S::sealed, E::home_sealing, D::send_sealed, G::current_id),
    answer(S::sealed, E::home_sealing, D::send_aborted),
    ignore(S::sealed, E::home_released),
    answer(S::sealed, E::final_sealed, D::send_sealed),
    answer(S::sealed, E::final_failed, D::send_sealed),
    stay(S::sealed, E::landing_prepared, G::always, N::prepared),
    ignore(S::sealed, E::landing_refused),  // run_landing will say so, three times
    ignore(S::sealed, E::landing_cancelled),
    stay(S::sealed, E::restarted, G::always, N::none, D::prepare_landing, D::send_sealed),
    answer(S::sealed, E::session_up, D::send_sealed),

    // ---- committed: only we may run it ----
    move(S::committed, E::landed, G::always, S::running_away, N::none, D::send_running),
    stay(S::committed, E::landed_paused, G::hold, N::landed_paused, D::send_committed),
    stay(S::committed, E::landed_paused, G::always, N::none, D::run_landing),
    keep(S::committed, E::landing_failed, G::attempts_left, N::attempt, D::run_landing),
    give_up(S::committed, E::landing_failed, G::always, R::landing_failed),
    move(S::committed, E::landing_lost, G::always, S::lost, N::none, D::report, D::send_lost),
    keep(S::committed, E::home_commit, G::released_hold, N::clear_hold, D::run_landing),
    answer(S::committed, E::home_commit, D::send_committed),
    answer(S::committed, E::home_prepare, D::send_committed),
    answer(S::committed, E::home_sealing, D::send_committed),
    answer(S::committed, E::home_abort, D::send_committed),
    ignore(S::committed, E::home_released),
    keep(S::committed, E::release_hold, G::hold, N::clear_hold, D::run_landing),
    ignore(S::committed, E::release_hold),
    keep(S::committed, E::silence, G::hold_evacuation, N::clear_hold, D::report, D::run_landing),
    give_up(S::committed, E::give_back, G::hold, R::given_back),
    keep(S::committed, E::force_run, G::hold, N::clear_hold, D::report, D::run_landing),
    ignore(S::committed, E::force_run),
    stay(S::committed, E::restarted, G::always, N::none, D::run_landing),
    answer(S::committed, E::session_up, D::send_committed),
    ignore(S::committed, E::final_sealed),
    ignore(S::committed, E::final_failed),
    ignore(S::committed, E::landing_prepared),
    ignore(S::committed, E::landing_refused),
    ignore(S::committed, E::landing_cancelled),

    // ---- running_away ----
    move(S::running_away, E::home_released, G::current_id, S::released, N::none, D::adopt_vm),
    ignore(S::running_away, E::home_released),
    {S::running_away,
     E::force_release,
     G::always,
     S::released,
     kDurable,
     N::forced,
     {D::report, D::adopt_vm, D::nothing},
     R::forced},
    answer(S::running_away, E::home_prepare, D::send_running),
    answer(S::running_away, E::home_sealing, D::send_running),
    answer(S::running_away, E::home_commit, D::send_running),
    answer(S::running_away, E::home_abort, D::send_running),
    answer(S::running_away, E::restarted, D::send_running),
    answer(S::running_away, E::session_up, D::send_running),
    answer(S::running_away, E::resend_due, D::send_running),
    ignore(S::running_away, E::release_hold),
    ignore(S::running_away, E::force_run),
    ignore(S::running_away, E::final_sealed),
    ignore(S::running_away, E::final_failed),
    ignore(S::running_away, E::landed),
    ignore(S::running_away, E::landed_paused),
    ignore(S::running_away, E::landing_prepared),
    ignore(S::running_away, E::landing_refused),
    ignore(S::running_away, E::landing_cancelled),

    // ---- released: the end ----
    answer(S::released, E::home_prepare, D::send_running),
    answer(S::released, E::home_sealing, D::send_running),
    answer(S::released, E::home_commit, D::send_running),
    answer(S::released, E::home_abort, D::send_running),
    ignore(S::released, E::home_released),
    ignore(S::released, E::force_run),
    ignore(S::released, E::force_release),
    ignore(S::released, E::release_hold),
    answer(S::released, E::restarted, D::adopt_vm),
    ignore(S::released, E::session_up),
    ignore(S::released, E::landed),

    // ---- aborted: never runs this handover; the landing process is being ended ----
    move(S::aborted, E::landing_cancelled, G::always, S::protected_, N::none),
    stay(S::aborted, E::home_prepare, G::new_id,
         N::none),  // home repeats it; accepted once we are through
    answer(S::aborted, E::home_prepare, D::send_aborted),
    keep(S::aborted, E::home_sealing, G::new_id, N::take_id, D::send_aborted),
    answer(S::aborted, E::home_sealing, D::send_aborted),
    keep(S::aborted, E::home_commit, G::new_id, N::take_id, D::send_aborted),
    answer(S::aborted, E::home_commit, D::send_aborted),
    keep(S::aborted, E::home_abort, G::new_id, N::take_id, D::send_aborted),
    answer(S::aborted, E::home_abort, D::send_aborted),
    ignore(S::aborted, E::home_released),
    stay(S::aborted, E::restarted, G::always, N::none, D::send_aborted, D::cancel_landing),
    answer(S::aborted, E::session_up, D::send_aborted),
    answer(S::aborted, E::resend_due, D::cancel_landing),
    ignore(S::aborted, E::give_back),
    ignore(S::aborted, E::final_sealed),
    ignore(S::aborted, E::final_failed),
    ignore(S::aborted, E::landed_paused),
    ignore(S::aborted, E::landing_failed),
    ignore(S::aborted, E::landing_prepared),
    ignore(S::aborted, E::landing_refused),

    // ---- lost: it ran here, or may have, and is gone; an operator decides ----
    move(S::lost, E::force_run, G::always, S::committed, N::force, D::report, D::run_landing),
    give_up(S::lost, E::force_give_back, G::always, R::given_back, N::forced),
    answer(S::lost, E::home_prepare, D::send_lost),
    answer(S::lost, E::home_sealing, D::send_lost),
    answer(S::lost, E::home_commit, D::send_lost),
    answer(S::lost, E::home_abort, D::send_lost),
    ignore(S::lost, E::home_released),
    answer(S::lost, E::restarted, D::send_lost),
    answer(S::lost, E::session_up, D::send_lost),
    ignore(S::lost, E::final_sealed),
    ignore(S::lost, E::final_failed),
    ignore(S::lost, E::landing_lost),
};

}  // namespace

std::span<const AwayRow> away_table() {
    return kTable;
}

const char* to_string(AwayEventKind kind) {
    static constexpr const char* kNames[] = {
        "release_hold",  "give_back",      "force_run",        "force_give_back",   "force_release",
        "final_sealed",  "final_failed",   "landing_prepared", "landing_refused",   "landed",
        "landed_paused", "landing_failed", "landing_lost",     "landing_cancelled", "home_prepare",
        "home_sealing",  "home_commit",    "home_abort",       "home_released",     "restarted",
        "session_up",    "resend_due",     "silence"};
    static_assert(std::size(kNames) == static_cast<size_t>(AwayEventKind::count_));
    return kind < AwayEventKind::count_ ? kNames[static_cast<size_t>(kind)] : "?";
}

const char* to_string(AwayGuard guard) {
    static constexpr const char* kNames[] = {
        "always",        "new_id", "current_id",    "prepared",        "evacuation",
        "attempts_left", "hold",   "released_hold", "hold_evacuation", "seal_failed"};
    static_assert(std::size(kNames) == static_cast<size_t>(AwayGuard::seal_failed) + 1);
    return kNames[static_cast<size_t>(guard)];
}

const char* to_string(AwayNote note) {
    static constexpr const char* kNames[] = {
        "none",    "take_prepare", "take_id",       "prepared", "failed",
        "seal",    "commit",       "silent",        "force",    "force_outside",
        "attempt", "clear_hold",   "landed_paused", "forced"};
    static_assert(std::size(kNames) == static_cast<size_t>(AwayNote::forced) + 1);
    return kNames[static_cast<size_t>(note)];
}

const char* to_string(AwayDo act) {
    static constexpr const char* kNames[] = {
        "nothing",         "send_prepared",   "send_sealed",  "send_seal_failed",
        "send_not_sealed", "send_committed",  "send_running", "send_aborted",
        "send_lost",       "prepare_landing", "run_landing",  "cancel_landing",
        "adopt_vm",        "report"};
    static_assert(std::size(kNames) == static_cast<size_t>(AwayDo::report) + 1);
    return kNames[static_cast<size_t>(act)];
}

}  // namespace evac::evacuation
