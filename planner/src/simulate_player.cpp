#include "simulate_player.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "inventory_rules.hpp"

namespace evac::planner::sim {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kWireMaxS = 1e15;  // keeps the judgement of hopeless passes finite

}  // namespace

Result<Links> make_links(const Inventory& inventory) {
    auto after = rules::resolve_after(inventory.vms);
    if (!after.ok()) return after.error();
    Links links{std::move(*after), {}};
    links.behind.resize(links.after.size());
    for (uint32_t i = 0; i < links.after.size(); ++i) {
        for (const uint32_t p : links.after[i]) links.behind[p].push_back(i);
    }
    return links;
}

Player::Player(const Inventory& inventory, const Links& links, const Scenario& scenario,
               const Schedule& schedule, PolicyChoice policy, uint64_t seed)
    : inventory_(inventory),
      links_(links),
      scenario_(scenario),
      first_(schedule),
      policy_(policy),
      world_(inventory, scenario, seed),
      trace_(inventory.link.goodput_mbit, scenario) {
    const size_t n = inventory.vms.size();
    run_.vms.resize(n);
    state_.resize(n);
    parked_on_.resize(n);
    waiting_ = n;
    for (VmIndex i = 0; i < n; ++i) {
        state_[i].unresolved = static_cast<uint32_t>(links.after[i].size());
    }
    misjudged_goodput_ = world_.misjudged_goodput();
}

// Puts a new order in place for these VMs, none of which has begun a turn.
void Player::load(const Schedule& schedule, const std::vector<VmIndex>& vm) {
    order_.clear();
    next_in_order_ = 0;
    std::erase_if(first_in_line_, [this](VmIndex i) { return run_.vms[i].turns == 0; });
    for (std::vector<VmIndex>& parked : parked_on_) {
        std::erase_if(parked, [this](VmIndex i) { return run_.vms[i].turns == 0; });
    }
    for (const VmIndex k : schedule.order) {
        const VmIndex i = vm[k];
        if (state_[i].stage == Stage::given_up) ++waiting_;
        state_[i].stage = Stage::waiting;
        state_[i].mode = schedule.mode[k];
        run_.vms[i].end = End::stranded;
        order_.push_back(i);
    }
    for (const VmIndex i : order_) {
        if (state_[i].mode == Mode::abandon) give_up(i, End::abandoned);
    }
}

Result<SimRun> Player::play() {
    std::vector<VmIndex> all(inventory_.vms.size());
    for (VmIndex i = 0; i < all.size(); ++i) all[i] = i;
    load(first_, all);
    for (uint32_t k = 0; k < world_.losses().size(); ++k) {
        add_timer(world_.losses()[k].at_s, Kind::power, k);
    }
    if (scenario_.replan_interval_s > 0) add_timer(scenario_.replan_interval_s, Kind::replan, 0);
    // Power that is gone from the beginning is gone before the first turn.
    while (!timers_.empty() && timers_.top().at_s <= 0) {
        const Timer timer = timers_.top();
        timers_.pop();
        on_timer(timer);
    }
    fill_link();
    for (;;) {
        const double flow_s = next_flow_s();
        const double timer_s = timers_.empty() ? kNever : timers_.top().at_s;
        const double t = std::min(flow_s, timer_s);
        if (t > scenario_.horizon_s || t == kNever) break;
        advance(t);
        if (timer_s <= flow_s) {
            const Timer timer = timers_.top();
            timers_.pop();
            if (timer.kind == Kind::replan) {
                EVAC_TRY(replan());
            } else {
                on_timer(timer);
            }
        } else {
            const Flow flow = flows_.top();
            flows_.pop();
            service_mib_ = std::max(service_mib_, flow.finish_mib);
            end_pass(flow.vm);
        }
        fill_link();
    }
    return std::move(run_);
}

void Player::add_timer(double at_s, Kind kind, uint32_t index, uint32_t generation) {
    timers_.push({at_s, kind, sequence_++, index, generation});
}

