#include "worker_pool.hpp"

#include <poll.h>
#include <pthread.h>

#include "evac/core/assert.hpp"

namespace evac::daemon {

WorkerPool::WorkerPool(size_t workers, std::string name) {
    for (size_t i = 0; i < workers; ++i) lanes_.push_back(std::make_unique<Lane>());
    for (size_t i = 0; i < workers; ++i) {
        Lane& lane = *lanes_[i];
        lane.thread = std::jthread([this, &lane, i](std::stop_token stop) { work(lane, i, stop); });
        ::pthread_setname_np(lane.thread.native_handle(),
                             (name + std::to_string(i)).substr(0, 15).c_str());
    }
}

WorkerPool::~WorkerPool() {
    for (auto& lane : lanes_) {
        lane->thread.request_stop();
        lane->wake.signal();
    }
    for (auto& lane : lanes_) lane->thread.join();
}

bool WorkerPool::submit(Job job) {
    if (waiting_.size() >= kJobsWaitingMax) return false;
    waiting_.push_back(std::move(job));
    dispatch();
    return true;
}

size_t WorkerPool::idle() const {
    size_t count = 0;
    for (const auto& lane : lanes_) count += lane->busy ? size_t{0} : size_t{1};
    return count;
}

void WorkerPool::dispatch() {
    for (auto& lane : lanes_) {
        if (waiting_.empty()) return;
        if (lane->busy) continue;
        lane->busy = true;
        const bool pushed = lane->jobs.try_push(std::move(waiting_.front()));
        EVAC_ASSERT(pushed);
        waiting_.pop_front();
        lane->wake.signal();
    }
}

void WorkerPool::run_completions() {
    completed_.clear();
    for (auto& lane : lanes_) {
        while (auto completion = lane->done.try_pop()) {
            lane->busy = false;
            if (*completion) (*completion)();
        }
    }
    dispatch();
}

void WorkerPool::work(Lane& lane, size_t number, std::stop_token stop) {
    while (!stop.stop_requested()) {
        lane.wake.clear();
        auto job = lane.jobs.try_pop();
        if (!job) {
            pollfd waiter{lane.wake.fd(), POLLIN, 0};
            ::poll(&waiter, 1, -1);
            continue;
        }
        Completion completion = (*job)(number);
        job.reset();
        const bool pushed = lane.done.try_push(std::move(completion));
        EVAC_ASSERT(pushed);
        completed_.signal();
    }
}

}  // namespace evac::daemon
