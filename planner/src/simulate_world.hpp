#pragma once
// What chance does to a site in one seed. Every draw depends on the seed, its purpose and the VM's
// index only, so that all policies meet the same world.
#include <vector>

#include "evac/core/random.hpp"
#include "evac/planner/simulate.hpp"

namespace evac::planner::sim {

struct Loss {
    double at_s = 0;
    bool site = false;
    std::vector<VmIndex> vms;  // where it is not the whole site
};

// The factors by which the planner's view of one guest is wrong.
struct Misjudged {
    double unstaged = 1, dirty = 1, wire_ratio = 1;
};

class World {
  public:
    World(const Inventory& inventory, const Scenario& scenario, uint64_t seed);

    // The guest's own time: how long it would have written at factor 1. t must not go back.
    double activity_s(VmIndex vm, double t);
    double factor(VmIndex vm) const {
        return phases_.empty() ? 1 : phases_[vm].factor;
    }  // as of the last activity_s

    // The share of the first pass after which this turn (0, 1) fails; 1 or more: it does not.
    double fails_after(VmIndex vm, int turn) const;
    double recovery_age_s(VmIndex vm, double t) const;
    const std::vector<Loss>& losses() const { return losses_; }
    Misjudged misjudged(VmIndex vm) const;
    double misjudged_goodput() const;

  private:
    enum class Purpose : uint64_t { phase = 1, turn, power, host, recovery, measure, goodput };
    Random stream(Purpose purpose, uint64_t index) const;
    void draw_losses(const Inventory& inventory);

    struct Phase {
        Random random;
        double at_s = 0, activity_s = 0, factor = 1, until_s = 0;
        size_t changes = 0;
    };
    const Scenario& scenario_;
    uint64_t seed_;
    std::vector<Phase> phases_;  // empty: none
    std::vector<Loss> losses_;
};

// Distinct MiB that the guest writes in this much of its own time (model.hpp's dirty()).
double dirty_mib(const VmInput& vm, double activity_s);

}  // namespace evac::planner::sim
