#pragma once
// Small durable files of the daemon.
#include <string>

#include "evac/core/result.hpp"

namespace evac::daemon {

// Temporary file, fsync, rename, fsync of the folder: a crash leaves the old content or the new.
// Mode 0600.
Status write_file_durably(const std::string& path, const std::string& content);
Status make_dirs(const std::string& path);  // mode 0700
Result<std::string> read_small_file(const std::string& path, size_t bytes_max);
std::string random_hex(size_t bytes);  // from the kernel

}  // namespace evac::daemon
