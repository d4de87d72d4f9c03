#include "home_service.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "files.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kRetryNs = 2 * kNsPerSecond;  // after an unreachable QMP socket
// The reason may have gone: a pause, a foreign migration. Doubles up to the second.
constexpr uint64_t kRefusedRetryNs = 10 * kNsPerSecond;
constexpr uint64_t kRefusedRetryMaxNs = 300 * kNsPerSecond;
// Before a guest that our round left standing is resumed after a restart: away may say that it runs
// it by a forced act.
constexpr uint64_t kPeerWordNs = kNsPerSecond;         // after the session came up
constexpr uint64_t kPeerSilentNs = 10 * kNsPerSecond;  // without one
constexpr size_t kNameMax = 64;
constexpr size_t kHomeVmsMax = 16'384;

bool valid_name(const std::string& name) {
    return !name.empty() && name.size() <= kNameMax && name.front() != '.' && name.front() != '-' &&
           name.find_first_not_of(
               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               std::string::npos;
}

nlohmann::json disks_to_json(const std::vector<storage_sync::DiskInfo>& disks) {
    auto list = nlohmann::json::array();
    for (const auto& d : disks) {
        list.push_back({{"name", d.name},
                        {"qdev", d.qdev},
                        {"node", d.node},
                        {"format", d.format},
                        {"bytes", d.size_bytes}});
    }
    return list;
}

std::vector<storage_sync::DiskInfo> disks_from_json(const nlohmann::json& list) {
    std::vector<storage_sync::DiskInfo> disks;
    for (const auto& d : list) {
        disks.push_back({d.at("name").get<std::string>(), d.at("qdev").get<std::string>(),
                         d.at("node").get<std::string>(), d.at("format").get<std::string>(),
                         d.at("bytes").get<uint64_t>()});
    }
    return disks;
}

}  // namespace

const char* to_string(VmPhase phase) {
    switch (phase) {
        case VmPhase::offline:
            return "offline";
        case VmPhase::enrolling:
            return "enrolling";
        case VmPhase::refused:
            return "refused";
        case VmPhase::offering:
            return "offering";
        case VmPhase::syncing:
            return "syncing";
        case VmPhase::active:
            return "active";
        case VmPhase::moved:
            return "moved";
    }
    return "unknown";
}

HomeService::HomeService(Ports ports, uint64_t fingerprint_seed)
    : ports_(std::move(ports)),
      seed_(fingerprint_seed),
      started_ns_(ports_.clock.now_ns()),
      pacing_({ports_.config.prestage.cpu_share,
               static_cast<uint32_t>(ports_.config.prestage.rounds_at_once),
               ports_.config.prestage.interval_s}) {}

JobContext HomeService::job_context() const {
    return {ports_.reducer,
            ports_.clock,
            ports_.log,
            ports_.config.site.run_dir,
            ports_.config.site.state_dir + "/home",
            seed_,
            std::nullopt,
            ports_.guard,
            {}};
}

std::string HomeService::catalogue_path(const std::string& name) const {
    return ports_.config.site.state_dir + "/catalogue/" + name + ".cat";
}

// A kernel that does not tell its boot has files that cannot be judged.
JobContext HomeService::enrolment_context(const HomeVm& vm) const {
    JobContext context = job_context();
    if (!boot_id_.empty()) context.catalogue = {catalogue_path(vm.name), boot_id_, vm.id, vm.uuid};
    return context;
}

// --- registry

Status HomeService::save(const HomeVm& vm) const {
    const nlohmann::json record{
        {"version", 1},
        {"id", raw(vm.id)},
        {"name", vm.name},
        {"uuid", vm.uuid},
        {"qmp", vm.qmp_path},
        {"priority", vm.priority},
        {"max_downtime_ms", vm.max_downtime_ms},
        {"capture", vm.capture_wanted ? to_string(*vm.capture_wanted) : "auto"},
        {"rpo_target_s", vm.rpo_target_s},
        {"epoch_reserved", vm.epoch_reserved},
        {"facts", vm.examined.facts.ram_blocks.empty()
                      ? std::string()
                      : prestage::facts_to_text(vm.examined.facts)},
        {"argv", vm.examined.argv},
        {"disks", disks_to_json(vm.examined.disks)}};
    return write_file_durably(ports_.config.site.state_dir + "/home/" + vm.name + ".json",
                              record.dump(1) + "\n");
}

