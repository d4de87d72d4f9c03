#include "dump.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace evac::reduce {

Result<Dump> Dump::open(const std::string& path) {
    const auto failed = [&] { return make_error(Errc::io, path + ": " + std::strerror(errno)); };
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return failed();
    struct stat status {};
    if (fstat(fd, &status) != 0) {
        const auto error = failed();
        ::close(fd);
        return error;
    }
    const auto bytes = static_cast<size_t>(status.st_size);
    if (bytes == 0 || bytes % kPageBytes != 0) {
        ::close(fd);
        return make_error(Errc::invalid_argument, path + ": " + std::to_string(bytes) +
                                                      " bytes, accepted are whole pages of 4096");
    }
    void* at = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    const int mapping_errno = errno;
    ::close(fd);
    if (at == MAP_FAILED) {
        errno = mapping_errno;
        return failed();
    }
    return Dump(static_cast<const std::byte*>(at), bytes / kPageBytes);
}

Dump::~Dump() {
    if (bytes_ != nullptr) munmap(const_cast<std::byte*>(bytes_), pages_ * kPageBytes);
}

}  // namespace evac::reduce
