#include "catalogue_map.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

namespace evac::prestage {
namespace {

// Empty: it can be kept.
std::string what_is_wrong(int fd, const CatalogueHeader& header, uint64_t bytes) {
    struct stat info {};
    if (::fstat(fd, &info) != 0) return "it cannot be read";
    if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) != bytes)
        return "its size is another";
    Bytes head(kDataOffset);
    if (::pread(fd, head.data(), head.size(), 0) != static_cast<ssize_t>(head.size()))
        return "it cannot be read";
    const auto found = decode_catalogue_header(head);
    if (!found.ok()) return found.error().context;
    if (found->boot_id != header.boot_id) return "the machine was started anew since";
    if (found->zero != header.zero) return "it is of another key of the pair";
    if (!(*found == header)) return "it is of another VM, or of other regions";
    std::array<uint64_t, kStateWords> words{};
    ByteReader state(ByteSpan(head).subspan(kStateOffset));
    for (uint64_t& word : words) word = state.le64();
    return plausible_state(words) ? "" : "its state is not plausible";
}

}  // namespace

Result<CatalogueMap> CatalogueMap::map(uint64_t bytes, int flags, int fd, const std::string& what) {
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (data == MAP_FAILED) return io_error("map " + std::to_string(bytes) + " bytes of " + what);
    CatalogueMap made;
    made.data_ = static_cast<std::byte*>(data);
    made.bytes_ = bytes;
    return made;
}

Result<CatalogueMap> CatalogueMap::anonymous(uint64_t bytes) {
    return map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, "memory");
}

Result<CatalogueMap> CatalogueMap::file(const std::string& path, const CatalogueHeader& header,
                                        uint64_t bytes, std::string& begun) {
    auto encoded = encode_catalogue_header(header);
    EVAC_TRY(encoded);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    begun = fd.valid() ? what_is_wrong(fd.get(), header, bytes) : "there was none";
    if (begun.empty()) {
        auto kept = map(bytes, MAP_SHARED, fd.get(), "'" + path + "'");
        // The caller goes on without it, so it must not be believed later.
        if (!kept.ok()) ::unlink(path.c_str());
        return kept;
    }
    ::unlink(path.c_str());
    fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd.valid()) return io_error("create '" + path + "'");
    const auto size = static_cast<ssize_t>(encoded->size());
    const int full = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
    if (full != 0 || ::pwrite(fd.get(), encoded->data(), encoded->size(), 0) != size) {
        const Error error = io_error("write '" + path + "'", full != 0 ? full : errno);
        ::unlink(path.c_str());
        return error;
    }
    return map(bytes, MAP_SHARED, fd.get(), "'" + path + "'");
}

CatalogueMap::CatalogueMap(CatalogueMap&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

CatalogueMap& CatalogueMap::operator=(CatalogueMap&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

CatalogueMap::~CatalogueMap() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace evac::prestage
