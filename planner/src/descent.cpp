#include "descent.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace evac::planner {
namespace {

constexpr double kLeastGain = 1e-12;   // of the time itself: above rounding, so that searches end
constexpr size_t kGridMax = 32;        // times at which a VM's place is priced
constexpr size_t kFullSearchMax = 64;  // VMs up to which every insertion is tried
constexpr size_t kForwardWindow = 12;
constexpr size_t kBackwardWindow = 5;
constexpr int kGuidedRoundsMax = 40;
constexpr int kIdlePerturbationsMax = 60;       // without a gain; small sets only
constexpr uint64_t kSeed = 0x6576616367770001;  // fixed: the plan is a function of the inventory

}  // namespace

Descent::Descent(Sequencer& sequencer, const Stretch& stretch, std::vector<uint32_t> order)
    : sequencer_(sequencer),
      stretch_(stretch),
      turns_at_start_(sequencer.effort().turns),
      any_after_(sequencer.model().any_after()),
      random_(kSeed),
      order_(std::move(order)),
      at_(sequencer.model().size(), 0),
      start_s_(order_.size() + 1),
      log_price_(order_.size()) {
    play();
}

bool Descent::spent() const {
    const Effort& effort = sequencer_.effort();
    return effort.cut || effort.turns - turns_at_start_ >= stretch_.turns_max;
}

void Descent::play() {
    const Compiled& model = sequencer_.model();
    double now = stretch_.start_s;
    std::vector<double>& slope = log_price_;
    for (size_t p = 0; p < order_.size(); ++p) {
        const uint32_t vm = order_[p];
        at_[vm] = static_cast<uint32_t>(p);
        start_s_[p] = now;
        const Turn turn = play_turn(model.vm(vm), now, sequencer_.passes_max()[vm]);
        slope[p] = std::log1p(std::min(turn.slope, 1e12));
        now = std::min(now + turn.link_s, kTimeMaxS);
    }
    start_s_.back() = now;
    sequencer_.effort().charge(order_.size());
    double later = 0;  // suffix sums, in place
    for (size_t p = order_.size(); p-- > 0;) {
        const double own = log_price_[p];
        log_price_[p] = later;
        later += own;
    }
}

// Takes `order` if it ends sooner and keeps the due time.
bool Descent::accept(std::vector<uint32_t> order) {
    const double old_end = start_s_.back();
    if (!sequencer_.on_time(order, stretch_.start_s, stretch_.due_s)) return false;
    if (sequencer_.end_of(order, stretch_.start_s) >= old_end * (1 - kLeastGain)) return false;
    order_ = std::move(order);
    play();
    return true;
}

void Descent::run() {
    const size_t n = order_.size();
    const bool small = n <= kFullSearchMax;
    grid_s_.clear();
    bool guided = !small;
    for (int round = 0; guided && round < kGuidedRoundsMax && !spent(); ++round) {
        guided = guided_round();
    }
    const size_t forward = small ? n : kForwardWindow;
    const size_t backward = small ? n : kBackwardWindow;
    while (!spent() && sweep(forward, backward, small ? 0 : 0.002) > kLeastGain) {
    }
    if (!small) {
        // Long moves at random for what effort is left: each costs twice its length.
        const double share = std::min(1.0, 400.0 / static_cast<double>(n));
        while (!spent()) sweep(2, 1, share);
        return;
    }
    std::vector<uint32_t> best = order_;
    double best_end = start_s_.back();
    for (int idle = 0; idle < kIdlePerturbationsMax && !spent(); ++idle) {
        perturb();
        while (!spent() && sweep(forward, backward, 0) > kLeastGain) {
        }
        if (start_s_.back() < best_end * (1 - kLeastGain)) {
            best = order_;
            best_end = start_s_.back();
            idle = 0;
        } else {
            order_ = best;
            play();
        }
    }
    order_ = best;
    play();
}

