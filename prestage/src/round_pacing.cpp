#include "evac/prestage/round_pacing.hpp"

#include <algorithm>
#include <cmath>

namespace evac::prestage {
namespace {

constexpr double kUnknownS = 1;      // duration of a pass that was never measured
constexpr double kTaskMinS = 0.001;  // no pass is free
constexpr double kMarginS = 0.5;     // ticks, messages, a pass by worth that has just begun
constexpr double kStretchMax = 1e6;
constexpr uint64_t kStretchNs = kNsPerSecond;  // between fits
constexpr double kGuessMibS = 1;               // written by a guest that was not measured yet
constexpr double kAskAgainMinS = 0.05;
constexpr double kQueueShareToRetry = 0.25;
constexpr double kEstimateGain = 0.25;
constexpr double kExcessGain = 0.25;

double dirty_of(const PacedVm& vm, double seconds) {
    return vm.measured ? dirty_mib(vm.dirty, seconds) : kGuessMibS * seconds;
}

double seal_s(const PacedVm& vm) {
    return vm.seal_s > 0 ? vm.seal_s : kUnknownS;
}

double pass_age(const PacedVm& vm) {
    return vm.pass_age_s >= 0 ? vm.pass_age_s : std::max(vm.point_age_s, 0.0);
}

// Of the point that away has, or will have when what is under way is sealed.
double point_age(const PacedVm& vm) {
    const bool under_way = !vm.ready && vm.pass_age_s >= 0 && !vm.last_incomplete;
    return under_way || vm.point_age_s < 0 ? pass_age(vm) : vm.point_age_s;
}

bool never_tried(const PacedVm& vm) {
    return vm.point_age_s < 0 && vm.pass_age_s < 0;
}

}  // namespace

double share_weight(double priority, double least_priority) {
    return std::clamp(priority / std::max(least_priority, 1e-9), 1.0, kShareRatioMax);
}

const char* to_string(RoundKind kind) {
    return kind == RoundKind::seal ? "seal" : "refresh";
}

void Estimate::add(double value) {
    if (!std::isfinite(value) || value < 0) return;
    if (!known_) {
        known_ = true;
        mean_ = value;
        excess_ = value / 8;
        return;
    }
    excess_ += kExcessGain * (std::max(value - mean_, 0.0) - excess_);
    mean_ += kEstimateGain * (value - mean_);
}

// --- CPU share

void RoundPacing::earn(uint64_t now_ns, double share) {
    if (earned_ns_ == 0) earned_ns_ = now_ns;
    const double seconds = static_cast<double>(now_ns - std::min(earned_ns_, now_ns)) /
                           static_cast<double>(kNsPerSecond);
    earned_ns_ = std::max(earned_ns_, now_ns);
    credit_s_ = std::min(credit_s_ + seconds * share, kSavedCpuS);
}

double RoundPacing::share_of(const std::vector<PacedVm>& vms) const {
    const bool first =
        std::any_of(vms.begin(), vms.end(), [](const PacedVm& vm) { return vm.point_age_s < 0; });
    return first ? std::max(kFirstCopyCpuShare, limits_.cpu_share) : limits_.cpu_share;
}

void RoundPacing::started(VmId vm, double expected_cpu_s) {
    charged_[vm] = expected_cpu_s;
    credit_s_ -= expected_cpu_s;
}

void RoundPacing::finished(VmId vm, double cpu_s) {
    const auto found = charged_.find(vm);
    if (found == charged_.end()) return;
    credit_s_ += found->second - cpu_s;
    charged_.erase(found);
}

// --- urgency

// Seconds of the host's capacity that a sealing pass takes: of CPU credit, or of a worker.
double RoundPacing::work_s(const PacedVm& vm, double share) const {
    const double cpu_s = vm.cpu_s > 0 ? vm.cpu_s : seal_s(vm);
    return std::max({cpu_s / share, seal_s(vm) / limits_.rounds_at_once, kTaskMinS});
}

// Between the beginnings of two passes, so that the older point is never older than the target
// when the newer one is sealed.
double RoundPacing::interval_s(const PacedVm& vm, double x) const {
    const double target_s = vm.rpo_target_s * (1 + x / share_weight(vm.priority, least_priority_));
    const double least_s = std::max(limits_.interval_s, seal_s(vm) + vm.drain_s);
    return std::max(target_s - seal_s(vm) - vm.drain_s - kMarginS, least_s);
}

double RoundPacing::load(const std::vector<PacedVm>& vms, double x, double share) const {
    double sum = 0;
    for (const PacedVm& vm : vms) sum += work_s(vm, share) / interval_s(vm, x);
    return sum;
}

void RoundPacing::fit_stretch(const std::vector<PacedVm>& vms, const PacingNow& now, double share) {
    if (stretch_ns_ != 0 && now.now_ns - stretch_ns_ < kStretchNs) return;
    stretch_ns_ = now.now_ns;
    least_priority_ = INFINITY;
    for (const PacedVm& vm : vms) least_priority_ = std::min(least_priority_, vm.priority);
    stretch_x_ = 0;
    if (load(vms, 0, share) <= kLoadMax) return;
    double low = 0, high = 1;
    while (high < kStretchMax && load(vms, high, share) > kLoadMax) high *= 4;
    for (int i = 0; i < 20; ++i) {
        const double middle = (low + high) / 2;
        (load(vms, middle, share) > kLoadMax ? low : high) = middle;
    }
    stretch_x_ = high;
}

std::vector<RoundPacing::Due> RoundPacing::by_urgency(const std::vector<PacedVm>& vms,
                                                      const PacingNow& now, double share) const {
    std::vector<Due> due;
    due.reserve(vms.size());
    for (const PacedVm& vm : vms) {
        if (never_tried(vm)) continue;
        const double every_s = interval_s(vm, stretch_x_);
        double start_by_s = every_s - point_age(vm);
        // What cannot begin now hurries nobody.
        if (!may_begin(vm, now)) start_by_s = std::max(start_by_s, kMarginS);
        due.push_back({&vm, start_by_s, every_s, work_s(vm, share)});
    }
    std::sort(due.begin(), due.end(),
              [](const Due& a, const Due& b) { return a.start_by_s < b.start_by_s; });
    return due;
}

// A pass whose pages find no room is incomplete and has to be repeated.
bool RoundPacing::fits(const PacedVm& vm, const PacingNow& now) const {
    const double all = static_cast<double>(now.queue_bytes);
    const double used = static_cast<double>(now.waiting_bytes);
    if (all <= 0 || used <= kQueueShareToRetry * all) return true;
    if (vm.last_incomplete || vm.point_age_s < 0) return false;
    const double found = dirty_of(vm, pass_age(vm)) * static_cast<double>(kMiB);
    return found <= all - used;
}

bool RoundPacing::may_begin(const PacedVm& vm, const PacingNow& now) const {
    const bool soon = pass_age(vm) < limits_.interval_s && !vm.last_incomplete;
    return vm.ready && !soon && (vm.point_age_s < 0 || !now.first_copies_only) && fits(vm, now);
}

// --- the choice

const PacedVm* RoundPacing::first_copy(const std::vector<PacedVm>& vms) const {
    const PacedVm* best = nullptr;
    for (const PacedVm& vm : vms) {
        if (!vm.ready || !never_tried(vm)) continue;
        if (best == nullptr || vm.priority > best->priority) best = &vm;
    }
    return best;
}

RoundKind RoundPacing::elective_kind(const PacedVm& vm) const {
    // A refreshing pass so shortly before the point is due would only put the seal off.
    const double due_s = interval_s(vm, stretch_x_) - point_age(vm);
    const bool refresh = vm.can_refresh && vm.point_age_s >= 0 && due_s > 2 * limits_.interval_s;
    return refresh ? RoundKind::refresh : RoundKind::seal;
}

const PacedVm* RoundPacing::best_worth(const std::vector<PacedVm>& vms, const PacingNow& now,
                                       double slack_s, double share) const {
    const double drain_s = now.link_bytes_per_s <= 0 ? 0
                                                     : static_cast<double>(now.waiting_bytes) *
                                                           now.wire_ratio / now.link_bytes_per_s;
    const PacedVm* best = nullptr;
    double best_worth = 0;
    for (const PacedVm& vm : vms) {
        if (!vm.ready || vm.point_age_s < 0 || !fits(vm, now)) continue;
        const RoundKind kind = elective_kind(vm);
        const double takes_s =
            kind == RoundKind::refresh && vm.refresh_s > 0 ? vm.refresh_s : seal_s(vm);
        if (drain_s > std::max(kBacklogS, takes_s) || work_s(vm, share) > slack_s) continue;
        const double age_s = pass_age(vm);
        const double pause_s = kind == RoundKind::seal ? vm.pause_s : 0;
        if (age_s < std::max(limits_.interval_s, pause_s / kPauseShare)) continue;
        const double gain_mib = dirty_of(vm, age_s + takes_s) - dirty_of(vm, takes_s);
        if (gain_mib < kWorthMinMib) continue;
        const double worth =
            vm.priority * gain_mib / std::max(vm.cpu_s > 0 ? vm.cpu_s : takes_s, kTaskMinS);
        if (best != nullptr && worth <= best_worth) continue;
        best = &vm;
        best_worth = worth;
    }
    return best;
}

NextRound RoundPacing::next(const std::vector<PacedVm>& vms, const PacingNow& now) {
    const double share = share_of(vms);
    earn(now.now_ns, share);
    const auto in = [&now](double seconds) {
        const double bounded = std::clamp(seconds, kAskAgainMinS, kAskAgainMaxS);
        return now.now_ns + static_cast<uint64_t>(bounded * static_cast<double>(kNsPerSecond));
    };
    NextRound out;
    out.ask_again_ns = in(kAskAgainMaxS);
    if (vms.empty()) stretch_x_ = 0;
    if (running() >= limits_.rounds_at_once || vms.empty()) return out;
    if (credit_s_ <= 0) {
        out.ask_again_ns = in(-credit_s_ / share);
        return out;
    }
    const auto take = [&out](const PacedVm& vm, RoundKind kind) {
        out.vm = vm.vm;
        out.kind = kind;
        return out;
    };
    if (const PacedVm* vm = first_copy(vms)) return take(*vm, RoundKind::seal);
    fit_stretch(vms, now, share);
    const std::vector<Due> due = by_urgency(vms, now, share);
    // demand(h) = a + r h: what begins within h seconds, each VM's later passes spread evenly.
    double slack_s = INFINITY, a = 0, r = 0;
    for (const Due& d : due) {
        slack_s = std::min(slack_s, d.start_by_s - std::max(0.0, a + r * d.start_by_s));
        a += d.work_s * (1 - d.start_by_s / d.interval_s);
        r += d.work_s / d.interval_s;
    }
    if (slack_s <= 0) {
        for (const Due& d : due) {
            if (may_begin(*d.vm, now)) return take(*d.vm, RoundKind::seal);
        }
    }
    const PacedVm* retry = nullptr;
    for (const Due& d : due) {
        const bool unfinished = d.vm->last_incomplete || d.vm->point_age_s < 0;
        if (unfinished && may_begin(*d.vm, now) &&
            (retry == nullptr || d.vm->priority > retry->priority))
            retry = d.vm;
    }
    if (retry != nullptr) return take(*retry, RoundKind::seal);
    if (!now.first_copies_only) {
        if (const PacedVm* vm = best_worth(vms, now, slack_s, share))
            return take(*vm, elective_kind(*vm));
    }
    if (slack_s > 0) out.ask_again_ns = in(slack_s);
    return out;
}

}  // namespace evac::prestage
