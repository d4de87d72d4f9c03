#include "home_content.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace evac::daemon {

namespace {

// QEMU's drivers whose nodes hold the guest's bytes as they are.
bool is_plain(const std::string& format) {
    return format == "raw" || format == "file" || format == "host_device";
}

}  // namespace

Result<std::shared_ptr<const HomeDisk>> HomeDisk::open(const std::string& path, uint64_t bytes) {
    // O_NONBLOCK: a FIFO or a device that is not ready must not hold us up; without effect on reads
    // of files.
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!fd.valid()) return io_error("open '" + path + "'");
    struct stat about {};
    if (::fstat(fd.get(), &about) != 0) return io_error("stat '" + path + "'");
    uint64_t held_bytes = 0;
    if (S_ISREG(about.st_mode)) {
        held_bytes = static_cast<uint64_t>(about.st_size);
    } else if (S_ISBLK(about.st_mode)) {
        if (::ioctl(fd.get(), BLKGETSIZE64, &held_bytes) != 0)
            return io_error("size of '" + path + "'");
    } else {
        return make_error(Errc::refused, "'" + path + "' is neither a file nor a block device");
    }
    // QEMU rounds a file's size up to sectors.
    constexpr uint64_t kSectorBytes = 512;
    if (held_bytes + kSectorBytes <= bytes) {
        return make_error(Errc::refused, "'" + path + "' has " + std::to_string(held_bytes) +
                                             " bytes, the disk " + std::to_string(bytes));
    }
    // What is not asked for is not read: the page cache is the guests'.
    static_cast<void>(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM));
    struct statfs fs {};
    const bool in_memory = ::fstatfs(fd.get(), &fs) == 0 && fs.f_type == TMPFS_MAGIC;
    return std::shared_ptr<const HomeDisk>(
        new HomeDisk(std::move(fd), std::min(bytes, held_bytes), in_memory));
}

std::vector<HomeSource> open_home_disks(const std::vector<storage_sync::DiskInfo>& disks,
                                        const std::vector<prestage::DiskFacts>& facts,
                                        size_t first_region, const std::string& working_dir,
                                        const std::string& vm_name, Logger& log) {
    std::vector<HomeSource> sources;
    for (size_t i = 0; i < disks.size(); ++i) {
        const auto known = std::find_if(facts.begin(), facts.end(), [&](const auto& disk) {
            return disk.node_name == disks[i].node;
        });
        std::string why;
        if (known == facts.end()) {
            why = "its file is not known";
        } else if (!is_plain(disks[i].format)) {
            why = "its format is " + disks[i].format + ", accepted: raw, file, host_device";
        } else {
            const bool absolute = !known->file.empty() && known->file.front() == '/';
            auto disk = HomeDisk::open(absolute ? known->file : working_dir + "/" + known->file,
                                       disks[i].size_bytes);
            if (disk.ok()) {
                const auto region = static_cast<uint16_t>(first_region + i);
                sources.push_back({RegionId{region}, std::move(*disk), nullptr});
                continue;
            }
            why = disk.error().message();
        }
        log.info("vm " + vm_name + ": disk " + disks[i].name +
                 " is not read for deltas and re-indexing: " + why);
    }
    return sources;
}

HomeContent::HomeContent(const Clock& clock, double share)
    : clock_(clock), share_(share), earned_ns_(clock.now_ns()) {
    chunk_.memory = std::make_unique<std::array<std::byte, kChunkBytes>>();
}

void HomeContent::add(VmId vm, HomeSource&& source) {
    const auto region = source.region;
    if (chunk_.vm == vm) chunk_.bytes = 0;
    sources_.insert_or_assign({vm, region}, std::move(source));
}

void HomeContent::remove(VmId vm) {
    std::erase_if(sources_, [vm](const auto& entry) { return entry.first.first == vm; });
    if (chunk_.vm == vm) chunk_.bytes = 0;
}

