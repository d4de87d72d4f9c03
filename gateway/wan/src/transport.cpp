#include "evac/wan/transport.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "evac/core/spsc_ring.hpp"
#include "evac/core/unique_fd.hpp"
#include "evac/core/units.hpp"
#include "transport_lane.hpp"

namespace evac::wan {
namespace {

constexpr size_t kEventRing = 64;
constexpr size_t kReceiveBudget = 128;  // datagrams per pass
constexpr size_t kTransmitBatch = 32;
constexpr uint64_t kBlindSleepNs = 1'000'000;    // longest sleep without a descriptor to wait on
constexpr uint64_t kBlindSleepFirstNs = 50'000;  // after work; doubles up to the longest
// A wake-up costs 10 to 40 us of a busy machine, so a thousand a second are above 1 % of a core:
// after so many of the longest sleeps in a row without a datagram, sleep longer still.
constexpr uint32_t kBlindIdlePasses = 8;
constexpr uint64_t kBlindIdleSleepNs = 10'000'000;
constexpr uint64_t kPortFullSleepNs = 200'000;
constexpr uint64_t kStatsEveryNs = 100'000'000;
constexpr uint64_t kSleepMaxNs = 1'000'000'000;

class TransportImpl final : public Transport {
  public:
    TransportImpl(const TransportConfig& config, std::unique_ptr<Endpoint> endpoint,
                  wan_port::DatagramPort& port, const Clock& clock)
        : config_(config),
          endpoint_(std::move(endpoint)),
          port_(port),
          clock_(clock),
          ceiling_(config.endpoint.ceiling_bits_per_s),
          limit_bytes_(config.send_buffer_bytes) {
        for (auto& buffer : batch_) buffer.resize(config.endpoint.datagram_bytes_max);
        publish(clock_.now_ns());
    }

    bool descriptors_ok() const {
        return wake_.valid() && control_.valid() && data_.valid() &&
               std::all_of(lanes_.begin(), lanes_.end(),
                           [](const Lane& lane) { return lane.writable.valid(); });
    }

    void run(std::stop_token stop) override;
    using Transport::try_send;
    SendResult try_send(Class c, SessionId session, Bytes&& message,
                        const SendOptions& options) override;
    bool try_cancel(Class c, SessionId session, uint64_t ticket) override;
    std::optional<Dropped> try_dropped(Class c) override {
        return lanes_[index(c)].dropped.try_pop();
    }
    std::optional<Message> try_receive(Class c) override;

    int writable_fd(Class c) const override { return lanes_[index(c)].writable.get(); }
    uint64_t queued_bytes(Class c) const override { return difference(c, &Lane::released_bytes); }
    uint64_t unsent_bytes(Class c) const override { return difference(c, &Lane::departed_bytes); }
    int control_fd() const override { return control_.get(); }
    int data_fd() const override { return data_.get(); }
    std::optional<TransportEvent> try_event() override { return events_.try_pop(); }
    bool connected() const override { return session() != SessionId::none; }
    SessionId session() const override {
        return SessionId{session_.load(std::memory_order_acquire)};
    }
    SessionState state() const override { return state_.load(std::memory_order_acquire); }
    Stats stats() const override { return stats_.load(); }
    void set_ceiling_bits_per_s(uint64_t rate) override {
        ceiling_.store(rate, std::memory_order_release);
        wake();
    }
    void set_tls(std::shared_ptr<const TlsContext> tls) override {
        EVAC_ASSERT(tls != nullptr);
        {
            const std::lock_guard lock(tls_mutex_);
            tls_pending_ = std::move(tls);
        }
        tls_changed_.store(true, std::memory_order_release);
        ring(wake_);
    }
    void set_scavenger(bool on) override {
        scavenger_.store(on, std::memory_order_release);
        wake();
    }

  private:
    uint64_t difference(Class c, std::atomic<uint64_t> Lane::*done) const {
        const Lane& lane = lanes_[index(c)];
        const uint64_t gone = (lane.*done).load(std::memory_order_acquire);
        const uint64_t accepted = lane.accepted_bytes.load(std::memory_order_acquire);
        return accepted - std::min(accepted, gone);
    }
    void wake() {
        if (sleeping_.exchange(false, std::memory_order_acq_rel)) ring(wake_);
    }