void Descent::fill_wishes() {
    const size_t n = order_.size();
    const size_t grid = std::min(kGridMax, n);
    members_ = order_;
    grid_s_.resize(grid);
    grid_link_.resize(n * grid);
    for (size_t g = 0; g < grid; ++g)
        grid_s_[g] = start_s_[(n - 1) * g / std::max<size_t>(1, grid - 1)];
    for (size_t row = 0; row < n; ++row) {
        for (size_t g = 0; g < grid; ++g) {
            grid_link_[row * grid + g] = link(members_[row], grid_s_[g]);
        }
    }
    sequencer_.effort().charge(n * grid);
}

bool Descent::guided_round() {
    if (grid_s_.empty()) fill_wishes();
    const size_t n = order_.size();
    const size_t grid = grid_s_.size();
    std::vector<size_t> grid_at(grid);
    for (size_t g = 0; g < grid; ++g) {
        const auto it = std::upper_bound(start_s_.begin(), start_s_.end() - 1, grid_s_[g]);
        grid_at[g] = static_cast<size_t>(it - start_s_.begin()) - (it == start_s_.begin() ? 0 : 1);
    }
    struct Wish {
        double gain;
        uint32_t vm;
        double key;
    };
    std::vector<Wish> wishes;
    for (size_t row = 0; row < n; ++row) {
        const uint32_t vm = members_[row];
        const size_t p = at_[vm];
        const double now = std::exp(log_price_[p]) * (start_s_[p + 1] - start_s_[p]);
        Wish wish{0, vm, 0};
        for (size_t g = 0; g < grid; ++g) {
            const double there = std::exp(log_price_[grid_at[g]]) * grid_link_[row * grid + g];
            if (now - there <= wish.gain) continue;
            wish.gain = now - there;
            // Within a grid step the old order is kept, so that equal wishes do not shuffle.
            wish.key =
                static_cast<double>(grid_at[g]) + static_cast<double>(p) / static_cast<double>(n);
        }
        if (wish.gain > 0) wishes.push_back(wish);
    }
    std::sort(wishes.begin(), wishes.end(), [](const Wish& a, const Wish& b) {
        return a.gain != b.gain ? a.gain > b.gain : a.vm < b.vm;
    });
    std::vector<double> key(sequencer_.model().size(), 0);
    for (size_t count = wishes.size(); count > 0 && !spent(); count /= 2) {
        for (size_t p = 0; p < n; ++p) key[order_[p]] = static_cast<double>(p);
        for (size_t w = 0; w < count; ++w) key[wishes[w].vm] = wishes[w].key;
        if (accept(sequencer_.legal_order(order_, key))) return true;
    }
    return false;
}

// The last position that order_[i] may move to: before the first VM that waits for it.
size_t Descent::forward_limit(size_t i, size_t window) const {
    size_t limit = std::min(order_.size() - 1, i + window);
    if (!any_after_) return limit;
    for (const uint32_t next : sequencer_.model().behind(order_[i])) {
        const size_t p = at_[next];
        if (p > i && p < order_.size() && order_[p] == next) limit = std::min(limit, p - 1);
    }
    return limit;
}

bool Descent::may_come_forward(size_t k, size_t i) const {
    if (!any_after_) return true;
    for (const uint32_t before : sequencer_.model().before(order_[k])) {
        const size_t p = at_[before];
        if (p >= i && p < k && order_[p] == before) return false;
    }
    return true;
}

void Descent::rotate(size_t first, size_t middle, size_t last) {
    const auto at = [this](size_t p) { return order_.begin() + static_cast<std::ptrdiff_t>(p); };
    std::rotate(at(first), at(middle), at(last));
    for (size_t p = first; p < last; ++p) at_[order_[p]] = static_cast<uint32_t>(p);
}

// order_[i] moved behind each of the next `window`, the best taken. start_s_[i] must be exact.
bool Descent::try_forward(size_t i, size_t window) {
    const uint32_t vm = order_[i];
    const size_t limit = forward_limit(i, window);
    double without = start_s_[i];
    double base = start_s_[i] + link(vm, start_s_[i]);
    double best_gain = 0;
    size_t best = i;
    for (size_t k = i + 1; k <= limit; ++k) {
        without += link(order_[k], without);
        base += link(order_[k], base);
        const double end = without + link(vm, without);
        sequencer_.effort().charge(3);
        if (late(vm, end)) break;
        // Judged by what it is worth at the end of the sequence, in units of a gain here.
        const double gain = (base - end) * std::exp(log_price_[k] - log_price_[i]);
        if (end < base * (1 - kLeastGain) && gain > best_gain) {
            best_gain = gain;
            best = k;
        }
    }
    if (best == i) return false;
    rotate(i, i + 1, best + 1);
    return true;
}

