#pragma once
// What a flow counts while it runs. Fixed size from the start; one owning thread each.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/wan/types.hpp"

namespace wan_flow {

// Bytes delivered per 10 ms of the monotonic clock.
class Timeline {
  public:
    static constexpr uint64_t kBinNs = 10'000'000;

    Timeline(uint64_t base_ns, double seconds)
        : base_ns_(base_ns), bins_(static_cast<size_t>(seconds * 1e9 / kBinNs) + 2) {}

    void add(uint64_t now_ns, uint64_t bytes) {
        const size_t at = now_ns < base_ns_ ? 0 : (now_ns - base_ns_) / kBinNs;
        bins_[std::min(at, bins_.size() - 1)] += bytes;
        used_ = std::max(used_, std::min(at, bins_.size() - 1) + 1);
    }
    uint64_t base_ns() const { return base_ns_; }
    std::vector<uint64_t> bins() const {
        return {bins_.begin(), bins_.begin() + static_cast<std::ptrdiff_t>(used_)};
    }

  private:
    uint64_t base_ns_;
    std::vector<uint64_t> bins_;
    size_t used_ = 0;
};

// Latencies in steps of 100 us up to 10 s; the last step also holds everything beyond.
class LatencyHistogram {
  public:
    static constexpr uint64_t kStepNs = 100'000;
    static constexpr size_t kSteps = 100'000;

    void add(uint64_t latency_ns) {
        ++counts_[std::min<uint64_t>(latency_ns / kStepNs, kSteps - 1)];
        max_ns_ = std::max(max_ns_, latency_ns);
        ++total_;
    }
    uint64_t total() const { return total_; }
    uint64_t max_ns() const { return max_ns_; }
    // Upper edge in microseconds and count of each step that is not empty.
    std::vector<std::pair<uint64_t, uint64_t>> steps() const {
        std::vector<std::pair<uint64_t, uint64_t>> out;
        for (size_t i = 0; i < counts_.size(); ++i) {
            if (counts_[i] != 0) out.emplace_back((i + 1) * kStepNs / 1000, counts_[i]);
        }
        return out;
    }

  private:
    std::vector<uint64_t> counts_ = std::vector<uint64_t>(kSteps);
    uint64_t total_ = 0;
    uint64_t max_ns_ = 0;
};

// Within a session nothing may be missing or change places; messages of a session that was replaced
// may be lost by design, so the first of each session sets the expectation.
struct BulkCount {
    uint64_t messages = 0, bytes = 0, sessions = 0;
    uint64_t out_of_order = 0;
    evac::wan::SessionId session{};
    uint64_t expected = 0;

    void add(const evac::wan::Message& message) {
        const uint64_t sequence = evac::ByteReader(message.bytes).le64();
        if (message.session != session) {
            session = message.session;
            ++sessions;
        } else if (sequence != expected) {
            ++out_of_order;
        }
        expected = sequence + 1;
        ++messages;
        bytes += message.bytes.size();
    }
};

}  // namespace wan_flow