    // Packet thread.
    bool pass(uint64_t now_ns);
    bool feed_endpoint(uint64_t now_ns);
    bool take_cancels(Class c);
    void settle_cancels(Class c);
    std::optional<Outgoing> pop_outgoing(Class c);
    void drop_stalled(Class c, Dropped::Reason reason);
    void report_dropped(Dropped dropped);
    bool flush(uint64_t now_ns);
    bool deliver();
    void track_session();
    void take_tls(uint64_t now_ns);
    void track_room();
    void publish(uint64_t now_ns);
    void event(TransportEvent::Kind kind, std::string text);
    bool work_waits() const;
    void sleep_until(uint64_t now_ns, uint64_t until_ns, bool idle);

    const TransportConfig config_;
    std::unique_ptr<Endpoint> endpoint_;
    wan_port::DatagramPort& port_;
    const Clock& clock_;

    std::array<Lane, kClasses> lanes_;
    SpscRing<TransportEvent> events_{kEventRing};
    UniqueFd wake_ = make_eventfd();
    UniqueFd control_ = make_eventfd();
    UniqueFd data_ = make_eventfd();
    std::atomic<bool> sleeping_{false};
    std::atomic<uint64_t> session_{0};
    std::atomic<SessionState> state_{SessionState::down};
    std::atomic<uint64_t> ceiling_;
    std::atomic<bool> scavenger_{false};
    std::atomic<uint64_t> limit_bytes_;  // of unsent bytes per class
    PublishedStats stats_;
    std::mutex tls_mutex_;  // held for a pointer's move, some times a day
    std::shared_ptr<const TlsContext> tls_pending_;
    std::atomic<bool> tls_changed_{false};

