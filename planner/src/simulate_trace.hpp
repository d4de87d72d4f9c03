#pragma once
// The link's bandwidth over time, integrated exactly: pieces that are constant or decay
// exponentially, each with the MiB that came before it.
#include <vector>

#include "evac/planner/scenario.hpp"

namespace evac::planner::sim {

class Trace {
  public:
    Trace(double goodput_mbit, const Scenario& scenario);

    double rate_mib_s(double t) const;
    // The rate now, or where the line is dead the last one before (what a gateway remembers).
    double known_rate_mib_s(double t) const;
    double total_mib(double t) const;  // since the alert
    // When total_mib reaches `mib`; infinity when it never does.
    double time_of(double mib) const;

  private:
    // rate(dt) = floor + (first - floor) exp(-decay dt)
    struct Piece {
        double start_s = 0, first = 0, floor = 0, decay = 0;
        double before_mib = 0;
        double rate(double dt) const;
        double mib(double dt) const;
        double seconds(double mib) const;  // the inverse
    };
    const Piece& piece_at(double t) const;
    void add(const Piece& piece);

    std::vector<Piece> pieces_;  // start_s ascending, the first at 0
};

}  // namespace evac::planner::sim