Status HomeService::load() {
    const std::string dir = ports_.config.site.state_dir + "/home";
    EVAC_TRY(make_dirs(dir));
    EVAC_TRY(make_dirs(ports_.config.site.state_dir + "/catalogue"));
    std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id_;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
        if (entry.path().extension() == ".json") EVAC_TRY(load_one(entry.path().string()));
    }
    if (error) return io_error("read '" + dir + "'", error.value());
    return {};
}

Status HomeService::load_one(const std::string& path) {
    std::ifstream file(path);
    const auto record = nlohmann::json::parse(file, nullptr, false);
    try {
        auto vm = std::make_unique<HomeVm>();
        vm->id = VmId{record.at("id").get<uint32_t>()};
        vm->name = record.at("name").get<std::string>();
        vm->uuid = record.at("uuid").get<std::string>();
        vm->qmp_path = record.at("qmp").get<std::string>();
        vm->priority = record.at("priority").get<double>();
        vm->max_downtime_ms = record.at("max_downtime_ms").get<double>();
        vm->rpo_target_s = record.value("rpo_target_s", 0.0);
        // Absent in older records: auto.
        auto wanted = prestage::parse_capture("capture", record.value("capture", "auto"));
        EVAC_TRY(wanted);
        vm->capture_wanted = *wanted;
        vm->epoch_reserved = record.at("epoch_reserved").get<uint32_t>();
        vm->epoch = vm->epoch_reserved;
        vm->examined.argv = record.at("argv").get<std::vector<std::string>>();
        vm->examined.disks = disks_from_json(record.at("disks"));
        const auto facts_text = record.at("facts").get<std::string>();
        if (!facts_text.empty()) {
            auto facts = prestage::facts_from_text(facts_text);
            EVAC_TRY(facts);
            vm->examined.facts = std::move(*facts);
        }
        next_id_ = std::max(next_id_, raw(vm->id) + 1);
        EVAC_TRY(ports_.coordinator.add_vm(vm->id));
        vm->flow->account = ports_.reducer.budget().open();
        by_name_[vm->name] = vm->id;
        vms_[vm->id] = std::move(vm);
    } catch (const nlohmann::json::exception& e) {
        return make_error(Errc::corrupt, "registry file '" + path + "': " + e.what());
    }
    return {};
}

Result<VmId> HomeService::add(const AddRequest& request) {
    if (!valid_name(request.name)) {
        return make_error(
            Errc::invalid_argument,
            "name: '" + request.name + "' is refused; accepted: 1 to 64 of letters, digits, . _ -");
    }
    if (request.qmp_path.empty() || request.qmp_path.front() != '/') {
        return make_error(Errc::invalid_argument,
                          "qmp: '" + request.qmp_path +
                              "' is refused; accepted: the absolute path of a QMP Unix socket");
    }
    if (vms_.size() >= kHomeVmsMax)
        return make_error(Errc::refused, "at most 16384 VMs are accepted");
    if (HomeVm* old = find(request.name)) {
        if (old->phase != VmPhase::refused) {
            return make_error(Errc::already_exists,
                              "name: '" + request.name + "' is enrolled already");
        }
        EVAC_TRY(remove(request.name));
    }
    for (const auto& [id, vm] : vms_) {
        if (vm->qmp_path == request.qmp_path) {
            return make_error(Errc::already_exists,
                              "qmp: '" + request.qmp_path + "' is '" + vm->name + "'s");
        }
    }
    auto vm = std::make_unique<HomeVm>();
    vm->id = VmId{next_id_++};
    vm->name = request.name;
    vm->uuid = random_hex(16);
    vm->qmp_path = request.qmp_path;
    vm->priority = request.priority;
    vm->max_downtime_ms = request.max_downtime_ms;
    vm->rpo_target_s = request.rpo_target_s;
    vm->capture_wanted = request.capture;
    EVAC_TRY(ports_.coordinator.add_vm(vm->id));
    EVAC_TRY(save(*vm));
    const VmId id = vm->id;
    vm->flow->account = ports_.reducer.budget().open();
    by_name_[vm->name] = id;
    vms_[id] = std::move(vm);
    connect(*vms_[id]);
    return id;
}

