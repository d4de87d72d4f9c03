#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "evac/evacuation/journal_file.hpp"

namespace evac::evacuation {
namespace {

constexpr off_t kReserveBytes = 4 * 1024 * 1024;

Status write_all(int fd, ByteSpan bytes, const std::string& path) {
    while (!bytes.empty()) {
        const ssize_t n = ::write(fd, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_error("write " + path);
        bytes = bytes.subspan(static_cast<size_t>(n));
    }
    return {};
}

std::string directory_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

Result<std::unique_ptr<DiskJournalFile>> DiskJournalFile::open(std::string path) {
    const std::string lock_path = path + ".lock";
    UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock.valid()) return io_error("open " + lock_path);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            return make_error(Errc::unavailable, path + ": another process uses this journal");
        }
        return io_error("lock " + lock_path);
    }
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!fd.valid()) return io_error("open " + path);
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) return io_error("stat " + path);
    if (!S_ISREG(info.st_mode))
        return make_error(Errc::invalid_argument, path + ": not a regular file");
    std::unique_ptr<DiskJournalFile> file(
        new DiskJournalFile(std::move(path), std::move(lock), std::move(fd)));
    EVAC_TRY(file->sync_directory());  // the name must survive, too
    file->reserve();
    return file;
}

Result<Bytes> DiskJournalFile::read_all(size_t size_max) {
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) return io_error("stat " + path_);
    const size_t size = static_cast<size_t>(info.st_size);
    if (size > size_max) {
        return make_error(Errc::refused, path_ + ": " + std::to_string(size) + " bytes, at most " +
                                             std::to_string(size_max) + " are read");
    }
    Bytes bytes(size);
    size_t done = 0;
    while (done < size) {
        const ssize_t n =
            ::pread(fd_.get(), bytes.data() + done, size - done, static_cast<off_t>(done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_error("read " + path_);
        if (n == 0) return make_error(Errc::io, path_ + ": shrank while it was read");
        done += static_cast<size_t>(n);
    }
    return bytes;
}

Status DiskJournalFile::append(ByteSpan bytes) {
    return write_all(fd_.get(), bytes, path_);
}

Status DiskJournalFile::sync() {
    if (::fdatasync(fd_.get()) != 0) return io_error("fdatasync " + path_);
    return {};
}

Status DiskJournalFile::truncate(uint64_t size) {
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) return io_error("stat " + path_);
    if (size > static_cast<uint64_t>(info.st_size)) {
        return make_error(Errc::invalid_argument, path_ + ": truncate would grow it");
    }
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return io_error("truncate " + path_);
    reserve();
    return sync();
}

Status DiskJournalFile::replace(ByteSpan bytes) {
    const std::string next_path = path_ + ".new";
    UniqueFd next(
        ::open(next_path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
    if (!next.valid()) return io_error("open " + next_path);
    EVAC_TRY(write_all(next.get(), bytes, next_path));
    if (::fsync(next.get()) != 0) return io_error("fsync " + next_path);
    if (::rename(next_path.c_str(), path_.c_str()) != 0) return io_error("rename " + next_path);
    fd_ = std::move(next);
    reserve();
    return sync_directory();
}

Status DiskJournalFile::sync_directory() {
    const std::string directory = directory_of(path_);
    const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid()) return io_error("open " + directory);
    if (::fsync(fd.get()) != 0) return io_error("fsync " + directory);
    return {};
}

// Best effort: the images of away may fill the very disk that the handover must be journaled on.
void DiskJournalFile::reserve() {
    static_cast<void>(::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, 0, kReserveBytes));
}

}  // namespace evac::evacuation