double Player::next_flow_s() {
    while (!flows_.empty() && flows_.top().generation != state_[flows_.top().vm].generation) {
        flows_.pop();  // its VM was lost
    }
    if (flows_.empty()) return kNever;
    const double ahead = std::max(flows_.top().finish_mib - service_mib_, 0.0);
    if (ahead == 0) return now_;
    return std::max(now_, trace_.time_of(sent_mib_ + ahead * static_cast<double>(sending_)));
}

void Player::advance(double t) {
    const double sent = trace_.total_mib(t);
    if (sending_ > 0) service_mib_ += (sent - sent_mib_) / static_cast<double>(sending_);
    sent_mib_ = sent;
    now_ = t;
}

void Player::on_timer(const Timer& timer) {
    if (timer.kind == Kind::power) {
        const Loss& loss = world_.losses()[timer.index];
        if (loss.site) {
            for (VmIndex i = 0; i < state_.size(); ++i) lose(i);
        } else {
            for (const VmIndex i : loss.vms) lose(i);
        }
        return;
    }
    State& vm = state_[timer.index];
    if (vm.generation != timer.generation) return;
    if (timer.kind == Kind::retry) {
        first_in_line_.push_back(timer.index);
    } else if (vm.unresolved > 0) {
        vm.stage = Stage::holding;
    } else {
        away(timer.index);
        resolve(timer.index);
    }
}

void Player::fill_link() {
    while (sending_ < scenario_.streams) {
        const auto vm = take_next();
        if (!vm) return;
        begin_turn(*vm);
    }
}

std::optional<VmIndex> Player::take_next() {
    for (;;) {
        VmIndex vm = 0;
        if (!first_in_line_.empty()) {
            vm = first_in_line_.front();
            first_in_line_.pop_front();
        } else if (next_in_order_ < order_.size()) {
            vm = order_[next_in_order_++];
        } else if (!last_in_line_.empty()) {
            vm = last_in_line_.front();
            last_in_line_.pop_front();
        } else {
            return std::nullopt;
        }
        const Stage stage = state_[vm].stage;
        if (stage != Stage::waiting && stage != Stage::retrying) continue;  // lost or given up
        if (!park(vm)) return vm;
    }
}

// Whether it has to wait for the beginning of another's turn.
bool Player::park(VmIndex vm) {
    for (const VmIndex p : links_.after[vm]) {
        const Stage stage = state_[p].stage;
        if (stage == Stage::waiting || stage == Stage::parked || stage == Stage::retrying) {
            parked_on_[p].push_back(vm);
            state_[vm].stage = Stage::parked;
            return true;
        }
    }
    return false;
}

void Player::unpark(VmIndex vm) {
    for (const VmIndex i : parked_on_[vm]) {
        if (state_[i].stage != Stage::parked) continue;
        state_[i].stage = Stage::waiting;
        first_in_line_.push_back(i);
    }
    parked_on_[vm].clear();
}

void Player::begin_turn(VmIndex i) {
    State& vm = state_[i];
    VmRun& run = run_.vms[i];
    const double activity = world_.activity_s(i, now_);
    vm.stage = Stage::sending;
    vm.pass = 0;
    vm.remaining_mib = inventory_.vms[i].unstaged_mib + dirty_mib(inventory_.vms[i], activity);
    --waiting_;
    if (sending_ == 0) service_mib_ = 0;
    ++sending_;
    run.start_s = now_;
    run.link_end_s = 0;
    unpark(i);
    begin_pass(i);
    ++run.turns;
}

