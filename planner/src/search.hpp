#pragma once
// Joins the parts of the search: order, who is saved, modes, exact solution of small cases. All VMs
// here are canonical numbers.
#include <optional>
#include <vector>

#include "evac/planner/solve.hpp"
#include "sequence.hpp"

namespace evac::planner {

struct SearchInput {
    std::vector<uint32_t> going;   // all that are not abandoned by force
    std::vector<int> passes_max;   // by VM: kLivePassesMax or 0 (freeze)
    std::vector<bool> may_freeze;  // by VM: the search may set passes_max to 0
    uint64_t turns_max = 0;
    bool exact_small = true;
};

struct Arrangement {
    std::vector<uint32_t> order;  // those that go
    std::vector<int> passes_max;
    bool exact = false;
    std::optional<double> least_makespan_s;  // of these VMs in these modes, proved, deadline aside
};

struct Score {
    double weight = 0;
    double makespan_s = 0;
    double downtime_s = 0;
};
// By the objectives in their order; differences within rounding are none.
bool better(const Score& a, const Score& b);

Arrangement search(const Compiled& model, const SearchInput& input, Effort& effort);

// By VM, holds included; 0 for those not in `order`.
std::vector<double> away_times(const Compiled& model, std::span<const uint32_t> order,
                               std::span<const int> passes_max);

std::vector<double> policy_keys(Sequencer& sequencer, std::span<const uint32_t> members,
                                Policy policy);

}  // namespace evac::planner
