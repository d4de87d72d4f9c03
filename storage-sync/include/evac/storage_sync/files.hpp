#pragma once
// File operations that staging needs, as a port: the real one below, a fault-injecting one in the
// tests. Not thread-safe per File; a Files may be shared. Every error is Errc::io with errno and
// the path.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/result.hpp"

namespace evac::storage_sync {

struct ByteRange {
    uint64_t begin = 0;
    uint64_t end = 0;  // exclusive
};

class File {
  public:
    virtual ~File() = default;
    // Fills `out` from `offset`; fewer bytes only at the end of the file.
    virtual Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) = 0;
    // Writes a, then b, all of it; after an error any part of it may have been written.
    virtual Status write_at(uint64_t offset, ByteSpan a, ByteSpan b = {}) = 0;
    virtual Status punch(uint64_t offset,
                         uint64_t size) = 0;  // reads as zeros afterwards; the size stays
    // Makes room for later writes there (no later "disk full" where the file system overwrites in
    // place); content stays.
    virtual Status reserve(uint64_t offset, uint64_t size) = 0;
    virtual Status truncate(uint64_t size) = 0;
    virtual Status sync() = 0;  // content and size are durable afterwards
    // Asks for write-back without waiting; a hint.
    virtual void start_writeback(uint64_t offset, uint64_t size) = 0;
    virtual Result<uint64_t> size() = 0;
    // First range at or behind `offset` that may hold data; none = zeros up to the end.
    virtual Result<std::optional<ByteRange>> next_data(uint64_t offset) = 0;
};

enum class OpenMode : uint8_t { existing, create_new };

class Files {
  public:
    virtual ~Files() = default;
    virtual Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) = 0;
    virtual Status make_dir(const std::string& path) = 0;  // with parents; existing is fine
    virtual Status remove_dir(
        const std::string& path) = 0;  // absent, or not empty (stays), is fine
    virtual Status rename(const std::string& from, const std::string& to) = 0;  // replaces `to`
    virtual Status remove(const std::string& path) = 0;                         // absent is fine
    virtual Status sync_dir(const std::string& path) = 0;
    virtual Result<std::vector<std::string>> list(
        const std::string& dir) = 0;  // names of plain files, sorted
    virtual Result<bool> exists(const std::string& path) = 0;
};

// pread, pwritev, fallocate, fdatasync. Files are made with mode 0600.
Files& posix_files();

}  // namespace evac::storage_sync