void Player::begin_pass(VmIndex i) {
    const VmInput& input = inventory_.vms[i];
    State& vm = state_[i];
    vm.pass_activity_s = world_.activity_s(i, now_);
    vm.pass_mib = vm.remaining_mib * input.wire_ratio;
    vm.last_pass = vm.mode == Mode::freeze || vm.pass == kLivePassesMax;
    if (!vm.last_pass) {
        const size_t sharing = std::min(scenario_.streams, sending_ + waiting_);
        const double rate = trace_.known_rate_mib_s(now_) / static_cast<double>(sharing);
        const double wire = vm.pass_mib <= 0 ? 0
                            : rate > 0       ? std::min(vm.pass_mib / rate, kWireMaxS)
                                             : kWireMaxS;
        vm.last_pass =
            wire + input.switchover_ms / 1000 <= input.max_downtime_ms / 1000 ||
            dirty_mib(input, wire * world_.factor(i)) >= kNoProgressShare * vm.remaining_mib;
    }
    vm.failing = false;
    if (vm.pass == 0) {
        const double share = world_.fails_after(i, run_.vms[i].turns);
        vm.failing = share < 1;
        if (vm.failing) vm.pass_mib *= share;
    }
    if (vm.last_pass) vm.stop_s = now_;
    run_.vms[i].live_passes = vm.pass;
    flows_.push({service_mib_ + vm.pass_mib, sequence_++, i, vm.generation});
}

void Player::end_pass(VmIndex i) {
    const VmInput& input = inventory_.vms[i];
    State& vm = state_[i];
    run_.vms[i].bytes_mib += vm.pass_mib;
    if (vm.failing) return fail_turn(i);
    if (!vm.last_pass) {
        vm.remaining_mib = dirty_mib(input, world_.activity_s(i, now_) - vm.pass_activity_s);
        ++vm.pass;
        return begin_pass(i);
    }
    leave_link(i);
    vm.stage = Stage::switching;
    run_.vms[i].link_end_s = now_;
    add_timer(now_ + input.switchover_ms / 1000, Kind::ready, i, vm.generation);
}

void Player::leave_link(VmIndex i) {
    ++state_[i].generation;
    --sending_;
    if (sending_ == 0) service_mib_ = 0;
}

void Player::fail_turn(VmIndex i) {
    State& vm = state_[i];
    leave_link(i);
    ++waiting_;
    vm.stage = Stage::retrying;
    if (vm.last_pass) vm.stopped_before_s += now_ - vm.stop_s;
    if (run_.vms[i].turns == kTurnsMax) return give_up(i, End::failed);
    if (scenario_.failures.retry == Retry::last) {
        last_in_line_.push_back(i);
    } else {
        add_timer(now_ + scenario_.failures.retry_delay_s, Kind::retry, i, vm.generation);
    }
}

void Player::away(VmIndex i) {
    State& vm = state_[i];
    VmRun& run = run_.vms[i];
    run.end = End::away;
    run.away_s = now_;
    run.downtime_ms = (now_ - vm.stop_s + vm.stopped_before_s) * 1000;
    run_.makespan_s = std::max(run_.makespan_s, now_);
    vm.stage = Stage::ended;
}

void Player::give_up(VmIndex i, End end) {
    state_[i].stage = Stage::given_up;
    run_.vms[i].end = end;
    --waiting_;
    resolve(i);
}

void Player::lose(VmIndex i) {
    State& vm = state_[i];
    switch (vm.stage) {
        case Stage::ended:
            return;
        case Stage::sending:
            leave_link(i);
            break;
        case Stage::waiting:
        case Stage::parked:
        case Stage::retrying:
            --waiting_;
            break;
        default:
            break;
    }
    ++vm.generation;
    vm.stage = Stage::ended;
    VmRun& run = run_.vms[i];
    run.end = scenario_.recovery_interval_s ? End::recovery_point : End::lost;
    if (scenario_.recovery_interval_s) run.recovery_age_s = world_.recovery_age_s(i, now_);
    resolve(i);
}

// It holds nobody any more: those that are ready and wait for nobody else are away now. Not
// recursive: chains may be long.
void Player::resolve(VmIndex first) {
    std::vector<VmIndex> todo{first};
    while (!todo.empty()) {
        const VmIndex i = todo.back();
        todo.pop_back();
        if (state_[i].resolved) continue;
        state_[i].resolved = true;
        unpark(i);
        for (const VmIndex b : links_.behind[i]) {
            State& vm = state_[b];
            if (--vm.unresolved > 0 || vm.stage != Stage::holding) continue;
            away(b);
            todo.push_back(b);
        }
    }
}

}  // namespace evac::planner::sim
