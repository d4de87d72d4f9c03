#include "compiled.hpp"

#include <bit>
#include <numeric>
#include <string>
#include <tuple>

namespace evac::planner {
namespace {

constexpr int kGraphHashRounds = 3;

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

uint64_t attribute_hash(const CompiledVm& vm, Mode mode) {
    uint64_t hash = static_cast<uint64_t>(mode) + 1;
    const auto add = [&hash](double value) {
        hash = mix(hash + 0x9e3779b97f4a7c15ULL + std::bit_cast<uint64_t>(value + 0.0));
    };
    for (const double v : {vm.unstaged_mib, vm.s_per_mib, vm.disk_mib_s, vm.max_downtime_s,
                           vm.switchover_s, vm.weight, vm.working_set_mib[0], vm.inverse_s[0],
                           vm.working_set_mib[1], vm.inverse_s[1]}) {
        add(v);
    }
    return hash;
}

// What a VM is, refined by what its neighbours in `after` are.
std::vector<uint64_t> structure_hash(std::vector<uint64_t> hash,
                                     const std::vector<std::vector<uint32_t>>& after) {
    for (int round = 0; round < kGraphHashRounds; ++round) {
        std::vector<uint64_t> next = hash;
        for (uint32_t i = 0; i < after.size(); ++i) {
            for (const uint32_t p : after[i]) {  // sums: the order of the lists does not matter
                next[i] += mix(hash[p] ^ 0x5bd1e995);
                next[p] += mix(hash[i] ^ 0xc2b2ae35);
            }
        }
        hash = std::move(next);
    }
    return hash;
}

}  // namespace

double goodput_mib_s(const Link& link) {
    return link.goodput_mbit * 1e6 / 8 / 1048576.0;
}

CompiledVm compile_vm(const VmInput& vm, double goodput) {
    CompiledVm out;
    out.s_per_mib = vm.wire_ratio / goodput;
    out.unstaged_mib = vm.unstaged_mib;
    for (const DirtyScale& scale : vm.dirty) {
        const auto i = static_cast<size_t>(out.scales++);
        out.working_set_mib[i] = scale.working_set_mib;
        out.inverse_s[i] = scale.rate_mib_s / scale.working_set_mib;
    }
    if (out.scales == 2 && std::tie(out.working_set_mib[0], out.inverse_s[0]) >
                               std::tie(out.working_set_mib[1], out.inverse_s[1])) {
        std::swap(out.working_set_mib[0], out.working_set_mib[1]);
        std::swap(out.inverse_s[0], out.inverse_s[1]);
    }
    out.disk_mib_s = vm.disk_write_mib_s;
    out.switchover_s = vm.switchover_ms / 1000;
    out.max_downtime_s = vm.max_downtime_ms / 1000;
    out.weight = vm.priority;
    return out;
}

Turn play_turn(const CompiledVm& vm, double start_s, int passes_max) {
    Turn turn;
    double rate = 0;
    double remaining = vm.unstaged_mib + vm.dirty_mib(start_s, rate);
    for (int pass = 0;; ++pass) {
        const double wire = std::min(remaining * vm.s_per_mib, kTimeMaxS);
        const double wire_slope = rate * vm.s_per_mib;
        turn.link_s += wire;
        turn.slope += wire_slope;
        turn.last_wire_s = wire;
        turn.live_passes = pass;
        if (pass >= passes_max || wire + vm.switchover_s <= vm.max_downtime_s) return turn;
        const double next = vm.dirty_mib(wire, rate);
        if (next >= kNoProgressShare * remaining) return turn;
        rate *= wire_slope;
        remaining = next;
    }
}

double turn_link_exact_passes(const CompiledVm& vm, double start_s, int passes) {
    double remaining = vm.unstaged_mib + vm.dirty_mib(start_s);
    double link = 0;
    for (int pass = 0;; ++pass) {
        const double wire = std::min(remaining * vm.s_per_mib, kTimeMaxS);
        link += wire;
        if (pass == passes) return link;
        remaining = vm.dirty_mib(wire);
    }
}

Compiled::Compiled(const Inventory& inventory, const std::vector<std::vector<uint32_t>>& after,
                   const std::vector<Mode>& mode)
    : goodput_mib_s_(planner::goodput_mib_s(inventory.link)) {
    if (inventory.deadline_s) deadline_s_ = *inventory.deadline_s;
    const size_t n = inventory.vms.size();
    std::vector<CompiledVm> listed;
    std::vector<uint64_t> hash;
    listed.reserve(n);
    for (size_t i = 0; i < n; ++i) {
        listed.push_back(compile_vm(inventory.vms[i], goodput_mib_s_));
        hash.push_back(attribute_hash(listed.back(), mode[i]));
    }
    hash = structure_hash(std::move(hash), after);
    original_.resize(n);
    std::iota(original_.begin(), original_.end(), 0U);
    std::sort(original_.begin(), original_.end(), [&](uint32_t a, uint32_t b) {
        const auto key = [&](uint32_t i) {
            return std::tie(listed[i].unstaged_mib, hash[i], inventory.vms[i].name);
        };
        return key(a) < key(b);
    });
    canonical_.resize(n);
    vms_.reserve(n);
    for (uint32_t i = 0; i < n; ++i) {
        canonical_[original_[i]] = i;
        vms_.push_back(listed[original_[i]]);
    }
    link_lists(after);
}

void Compiled::link_lists(const std::vector<std::vector<uint32_t>>& after) {
    const size_t n = vms_.size();
    before_at_.assign(n + 1, 0);
    behind_at_.assign(n + 1, 0);
    for (uint32_t i = 0; i < n; ++i) {
        const std::vector<uint32_t>& list = after[original_[i]];
        before_at_[i + 1] = before_at_[i] + static_cast<uint32_t>(list.size());
        for (const uint32_t p : list) {
            before_.push_back(canonical_[p]);
            ++behind_at_[canonical_[p] + 1];
        }
        std::sort(before_.end() - static_cast<std::ptrdiff_t>(list.size()), before_.end());
    }
    for (size_t i = 0; i < n; ++i) behind_at_[i + 1] += behind_at_[i];
    behind_.resize(before_.size());
    std::vector<uint32_t> next(behind_at_.begin(), behind_at_.end() - 1);
    for (uint32_t i = 0; i < n; ++i) {
        for (const uint32_t p : before(i)) behind_[next[p]++] = i;
    }
}

}  // namespace evac::planner
