#include "simulate_trace.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace evac::planner::sim {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kMibPerMbit = 1e6 / 8 / 1048576.0;
constexpr int kNewtonSteps = 100;

}  // namespace

double Trace::Piece::rate(double dt) const {
    return decay == 0 ? first : floor + (first - floor) * std::exp(-decay * dt);
}

double Trace::Piece::mib(double dt) const {
    if (decay == 0) return first * dt;
    return floor * dt + (first - floor) * -std::expm1(-decay * dt) / decay;
}

// Newton's method kept inside a bracket: mib() is increasing, and concave or convex.
double Trace::Piece::seconds(double wanted) const {
    if (wanted <= 0) return 0;
    if (decay == 0) return first > 0 ? wanted / first : kNever;
    if (floor == 0 && wanted * decay >= first) return kNever;
    if (floor == 0) return -std::log1p(-wanted * decay / first) / decay;
    double low = 0, high = wanted / std::min(first > 0 ? first : floor, floor);
    if (first == 0) high = wanted / floor + 1 / decay;  // the start-up costs floor / decay MiB
    double dt = wanted / std::max(first, floor);
    for (int step = 0; step < kNewtonSteps; ++step) {
        const double error = mib(dt) - wanted;
        (error > 0 ? high : low) = dt;
        const double slope = rate(dt);
        double next = slope > 0 ? dt - error / slope : (low + high) / 2;
        if (!(next > low && next < high)) next = (low + high) / 2;
        if (next == dt || std::abs(next - dt) <= 1e-15 * dt) return next;
        dt = next;
    }
    return dt;
}

void Trace::add(const Piece& piece) {
    pieces_.push_back(piece);
    if (pieces_.size() == 1) return;
    const Piece& last = pieces_[pieces_.size() - 2];
    pieces_.back().before_mib = last.before_mib + last.mib(piece.start_s - last.start_s);
}

Trace::Trace(double goodput_mbit, const Scenario& scenario) {
    std::vector<Piece> steps{{0, goodput_mbit * kMibPerMbit, 0, 0, 0}};
    for (const BandwidthStep& step : scenario.bandwidth) {
        Piece piece{step.at_s, step.mbit * kMibPerMbit, 0, 0, 0};
        if (step.half_life_s && step.decay_to_mbit != step.mbit) {
            piece.floor = step.decay_to_mbit * kMibPerMbit;
            piece.decay = std::log(2.0) / *step.half_life_s;
        }
        if (step.at_s == 0) steps.clear();
        steps.push_back(piece);
    }
    // Outages cut out: where one ends, the piece that it interrupted goes on from its rate by then.
    size_t next = 0;
    const auto resume = [&steps](double t, size_t upcoming) {
        Piece piece = steps[upcoming - 1];
        piece.first = piece.rate(t - piece.start_s);
        piece.start_s = t;
        return piece;
    };
    for (const Outage& outage : scenario.outages) {
        while (next < steps.size() && steps[next].start_s < outage.at_s) add(steps[next++]);
        const double end = outage.at_s + outage.for_s;
        add({outage.at_s, 0, 0, 0, 0});
        while (next < steps.size() && steps[next].start_s <= end) ++next;
        add(resume(end, next));
    }
    while (next < steps.size()) add(steps[next++]);
}

const Trace::Piece& Trace::piece_at(double t) const {
    const auto after = std::upper_bound(pieces_.begin(), pieces_.end(), t,
                                        [](double at, const Piece& p) { return at < p.start_s; });
    return *(after == pieces_.begin() ? after : after - 1);
}

double Trace::rate_mib_s(double t) const {
    const Piece& piece = piece_at(t);
    return piece.rate(t - piece.start_s);
}

double Trace::known_rate_mib_s(double t) const {
    const Piece* piece = &piece_at(t);
    double rate = piece->rate(t - piece->start_s);
    while (rate <= 0 && piece != pieces_.data()) {
        const double end = piece->start_s;
        --piece;
        rate = piece->rate(end - piece->start_s);
    }
    return rate;
}

double Trace::total_mib(double t) const {
    const Piece& piece = piece_at(t);
    return piece.before_mib + piece.mib(t - piece.start_s);
}

double Trace::time_of(double mib) const {
    // The last piece that begins with less than this: dead pieces add nothing and are passed over.
    const auto from = std::lower_bound(pieces_.begin(), pieces_.end(), mib,
                                       [](const Piece& p, double m) { return p.before_mib < m; });
    const Piece& piece = *(from == pieces_.begin() ? from : from - 1);
    const double t = piece.start_s + piece.seconds(mib - piece.before_mib);
    // Rounding: never beyond the piece that holds it.
    return from == pieces_.end() ? t : std::min(t, from->start_s);
}

}  // namespace evac::planner::sim
