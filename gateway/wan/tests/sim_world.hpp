#pragma once
// Two endpoints and a modelled path between them in virtual time. Everything is drawn from one
// seed; the trace hash covers what was sent when, how large, what became of it, and what was
// delivered (not ciphertext, which is random).
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <vector>

#include "evac/core/random.hpp"
#include "evac/core/units.hpp"
#include "evac/wan/endpoint.hpp"
#include "test_certs.hpp"

namespace evac::wan::testing {

struct LinkModel {
    double rate_bits_per_s = 100e6;
    uint64_t delay_ns = 10 * kNsPerMs;  // one way
    size_t queue_bytes = 128 * 1024;    // drop-tail, in wire bytes
    double loss = 0;
    double burst_enter =
        0;  // Gilbert-Elliott: chance per packet to enter the bad state, where loss is burst_loss
    double burst_leave = 0.25;
    double burst_loss = 0.8;
    double duplicate = 0;
    double corrupt = 0;
    double reorder = 0;  // chance of an extra delay up to reorder_ns
    uint64_t reorder_ns = 5 * kNsPerMs;
    uint64_t jitter_ns = 0;
    bool outage = false;
    size_t mtu_bytes = kDatagramBytesMax;  // UDP payload; larger ones vanish without a word
};

class World {
  public:
    struct Options {
        uint64_t seed = 1;
        LinkModel a_to_b, b_to_a;
        EndpointConfig a, b;  // role and addresses are filled in
    };
    static constexpr wan_port::UdpAddress kAddressA{0x0a000001, 4500};
    static constexpr wan_port::UdpAddress kAddressB{0x0a000002, 4500};

    explicit World(const Options& options) : options_(options), random_(options.seed) {
        options_.a.role = Role::connect;
        options_.a.peer_address = kAddressB;
        options_.b.role = Role::listen;
        options_.b.peer_address = kAddressA;
        links_[0].model = options.a_to_b;
        links_[1].model = options.b_to_a;
        restart(0);
        restart(1);
    }

    uint64_t now_ns() const { return now_ns_; }
    // The clock of one side, which may have jumped.
    uint64_t clock_ns(size_t side) const { return now_ns_ + clock_ahead_ns_[side]; }
    void jump_clock(size_t side, uint64_t by_ns) {
        clock_ahead_ns_[side] += by_ns;
        note(0xc10c, side, by_ns);
    }
    // From now on the side sends from, and is reached at, another address; datagrams under way to
    // the old one are lost, as behind a NAT that forgot the mapping.
    wan_port::UdpAddress address(size_t side) const { return address_[side]; }
    void move(size_t side, const wan_port::UdpAddress& to) {
        address_[side] = to;
        note(0x30e, side, uint64_t{to.ip} << 16 | to.port);
    }
    Endpoint& a() { return *ends_[0]; }
    Endpoint& b() { return *ends_[1]; }
    Endpoint& end(size_t side) { return *ends_[side]; }
    LinkModel& link(size_t from) { return links_[from].model; }
    uint64_t trace_hash() const { return trace_; }
    uint64_t dropped_by_queue() const { return dropped_by_queue_; }
    uint64_t link_bytes(size_t from) const { return links_[from].bytes; }

    void restart(size_t side) {
        auto made = Endpoint::create(side == 0 ? options_.a : options_.b,
                                     side == 0 ? site_a_context() : site_b_context(),
                                     random_.next(), clock_ns(side));
        EVAC_ASSERT(made.ok());
        ends_[side] = std::move(*made);
        note(0x5e5e, side, now_ns_);
    }

    void at(uint64_t time_ns, std::function<void()> action) {
        events_.push({time_ns, order_++, 2, {}, std::move(action), {}, {}});
    }

    // Called after each step with the present time.
    std::function<void()> on_step;

    void run_until(uint64_t end_ns) {
        while (step(end_ns)) {
        }
    }
    // Until `done` or the time is over; says which.
    bool run_until(uint64_t end_ns, const std::function<bool()>& done) {
        while (!done()) {
            if (!step(end_ns)) return done();
        }
        return true;
    }

    void note(uint64_t a, uint64_t b, uint64_t c) {
        for (const uint64_t v : {a, b, c}) {
            trace_ = (trace_ ^ v) * 0x100000001b3ULL;
            trace_ ^= trace_ >> 29;
        }
    }
    // Sees (and may change or drop, by clearing) every datagram as it enters the path.
    std::function<void(size_t from, Bytes&)> tap;
    // Sees every datagram that was sent to an address where neither side is.
    std::function<void(size_t from, const wan_port::UdpAddress& to, const Bytes&)> stray;
    void inject(size_t to, Bytes bytes, uint64_t delay_ns = 0) {
        inject_from(to, address_[1 - to], std::move(bytes), delay_ns);
    }
    void inject_from(size_t to, const wan_port::UdpAddress& from, Bytes bytes,
                     uint64_t delay_ns = 0) {
        events_.push({now_ns_ + delay_ns, order_++, to, std::move(bytes), {}, from, address_[to]});
    }
    uint64_t steps() const { return steps_; }
    size_t events() const { return events_.size(); }
    uint64_t stray_bytes() const { return stray_bytes_; }

