#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include "evac/core/unique_fd.hpp"
#include "evac/storage_sync/files.hpp"

namespace evac::storage_sync {
namespace {

off_t as_off(uint64_t value) {
    return static_cast<off_t>(value);
}

class PosixFile final : public File {
  public:
    PosixFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

    Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) override {
        size_t done = 0;
        while (done < out.size()) {
            const ssize_t n =
                ::pread(fd_.get(), out.data() + done, out.size() - done, as_off(offset + done));
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return failed("read");
            if (n == 0) break;
            done += static_cast<size_t>(n);
        }
        return done;
    }

    Status write_at(uint64_t offset, ByteSpan a, ByteSpan b) override {
        while (!a.empty() || !b.empty()) {
            std::array<iovec, 2> parts = {iovec{const_cast<std::byte*>(a.data()), a.size()},
                                          iovec{const_cast<std::byte*>(b.data()), b.size()}};
            const ssize_t n = ::pwritev(fd_.get(), parts.data(), 2, as_off(offset));
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return failed("write");
            const size_t written = static_cast<size_t>(n);
            offset += written;
            const size_t from_a = std::min(written, a.size());
            a = a.subspan(from_a);
            b = b.subspan(written - from_a);
        }
        return {};
    }

    Status punch(uint64_t offset, uint64_t size) override {
        return allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size, "punch");
    }
    Status reserve(uint64_t offset, uint64_t size) override {
        return allocate(FALLOC_FL_KEEP_SIZE, offset, size, "reserve");
    }
    Status truncate(uint64_t size) override {
        while (::ftruncate(fd_.get(), as_off(size)) != 0) {
            if (errno != EINTR) return failed("truncate");
        }
        return {};
    }
    Status sync() override {
        if (::fdatasync(fd_.get()) != 0) return failed("sync");
        return {};
    }
    void start_writeback(uint64_t offset, uint64_t size) override {
        (void)::sync_file_range(fd_.get(), as_off(offset), as_off(size), SYNC_FILE_RANGE_WRITE);
    }
    Result<uint64_t> size() override {
        struct stat info {};
        if (::fstat(fd_.get(), &info) != 0) return failed("stat");
        return static_cast<uint64_t>(info.st_size);
    }

    Result<std::optional<ByteRange>> next_data(uint64_t offset) override {
        const off_t begin = ::lseek(fd_.get(), as_off(offset), SEEK_DATA);
        if (begin < 0) {
            if (errno == ENXIO) return std::optional<ByteRange>{};
            if (errno != EINVAL) return failed("seek");
            auto end = size();  // a file system without holes
            EVAC_TRY(end);
            if (offset >= *end) return std::optional<ByteRange>{};
            return std::optional<ByteRange>{ByteRange{offset, *end}};
        }
        const off_t end = ::lseek(fd_.get(), begin, SEEK_HOLE);
        if (end < 0) return failed("seek");
        return std::optional<ByteRange>{
            ByteRange{static_cast<uint64_t>(begin), static_cast<uint64_t>(end)}};
    }

  private:
    Error failed(const char* what) const {
        return io_error(std::string(what) + " '" + path_ + "'");
    }

    Status allocate(int mode, uint64_t offset, uint64_t size, const char* what) {
        if (size == 0) return {};
        while (::fallocate(fd_.get(), mode, as_off(offset), as_off(size)) != 0) {
            if (errno != EINTR) return failed(what);
        }
        return {};
    }

    UniqueFd fd_;
    std::string path_;
};

class PosixFiles final : public Files {
  public:
    Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override {
        const int flags =
            O_RDWR | O_CLOEXEC | (mode == OpenMode::create_new ? O_CREAT | O_EXCL : 0);
        UniqueFd fd(::open(path.c_str(), flags, 0600));
        if (!fd.valid()) return io_error("open '" + path + "'");
        return std::unique_ptr<File>(std::make_unique<PosixFile>(std::move(fd), path));
    }
    Status make_dir(const std::string& path) override {
        std::error_code code;
        std::filesystem::create_directories(path, code);
        if (code) return io_error("create folder '" + path + "'", code.value());
        return {};
    }
    Status remove_dir(const std::string& path) override {
        if (::rmdir(path.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY)
            return io_error("remove folder '" + path + "'");
        return {};
    }
    Status rename(const std::string& from, const std::string& to) override {
        if (::rename(from.c_str(), to.c_str()) != 0)
            return io_error("rename '" + from + "' to '" + to + "'");
        return {};
    }
    Status remove(const std::string& path) override {
        if (::unlink(path.c_str()) != 0 && errno != ENOENT)
            return io_error("remove '" + path + "'");
        return {};
    }
    Status sync_dir(const std::string& path) override {
        UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!fd.valid() || ::fsync(fd.get()) != 0) return io_error("sync folder '" + path + "'");
        return {};
    }
    Result<std::vector<std::string>> list(const std::string& dir) override {
        std::error_code code;
        std::vector<std::string> names;
        std::filesystem::directory_iterator entries(dir, code);
        if (code) return io_error("list folder '" + dir + "'", code.value());
        while (entries != std::filesystem::directory_iterator{}) {
            if (entries->is_regular_file(code))
                names.push_back(entries->path().filename().string());
            entries.increment(code);
            if (code) return io_error("list folder '" + dir + "'", code.value());
        }
        std::sort(names.begin(), names.end());
        return names;
    }
    Result<bool> exists(const std::string& path) override {
        if (::access(path.c_str(), F_OK) == 0) return true;
        if (errno == ENOENT || errno == ENOTDIR) return false;
        return io_error("look at '" + path + "'");
    }
};

}  // namespace

Files& posix_files() {
    static PosixFiles files;  // without state
    return files;
}

}  // namespace evac::storage_sync
