#include "capture_options.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "evac/core/unique_fd.hpp"
#include "qemu_blocks.hpp"

namespace evac::storage_sync {
namespace {

constexpr uint64_t kGranularityMin = 4096;
constexpr uint64_t kGranularityMax = 65536;

// Somebody listens at the path.
bool can_connect(const std::string& path) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::copy(path.begin(), path.end(), address.sun_path);  // the length was checked by create()
    return fd.valid() &&
           ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

Status check_folder(const char* field, const std::string& path) {
    struct stat info {};
    if (path.empty() || path.front() != '/' || ::stat(path.c_str(), &info) != 0 ||
        !S_ISDIR(info.st_mode)) {
        return make_error(Errc::invalid_argument,
                          std::string(field) + " '" + path +
                              "': an absolute path of an existing folder is accepted");
    }
    return {};
}

}  // namespace

uint64_t choose_granularity(uint64_t asked_bytes, uint64_t size_bytes) {
    if (asked_bytes != 0) return asked_bytes;
    uint64_t granularity = kGranularityMin;
    while (granularity < kGranularityMax && size_bytes / granularity > kBitmapBitsMax)
        granularity *= 2;
    return granularity;
}

const std::string& overlay_dir_of(const CaptureOptions& options) {
    return options.overlay_dir.empty() ? options.run_dir : options.overlay_dir;
}
std::string socket_path_of(const CaptureOptions& options) {
    return options.run_dir + "/" + options.tag + "-nbd.sock";
}
std::string overlay_path_of(const CaptureOptions& options, size_t disk) {
    return overlay_dir_of(options) + "/" + options.tag + "-ov-" + std::to_string(disk) + ".qcow2";
}

Status check_options(const CaptureOptions& options) {
    EVAC_TRY(check_folder("run_dir", options.run_dir));
    if (!options.overlay_dir.empty()) EVAC_TRY(check_folder("overlay_dir", options.overlay_dir));
    const bool tag_good = !options.tag.empty() && options.tag.size() <= 64 &&
                          std::all_of(options.tag.begin(), options.tag.end(), [](char c) {
                              return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                     (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
                          });
    if (!tag_good) {
        return make_error(Errc::invalid_argument,
                          "tag '" + options.tag + "': 1 to 64 of A-Z a-z 0-9 _ . - are accepted");
    }
    constexpr size_t path_max = sizeof(sockaddr_un::sun_path) - 1;
    if (options.run_dir.size() + options.tag.size() + std::string_view("/-nbd.sock").size() >
        path_max) {
        return make_error(Errc::invalid_argument,
                          "run_dir '" + options.run_dir +
                              "': with the VM's tag a socket path of at most " +
                              std::to_string(path_max) + " characters is accepted");
    }
    const uint64_t granularity = options.granularity_bytes;
    if (granularity != 0 && (granularity < kGranularityMin || granularity > kGranularityMax ||
                             (granularity & (granularity - 1)) != 0)) {
        return make_error(Errc::invalid_argument,
                          "granularity_bytes " + std::to_string(granularity) +
                              ": 0 or a power of two from 4096 to 65536 is accepted");
    }
    return {};
}

Result<RecoverReport> recover_disks(qmp::Client& client, const CaptureOptions& options, Logger& log,
                                    Leftovers which) {
    EVAC_TRY(check_options(options));
    RecoverReport report;
    report.full_compare_needed = which == Leftovers::all;
    auto removed = remove_views(client);
    EVAC_TRY(removed);
    report.removed = std::move(*removed);
    if (which == Leftovers::all) {
        auto bitmaps = remove_bitmaps(client);
        EVAC_TRY(bitmaps);
        report.removed.insert(report.removed.end(), bitmaps->begin(), bitmaps->end());
    }
    const std::string socket_path = socket_path_of(options);
    // QEMU does not tell whose its NBD server is: it is ours when it listens on our socket.
    if (can_connect(socket_path)) {
        EVAC_TRY(client.execute("nbd-server-stop"));
        report.removed.push_back("NBD server at " + socket_path);
    }
    ::unlink(socket_path.c_str());
    for (size_t i = 0; i < kDisksMax; ++i) ::unlink(overlay_path_of(options, i).c_str());
    if (!report.removed.empty()) {
        log.info("disk capture '" + options.tag + "': removed " +
                 std::to_string(report.removed.size()) + " leftovers from QEMU" +
                 (which == Leftovers::all ? "; the next point reads all of the disks" : ""));
    }
    return report;
}

}  // namespace evac::storage_sync
