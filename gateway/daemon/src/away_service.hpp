#pragma once
// The away side of this site, on the control thread: which VMs the peer stages here, their landing
// QEMUs, and the acts of a handover that away must do. Durable: state_dir/staged/<id>/enrol.json
// beside the staged copy.
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config.hpp"
#include "evac/evacuation/away_desk.hpp"
#include "evac/landing/lander.hpp"
#include "ingest_stage.hpp"
#include "peer_link.hpp"
#include "worker_pool.hpp"

namespace evac::daemon {

struct AwayVm {
    VmId id{};
    std::string name, uuid, facts;
    std::vector<std::string> argv;  // landing template
    std::vector<protocol::RegionSpec> regions;
    std::vector<std::string> files;  // by region, once open
    bool open = false;
    bool adopted = false;          // it is our own VM now
    bool tried = false;            // the landing command has been tried in this process, and fits
    wan::SessionId enrolled_in{};  // the session in which its home enrolled it last
    bool answer_enrol = false;     // the peer waits for ENROL_RESULT
    Epoch sealed{};
    int64_t point_unix_ms = 0;
    std::string detail;

    std::shared_ptr<landing::Lander> lander;  // lent to the job that runs
    bool busy = false;
    std::deque<std::function<void(AwayVm&)>> waiting;  // a handful of acts at most
    std::function<void(const Status&)> on_landed;      // answers of the ingest thread
    std::function<void(Result<Bytes>)> on_state;
};

class AwayService {
  public:
    struct Ports {
        const Config& config;
        const Clock& clock;
        Logger& log;
        WorkerPool& workers;
        IngestStage& ingest;
        PeerLink& link;
        evacuation::AwayDesk& desk;
        std::function<void(Result<evacuation::Acts>)> execute;
    };
    explicit AwayService(Ports ports) : ports_(std::move(ports)) {}

    Status load();
    bool ready() const {
        return opening_ == 0;
    }  // every staged copy known at start is open (or refused)

    void on_enrol(protocol::Enrol&& m);
    void on_forget(VmId id);
    // Deletes a staged copy. Errors: not_found; refused (it runs here, or a handover is under way).
    Status drop(VmId id);
    // The same for an operator: not while its home is connected and prestages it.
    Status drop_unused(VmId id);
    // The peer expects an evacuation (or no longer): landing QEMUs are started ahead, so that no
    // turn waits for one.
    void on_peer_armed(bool armed);
    void on_fingerprints_request(const protocol::FingerprintsRequest& m);
    void on_ingest_event(from_ingest::Event& event);  // Opened, Landed, State, Sealed

    void execute(const evacuation::Act& act);
    AwayVm* find(std::string_view name);
    AwayVm* find(VmId id);
    const std::map<VmId, std::unique_ptr<AwayVm>>& vms() const { return vms_; }

  private:
    std::string dir_of(VmId id) const;
    std::string ram_dir_of(VmId id) const;
    std::string run_dir_of(const AwayVm& vm) const;
    Status save(const AwayVm& vm) const;
    Status load_one(const std::string& path);
    void open(AwayVm& vm);
    void on_opened(from_ingest::Opened& event);
    void try_landing(AwayVm& vm);
    void launch_ahead(AwayVm& vm);
    void end_ahead(AwayVm& vm);
    bool runs_here(const AwayVm& vm) const;
    void answer_enrol(AwayVm& vm, bool ok, const std::string& reason);
    Result<std::shared_ptr<landing::Lander>> make_lander(const AwayVm& vm) const;
    void with_vm(AwayVm& vm, std::function<void(AwayVm&)> start);
    void finish(VmId id);
    void answer(const evacuation::Act& act, evacuation::AwayEventKind kind,
                const std::string& text = {});
    void act_prepare(const evacuation::Act& act, AwayVm& vm);
    void act_run(const evacuation::Act& act, AwayVm& vm);
    void fail_run(const evacuation::Act& act, AwayVm& vm, const std::string& text);
    void load_and_run(const evacuation::Act& act, AwayVm& vm, Bytes state);
    void act_cancel(const evacuation::Act& act, AwayVm& vm);

    Ports ports_;
    std::map<VmId, std::unique_ptr<AwayVm>> vms_;
    size_t opening_ = 0;
    bool armed_ = false;
};

}  // namespace evac::daemon