Status HomeService::remove(const std::string& name) {
    HomeVm* vm = find(name);
    if (vm == nullptr) return make_error(Errc::not_found, "vm '" + name + "' is not enrolled");
    if (vm->busy) {
        if (vm->examined.capture) vm->examined.capture->cancel = true;
        return make_error(Errc::unavailable,
                          "vm '" + name + "' is being captured; try again in a moment");
    }
    EVAC_TRY(ports_.coordinator.remove_vm(vm->id));
    std::error_code error;
    const std::string dir = ports_.config.site.state_dir + "/home";
    std::filesystem::remove(dir + "/" + name + ".json", error);
    std::filesystem::remove(round_mark(dir, name), error);
    std::filesystem::remove(catalogue_path(name), error);
    ports_.reducer.command(to_reducer::RemoveVm{vm->id});
    ports_.link.send(protocol::Forget{vm->id});
    if (auto capture = vm->examined.capture; capture && capture->disks) {
        ports_.workers.submit([capture](size_t) -> Completion {
            static_cast<void>(capture->disks->stop_tracking().ok());
            return [capture] {};
        });
    }
    ports_.reducer.budget().close(vm->flow->account);
    waiting_.erase(vm->id);
    by_name_.erase(name);
    vms_.erase(vm->id);
    return {};
}

HomeVm* HomeService::find(const std::string& name) {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : find(found->second);
}

HomeVm* HomeService::find(VmId id) {
    const auto found = vms_.find(id);
    return found == vms_.end() ? nullptr : found->second.get();
}

// --- enrolment

void HomeService::wait_refused(HomeVm& vm) const {
    vm.refused_wait_ns = std::clamp(vm.refused_wait_ns * 2, kRefusedRetryNs, kRefusedRetryMaxNs);
    vm.retry_ns = ports_.clock.now_ns() + vm.refused_wait_ns;
}

bool HomeService::must_hear_peer_first(const HomeVm& vm) const {
    const uint64_t now_ns = ports_.clock.now_ns();
    const bool heard = peer_up_ns_ != 0 && now_ns > peer_up_ns_ + kPeerWordNs;
    if (heard || now_ns > started_ns_ + kPeerSilentNs) return false;
    return std::filesystem::exists(round_mark(ports_.config.site.state_dir + "/home", vm.name));
}

