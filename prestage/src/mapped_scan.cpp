// Comparing mapped guest memory with the catalogue.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "evac/core/assert.hpp"
#include "evac/core/units.hpp"
#include "evac/prestage/mapped_memory.hpp"
#include "mapped_fault.hpp"

namespace evac::prestage {
namespace {

// A page's first lines are asked for while the page before is hashed: the processor's own prefetch
// ends at a page's border.
constexpr size_t kPrefetchBytes = 512;
constexpr size_t kLineBytes = 64;

void prefetch(const std::byte* at) {
    for (size_t i = 0; i < kPrefetchBytes; i += kLineBytes) __builtin_prefetch(at + i);
}

}  // namespace

// One scan in progress.
struct MappedMemory::Pass {
    Catalogue& catalogue;
    PageSink& sink;
    const ScanRequest& request;
    const FaultGuard& guard;
    ScanResult result{};
    uint64_t changed_ns = 0;
    alignas(64) std::array<std::byte, kPageBytes> copy{};

    bool offer(uint64_t page, const Observation& seen) {
        CapturedPage out;
        out.region = request.region;
        out.page = page;
        out.epoch = request.epoch;
        out.fingerprint = seen.fingerprint;
        out.heat = seen.heat;
        out.is_zero = seen.change == PageChange::became_zero;
        if (!out.is_zero) out.bytes = copy;
        if (sink.page(out)) {
            ++result.pages_changed;
            return true;
        }
        catalogue.set_unknown(request.region, page);
        result.stopped_early = true;
        return false;
    }
};

Result<ScanResult> MappedMemory::scan(Catalogue& catalogue, PageSink& sink,
                                      const ScanRequest& request) {
    EVAC_ASSERT(raw(request.region) < catalogue.regions().size());
    const RegionInfo& region = catalogue.regions()[raw(request.region)];
    if (region.name != block_.name || region.size_bytes != block_.size_bytes) {
        return make_error(Errc::refused, "mapped RAM block '" + block_.name + "' of " +
                                             std::to_string(block_.size_bytes) +
                                             " bytes is catalogued as '" + region.name + "' of " +
                                             std::to_string(region.size_bytes) +
                                             "; enrol it again");
    }
    EVAC_TRY(check_unchanged());
    const FaultGuard guard(base_, block_.size_bytes);
    Pass pass{catalogue, sink, request, guard};
    const uint64_t begin_ns = clock_.now_ns();
    const uint64_t first = cursor_;
    Status outcome = scan_range(pass, first, page_count());
    if (outcome.ok() && !pass.result.stopped_early) outcome = scan_range(pass, 0, first);
    if (guard.hit()) {
        lost_ = true;
        return make_error(Errc::io, "RAM file '" + file_name_ +
                                        "' could not be read where it was mapped: it was truncated "
                                        "or its storage failed");
    }
    // What was cut off reads as a hole: zeros that nobody wrote.
    if (outcome.ok()) outcome = check_unchanged();
    EVAC_TRY(outcome);
    pass.result.duration_ns = clock_.now_ns() - begin_ns;
    pass.result.compare_ns =
        pass.result.duration_ns - std::min(pass.result.duration_ns, pass.changed_ns);
    if (!pass.result.stopped_early) {
        cursor_ = 0;
        whole_scan_ns_ = std::max<uint64_t>(1, pass.result.compare_ns);
    }
    return pass.result;
}

Status MappedMemory::scan_range(Pass& pass, uint64_t first, uint64_t end) {
    uint64_t page = first;
    while (page < end && !pass.result.stopped_early) {
        const uint64_t data = next_data(page, end);
        if (data > page) EVAC_TRY(scan_hole(pass, page, data));
        if (pass.result.stopped_early || data == end) return {};
        const uint64_t hole = next_hole(data, end);
        EVAC_TRY(scan_data(pass, data, hole));
        page = hole;
    }
    return {};
}

// Zeros without reading: pages that the file does not hold.
Status MappedMemory::scan_hole(Pass& pass, uint64_t first, uint64_t end) {
    for (uint64_t page = first; page < end; ++page) {
        if ((page - first) % kScanStepPages == 0) {
            cursor_ = page;
            EVAC_TRY(pass.request.check());
        }
        const Observation seen = pass.catalogue.update_zero(pass.request.region, page);
        if (seen.change != PageChange::unchanged && !pass.offer(page, seen)) {
            cursor_ = page;
            return {};
        }
        ++pass.result.pages_seen;
        ++pass.result.pages_zero;
    }
    return {};
}

Status MappedMemory::scan_data(Pass& pass, uint64_t first, uint64_t end) {
    const RegionId region = pass.request.region;
    Catalogue& catalogue = pass.catalogue;
    const Fingerprint zero = catalogue.zero_fingerprint();
    for (uint64_t page = first; page < end; ++page) {
        if ((page - first) % kScanStepPages == 0) {
            cursor_ = page;
            EVAC_TRY(pass.request.check());
            populate(page, std::min(end, page + kScanStepPages));
        }
        const std::byte* const at = base_ + page * kPageBytes;
        if (page + 1 < end) prefetch(at + kPageBytes);
        const ByteSpan in_place(at, kPageBytes);
        const Fingerprint known = catalogue.fingerprint(region, page);
        const bool same =
            known == zero ? is_zero_page(in_place)
                          : known.known() && fingerprint_page(catalogue.seed(), in_place) == known;
        if (same) {
            catalogue.observe_unchanged(region, page);
            ++pass.result.pages_seen;
            if (known == zero) ++pass.result.pages_zero;
            continue;
        }
        const uint64_t begin_ns = clock_.now_ns();
        std::memcpy(pass.copy.data(), at, kPageBytes);
        if (pass.guard.hit()) return make_error(Errc::io, "fault");  // scan() says it better
        const Observation seen = catalogue.compare_and_update(region, page, pass.copy);
        if (seen.change != PageChange::unchanged && !pass.offer(page, seen)) {
            cursor_ = page;
            return {};
        }
        ++pass.result.pages_seen;
        if (seen.fingerprint == zero) ++pass.result.pages_zero;
        pass.changed_ns += clock_.now_ns() - begin_ns;
    }
    return {};
}

// In whole pages; a page that is partly data is data. A file system that cannot tell has data only.
uint64_t MappedMemory::next_data(uint64_t page, uint64_t end) {
    const off_t at = ::lseek(file_.get(), static_cast<off_t>(page * kPageBytes), SEEK_DATA);
    if (at < 0) return errno == ENXIO ? end : page;
    return std::clamp(static_cast<uint64_t>(at) / kPageBytes, page, end);
}

uint64_t MappedMemory::next_hole(uint64_t page, uint64_t end) {
    const off_t at = ::lseek(file_.get(), static_cast<off_t>(page * kPageBytes), SEEK_HOLE);
    if (at < 0) return end;
    return std::clamp((static_cast<uint64_t>(at) + kPageBytes - 1) / kPageBytes, page + 1, end);
}

// The page table entries of a step at once, the first time: a fault for every few pages costs more
// than the comparison. Where the kernel can not do it (before 5.14), reading faults them in.
void MappedMemory::populate(uint64_t first, uint64_t end) {
    const size_t step = first / kScanStepPages;
    if (populated_[step]) return;
    populated_[step] = first % kScanStepPages == 0;
    static_cast<void>(
        ::madvise(base_ + first * kPageBytes, (end - first) * kPageBytes, MADV_POPULATE_READ));
}

Status MappedMemory::map() {
    struct stat info {};
    if (::fstat(file_.get(), &info) != 0) return io_error("fstat RAM file '" + file_name_ + "'");
    if (!S_ISREG(info.st_mode)) {
        return make_error(Errc::refused, "RAM file '" + file_name_ +
                                             "' is a device or a folder; a regular file or a memfd "
                                             "is accepted");
    }
    if (static_cast<uint64_t>(info.st_size) < block_.size_bytes) {
        return make_error(Errc::refused, "RAM file '" + file_name_ + "' has " +
                                             std::to_string(info.st_size) + " bytes, RAM block '" +
                                             block_.name + "' has " +
                                             std::to_string(block_.size_bytes));
    }
    void* const base = ::mmap(nullptr, block_.size_bytes, PROT_READ, MAP_SHARED, file_.get(), 0);
    if (base == MAP_FAILED) {
        return io_error("map " + std::to_string(block_.size_bytes) + " bytes of RAM file '" +
                        file_name_ + "'");
    }
    base_ = static_cast<std::byte*>(base);
    static_cast<void>(::madvise(base_, block_.size_bytes, MADV_DONTDUMP));
    populated_.assign(page_count() / kScanStepPages + 1, false);
    return {};
}

MappedMemory::~MappedMemory() {
    if (base_ != nullptr) ::munmap(base_, block_.size_bytes);
}

}  // namespace evac::prestage
