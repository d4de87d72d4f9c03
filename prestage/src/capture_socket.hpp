#pragma once
// The Unix socket that QEMU migrates into. Internal to this library. Owner: the thread that runs
// the capture.
#include <atomic>
#include <functional>
#include <string>

#include "evac/core/bytes.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::prestage {

inline constexpr int kPollMs = 20;  // how late a cancel may be noticed

// When a capture has to give up waiting.
struct WaitLimits {
    const std::atomic<bool>* cancel = nullptr;
    uint64_t deadline_ns = 0;
    uint64_t silence_ns = 0;  // without a byte

    Status check(uint64_t now_ns, uint64_t last_byte_ns) const;
};

class CaptureSocket {
  public:
    // Listens on `run_dir`/capture-<tag>.sock, mode 0600; the file is removed on destruction.
    // Errors: invalid_argument (path too long), io.
    static Result<CaptureSocket> listen(const std::string& run_dir, const std::string& tag);
    CaptureSocket(CaptureSocket&& other) noexcept;
    CaptureSocket& operator=(CaptureSocket&&) = delete;
    ~CaptureSocket();

    std::string uri() const { return "unix:" + path_; }
    // Waits for QEMU's connection. `refused` is asked every kPollMs whether QEMU gave up; it may
    // ask the monitor, because without a connection no stream can be waiting for us.
    Result<UniqueFd> accept(const Clock& clock, const WaitLimits& limits,
                            const std::function<Status()>& refused);

  private:
    CaptureSocket(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
    UniqueFd fd_;
    std::string path_;
};

// The process that listens on a Unix socket (SO_PEERCRED).
Result<int> listener_pid(const std::string& path);

// Reads `fd` to its end and hands every chunk to `take`, which returns false to end early. `idle`
// is called between chunks and at least every kPollMs; neither may wait for anything.
Status drain(int fd, const Clock& clock, const WaitLimits& limits,
             const std::function<Result<bool>(ByteSpan)>& take, const std::function<void()>& idle);

// Ends a stream wherever it stands: QEMU's writes fail from now on, and this returns when QEMU has
// closed its side. That matters: QEMU 7.2 reports `failed` before it has cleaned up, and a
// migration begun in between breaks both. When it does not close within kHangMs its main loop hangs
// in write-protected memory (see write_protection.hpp): `qemu_pid` is freed and gets kAbandonMs
// more. The descriptor is closed.
inline constexpr int kHangMs = 1'000;
inline constexpr int kAbandonMs = 5'000;
void abandon(UniqueFd& stream, int qemu_pid);

// Reads a stream to its end for nothing: the only way to end a background snapshot without breaking
// the guest (see write_protection.hpp). Its time is that of the rest of the guest's memory at 0.5
// GB/s; an error after kDiscardSilenceMs without a byte, with the stream abandoned.
inline constexpr int kDiscardSilenceMs = 10'000;
Status discard(UniqueFd stream, int qemu_pid, const Clock& clock);

}  // namespace evac::prestage