void HomeService::connect(HomeVm& vm) {
    if (must_hear_peer_first(vm)) {
        vm.phase = VmPhase::offline;
        vm.retry_ns = ports_.clock.now_ns() + kPeerWordNs / 5;
        return;
    }
    if (vm.phase != VmPhase::refused) vm.phase = VmPhase::enrolling;
    vm.busy = true;
    const VmId id = vm.id;
    JobContext context = enrolment_context(vm);
    context.wanted = vm.capture_wanted;
    // A guest in a handover may stand still and must not be probed. In `draining` it still runs,
    // and what a killed gateway left of a round must be cleared away, which the examination does;
    // the drain waits for it.
    const auto* handover = ports_.coordinator.find(id);
    const auto state = handover == nullptr ? evacuation::State::protected_ : handover->state();
    const bool known = !vm.examined.facts.ram_blocks.empty() &&
                       state != evacuation::State::protected_ &&
                       state != evacuation::State::armed && state != evacuation::State::draining;
    Examined stored;
    if (known) {
        stored.facts = vm.examined.facts;
        stored.disks = vm.examined.disks;
        stored.argv = vm.examined.argv;
    }
    Before before = vm.examined.facts.ram_blocks.empty() ? Before::unknown : Before::enrolled;
    if (handover != nullptr && handover->away_runs()) before = Before::away_runs;
    const bool submitted = ports_.workers.submit([this, id, context, known, stored, before,
                                                  name = vm.name,
                                                  path = vm.qmp_path](size_t) -> Completion {
        auto examined =
            std::make_shared<Result<Examined>>(known ? reattach_vm(context, name, path, stored)
                                                     : examine_vm(context, name, path, before));
        return [this, id, examined] {
            HomeVm* found = find(id);
            if (found == nullptr) return;
            found->busy = false;
            if (!examined->ok()) {
                const Error& error = examined->error();
                found->examined.capture.reset();  // of a connection that is no more
                found->phase = error.code == Errc::refused || error.code == Errc::corrupt ||
                                       error.code == Errc::invalid_argument
                                   ? VmPhase::refused
                                   : VmPhase::offline;
                found->socket_dead = error.sys_errno == ECONNREFUSED || error.sys_errno == ENOENT;
                found->retry_ns = ports_.clock.now_ns() + kRetryNs;
                if (found->phase == VmPhase::refused) wait_refused(*found);
                if (found->detail != error.message()) {
                    ports_.log.warning("vm " + found->name + ": " + error.message());
                }
                found->detail = error.message();
                run_next(id);
                return;
            }
            found->examined = std::move(**examined);
            // The secret may have changed while it was examined.
            auto& catalogue = *found->examined.capture->catalogue;
            if (catalogue.seed() != seed_) catalogue.reseed(seed_);
            found->reseeding = false;
            found->detail.clear();
            found->socket_dead = false;
            choose_method(*found);
            ++found->generation;
            found->failures = 0;
            const Status saved = save(*found);
            if (!saved.ok()) ports_.log.error("registry: " + saved.error().message());
            ports_.reducer.command(to_reducer::AddVm{id, found->generation, found->regions(),
                                                     found->flow,
                                                     std::exchange(found->examined.sources, {})});
            found->phase = VmPhase::offering;
            offer(*found);
            run_next(id);
        };
    });
    if (!submitted) {
        vm.busy = false;
        vm.phase = VmPhase::offline;
        vm.retry_ns = ports_.clock.now_ns() + kRetryNs;
    }
}

void HomeService::offer(HomeVm& vm) {
    if (!ports_.link.up() || !vm.examined.capture || vm.reseeding) return;
    vm.phase = VmPhase::offering;
    protocol::Enrol enrol;
    enrol.vm = vm.id;
    enrol.name = vm.name;
    enrol.uuid = vm.uuid;
    for (const auto& region : vm.regions())
        enrol.regions.push_back({region.kind, region.size_bytes, region.name});
    enrol.facts = prestage::facts_to_text(vm.examined.facts);
    enrol.argv = vm.examined.argv;
    enrol.last_epoch = Epoch{vm.epoch};
    if (enrol.facts.size() > protocol::kFactsBytesMax) {
        vm.phase = VmPhase::refused;
        vm.detail = "its description is too large for the peer";
        return;
    }
    ports_.link.send(enrol);
}

void HomeService::on_enrol_result(const protocol::EnrolResult& m) {
    HomeVm* vm = find(m.vm);
    if (vm == nullptr || vm->phase != VmPhase::offering) return;
    if (!m.ok) {
        vm->phase = VmPhase::refused;
        wait_refused(*vm);
        const std::string detail = "the peer refuses it: " + m.reason;
        if (vm->detail != detail) ports_.log.warning("vm " + vm->name + ": " + detail);
        vm->detail = detail;
        return;
    }
    vm->refused_wait_ns = 0;
    constexpr uint32_t kEpochsLeftMin = 1U << 20;
    if (raw(m.newest) > UINT32_MAX - kEpochsLeftMin || raw(m.sealed) > raw(m.newest))
        return lose_vm(*vm, "the peer's epochs are not plausible");
    vm->sealed = m.sealed;
    vm->sealed_point_unix_ms = m.point_unix_ms;
    vm->epoch = std::max(vm->epoch, raw(m.newest));
    begin_sync(*vm);
}

