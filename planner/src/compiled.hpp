#pragma once
// An inventory made ready for arithmetic: seconds and MiB, VMs in canonical order, `after` as index
// lists. "Turn arithmetic" is the inner loop of everything; keep it free of allocation.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "evac/planner/model.hpp"

namespace evac::planner {

// Far beyond kHorizonS; keeps sums of hopeless turns finite (31 million years).
inline constexpr double kTimeMaxS = 1e15;

struct CompiledVm {
    double s_per_mib = 0;  // wire_ratio / B
    double unstaged_mib = 0;
    std::array<double, kDirtyEntriesMax> working_set_mib{};
    std::array<double, kDirtyEntriesMax> inverse_s{};  // r / W
    int scales = 0;
    double disk_mib_s = 0;
    double switchover_s = 0;
    double max_downtime_s = 0;
    double weight = 1;

    double dirty_mib(double dt) const {
        double sum = disk_mib_s * dt;
        for (int k = 0; k < scales; ++k) {
            const auto i = static_cast<size_t>(k);
            sum += working_set_mib[i] * (1 - std::exp(-inverse_s[i] * dt));
        }
        return sum;
    }
    // Also the derivative (MiB/s).
    double dirty_mib(double dt, double& rate) const {
        double sum = disk_mib_s * dt;
        rate = disk_mib_s;
        for (int k = 0; k < scales; ++k) {
            const auto i = static_cast<size_t>(k);
            const double e = std::exp(-inverse_s[i] * dt);
            sum += working_set_mib[i] * (1 - e);
            rate += working_set_mib[i] * inverse_s[i] * e;
        }
        return sum;
    }
};

struct Turn {
    double link_s = 0;
    double last_wire_s = 0;
    double slope = 0;  // d link_s / d start, between the jumps where a pass is added
    int live_passes = 0;
};

// passes_max: kLivePassesMax for live, 0 for freeze.
inline double turn_link_s(const CompiledVm& vm, double start_s, int passes_max) {
    double remaining = vm.unstaged_mib + vm.dirty_mib(start_s);
    double link = 0;
    for (int pass = 0;; ++pass) {
        const double wire = std::min(remaining * vm.s_per_mib, kTimeMaxS);
        link += wire;
        if (pass >= passes_max || wire + vm.switchover_s <= vm.max_downtime_s) return link;
        const double next = vm.dirty_mib(wire);
        if (next >= kNoProgressShare * remaining) return link;
        remaining = next;
    }
}

// `exact_passes`: do that many live passes whatever the rules say (the bound's concave pieces).
Turn play_turn(const CompiledVm& vm, double start_s, int passes_max);
double turn_link_exact_passes(const CompiledVm& vm, double start_s, int passes);

// The canonical numbering: VMs sorted by what they are and by their place in the `after` graph,
// names last. It makes the solver blind to the order and, but for identical VMs, to the names in
// the inventory.
class Compiled {
  public:
    // The inventory must be valid (its `after` lists resolved by the caller).
    Compiled(const Inventory& inventory, const std::vector<std::vector<uint32_t>>& after,
             const std::vector<Mode>& mode);

    size_t size() const { return vms_.size(); }
    const CompiledVm& vm(uint32_t i) const { return vms_[i]; }
    uint32_t original(uint32_t i) const { return original_[i]; }
    uint32_t canonical(uint32_t original) const { return canonical_[original]; }
    bool any_after() const { return !before_.empty(); }
    std::span<const uint32_t> before(uint32_t i) const { return slice(before_, before_at_, i); }
    std::span<const uint32_t> behind(uint32_t i) const { return slice(behind_, behind_at_, i); }
    double deadline_s() const { return deadline_s_; }  // infinity when there is none
    double goodput_mib_s() const { return goodput_mib_s_; }

  private:
    static std::span<const uint32_t> slice(const std::vector<uint32_t>& list,
                                           const std::vector<uint32_t>& at, uint32_t i) {
        if (list.empty()) return {};
        return std::span<const uint32_t>(list).subspan(at[i], at[i + 1] - at[i]);
    }
    void link_lists(const std::vector<std::vector<uint32_t>>& after);

    std::vector<CompiledVm> vms_;
    std::vector<uint32_t> original_, canonical_;
    std::vector<uint32_t> before_, before_at_, behind_, behind_at_;
    double deadline_s_ = std::numeric_limits<double>::infinity();
    double goodput_mib_s_ = 0;
};

CompiledVm compile_vm(const VmInput& vm, double goodput_mib_s);
double goodput_mib_s(const Link& link);

}  // namespace evac::planner
