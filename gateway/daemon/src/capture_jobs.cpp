#include "capture_jobs.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "evac/landing/command.hpp"
#include "evac/landing/lander.hpp"
#include "evac/protocol/device_state.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kFinalWaitNs =
    120 * kNsPerSecond;  // for room in the queues, with the guest stopped
constexpr int kQuitMs = 10'000;

// Captured pages on their way to the reducer; one per pass.
class LaneSink final : public prestage::PageSink, public storage_sync::BlockSink {
  public:
    LaneSink(const JobContext& context, CaptureSet& set, const PassRequest& request)
        : context_(context), set_(set), request_(request) {}
    ~LaneSink() override { context_.reducer.wait_taken(request_.lane); }
    LaneSink(const LaneSink&) = delete;
    LaneSink& operator=(const LaneSink&) = delete;

    bool page(const prestage::CapturedPage& page) override {
        if (must_leave_room(page.region) || !reserve()) return false;
        CapturedItem item;
        item.vm = request_.vm;
        item.generation = request_.generation;
        item.region = page.region;
        item.page = page.page;
        item.epoch = page.epoch;
        item.fingerprint = page.fingerprint;
        item.heat = page.heat;
        item.is_zero = page.is_zero;
        item.account = request_.account;
        if (context_.reducer.push(request_.lane, std::move(item), request_.is_final(),
                                  page.bytes)) {
            return true;
        }
        context_.reducer.budget().release(1, request_.account);
        return false;
    }

    storage_sync::Verdict page(size_t disk, uint64_t page_number, ByteSpan bytes) override {
        if (set_.cancel) return storage_sync::Verdict::stop;
        const RegionId region = region_of(disk);
        return offer(region, page_number,
                     set_.catalogue->compare_and_update(region, page_number, bytes), bytes);
    }
    storage_sync::Verdict zeros(size_t disk, uint64_t first, uint64_t count) override {
        const RegionId region = region_of(disk);
        for (uint64_t i = first; i < first + count; ++i) {
            if (set_.cancel) return storage_sync::Verdict::stop;
            const auto verdict = offer(region, i, set_.catalogue->update_zero(region, i), {});
            if (verdict != storage_sync::Verdict::taken) return verdict;
        }
        return storage_sync::Verdict::taken;
    }

    uint64_t disk_pages_changed() const { return disk_pages_changed_; }

  private:
    RegionId region_of(size_t disk) const {
        return RegionId{static_cast<uint16_t>(set_.ram_regions + disk)};
    }

    // A live pass never waits for room: the guest would wait for it. Over a stopped guest waiting
    // is the point.
    bool reserve() {
        auto& budget = context_.reducer.budget();
        if (budget.try_reserve(request_.account)) return true;
        if (!request_.is_final()) return false;
        const uint64_t deadline_ns = context_.clock.now_ns() + kFinalWaitNs;
        while (!budget.try_reserve(request_.account)) {
            if (set_.cancel || context_.clock.now_ns() >= deadline_ns) return false;
            ::usleep(500);
        }
        return true;
    }

    storage_sync::Verdict offer(RegionId region, uint64_t page_number,
                                const prestage::Observation& seen, ByteSpan bytes) {
        if (seen.change == prestage::PageChange::unchanged) return storage_sync::Verdict::taken;
        prestage::CapturedPage captured;
        captured.region = region;
        captured.page = page_number;
        captured.epoch = request_.epoch;
        captured.fingerprint = seen.fingerprint;
        captured.heat = seen.heat;
        captured.is_zero = seen.change == prestage::PageChange::became_zero;
        if (!captured.is_zero) captured.bytes = bytes;
        if (page(captured)) {
            ++disk_pages_changed_;
            return storage_sync::Verdict::taken;
        }
        // The queue is full. Reading on would only hold the fleecing overlay open: the next pass
        // goes on from here.
        set_.catalogue->set_unknown(region, page_number);
        return storage_sync::Verdict::stop;
    }

