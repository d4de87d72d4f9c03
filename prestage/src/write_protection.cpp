#include "write_protection.hpp"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "evac/core/unique_fd.hpp"

namespace evac::prestage {
namespace {

// Descriptor numbers of the process's userfaultfds. A process without any has nothing protected.
Result<std::vector<int>> userfault_fds(const std::string& proc) {
    std::vector<int> out;
    std::error_code failure;
    for (auto entry = std::filesystem::directory_iterator(proc + "/fd", failure);
         !failure && entry != std::filesystem::directory_iterator(); entry.increment(failure)) {
        std::error_code gone;
        const std::string target = std::filesystem::read_symlink(entry->path(), gone).string();
        if (gone || target.find("[userfaultfd]") == std::string::npos) continue;
        const std::string number = entry->path().filename().string();
        int fd = -1;
        std::from_chars(number.data(), number.data() + number.size(), fd);
        if (fd >= 0) out.push_back(fd);
    }
    if (failure) return io_error("listing " + proc + "/fd", failure.value());
    return out;
}

Result<std::vector<uffdio_range>> protected_ranges(const std::string& proc) {
    std::ifstream maps(proc + "/smaps");
    if (!maps) return io_error("opening " + proc + "/smaps");
    std::vector<uffdio_range> out;
    uint64_t start = 0, end = 0;
    for (std::string line; std::getline(maps, line);) {
        const size_t dash = line.find('-');
        const size_t space = line.find(' ');
        if (dash != std::string::npos && dash < space) {  // "7f00-7f10 rw-p ..."
            std::from_chars(line.data(), line.data() + dash, start, 16);
            std::from_chars(line.data() + dash + 1, line.data() + space, end, 16);
        } else if (line.starts_with("VmFlags:") && (line + " ").find(" uw ") != std::string::npos) {
            out.push_back({start, end - start});
        }
    }
    return out;
}

}  // namespace

Result<int> lift_write_protection(int pid) {
    if (pid <= 0) return make_error(Errc::io, "QEMU's process is not known");
    const std::string proc = "/proc/" + std::to_string(pid);
    const auto fds = userfault_fds(proc);
    if (!fds.ok()) return fds.error();
    if (fds->empty()) return 0;
    const auto ranges = protected_ranges(proc);
    if (!ranges.ok()) return ranges.error();
    if (ranges->empty()) return 0;
    const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process.valid()) return io_error("pidfd_open of QEMU's process " + std::to_string(pid));
    for (const int number : *fds) {
        const UniqueFd duplicate(
            static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
        if (!duplicate.valid()) {
            return io_error("pidfd_getfd from QEMU's process " + std::to_string(pid) +
                            " (needs CAP_SYS_PTRACE)");
        }
        // A range of another descriptor is refused: harmless. Unregistering wakes nobody whose
        // fault is one of write protection (the kernel does that for missing pages only), hence the
        // second call.
        for (uffdio_range range : *ranges) ::ioctl(duplicate.get(), UFFDIO_UNREGISTER, &range);
        for (uffdio_range range : *ranges) ::ioctl(duplicate.get(), UFFDIO_WAKE, &range);
    }
    const auto left = protected_ranges(proc);
    if (!left.ok()) return left.error();
    if (!left->empty()) return make_error(Errc::io, "QEMU's memory stays write-protected");
    return static_cast<int>(ranges->size());
}

bool has_userfault_fd(int pid) {
    if (pid <= 0) return false;
    const auto fds = userfault_fds("/proc/" + std::to_string(pid));
    return fds.ok() && !fds->empty();
}

}  // namespace evac::prestage