    // A packet of somebody else on the link out of `from`, `wire` bytes: shares its rate and queue,
    // not its other faults. False: the queue dropped it. `arrived` runs at the far end.
    bool cross_traffic(size_t from, uint64_t wire, std::function<void()> arrived) {
        Link& link = links_[from];
        const LinkModel& m = link.model;
        const uint64_t backlog_ns = link.free_ns > now_ns_ ? link.free_ns - now_ns_ : 0;
        const double backlog_bytes = static_cast<double>(backlog_ns) * m.rate_bits_per_s / 8e9;
        const auto size = static_cast<double>(wire);
        if (backlog_bytes + size > static_cast<double>(m.queue_bytes)) return false;
        link.free_ns =
            std::max(link.free_ns, now_ns_) + static_cast<uint64_t>(size * 8e9 / m.rate_bits_per_s);
        if (!m.outage) at(link.free_ns + m.delay_ns, std::move(arrived));
        return true;
    }

  private:
    struct Event {
        uint64_t at_ns;
        uint64_t order;
        size_t to;  // 0, 1: datagram for that side; 2: action
        Bytes bytes;
        std::function<void()> action;
        wan_port::UdpAddress source{};
        wan_port::UdpAddress target{};
        bool operator<(const Event& other) const {
            return at_ns != other.at_ns ? at_ns > other.at_ns : order > other.order;
        }
    };
    struct Link {
        LinkModel model;
        uint64_t free_ns = 0;  // when the transmitter is idle again
        bool bad = false;
        uint64_t bytes = 0;
    };

    bool step(uint64_t end_ns) {
        uint64_t next = end_ns;
        for (size_t side = 0; side < 2; ++side) {
            const uint64_t timeout = ends_[side]->next_timeout_ns();
            if (timeout == UINT64_MAX) continue;
            next = std::min(next,
                            timeout <= clock_ns(side) ? now_ns_ : timeout - clock_ahead_ns_[side]);
        }
        if (!events_.empty()) next = std::min(next, events_.top().at_ns);
        if (next >= end_ns) {
            now_ns_ = end_ns;
            return false;
        }
        // Two steps at one instant are fine, thousands are a busy loop.
        same_time_ = next == now_ns_ ? same_time_ + 1 : 0;
        EVAC_ASSERT(same_time_ < 100000);
        now_ns_ = next;
        ++steps_;
        while (!events_.empty() && events_.top().at_ns <= now_ns_) {
            Event event = std::move(const_cast<Event&>(events_.top()));
            events_.pop();
            if (event.to == 2) {
                event.action();
            } else if (event.target == address_[event.to]) {
                ends_[event.to]->receive(clock_ns(event.to), event.source, event.bytes);
            }
        }
        if (on_step) on_step();
        for (size_t side = 0; side < 2; ++side) {
            ends_[side]->tick(clock_ns(side));
            wan_port::UdpAddress to;
            while (const size_t size = ends_[side]->transmit(clock_ns(side), buffer_, to)) {
                carry(side, to,
                      Bytes(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(size)));
            }
        }
        return true;
    }

    void carry(size_t from, const wan_port::UdpAddress& to, Bytes bytes) {
        Link& link = links_[from];
        const LinkModel& m = link.model;
        note(from, bytes.size(), now_ns_);
        if (tap) tap(from, bytes);
        if (bytes.empty()) return;
        if (!(to == address_[1 - from])) {
            stray_bytes_ += bytes.size();
            if (stray) stray(from, to, bytes);
            return;
        }
        const auto wire = static_cast<double>(bytes.size() + kWireOverheadBytes);
        const uint64_t backlog_ns = link.free_ns > now_ns_ ? link.free_ns - now_ns_ : 0;
        const double backlog_bytes = static_cast<double>(backlog_ns) * m.rate_bits_per_s / 8e9;
        if (backlog_bytes + wire > static_cast<double>(m.queue_bytes)) {
            ++dropped_by_queue_;
            note(0xd0, from, bytes.size());
            return;
        }
        link.free_ns =
            std::max(link.free_ns, now_ns_) + static_cast<uint64_t>(wire * 8e9 / m.rate_bits_per_s);
        link.bytes += static_cast<uint64_t>(wire);
        link.bad = link.bad ? !random_.chance(m.burst_leave) : random_.chance(m.burst_enter);
        if (m.outage || bytes.size() > m.mtu_bytes || random_.chance(m.loss) ||
            (link.bad && random_.chance(m.burst_loss)))
            return;
        if (random_.chance(m.corrupt)) {
            const size_t bit = random_.below(bytes.size() * 8);
            bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
        }
        uint64_t arrival = link.free_ns + m.delay_ns;
        if (m.jitter_ns > 0) arrival += random_.below(m.jitter_ns);
        if (random_.chance(m.reorder)) arrival += random_.below(m.reorder_ns);
        if (random_.chance(m.duplicate))
            events_.push({arrival + random_.below(20 * kNsPerMs),
                          order_++,
                          1 - from,
                          bytes,
                          {},
                          address_[from],
                          to});
        events_.push({arrival, order_++, 1 - from, std::move(bytes), {}, address_[from], to});
    }

    Options options_;
    Random random_;
    std::unique_ptr<Endpoint> ends_[2];
    Link links_[2];
    std::priority_queue<Event> events_;
    std::vector<std::byte> buffer_ = std::vector<std::byte>(kDatagramBytesMax);
    uint64_t now_ns_ = kNsPerSecond;
    std::array<uint64_t, 2> clock_ahead_ns_{};
    std::array<wan_port::UdpAddress, 2> address_{kAddressA, kAddressB};
    uint64_t stray_bytes_ = 0;
    uint64_t order_ = 0;
    uint64_t trace_ = 0xcbf29ce484222325ULL;
    uint64_t same_time_ = 0;
    uint64_t steps_ = 0;
    uint64_t dropped_by_queue_ = 0;
};

}  // namespace evac::wan::testing