// One of the next `window` moved to i, the first that gains.
bool Descent::try_backward(size_t i, size_t window) {
    const size_t limit = std::min(order_.size() - 1, i + window);
    double base = start_s_[i] + link(order_[i], start_s_[i]);
    for (size_t k = i + 1; k <= limit; ++k) {
        base += link(order_[k], base);
        sequencer_.effort().charge(k - i + 2);
        if (!may_come_forward(k, i)) continue;
        double end = start_s_[i] + link(order_[k], start_s_[i]);
        bool ok = true;
        for (size_t p = i; p < k && ok; ++p) {
            end += link(order_[p], end);
            ok = end < base && !late(order_[p], end);
        }
        if (!ok || end >= base * (1 - kLeastGain)) continue;
        rotate(i, k, k + 1);
        return true;
    }
    return false;
}

// One move of random length (each scale as likely), one way or the other.
bool Descent::try_long(size_t i) {
    const size_t room = order_.size() - 1 - i;
    if (room < 2) return false;
    const double scale = std::exp(random_.unit() * std::log(static_cast<double>(room)));
    const size_t k = i + std::max<size_t>(1, static_cast<size_t>(scale));
    const bool forward = random_.chance(0.5);
    if (forward ? forward_limit(i, k - i) < k : !may_come_forward(k, i)) return false;
    double base = start_s_[i];
    double end = start_s_[i];
    if (!forward) {
        end += link(order_[k], end);
        if (late(order_[k], end)) return false;
    }
    const size_t first = forward ? i + 1 : i;
    const size_t last = forward ? k : k - 1;
    for (size_t p = i; p <= k; ++p) base += link(order_[p], base);
    bool on_time = true;
    for (size_t p = first; p <= last && on_time; ++p) {
        end += link(order_[p], end);
        on_time = !late(order_[p], end);
    }
    if (forward) {
        end += link(order_[i], end);
        on_time = on_time && !late(order_[i], end);
    }
    sequencer_.effort().charge(2 * (k - i + 1));
    if (!on_time || end >= base * (1 - kLeastGain)) return false;
    if (forward)
        rotate(i, i + 1, k + 1);
    else
        rotate(i, k, k + 1);
    return true;
}

// One pass from left to right; returns the relative gain.
double Descent::sweep(size_t forward, size_t backward, double long_share) {
    const double old_end = start_s_.back();
    const size_t n = order_.size();
    for (size_t i = 0; i + 1 < n; ++i) {
        if (spent()) break;
        try_forward(i, forward);
        try_backward(i, backward);
        if (long_share > 0 && random_.chance(long_share)) try_long(i);
        start_s_[i + 1] = start_s_[i] + link(order_[i], start_s_[i]);
    }
    play();
    return old_end > 0 ? (old_end - start_s_.back()) / old_end : 0;
}

// A few legal exchanges of neighbours at a distance, to leave a local optimum.
void Descent::perturb() {
    const size_t n = order_.size();
    for (int move = 0; move < 3; ++move) {
        const auto i = static_cast<size_t>(random_.below(n));
        const auto k = static_cast<size_t>(random_.below(n));
        std::vector<uint32_t> before = order_;
        if (i < k && forward_limit(i, k - i) >= k) rotate(i, i + 1, k + 1);
        if (k < i && may_come_forward(i, k)) rotate(k, i, i + 1);
        if (!sequencer_.on_time(order_, stretch_.start_s, stretch_.due_s)) {
            order_ = std::move(before);
            for (size_t p = 0; p < n; ++p) at_[order_[p]] = static_cast<uint32_t>(p);
        }
    }
    play();
}

}  // namespace evac::planner
