#pragma once
// A model of two sites, their guests, their storage and the link between them, around the real
// Coordinator, AwayDesk and Journal. Deterministic: everything follows from the seed and the
// configuration.
//
// Survivable faults, and so injected here: either daemon killed at any journal append or act
// (before and after), unsynced journal bytes lost or garbled, messages lost, repeated, delayed and
// reordered, also across sessions; sessions lost with everything in them; acts that fail. NOT
// survivable, and so not injected: storage that loses synced bytes; a forged peer; a daemon that
// ignores the contract of ActKind; an operator's forced act that is wrong (injected separately,
// with the invariants off for that VM).
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/evacuation/away_desk.hpp"
#include "evac/evacuation/coordinator.hpp"
#include "evac/evacuation/journal.hpp"

namespace evac::evacuation::sim {

struct Faults {
    double message_loss = 0;
    double message_repeat = 0;
    double session_drop = 0;  // per step
    double survive_drop = 0;  // a packet that outlives its session
    double crash = 0;         // per journal append or act, at each of before and after
    double act_fails = 0;
    double seal_fails = 0;
    double landing_dies = 0;  // it ran and is gone
    double cancel = 0;        // per step
    double abort = 0;         // per step, of one VM
    double give_back = 0;     // per step, of one VM
    double force = 0;         // per step, of one VM: force_run or force_resume
    std::string describe() const;
};

struct Config {
    uint64_t seed = 1;
    uint32_t vms = 1;
    HandoverOptions options{};
    Faults faults{};
    uint32_t fault_steps = 400;  // then the faults end
    uint64_t kill_home_at = 0;   // n-th point of home (1..), 0 = never
    uint64_t kill_away_at = 0;
    uint32_t down_ms = 300;  // how long a killed daemon stays down
    uint32_t cut_ms = 0;     // and the link after a kill
    bool home_dies = false;  // ... for good
    bool away_dies = false;
    uint32_t landing_failures = 0;  // the first n landings fail
    uint32_t seal_failures = 0;
    bool cancel_when_sealed = false;
    std::span<const HomeRow> home_rows = home_table();
    std::span<const AwayRow> away_rows = away_table();
    bool lying_sync = false;  // canary: acknowledges before the bytes are durable
};

enum class Guest : uint8_t { running, stopped, destroyed };
enum class Landing : uint8_t { none, waiting, paused, running };

struct ModelVm {
    Guest guest = Guest::running;
    uint64_t version = 0;  // of the guest's memory and disk; grows while it runs
    // what home's data plane holds (volatile)
    uint64_t captured_version = 0;
    Epoch captured_epoch{};
    // what is staged at away (durable)
    uint64_t staged_version = 0;
    HandoverId staged_final{};
    Landing landing = Landing::none;
    bool ran_away = false;
    bool forced = false;
    Epoch epoch{};
};

class World {
  public:
    explicit World(const Config& config);
    ~World();

    // Faults, then peace; returns the first violated invariant, or empty.
    std::string run();

    const ModelVm& vm(uint32_t i) const { return vms_[i]; }
    const Coordinator* home() const { return home_.coordinator.get(); }
    const AwayDesk* away() const { return away_.desk.get(); }
    uint64_t home_points() const { return home_.points; }
    uint64_t away_points() const { return away_.points; }
    uint64_t crashes() const { return crashes_; }
    const std::string& trace() const { return trace_; }

  private:
    struct Job {
        Act act;
        bool done = false;  // the effect happened, the answer is still to be given
        std::optional<HomeEvent> home_answer;
        std::optional<AwayEvent> away_answer;
    };
    struct Packet {
        bool to_home = false;
        Bytes message;  // empty: data
        VmId vm{};
        HandoverId handover{};  // data: 0 = an ordinary round
        Epoch epoch{};
        uint64_t version = 0;
    };
    class Disk;
    struct Site {
        bool is_home = false;
        std::unique_ptr<Disk> disk;
        std::unique_ptr<Journal> journal;
        std::unique_ptr<Coordinator> coordinator;
        std::unique_ptr<AwayDesk> desk;
        std::map<VmId, std::deque<Job>> jobs;
        uint64_t points = 0;
        bool crash_now = false;
        bool up = false;
        bool dead = false;
        uint64_t down_until_ns = 0;
    };

    Now now() const {
        return {now_ns_, 1'700'000'000'000 + static_cast<int64_t>(now_ns_ / 1'000'000)};
    }
    ModelVm& model(VmId vm) { return vms_[raw(vm)]; }
    void start(Site& site);
    void crash(Site& site);
    // One place where a daemon may be killed; true = it is.
    bool point(Site& site);
    void accept(Site& site, Result<Acts> acts);
    void step();
    void step_time();
    void step_packet();
    void step_job(Site& site);
    void step_operator();
    void step_round();
    void perform_home(Job& job);
    void perform_away(Job& job);
    void give_answer(Site& site, Job job);
    void send(Packet packet);
    void deliver(const Packet& packet);
    void session_down();
    void session_up();
    void check();
    void check_end();
    void check_end_of(uint32_t i);
    void violate(const std::string& what);
    void note(const std::string& what);
    bool chance(double p) { return faults_on_ && random_.chance(p); }

    Config config_;
    Random random_;
    uint64_t now_ns_ = 1'000'000'000;
    Site home_;
    Site away_;
    std::vector<ModelVm> vms_;
    std::vector<Packet> net_;
    std::vector<Packet> late_;  // repeats that come at any later time
    bool link_up_ = true;       // the wire
    bool session_ = false;      // both daemons talk
    uint64_t link_back_ns_ = 0;
    bool cut_ = false;  // by a kill: peace does not mend it before its time
    bool faults_on_ = true;
    uint32_t landing_failures_ = 0;
    uint32_t seal_failures_ = 0;
    uint64_t crashes_ = 0;
    std::string violation_;
    std::string trace_;
};

}  // namespace evac::evacuation::sim
