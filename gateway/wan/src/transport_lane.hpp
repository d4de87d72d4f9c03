#pragma once
// Where the transport's threads meet: rings and counters per class, and the published figures.
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <optional>

#include "evac/core/spsc_ring.hpp"
#include "evac/core/unique_fd.hpp"
#include "evac/wan/endpoint.hpp"

namespace evac::wan {

inline constexpr size_t kSendRingMessages = 256;
inline constexpr size_t kReceiveRingMessages = 256;
inline constexpr size_t kCancelRing = 256;

inline UniqueFd make_eventfd() {
    return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

inline void ring(const UniqueFd& fd) {
    const uint64_t one = 1;
    // The only failure is a counter at its maximum, which is readable already.
    [[maybe_unused]] const ssize_t written = ::write(fd.get(), &one, sizeof one);
}

// A snapshot that one thread writes and any thread reads without waiting for the writer.
class PublishedStats {
    static constexpr size_t kWords = sizeof(Stats) / sizeof(uint64_t);
    static_assert(sizeof(Stats) % sizeof(uint64_t) == 0 && std::is_trivially_copyable_v<Stats>);

  public:
    void store(const Stats& stats) {
        std::array<uint64_t, kWords> words;
        std::memcpy(words.data(), &stats, sizeof stats);
        const uint64_t version = version_.load(std::memory_order_relaxed);
        version_.store(version + 1, std::memory_order_seq_cst);
        for (size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_seq_cst);
        version_.store(version + 2, std::memory_order_seq_cst);
    }
    Stats load() const {
        std::array<uint64_t, kWords> words;
        for (;;) {
            const uint64_t before = version_.load(std::memory_order_seq_cst);
            for (size_t i = 0; i < kWords; ++i)
                words[i] = words_[i].load(std::memory_order_seq_cst);
            if (before % 2 == 0 && version_.load(std::memory_order_seq_cst) == before) break;
        }
        Stats stats;
        std::memcpy(static_cast<void*>(&stats), words.data(), sizeof stats);
        return stats;
    }

  private:
    std::atomic<uint64_t> version_{0};
    std::array<std::atomic<uint64_t>, kWords> words_{};
};

struct Outgoing {
    Message message;
    SendOptions options;
};

struct CancelRequest {
    SessionId session{};
    uint64_t ticket = 0;
    size_t ahead = 0;  // packet thread: messages in the ring that may still be the one
};

// Both directions of one class. Counters only grow; each has one writer.
struct Lane {
    SpscRing<Outgoing> to_wire{kSendRingMessages};
    SpscRing<CancelRequest> cancels{kCancelRing};
    SpscRing<Dropped> dropped{kDropReportsMax};
    std::vector<CancelRequest> looking;  // packet thread: at most kCancelRing, not found so far
    SpscRing<Message> from_wire{kReceiveRingMessages};
    std::optional<Outgoing> stalled;  // packet thread: popped, but the endpoint was full
    UniqueFd writable = make_eventfd();
    uint64_t dropped_bytes = 0;           // packet thread: accepted, never given to the endpoint
    uint64_t cancelled = 0, expired = 0;  // packet thread: of those, as asked or by deadline
    bool waits_for_consumer = false;      // packet thread: from_wire was full in this pass

    std::atomic<uint64_t> accepted_bytes{0};  // producer
    std::atomic<uint64_t> departed_bytes{0};  // packet thread
    std::atomic<uint64_t> released_bytes{0};  // packet thread
    std::atomic<uint64_t> wants_room{
        0};  // bytes; producer sets after full, packet thread clears and rings
    std::atomic<uint64_t> delivered_bytes{0};  // packet thread: pushed into from_wire
    std::atomic<uint64_t> consumed_bytes{0};   // consumer
    std::atomic<bool> blocked{
        false};  // packet thread: from_wire is full; consumer clears and wakes
};

}  // namespace evac::wan
