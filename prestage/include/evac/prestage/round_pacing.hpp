#pragma once
// Which VM's round runs next on this host, of which kind, and when to ask again. No clock and no
// I/O: the caller brings what was measured, a simulation brings virtual time.
//
// Order:
//   1. VMs without any copy, by priority.
//   2. By urgency: a recovery point of age a is replaced by a pass that takes `seal_s`, and what it
//      found by `drain_s` more, so the pass begins at rpo_target_s less these. Passes of several
//      VMs that fall together begin earlier: with demand(h) = the work that must begin within h
//      seconds, repeats included, the host starts when for some VM h - demand(h) <= 0. Earliest
//      first.
//   3. What did not fit into the queue the last time (large first copies go so), when three
//      quarters of the queue are free.
//   4. By worth: what a pass takes off an evacuation per second of host work,
//        priority (dirty(t + p) - dirty(p)) / cpu,   t = age of the copy, p = duration of a pass,
//      while the link has next to nothing to send (more would only pile up), while it makes nobody
//      late, and while guests stand still for at most kPauseShare. A guest that writes nothing is
//      worth nothing: it is visited as its target asks, no more. A set that is rewritten within one
//      pass is worth nothing either.
// A VM whose guest can be read without a pause (mapped) is refreshed in class 4 and sealed in
// class 2.
//
// Where not all targets can be kept (work per second above kLoadMax), each is stretched by
// 1 + x / weight with the least x that fits; weight = priority relative to the least, at most
// kShareRatioMax. So misses are shared by priority, and nobody waits more than kShareRatioMax times
// as long as another beyond his target.
//
// CPU share: rounds cost CPU seconds (measured, and charged in advance by what the last ones took);
// the host earns `cpu_share` of them per second and saves at most kSavedCpuS. No round begins
// without credit.
//
// Owner: one thread. Costs O(n log n) per question that may be answered with a VM; memory
// O(n).
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "evac/core/ids.hpp"
#include "evac/core/units.hpp"
#include "evac/prestage/dirty_model.hpp"

namespace evac::prestage {

inline constexpr double kShareRatioMax = 8;  // what priority can buy when there is too little

// 1 for the least priority there is, at most kShareRatioMax.
double share_weight(double priority, double least_priority);

// Of something measured again and again: the mean, and how far above it measurements lie (as TCP
// estimates round trips; but what is shorter than expected makes nothing uncertain).
class Estimate {
  public:
    void add(double value);
    bool known() const { return known_; }
    double typical() const { return mean_; }
    double safe() const { return mean_ + 3 * excess_; }

  private:
    bool known_ = false;
    double mean_ = 0, excess_ = 0;
};

enum class RoundKind : uint8_t { seal, refresh };
const char* to_string(RoundKind kind);

struct PacedVm {
    VmId vm{};
    double priority = 1;
    double rpo_target_s = 30;
    double point_age_s = -1;  // of the recovery point at away; < 0 = none
    double pass_age_s = -1;   // since its newest pass began; < 0 = none in this process
    bool ready = false;       // a pass may begin: none runs, no seal is awaited
    bool last_incomplete = false;
    bool can_refresh = false;
    bool measured = false;  // `dirty` is known
    std::vector<DirtyTerm> dirty;
    double seal_s = 0;     // duration of a sealing pass; 0 = not known
    double refresh_s = 0;  // of a refreshing one
    double drain_s = 0;    // from the end of a pass to away's word that it is sealed
    double cpu_s = 0;      // of this host for one pass; 0 = not known
    double pause_s = 0;    // of the guest in a sealing pass
    double wire_ratio = 1;
};

struct PacingLimits {
    double cpu_share = 0.5;  // of one core
    uint32_t rounds_at_once = 1;
    double interval_s = 5;  // passes of one VM begin at least so far apart
};

struct PacingNow {
    uint64_t now_ns = 0;
    double link_bytes_per_s = 0;     // 0 = not known
    uint64_t waiting_bytes = 0;      // content in all queues
    uint64_t queue_bytes = 0;        // room of all queues, used and free
    double wire_ratio = 1;           // of what waits
    bool first_copies_only = false;  // an evacuation runs
};

struct NextRound {
    std::optional<VmId> vm;
    RoundKind kind = RoundKind::seal;
    uint64_t ask_again_ns = 0;  // nothing comes of asking earlier, unless a VM's state changes
};

class RoundPacing {
  public:
    static constexpr double kLoadMax = 0.9;
    static constexpr double kSavedCpuS = 0.25;
    static constexpr double kFirstCopyCpuShare = 0.8;  // at least, while a VM has no copy
    static constexpr double kPauseShare = 0.005;       // for passes by worth
    static constexpr double kWorthMinMib = 0.25;
    static constexpr double kBacklogS = 1;  // of link time: below, passes by worth go on
    static constexpr double kAskAgainMaxS = 1;

    explicit RoundPacing(const PacingLimits& limits) : limits_(limits) {}

    NextRound next(const std::vector<PacedVm>& vms, const PacingNow& now);
    // The caller began what next() named; `expected_cpu_s` 0 = not known.
    void started(VmId vm, double expected_cpu_s);
    void finished(VmId vm, double cpu_s);
    uint32_t running() const { return static_cast<uint32_t>(charged_.size()); }

    // 1 = all targets can be kept; else what the target of a VM of weight 1 is stretched by.
    double stretch() const { return 1 + stretch_x_; }

  private:
    struct Due {
        const PacedVm* vm;
        double start_by_s;  // from now
        double interval_s;
        double work_s;  // of the host's capacity
    };
    void earn(uint64_t now_ns, double share);
    double share_of(const std::vector<PacedVm>& vms) const;
    double work_s(const PacedVm& vm, double share) const;
    double interval_s(const PacedVm& vm, double x) const;
    double load(const std::vector<PacedVm>& vms, double x, double share) const;
    void fit_stretch(const std::vector<PacedVm>& vms, const PacingNow& now, double share);
    std::vector<Due> by_urgency(const std::vector<PacedVm>& vms, const PacingNow& now,
                                double share) const;
    bool may_begin(const PacedVm& vm, const PacingNow& now) const;
    bool fits(const PacedVm& vm, const PacingNow& now) const;
    const PacedVm* first_copy(const std::vector<PacedVm>& vms) const;
    const PacedVm* best_worth(const std::vector<PacedVm>& vms, const PacingNow& now, double slack_s,
                              double share) const;
    RoundKind elective_kind(const PacedVm& vm) const;

    const PacingLimits limits_;
    std::map<VmId, double> charged_;  // of rounds that run, in advance
    double credit_s_ = kSavedCpuS;
    uint64_t earned_ns_ = 0;
    double stretch_x_ = 0;
    uint64_t stretch_ns_ = 0;
    double least_priority_ = 1;
};

}  // namespace evac::prestage