    // Of a continuous round only: its pages come again and again, and may not take the room that
    // other VMs' rounds need to be complete. Waiting is harmless to its guest.
    bool must_leave_room(RegionId region) const {
        const auto& budget = context_.reducer.budget();
        return request_.method == prestage::CaptureMethod::continuous && !request_.is_final() &&
               raw(region) < set_.ram_regions && budget.used_pages() * 2 >= budget.budget_pages();
    }

    const JobContext& context_;
    CaptureSet& set_;
    const PassRequest& request_;
    uint64_t disk_pages_changed_ = 0;
};

Result<std::vector<std::string>> landing_template(
    const qmp::Client& client, const prestage::VmFacts& facts,
    const std::vector<storage_sync::DiskInfo>& disks) {
    auto argv = landing::read_process_argv(client.peer_pid());
    EVAC_TRY(argv);
    auto working_dir = landing::read_process_working_dir(client.peer_pid());
    EVAC_TRY(working_dir);
    landing::SourceCommand source;
    source.argv = std::move(*argv);
    source.working_dir = std::move(*working_dir);
    source.machine_type = facts.machine_type;
    source.main_ram_block = facts.memory_backend;
    source.gateway_qmp_path = client.path();
    for (const auto& block : facts.ram_blocks) {
        if (block.name == facts.memory_backend) source.main_ram_bytes = block.size_bytes;
    }
    for (const auto& disk : disks) {
        for (const auto& known : facts.disks) {
            if (known.node_name == disk.node) source.disk_files.push_back(known.file);
        }
    }
    if (source.disk_files.size() != disks.size()) {
        return make_error(Errc::refused, "a disk's image file could not be found out");
    }
    return landing::make_template(source);
}

storage_sync::CaptureOptions disk_options(const JobContext& context, const std::string& name) {
    storage_sync::CaptureOptions options;
    options.run_dir = context.run_dir;
    options.tag = name;
    return options;
}

// Without its file it is as good, but a process after this one has to ask away for all of it.
std::unique_ptr<prestage::Catalogue> make_catalogue(
    const JobContext& context, const std::string& name,
    const std::vector<prestage::RegionInfo>& regions) {
    if (!context.catalogue.path.empty()) {
        auto opened =
            prestage::Catalogue::open(context.catalogue, context.fingerprint_seed, regions);
        if (opened.ok()) {
            const std::string& why = (*opened)->begun_because();
            if (!why.empty()) context.log.info("vm " + name + ": a new catalogue: " + why);
            return std::move(*opened);
        }
        context.log.warning("vm " + name +
                            ": its catalogue is kept in memory only: " + opened.error().message());
    }
    return std::make_unique<prestage::Catalogue>(context.fingerprint_seed, regions);
}

// Regions, catalogue and capture objects from facts and disks. The client is connected.
Status make_capture(const JobContext& context, const std::string& name, Examined& out) {
    CaptureSet& set = *out.capture;
    for (const auto& block : out.facts.ram_blocks) {
        const bool main = block.name == out.facts.memory_backend;
        out.regions.push_back(
            {block.name, main ? RegionKind::main_ram : RegionKind::small_ram, block.size_bytes});
    }
    set.ram_regions = out.regions.size();
    for (const auto& disk : out.disks)
        out.regions.push_back({disk.name, RegionKind::disk, disk.size_bytes});
    if (out.regions.size() > kRegionsMax) {
        return make_error(Errc::refused, std::to_string(out.regions.size()) +
                                             " RAM blocks and disks: at most " +
                                             std::to_string(kRegionsMax) + " are accepted");
    }
    set.catalogue = make_catalogue(context, name, out.regions);
    set.runner = std::make_unique<prestage::RoundRunner>(*set.client, *set.catalogue, context.clock,
                                                         context.log);
    if (out.disks.empty()) return {};
    auto disks = storage_sync::DiskCapture::create(*set.client, out.disks,
                                                   disk_options(context, name), context.log);
    EVAC_TRY(disks);
    set.disks = std::move(*disks);
    return {};
}

