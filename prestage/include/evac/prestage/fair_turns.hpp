#pragma once
// Whose pages go next on a shared line: bytes in proportion to weights, by virtual time (start-time
// fair queueing). A VM's turn begins at the time when its bytes so far, divided by its weight, are
// paid; who was idle joins at the present time, so that nobody saves up and nobody is owed. Over
// any span in which two VMs have work all the time, their bytes divided by weight differ by at most
// one turn of each. Constant time and 8 bytes per VM; owner: one thread.
#include <cstdint>

namespace evac::prestage {

// By priority (share_weight of round_pacing.hpp), and up to four times as much when the recovery
// point nears its target and passes it by half. `point_age_s` < 0: none yet.
double turn_weight(double priority, double least_priority, double point_age_s, double target_s);

struct Turn {
    double paid = 0;  // in virtual time
};

class FairTurns {
  public:
    // Least goes first.
    double rank(const Turn& turn) const { return turn.paid > now_ ? turn.paid : now_; }
    void serve(const Turn& turn) { now_ = rank(turn); }
    void charge(Turn& turn, uint64_t bytes, double weight) const;

  private:
    double now_ = 0;  // 2^53 bytes and more are exact enough: 9 petabytes
};

}  // namespace evac::prestage
