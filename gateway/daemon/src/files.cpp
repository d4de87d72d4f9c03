#include "files.hpp"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "evac/core/assert.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::daemon {

Status write_file_durably(const std::string& path, const std::string& content) {
    const std::string temporary = path + ".new";
    UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file.valid()) return io_error("create '" + temporary + "'");
    size_t written = 0;
    while (written < content.size()) {
        const ssize_t n = ::write(file.get(), content.data() + written, content.size() - written);
        if (n < 0 && errno != EINTR) return io_error("write '" + temporary + "'");
        if (n > 0) written += static_cast<size_t>(n);
    }
    if (::fsync(file.get()) != 0) return io_error("sync '" + temporary + "'");
    if (::rename(temporary.c_str(), path.c_str()) != 0) return io_error("rename to '" + path + "'");
    const std::string folder = std::filesystem::path(path).parent_path().string();
    const UniqueFd dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!dir.valid() || ::fsync(dir.get()) != 0) return io_error("sync '" + folder + "'");
    return {};
}

Status make_dirs(const std::string& path) {
    const mode_t before = ::umask(0077);
    std::error_code error;
    std::filesystem::create_directories(path, error);
    ::umask(before);
    if (error) return io_error("create '" + path + "'", error.value());
    return {};
}

Result<std::string> read_small_file(const std::string& path, size_t bytes_max) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return io_error("read '" + path + "'");
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (text.size() > bytes_max)
        return make_error(Errc::corrupt, "'" + path + "' is larger than expected");
    return text;
}

std::string random_hex(size_t bytes) {
    std::vector<unsigned char> raw_bytes(bytes);
    const ssize_t n = ::getrandom(raw_bytes.data(), raw_bytes.size(), 0);
    EVAC_ASSERT(n == static_cast<ssize_t>(bytes));
    std::string text;
    for (const unsigned char byte : raw_bytes) {
        text += "0123456789abcdef"[byte >> 4];
        text += "0123456789abcdef"[byte & 15];
    }
    return text;
}

}  // namespace evac::daemon