// Adopted tracking says what was written since the last finished point. What was captured before
// and did not arrive is the catalogue's to know: the synchronisation before the first round has it
// read again, or all of the disk compared when the catalogue is not of away's copy (home_sync.cpp).
Status track_disks(CaptureSet& set) {
    auto adopted = set.disks->adopt();
    EVAC_TRY(adopted);
    if (!*adopted) EVAC_TRY(set.disks->start_tracking());
    set.disks_ready = true;
    return {};
}

// Maps the VM's memory where that can be done. Not to be able to is no failure.
void try_mapping(const JobContext& context, const std::string& name, Examined& out) {
    CaptureSet& set = *out.capture;
    auto mapped = prestage::MappedMemory::open(*set.client, out.facts, context.clock);
    if (!mapped.ok()) {
        out.mapping_refused = mapped.error().message();
        context.log.info("vm " + name + ": its memory is not mapped: " + out.mapping_refused);
        return;
    }
    set.mapped = std::move(*mapped);
    set.mapped_snapshot = prestage::can_snapshot_beside_mapping(*set.client);
    out.mapping_refused.clear();
    context.log.info("vm " + name + ": its memory is mapped (" + set.mapped->file_name() + ")");
}

void remove_mark(const std::string& path) {
    std::error_code error;
    std::filesystem::remove(path, error);
}

// Where this fails the round does not begin: it could leave a stopped guest that nobody resumes.
Status write_mark(const std::string& path, int pid, bool live) {
    std::ofstream file(path, std::ios::trunc);
    file << pid << (live ? " live" : " stopped") << "\n";
    file.flush();
    if (!file) return io_error("write '" + path + "'");
    return {};
}

// A round of a process before this one was cut off in this very QEMU.
bool cut_off(const std::string& path, qmp::Client& client) {
    int pid = 0;
    std::string method;
    if (!(std::ifstream(path) >> pid >> method) || pid != client.peer_pid()) return false;
    const auto status = client.execute("query-status");
    // A live round does not end so: somebody has migrated the VM since, and it runs elsewhere.
    return !(status.ok() && method == "live" && status->value("status", "") == "postmigrate");
}

bool runs(qmp::Client& client) {
    const auto status = client.execute("query-status");
    return status.ok() && status->value("running", false);
}

void append(std::string& reasons, const std::string& reason) {
    if (!reasons.empty()) reasons += "; ";
    reasons += reason;
}

// What of the VM was true at enrolment is asked again: several passes under TCG lose writes.
Status check_kvm(qmp::Client& client) {
    const auto kvm = client.execute("query-kvm");
    if (!kvm.ok()) return kvm.error();
    if (kvm->value("enabled", false) && kvm->value("present", false)) return {};
    return make_error(Errc::refused,
                      "capture: 'continuous' is refused: accelerator is 'tcg'; kvm is accepted");
}

}  // namespace

std::string round_mark(const std::string& home_dir, const std::string& name) {
    return home_dir + "/" + name + ".in-round";
}

