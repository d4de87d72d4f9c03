#pragma once
// Paths, loads and a TCP competitor for the tests of the rate, on top of sim_world.hpp.
#include <cmath>
#include <map>

#include "sim_world.hpp"

namespace evac::wan::testing {

struct Path {
    double rate = 100e6;
    double rtt_ms = 20;
    size_t queue = 128 * 1024;
    double loss = 0;
    double burst_enter = 0;
    double burst_loss = 0.8;
    uint64_t jitter_ns = 0;
    uint64_t ceiling = 10'000'000'000;
};

inline World::Options options_for(const Path& path, uint64_t seed) {
    World::Options o;
    o.seed = seed;
    for (LinkModel* m : {&o.a_to_b, &o.b_to_a}) {
        m->rate_bits_per_s = path.rate;
        m->delay_ns = static_cast<uint64_t>(path.rtt_ms * 5e5);
        m->queue_bytes = path.queue;
        m->loss = path.loss;
        m->burst_enter = path.burst_enter;
        m->burst_loss = path.burst_loss;
        m->jitter_ns = path.jitter_ns;
    }
    o.a.ceiling_bits_per_s = o.b.ceiling_bits_per_s = path.ceiling;
    return o;
}

// Keeps `c` saturated from a to b with messages of `size` bytes and counts what b delivers.
struct Load {
    World& world;
    Class c;
    size_t size;
    uint64_t delivered = 0;
    void step() {
        while (auto m = world.b().take(c)) delivered += m->bytes.size();
        while (world.a().stats(0).classes[index(c)].unsent_bytes < 256 * 1024) {
            if (world.a().send(c, world.a().session(), Bytes(size)) != SendResult::ok) break;
        }
    }
};

// A queue of `ms` milliseconds of the link, in bytes.
inline size_t queue_ms(double rate, double ms) {
    return static_cast<size_t>(rate / 8000 * ms);
}

// Gilbert-Elliott: everything is lost in the bad state, which lasts 4 packets on average.
inline double burst_enter_for(double loss) {
    return 0.25 * loss / (1 - loss);
}

// Runs until both ends have a session; says when that was.
inline uint64_t connect(World& world) {
    EVAC_ASSERT(world.run_until(world.now_ns() + 20 * kNsPerSecond, [&] {
        return world.a().session() != SessionId::none && world.b().session() == world.a().session();
    }));
    return world.now_ns();
}

// One TCP flow from a's side to b's: slow start, CUBIC (RFC 9438) or Reno, selective
// acknowledgements (a hole is retransmitted once three later packets arrived), fast recovery, a
// retransmission timeout. Acknowledgements come back after the path's delay, unlossy.
class TcpFlow {
  public:
    static constexpr uint64_t kWire = 1514;
    static constexpr uint64_t kPayload = 1448;

    TcpFlow(World& world, bool cubic) : world_(world), cubic_(cubic) {}
    ~TcpFlow() { *alive_ = false; }
    TcpFlow(const TcpFlow&) = delete;
    TcpFlow& operator=(const TcpFlow&) = delete;

    void start() {
        running_ = true;
        arm();
        fill();
    }
    void stop() { running_ = false; }
    uint64_t delivered_bytes() const { return delivered_ * kPayload; }
    double window() const { return cwnd_; }

  private:
    struct Sent {
        uint64_t sent_ns = 0;
        uint32_t passed = 0;  // later packets that arrived
    };
    std::function<void()> guarded(std::function<void()> f) {
        return [alive = alive_, f = std::move(f)] {
            if (*alive) f();
        };
    }
    void fill() {
        while (running_ && static_cast<double>(open_.size()) < cwnd_) {
            const uint64_t number = next_++;
            open_[number] = {world_.now_ns(), 0};
            world_.cross_traffic(0, kWire, guarded([this, number] {
                                     world_.at(world_.now_ns() + world_.link(1).delay_ns,
                                               guarded([this, number] { acked(number); }));
                                 }));
        }
    }
    void acked(uint64_t number) {
        const auto it = open_.find(number);
        if (it == open_.end()) return;
        const uint64_t rtt = world_.now_ns() - it->second.sent_ns;
        srtt_ns_ = srtt_ns_ == 0 ? rtt : (7 * srtt_ns_ + rtt) / 8;
        min_rtt_ns_ = std::min(min_rtt_ns_, rtt);
        progress_ns_ = world_.now_ns();
        ++delivered_;
        // A hole's data goes again under a new number: only counts matter here.
        for (auto older = open_.begin(); older != it;) {
            if (++older->second.passed < 3) {
                ++older;
                continue;
            }
            if (older->first >= recover_) reduce();
            older = open_.erase(older);
        }
        open_.erase(number);
        // HyStart: leave slow start when the delay rises.
        const uint64_t rise = std::clamp<uint64_t>(min_rtt_ns_ / 8, 4 * kNsPerMs, 16 * kNsPerMs);
        delayed_ = rtt > min_rtt_ns_ + rise ? delayed_ + 1 : 0;
        if (cwnd_ < threshold_ && delayed_ >= 8) threshold_ = cwnd_;
        if (number >= recover_) grow();
        fill();
    }
    void reduce() {
        recover_ = next_;
        epoch_ns_ = 0;
        max_ = cwnd_ < max_ && cubic_ ? cwnd_ * 0.85 : cwnd_;
        cwnd_ = std::max(2.0, cwnd_ * (cubic_ ? 0.7 : 0.5));
        threshold_ = cwnd_;
    }
    void grow() {
        if (cwnd_ < threshold_) {
            cwnd_ += 1;
            return;
        }
        if (!cubic_) {
            cwnd_ += 1 / cwnd_;
            return;
        }
        if (epoch_ns_ == 0) {
            epoch_ns_ = world_.now_ns();
            reno_ = cwnd_;
            max_ = std::max(max_, cwnd_);
            k_ = std::cbrt((max_ - cwnd_) / 0.4);
        }
        const double t = static_cast<double>(world_.now_ns() - epoch_ns_ + min_rtt_ns_) / 1e9;
        const double target = 0.4 * std::pow(t - k_, 3) + max_;
        reno_ += 3 * 0.3 / 1.7 / cwnd_;
        if (target > cwnd_) cwnd_ += std::min((target - cwnd_) / cwnd_, 0.5);
        cwnd_ = std::max(cwnd_, reno_);
    }
    void arm() {
        world_.at(world_.now_ns() + 50 * kNsPerMs, guarded([this] {
                      const uint64_t rto = std::max<uint64_t>(2 * srtt_ns_, 200 * kNsPerMs);
                      if (!open_.empty() && world_.now_ns() - progress_ns_ > rto) {
                          open_.clear();
                          threshold_ = std::max(2.0, cwnd_ / 2);
                          cwnd_ = 2;
                          recover_ = next_;
                          epoch_ns_ = 0;
                          progress_ns_ = world_.now_ns();
                          fill();
                      }
                      if (running_) arm();
                  }));
    }

    World& world_;
    bool cubic_;
    bool running_ = false;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
    std::map<uint64_t, Sent> open_;
    uint64_t next_ = 0;
    uint64_t recover_ = 0;
    uint64_t delivered_ = 0;
    uint64_t srtt_ns_ = 0;
    uint64_t min_rtt_ns_ = UINT64_MAX;
    uint64_t progress_ns_ = 0;
    uint32_t delayed_ = 0;  // acknowledgements in a row that came late
    double cwnd_ = 10;
    double threshold_ = 1e9;
    double max_ = 0;
    double reno_ = 0;
    double k_ = 0;
    uint64_t epoch_ns_ = 0;
};

}  // namespace evac::wan::testing
