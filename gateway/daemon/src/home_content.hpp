#pragma once
// What the VMs that run here hold now, for the reducer: bases of deltas, and what to re-index.
//
//   disk     a raw image or block device, opened read-only beside QEMU by the job that examines the
//            VM; other formats: none
//   memory   whatever a PageProvider gives (mapped RAM)
//
// On the hot path a disk is read only where the host's page cache has it (RWF_NOWAIT). Reads that
// wait, and slices of a re-index, share one budget of time, and there are none while urgent. What
// is read may be older or newer than what away has: the reducer compares fingerprints, so that
// costs a miss. Owner: the reducer thread.
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"
#include "evac/core/unique_fd.hpp"
#include "evac/core/units.hpp"
#include "evac/dedup/reducer.hpp"
#include "evac/prestage/enrolment.hpp"
#include "evac/storage_sync/disk_capture.hpp"

namespace evac::daemon {

class HomeDisk {
  public:
    // `bytes`: of the guest's disk. refused: neither a file nor a block device, or a smaller one.
    static Result<std::shared_ptr<const HomeDisk>> open(const std::string& path, uint64_t bytes);

    int fd() const { return fd_.get(); }
    uint64_t bytes() const { return bytes_; }
    bool in_memory() const { return in_memory_; }  // tmpfs: a read never waits

  private:
    HomeDisk(UniqueFd fd, uint64_t bytes, bool in_memory)
        : fd_(std::move(fd)), bytes_(bytes), in_memory_(in_memory) {}
    UniqueFd fd_;
    uint64_t bytes_;
    bool in_memory_;
};

// The page's kPageBytes, or empty when there is none; called on the reducer thread. What it refers
// to stays mapped while the provider lives.
using PageProvider = std::function<ByteSpan(uint64_t page)>;

struct HomeSource {
    RegionId region{};
    std::shared_ptr<const HomeDisk> disk;  // or
    PageProvider memory;
};

// Those disks of a VM that can be read beside QEMU; `log` names the others. Regions are numbered
// from `first_region` in the order of `disks`.
std::vector<HomeSource> open_home_disks(const std::vector<storage_sync::DiskInfo>& disks,
                                        const std::vector<prestage::DiskFacts>& facts,
                                        size_t first_region, const std::string& working_dir,
                                        const std::string& vm_name, Logger& log);

class HomeContent final : public dedup::BaseReader {
  public:
    struct Stats {
        uint64_t cached_reads = 0;  // answered without waiting
        uint64_t waited_reads = 0;  // read from the disk
        uint64_t declined = 0;      // would have had to wait, and was not allowed to
        uint64_t failed = 0;
    };

    // `share` of the thread's time, 0 to 1, for reads that wait and for re-indexing; 0: none.
    HomeContent(const Clock& clock, double share);

    void add(VmId vm, HomeSource&& source);
    void add_memory(VmId vm, RegionId region, PageProvider pages) {
        add(vm, HomeSource{region, nullptr, std::move(pages)});
    }
    void remove(VmId vm);
    void set_urgent(bool on) { urgent_ = on; }

    bool read(const dedup::Location& location, std::span<std::byte, kPageBytes> out) override;

    // Whether time is left for something that waits.
    bool may_wait();
    void charge(uint64_t ns) { budget_ns_ -= static_cast<double>(ns); }
    // Within a slice of a re-index reads may wait and are made in chunks; the caller charges the
    // whole slice.
    void begin_slice() { in_slice_ = true; }
    void end_slice() { in_slice_ = false; }
    const Stats& stats() const { return stats_; }

    static constexpr size_t kChunkBytes = 256 * 1024;
    static constexpr uint64_t kBudgetMaxNs = 20 * kNsPerMs;  // earned and not spent, at most

  private:
    struct Chunk {
        VmId vm{};
        RegionId region{};
        uint64_t offset = 0;
        size_t bytes = 0;  // 0: none
        std::unique_ptr<std::array<std::byte, kChunkBytes>> memory;
    };
    bool read_cached(const HomeDisk& disk, uint64_t offset, std::span<std::byte> out) const;
    bool read_waiting(const HomeDisk& disk, uint64_t offset, std::span<std::byte> out);
    bool read_chunk(const dedup::Location& location, const HomeDisk& disk,
                    std::span<std::byte> out);

    const Clock& clock_;
    const double share_;
    bool urgent_ = false;
    bool in_slice_ = false;
    double budget_ns_ = 0;
    uint64_t earned_ns_;  // when last
    std::map<std::pair<VmId, RegionId>, HomeSource> sources_;
    Chunk chunk_;
    Stats stats_;
};

}  // namespace evac::daemon
