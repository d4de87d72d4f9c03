#include "sequence.hpp"

#include <algorithm>
#include <numeric>
#include <queue>

#include "descent.hpp"

namespace evac::planner {
namespace {

constexpr size_t kDispatchBlocks = 48;

double ratio_or_infinity(double a, double b) {
    return b > 0 ? a / b : std::numeric_limits<double>::infinity();
}

}  // namespace

double Sequencer::end_of(std::span<const uint32_t> order, double start_s) {
    effort_.charge(order.size());
    double now = start_s;
    for (const uint32_t vm : order) now = std::min(now + link_s(vm, now), kTimeMaxS);
    return now;
}

template <class DueOf>
bool Sequencer::on_time_by(std::span<const uint32_t> order, double start_s, DueOf due_of) {
    double now = start_s;
    for (size_t p = 0; p < order.size(); ++p) {
        now += link_s(order[p], now);
        if (now + model_.vm(order[p]).switchover_s > due_of(order[p])) {
            effort_.charge(p + 1);
            return false;
        }
    }
    effort_.charge(order.size());
    return true;
}

bool Sequencer::on_time(std::span<const uint32_t> order, double start_s,
                        std::span<const double> due_s) {
    return due_s.empty() || on_time_by(order, start_s, [due_s](uint32_t vm) { return due_s[vm]; });
}

bool Sequencer::on_time(std::span<const uint32_t> order, double start_s, double due_s) {
    return on_time_by(order, start_s, [due_s](uint32_t) { return due_s; });
}

std::vector<uint32_t> Sequencer::legal_order(std::span<const uint32_t> members,
                                             std::span<const double> key) {
    const auto later = [&key](uint32_t a, uint32_t b) {
        return key[a] != key[b] ? key[a] > key[b] : a > b;
    };
    std::vector<uint32_t> order;
    order.reserve(members.size());
    if (!model_.any_after()) {
        order.assign(members.begin(), members.end());
        std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return later(b, a); });
        return order;
    }
    constexpr uint32_t kMember = 1U << 31;
    for (const uint32_t vm : members) wanted_[vm] = kMember;
    for (const uint32_t vm : members) {
        for (const uint32_t next : model_.behind(vm)) {
            if ((wanted_[next] & kMember) != 0) ++wanted_[next];
        }
    }
    std::priority_queue<uint32_t, std::vector<uint32_t>, decltype(later)> ready(later);
    for (const uint32_t vm : members) {
        if (wanted_[vm] == kMember) ready.push(vm);
    }
    while (!ready.empty()) {
        const uint32_t vm = ready.top();
        ready.pop();
        order.push_back(vm);
        for (const uint32_t next : model_.behind(vm)) {
            if ((wanted_[next] & kMember) != 0 && --wanted_[next] == kMember) ready.push(next);
        }
    }
    for (const uint32_t vm : members) wanted_[vm] = 0;
    return order;
}

std::vector<double> Sequencer::link_keys(std::span<const uint32_t> members, double start_s) {
    effort_.charge(members.size());
    std::vector<double> key(model_.size(), 0);
    for (const uint32_t vm : members) key[vm] = link_s(vm, start_s);
    return key;
}

std::vector<double> Sequencer::ratio_keys(std::span<const uint32_t> members, double start_s,
                                          double horizon_s) {
    effort_.charge(2 * members.size());
    std::vector<double> key(model_.size(), 0);
    for (const uint32_t vm : members) {
        const double a = link_s(vm, start_s);
        const double b = horizon_s > start_s
                             ? (link_s(vm, horizon_s) - a) / (horizon_s - start_s)
                             : play_turn(model_.vm(vm), start_s, passes_max_[vm]).slope;
        key[vm] = ratio_or_infinity(a, b);
    }
    return key;
}

// The a/b rule with today's growth, looked at again as time goes by: what has saturated goes back.
std::vector<uint32_t> Sequencer::dispatch_order(std::span<const uint32_t> members, double start_s) {
    std::vector<uint32_t> rest(members.begin(), members.end());
    std::vector<uint32_t> order;
    std::vector<double> key(model_.size(), 0);
    double now = start_s;
    const size_t block = std::max<size_t>(1, members.size() / kDispatchBlocks);
    while (!rest.empty()) {
        for (const uint32_t vm : rest) {
            const Turn turn = play_turn(model_.vm(vm), now, passes_max_[vm]);
            key[vm] = ratio_or_infinity(turn.link_s, turn.slope);
        }
        effort_.charge(rest.size());
        std::vector<uint32_t> next = legal_order(rest, key);
        const size_t take = std::min(block, next.size());
        now = end_of(std::span<const uint32_t>(next).first(take), now);
        order.insert(order.end(), next.begin(), next.begin() + static_cast<std::ptrdiff_t>(take));
        rest.assign(next.begin() + static_cast<std::ptrdiff_t>(take), next.end());
    }
    return order;
}

std::vector<uint32_t> Sequencer::starting_order(std::span<const uint32_t> members, double start_s) {
    std::vector<uint32_t> best =
        legal_order(members, link_keys(members, start_s));  // shortest first
    double best_end = end_of(best, start_s);
    const auto offer = [&](std::vector<uint32_t> order) {
        const double end = end_of(order, start_s);
        if (end >= best_end) return;
        best_end = end;
        best = std::move(order);
    };
    const double horizon = best_end;
    offer(legal_order(members, ratio_keys(members, start_s, horizon)));  // a/b of the secant
    offer(legal_order(members, ratio_keys(members, start_s, start_s)));  // a/b of the tangent
    offer(legal_order(members, ratio_keys(members, start_s, start_s + (horizon - start_s) / 8)));
    if (!effort_.cut) offer(dispatch_order(members, start_s));
    return best;
}

void Sequencer::improve(std::vector<uint32_t>& order, const Stretch& stretch) {
    if (order.size() < 2 || effort_.cut) return;
    Descent descent(*this, stretch, order);
    descent.run();
    order = descent.order();
}

}  // namespace evac::planner
