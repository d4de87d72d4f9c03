#include "sim_world.hpp"

#include <algorithm>

#include "evac/core/units.hpp"

namespace evac::evacuation::sim {
namespace {

constexpr size_t kLateMax = 100;
constexpr double kLateArrives = 0.15;

}  // namespace

std::string Faults::describe() const {
    const auto p = [](const char* name, double value) {
        return value == 0 ? std::string() : std::string(" ") + name + "=" + std::to_string(value);
    };
    return p("message_loss", message_loss) + p("message_repeat", message_repeat) +
           p("session_drop", session_drop) + p("survive_drop", survive_drop) + p("crash", crash) +
           p("act_fails", act_fails) + p("seal_fails", seal_fails) +
           p("landing_dies", landing_dies) + p("cancel", cancel) + p("abort", abort) +
           p("give_back", give_back) + p("force", force);
}

// Storage that a killed daemon leaves behind, with a kill point around every append.
class World::Disk final : public JournalFile {
  public:
    Disk(World& world, Site& site) : world_(world), site_(site) {}

    Result<Bytes> read_all(size_t size_max) override { return inner.read_all(size_max); }
    Status append(ByteSpan bytes) override {
        if (world_.point(site_)) return make_error(Errc::io, "killed before append");
        return inner.append(bytes);
    }
    Status sync() override {
        if (world_.point(site_)) return make_error(Errc::io, "killed between append and sync");
        if (!world_.config_.lying_sync) EVAC_TRY(inner.sync());
        static_cast<void>(world_.point(site_));  // killed after the sync: the acts never happen
        return {};
    }
    Status truncate(uint64_t size) override { return inner.truncate(size); }
    Status replace(ByteSpan bytes) override { return inner.replace(bytes); }

    MemoryJournalFile inner;

