#pragma once
// Bounded single-producer single-consumer ring: the only place where two threads meet.
// Full means backpressure: try_push leaves the value with the caller and says so.
// Owner: push side by one thread, pop side by one thread; construction and destruction by neither.
#include <atomic>
#include <bit>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "evac/core/assert.hpp"

namespace evac {

template <class T>
class SpscRing {
  public:
    // Capacity is rounded up to a power of two, at least 2.
    explicit SpscRing(size_t capacity)
        : mask_(std::bit_ceil(capacity < 2 ? size_t{2} : capacity) - 1), slots_(mask_ + 1) {}
    SpscRing(const SpscRing&) = delete;
    SpscRing& operator=(const SpscRing&) = delete;

    size_t capacity() const { return mask_ + 1; }

    // Producer. On false the value is untouched.
    bool try_push(T&& value) {
        const size_t head = head_.load(std::memory_order_relaxed);
        if (head - tail_seen_ > mask_) {
            tail_seen_ = tail_.load(std::memory_order_acquire);
            if (head - tail_seen_ > mask_) return false;
        }
        slots_[head & mask_].emplace(std::move(value));
        head_.store(head + 1, std::memory_order_release);
        return true;
    }

    // Consumer.
    std::optional<T> try_pop() {
        const size_t tail = tail_.load(std::memory_order_relaxed);
        if (tail == head_seen_) {
            head_seen_ = head_.load(std::memory_order_acquire);
            if (tail == head_seen_) return std::nullopt;
        }
        std::optional<T>& slot = slots_[tail & mask_];
        std::optional<T> value(std::move(slot));
        slot.reset();
        tail_.store(tail + 1, std::memory_order_release);
        return value;
    }

    // Either side; a snapshot that may be stale by the time it is read.
    size_t size_approx() const {
        const size_t tail = tail_.load(std::memory_order_acquire);
        return head_.load(std::memory_order_acquire) - tail;
    }
    bool empty_approx() const { return size_approx() == 0; }

  private:
    const size_t mask_;
    std::vector<std::optional<T>> slots_;
    alignas(64) std::atomic<size_t> head_{0};  // next slot to fill; written by the producer
    size_t tail_seen_ = 0;                     // producer's copy of tail_
    alignas(64) std::atomic<size_t> tail_{0};  // next slot to drain; written by the consumer
    size_t head_seen_ = 0;                     // consumer's copy of head_
};

// The same for values that are too large to move, or that own memory worth keeping: the slots are
// made once, the producer writes into one, the consumer reads it there. A slot comes round with
// what it last held.
template <class T>
class SpscSlots {
  public:
    explicit SpscSlots(size_t capacity)
        : mask_(std::bit_ceil(capacity < 2 ? size_t{2} : capacity) - 1),
          slots_(std::make_unique<T[]>(mask_ + 1)) {}
    SpscSlots(const SpscSlots&) = delete;
    SpscSlots& operator=(const SpscSlots&) = delete;

    size_t capacity() const { return mask_ + 1; }

    // Producer: the next slot, nullptr when all are full. The same one until publish().
    T* claim() {
        const size_t head = head_.load(std::memory_order_relaxed);
        if (head - tail_seen_ > mask_) {
            tail_seen_ = tail_.load(std::memory_order_acquire);
            if (head - tail_seen_ > mask_) return nullptr;
        }
        return &slots_[head & mask_];
    }
    // Producer, after claim(): the consumer may have the slot.
    void publish() {
        head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }

    // Consumer: the oldest slot, nullptr when there is none. The same one until release().
    T* front() {
        const size_t tail = tail_.load(std::memory_order_relaxed);
        if (tail == head_seen_) {
            head_seen_ = head_.load(std::memory_order_acquire);
            if (tail == head_seen_) return nullptr;
        }
        return &slots_[tail & mask_];
    }
    // Consumer, after front(): the producer may have the slot again.
    void release() {
        tail_.store(tail_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }

    // Either side; a snapshot that may be stale by the time it is read.
    size_t size_approx() const {
        const size_t tail = tail_.load(std::memory_order_acquire);
        return head_.load(std::memory_order_acquire) - tail;
    }
    bool empty_approx() const { return size_approx() == 0; }

  private:
    const size_t mask_;
    const std::unique_ptr<T[]> slots_;
    alignas(64) std::atomic<size_t> head_{0};  // next slot to fill; written by the producer
    size_t tail_seen_ = 0;                     // producer's copy of tail_
    alignas(64) std::atomic<size_t> tail_{0};  // next slot to drain; written by the consumer
    size_t head_seen_ = 0;                     // consumer's copy of head_
};

}  // namespace evac