    // Packet thread only.
    std::array<Bytes, kTransmitBatch> batch_;
    std::array<std::span<const std::byte>, kTransmitBatch> batch_views_;
    size_t batch_size_ = 0;
    size_t batch_sent_ = 0;
    std::array<wan_port::UdpAddress, kTransmitBatch> batch_to_{};
    uint64_t reports_lost_ = 0;
    uint64_t ceiling_seen_ = 0;
    uint64_t moves_seen_ = 0;
    bool scavenger_seen_ = false;
    uint64_t stats_at_ns_ = 0;
    uint64_t blind_sleep_ns_ = kBlindSleepFirstNs;
    uint32_t blind_idle_passes_ = 0;
    bool wait_fd_failed_ = false;
};

// ---- producers and consumers ----

SendResult TransportImpl::try_send(Class c, SessionId session, Bytes&& message,
                                   const SendOptions& options) {
    if (message.empty() || message.size() > kMessageBytesMax) return SendResult::invalid;
    const SessionId now = this->session();
    if (now == SessionId::none || session == SessionId::none) return SendResult::not_connected;
    if (session != now) return SendResult::session_changed;
    Lane& lane = lanes_[index(c)];
    const size_t size = message.size();
    const auto fits = [&] {
        const uint64_t unsent = unsent_bytes(c);
        return unsent == 0 || unsent + size <= limit_bytes_.load(std::memory_order_relaxed);
    };
    if (!fits() || lane.to_wire.size_approx() >= lane.to_wire.capacity()) {
        // Announce the wish first, then look again: the packet thread may have made room in
        // between. Both sides use read-modify-writes, so that one of them always sees what the
        // other did before.
        lane.wants_room.exchange(size, std::memory_order_acq_rel);
        if (!fits() || lane.to_wire.size_approx() >= lane.to_wire.capacity())
            return SendResult::full;
        lane.wants_room.store(0, std::memory_order_relaxed);
    }
    // Counted before it can be acknowledged, so that the difference never goes below zero.
    lane.accepted_bytes.fetch_add(size, std::memory_order_release);
    const bool pushed = lane.to_wire.try_push(Outgoing{{session, std::move(message)}, options});
    EVAC_ASSERT(pushed);
    wake();
    return SendResult::ok;
}

bool TransportImpl::try_cancel(Class c, SessionId session, uint64_t ticket) {
    if (!lanes_[index(c)].cancels.try_push(CancelRequest{session, ticket})) return false;
    wake();
    return true;
}

std::optional<Message> TransportImpl::try_receive(Class c) {
    Lane& lane = lanes_[index(c)];
    auto message = lane.from_wire.try_pop();
    if (!message) return std::nullopt;
    lane.consumed_bytes.fetch_add(message->bytes.size(), std::memory_order_release);
    if (lane.blocked.exchange(false, std::memory_order_acq_rel)) wake();
    return message;
}

// ---- packet thread ----

void TransportImpl::run(std::stop_token stop) {
    ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    const std::stop_callback on_stop(stop, [this] { ring(wake_); });
    while (!stop.stop_requested()) {
        const uint64_t now = clock_.now_ns();
        if (pass(now)) {
            blind_sleep_ns_ = kBlindSleepFirstNs;
            blind_idle_passes_ = 0;
            continue;
        }
        uint64_t until = endpoint_->next_timeout_ns();
        if (batch_sent_ < batch_size_) until = std::min(until, now + kPortFullSleepNs);
        sleep_until(now, until, batch_sent_ == batch_size_);
    }
    publish(clock_.now_ns());
}

bool TransportImpl::pass(uint64_t now_ns) {
    const uint64_t ceiling = ceiling_.load(std::memory_order_acquire);
    if (ceiling != ceiling_seen_) {
        ceiling_seen_ = ceiling;
        endpoint_->set_ceiling_bits_per_s(ceiling);
    }
    if (tls_changed_.exchange(false, std::memory_order_acq_rel)) take_tls(now_ns);
    const bool scavenger = scavenger_.load(std::memory_order_acquire);
    if (scavenger != scavenger_seen_) {
        scavenger_seen_ = scavenger;
        endpoint_->set_scavenger(scavenger);
    }
    // Each arrival gets its own time, never an earlier one: this thread may have been stopped since
    // the pass began, and a packet that seems to have come too early would make the path look
    // shorter than it is, for good.
    const size_t received = port_.receive(
        kReceiveBudget, [&](const wan_port::UdpAddress& from, std::span<const std::byte> datagram) {
            now_ns = clock_.now_ns();
            endpoint_->receive(now_ns, from, datagram);
        });
    if (received > 0) blind_idle_passes_ = 0;
    endpoint_->tick(now_ns);
    track_session();
    const bool fed = feed_endpoint(now_ns);
    const bool flushed = flush(now_ns);
    const bool delivered = deliver();
    track_room();
    if (now_ns - stats_at_ns_ >= kStatsEveryNs) publish(now_ns);
    return received == kReceiveBudget || fed || flushed || delivered;
}

void TransportImpl::take_tls(uint64_t now_ns) {
    std::shared_ptr<const TlsContext> tls;
    {
        const std::lock_guard lock(tls_mutex_);
        tls = std::move(tls_pending_);
    }
    if (tls != nullptr) endpoint_->set_tls(now_ns, std::move(tls));
}

void TransportImpl::event(TransportEvent::Kind kind, std::string text) {
    // A full ring loses the newest event: the states themselves are published apart.
    events_.try_push(TransportEvent{kind, endpoint_->session(), std::move(text)});
    ring(control_);
}

void TransportImpl::track_session() {
    if (auto refusal = endpoint_->take_refusal())
        event(TransportEvent::Kind::refused, std::move(*refusal));
    const auto session = static_cast<uint64_t>(endpoint_->session());
    const SessionState before = state_.load(std::memory_order_relaxed);
    const SessionState now = endpoint_->state();
    if (session != session_.load(std::memory_order_relaxed)) {
        session_.store(session, std::memory_order_release);
        state_.store(now, std::memory_order_release);
        publish(clock_.now_ns());
        if (endpoint_->session() == SessionId::none) {
            event(TransportEvent::Kind::session_down, "session down");
        } else {
            event(TransportEvent::Kind::session_up, "session up");
        }
        ring(data_);
        for (Lane& lane : lanes_) {
            if (lane.stalled) lane.dropped_bytes += lane.stalled->message.bytes.size();
            lane.stalled.reset();
            ring(lane.writable);
        }
        return;
    }
    if (now == before) return;
    state_.store(now, std::memory_order_release);
    publish(clock_.now_ns());
    if (now == SessionState::silent)
        event(TransportEvent::Kind::peer_silent, "the peer is silent; probing");
    if (before == SessionState::silent)
        event(TransportEvent::Kind::peer_heard, "the peer is heard again");
}

bool TransportImpl::feed_endpoint(uint64_t now_ns) {
    bool any = false;
    for (size_t i = 0; i < kClasses; ++i) {
        Lane& lane = lanes_[i];
        const auto c = static_cast<Class>(i);
        any = take_cancels(c) || any;
        for (;;) {
            if (!lane.stalled) lane.stalled = pop_outgoing(c);
            if (!lane.stalled) break;
            Message& message = lane.stalled->message;
            const SendOptions& options = lane.stalled->options;
            const size_t size = message.bytes.size();
            if (options.deadline_ns != 0 && now_ns >= options.deadline_ns) {
                drop_stalled(c, Dropped::Reason::expired);
                continue;
            }
            const SendResult result =
                endpoint_->send(c, message.session, std::move(message.bytes), options);
            if (result == SendResult::full) break;
            if (result != SendResult::ok) lane.dropped_bytes += size;
            lane.stalled.reset();
            any = true;
        }
    }
    while (const auto dropped = endpoint_->take_dropped()) report_dropped(*dropped);
    return any;
}

// The message may be in the endpoint, next in line, in the ring, or gone.
bool TransportImpl::take_cancels(Class c) {
    Lane& lane = lanes_[index(c)];
    bool any = false;
    while (lane.looking.size() < kCancelRing) {
        auto request = lane.cancels.try_pop();
        if (!request) break;
        any = true;
        const bool waits = lane.stalled && lane.stalled->options.ticket == request->ticket &&
                           lane.stalled->message.session == request->session;
        if (waits && request->ticket != 0) {
            drop_stalled(c, Dropped::Reason::cancelled);
            continue;
        }
        const uint64_t before = endpoint_->departed_bytes(c);
        if (endpoint_->cancel(c, request->session, request->ticket) == Dropped::Reason::cancelled) {
            const uint64_t size = endpoint_->departed_bytes(c) - before;
            report_dropped(
                {c, Dropped::Reason::cancelled, request->session, request->ticket, size});
            continue;
        }
        // What was pushed before the request is in the ring by now.
        request->ahead = lane.to_wire.size_approx();
        lane.looking.push_back(*request);
    }
    settle_cancels(c);
    return any;
}

// Requests whose message cannot come out of the ring any more.
void TransportImpl::settle_cancels(Class c) {
    Lane& lane = lanes_[index(c)];
    std::erase_if(lane.looking, [&](const CancelRequest& r) {
        if (r.ahead > 0) return false;
        report_dropped({c, Dropped::Reason::too_late, r.session, r.ticket, 0});
        return true;
    });
}

std::optional<Outgoing> TransportImpl::pop_outgoing(Class c) {
    Lane& lane = lanes_[index(c)];
    for (;;) {
        auto next = lane.to_wire.try_pop();
        if (!next || lane.looking.empty()) return next;
        const auto asked =
            std::find_if(lane.looking.begin(), lane.looking.end(), [&](const CancelRequest& r) {
                return r.ticket != 0 && r.ahead > 0 && r.ticket == next->options.ticket &&
                       r.session == next->message.session;
            });
        for (CancelRequest& r : lane.looking) r.ahead -= r.ahead > 0 ? 1 : 0;
        if (asked == lane.looking.end()) {
            settle_cancels(c);
            return next;
        }
        lane.looking.erase(asked);
        lane.stalled = std::move(next);
        drop_stalled(c, Dropped::Reason::cancelled);
        settle_cancels(c);
    }
}

void TransportImpl::drop_stalled(Class c, Dropped::Reason reason) {
    Lane& lane = lanes_[index(c)];
    const uint64_t size = lane.stalled->message.bytes.size();
    lane.dropped_bytes += size;
    (reason == Dropped::Reason::expired ? lane.expired : lane.cancelled) += 1;
    report_dropped({c, reason, lane.stalled->message.session, lane.stalled->options.ticket, size});
    lane.stalled.reset();
}

void TransportImpl::report_dropped(Dropped dropped) {
    Lane& lane = lanes_[index(dropped.c)];
    if (!lane.dropped.try_push(std::move(dropped))) ++reports_lost_;
    ring(lane.writable);
}

bool TransportImpl::flush(uint64_t now_ns) {
    bool any = false;
    for (;;) {
        if (batch_sent_ == batch_size_) {
            batch_sent_ = batch_size_ = 0;
            while (batch_size_ < kTransmitBatch) {
                Bytes& buffer = batch_[batch_size_];
                const size_t size = endpoint_->transmit(now_ns, buffer, batch_to_[batch_size_]);
                if (size == 0) break;
                batch_views_[batch_size_++] = std::span<const std::byte>(buffer.data(), size);
            }
            if (batch_size_ == 0) return any;
        }
        const wan_port::UdpAddress to = batch_to_[batch_sent_];
        size_t end = batch_sent_ + 1;
        while (end < batch_size_ && batch_to_[end] == to) ++end;
        const size_t run = end - batch_sent_;
        const size_t taken = port_.send(to, {batch_views_.data() + batch_sent_, run});
        batch_sent_ += taken;
        any = any || taken > 0;
        if (taken < run) return any;
    }
}

bool TransportImpl::deliver() {
    bool any_control = false;
    bool any_data = false;
    for (size_t i = 0; i < kClasses; ++i) {
        Lane& lane = lanes_[i];
        const auto full = [&] {
            const uint64_t waiting = lane.delivered_bytes.load(std::memory_order_relaxed) -
                                     lane.consumed_bytes.load(std::memory_order_acquire);
            return waiting >= config_.receive_ring_bytes ||
                   lane.from_wire.size_approx() >= lane.from_wire.capacity();
        };
        lane.waits_for_consumer = false;
        for (;;) {
            if (full()) {
                lane.blocked.exchange(true, std::memory_order_acq_rel);
                lane.waits_for_consumer = full();
                if (lane.waits_for_consumer) break;
                lane.blocked.store(false, std::memory_order_relaxed);
            }
            auto message = endpoint_->take(static_cast<Class>(i));
            if (!message) break;
            lane.delivered_bytes.fetch_add(message->bytes.size(), std::memory_order_relaxed);
            const bool pushed = lane.from_wire.try_push(std::move(*message));
            EVAC_ASSERT(pushed);
            (i == 0 ? any_control : any_data) = true;
        }
    }
    if (any_control) ring(control_);
    if (any_data) ring(data_);
    return any_control || any_data;
}

void TransportImpl::track_room() {
    for (size_t i = 0; i < kClasses; ++i) {
        Lane& lane = lanes_[i];
        const auto c = static_cast<Class>(i);
        lane.departed_bytes.store(endpoint_->departed_bytes(c) + lane.dropped_bytes,
                                  std::memory_order_release);
        lane.released_bytes.store(endpoint_->released_bytes(c) + lane.dropped_bytes,
                                  std::memory_order_release);
        const uint64_t wanted = lane.wants_room.fetch_add(0, std::memory_order_acq_rel);
        if (wanted == 0) continue;
        // Half empty before waking the producer, so that it does not wake for every packet.
        const uint64_t limit = limit_bytes_.load(std::memory_order_relaxed);
        const uint64_t unsent = unsent_bytes(c);
        const bool room = (unsent == 0 || (unsent <= limit / 2 && unsent + wanted <= limit)) &&
                          lane.to_wire.size_approx() <= lane.to_wire.capacity() / 2;
        if (room && lane.wants_room.exchange(0, std::memory_order_acq_rel) != 0)
            ring(lane.writable);
    }
}

void TransportImpl::publish(uint64_t now_ns) {
    stats_at_ns_ = now_ns;
    Stats stats = endpoint_->stats(now_ns);
    stats.drop_reports_lost += reports_lost_;
    for (size_t i = 0; i < kClasses; ++i) {
        stats.classes[i].cancelled_messages += lanes_[i].cancelled;
        stats.classes[i].expired_messages += lanes_[i].expired;
    }
    stats_.store(stats);
    if (stats.path_changes != moves_seen_) {
        moves_seen_ = stats.path_changes;
        const wan_port::UdpAddress peer{static_cast<uint32_t>(stats.peer_ip),
                                        static_cast<uint16_t>(stats.peer_port)};
        event(TransportEvent::Kind::peer_moved, "the peer is at " + to_string(peer) + " now");
    }
    const uint64_t by_rate = stats.pacing_rate_bits_per_s / 8 * config_.send_buffer_ms / 1000;
    limit_bytes_.store(std::max<uint64_t>(config_.send_buffer_bytes, by_rate),
                       std::memory_order_relaxed);
}

bool TransportImpl::work_waits() const {
    return std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) {
        const bool pushed = (!lane.stalled && !lane.to_wire.empty_approx()) ||
                            (lane.looking.size() < kCancelRing && !lane.cancels.empty_approx());
        const bool popped =
            lane.waits_for_consumer && !lane.blocked.load(std::memory_order_acquire);
        return pushed || popped;
    });
}

