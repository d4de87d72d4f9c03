#pragma once
// What the journal needs of storage, and two implementations (one conformance suite for both:
// tests/journal_file_test.cpp). Owner: the control thread.
#include <cstdint>
#include <memory>
#include <string>

#include "evac/core/bytes.hpp"
#include "evac/core/random.hpp"
#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::evacuation {

class JournalFile {
  public:
    virtual ~JournalFile() = default;
    // The whole content; Errc::refused when it is longer than size_max.
    virtual Result<Bytes> read_all(size_t size_max) = 0;
    // Adds at the end; visible to read_all at once, durable after sync. On error any part may be
    // there.
    virtual Status append(ByteSpan bytes) = 0;
    // All that was appended is on stable storage. After an error nothing may be assumed.
    virtual Status sync() = 0;
    // Cuts to `size` bytes, durably.
    virtual Status truncate(uint64_t size) = 0;
    // The content becomes `bytes`, durably and atomically: a crash leaves the old or the new.
    virtual Status replace(ByteSpan bytes) = 0;
};

// A file in the state directory, mode 0600, locked (flock) so that two daemons cannot share it.
// The first 4 MiB are reserved (where the file system can), so that a full disk does not stop a
// handover.
class DiskJournalFile final : public JournalFile {
  public:
    // Creates the file when absent; the directory must exist.
    static Result<std::unique_ptr<DiskJournalFile>> open(std::string path);

    Result<Bytes> read_all(size_t size_max) override;
    Status append(ByteSpan bytes) override;
    Status sync() override;
    Status truncate(uint64_t size) override;
    Status replace(ByteSpan bytes) override;

  private:
    DiskJournalFile(std::string path, UniqueFd lock, UniqueFd fd)
        : path_(std::move(path)), lock_(std::move(lock)), fd_(std::move(fd)) {}
    Status sync_directory();
    void reserve();

    std::string path_;
    UniqueFd lock_;  // path + ".lock"; survives replace()
    UniqueFd fd_;
};

// For simulation: crash() loses what was not synced, or keeps any prefix of it, or leaves garbage
// there.
class MemoryJournalFile final : public JournalFile {
  public:
    Result<Bytes> read_all(size_t size_max) override;
    Status append(ByteSpan bytes) override;
    Status sync() override;
    Status truncate(uint64_t size) override;
    Status replace(ByteSpan bytes) override;

    void crash(Random& random);
    Bytes& content() { return content_; }
    uint64_t syncs() const { return syncs_; }

  private:
    Bytes content_;
    size_t synced_bytes_ = 0;
    uint64_t syncs_ = 0;
};

}  // namespace evac::evacuation