bool HomeContent::may_wait() {
    const uint64_t now_ns = clock_.now_ns();
    budget_ns_ = std::min(budget_ns_ + static_cast<double>(now_ns - earned_ns_) * share_,
                          static_cast<double>(kBudgetMaxNs));
    earned_ns_ = now_ns;
    return !urgent_ && budget_ns_ > 0;
}

bool HomeContent::read(const dedup::Location& location, std::span<std::byte, kPageBytes> out) {
    const auto found = sources_.find({location.vm, location.region});
    if (found == sources_.end()) return false;
    if (found->second.memory) {
        const ByteSpan page = found->second.memory(location.page);
        if (page.size() != kPageBytes) return false;
        std::memcpy(out.data(), page.data(), kPageBytes);
        ++stats_.cached_reads;
        return true;
    }
    const HomeDisk& disk = *found->second.disk;
    const uint64_t offset = location.page * kPageBytes;
    if (offset >= disk.bytes()) return false;
    // A disk's last page is padded with zeros, as in its capture.
    const auto bytes = static_cast<size_t>(std::min<uint64_t>(kPageBytes, disk.bytes() - offset));
    std::fill(out.begin() + static_cast<ptrdiff_t>(bytes), out.end(), std::byte{0});
    const std::span<std::byte> wanted = std::span<std::byte>(out).first(bytes);
    if (in_slice_) return read_chunk(location, disk, wanted);
    if (read_cached(disk, offset, wanted)) {
        ++stats_.cached_reads;
        return true;
    }
    if (!may_wait()) {
        ++stats_.declined;
        return false;
    }
    const uint64_t begin_ns = clock_.now_ns();
    const bool ok = read_waiting(disk, offset, wanted);
    charge(clock_.now_ns() - begin_ns);
    return ok;
}

bool HomeContent::read_cached(const HomeDisk& disk, uint64_t offset,
                              std::span<std::byte> out) const {
    const iovec to{out.data(), out.size()};
    const int flags = disk.in_memory() ? 0 : RWF_NOWAIT;
    return ::preadv2(disk.fd(), &to, 1, static_cast<off_t>(offset), flags) ==
           static_cast<ssize_t>(out.size());
}

bool HomeContent::read_waiting(const HomeDisk& disk, uint64_t offset, std::span<std::byte> out) {
    ssize_t got = 0;
    do {
        got = ::pread(disk.fd(), out.data(), out.size(), static_cast<off_t>(offset));
    } while (got < 0 && errno == EINTR);
    const bool ok = got == static_cast<ssize_t>(out.size());
    ++(ok ? stats_.waited_reads : stats_.failed);
    return ok;
}

// Pages come in order: one read for 64 of them. What only we have brought into the page cache is
// given back, so that a pass over a disk does not drive out what guests use.
bool HomeContent::read_chunk(const dedup::Location& location, const HomeDisk& disk,
                             std::span<std::byte> out) {
    const uint64_t offset = location.page * kPageBytes;
    const uint64_t start = offset / kChunkBytes * kChunkBytes;
    const bool held = chunk_.bytes != 0 && chunk_.vm == location.vm &&
                      chunk_.region == location.region && chunk_.offset == start;
    if (!held) {
        chunk_.vm = location.vm;
        chunk_.region = location.region;
        chunk_.offset = start;
        const auto bytes =
            static_cast<size_t>(std::min<uint64_t>(kChunkBytes, disk.bytes() - start));
        const std::span<std::byte> memory = std::span<std::byte>(*chunk_.memory).first(bytes);
        chunk_.bytes = bytes;
        if (read_cached(disk, start, memory)) {
            ++stats_.cached_reads;
        } else if (read_waiting(disk, start, memory)) {
            static_cast<void>(::posix_fadvise(disk.fd(), static_cast<off_t>(start),
                                              static_cast<off_t>(bytes), POSIX_FADV_DONTNEED));
        } else {
            chunk_.bytes = 0;
            return false;
        }
    }
    std::memcpy(out.data(), chunk_.memory->data() + (offset - start), out.size());
    return true;
}

}  // namespace evac::daemon
