#include "relaxation.hpp"

#include <algorithm>
#include <cmath>

namespace evac::planner {
namespace {

constexpr size_t kNodes = 56;
constexpr double kNodesBend = 3;
constexpr int kJumpSteps = 14;
constexpr double kRounding = 1e-9;
constexpr double kLogPriceMax = 50;
constexpr size_t kSampleMax = 600;  // VMs that the Newton steps look at
constexpr double kHeatFirst = 0.04, kHeatLast = 0.0006, kCooling = 0.5;
constexpr int kStepsPerHeat = 3;
constexpr double kSlack = 0.02;  // first drop of pi over all nodes, to start inside the barrier
constexpr double kLeastExponent = -30;

}  // namespace

Relaxation::Relaxation(const Sequencer& sequencer, std::span<const uint32_t> order,
                       double horizon_s)
    : horizon_s_(horizon_s), rows_(order.size()), pi_(kNodes, 1.0) {
    for (size_t g = 0; g < kNodes; ++g) {
        const double x = static_cast<double>(g) / static_cast<double>(kNodes - 1);
        node_s_.push_back(horizon_s * std::pow(x, kNodesBend));
    }
    link_.resize(rows_ * kNodes);
    for (size_t row = 0; row < rows_; ++row) {
        first_candidate_.push_back(candidates_.size());
        const uint32_t vm = order[row];
        fill_row(row, sequencer.model().vm(vm), sequencer.passes_max()[vm]);
    }
    first_candidate_.push_back(candidates_.size());
    keep_if_better();
    // Where passes are added, the slopes are those of single jumps and too high on average.
    first_prices(sequencer, order);
    const std::vector<double> full = pi_;
    for (double power = 1; power > 0.05; power *= 0.7) {
        for (size_t g = 0; g < kNodes; ++g) pi_[g] = std::pow(full[g], power);
        keep_if_better();
    }
}

void Relaxation::keep_if_better() {
    const double value = evaluate();
    if (!best_pi_.empty() && value <= best_) return;
    best_ = value;
    best_pi_ = pi_;
}

void Relaxation::fill_row(size_t row, const CompiledVm& vm, int passes_max) {
    double* link = &link_[row * nodes()];
    const double least = turn_link_s(vm, 0, passes_max);
    for (size_t g = 0; g < nodes(); ++g) {
        const double end = node_s_[g];
        const auto after = [&](double link_s) {
            return turn_link_s(vm, std::max(0.0, end - link_s), passes_max);
        };
        link[g] = least;
        if (end <= least) continue;
        link[g] = after(after(0));
        // One more pair of steps where the growth within one turn shows.
        if (link[g] > 1e-3 * end) link[g] = after(after(link[g]));
    }
    for (size_t g = nodes() - 1; g-- > 0;) link[g] = std::min(link[g], link[g + 1]);
    add_candidate(least, least);
    const auto passes = [&](double s) { return play_turn(vm, s, passes_max).live_passes; };
    const int last = passes(horizon_s_);
    double from = 0;
    for (int level = passes(0); level < last; ++level) {
        double lo = from, hi = horizon_s_;  // passes(lo) <= level < passes(hi)
        for (int step = 0; step < kJumpSteps; ++step) {
            const double middle = lo + (hi - lo) / 2;
            (passes(middle) <= level ? lo : hi) = middle;
        }
        add_candidate(turn_link_s(vm, lo, passes_max), hi + turn_link_exact_passes(vm, hi, level));
        from = lo;
    }
}

void Relaxation::add_candidate(double link_s, double end_s) {
    const auto above = std::upper_bound(node_s_.begin() + 1, node_s_.end() - 1, end_s);
    const auto node = static_cast<size_t>(above - node_s_.begin()) - 1;
    const double share = (end_s - node_s_[node]) / (node_s_[node + 1] - node_s_[node]);
    candidates_.push_back({node, std::clamp(share, 0.0, 1.0), link_s});
}

void Relaxation::first_prices(const Sequencer& sequencer, std::span<const uint32_t> order) {
    std::vector<double> end(order.size()), growth(order.size());
    double now = 0;
    for (size_t p = 0; p < order.size(); ++p) {
        const uint32_t vm = order[p];
        const Turn turn = play_turn(sequencer.model().vm(vm), now, sequencer.passes_max()[vm]);
        growth[p] = std::log1p(std::min(turn.slope, 1e12));
        now += turn.link_s;
        end[p] = now;
    }
    double later = 0;
    size_t p = order.size();
    for (size_t g = nodes(); g-- > 0;) {
        while (p > 0 && end[p - 1] > node_s_[g]) later += growth[--p];
        pi_[g] = std::exp(std::min(later, kLogPriceMax));
    }
    pi_.back() = 1;
}

double Relaxation::capacity() const {
    double sum = 0;
    for (size_t g = 0; g + 1 < nodes(); ++g) {
        sum += (pi_[g] + pi_[g + 1] - 2) / 2 * (node_s_[g + 1] - node_s_[g]);
    }
    return sum;
}

double Relaxation::evaluate() const {
    double sum = 0;
    for (size_t row = 0; row < rows_; ++row) {
        const double* link = &link_[row * nodes()];
        double least = link[0] * pi_[0];
        for (size_t g = 1; g < nodes(); ++g) least = std::min(least, link[g] * pi_[g]);
        for (const Candidate& c : candidates(row)) least = std::min(least, c.link_s * price(c));
        sum += least;
    }
    const double busy = capacity();
    return sum - busy - kRounding * (sum + busy);
}

// min x is replaced by -w log sum exp(-x / w), w = heat * min x. `share`: the weights of the nodes,
// then of the candidates.
double Relaxation::smooth_minimum(size_t row, double heat, std::vector<double>& share) const {
    const double* link = &link_[row * nodes()];
    share.resize(nodes());
    for (size_t g = 0; g < nodes(); ++g) share[g] = link[g] * pi_[g];
    for (const Candidate& c : candidates(row)) share.push_back(c.link_s * price(c));
    const double least = *std::min_element(share.begin(), share.end());
    const double width = heat * least;
    if (!(width > 0)) {
        std::fill(share.begin(), share.end(), 0.0);
        return 0;
    }
    double sum = 0;
    for (double& value : share) {
        const double x = (least - value) / width;
        value = x < kLeastExponent ? 0 : std::exp(x);
        sum += value;
    }
    for (double& value : share) value /= sum;
    return least - width * std::log(sum);
}

// With the barrier, for the sample scaled up to all.
double Relaxation::smooth_value(std::span<const size_t> rows, double heat) const {
    std::vector<double> share;
    double sum = 0;
    for (const size_t row : rows) sum += smooth_minimum(row, heat, share);
    sum *= static_cast<double>(rows_) / static_cast<double>(rows.size());
    const double barrier = heat * horizon_s_ / static_cast<double>(nodes());
    for (size_t g = 0; g + 1 < nodes(); ++g) sum += barrier * std::log(pi_[g] - pi_[g + 1]);
    return sum - capacity();
}

// Of all prices but the last, which is 1. The Hessian is negated; its lower half.
struct Relaxation::Newton {
    explicit Newton(size_t count) : size(count), gradient(count), hessian(count * count) {}

