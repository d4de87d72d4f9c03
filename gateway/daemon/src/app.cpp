#include "app.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "api_routes.hpp"
#include "evac/dedup/fingerprint.hpp"
#include "evac/wan_dpdk/dpdk_port.hpp"
#include "evac/wan_port/address.hpp"
#include "evac/wan_port/kernel_udp_port.hpp"
#include "files.hpp"

namespace evac::daemon {
namespace {

constexpr size_t kCaptureWorkers = 2;
constexpr size_t kLandingWorkers = 2;
constexpr uint64_t kTickNs = 100 * kNsPerMs;
constexpr uint64_t kTickBusyNs = 5 * kNsPerMs;  // while an evacuation runs
constexpr uint64_t kHeartbeatNs = 500 * kNsPerMs;
constexpr uint64_t kIndexFlushNs = kNsPerSecond;

ByteSpan secret_bytes(const std::string& secret) {
    return as_byte_span(secret);
}

}  // namespace

App::~App() {
    stop_threads();
}

Result<std::unique_ptr<App>> App::create(Config config, Logger& log, prestage::StreamGuard* guard) {
    std::unique_ptr<App> app(new App(std::move(config), log, guard));
    EVAC_TRY(app->open_state());
    EVAC_TRY(app->open_wan());
    EVAC_TRY(app->open_stages());
    EVAC_TRY(app->open_surfaces());
    return app;
}

Status App::open_state() {
    EVAC_TRY(make_dirs(config_.site.state_dir));
    EVAC_TRY(make_dirs(config_.site.run_dir));
    auto secret = load_pair_secret(config_.pair_secret_file);
    EVAC_TRY(secret);
    secret_ = std::move(*secret);
    boot_id_ = std::stoull(random_hex(7), nullptr, 16);
    auto file = evacuation::DiskJournalFile::open(config_.site.state_dir + "/handover.journal");
    EVAC_TRY(file);
    journal_file_ = std::move(*file);
    auto journal = evacuation::Journal::open(*journal_file_);
    EVAC_TRY(journal);
    journal_ = std::make_unique<evacuation::Journal>(std::move(*journal));
    if (journal_->opened().torn_bytes != 0) {
        log_.warning("the handover journal had a torn end of " +
                     std::to_string(journal_->opened().torn_bytes) + " bytes");
    }
    orders_ = std::make_unique<StandingOrders>(config_.site.state_dir + "/standing-orders.json");
    const Status ordered = orders_->load();
    if (!ordered.ok()) log_.error("standing order: " + ordered.error().message());
    reports_ = std::make_unique<ReportStore>(config_.site.state_dir + "/reports");
    const Status reported = reports_->load();
    if (!reported.ok()) log_.error("reports: " + reported.error().message());
    evacuation::CoordinatorOptions options;
    options.lookahead_vms = 4;
    options.lookahead_bytes = 64 * kMiB;  // the pace is set in tick(), in time of link
    coordinator_ = std::make_unique<evacuation::Coordinator>(*journal_, options, now());
    desk_ = std::make_unique<evacuation::AwayDesk>(*journal_, now());
    return {};
}

Status App::open_wan() {
    const auto& wan = config_.wan;
    auto local = wan_port::parse_udp_address(wan.local);
    if (!local.ok())
        return make_error(Errc::invalid_argument, "wan.local: " + local.error().context);
    auto peer = wan_port::parse_udp_address(wan.peer);
    if (!peer.ok()) return make_error(Errc::invalid_argument, "wan.peer: " + peer.error().context);
    auto tls = load_wan_tls(config_, secret_);
    EVAC_TRY(tls);
    if (wan.port == "kernel") {
        auto port = wan_port::open_kernel_udp_port({*local});
        EVAC_TRY(port);
        port_ = std::move(*port);
    } else if (wan.port.rfind("dpdk:", 0) == 0) {
        wan_dpdk::DpdkOptions options;
        options.device = wan.port.substr(5);
        options.local = *local;
        options.prefix_length = static_cast<uint8_t>(wan.prefix_length);
        options.vlan_id = static_cast<uint16_t>(wan.vlan);
        options.vlan_priority = static_cast<uint8_t>(wan.vlan_priority);
        options.file_prefix = "evacgw-" + config_.site.name;
        if (!wan.gateway.empty()) {
            auto gateway = wan_port::parse_ipv4(wan.gateway);
            if (!gateway.ok())
                return make_error(Errc::invalid_argument,
                                  "wan.gateway: " + gateway.error().context);
            options.gateway_ip = *gateway;
        }
        auto port = wan_dpdk::open_dpdk_port(options, clock_);
        EVAC_TRY(port);
        port_ = std::move(*port);
    } else {
        return make_error(
            Errc::invalid_argument,
            "wan.port: \"" + wan.port + "\" is refused; accepted: \"dpdk:DEVICE\", \"kernel\"");
    }
    port_name_ = port_->name();
    wan::TransportConfig transport;
    transport.endpoint.role = wan.listens ? wan::Role::listen : wan::Role::connect;
    transport.endpoint.peer_address = *peer;
    transport.endpoint.allow_address_change = wan.allow_address_change;
    transport.endpoint.ceiling_bits_per_s = static_cast<uint64_t>(wan.ceiling_mbit * 1e6);
    auto made = wan::Transport::create(transport, *tls, *port_, clock_, boot_id_);
    EVAC_TRY(made);
    transport_ = std::move(*made);
    link_ = std::make_unique<PeerLink>(*transport_, log_);
    return {};
}

Status App::open_stages() {
    dedup::IndexOptions index;
    index.directory = config_.site.state_dir + "/index";
    index.table_bytes = config_.prestage.index_table_mib * kMiB;
    index.store_bytes_max = config_.prestage.index_store_mib * kMiB;
    index.key_check = dedup::fingerprint_seed(secret_bytes(secret_));
    auto opened = dedup::Index::open(index, log_);
    EVAC_TRY(opened);
    index_ = std::move(*opened);
    ReducerOptions reducer;
    reducer.queue_bytes = config_.prestage.queue_mib * kMiB;
    reducer.zstd_level = config_.prestage.zstd_level;
    reducer.ceiling_bytes_per_s = config_.prestage.ceiling_mbit * 1e6 / 8;
    reducer.capture_lanes = kCaptureWorkers;
    reducer.delta_cache_bytes = config_.prestage.delta_cache_mib * kMiB;
    reducer.background_share = config_.prestage.background_share;
    auto stage =
        ReducerStage::create(reducer, secret_bytes(secret_), *index_, *transport_, clock_, log_);
    EVAC_TRY(stage);
    reducer_ = std::move(*stage);
    auto ingest = IngestStage::create(secret_bytes(secret_), config_.staging.recovery_points,
                                      *transport_, *reducer_, clock_, log_);
    EVAC_TRY(ingest);
    ingest_ = std::move(*ingest);
    plans_ = std::make_unique<PlanDesk>(PlanDesk::Ports{
        [this] { return inventory(); }, [this] { return evacuating(); },
        [this](const std::vector<std::string>& names) { reorder(names); }, clock_, log_});
    link_desk_ = std::make_unique<LinkDesk>(*transport_, *link_, *reducer_, clock_);
    capture_workers_ = std::make_unique<WorkerPool>(kCaptureWorkers, "capture");
    landing_workers_ = std::make_unique<WorkerPool>(kLandingWorkers, "landing");
    auto run = [this](Result<evacuation::Acts> acts) { execute(std::move(acts)); };
    home_ = std::make_unique<HomeService>(
        HomeService::Ports{config_, clock_, log_, *capture_workers_, *reducer_, *link_,
                           *coordinator_, guard_, run},
        dedup::fingerprint_seed(secret_bytes(secret_)));
    away_ = std::make_unique<AwayService>(AwayService::Ports{
        config_, clock_, log_, *landing_workers_, *ingest_, *link_, *desk_, run});
    EVAC_TRY(home_->load());
    return away_->load();
}

Status App::open_surfaces() {
    auto alerts = AlertDesk::create(
        config_, clock_, log_,
        {[this](const std::string& id, const std::string& why) { return arm(id, why); },
         [this](const std::string& id, const std::string& why) {
             EvacuateRequest request;
             request.event_id = id;
             request.reason = why;
             return evacuate(request);
         },
         [this](const std::string& id) { return cancel_evacuation(id); }});
    EVAC_TRY(alerts);
    alerts_ = std::move(*alerts);
    auto api = api::HttpServer::listen_unix(
        config_.api_socket, [this](const api::HttpRequest& r) { return serve_api(*this, r); });
    EVAC_TRY(api);
    api_ = std::move(*api);
    if (!config_.webhook.enabled) return {};
    const auto& hook = config_.webhook;
    auto webhook = api::HttpServer::listen_tls(
        hook.listen, {hook.cert, hook.key, hook.client_ca},
        [this](const api::HttpRequest& r) { return alerts_->serve(r); });
    EVAC_TRY(webhook);
    webhook_ = std::move(*webhook);
    return {};
}

// --- threads

void App::start_threads() {
    threads_.emplace_back([this](std::stop_token stop) { transport_->run(stop); });
    threads_.emplace_back([this](std::stop_token stop) { reducer_->run(stop); });
    threads_.emplace_back([this](std::stop_token stop) { ingest_->run(stop); });
    threads_.emplace_back([this](std::stop_token stop) {
        while (!stop.stop_requested()) {
            const Status flushed = index_->flush();
            if (!flushed.ok()) log_.warning("index: " + flushed.error().message());
            for (int i = 0; i < 10 && !stop.stop_requested(); ++i) ::usleep(kIndexFlushNs / 10'000);
        }
    });
    static constexpr std::array<const char*, 4> kNames{"packet", "reducer", "ingest", "index"};
    for (size_t i = 0; i < threads_.size(); ++i)
        ::pthread_setname_np(threads_[i].native_handle(), kNames[i]);
}

void App::stop_threads() {
    webhook_.reset();
    api_.reset();
    if (home_) {
        for (const auto& [id, vm] : home_->vms()) {
            if (vm->examined.capture) vm->examined.capture->cancel = true;
        }
    }
    capture_workers_.reset();
    landing_workers_.reset();
    if (plans_) plans_->stop();
    for (auto& thread : threads_) thread.request_stop();
    threads_.clear();
}

int App::run() {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    ::sigaddset(&signals, SIGHUP);
    const UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    start_threads();
    log_.info("site " + config_.site.name + " is up: peer " + config_.peer_site + " at " +
              config_.wan.peer + " over " + port_name_);
    bool ready_told = false;
    while (!failed_) {
        loop_once();
        if (!ready_told && machines_started_) {
            ::sd_notify(0, "READY=1");
            ready_told = true;
        }
        signalfd_siginfo info{};
        if (::read(signal_fd.get(), &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info)))
            continue;
        if (info.ssi_signo != SIGHUP) break;
        reload();
    }
    ::sd_notify(0, "STOPPING=1");
    log_.info(failed_ ? "stopping: the handover journal cannot be written" : "stopping");
    stop_threads();
    return failed_ ? 1 : 0;
}

// Renewed certificates, authorities and revocation lists; the living session goes on unless the
// peer is not trusted any more. What cannot be read changes nothing. Another secret ends the
// session; the next one begins when both sites have it.
void App::reload() {
    auto secret = load_pair_secret(config_.pair_secret_file);
    if (!secret.ok()) {
        log_.error("reload: " + secret.error().message() + "; what was read before stays in force");
        return;
    }
    bool changed = *secret != secret_;
    if (changed && !secret_may_change()) {
        log_.error(
            "reload: pair.secret_file has another secret: not taken while an evacuation is "
            "expected or under way; reload again afterwards");
        changed = false;
    }
    auto tls = load_wan_tls(config_, changed ? *secret : secret_);
    if (!tls.ok()) {
        log_.error("reload: " + tls.error().message() + "; what was read before stays in force");
        return;
    }
    if (changed) rekey(*secret);
    transport_->set_tls(*tls);
    log_.info("reload: certificates and revocation lists are read again");
}

bool App::secret_may_change() const {
    const auto stage = coordinator_->stage();
    const bool ours = stage == evacuation::Stage::armed || stage == evacuation::Stage::evacuating;
    return !ours && !peer_armed_ && standing_order() == nullptr;
}

// Each owner of something keyed is told in its own queue, before the transport may begin a session
// under the new secret, whose first message is behind these.
void App::rekey(const std::string& secret) {
    secret_ = secret;
    const uint64_t seed = dedup::fingerprint_seed(secret_bytes(secret_));
    reducer_->command(to_reducer::Rekey{secret_});
    ingest_->command(to_ingest::Rekey{secret_});
    home_->rekey(seed);
    log_.info("reload: the pair has another secret; what is staged stays, and is indexed anew");
}

// Prestaging takes what others leave of the line; an alert takes all of it.
void App::share_the_line() {
    const auto stage = coordinator_->stage();
    const bool urgent = stage == evacuation::Stage::armed ||
                        stage == evacuation::Stage::evacuating || link_desk_->running() ||
                        standing_order() != nullptr;
    const bool scavenge = config_.prestage.scavenge && !urgent;
    if (scavenge != scavenging_) transport_->set_scavenger(scavenge);
    scavenging_ = scavenge;
}

void App::loop_once() {
    const uint64_t tick_ns =
        coordinator_->stage() == evacuation::Stage::evacuating ? kTickBusyNs : kTickNs;
    int timeout_ms = static_cast<int>(tick_ns / kNsPerMs);
    for (const auto* server : {api_.get(), webhook_.get()}) {
        const int wanted_ms = server == nullptr ? -1 : server->timeout_ms();
        if (wanted_ms >= 0) timeout_ms = std::min(timeout_ms, wanted_ms);
    }
    std::array<pollfd, 9> waiters{};
    nfds_t count = 0;
    for (const int fd :
         {api_->wait_fd(), webhook_ ? webhook_->wait_fd() : -1, transport_->control_fd(),
          reducer_->events_fd(), ingest_->events_fd(), capture_workers_->completions_fd(),
          landing_workers_->completions_fd(), plans_->completions_fd()}) {
        if (fd >= 0) waiters[count++] = {fd, POLLIN, 0};
    }
    ::poll(waiters.data(), count, timeout_ms);
    wan::Transport::clear(transport_->control_fd());
    poll_transport();
    take_reducer_events();
    take_ingest_events();
    capture_workers_->run_completions();
    landing_workers_->run_completions();
    plans_->run_completions();
    api_->run();
    if (webhook_) webhook_->run();
    reducer_->pump_commands();
    ingest_->pump_commands();
    link_->pump();
    const uint64_t now_ns = clock_.now_ns();
    if (now_ns - last_tick_ns_ >= tick_ns) {
        last_tick_ns_ = now_ns;
        tick();
    }
}

void App::tick() {
    link_desk_->tick();
    share_the_line();
    plans_->tick(coordinator_->stage() == evacuation::Stage::evacuating);
    if (!machines_started_ && away_->ready()) restart_machines();
    if (!machines_started_) return;
    home_->set_line(prestage_bytes_per_s());
    home_->tick();
    execute(coordinator_->tick(now()));
    execute(desk_->tick(now()));
    if (coordinator_->stage() == evacuation::Stage::evacuating) {
        // The next guest is stopped only when the link would run dry otherwise: less than
        // lookahead_ms of it is left.
        const double bytes_per_ms = std::max(goodput_mbit_, 1.0) * 1e6 / 8 / 1000;
        if (static_cast<double>(reducer_->final_bytes_waiting()) <
            bytes_per_ms * config_.evacuation.lookahead_ms) {
            execute(coordinator_->advance(reducer_->final_bytes_waiting(), now()));
        }
        meter_.wire_bytes_after = transport_->stats().bytes_sent;
        meter_.reported = false;
    } else if (!meter_.reported) {
        report_evacuation();
    }
    const uint64_t now_ns = clock_.now_ns();
    if (now_ns >= next_pursuit_ns_) pursue_order();
    if (link_->up() && now_ns - last_heartbeat_ns_ >= kHeartbeatNs) {
        last_heartbeat_ns_ = now_ns;
        send_heartbeat();
    }
    const double rate_mbit =
        static_cast<double>(transport_->stats().delivery_rate_bits_per_s) / 1e6;
    // Rises at once, forgets half in about ten minutes: a link that was idle has not become slower
    // by that.
    goodput_mbit_ = std::max(rate_mbit, goodput_mbit_ * 0.99988);
    notify_systemd();
}

// Tells the peer that we live, and whether an evacuation is expected or under way: its landings are
// then started ahead.
void App::send_heartbeat() {
    const auto stage = coordinator_->stage();
    const bool armed = stage == evacuation::Stage::armed || stage == evacuation::Stage::evacuating;
    link_->send(protocol::Heartbeat{clock_.wall_unix_ms(), armed});
}

void App::notify_systemd() {
    uint64_t watchdog_us = 0;
    if (::sd_watchdog_enabled(0, &watchdog_us) <= 0) return;
    const uint64_t now_ns = clock_.now_ns();
    if (now_ns - last_watchdog_ns_ < watchdog_us * 1000 / 3) return;
    last_watchdog_ns_ = now_ns;
    ::sd_notify(0, "WATCHDOG=1");
}

void App::restart_machines() {
    machines_started_ = true;
    execute(desk_->restart(now()));
    execute(coordinator_->restart(now()));
    if (link_->up()) {
        execute(desk_->session_up(now()));
        execute(coordinator_->session_up(now()));
    }
    if (coordinator_->stage() == evacuation::Stage::evacuating) {
        meter_.deadline_s = config_.evacuation.window_s;  // counts from the alert
        home_->begin_evacuation({});
    }
}

void App::execute(Result<evacuation::Acts> acts) {
    if (!acts.ok()) {
        if (acts.error().code == Errc::io) {
            log_.error("handover journal: " + acts.error().message());
            failed_ = true;
        } else {
            log_.warning("handover: " + acts.error().message());
        }
        return;
    }
    for (const auto& act : *acts) {
        if (act.kind == evacuation::ActKind::send_message) {
            link_->send(protocol::Handover{evacuation::encode(act.message)});
        } else if (act.kind == evacuation::ActKind::report) {
            log_.warning("vm " + std::to_string(raw(act.vm)) + ": " + act.text);
        } else if (act.role == evacuation::Role::home) {
            home_->execute(act);
        } else {
            away_->execute(act);
        }
    }
}

// --- the peer

void App::poll_transport() {
    while (auto event = transport_->try_event()) {
        if (!event->text.empty()) log_.info("wan: " + event->text);
    }
    if (transport_->session() != link_->session()) begin_session(transport_->session());
    while (auto message = transport_->try_receive(wan::Class::control)) {
        if (message->session != link_->session()) {
            if (message->session != transport_->session()) continue;
            begin_session(message->session);
        }
        take_control_message(message->bytes);
    }
}

void App::begin_session(wan::SessionId session) {
    link_->begin_session(session);
    peer_known_ = false;
    if (session == wan::SessionId::none) return;
    peer_armed_ = false;
    log_.info("session with " + config_.peer_site + " is up");
    reducer_->command(to_reducer::NewSession{session});
    ingest_->command(to_ingest::NewSession{session});
    link_->send(protocol::Hello{protocol::kProtocolVersion, config_.site.name, boot_id_,
                                clock_.wall_unix_ms()});
}

void App::take_control_message(const Bytes& bytes) {
    auto message = protocol::decode(bytes);
    if (!message.ok()) {
        log_.warning(message.error().message());
        return;
    }
    if (auto* hello = std::get_if<protocol::Hello>(&*message)) {
        if (hello->version != protocol::kProtocolVersion || hello->site != config_.peer_site) {
            log_.error("the peer is '" + hello->site + "' with protocol " +
                       std::to_string(hello->version) + "; accepted: '" + config_.peer_site +
                       "' with protocol " + std::to_string(protocol::kProtocolVersion));
            return;
        }
        peer_known_ = true;
        home_->session_up();
        if (machines_started_) {
            execute(desk_->session_up(now()));
            execute(coordinator_->session_up(now()));
        }
        return;
    }
    if (!peer_known_) return;
    coordinator_->away_heard(now());
    desk_->home_heard(now());
    if (auto* enrol = std::get_if<protocol::Enrol>(&*message))
        return away_->on_enrol(std::move(*enrol));
    if (auto* result = std::get_if<protocol::EnrolResult>(&*message))
        return home_->on_enrol_result(*result);
    if (auto* ask = std::get_if<protocol::FingerprintsRequest>(&*message))
        return away_->on_fingerprints_request(*ask);
    if (auto* ack = std::get_if<protocol::BatchAck>(&*message))
        return home_->on_batch_ack(std::move(*ack));
    if (auto* nak = std::get_if<protocol::Nak>(&*message)) return home_->on_nak(std::move(*nak));
    if (auto* sealed = std::get_if<protocol::SealResult>(&*message))
        return home_->on_seal_result(*sealed);
    if (auto* handover = std::get_if<protocol::Handover>(&*message))
        return take_handover(handover->payload);
    if (auto* beat = std::get_if<protocol::Heartbeat>(&*message)) {
        peer_armed_ = beat->armed;
        return away_->on_peer_armed(beat->armed);
    }
    if (auto* forget = std::get_if<protocol::Forget>(&*message))
        return away_->on_forget(forget->vm);
    if (auto* echo = std::get_if<protocol::Echo>(&*message)) return link_desk_->on_echo(*echo);
}

void App::take_handover(const Bytes& payload) {
    auto message = evacuation::decode_message(payload);
    if (!message.ok()) {
        log_.warning("handover message of the peer: " + message.error().message());
        return;
    }
    if (!machines_started_) return;  // said again by the peer until answered
    if (evacuation::is_from_home(message->kind)) {
        execute(desk_->deliver(*message, now()));
    } else {
        execute(coordinator_->deliver(*message, now()));
    }
}

void App::take_reducer_events() {
    reducer_->clear_events();
    while (auto event = reducer_->try_event()) home_->on_reducer_event(*event);
}

void App::take_ingest_events() {
    ingest_->clear_events();
    while (auto event = ingest_->try_event()) {
        if (auto* acked = std::get_if<from_ingest::Acked>(&*event)) {
            link_->send(protocol::BatchAck{acked->vm, std::move(acked->sequences)});
        } else if (auto* refused = std::get_if<from_ingest::Refused>(&*event)) {
            link_->send(refused->nak);
        } else if (auto* prints = std::get_if<from_ingest::PeerFingerprints>(&*event)) {
            home_->on_fingerprints(std::move(prints->prints));
        } else if (auto* malformed = std::get_if<from_ingest::Malformed>(&*event)) {
            log_.warning("data of the peer: " + malformed->text);
        } else if (auto* sealed = std::get_if<from_ingest::Sealed>(&*event)) {
            away_->on_ingest_event(*event);
            if (sealed->handover == 0) {
                link_->send(protocol::SealResult{
                    sealed->vm, sealed->epoch, sealed->status.ok(),
                    sealed->status.ok() ? "" : sealed->status.error().message(), sealed->apply_ns});
                continue;
            }
            evacuation::AwayEvent about;
            about.kind = sealed->status.ok() ? evacuation::AwayEventKind::final_sealed
                                             : evacuation::AwayEventKind::final_failed;
            about.handover = evacuation::HandoverId{sealed->handover};
            about.epoch = sealed->epoch;
            if (!sealed->status.ok()) about.text = sealed->status.error().message();
            execute(desk_->handle(sealed->vm, about, now()));
        } else {
            away_->on_ingest_event(*event);
        }
    }
}

}  // namespace evac::daemon