  private:
    World& world_;
    Site& site_;
};

World::World(const Config& config) : config_(config), random_(config.seed), vms_(config.vms) {
    home_.is_home = true;
    home_.disk = std::make_unique<Disk>(*this, home_);
    away_.disk = std::make_unique<Disk>(*this, away_);
    landing_failures_ = config.landing_failures;
    seal_failures_ = config.seal_failures;
}

World::~World() = default;

void World::note(const std::string& what) {
    trace_ += std::to_string(now_ns_ / 1'000'000) + " " + what + "\n";
}

void World::violate(const std::string& what) {
    if (!violation_.empty()) return;
    violation_ = what;
    note("VIOLATION " + what);
}

bool World::point(Site& site) {
    if (site.crash_now) return true;
    ++site.points;
    const uint64_t at = site.is_home ? config_.kill_home_at : config_.kill_away_at;
    if (site.points == at || chance(config_.faults.crash)) site.crash_now = true;
    return site.crash_now;
}

void World::start(Site& site) {
    site.up = true;
    site.crash_now = false;
    Result<Journal> journal = Journal::open(*site.disk);
    if (!journal.ok()) return violate("journal: " + journal.error().message());
    site.journal = std::make_unique<Journal>(std::move(*journal));
    note(std::string(site.is_home ? "home" : "away") + " starts");
    if (site.is_home) {
        site.coordinator = std::make_unique<Coordinator>(*site.journal, CoordinatorOptions{}, now(),
                                                         config_.home_rows);
        for (uint32_t i = 0; i < config_.vms; ++i) {
            if (!site.coordinator->add_vm(VmId{i}).ok()) violate("add_vm");
        }
        accept(site, site.coordinator->restart(now()));
    } else {
        site.desk = std::make_unique<AwayDesk>(*site.journal, now(), config_.away_rows);
        for (uint32_t i = 0; i < config_.vms; ++i) {
            if (!site.desk->add_vm(VmId{i}).ok()) violate("add_vm");
        }
        accept(site, site.desk->restart(now()));
    }
}

void World::crash(Site& site) {
    ++crashes_;
    note(std::string(site.is_home ? "home" : "away") + " killed at point " +
         std::to_string(site.points));
    site.up = false;
    site.coordinator.reset();
    site.desk.reset();
    site.journal.reset();
    site.jobs.clear();
    site.disk->inner.crash(random_);
    site.crash_now = false;
    site.dead = site.is_home ? config_.home_dies : config_.away_dies;
    site.down_until_ns = now_ns_ + config_.down_ms * kNsPerMs;
    session_down();
    if (config_.cut_ms == 0) return;
    link_up_ = false;
    cut_ = true;
    link_back_ns_ = now_ns_ + config_.cut_ms * kNsPerMs;
}

void World::accept(Site& site, Result<Acts> acts) {
    if (site.crash_now) return crash(site);
    if (!acts.ok()) {
        if (acts.error().code == Errc::io) violate("journal failed: " + acts.error().message());
        return;
    }
    for (Act& act : *acts) {
        Job job{std::move(act), false, {}, {}};
        if (job.act.kind != ActKind::send_message || random_.chance(0.5)) {
            site.jobs[job.act.vm].push_back(std::move(job));
            continue;
        }
        if (point(site)) return crash(site);
        site.is_home ? perform_home(job) : perform_away(job);
        if (point(site)) return crash(site);
    }
}

void World::session_down() {
    session_ = false;
    std::erase_if(net_, [this](const Packet&) { return !chance(config_.faults.survive_drop); });
    std::erase_if(late_, [this](const Packet&) { return !chance(config_.faults.survive_drop); });
}

void World::session_up() {
    session_ = true;
    note("session up");
    if (home_.up) accept(home_, home_.coordinator->session_up(now()));
    if (away_.up) accept(away_, away_.desk->session_up(now()));
}

void World::send(Packet packet) {
    if (!session_) return;
    // Data is lost with its session only, as on a reliable stream.
    if (!packet.message.empty() && chance(config_.faults.message_loss)) return;
    if (chance(config_.faults.message_repeat)) net_.push_back(packet);
    if (chance(config_.faults.message_repeat) && late_.size() < kLateMax) late_.push_back(packet);
    net_.push_back(std::move(packet));
}

void World::deliver(const Packet& packet) {
    Site& site = packet.to_home ? home_ : away_;
    if (!site.up) return;
    if (!packet.message.empty()) {
        const Result<Message> message = decode_message(packet.message);
        if (!message.ok()) return violate("decode: " + message.error().message());
        note(std::string(packet.to_home ? "home" : "away") + " gets " + to_string(message->kind) +
             " vm " + std::to_string(raw(message->vm)) + " h " +
             std::to_string(raw(message->handover)));
        if (site.is_home) {
            accept(site, site.coordinator->deliver(*message, now()));
        } else {
            accept(site, site.desk->deliver(*message, now()));
        }
        return;
    }
    ModelVm& vm = model(packet.vm);
    if (!site.desk->find(packet.vm)->accepts_batches()) return;
    AwayEvent event;
    event.handover = packet.handover;
    event.epoch = packet.epoch;
    if (raw(packet.handover) != 0 && (seal_failures_ > 0 || chance(config_.faults.seal_fails))) {
        if (seal_failures_ > 0) --seal_failures_;
        event.kind = AwayEventKind::final_failed;
    } else {
        vm.staged_version = packet.version;
        vm.staged_final = packet.handover;
        event.kind = AwayEventKind::final_sealed;
    }
    if (raw(packet.handover) == 0) return;
    note(std::string("away ") + to_string(event.kind) + " h " +
         std::to_string(raw(packet.handover)));
    if (point(site)) return crash(site);
    accept(site, site.desk->handle(packet.vm, event, now()));
}

void World::perform_home(Job& job) {
    const Act& act = job.act;
    ModelVm& vm = model(act.vm);
    HomeEvent answer;
    answer.handover = act.handover;
    answer.ticket = act.ticket;
    const bool fails = chance(config_.faults.act_fails);
    const auto say = [&](HomeEventKind kind) {
        answer.kind = kind;
        job.home_answer = answer;
    };
    switch (act.kind) {
        case ActKind::send_message:
            return send({false, encode(act.message), act.vm, {}, {}, 0});
        case ActKind::start_drain:
            return say(fails ? HomeEventKind::drain_failed : HomeEventKind::drained);
        case ActKind::stop_guest:
            if (vm.guest == Guest::destroyed) return say(HomeEventKind::guest_gone);
            if (fails) return say(HomeEventKind::stop_failed);
            vm.guest = Guest::stopped;
            return say(HomeEventKind::guest_stopped);
        case ActKind::capture_final:
            if (vm.guest != Guest::stopped)
                return violate("final capture of a guest that is not stopped");
            if (fails) return say(HomeEventKind::capture_failed);
            vm.epoch = Epoch{raw(vm.epoch) + 1};
            vm.captured_version = vm.version;
            vm.captured_epoch = answer.epoch = vm.epoch;
            return say(HomeEventKind::captured);
        case ActKind::send_final:
            if (vm.captured_epoch != act.epoch)
                return violate("SEAL of an epoch that was not captured");
            return send({false, {}, act.vm, act.handover, act.epoch, vm.captured_version});
        case ActKind::resume_guest:
            if (vm.guest == Guest::destroyed) return say(HomeEventKind::guest_gone);
            if (fails) return say(HomeEventKind::resume_failed);
            vm.guest = Guest::running;
            check();
            if (vm.ran_away && !vm.forced) violate("resumed at home after it ran at away");
            return say(HomeEventKind::guest_resumed);
        case ActKind::destroy_source:
            if (!vm.ran_away && !vm.forced) violate("source destroyed although away never ran it");
            if (fails) return say(HomeEventKind::destroy_failed);
            vm.guest = Guest::destroyed;
            return say(HomeEventKind::source_destroyed);
        default:
            return;
    }
}

void World::perform_away(Job& job) {
    const Act& act = job.act;
    ModelVm& vm = model(act.vm);
    AwayEvent answer;
    answer.handover = act.handover;
    const auto say = [&](AwayEventKind kind) {
        answer.kind = kind;
        job.away_answer = answer;
    };
    switch (act.kind) {
        case ActKind::send_message:
            return send({true, encode(act.message), act.vm, {}, {}, 0});
        case ActKind::prepare_landing:
            if (chance(config_.faults.act_fails / 2)) return say(AwayEventKind::landing_refused);
            if (vm.landing == Landing::running) violate("a running guest was prepared for landing");
            if (vm.landing == Landing::none) vm.landing = Landing::waiting;
            return say(AwayEventKind::landing_prepared);
        case ActKind::run_landing: {
            if (vm.landing == Landing::running) return say(AwayEventKind::landed);
            if (landing_failures_ > 0 || chance(config_.faults.act_fails)) {
                if (landing_failures_ > 0) --landing_failures_;
                vm.landing = Landing::none;
                return say(AwayEventKind::landing_failed);
            }
            vm.landing = act.paused ? Landing::paused : Landing::running;
            check();
            // A held landing that was given back meanwhile may still land, paused, before it is
            // cancelled.
            const bool right = vm.staged_final == act.handover && vm.staged_version == vm.version;
            if (!right && !vm.forced && !act.paused)
                violate("landed something else than the stopped guest");
            if (act.paused) return say(AwayEventKind::landed_paused);
            vm.ran_away = true;
            if (chance(config_.faults.landing_dies)) {
                vm.landing = Landing::none;
                return say(AwayEventKind::landing_lost);
            }
            return say(AwayEventKind::landed);
        }
        case ActKind::cancel_landing:
            if (vm.landing == Landing::running) violate("a running guest was cancelled at away");
            vm.landing = Landing::none;
            return say(AwayEventKind::landing_cancelled);
        case ActKind::adopt_vm:
            if (vm.landing != Landing::running) violate("adopted a guest that does not run");
            return;
        default:
            return;
    }
}

void World::give_answer(Site& site, Job job) {
    if (job.home_answer) {
        note("home vm " + std::to_string(raw(job.act.vm)) + " " + to_string(job.home_answer->kind) +
             " h " + std::to_string(raw(job.home_answer->handover)));
        accept(site, site.coordinator->handle(job.act.vm, *job.home_answer, now()));
    } else if (job.away_answer) {
        note("away vm " + std::to_string(raw(job.act.vm)) + " " + to_string(job.away_answer->kind) +
             " h " + std::to_string(raw(job.away_answer->handover)));
        accept(site, site.desk->handle(job.act.vm, *job.away_answer, now()));
    }
}

void World::step_job(Site& site) {
    if (!site.up) return;
    std::vector<VmId> ready;
    for (const auto& [vm, queue] : site.jobs) {
        if (!queue.empty()) ready.push_back(vm);
    }
    if (ready.empty()) return;
    std::deque<Job>& queue = site.jobs[ready[random_.below(ready.size())]];
    Job& job = queue.front();
    if (!job.done) {
        if (point(site)) return crash(site);
        note(std::string(site.is_home ? "home" : "away") + " vm " +
             std::to_string(raw(job.act.vm)) + " does " + to_string(job.act.kind) + " h " +
             std::to_string(raw(job.act.handover)));
        site.is_home ? perform_home(job) : perform_away(job);
        job.done = true;
        check();
        if (point(site)) return crash(site);
        if (random_.chance(0.3)) return;  // the answer comes later
    }
    Job done = std::move(job);
    queue.pop_front();
    give_answer(site, std::move(done));
}

void World::step_packet() {
    if (!late_.empty() && chance(kLateArrives)) {
        const size_t at = random_.below(late_.size());
        const Packet packet = late_[at];
        late_.erase(late_.begin() + static_cast<std::ptrdiff_t>(at));
        return deliver(packet);
    }
    if (net_.empty()) return;
    // Mostly in order; under faults any packet may be overtaken.
    const size_t at = chance(config_.faults.message_repeat) ? random_.below(net_.size()) : 0;
    const Packet packet = net_[at];
    net_.erase(net_.begin() + static_cast<std::ptrdiff_t>(at));
    deliver(packet);
}

void World::step_time() {
    now_ns_ += (10 + random_.below(200)) * kNsPerMs;
    for (Site* site : {&home_, &away_}) {
        if (!site->up && !site->dead && now_ns_ >= site->down_until_ns) start(*site);
    }
    if (!link_up_ && (now_ns_ >= link_back_ns_ || (!faults_on_ && !cut_))) link_up_ = true;
    if (link_up_) cut_ = false;
    if (link_up_ && !session_ && home_.up && away_.up) session_up();
    if (session_ && home_.up) home_.coordinator->away_heard(now());
    if (session_ && away_.up) away_.desk->home_heard(now());
    if (home_.up) accept(home_, home_.coordinator->tick(now()));
    if (home_.up) accept(home_, home_.coordinator->advance(0, now()));
    if (away_.up) accept(away_, away_.desk->tick(now()));
}

// An ordinary round: what is staged gets newer while the VM is protected.
void World::step_round() {
    const uint32_t i = static_cast<uint32_t>(random_.below(config_.vms));
    ModelVm& vm = vms_[i];
    if (!home_.up || vm.guest != Guest::running) return;
    ++vm.version;
    if (home_.coordinator->find(VmId{i})->may_prestage())
        send({false, {}, VmId{i}, {}, {}, vm.version});
}

void World::step_operator() {
    const uint32_t i = static_cast<uint32_t>(random_.below(config_.vms));
    ModelVm& vm = vms_[i];
    if (config_.cancel_when_sealed && home_.up && home_.coordinator->stage() == Stage::evacuating &&
        home_.coordinator->find(VmId{0})->state() == State::sealed) {
        note("operator cancels");
        accept(home_, home_.coordinator->cancel("", now()));
    }
    if (chance(config_.faults.cancel) && home_.up)
        accept(home_, home_.coordinator->cancel("", now()));
    HomeEvent home_event;
    AwayEvent away_event;
    if (chance(config_.faults.abort) && home_.up) {
        home_event.kind = HomeEventKind::abort;
        accept(home_, home_.coordinator->handle(VmId{i}, home_event, now()));
    }
    if (chance(config_.faults.give_back) && away_.up) {
        away_event.kind = AwayEventKind::give_back;
        note("operator gives back vm " + std::to_string(i));
        accept(away_, away_.desk->handle(VmId{i}, away_event, now()));
    }
    if (chance(config_.faults.force)) {
        vm.forced = true;
        home_event.confirmed = away_event.confirmed = true;
        home_event.kind =
            random_.chance(0.5) ? HomeEventKind::force_resume : HomeEventKind::force_yield;
        away_event.kind = AwayEventKind::force_run;
        if (random_.chance(0.5) && home_.up) {
            accept(home_, home_.coordinator->handle(VmId{i}, home_event, now()));
        } else if (away_.up) {
            accept(away_, away_.desk->handle(VmId{i}, away_event, now()));
        }
    }
    const bool held = away_.up && away_.desk->find(VmId{i})->landed_paused();
    if (held && random_.chance(0.05)) {
        if (random_.chance(0.5) && home_.up) {
            home_event.kind = HomeEventKind::release_hold;
            accept(home_, home_.coordinator->handle(VmId{i}, home_event, now()));
        } else {
            away_event.kind = AwayEventKind::release_hold;
            accept(away_, away_.desk->handle(VmId{i}, away_event, now()));
        }
    }
}

void World::check() {
    for (uint32_t i = 0; i < config_.vms; ++i) {
        const ModelVm& vm = vms_[i];
        if (!vm.forced && vm.guest == Guest::running && vm.landing == Landing::running) {
            violate("two running copies of vm " + std::to_string(i));
        }
        if (!vm.forced && vm.guest == Guest::destroyed && !vm.ran_away) {
            violate("no copy of vm " + std::to_string(i) + " left");
        }
    }
}

void World::step() {
    switch (random_.below(8)) {
        case 0:
        case 1:
            step_packet();
            break;
        case 2:
        case 3:
            step_job(home_);
            break;
        case 4:
        case 5:
            step_job(away_);
            break;
        case 6:
            step_time();
            break;
        default:
            step_round();
            step_operator();
            break;
    }
    if (session_ && chance(config_.faults.session_drop)) {
        note("session lost");
        session_down();
        link_up_ = false;
        link_back_ns_ = now_ns_ + random_.below(20'000) * kNsPerMs;
    }
    for (ModelVm& vm : vms_) {
        if (vm.guest == Guest::running) ++vm.version;
    }
    check();
}

std::string World::run() {
    start(home_);
    start(away_);
    session_up();
    EvacuationRequest request;
    request.event_id = "sim";
    request.options = config_.options;
    for (uint32_t i = 0; i < config_.vms; ++i) request.order.push_back({VmId{i}, 0, 0});
    // The alert; repeated when a crash swallowed it.
    for (uint32_t i = 0; i < config_.fault_steps && violation_.empty(); ++i) {
        if (home_.up && home_.coordinator->stage() == Stage::idle && i < config_.fault_steps / 2) {
            accept(home_, home_.coordinator->evacuate(request, now()));
        }
        step();
    }
    faults_on_ = false;
    note("peace");
    const uint32_t peace_steps = 6'000;
    for (uint32_t i = 0; i < peace_steps && violation_.empty(); ++i) step();
    if (violation_.empty()) check_end();
    return violation_;
}

void World::check_end() {
    if (home_.dead || away_.dead) return;  // the waiting states have tests of their own
    for (uint32_t i = 0; i < config_.vms; ++i) check_end_of(i);
    const Stage stage = home_.coordinator->stage();
    const bool lossy = config_.faults.landing_dies > 0 || config_.faults.force > 0;
    if (!lossy && (stage == Stage::evacuating || stage == Stage::cancelling)) {
        violate(std::string("the evacuation never ends: ") + to_string(stage));
    }
}

void World::check_end_of(uint32_t i) {
    const ModelVm& vm = vms_[i];
    if (vm.forced) return;
    const State home = home_.coordinator->find(VmId{i})->state();
    const State away = away_.desk->find(VmId{i})->state();
    const bool at_home = (home == State::protected_ || home == State::armed) &&
                         vm.guest == Guest::running && vm.landing == Landing::none &&
                         away == State::protected_ &&
                         home_.coordinator->find(VmId{i})->may_prestage();
    const bool moved = home == State::released && away == State::released &&
                       vm.guest == Guest::destroyed && vm.landing == Landing::running;
    // An operator is asked: it ran at away and died, or home could not resume it five times.
    const bool asked = (away == State::lost && home == State::committed) ||
                       (config_.faults.act_fails > 0 && home == State::lost);
    if (!at_home && !moved && !asked) {
        violate("vm " + std::to_string(i) + " does not converge: home " + to_string(home) +
                ", away " + to_string(away));
    }
}

}  // namespace evac::evacuation::sim