Result<Examined> examine_vm(const JobContext& context, const std::string& name,
                            const std::string& qmp_path, Before before) {
    Examined out;
    out.capture = std::make_shared<CaptureSet>();
    CaptureSet& set = *out.capture;
    auto client = before != Before::unknown
                      ? prestage::connect_or_rescue(qmp_path, qmp::kDefaultTimeoutMs, context.log)
                      : qmp::Client::connect(qmp_path);
    EVAC_TRY(client);
    set.client = std::move(*client);
    const std::string mark = round_mark(context.home_dir, name);
    if (before == Before::enrolled && cut_off(mark, *set.client)) {
        EVAC_TRY(
            prestage::ensure_running(*set.client, context.run_dir, context.clock, context.log));
    }
    if (before != Before::away_runs) remove_mark(mark);
    // What a killed gateway left behind would hide a disk's node from the facts and the survey. Its
    // bitmaps stay.
    EVAC_TRY(storage_sync::recover_disks(*set.client, disk_options(context, name), context.log,
                                         storage_sync::Leftovers::keep_tracking));
    auto facts =
        prestage::collect_facts(*set.client, {context.run_dir}, context.clock, context.log);
    EVAC_TRY(facts);
    out.facts = std::move(*facts);
    std::string reasons;
    for (const auto& refusal : prestage::refusals(out.facts)) append(reasons, refusal.reason);
    try_mapping(context, name, out);
    const auto choice =
        prestage::choose_method({out.facts, out.mapping_refused, context.wanted, false});
    if (!choice.ok()) append(reasons, choice.error().context);
    auto survey = storage_sync::survey_disks(*set.client);
    EVAC_TRY(survey);
    for (const auto& refused : survey->refused)
        append(reasons, "disk " + refused.name + ": " + refused.reason);
    for (const auto& skipped : survey->skipped) {
        context.log.info("vm " + name + ": disk " + skipped.name +
                         " is not captured: " + skipped.reason);
    }
    auto argv = landing_template(*set.client, out.facts, survey->disks);
    if (reasons.empty() && !argv.ok()) reasons = argv.error().context;
    if (!reasons.empty()) {
        // Nothing of ours stays in the QEMU of a VM that is not protected.
        EVAC_TRY(
            storage_sync::recover_disks(*set.client, disk_options(context, name), context.log));
        return make_error(Errc::refused, reasons);
    }
    out.argv = std::move(*argv);

    out.disks = survey->disks;
    EVAC_TRY(make_capture(context, name, out));
    if (set.disks) EVAC_TRY(track_disks(set));
    if (before != Before::away_runs) {
        auto working_dir = landing::read_process_working_dir(set.client->peer_pid());
        EVAC_TRY(working_dir);
        out.sources = open_home_disks(out.disks, out.facts.disks, set.ram_regions, *working_dir,
                                      name, context.log);
    }
    return out;
}

Result<Examined> reattach_vm(const JobContext& context, const std::string& name,
                             const std::string& qmp_path, const Examined& known) {
    Examined out;
    out.facts = known.facts;
    out.disks = known.disks;
    out.argv = known.argv;
    out.capture = std::make_shared<CaptureSet>();
    auto client = prestage::connect_or_rescue(qmp_path, qmp::kDefaultTimeoutMs, context.log);
    EVAC_TRY(client);
    out.capture->client = std::move(*client);
    EVAC_TRY(make_capture(context, name, out));
    try_mapping(context, name, out);
    return out;
}

