#pragma once
// The joint between the Endpoint and the daemon's threads: bounded rings per class and direction
// around one packet loop. The daemon makes the threads and calls run() on its packet thread.
//
// Owning threads: run() by one packet thread; try_send(c) by one producer thread per class;
// try_receive(c) by one consumer thread per class; try_event() by one thread (usually control).
// Everything else by any thread.
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "evac/core/clock.hpp"
#include "evac/core/result.hpp"
#include "evac/wan/endpoint.hpp"
#include "evac/wan_port/datagram_port.hpp"

namespace evac::wan {

struct TransportConfig {
    EndpointConfig endpoint;
    // Bytes accepted but never put on the wire, per class: the larger of the two. Kept small so
    // that what goes next is decided upstream.
    size_t send_buffer_bytes = 256 * 1024;
    uint32_t send_buffer_ms = 30;          // of the present pacing rate
    size_t receive_ring_bytes = 4u << 20;  // per class, complete messages waiting for the consumer
};

struct TransportEvent {
    enum class Kind : uint8_t {
        session_up,
        session_down,  // ended by set_tls(): the peer is not trusted any more
        peer_silent,
        peer_heard,
        peer_moved,  // the session goes on at another address of the peer
        refused
    };
    Kind kind{};
    SessionId session{};
    std::string text;  // for the log
};

class Transport {
  public:
    // `port` and `clock` must outlive the transport. datagram_bytes_max is lowered to the port's
    // maximum.
    static Result<std::unique_ptr<Transport>> create(const TransportConfig& config,
                                                     std::shared_ptr<const TlsContext> tls,
                                                     wan_port::DatagramPort& port,
                                                     const Clock& clock, uint64_t seed);
    virtual ~Transport() = default;

    // The packet loop; returns soon after a stop is requested. Call once.
    virtual void run(std::stop_token stop) = 0;

    // ok moves from `message`; otherwise it is untouched. `session` is the one the producer
    // believes in (session()): when it is over the answer is session_changed, and messages accepted
    // earlier under it are void.
    virtual SendResult try_send(Class c, SessionId session, Bytes&& message,
                                const SendOptions& options) = 0;
    SendResult try_send(Class c, SessionId session, Bytes&& message) {
        return try_send(c, session, std::move(message), SendOptions{});
    }
    // Asks to take back the message of this ticket; the answer comes by try_dropped(c). By the
    // producer of `c`. False: too many requests wait, ask again.
    virtual bool try_cancel(Class c, SessionId session, uint64_t ticket) = 0;
    // Messages of `c` that expired, and answers to try_cancel(c). By the producer of `c`, whose
    // writable_fd(c) becomes readable. At most kDropReportsMax wait; more are only counted
    // (Stats::drop_reports_lost).
    virtual std::optional<Dropped> try_dropped(Class c) = 0;
    // Readable after a try_send(c) said full, once there is room again, and when the session
    // changes.
    virtual int writable_fd(Class c) const = 0;
    // Accepted and not yet acknowledged by the peer's transport (a message counts until all of it
    // is acknowledged).
    virtual uint64_t queued_bytes(Class c) const = 0;
    // Of those: never put on the wire.
    virtual uint64_t unsent_bytes(Class c) const = 0;

    // In order per class. Compare Message::session with the session you believe in: a different one
    // means that the session changed and that messages in between may be missing.
    virtual std::optional<Message> try_receive(Class c) = 0;
    // Readable when there may be messages of class control, or events, or the session changed.
    virtual int control_fd() const = 0;
    // The same for classes demand, disk and bulk.
    virtual int data_fd() const = 0;
    // Reset an eventfd before looking at the queues, never after.
    static void clear(int event_fd);

    virtual std::optional<TransportEvent> try_event() = 0;

    virtual bool connected() const = 0;  // a session exists (the peer may be silent)
    virtual SessionId session() const = 0;
    virtual SessionState state() const = 0;
    virtual Stats stats() const = 0;  // at most about 100 ms old while there is traffic
    virtual void set_ceiling_bits_per_s(uint64_t rate) = 0;
    // See Endpoint::set_tls(). Takes effect on the packet thread soon after; of several, the last.
    virtual void set_tls(std::shared_ptr<const TlsContext> tls) = 0;
    virtual void set_scavenger(bool on) = 0;  // Endpoint::set_scavenger, by any thread
};

}  // namespace evac::wan
