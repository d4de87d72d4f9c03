#include "away_service.hpp"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "evac/landing/command.hpp"
#include "files.hpp"
#include "landing_jobs.hpp"

namespace evac::daemon {

namespace {

constexpr size_t kStagedVmsMax = 16'384;

}  // namespace

std::string AwayService::dir_of(VmId id) const {
    return ports_.config.site.state_dir + "/staged/" + std::to_string(raw(id));
}
std::string AwayService::ram_dir_of(VmId id) const {
    return ports_.config.staging.ram_dir + "/" + std::to_string(raw(id));
}
std::string AwayService::run_dir_of(const AwayVm& vm) const {
    return ports_.config.site.run_dir + "/landing-" + std::to_string(raw(vm.id));
}

// --- registry

Status AwayService::save(const AwayVm& vm) const {
    auto regions = nlohmann::json::array();
    for (const auto& region : vm.regions) {
        regions.push_back({{"kind", static_cast<int>(region.kind)},
                           {"bytes", region.bytes},
                           {"name", region.name}});
    }
    const nlohmann::json record{{"version", 1},       {"id", raw(vm.id)},     {"name", vm.name},
                                {"uuid", vm.uuid},    {"facts", vm.facts},    {"argv", vm.argv},
                                {"regions", regions}, {"adopted", vm.adopted}};
    EVAC_TRY(make_dirs(dir_of(vm.id)));
    return write_file_durably(dir_of(vm.id) + "/enrol.json", record.dump(1) + "\n");
}

Status AwayService::load() {
    const std::string root = ports_.config.site.state_dir + "/staged";
    EVAC_TRY(make_dirs(root));
    EVAC_TRY(make_dirs(ports_.config.staging.ram_dir));
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
        const std::string path = entry.path().string() + "/enrol.json";
        if (std::filesystem::exists(path)) EVAC_TRY(load_one(path));
    }
    if (error) return io_error("read '" + root + "'", error.value());
    return {};
}

Status AwayService::load_one(const std::string& path) {
    std::ifstream file(path);
    const auto record = nlohmann::json::parse(file, nullptr, false);
    try {
        auto vm = std::make_unique<AwayVm>();
        vm->id = VmId{record.at("id").get<uint32_t>()};
        vm->name = record.at("name").get<std::string>();
        vm->uuid = record.at("uuid").get<std::string>();
        vm->facts = record.at("facts").get<std::string>();
        vm->argv = record.at("argv").get<std::vector<std::string>>();
        vm->adopted = record.at("adopted").get<bool>();
        for (const auto& region : record.at("regions")) {
            vm->regions.push_back({static_cast<RegionKind>(region.at("kind").get<int>()),
                                   region.at("bytes").get<uint64_t>(),
                                   region.at("name").get<std::string>()});
        }
        AwayVm& stored = *(vms_[vm->id] = std::move(vm));
        EVAC_TRY(ports_.desk.add_vm(stored.id));
        if (!stored.adopted) {
            ++opening_;
            open(stored);
        }
    } catch (const nlohmann::json::exception& e) {
        return make_error(Errc::corrupt, "staged VM's record '" + path + "': " + e.what());
    }
    return {};
}

// One that the peer stages comes before one of that name that is our own by now, and among several
// (a removal that could not be told) that with the newest recovery point.
AwayVm* AwayService::find(std::string_view name) {
    AwayVm* best = nullptr;
    const auto rank = [](const AwayVm& vm) { return std::pair(!vm.adopted, vm.point_unix_ms); };
    for (auto& [id, vm] : vms_) {
        if (vm->name == name && (best == nullptr || rank(*vm) > rank(*best))) best = vm.get();
    }
    return best;
}

AwayVm* AwayService::find(VmId id) {
    const auto found = vms_.find(id);
    return found == vms_.end() ? nullptr : found->second.get();
}

// --- enrolment of the peer's VMs

void AwayService::answer_enrol(AwayVm& vm, bool ok, const std::string& reason) {
    vm.answer_enrol = false;
    protocol::EnrolResult result;
    result.vm = vm.id;
    result.ok = ok;
    result.reason = reason;
    result.sealed = vm.sealed;
    result.newest = vm.sealed;
    result.point_unix_ms = vm.point_unix_ms;
    ports_.link.send(result);
    if (!ok) ports_.log.warning("vm " + vm.name + " of the peer is refused: " + reason);
}

// By this site's own word, of a handover or of a forced act.
bool AwayService::runs_here(const AwayVm& vm) const {
    const auto* handover = ports_.desk.find(vm.id);
    if (handover == nullptr) return false;
    const auto state = handover->state();
    return state == evacuation::State::committed || state == evacuation::State::running_away ||
           state == evacuation::State::released || state == evacuation::State::lost;
}