namespace {

using prestage::CaptureMethod;
using prestage::RoundMethod;

// The guest runs on while its round's pages are read: so may its disks' point.
bool resumes_by_itself(RoundMethod method) {
    return method == RoundMethod::sealed_live || method == RoundMethod::mapped_sealed;
}

// One round of memory and, unless it is a refresh, of the disks at the same instant.
Status capture(const JobContext& context, CaptureSet& set, RoundMethod method, LaneSink& sink,
               const PassRequest& request, PassResult& result) {
    const bool live = resumes_by_itself(method);
    const bool refresh = method == RoundMethod::mapped_refresh;
    storage_sync::DiskCapture* disks = refresh ? nullptr : set.disks.get();
    std::optional<storage_sync::PointStats> disk_stats;
    if (disks != nullptr && !set.disks_ready) EVAC_TRY(track_disks(set));
    if (disks != nullptr) {
        EVAC_TRY(disks->prepare_point(live ? storage_sync::PointKind::live
                                           : storage_sync::PointKind::stopped));
    }
    bool point_begun = false;
    auto read_disks = [&]() -> Status {
        auto stats = disks->read_point(sink);
        if (!stats.ok()) {
            EVAC_TRY(disks->finish_point(storage_sync::PointEnd::lost));
            return stats.error();
        }
        disk_stats = *stats;
        return disks->finish_point(stats->complete ? storage_sync::PointEnd::captured
                                                   : storage_sync::PointEnd::partial);
    };
    prestage::RoundOptions options;
    options.epoch = request.epoch;
    options.run_dir = context.run_dir;
    options.cancel = &set.cancel;
    options.guard = context.guard;
    options.method = method;
    options.mapped = set.mapped.get();
    const std::string mark = round_mark(context.home_dir, request.tag);
    options.on_left_stopped = [&mark] { remove_mark(mark); };
    const bool continuous = method == RoundMethod::precopy_live;
    if (continuous) {
        options.epochs = request.epochs;
        options.live_limit_ms = request.live_limit_ms;
        options.live_bandwidth = request.live_bandwidth;
        options.time_limit_ms += request.live_limit_ms;
        options.seal_now = &set.seal_now;
        set.seal_now = false;
    }
    options.on_stopped = [&]() -> Status {
        result.point_unix_ms = context.clock.wall_unix_ms();
        // From now on a guest in `postmigrate` is one that we have left so.
        if (continuous) EVAC_TRY(write_mark(mark, set.client->peer_pid(), false));
        if (disks == nullptr) return {};
        EVAC_TRY(disks->begin_point());
        point_begun = true;
        return live ? Status() : read_disks();
    };
    if (!request.is_final()) {
        options.before_touch = [&] {
            return write_mark(mark, set.client->peer_pid(), live || continuous);
        };
    }
    auto round = set.runner->run(options, sink);
    if (!request.is_final() && (round.ok() || runs(*set.client))) remove_mark(mark);
    Status disk_status;
    if (disks != nullptr && !point_begun) {
        const auto undone = disks->cancel_prepared();
        if (!undone.ok()) context.log.warning("disk capture: " + undone.error().message());
    } else if (disks != nullptr && live) {
        disk_status = round.ok() ? read_disks() : disks->finish_point(storage_sync::PointEnd::lost);
    }
    EVAC_TRY(round);
    EVAC_TRY(disk_status);
    result.round = std::move(*round);
    result.complete = !refresh && result.round.complete() &&
                      (disks == nullptr || (disk_stats && disk_stats->complete));
    return {};
}

Result<Bytes> packed_state(prestage::DeviceState& captured) {
    protocol::DeviceStateBlob state;
    state.ram_section_id = captured.ram_section_id;
    state.prefix = std::move(captured.prefix);
    state.tail = std::move(captured.tail);
    return protocol::pack(state);
}

}  // namespace

RoundMethod pass_method(PassKind kind, const PassMeans& means) {
    switch (kind) {
        case PassKind::refresh:
            return RoundMethod::mapped_refresh;
        case PassKind::final_pass:
            return means.mapped ? RoundMethod::mapped_final : RoundMethod::final_stopped;
        case PassKind::seal:
            break;
    }
    const bool too_long = means.whole_scan_ns > kMappedPauseMaxNs;
    if (means.mapped && !(too_long && means.background_snapshot))
        return means.mapped_snapshot ? RoundMethod::mapped_sealed : RoundMethod::mapped_stopped;
    if (means.continuous) return RoundMethod::precopy_live;
    return means.background_snapshot ? RoundMethod::sealed_live : RoundMethod::stopped_pass;
}

bool must_measure(PassKind kind, const PassMeans& means) {
    if (kind != PassKind::seal || !means.mapped || !means.background_snapshot) return false;
    return means.whole_scan_ns == 0 ||
           (means.whole_scan_ns > kMappedPauseMaxNs && means.whole_scan_ns < 4 * kMappedPauseMaxNs);
}

