#pragma once
// The daemon: makes the threads and joins the parts. Everything here runs on the control thread
// unless it says otherwise.
//
//   control (this)   HTTP API, webhook, state machines, timers
//   packet           wan::Transport::run
//   reducer          ReducerStage::run            ingest   IngestStage::run
//   index            dedup::Index::flush          workers  WorkerPool (capture, landing, planner)
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "alert_desk.hpp"
#include "away_service.hpp"
#include "config.hpp"
#include "evac/api/http_server.hpp"
#include "evac/dedup/index.hpp"
#include "evac/evacuation/journal_file.hpp"
#include "evac/planner/plan.hpp"
#include "evac/prestage/stream_guard.hpp"
#include "evac/wan/transport.hpp"
#include "evac/wan_port/datagram_port.hpp"
#include "home_service.hpp"
#include "ingest_stage.hpp"
#include "link_desk.hpp"
#include "peer_link.hpp"
#include "plan_desk.hpp"
#include "reducer_stage.hpp"
#include "report_store.hpp"
#include "standing_order.hpp"
#include "worker_pool.hpp"

namespace evac::daemon {

struct EvacuateRequest {
    std::string event_id, reason;
    bool planned = false;
    bool hold_landing = false;
    double deadline_s = 0;         // from now; 0 = the site's window
    std::vector<std::string> vms;  // empty = all that are protected
    evacuation::Again again = evacuation::Again::none;
};

// What an evacuation's report needs beyond the state machine's progress.
struct EvacuationMeter {
    uint64_t wire_bytes_before = 0;  // UDP payload sent, all classes
    uint64_t wire_bytes_after = 0;   // when the last VM ran
    bool reported = true;            // its report is written
    double predicted_makespan_s = 0;
    double deadline_s = 0;  // from the alert; 0 = none
};

class App {
  public:
    // `guard` outlives the app.
    static Result<std::unique_ptr<App>> create(Config config, Logger& log,
                                               prestage::StreamGuard* guard);
    ~App();

    // Until SIGTERM or SIGINT; the exit code.
    int run();

    // --- for the API (api_routes.cpp)
    const Config& config() const { return config_; }
    const Clock& clock() const { return clock_; }
    HomeService& home() { return *home_; }
    AwayService& away() { return *away_; }
    evacuation::Coordinator& coordinator() { return *coordinator_; }
    evacuation::AwayDesk& desk() { return *desk_; }
    wan::Transport& transport() { return *transport_; }
    ReducerStage& reducer() { return *reducer_; }
    const dedup::Index& index() const { return *index_; }
    const EvacuationMeter& meter() const { return meter_; }
    AlertDesk& alerts() { return *alerts_; }
    bool peer_connected() const { return link_->up() && peer_known_; }
    const std::string& peer_port_name() const { return port_name_; }
    LinkDesk& link_desk() { return *link_desk_; }

    const PlanDesk& plans() const { return *plans_; }
    const ReportStore& reports() const { return *reports_; }
    planner::Inventory inventory() const;
    PlanDesk::Evacuating evacuating() const;  // those of the running evacuation that are not away
    // Named VMs, a planned move, a held one: now or not at all. All VMs: the order stands
    // (standing_order.hpp), and ok means that; waits_for() says why nothing moves yet.
    Status evacuate(const EvacuateRequest& request);
    const Order* standing_order() const { return orders_->first(); }
    const std::string& waits_for() const { return waits_for_; }
    Status arm(const std::string& event_id, const std::string& reason);
    Status cancel_evacuation(const std::string& event_id);
    void execute(Result<evacuation::Acts> acts);
    evacuation::Now now() const { return evacuation::Now::of(clock_); }

  private:
    App(Config config, Logger& log, prestage::StreamGuard* guard)
        : config_(std::move(config)), log_(log), guard_(guard) {}
    Status open_state();
    Status open_wan();
    Status open_stages();
    Status open_surfaces();
    void start_threads();
    void stop_threads();
    void loop_once();
    void tick();
    void poll_transport();
    void begin_session(wan::SessionId session);
    void take_control_message(const Bytes& bytes);
    void take_handover(const Bytes& payload);
    void take_ingest_events();
    void take_reducer_events();
    void restart_machines();
    void send_heartbeat();
    void notify_systemd();
    void reload();
    bool secret_may_change() const;
    void rekey(const std::string& secret);
    void share_the_line();
    double prestage_bytes_per_s() const;  // what the line carries; 0 = not known
    double switchover_ms(const HomeVm& vm) const;
    Status begin_evacuation(const EvacuateRequest& request);
    void pursue_order();
    void report_evacuation();
    void reorder(const std::vector<std::string>& names);

    Config config_;
    Logger& log_;
    prestage::StreamGuard* guard_;
    SystemClock clock_;
    std::string secret_;
    std::string port_name_;

    std::unique_ptr<evacuation::DiskJournalFile> journal_file_;
    std::unique_ptr<evacuation::Journal> journal_;
    std::unique_ptr<evacuation::Coordinator> coordinator_;
    std::unique_ptr<evacuation::AwayDesk> desk_;
    std::unique_ptr<wan_port::DatagramPort> port_;
    std::unique_ptr<wan::Transport> transport_;
    std::unique_ptr<dedup::Index> index_;
    std::unique_ptr<ReducerStage> reducer_;
    std::unique_ptr<IngestStage> ingest_;
    std::unique_ptr<PeerLink> link_;
    std::unique_ptr<LinkDesk> link_desk_;
    std::unique_ptr<WorkerPool> capture_workers_;
    std::unique_ptr<WorkerPool> landing_workers_;
    std::unique_ptr<HomeService> home_;
    std::unique_ptr<AwayService> away_;
    std::unique_ptr<AlertDesk> alerts_;
    std::unique_ptr<api::HttpServer> api_;
    std::unique_ptr<api::HttpServer> webhook_;

    bool machines_started_ = false;
    bool scavenging_ = false;
    bool peer_known_ = false;  // its HELLO was accepted
    bool peer_armed_ = false;  // as its last heartbeat of this session said
    uint64_t boot_id_ = 0;
    uint64_t last_tick_ns_ = 0;
    uint64_t last_heartbeat_ns_ = 0;
    uint64_t last_watchdog_ns_ = 0;
    double goodput_mbit_ = 0;  // largest delivery rate seen lately
    EvacuationMeter meter_;
    std::unique_ptr<StandingOrders> orders_;
    std::string
        waits_for_;  // why the standing order moves nothing; empty = it does, or none stands
    uint64_t ordered_until_ns_ = 0;  // deadline of the standing orders; 0 = the site's window
    uint64_t next_pursuit_ns_ = 0;
    std::unique_ptr<PlanDesk> plans_;
    std::unique_ptr<ReportStore> reports_;
    bool failed_ = false;  // the journal cannot be written: stop

    std::vector<std::jthread> threads_;
};

}  // namespace evac::daemon