void HomeService::on_reducer_event(const from_reducer::Event& event) {
    if (const auto* reset = std::get_if<from_reducer::VmReset>(&event)) {
        HomeVm* vm = find(reset->vm);
        if (vm == nullptr || vm->phase != VmPhase::syncing || vm->generation != reset->generation)
            return;
        ask_fingerprints(*vm, reset->batches);
    } else if (const auto* loaded = std::get_if<from_reducer::TagsLoaded>(&event)) {
        load_tags(loaded->vm, loaded->generation);
    } else if (const auto* lost = std::get_if<from_reducer::PageLost>(&event)) {
        HomeVm* vm = find(lost->vm);
        if (vm == nullptr || !vm->examined.capture) return;
        const auto capture = vm->examined.capture;
        with_capture(*vm, [capture, lost = *lost](CaptureSet& set, size_t) -> Completion {
            // Of another set, made since, the regions may be others.
            if (&set == capture.get()) set.forget.emplace_back(lost.region, lost.page);
            return {};
        });
        vm->awaiting = Epoch{};
        vm->lost_in_pass = vm->busy;
    } else if (const auto* sent = std::get_if<from_reducer::SealSent>(&event)) {
        HomeVm* vm = find(sent->vm);
        if (vm != nullptr && vm->awaiting == sent->epoch) vm->seal_sent = true;
    }
}

void HomeService::session_up() {
    if (peer_up_ns_ == 0) peer_up_ns_ = ports_.clock.now_ns();
    for (auto& [id, vm] : vms_) {
        if (vm->busy && vm->examined.capture)
            vm->examined.capture->cancel = true;  // what it captures is void
        if (vm->phase == VmPhase::active || vm->phase == VmPhase::syncing ||
            vm->phase == VmPhase::offering ||
            (vm->phase == VmPhase::refused && vm->examined.capture)) {
            ++vm->generation;
            offer(*vm);
        }
    }
}

void HomeService::rekey(uint64_t fingerprint_seed) {
    seed_ = fingerprint_seed;
    for (auto& [id, vm] : vms_) {
        if (!vm->examined.capture) continue;
        if (vm->busy) vm->examined.capture->cancel = true;  // under the old seed
        if (vm->phase == VmPhase::active || vm->phase == VmPhase::syncing)
            vm->phase = VmPhase::offering;
        ++vm->generation;
        vm->awaiting = Epoch{};
        vm->reseeding = true;
        with_capture(*vm, [this, id = id, seed = seed_](CaptureSet& set, size_t) -> Completion {
            if (set.catalogue->seed() != seed) set.catalogue->reseed(seed);
            return [this, id, seed] {
                HomeVm* found = find(id);
                if (found == nullptr || seed != seed_) return;  // changed once more: the next job
                found->reseeding = false;
                if (found->phase == VmPhase::offering) offer(*found);
            };
        });
    }
}

void HomeService::lose_vm(HomeVm& vm, const std::string& why) {
    ports_.log.warning("vm " + vm.name + ": " + why);
    vm.detail = why;
    vm.phase = VmPhase::offline;
    vm.retry_ns = ports_.clock.now_ns() + kRetryNs;
    ++vm.generation;
    ports_.reducer.command(to_reducer::CloseContent{vm.id});
}

void HomeService::on_batch_ack(protocol::BatchAck&& m) {
    ports_.reducer.command(to_reducer::Acknowledge{m.vm, std::move(m.sequences)});
}

void HomeService::on_nak(protocol::Nak&& m) {
    ports_.reducer.command(to_reducer::Naks{m.vm, m.sequence, std::move(m.pages)});
}

double HomeService::rpo_s(const HomeVm& vm) const {
    if (vm.sealed_point_unix_ms == 0) return -1;
    return static_cast<double>(
               std::max<int64_t>(0, ports_.clock.wall_unix_ms() - vm.sealed_point_unix_ms)) /
           1000.0;
}

bool HomeService::protected_now(const HomeVm& vm) const {
    const auto* handover = ports_.coordinator.find(vm.id);
    return vm.phase == VmPhase::active && vm.sealed_once() &&
           (handover == nullptr || !handover->away_runs());
}

}  // namespace evac::daemon