    void add(size_t i, size_t k, double value) {
        if (i < size && k < size) hessian[i * size + k] += value;
    }
    // Replaces the gradient by the step; the Hessian by its Cholesky factor.
    void solve() {
        for (size_t i = 0; i < size; ++i) {
            const double floor = 1e-10 * hessian[i * size + i] + 1e-300;
            for (size_t k = 0; k <= i; ++k) {
                double sum = hessian[i * size + k];
                for (size_t m = 0; m < k; ++m) sum -= hessian[i * size + m] * hessian[k * size + m];
                hessian[i * size + k] =
                    i == k ? std::sqrt(std::max(sum, floor)) : sum / hessian[k * size + k];
            }
        }
        for (size_t i = 0; i < size; ++i) {
            for (size_t m = 0; m < i; ++m) gradient[i] -= hessian[i * size + m] * gradient[m];
            gradient[i] /= hessian[i * size + i];
        }
        for (size_t i = size; i-- > 0;) {
            for (size_t m = i + 1; m < size; ++m)
                gradient[i] -= hessian[m * size + i] * gradient[m];
            gradient[i] /= hessian[i * size + i];
        }
    }

    size_t size;
    std::vector<double> gradient, hessian;
};

double Relaxation::differentiate(std::span<const size_t> rows, double heat, Newton& at) const {
    const double scale = static_cast<double>(rows_) / static_cast<double>(rows.size());
    std::vector<double> share, work(nodes());
    double sum = 0;
    for (const size_t row : rows) {
        const double value = smooth_minimum(row, heat, share);
        sum += scale * value;
        if (!(value > 0)) continue;
        const double* link = &link_[row * nodes()];
        const double factor = scale / (heat * value);
        for (size_t g = 0; g < nodes(); ++g) {
            work[g] = share[g] * link[g];
            at.add(g, g, factor * work[g] * link[g]);
        }
        size_t next = nodes();
        for (const Candidate& c : candidates(row)) {
            const double x = share[next++] * c.link_s;
            const double left = 1 - c.share, right = c.share;
            work[c.node] += left * x;
            work[c.node + 1] += right * x;
            at.add(c.node, c.node, factor * x * c.link_s * left * left);
            at.add(c.node + 1, c.node + 1, factor * x * c.link_s * right * right);
            at.add(c.node + 1, c.node, factor * x * c.link_s * left * right);
        }
        for (size_t g = 0; g < at.size; ++g) {
            if (work[g] == 0) continue;
            at.gradient[g] += scale * work[g];
            for (size_t k = 0; k <= g; ++k) at.add(g, k, -factor * work[g] * work[k]);
        }
    }
    const double barrier = heat * horizon_s_ / static_cast<double>(nodes());
    for (size_t g = 0; g < at.size; ++g) {
        const double drop = pi_[g] - pi_[g + 1];
        const double width = node_s_[g + 1] - (g == 0 ? 0 : node_s_[g - 1]);
        at.gradient[g] += barrier / drop - width / 2;
        if (g + 1 < at.size) at.gradient[g + 1] -= barrier / drop;
        at.add(g, g, barrier / (drop * drop));
        at.add(g + 1, g + 1, barrier / (drop * drop));
        at.add(g + 1, g, -barrier / (drop * drop));
        sum += barrier * std::log(drop);
    }
    return sum - capacity();
}

bool Relaxation::smooth_step(std::span<const size_t> rows, double heat) {
    Newton at(nodes() - 1);
    const double before = differentiate(rows, heat, at);
    at.solve();
    const std::vector<double> old = pi_;
    double longest = 1;  // prices must fall
    for (size_t g = 0; g < at.size; ++g) {
        const double closing = (g + 1 < at.size ? at.gradient[g + 1] : 0) - at.gradient[g];
        const double drop = old[g] - old[g + 1];
        if (closing * longest > 0.95 * drop) longest = 0.95 * drop / closing;
    }
    for (double length = longest; length > 0.01 * longest; length *= 0.4) {
        bool falls = true;
        for (size_t g = 0; g < at.size; ++g) pi_[g] = old[g] + length * at.gradient[g];
        for (size_t g = 0; g < at.size; ++g) falls = falls && pi_[g] > pi_[g + 1];
        if (falls && smooth_value(rows, heat) > before) return true;
    }
    pi_ = old;
    return false;
}

void Relaxation::improve(double target_s, double enough) {
    std::vector<size_t> rows;
    const size_t stride = (rows_ + kSampleMax - 1) / kSampleMax;
    for (size_t row = stride / 2; row < rows_; row += stride) rows.push_back(row);
    if (rows.empty()) return;
    pi_ = best_pi_;
    for (size_t g = 0; g < nodes(); ++g) {
        pi_[g] += kSlack * static_cast<double>(nodes() - 1 - g) / static_cast<double>(nodes() - 1);
    }
    for (double heat = kHeatFirst; heat > kHeatLast; heat *= kCooling) {
        if (best_ >= target_s * (1 - enough)) return;
        for (int step = 0; step < kStepsPerHeat && smooth_step(rows, heat); ++step) {
        }
        keep_if_better();
    }
}

}  // namespace evac::planner