void TransportImpl::sleep_until(uint64_t now_ns, uint64_t until_ns, bool idle) {
    uint64_t wait_ns = until_ns <= now_ns ? 0 : std::min(until_ns - now_ns, kSleepMaxNs);
    if (wait_ns == 0) return;
    const int port_fd = port_.wait_fd();
    const bool blind = port_fd < 0 || wait_fd_failed_;
    if (blind) {
        const bool long_idle = blind_idle_passes_ >= kBlindIdlePasses;
        wait_ns = std::min(wait_ns, long_idle ? kBlindIdleSleepNs : blind_sleep_ns_);
        if (blind_sleep_ns_ >= kBlindSleepNs && !long_idle) ++blind_idle_passes_;
        if (idle) blind_sleep_ns_ = std::min(2 * blind_sleep_ns_, kBlindSleepNs);
    }
    wait_fd_failed_ = false;
    // Announce the sleep first, then look again: another thread may have pushed or popped in
    // between.
    sleeping_.exchange(true, std::memory_order_acq_rel);
    if (work_waits() || ceiling_.load(std::memory_order_acquire) != ceiling_seen_ ||
        scavenger_.load(std::memory_order_acquire) != scavenger_seen_) {
        sleeping_.store(false, std::memory_order_relaxed);
        return;
    }
    std::array<pollfd, 2> fds{{{wake_.get(), POLLIN, 0}, {port_fd, POLLIN, 0}}};
    const timespec timeout{static_cast<time_t>(wait_ns / kNsPerSecond),
                           static_cast<long>(wait_ns % kNsPerSecond)};
    const int ready = ::ppoll(fds.data(), blind ? 1 : 2, &timeout, nullptr);
    sleeping_.store(false, std::memory_order_relaxed);
    if (ready <= 0) return;
    if ((fds[0].revents & POLLIN) != 0) clear(wake_.get());
    // Link down: the descriptor would wake us at once, for ever.
    if (!blind && (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) wait_fd_failed_ = true;
}

}  // namespace

void Transport::clear(int event_fd) {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(event_fd, &count, sizeof count);
}

Result<std::unique_ptr<Transport>> Transport::create(const TransportConfig& config,
                                                     std::shared_ptr<const TlsContext> tls,
                                                     wan_port::DatagramPort& port,
                                                     const Clock& clock, uint64_t seed) {
    TransportConfig fitted = config;
    fitted.endpoint.datagram_bytes_max =
        std::min(config.endpoint.datagram_bytes_max, port.payload_bytes_max());
    auto endpoint = Endpoint::create(fitted.endpoint, std::move(tls), seed, clock.now_ns());
    EVAC_TRY(endpoint);
    auto transport = std::make_unique<TransportImpl>(fitted, std::move(*endpoint), port, clock);
    if (!transport->descriptors_ok()) return io_error("wan: cannot create an eventfd");
    return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace evac::wan