void AwayService::on_enrol(protocol::Enrol&& m) {
    AwayVm* old = find(m.vm);
    if (old != nullptr && old->uuid != m.uuid && old->open && raw(old->sealed) == 0) {
        on_forget(m.vm);
        old = find(m.vm);
    }
    if (old != nullptr && (old->adopted || old->uuid != m.uuid)) {
        // Perhaps of a home that is gone: its recovery points may be the last copy.
        AwayVm refused;
        refused.id = m.vm;
        refused.name = m.name;
        return answer_enrol(refused, false,
                            "another VM ('" + old->name + "') has its number at " +
                                ports_.config.site.name +
                                "; if its copy there is not needed: `evacctl vm force drop`");
    }
    if (old == nullptr && vms_.size() >= kStagedVmsMax) {
        AwayVm refused;
        refused.id = m.vm;
        refused.name = m.name;
        return answer_enrol(refused, false, "at most 16384 staged VMs are accepted");
    }
    if (old != nullptr && runs_here(*old)) {
        return answer_enrol(*old, false,
                            "it runs at " + ports_.config.site.name +
                                "; the copy to stay is decided by `evacctl vm force`");
    }
    auto& slot = vms_[m.vm];
    if (!slot) slot = std::make_unique<AwayVm>();
    AwayVm& vm = *slot;
    if (vm.facts != m.facts || vm.argv != m.argv) vm.tried = false;
    vm.id = m.vm;
    vm.name = m.name;
    vm.uuid = m.uuid;
    vm.facts = std::move(m.facts);
    vm.argv = std::move(m.argv);
    vm.regions = std::move(m.regions);
    vm.answer_enrol = true;
    vm.enrolled_in = ports_.link.session();
    const Status added = ports_.desk.add_vm(vm.id);
    if (!added.ok()) return answer_enrol(vm, false, added.error().message());
    const Status saved = save(vm);
    if (!saved.ok()) return answer_enrol(vm, false, saved.error().message());
    open(vm);
}

void AwayService::open(AwayVm& vm) {
    to_ingest::Open command;
    command.vm = vm.id;
    command.dir = dir_of(vm.id) + "/copy";
    command.ram_dir = ram_dir_of(vm.id);
    command.spec.name = vm.name;
    command.spec.vm = vm.id;
    for (const auto& region : vm.regions)
        command.spec.regions.push_back({region.kind, region.name, region.bytes});
    ports_.ingest.command(std::move(command));
}

void AwayService::on_opened(from_ingest::Opened& event) {
    if (opening_ > 0) --opening_;
    AwayVm* vm = find(event.vm);
    if (vm == nullptr) return;
    vm->open = event.status.ok();
    if (!vm->open) {
        vm->detail = event.status.error().message();
        if (vm->answer_enrol) answer_enrol(*vm, false, vm->detail);
        return;
    }
    vm->files = std::move(event.files);
    vm->sealed = event.sealed;
    vm->point_unix_ms = event.point_unix_ms;
    if (!vm->answer_enrol) return;
    const auto* handover = ports_.desk.find(vm->id);
    const bool in_handover =
        handover != nullptr && handover->state() != evacuation::State::protected_;
    if (vm->tried || in_handover) return answer_enrol(*vm, true, {});
    try_landing(*vm);
}

Result<std::shared_ptr<landing::Lander>> AwayService::make_lander(const AwayVm& vm) const {
    landing::LandingPaths paths;
    paths.qemu_binary = ports_.config.landing.qemu;
    paths.dir = run_dir_of(vm);
    paths.path_map = ports_.config.landing.path_map;
    for (size_t i = 0; i < vm.regions.size() && i < vm.files.size(); ++i) {
        if (vm.regions[i].kind == RegionKind::main_ram) paths.ram_file = vm.files[i];
        if (vm.regions[i].kind == RegionKind::disk) paths.disk_files.push_back(vm.files[i]);
    }
    auto argv = landing::fill_template(vm.argv, paths);
    EVAC_TRY(argv);
    landing::LaunchOptions options;
    options.argv = std::move(*argv);
    options.dir = paths.dir;
    return std::make_shared<landing::Lander>(std::move(options), ports_.log);
}

// Before a VM is accepted its landing QEMU is started once, compared with the source, and ended.
void AwayService::try_landing(AwayVm& vm) {
    with_vm(vm, [this](AwayVm& idle) {
        const VmId id = idle.id;
        auto lander = make_lander(idle);
        if (!lander.ok()) {
            answer_enrol(idle, false, lander.error().message());
            return finish(id);
        }
        auto trial = *lander;
        ports_.workers.submit([this, id, trial, facts = idle.facts](size_t) -> Completion {
            auto outcome = std::make_shared<std::string>();
            const Status launched = trial->launch();
            if (!launched.ok()) {
                *outcome = launched.error().message();
            } else {
                auto text = differences(*trial, facts, ports_.clock, ports_.log);
                *outcome = text.ok() ? *text : text.error().message();
            }
            const Status killed = trial->kill();
            if (!killed.ok() && outcome->empty()) *outcome = killed.error().message();
            return [this, id, outcome, trial] {
                if (AwayVm* found = find(id)) {
                    found->tried = outcome->empty();
                    found->detail = *outcome;
                    answer_enrol(*found, outcome->empty(), *outcome);
                }
                finish(id);
            };
        });
    });
}

