#pragma once
// The main RAM of a VM whose memory is a shared file or memfd (share=on), mapped read-only into
// this process and compared with the catalogue where it lies: an unchanged page costs one pass over
// it and nothing else, and the guest never waits for us.
//
// A running guest writes while we read. So the verdict "unchanged" is taken in place (every byte
// was the catalogued one when it was read), but a page that differs is copied first, and it is the
// copy that is hashed, catalogued and handed on: catalogue and content agree whatever the guest
// does meanwhile. Pages that the file does not hold (holes) are zero pages and are not touched:
// reading them would make the host allocate them.
//
// Survivable: the file belongs to somebody else, who may truncate it, or its medium may fail, while
// we read. The size is checked before each scan; a fault in the middle of one (SIGBUS) ends the
// scan with an error, nothing read behind the fault is used, and the mapping is lost() from then
// on. Not survivable: such a fault outside of scan(), which nothing here causes. QEMU itself rarely
// survives either.
//
// Owner: the capture worker that runs the VM's round. The SIGBUS handler is the process's; it is
// installed by the first scan, acts only within a scan's own mapping, and passes everything else to
// the handler that was there before.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"
#include "evac/prestage/captured_page.hpp"
#include "evac/prestage/catalogue.hpp"
#include "evac/prestage/enrolment.hpp"

namespace evac::qmp {
class Client;
}

namespace evac::prestage {

inline constexpr uint64_t kScanStepPages = 256;  // between two calls of ScanRequest::check

struct ScanRequest {
    RegionId region{};  // the main RAM's in the catalogue
    Epoch epoch{};
    // Called every kScanStepPages pages, 0.2 ms of unchanged ones; its error ends the scan.
    std::function<Status()> check;
};

struct ScanResult {
    uint64_t pages_seen = 0;
    uint64_t pages_zero = 0;
    uint64_t pages_changed = 0;  // taken by the sink
    // The sink did not take a page: the scan ended there, and the next one begins there.
    bool stopped_early = false;
    uint64_t duration_ns = 0;
    uint64_t compare_ns = 0;  // of that: without copying, hashing and handing on changed pages
};

class MappedMemory {
  public:
    // Finds the file behind the main RAM of the QEMU at the other end of `client`, and makes sure
    // of it: QEMU says where it has mapped guest address 1 MiB and of which block that is; that
    // place is in shared mappings of one file, at the right offset and over the whole block; and
    // our own mapping shows the same file. Needs the rights of QEMU's user, or root (files without
    // a name: memfd through /proc/PID/fd, share=on memory without a file through
    // /proc/PID/map_files, CAP_SYS_ADMIN). Errors: refused, naming what is missing; those of the
    // client.
    static Result<std::unique_ptr<MappedMemory>> open(qmp::Client& client, const VmFacts& facts,
                                                      const Clock& clock);
    // A file that the caller vouches for; benchmarks and tests.
    static Result<std::unique_ptr<MappedMemory>> from_file(UniqueFd file, RamBlock block,
                                                           const Clock& clock);
    ~MappedMemory();
    MappedMemory(const MappedMemory&) = delete;
    MappedMemory& operator=(const MappedMemory&) = delete;

    const RamBlock& block() const { return block_; }
    uint64_t page_count() const { return block_.size_bytes / kPageBytes; }
    const std::string& file_name() const { return file_name_; }

    // Compares all pages, beginning where the last scan stopped early. Never waits for anything but
    // the sink and the storage behind a file that is not in memory. Errors: refused (the file or
    // QEMU's mapping of it has changed: open it again), io (a fault while reading), what `check`
    // returned.
    Result<ScanResult> scan(Catalogue& catalogue, PageSink& sink, const ScanRequest& request);

    // A fault or a changed file: no scan succeeds any more.
    bool lost() const { return lost_; }
    // How long a scan of all pages takes when hardly any changed, from the last one that was whole;
    // 0 = none was. It is what a stopped guest would wait.
    uint64_t whole_scan_ns() const { return whole_scan_ns_; }

  private:
    // A mapping of QEMU's or of ours, as /proc/PID/maps names it.
    struct Identity {
        uint64_t device = 0, inode = 0;
        bool operator==(const Identity&) const = default;
    };
    MappedMemory(UniqueFd file, RamBlock block, const Clock& clock)
        : file_(std::move(file)), block_(std::move(block)), clock_(clock) {}
    Status map();
    Status check_unchanged();
    struct Pass;
    Status scan_range(Pass& pass, uint64_t first, uint64_t end);
    Status scan_data(Pass& pass, uint64_t first, uint64_t end);
    Status scan_hole(Pass& pass, uint64_t first, uint64_t end);
    uint64_t next_data(uint64_t page, uint64_t end);
    uint64_t next_hole(uint64_t page, uint64_t end);
    void populate(uint64_t first, uint64_t end);

    UniqueFd file_;
    const RamBlock block_;
    const Clock& clock_;
    std::string file_name_;
    std::byte* base_ = nullptr;
    std::vector<bool> populated_;  // by steps: read once, so that its page table entries are there
    int pid_ = 0;                  // QEMU's; 0 = from_file
    uint64_t host_address_ = 0;    // of the block in QEMU
    Identity identity_;
    uint64_t cursor_ = 0;
    uint64_t whole_scan_ns_ = 0;
    bool lost_ = false;
};

// Whether the state that is not in the mapped file (devices, small RAM blocks) can be taken from a
// running guest, by a background snapshot with x-ignore-shared. QEMU allows that also where a
// background snapshot of all RAM is refused (RAM in a file of a disk file system). Leaves the
// settings as found.
bool can_snapshot_beside_mapping(qmp::Client& client);

}  // namespace evac::prestage
