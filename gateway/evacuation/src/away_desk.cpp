#include "evac/evacuation/away_desk.hpp"

namespace evac::evacuation {
namespace {

Status append(Acts& all, Result<Acts> part) {
    EVAC_TRY(part);
    for (Act& act : *part) all.push_back(std::move(act));
    return {};
}

Error unknown(VmId vm) {
    return make_error(Errc::not_found, "vm " + std::to_string(raw(vm)) + ": not staged here");
}

}  // namespace

AwayDesk::AwayDesk(Journal& journal, Now now, std::span<const AwayRow> table)
    : journal_(journal), table_(table), silence_(now.ns) {
    for (const HandoverRecord& record : journal.all(Role::away)) {
        handovers_.try_emplace(record.vm, record.vm, journal_, table_);
    }
}

Result<Acts> AwayDesk::restart(Now now) {
    Acts acts;
    for (auto& [vm, handover] : handovers_) EVAC_TRY(append(acts, handover.restart(now)));
    return acts;
}

Status AwayDesk::add_vm(VmId vm) {
    if (handovers_.find(vm) != handovers_.end()) return {};
    if (handovers_.size() >= kVmsMax) {
        return make_error(Errc::refused,
                          "more than " + std::to_string(kVmsMax) + " VMs staged here");
    }
    handovers_.try_emplace(vm, vm, journal_, table_);
    return {};
}

Status AwayDesk::remove_vm(VmId vm) {
    const auto it = handovers_.find(vm);
    if (it == handovers_.end()) return unknown(vm);
    const State state = it->second.state();
    if (state != State::protected_ && state != State::released && state != State::lost) {
        return make_error(Errc::refused, "vm " + std::to_string(raw(vm)) +
                                             ": a handover is under way (" + to_string(state) +
                                             ")");
    }
    EVAC_TRY(journal_.forget(Role::away, vm));
    handovers_.erase(it);
    return {};
}

Result<Acts> AwayDesk::handle(VmId vm, const AwayEvent& event, Now now) {
    const auto it = handovers_.find(vm);
    if (it == handovers_.end()) return unknown(vm);
    return it->second.handle(event, now);
}

Result<Acts> AwayDesk::deliver(const Message& message, Now now) {
    silence_.heard(now.ns);
    if (!is_from_home(message.kind)) return Acts{};
    EVAC_TRY(add_vm(message.vm));
    return handovers_.find(message.vm)->second.deliver(message, now);
}

Result<Acts> AwayDesk::session_up(Now now) {
    silence_.heard(now.ns);
    Acts acts;
    for (auto& [vm, handover] : handovers_) EVAC_TRY(append(acts, handover.session_up(now)));
    return acts;
}

Result<Acts> AwayDesk::tick(Now now) {
    const uint64_t silent_ns = silence_.look(now.ns);
    Acts acts;
    for (auto& [vm, handover] : handovers_) EVAC_TRY(append(acts, handover.tick(now, silent_ns)));
    return acts;
}

const AwayHandover* AwayDesk::find(VmId vm) const {
    const auto it = handovers_.find(vm);
    return it == handovers_.end() ? nullptr : &it->second;
}

std::vector<const AwayHandover*> AwayDesk::all() const {
    std::vector<const AwayHandover*> out;
    for (const auto& [vm, handover] : handovers_) out.push_back(&handover);
    return out;
}

}  // namespace evac::evacuation