Result<PassResult> run_pass(const JobContext& context, CaptureSet& set, bool can_seal_live,
                            const PassRequest& request) {
    for (const auto& [region, page] : set.forget) {
        if (raw(region) >= set.catalogue->regions().size() ||
            page >= set.catalogue->page_count(region))
            continue;
        set.catalogue->set_unknown(region, page);
        if (raw(region) >= set.ram_regions) read_again(set, {region, page, 1});
    }
    set.forget.clear();
    set.cancel = false;
    if (set.mapped && set.mapped->lost()) {
        context.log.warning("vm " + request.tag + ": its mapped memory (" +
                            set.mapped->file_name() + ") was lost; captured by migration now");
        set.mapped.reset();
    }
    PassResult result;
    result.kind = request.kind;
    if (request.kind == PassKind::refresh && !set.mapped)
        return make_error(Errc::refused, "a refresh needs the VM's memory mapped");
    LaneSink sink(context, set, request);
    // What was not chosen is not used, though it may be there.
    PassMeans means;
    means.background_snapshot = can_seal_live && request.method != CaptureMethod::stopped;
    // A disk that was never read through is not read while its guest stands.
    const bool disks_known = !set.disks || (set.disks_ready && set.disks->first_sync_done());
    means.continuous = request.method == CaptureMethod::continuous && disks_known;
    means.mapped = set.mapped != nullptr && request.method == CaptureMethod::mapped;
    means.mapped_snapshot = set.mapped_snapshot;
    if (request.kind == PassKind::seal && !means.mapped_snapshot && means.background_snapshot &&
        !disks_known)
        means.mapped = false;
    means.whole_scan_ns = means.mapped ? set.mapped->whole_scan_ns() : 0;
    if (pass_method(request.kind, means) == RoundMethod::precopy_live)
        EVAC_TRY(check_kvm(*set.client));
    // Away tells versions of a page apart by their epoch.
    PassRequest sealing = request;
    bool full = false;
    if (must_measure(request.kind, means)) {
        EVAC_TRY(capture(context, set, RoundMethod::mapped_refresh, sink, request, result));
        full = result.round.pages_dropped != 0;  // no room for a recovery point either
        sealing.epoch = Epoch{raw(request.epoch) + 1};
        means.whole_scan_ns = set.mapped->whole_scan_ns();
    }
    if (!full) {
        const RoundMethod method = pass_method(request.kind, means);
        const uint64_t changed = result.round.pages_changed;
        EVAC_TRY(capture(context, set, method, sink, sealing, result));
        result.round.pages_changed += changed;
    }
    result.disk_pages_changed = sink.disk_pages_changed();
    if (result.complete) {
        request.is_final() ? set.catalogue->end_final(result.round.epoch)
                           : set.catalogue->end_round(result.round.epoch);
    }
    CapturedItem end;
    end.vm = request.vm;
    end.generation = request.generation;
    end.end = std::make_unique<RoundEnd>();
    end.end->epoch = result.round.epoch;
    end.end->complete = result.complete;
    end.end->final_pass = request.is_final();
    end.end->point_unix_ms = result.point_unix_ms;
    if (result.complete) {
        auto packed = packed_state(result.round.device_state);
        EVAC_TRY(packed);
        end.end->device_state = std::move(*packed);
    }
    if (!context.reducer.push(request.lane, std::move(end), true)) {
        return make_error(Errc::timeout, "the reducer does not take the round's end");
    }
    return result;
}

void read_again(CaptureSet& set, const prestage::PageRange& range) {
    if (set.disks) set.disks->reread(raw(range.region) - set.ram_regions, range.first, range.count);
}

Status stop_guest(CaptureSet& set) {
    EVAC_TRY(set.client->execute("stop"));
    return {};
}

Status make_capturable(CaptureSet& set) {
    auto status = set.client->execute("query-status");
    EVAC_TRY(status);
    if (status->value("status", "") != "postmigrate") return {};
    EVAC_TRY(set.client->execute("cont"));
    return stop_guest(set);
}

Status resume_guest(CaptureSet& set) {
    EVAC_TRY(set.client->execute("cont"));
    auto status = set.client->execute("query-status");
    EVAC_TRY(status);
    const std::string state = status->value("status", "");
    if (state != "running")
        return make_error(Errc::io, "after cont the run state is '" + state + "'");
    return {};
}

Status destroy_guest(CaptureSet& set) {
    const int pid = set.client->peer_pid();
    auto quit = set.client->execute("quit");
    // QEMU may close the socket before it answers.
    if (!quit.ok() && set.client->usable()) return quit.error();
    for (int i = 0; i < kQuitMs / 5 && landing::process_lives(pid); ++i) ::usleep(5000);
    if (landing::process_lives(pid)) {
        return make_error(Errc::timeout,
                          "the source QEMU (process " + std::to_string(pid) + ") does not end");
    }
    return {};
}

}  // namespace evac::daemon
