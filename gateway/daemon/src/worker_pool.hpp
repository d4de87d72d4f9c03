#pragma once
// Threads for work that blocks: QMP, capture rounds, landings. A job runs on a worker and returns
// its completion, which runs on the control thread; so state is touched by one thread at a time and
// nothing needs a lock. Owner: the control thread, for every method. At most kJobsWaitingMax jobs
// wait; submit() says no beyond.
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "evac/core/spsc_ring.hpp"
#include "event_fd.hpp"

namespace evac::daemon {

inline constexpr size_t kJobsWaitingMax = 65'536;

using Completion = std::function<void()>;              // on the control thread
using Job = std::function<Completion(size_t worker)>;  // on worker `worker`

class WorkerPool {
  public:
    WorkerPool(size_t workers, std::string name);
    ~WorkerPool();  // waits for the jobs that run; waiting ones are dropped
    WorkerPool(const WorkerPool&) = delete;
    WorkerPool& operator=(const WorkerPool&) = delete;

    size_t workers() const { return lanes_.size(); }
    bool submit(Job job);
    size_t idle() const;
    size_t waiting() const { return waiting_.size(); }

    int completions_fd() const { return completed_.fd(); }
    void run_completions();

  private:
    struct Lane {
        SpscRing<Job> jobs{2};
        SpscRing<Completion> done{2};
        EventFd wake;
        std::jthread thread;
        bool busy = false;
    };
    void work(Lane& lane, size_t number, std::stop_token stop);
    void dispatch();

    EventFd completed_;
    std::deque<Job> waiting_;
    std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace evac::daemon
