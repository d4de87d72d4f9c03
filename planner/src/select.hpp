#pragma once
// Which VMs to save when not all can be away by a due time: most weight first.
//
// With a common due time and processing that grows with the start this is a knapsack whose item
// sizes depend on the packing. Weight per second of link, measured at several times, gives orders;
// the longest prefix that fits when packed well is taken, improved (which makes room), filled up,
// and exchanged one for one.
#include <vector>

#include "sequence.hpp"

namespace evac::planner {

struct Selection {
    std::vector<uint32_t> saved;  // legal order, each away by the due time
    std::vector<uint32_t> rest;   // the others; none of `saved` waits for one of them
    double weight = 0;
};

struct SelectionTask {
    double start_s = 0;
    double due_s = 0;        // link end + switchover by then
    uint64_t turns_max = 0;  // effort for the whole selection
};
Selection select_on_time(Sequencer& sequencer, std::span<const uint32_t> members,
                         const SelectionTask& task);

}  // namespace evac::planner
