#pragma once
// Random inventories and a plain re-implementation of the model, written from its text and sharing
// no code with src/: it reads the input structs and nothing else.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/planner/model.hpp"
#include "evac/planner/solve.hpp"

namespace evac::planner::testing {

enum class Family { mixed, idle, saturating, heavy, linear, staged, loose };
inline constexpr Family kFamilies[] = {Family::mixed, Family::idle,   Family::saturating,
                                       Family::heavy, Family::linear, Family::staged,
                                       Family::loose};
inline const char* name_of(Family family) {
    switch (family) {
        case Family::mixed:
            return "mixed";
        case Family::idle:
            return "idle";
        case Family::saturating:
            return "saturating";
        case Family::heavy:
            return "heavy";
        case Family::linear:
            return "linear";
        case Family::staged:
            return "staged";
        case Family::loose:
            return "loose";
    }
    return "?";
}

inline double between(Random& random, double low, double high) {
    return low + (high - low) * random.unit();
}
inline double log_between(Random& random, double low, double high) {
    return low * std::exp(random.unit() * std::log(high / low));
}

// `total` VMs share the link; dirtying is scaled with it, so that a family means the same at every
// size.
inline VmInput random_vm(Random& random, Family family, double goodput_mib_s, size_t total) {
    VmInput vm;
    vm.memory_mib = std::round(log_between(random, 256, 65536));
    vm.priority = 1 + static_cast<double>(random.below(10));
    vm.unstaged_mib = log_between(random, 0.5, 512);
    vm.wire_ratio = between(random, 0.2, 1.0);
    vm.max_downtime_ms = log_between(random, 50, 2000);
    vm.switchover_ms = between(random, 10, 400);
    const double fair =
        goodput_mib_s / static_cast<double>(total);  // each guest's share of the link
    const auto scale = [&](double w_low, double w_high, double r_low, double r_high) {
        vm.dirty.push_back(
            {log_between(random, w_low, w_high), fair * log_between(random, r_low, r_high)});
    };
    switch (family) {
        case Family::mixed:
            if (random.chance(0.7)) scale(4, 1024, 0.01, 3);
            if (random.chance(0.4)) scale(16, 4096, 0.01, 1);
            if (random.chance(0.4)) vm.disk_write_mib_s = fair * log_between(random, 0.01, 0.3);
            break;
        case Family::idle:
            scale(1, 16, 0.001, 0.05);
            break;
        case Family::saturating:
            scale(16, 512, 0.5, 20);
            break;
        case Family::heavy:
            scale(64, 2048, 1, 50);
            if (random.chance(0.5)) scale(512, 8192, 0.2, 2);
            vm.max_downtime_ms = log_between(random, 20, 300);
            break;
        case Family::linear:
            vm.disk_write_mib_s = fair * log_between(random, 0.01, 1);
            break;
        case Family::staged:
            vm.unstaged_mib = log_between(random, 0.1, 30);
            scale(4, 256, 0.1, 5);
            break;
        case Family::loose:  // long switchovers, short transfers: the last to arrive is not the
                             // last sent
            vm.unstaged_mib = log_between(random, 0.1, 60);
            vm.switchover_ms = log_between(random, 10, 8000);
            scale(4, 64, 0.1, 2);
            break;
    }
    return vm;
}

inline Inventory random_inventory(Random& random, Family family, size_t n,
                                  double goodput_mbit = 1000) {
    Inventory inventory;
    inventory.link = {goodput_mbit, 20};
    for (size_t i = 0; i < n; ++i) {
        inventory.vms.push_back(random_vm(random, family, goodput_mbit * 1e6 / 8 / 1048576, n));
        inventory.vms.back().name = "vm" + std::to_string(i);
    }
    return inventory;
}

// Random `after` edges without a cycle: only to VMs that stand earlier in a random order.
inline void add_after(Random& random, Inventory& inventory, double edges_per_vm) {
    std::vector<size_t> order(inventory.vms.size());
    std::iota(order.begin(), order.end(), size_t{0});
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    for (size_t k = 1; k < order.size(); ++k) {
        if (!random.chance(edges_per_vm)) continue;
        inventory.vms[order[k]].after.push_back(inventory.vms[order[random.below(k)]].name);
    }
}

struct PlainVm {
    double start_s, link_end_s, away_s, downtime_ms, bytes_mib;
    int live_passes;
};
struct PlainPlan {
    std::vector<PlainVm> vms;  // by VmIndex
    double makespan_s = 0, weight = 0;
};

struct PlainTurn {
    double link_time, wire;
    int passes;
};

// A turn of `vm` that starts at t on a link of B MiB/s.
inline PlainTurn plain_turn(const VmInput& vm, Mode mode, double B, double t) {
    const auto dirty = [&vm](double dt) {
        double sum = 0;
        for (const DirtyScale& d : vm.dirty) {
            sum += d.working_set_mib * (1 - std::exp(-d.rate_mib_s * dt / d.working_set_mib));
        }
        return sum + vm.disk_write_mib_s * dt;
    };
    double remaining = vm.unstaged_mib + dirty(t);
    PlainTurn turn{0, 0, 0};
    while (true) {
        turn.wire = remaining * vm.wire_ratio / B;
        if (mode == Mode::freeze) break;
        if (turn.wire + vm.switchover_ms / 1000 <= vm.max_downtime_ms / 1000) break;
        if (turn.passes == 4) break;
        if (dirty(turn.wire) >= 0.9 * remaining) break;
        turn.link_time += turn.wire;
        remaining = dirty(turn.wire);
        ++turn.passes;
    }
    turn.link_time += turn.wire;
    return turn;
}

inline double link_mib_s(const Inventory& inventory) {
    return inventory.link.goodput_mbit * 1'000'000 / 8 / (1 << 20);
}

inline PlainPlan play_plainly(const Inventory& inventory, const Schedule& schedule) {
    PlainPlan plan;
    plan.vms.resize(inventory.vms.size());
    const double B = link_mib_s(inventory);
    double t = 0;
    for (const VmIndex index : schedule.order) {
        const VmInput& vm = inventory.vms[index];
        if (schedule.mode[index] == Mode::abandon) continue;
        const auto [link_time, wire, passes] = plain_turn(vm, schedule.mode[index], B, t);
        const double own_away = t + link_time + vm.switchover_ms / 1000;
        double away = own_away;
        for (const std::string& name : vm.after) {
            for (size_t p = 0; p < inventory.vms.size(); ++p) {
                if (inventory.vms[p].name == name && schedule.mode[p] != Mode::abandon) {
                    away = std::max(away, plan.vms[p].away_s);
                }
            }
        }
        plan.vms[index] = {t,
                           t + link_time,
                           away,
                           wire * 1000 + vm.switchover_ms + (away - own_away) * 1000,
                           link_time * B,
                           passes};
        plan.makespan_s = std::max(plan.makespan_s, away);
        if (!inventory.deadline_s || away <= *inventory.deadline_s) plan.weight += vm.priority;
        t += link_time;
    }
    return plan;
}

inline bool respects_after(const Inventory& inventory, const std::vector<VmIndex>& order) {
    std::vector<std::string> gone;
    for (const VmIndex i : order) {
        for (const std::string& name : inventory.vms[i].after) {
            if (std::find(gone.begin(), gone.end(), name) == gone.end()) return false;
        }
        gone.push_back(inventory.vms[i].name);
    }
    return true;
}

// Best (weight, makespan) over all legal orders with these modes; least makespan over all orders at
// all.
struct BruteForce {
    double weight = -1, makespan_s = 0, least_makespan_s = std::numeric_limits<double>::infinity();
};
inline BruteForce brute_force(const Inventory& inventory, const std::vector<Mode>& mode) {
    Schedule schedule{{}, mode};
    schedule.order.resize(inventory.vms.size());
    std::iota(schedule.order.begin(), schedule.order.end(), VmIndex{0});
    BruteForce best;
    do {
        const PlainPlan plan = play_plainly(inventory, schedule);
        if (!respects_after(inventory, schedule.order)) continue;
        best.least_makespan_s = std::min(best.least_makespan_s, plan.makespan_s);
        const bool heavier = plan.weight > best.weight + 1e-9;
        const bool same = std::abs(plan.weight - best.weight) <= 1e-9;
        if (heavier || (same && plan.makespan_s < best.makespan_s)) {
            best.weight = plan.weight;
            best.makespan_s = plan.makespan_s;
        }
    } while (std::next_permutation(schedule.order.begin(), schedule.order.end()));
    return best;
}

inline std::vector<Mode> all_live(const Inventory& inventory) {
    return std::vector<Mode>(inventory.vms.size(), Mode::live);
}

}  // namespace evac::planner::testing
