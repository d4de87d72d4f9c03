#pragma once
// The event loop. Events: a pass ends (in the flows' own measure, see Flow), a switchover ends, a
// VM may try again, power goes, the plan is due again.
//
//            begin_turn        last pass ends        switchover over, nobody holds it
//   waiting ------------> sending ------------> switching ------------------------> ended (away)
//      ^ ^------- the turn fails ----'                 '--> holding --- released -------^
//      '--- parked: a VM that it is after has not begun
#include <deque>
#include <queue>
#include <vector>

#include "evac/planner/simulate.hpp"
#include "simulate_trace.hpp"
#include "simulate_world.hpp"

namespace evac::planner::sim {

// The `after` lists both ways, resolved once for all runs.
struct Links {
    std::vector<std::vector<uint32_t>> after;   // whom it waits for
    std::vector<std::vector<uint32_t>> behind;  // who waits for it
};
Result<Links> make_links(const Inventory& inventory);

class Player {
  public:
    // All must outlive the player. `schedule` must have been judged by evaluate().
    Player(const Inventory& inventory, const Links& links, const Scenario& scenario,
           const Schedule& schedule, PolicyChoice policy, uint64_t seed);
    Result<SimRun> play();

  private:
    enum class Stage : uint8_t {
        waiting,
        parked,    // behind one that has not begun
        retrying,  // its turn failed; it waits for the delay or for the others
        sending,
        switching,
        holding,
        given_up,  // abandoned or failed; at home, and can still be lost
        ended,
    };
    struct State {
        Stage stage = Stage::waiting;
        Mode mode = Mode::live;
        bool resolved = false;  // holds nobody any more
        bool last_pass = false;
        bool failing = false;  // this pass ends in failure
        int pass = 0;
        uint32_t generation = 0;  // flows and timers of an older one are void
        uint32_t unresolved = 0;  // how many that it is after are not resolved
        double remaining_mib = 0;
        double pass_activity_s = 0;  // the guest's own time when the pass began
        double pass_mib = 0;         // on the wire
        double stop_s = 0;
        double stopped_before_s = 0;  // in turns that failed
    };
    // With n flows each gets rate / n. A flow ends when the service that each one has had since the
    // link was last idle reaches `finish_mib`: the order of the flows never changes (processor
    // sharing in virtual time).
    struct Flow {
        double finish_mib;
        uint64_t sequence;
        VmIndex vm;
        uint32_t generation;
        bool operator>(const Flow& other) const {
            return finish_mib != other.finish_mib ? finish_mib > other.finish_mib
                                                  : sequence > other.sequence;
        }
    };
    enum class Kind : uint8_t { power, ready, retry, replan };  // at one time: in this order
    struct Timer {
        double at_s;
        Kind kind;
        uint64_t sequence;
        uint32_t index;  // of the VM, or of the loss
        uint32_t generation;
        bool operator>(const Timer& other) const {
            if (at_s != other.at_s) return at_s > other.at_s;
            return kind != other.kind ? kind > other.kind : sequence > other.sequence;
        }
    };
    template <class T>
    using Earliest = std::priority_queue<T, std::vector<T>, std::greater<T>>;

    void load(const Schedule& schedule, const std::vector<VmIndex>& vm);
    double next_flow_s();
    void advance(double t);
    void on_timer(const Timer& timer);
    void fill_link();
    std::optional<VmIndex> take_next();
    bool park(VmIndex vm);
    void unpark(VmIndex vm);
    void begin_turn(VmIndex vm);
    void begin_pass(VmIndex vm);
    void end_pass(VmIndex vm);
    void fail_turn(VmIndex vm);
    void leave_link(VmIndex vm);
    void away(VmIndex vm);
    void give_up(VmIndex vm, End end);
    void lose(VmIndex vm);
    void resolve(VmIndex vm);
    void add_timer(double at_s, Kind kind, uint32_t index, uint32_t generation = 0);
    bool under_way() const { return sending_ > 0 || waiting_ > 0; }

    // simulate_replan.cpp
    Status replan();
    Inventory what_is_left(const std::vector<VmIndex>& vms);

    const Inventory& inventory_;
    const Links& links_;
    const Scenario& scenario_;
    const Schedule& first_;
    const PolicyChoice policy_;
    World world_;
    Trace trace_;
    SimRun run_;
    std::vector<State> state_;
    std::vector<VmIndex> order_;
    size_t next_in_order_ = 0;
    std::deque<VmIndex> first_in_line_;  // released from parking, or back after a delay
    std::deque<VmIndex> last_in_line_;   // second turns after the others
    std::vector<std::vector<VmIndex>> parked_on_;
    Earliest<Flow> flows_;
    Earliest<Timer> timers_;
    uint64_t sequence_ = 0;
    size_t sending_ = 0;
    size_t waiting_ = 0;  // waiting, parked or retrying
    double now_ = 0;
    double sent_mib_ = 0;     // that the link could have carried by now
    double service_mib_ = 0;  // of each flow since the link was idle
    double misjudged_goodput_ = 1;
};

}  // namespace evac::planner::sim
