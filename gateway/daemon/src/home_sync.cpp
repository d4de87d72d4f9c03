// Finding out what the peer has of a VM, after a session or a process was lost.
//
// clang-format off
//   ResetVm -> VmReset     nothing of the VM goes out any more
//   worker: catalogue      what is in flight, in ranges
//   FINGERPRINTS_REQUEST -> FINGERPRINTS...   of those; of everything when the copy is another
//   worker: catalogue      entries are put right; pages of disks that are lost will be read again
//   LoadTags -> TagsLoaded, part by part     from the catalogue, for the reducer
// clang-format on
//
// The peer's copy is the truth. The catalogue says of what it needs no telling: of pages that are
// in the recovery point of the very copy that it was filled from (prestage/catalogue.hpp).
#include <algorithm>

#include "home_service.hpp"

namespace evac::daemon {
namespace {

// A part of the tags on its way to the reducer, 4 MiB; one at a time.
constexpr uint64_t kTagsPerPart = 256 * 1024;

// Zero pages are unknown: they are never referenced. False: there is nothing to tell.
bool fill_tags(const prestage::Catalogue& catalogue, to_reducer::LoadTags& tags) {
    const auto entries = catalogue.entries(tags.region, tags.first_page, kTagsPerPart);
    const Fingerprint zero = catalogue.zero_fingerprint();
    const auto told = [&zero](const Fingerprint& f) { return f.known() && !(f == zero); };
    if (std::none_of(entries.begin(), entries.end(), told)) return false;
    tags.fingerprints.assign(entries.begin(), entries.end());
    for (Fingerprint& f : tags.fingerprints) {
        if (!told(f)) f = Fingerprint{};
    }
    return true;
}

// The next part with something in it, from where `tags` points to; false: there is none.
bool next_tags(const prestage::Catalogue& catalogue, to_reducer::LoadTags& tags) {
    const auto regions = static_cast<uint16_t>(catalogue.regions().size());
    while (raw(tags.region) < regions) {
        if (tags.first_page >= catalogue.page_count(tags.region)) {
            tags.region = RegionId{static_cast<uint16_t>(raw(tags.region) + 1)};
            tags.first_page = 0;
        } else if (fill_tags(catalogue, tags)) {
            return true;
        } else {
            tags.first_page += kTagsPerPart;
        }
    }
    return false;
}

// Puts the entries of one part right. Returns how many pages away has otherwise.
Result<uint64_t> apply_part(CaptureSet& set, const protocol::Fingerprints& part, Epoch sealed) {
    prestage::Catalogue& catalogue = *set.catalogue;
    if (part.copy_id != set.sync_copy) {
        // Another copy than the catalogue's: away tells all of it.
        if (catalogue.copy_id() != 0) catalogue.set_all_unknown();
        set.compare_marked = !set.disks || set.disks->request_full_compare();
        set.copy_replaced = set.sync_copy != 0;
        set.sync_copy = part.copy_id;
        set.sync_all = true;
    }
    std::vector<prestage::PageRange> again;
    uint64_t changed = 0;
    if (set.sync_all || raw(part.region) < set.ram_regions) {
        EVAC_TRY(catalogue.load(part.region, part.first_page, part.values));
    } else {
        EVAC_TRY(catalogue.reconcile(part.region, part.first_page, part.values, again));
    }
    for (const auto& range : again) {
        changed += range.count;
        read_again(set, range);
    }
    // A compare that QEMU does not know of would be forgotten with this process: then the next one
    // has to ask for all again.
    if (part.last && (!set.sync_all || set.compare_marked))
        catalogue.adopt_copy(set.sync_copy, set.copy_replaced ? Epoch{} : sealed);
    return changed;
}

}  // namespace

void HomeService::begin_sync(HomeVm& vm) {
    vm.phase = VmPhase::syncing;
    ++vm.generation;
    vm.awaiting = Epoch{};
    vm.lost_in_pass = false;
    vm.sync_heard_ns = ports_.clock.now_ns();
    ports_.reducer.command(to_reducer::ResetVm{vm.id, vm.generation});
    // VmReset comes back with the number of batches sent; then the request goes out.
}

// After whatever pass is under way: what it captured is in flight, too.
void HomeService::ask_fingerprints(HomeVm& vm, uint64_t batches) {
    const VmId id = vm.id;
    const uint32_t generation = vm.generation;
    with_capture(
        vm,
        [this, id, generation, batches, sealed = vm.sealed](CaptureSet& set, size_t) -> Completion {
            auto request = std::make_shared<protocol::FingerprintsRequest>();
            request->vm = id;
            request->request_id = generation;
            request->after_batches = batches;
            set.catalogue->void_seal();
            if (set.catalogue->fits(sealed)) {
                request->copy_id = set.catalogue->copy_id();
                for (const auto& range : set.catalogue->in_flight_ranges(protocol::kRangesMax)) {
                    request->ranges.push_back(
                        {range.region, range.first, static_cast<uint32_t>(range.count)});
                }
            }
            set.sync_copy = request->copy_id;
            set.sync_all = request->copy_id == 0;
            set.copy_replaced = false;
            set.compare_marked = true;
            return [this, id, generation, request] {
                HomeVm* found = find(id);
                if (found == nullptr || found->generation != generation) return;
                found->sync = {
                    found->sync.count + 1, request->copy_id == 0, request->ranges.size(), 0, 0, 0};
                ports_.link.send(*request);
            };
        });
}

void HomeService::on_fingerprints(protocol::Fingerprints&& m) {
    HomeVm* vm = find(m.vm);
    if (vm == nullptr || vm->phase != VmPhase::syncing || !vm->examined.capture) return;
    if (m.request_id != vm->generation || raw(m.region) >= vm->regions().size()) return;
    vm->sync_heard_ns = ports_.clock.now_ns();
    const Fingerprint zero = vm->examined.capture->catalogue->zero_fingerprint();
    vm->sync.pages += m.values.size();
    for (size_t i = 0; i < m.values.size(); ++i) {
        if (m.zero[i]) {
            m.values[i] = zero;
        } else {
            vm->sync.bytes += sizeof(Fingerprint);
        }
    }
    const VmId id = m.vm;
    const uint32_t generation = vm->generation;
    auto part = std::make_shared<protocol::Fingerprints>(std::move(m));
    with_capture(
        *vm,
        [this, id, generation, part, sealed = vm->sealed](CaptureSet& set, size_t) -> Completion {
            auto applied = std::make_shared<Result<uint64_t>>(apply_part(set, *part, sealed));
            return [this, id, generation, part, applied, all = set.sync_all,
                    replaced = set.copy_replaced] {
                HomeVm* found = find(id);
                if (found == nullptr || found->generation != generation) return;
                if (!applied->ok()) {
                    return lose_vm(*found, "the peer's fingerprints do not fit: " +
                                               applied->error().message());
                }
                found->sync.all = all;
                if (replaced) {  // with it its recovery points
                    found->sealed = Epoch{};
                    found->sealed_point_unix_ms = 0;
                }
                found->sync.changed += **applied;
                if (part->last) send_tags(*found, {id, RegionId{}, 0, {}, generation});
            };
        });
}

void HomeService::load_tags(VmId id, uint32_t generation) {
    HomeVm* vm = find(id);
    if (vm == nullptr || vm->phase != VmPhase::syncing || vm->generation != generation) return;
    vm->sync_heard_ns = ports_.clock.now_ns();
    send_tags(*vm, {id, vm->tags_region, vm->tags_page, {}, generation});
}

// The next part of the reducer's tags, from there on; behind the last the VM is synchronised.
void HomeService::send_tags(HomeVm& vm, to_reducer::LoadTags&& from) {
    auto tags = std::make_shared<to_reducer::LoadTags>(std::move(from));
    with_capture(vm, [this, tags](CaptureSet& set, size_t) -> Completion {
        const bool more = next_tags(*set.catalogue, *tags);
        return [this, tags, more] {
            HomeVm* found = find(tags->vm);
            if (found == nullptr || found->generation != tags->generation) return;
            if (!more) return finish_sync(*found);
            found->tags_region = tags->region;
            found->tags_page = tags->first_page + kTagsPerPart;
            ports_.reducer.command(std::move(*tags));
        };
    });
}

void HomeService::finish_sync(HomeVm& vm) {
    vm.phase = VmPhase::active;
    next_ask_ns_ = 0;
    vm.detail.clear();
    const uint64_t pages = vm.total_bytes() / kPageBytes;
    ports_.log.info("vm " + vm.name + ": synchronised with the peer's copy, prestaging; " +
                    (vm.sync.all ? "all" : std::to_string(vm.sync.ranges) + " ranges") +
                    " asked for, " + std::to_string(vm.sync.pages) + " of " +
                    std::to_string(pages) + " pages told in " + std::to_string(vm.sync.bytes) +
                    " bytes, " + std::to_string(vm.sync.changed) +
                    " pages of disks to be read again");
}

// Away has sealed the round: its pages are certain.
void HomeService::note_sealed(HomeVm& vm, Epoch epoch) {
    if (!vm.examined.capture) return;
    with_capture(vm, [epoch](CaptureSet& set, size_t) -> Completion {
        set.catalogue->sealed(epoch);
        return {};
    });
}

}  // namespace evac::daemon
