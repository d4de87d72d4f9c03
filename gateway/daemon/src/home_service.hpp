#pragma once
// The home side of this site, on the control thread: which VMs are protected, when their rounds
// run, what the peer has sealed, and the acts of a handover that home must do. Durable:
// state_dir/home/<name>.json, one file per VM.
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>

#include "capture_jobs.hpp"
#include "config.hpp"
#include "evac/evacuation/coordinator.hpp"
#include "evac/prestage/round_pacing.hpp"
#include "home_vm.hpp"
#include "peer_link.hpp"
#include "worker_pool.hpp"

namespace evac::daemon {

class HomeService {
  public:
    struct Ports {
        const Config& config;
        const Clock& clock;
        Logger& log;
        WorkerPool& workers;
        ReducerStage& reducer;
        PeerLink& link;
        evacuation::Coordinator& coordinator;
        prestage::StreamGuard* guard;  // may be null
        // Executes what the state machine permits; the app gives both sides' acts to where they
        // belong.
        std::function<void(Result<evacuation::Acts>)> execute;
    };
    HomeService(Ports ports, uint64_t fingerprint_seed);

    Status load();  // the registry; once, before anything else
    void tick();    // about every 100 ms
    void session_up();
    // The pair's secret has changed, the session is over: catalogues forget, and are loaded again
    // in the next one. Not while an evacuation is expected or under way.
    void rekey(uint64_t fingerprint_seed);

    // From the peer.
    void on_enrol_result(const protocol::EnrolResult& m);
    void on_fingerprints(protocol::Fingerprints&& m);
    void on_seal_result(const protocol::SealResult& m);
    void on_batch_ack(protocol::BatchAck&& m);
    void on_nak(protocol::Nak&& m);
    void on_reducer_event(const from_reducer::Event& event);

    // Operator. vm add answers at once; the phase tells the rest.
    struct AddRequest {
        std::string name, qmp_path;
        double priority = 1;
        double max_downtime_ms = 1000;
        double rpo_target_s = 0;  // 0 = the configured
        std::optional<prestage::CaptureMethod> capture{};
    };
    Result<VmId> add(const AddRequest& request);
    Status remove(const std::string& name);
    HomeVm* find(const std::string& name);
    HomeVm* find(VmId id);
    const std::map<VmId, std::unique_ptr<HomeVm>>& vms() const { return vms_; }

    void begin_evacuation(const std::set<VmId>& chosen);  // their meters start, their rounds stop
    void execute(const evacuation::Act& act);
    bool protected_now(const HomeVm& vm) const;  // a sealed copy within the RPO target
    double rpo_s(const HomeVm& vm) const;        // age of the newest recovery point; < 0 = none
    double rpo_target_s(const HomeVm& vm) const {
        return vm.rpo_target_s > 0 ? vm.rpo_target_s : ports_.config.prestage.rpo_target_s;
    }
    double drain_s(const HomeVm& vm) const;  // of its backlog, alone on the line; < 0 = not known
    double rpo_stretch() const { return pacing_.stretch(); }  // > 1: not all targets can be kept
    void set_line(double bytes_per_s) { line_bytes_per_s_ = bytes_per_s; }  // 0 = not known

  private:
    static constexpr uint32_t kEpochsReserved = 1000;
    JobContext job_context() const;
    JobContext enrolment_context(const HomeVm& vm) const;
    std::string catalogue_path(const std::string& name) const;
    Status save(const HomeVm& vm) const;
    Status load_one(const std::string& path);
    void connect(HomeVm& vm);
    void wait_refused(HomeVm& vm) const;
    bool must_hear_peer_first(const HomeVm& vm) const;
    void offer(HomeVm& vm);
    void begin_sync(HomeVm& vm);
    void ask_fingerprints(HomeVm& vm, uint64_t batches);
    void load_tags(VmId id, uint32_t generation);
    void send_tags(HomeVm& vm, to_reducer::LoadTags&& tags);
    void finish_sync(HomeVm& vm);
    void note_sealed(HomeVm& vm, Epoch epoch);
    void schedule_rounds();
    void share_out();
    void observe_rpo(HomeVm& vm) const;
    std::vector<prestage::PacedVm> paced_vms(uint64_t now_ns) const;
    prestage::PacingNow pacing_now(uint64_t now_ns) const;
    struct RoundRun {
        uint64_t started_ns = 0;
        double cpu_s = 0;  // of our worker
        prestage::RoundKind kind{};
    };
    struct RoundTimes {
        double interval_s = 0, took_s = 0, cpu_s = 0;
    };
    bool start_round(HomeVm& vm, prestage::RoundKind kind);
    void round_done(VmId id, uint32_t generation, Result<PassResult> result, const RoundRun& run);
    void remember_round(HomeVm& vm, const PassResult& result, const RoundRun& run,
                        const RoundTimes& times);
    void lose_vm(HomeVm& vm, const std::string& why);
    Epoch next_epoch(HomeVm& vm);
    // How this VM is captured: at enrolment, and anew when its heat has changed (home_method.cpp).
    void choose_method(HomeVm& vm);
    void look_at_heat(HomeVm& vm, uint64_t now_ns);
    // Fills in what depends on the method, epochs included.
    void set_method(PassRequest& request, HomeVm& vm);
    // Runs `body` on a worker with the VM's capture set, then `done` here; waits for its turn while
    // the VM is busy.
    void with_capture(HomeVm& vm, std::function<Completion(CaptureSet&, size_t)> body);
    void run_next(VmId id);
    void pump_acts(HomeVm& vm);
    void answer(const evacuation::Act& act, evacuation::HomeEventKind kind,
                const std::string& text = {}, Epoch epoch = {});
    bool drain_must_wait(HomeVm& vm) const;
    void act_drain(const evacuation::Act& act, HomeVm& vm);
    void act_stop(const evacuation::Act& act, HomeVm& vm);
    void act_capture(const evacuation::Act& act, HomeVm& vm);
    void act_resume(const evacuation::Act& act, HomeVm& vm);
    void forget_unsealed(HomeVm& vm);
    void moved_away(HomeVm& vm);
    void act_destroy(const evacuation::Act& act, HomeVm& vm);
    evacuation::Now now() const { return evacuation::Now::of(ports_.clock); }

    Ports ports_;
    uint64_t seed_;
    std::string boot_id_;  // of the kernel
    uint64_t started_ns_;
    uint64_t peer_up_ns_ = 0;  // the first session of this process
    std::map<VmId, std::unique_ptr<HomeVm>> vms_;
    std::unordered_map<std::string, VmId> by_name_;
    std::map<VmId, std::deque<std::function<void(HomeVm&)>>>
        waiting_;  // per busy VM; a handful of acts at most
    uint32_t next_id_ = 1;
    prestage::RoundPacing pacing_;
    uint64_t next_ask_ns_ = 0;  // of the pacing
    uint64_t next_shares_ns_ = 0;
    double line_bytes_per_s_ = 0;
    bool evacuating_ = false;
    bool urgent_ = false;  // prestaging's own ceiling is off: armed or evacuating
};

}  // namespace evac::daemon