void AwayService::on_peer_armed(bool armed) {
    if (armed == armed_) return;
    armed_ = armed;
    for (auto& [id, vm] : vms_) {
        const auto* handover = ports_.desk.find(id);
        const bool idle = handover != nullptr && handover->state() == evacuation::State::protected_;
        if (!idle || !vm->open || vm->adopted || raw(vm->sealed) == 0) continue;
        if (armed && !vm->lander) launch_ahead(*vm);
        if (!armed && vm->lander) end_ahead(*vm);
    }
}

// It waits for its device state and cannot run; whether it fits is still looked at in its turn.
void AwayService::launch_ahead(AwayVm& vm) {
    with_vm(vm, [this](AwayVm& idle) {
        const VmId id = idle.id;
        auto lander = make_lander(idle);
        if (!lander.ok()) return finish(id);
        idle.lander = *lander;
        ports_.workers.submit([this, id, ahead = idle.lander](size_t) -> Completion {
            const bool launched = ahead->attach().ok() || ahead->launch().ok();
            return [this, id, launched] {
                AwayVm* found = find(id);
                if (found != nullptr && !launched) found->lander.reset();
                finish(id);
            };
        });
    });
}

void AwayService::end_ahead(AwayVm& vm) {
    with_vm(vm, [this](AwayVm& idle) {
        const VmId id = idle.id;
        const auto* handover = ports_.desk.find(id);
        if (!idle.lander || handover == nullptr ||
            handover->state() != evacuation::State::protected_)
            return finish(id);
        ports_.workers.submit([this, id, lander = std::move(idle.lander)](size_t) -> Completion {
            const Status killed = lander->kill();
            if (!killed.ok())
                ports_.log.warning("a landing started ahead: " + killed.error().message());
            return [this, id] { finish(id); };
        });
    });
}

void AwayService::on_forget(VmId id) {
    const AwayVm* vm = find(id);
    if (vm == nullptr) return;
    const std::string name = vm->name;
    const Status dropped = drop(id);
    if (!dropped.ok()) {
        ports_.log.warning("vm " + name +
                           ": the peer forgets it; kept: " + dropped.error().context);
    }
}

Status AwayService::drop(VmId id) {
    const AwayVm* vm = find(id);
    if (vm == nullptr) return make_error(Errc::not_found, "it is not staged here");
    if (vm->adopted || vm->busy || runs_here(*vm)) {
        return make_error(Errc::refused, "it runs here, or may, or is being landed");
    }
    EVAC_TRY(ports_.desk.remove_vm(id));
    ports_.ingest.command(to_ingest::Forget{id});
    std::error_code error;
    std::filesystem::remove(dir_of(id) + "/enrol.json", error);
    vms_.erase(id);
    return {};
}

Status AwayService::drop_unused(VmId id) {
    const AwayVm* vm = find(id);
    if (vm != nullptr && ports_.link.up() && vm->enrolled_in == ports_.link.session()) {
        return make_error(Errc::refused, "its home is connected and prestages it: remove it there");
    }
    return drop(id);
}

void AwayService::on_fingerprints_request(const protocol::FingerprintsRequest& m) {
    ports_.ingest.command(to_ingest::Fingerprints{m});
}

void AwayService::on_ingest_event(from_ingest::Event& event) {
    if (auto* opened = std::get_if<from_ingest::Opened>(&event)) {
        on_opened(*opened);
    } else if (auto* landed = std::get_if<from_ingest::Landed>(&event)) {
        AwayVm* vm = find(landed->vm);
        if (vm != nullptr && vm->on_landed) std::exchange(vm->on_landed, nullptr)(landed->status);
    } else if (auto* state = std::get_if<from_ingest::State>(&event)) {
        AwayVm* vm = find(state->vm);
        if (vm != nullptr && vm->on_state)
            std::exchange(vm->on_state, nullptr)(std::move(state->state));
    } else if (auto* sealed = std::get_if<from_ingest::Sealed>(&event)) {
        AwayVm* vm = find(sealed->vm);
        if (vm != nullptr && sealed->status.ok()) {
            vm->sealed = sealed->epoch;
            vm->point_unix_ms = sealed->point_unix_ms;
        }
    }
}

}  // namespace evac::daemon
