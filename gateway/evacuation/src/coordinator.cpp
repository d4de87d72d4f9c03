#include "evac/evacuation/coordinator.hpp"

#include <algorithm>
#include <set>

namespace evac::evacuation {
namespace {

void take(Acts& all, Acts part) {
    for (Act& act : part) all.push_back(std::move(act));
}

Error unknown(VmId vm) {
    return make_error(Errc::not_found, "vm " + std::to_string(raw(vm)) + ": not protected here");
}

HomeEvent event_of(HomeEventKind kind) {
    HomeEvent event;
    event.kind = kind;
    return event;
}

bool at_home(State state) {
    return state == State::protected_ || state == State::armed;
}

bool may_go_back(State state) {
    return state == State::armed || state == State::draining || state == State::frozen ||
           state == State::sealed;
}

}  // namespace

const char* to_string(Outcome outcome) {
    switch (outcome) {
        case Outcome::none:
            return "none";
        case Outcome::waiting:
            return "waiting";
        case Outcome::moving:
            return "moving";
        case Outcome::moved:
            return "moved";
        case Outcome::returned:
            return "returned";
        case Outcome::stuck:
            return "stuck";
    }
    return "?";
}

Coordinator::Coordinator(Journal& journal, CoordinatorOptions options, Now now,
                         std::span<const HomeRow> table)
    : journal_(journal),
      options_(options),
      table_(table),
      evacuation_(journal.evacuation()),
      silence_(now.ns) {
    for (const HandoverRecord& record : journal.all(Role::home)) {
        slots_.try_emplace(record.vm, Slot{HomeHandover(record.vm, journal_, table_), {}});
    }
}

Result<Acts> Coordinator::restart(Now now) {
    const bool evacuating = evacuation_.stage == Stage::evacuating;
    for (const Turn& turn : evacuation_.order) {
        const auto it = slots_.find(turn.vm);
        if (it == slots_.end()) continue;
        Slot& slot = it->second;
        slot.listed = true;
        slot.turn = turn;
        const HandoverRecord& record = slot.handover.record();
        slot.keep_home =
            record.since_unix_ms >= evacuation_.since_unix_ms &&
            (record.reason == AbortReason::cancelled || record.reason == AbortReason::forced);
        slot.queued = evacuating && at_home(record.state) && !slot.keep_home;
    }
    Acts acts;
    for (auto& [vm, slot] : slots_) {
        auto part = slot.handover.restart(now);
        EVAC_TRY(part);
        take(acts, std::move(*part));
    }
    if (evacuation_.stage == Stage::cancelling) {
        auto part = go_back(now);  // the crash may have come between the decision and the VMs
        EVAC_TRY(part);
        take(acts, std::move(*part));
    }
    EVAC_TRY(finish_if_done(now));
    return acts;
}

Status Coordinator::add_vm(VmId vm) {
    if (slots_.find(vm) != slots_.end()) return {};
    if (slots_.size() >= kVmsMax) {
        return make_error(Errc::refused, "more than " + std::to_string(kVmsMax) + " VMs");
    }
    slots_.try_emplace(vm, Slot{HomeHandover(vm, journal_, table_), {}});
    return {};
}

Status Coordinator::remove_vm(VmId vm) {
    const auto it = slots_.find(vm);
    if (it == slots_.end()) return unknown(vm);
    const State state = it->second.handover.state();
    const bool idle =
        state == State::protected_ || state == State::released || state == State::lost;
    if (!idle || it->second.queued) {
        return make_error(Errc::refused, "vm " + std::to_string(raw(vm)) +
                                             ": part of an evacuation (" + to_string(state) + ")");
    }
    EVAC_TRY(journal_.forget(Role::home, vm));
    slots_.erase(it);
    std::erase_if(evacuation_.order, [vm](const Turn& turn) { return turn.vm == vm; });
    return {};
}

Result<Acts> Coordinator::arm(std::string_view event_id, std::string_view reason, Now now) {
    if (evacuation_.stage == Stage::evacuating || evacuation_.stage == Stage::cancelling)
        return Acts{};
    if (evacuation_.stage != Stage::armed || evacuation_.event_id != event_id) {
        EvacuationRecord next;
        next.stage = Stage::armed;
        next.event_id = std::string(event_id.substr(0, kTextMax));
        next.reason = std::string(reason.substr(0, kTextMax));
        next.since_unix_ms = now.unix_ms;
        EVAC_TRY(save(std::move(next)));
        for (auto& [vm, slot] : slots_) slot.listed = slot.queued = false;
    }
    Acts acts;
    for (auto& [vm, slot] : slots_) {
        if (slot.handover.state() != State::protected_) continue;
        auto part = slot.handover.handle(event_of(HomeEventKind::arm), now);
        EVAC_TRY(part);
        take(acts, std::move(*part));
    }
    return acts;
}

Status Coordinator::check(const EvacuationRequest& request) const {
    if (request.event_id.empty() || request.event_id.size() > kTextMax) {
        return make_error(
            Errc::invalid_argument,
            "event_id: " + std::to_string(request.event_id.size()) + " bytes, 1 to 256");
    }
    if (request.options.policy == Policy::evacuation &&
        request.options.silence_ms < kSilenceMinMs) {
        return make_error(Errc::invalid_argument,
                          "silence_ms: " + std::to_string(request.options.silence_ms) +
                              ", at least 1000 under policy evacuation");
    }
    std::set<VmId> seen;
    for (const Turn& turn : request.order) {
        if (slots_.find(turn.vm) == slots_.end()) return unknown(turn.vm);
        if (!seen.insert(turn.vm).second) {
            return make_error(Errc::invalid_argument,
                              "order: vm " + std::to_string(raw(turn.vm)) + " occurs twice");
        }
    }
    if (evacuation_.stage == Stage::evacuating && request.options.policy == Policy::planned &&
        evacuation_.options.policy == Policy::evacuation) {
        return make_error(Errc::refused, "evacuation " + evacuation_.event_id +
                                             " is under way: no planned move can join it");
    }
    return {};
}

Result<Acts> Coordinator::evacuate(const EvacuationRequest& request, Now now) {
    EVAC_TRY(check(request));
    const bool joining = joins(request.event_id);
    const bool repeated = joining && request.event_id == evacuation_.event_id;
    EvacuationRecord next;
    if (joining) next = evacuation_;
    next.stage = Stage::evacuating;
    next.event_id = request.event_id;
    if (!repeated) next.reason = request.reason.substr(0, kTextMax);
    // An evacuation under way is never slowed down to held landings.
    const bool holds_up = joining && evacuation_.options.policy == request.options.policy &&
                          request.options.hold_landing && !evacuation_.options.hold_landing;
    if (!holds_up) next.options = request.options;
    if (!joining) next.since_unix_ms = now.unix_ms;
    // A planned move that becomes an evacuation measures from the alert.
    if (joining && evacuation_.options.policy != request.options.policy)
        next.since_unix_ms = now.unix_ms;
    std::set<VmId> known;
    for (const Turn& turn : next.order) known.insert(turn.vm);
    for (const Turn& turn : request.order) {
        if (known.count(turn.vm) == 0) next.order.push_back(turn);
    }
    EVAC_TRY(save(std::move(next)));
    if (!joining) {
        for (auto& [vm, slot] : slots_) slot.listed = slot.queued = false;
    }
    for (const Turn& turn : request.order) {
        Slot& slot = slots_.find(turn.vm)->second;
        const bool done_or_moving = slot.listed && outcome(slot) != Outcome::returned;
        const bool came_back = slot.listed && repeated;
        if (slot.queued || done_or_moving) continue;
        const bool may_again =
            request.again == Again::all || (request.again == Again::came_back && !slot.keep_home);
        if (came_back && !may_again) continue;
        slot.listed = true;
        slot.keep_home = false;
        slot.turn = turn;
        slot.turns = 0;
        slot.away_ms = 0;
        slot.not_before_ns = 0;
        // On its way back from a cancelled one: its turn comes when it is at home.
        const State state = slot.handover.state();
        slot.queued =
            at_home(state) || state == State::aborted || slot.handover.record().abort_asked;
    }
    EVAC_TRY(finish_if_done(now));
    return Acts{};
}

Result<Acts> Coordinator::cancel(std::string_view event_id, Now now) {
    const Stage stage = evacuation_.stage;
    if (stage != Stage::armed && stage != Stage::evacuating && stage != Stage::cancelling) {
        return make_error(Errc::not_found,
                          "nothing to cancel: no alert is armed and no evacuation runs");
    }
    if (!event_id.empty() && event_id != evacuation_.event_id) {
        return make_error(Errc::not_found, "event " + std::string(event_id.substr(0, kTextMax)) +
                                               ": not the running one (" + evacuation_.event_id +
                                               ")");
    }
    EvacuationRecord next = evacuation_;
    next.stage = stage == Stage::armed ? Stage::idle : Stage::cancelling;
    EVAC_TRY(save(std::move(next)));
    auto acts = go_back(now);
    EVAC_TRY(acts);
    EVAC_TRY(finish_if_done(now));
    return acts;
}

// Everything that is not past the commit. Running the same again does no harm.
Result<Acts> Coordinator::go_back(Now now) {
    Acts acts;
    for (auto& [vm, slot] : slots_) {
        slot.queued = false;
        if (!may_go_back(slot.handover.state())) continue;
        auto part = slot.handover.handle(event_of(HomeEventKind::abort), now);
        EVAC_TRY(part);
        take(acts, std::move(*part));
    }
    return acts;
}

Status Coordinator::reorder(std::span<const Turn> order) {
    EvacuationRecord next = evacuation_;
    std::map<VmId, size_t> place;
    for (size_t i = 0; i < order.size(); ++i) place.emplace(order[i].vm, i);
    const auto rank = [&place](const Turn& turn) {
        const auto it = place.find(turn.vm);
        return it == place.end() ? SIZE_MAX : it->second;
    };
    std::stable_sort(next.order.begin(), next.order.end(),
                     [&rank](const Turn& a, const Turn& b) { return rank(a) < rank(b); });
    for (Turn& turn : next.order) {
        const auto it = place.find(turn.vm);
        const auto slot = slots_.find(turn.vm);
        if (it == place.end() || slot == slots_.end() || !slot->second.queued) continue;
        turn = order[it->second];
        slot->second.turn = turn;
    }
    // Losing this to a crash loses a preference, nothing else.
    EVAC_TRY(journal_.append(next, Durability::lazy));
    evacuation_ = std::move(next);
    return {};
}

bool Coordinator::may_start_next(uint64_t queued_bytes, Now now) const {
    return evacuation_.stage == Stage::evacuating && queued_bytes < options_.lookahead_bytes &&
           in_flight() < options_.lookahead_vms && next_turn(now) != nullptr;
}

Result<Acts> Coordinator::advance(uint64_t queued_bytes, Now now) {
    Acts acts;
    while (may_start_next(queued_bytes, now)) {
        Slot& slot = slots_.find(next_turn(now)->handover.vm())->second;
        HomeEvent begin = event_of(HomeEventKind::begin);
        begin.options = evacuation_.options;
        auto part = slot.handover.handle(begin, now);
        EVAC_TRY(part);
        slot.queued = false;
        ++slot.turns;
        take(acts, std::move(*part));
    }
    return acts;
}

Result<Acts> Coordinator::handle(VmId vm, const HomeEvent& event, Now now) {
    const auto it = slots_.find(vm);
    if (it == slots_.end()) return unknown(vm);
    Slot& slot = it->second;
    const State before = slot.handover.state();
    auto acts = slot.handover.handle(event, now);
    EVAC_TRY(acts);
    if (event.kind == HomeEventKind::abort || event.kind == HomeEventKind::force_resume) {
        slot.keep_home = true;
        slot.queued = false;
        EVAC_TRY(finish_if_done(now));
    }
    EVAC_TRY(settle(slot, before, now));
    return acts;
}

Result<Acts> Coordinator::deliver(const Message& message, Now now) {
    silence_.heard(now.ns);
    const auto it = slots_.find(message.vm);
    if (it == slots_.end() || is_from_home(message.kind)) return Acts{};
    const State before = it->second.handover.state();
    auto acts = it->second.handover.deliver(message, now);
    EVAC_TRY(acts);
    EVAC_TRY(settle(it->second, before, now));
    return acts;
}

Result<Acts> Coordinator::session_up(Now now) {
    silence_.heard(now.ns);
    Acts acts;
    for (auto& [vm, slot] : slots_) {
        auto part = slot.handover.session_up(now);
        EVAC_TRY(part);
        take(acts, std::move(*part));
    }
    return acts;
}

Result<Acts> Coordinator::tick(Now now) {
    const uint64_t silent_ns = silence_.look(now.ns);
    Acts acts;
    for (auto& [vm, slot] : slots_) {
        const State before = slot.handover.state();
        auto part = slot.handover.tick(now, silent_ns);
        EVAC_TRY(part);
        take(acts, std::move(*part));
        EVAC_TRY(settle(slot, before, now));
    }
    return acts;
}

// What a VM's change means for the evacuation.
Status Coordinator::settle(Slot& slot, State before, Now now) {
    const State after = slot.handover.state();
    if (after == before) return {};
    if (after == State::running_away && slot.listed && slot.away_ms == 0) {
        slot.away_ms =
            static_cast<uint64_t>(std::max<int64_t>(now.unix_ms - evacuation_.since_unix_ms, 1));
    }
    if (before == State::aborted && at_home(after) && evacuation_.stage == Stage::evacuating &&
        slot.listed && !slot.keep_home && slot.turns < options_.turns_max) {
        slot.queued = true;
        slot.not_before_ns = now.ns + options_.turn_pause_ns;
    }
    const bool ended = at_home(after) || after == State::released || after == State::lost;
    return ended ? finish_if_done(now) : Status{};
}

Status Coordinator::finish_if_done(Now now) {
    if (evacuation_.stage != Stage::evacuating && evacuation_.stage != Stage::cancelling) return {};
    for (const auto& [vm, slot] : slots_) {
        if (!slot.listed) continue;
        const Outcome o = outcome(slot);
        if (o == Outcome::waiting || o == Outcome::moving) return {};
    }
    EvacuationRecord next = evacuation_;
    next.stage = evacuation_.stage == Stage::cancelling ? Stage::cancelled : Stage::done;
    EVAC_TRY(save(std::move(next)));
    // Those that stay were armed for this event only.
    for (auto& [vm, slot] : slots_) {
        if (slot.handover.state() != State::armed) continue;
        EVAC_TRY(slot.handover.handle(event_of(HomeEventKind::disarm), now));
    }
    return {};
}

Status Coordinator::save(EvacuationRecord next) {
    EVAC_TRY(journal_.append(next, Durability::durable));
    evacuation_ = std::move(next);
    return {};
}

const Coordinator::Slot* Coordinator::next_turn(Now now) const {
    for (const Turn& turn : evacuation_.order) {
        const auto it = slots_.find(turn.vm);
        if (it == slots_.end()) continue;
        const Slot& slot = it->second;
        if (slot.queued && at_home(slot.handover.state()) && now.ns >= slot.not_before_ns)
            return &slot;
    }
    return nullptr;
}

uint32_t Coordinator::in_flight() const {
    uint32_t count = 0;
    for (const auto& [vm, slot] : slots_) {
        const State s = slot.handover.state();
        if (s == State::draining || s == State::frozen || s == State::sealed) ++count;
    }
    return count;
}

Outcome Coordinator::outcome(const Slot& slot) const {
    if (!slot.listed) return Outcome::none;
    switch (slot.handover.state()) {
        case State::released:
            return Outcome::moved;
        case State::lost:
            return Outcome::stuck;
        case State::protected_:
        case State::armed:
            return slot.queued ? Outcome::waiting : Outcome::returned;
        default:
            return Outcome::moving;
    }
}

VmProgress Coordinator::vm_progress(const Slot& slot, Now now) const {
    const HandoverRecord& record = slot.handover.record();
    VmProgress p;
    p.vm = record.vm;
    p.state = record.state;
    p.outcome = outcome(slot);
    p.since_unix_ms = record.since_unix_ms;
    p.turns = slot.turns;
    p.downtime_ms = slot.handover.downtime_ms(now);
    p.predicted_downtime_ms = slot.turn.predicted_downtime_ms;
    p.predicted_away_ms = slot.turn.predicted_away_ms;
    p.away_ms = slot.away_ms;
    p.landed_paused = slot.handover.landed_paused();
    p.abort_asked = record.abort_asked;
    p.kept_home = slot.keep_home;
    p.parts = slot.handover.pause_parts();
    p.detail = slot.handover.detail();
    return p;
}

Progress Coordinator::progress(Now now) const {
    Progress out;
    out.stage = evacuation_.stage;
    out.event_id = evacuation_.event_id;
    out.reason = evacuation_.reason;
    out.policy = evacuation_.options.policy;
    out.silence_ms = evacuation_.options.silence_ms;
    out.since_unix_ms = evacuation_.since_unix_ms;
    for (const Turn& turn : evacuation_.order) {
        const auto it = slots_.find(turn.vm);
        if (it != slots_.end()) out.vms.push_back(vm_progress(it->second, now));
    }
    for (const auto& [vm, slot] : slots_) {
        if (!slot.listed) out.vms.push_back(vm_progress(slot, now));
    }
    for (const VmProgress& p : out.vms) {
        if (p.outcome == Outcome::waiting) ++out.waiting;
        if (p.outcome == Outcome::moving) ++out.moving;
        if (p.outcome == Outcome::moved) ++out.moved;
        if (p.outcome == Outcome::returned) ++out.returned;
        if (p.outcome == Outcome::stuck) ++out.stuck;
    }
    return out;
}

bool Coordinator::is_at_home(VmId vm) const {
    const HomeHandover* handover = find(vm);
    return handover != nullptr && at_home(handover->state());
}

const HomeHandover* Coordinator::find(VmId vm) const {
    const auto it = slots_.find(vm);
    return it == slots_.end() ? nullptr : &it->second.handover;
}

}  // namespace evac::evacuation
