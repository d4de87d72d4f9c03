#pragma once
// Reads capture streams to their end when this process dies in the middle of one. QEMU 7.2 leaves
// the guest hanging when the reader of a background snapshot goes away, so a crash of the gateway
// must not be the end of the stream.
//
// A child process holds a duplicate of every open stream and does nothing, until the parent's death
// closes the pipe between them: then it reads all streams to their ends, discards the bytes, and
// exits. It ignores SIGTERM, SIGINT and SIGHUP (a service manager that stops the whole group lets
// it finish), and never outlives its streams.
//
// Owner: start() is called once, before any other thread exists (it forks). hold() and release()
// are thread-safe.
#include <cstdint>

#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::prestage {

inline constexpr uint32_t kGuardStreamsMax = 64;      // held at once
inline constexpr int kGuardLimitMs = 15 * 60 * 1000;  // after the parent's death

class StreamGuard {
  public:
    static Result<StreamGuard> start();
    StreamGuard(StreamGuard&&) noexcept = default;
    StreamGuard& operator=(StreamGuard&&) = delete;
    ~StreamGuard();  // the child exits; with nothing held at once

    // The child gets a duplicate of `stream_fd` under this number (unique among those held).
    Status hold(uint64_t number, int stream_fd);
    // The stream has ended; the child closes its duplicate.
    void release(uint64_t number);

    int child_pid() const { return child_pid_; }

  private:
    StreamGuard(UniqueFd control, int child_pid)
        : control_(std::move(control)), child_pid_(child_pid) {}
    UniqueFd control_;
    int child_pid_ = 0;
};

}  // namespace evac::prestage
