#pragma once
// Handshake attempts: at most one as the connecting side, at most kAttemptsMax as the listening
// side. Numbers them, resends flights on our timers, applies the limits, and yields the secrets of
// one that completed.
//
//   connect:  idle -> hello (resent every kResendNs until answered) -> [hold] -> exchange ->
//   completed
//             hello unanswered for kUnansweredNs, exchange stalled for kStallNs, refused -> idle
//   hold:     only while an old session exists: the peer's site answers hellos, so either the old
//   session still
//             lives (the endpoint probes it and calls abandon()) or the peer restarted (it calls
//             proceed())
//   listen:   hello without cookie: answered, nothing kept ; with cookie: attempt -> completed /
//   refused, whose last
//             flight is kept for kLingerNs and resent when the peer asks again
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dtls.hpp"
#include "evac/wan/endpoint.hpp"
#include "evac/wan/types.hpp"

namespace evac::wan {

struct CompletedHandshake {
    SessionSecrets secrets;
    wan_port::UdpAddress peer;
    std::shared_ptr<const PeerIdentity> identity;
};

// One exchange under way, or finished and lingering. (At namespace scope: clang 14 cannot use a
// nested class with default member initialisers in a std::optional member.)
struct HandshakeAttempt {
    uint64_t id = 0;
    wan_port::UdpAddress peer{};
    std::unique_ptr<DtlsHandshake> dtls;  // empty once finished
    std::vector<Bytes> flight;            // the last one, resent verbatim
    uint64_t started_ns = 0;
    uint64_t progress_ns = 0;  // when the peer last moved it on
    uint64_t resend_ns = 0;
    bool answered = false;   // client: the peer has answered
    bool committed = false;  // client: our Finished is out
    bool cautious = false;
    std::optional<Bytes> held;  // client: the HelloVerifyRequest that waits for permission
};

class Handshaker {
  public:
    static constexpr size_t kAttemptsMax = 4;
    static constexpr uint64_t kResendNs = 200'000'000;
    static constexpr uint64_t kStallNs = 5'000'000'000;
    // Nobody answers hellos there: begin anew, perhaps at another address.
    static constexpr uint64_t kUnansweredNs = 3'000'000'000;
    static constexpr uint64_t kLingerNs = 10'000'000'000;
    static constexpr uint64_t kYoungNs =
        1'000'000'000;  // an attempt younger than this is not evicted
    static constexpr uint64_t kRepeatGapNs = 50'000'000;  // between resends that the peer asks for
    static constexpr uint64_t kRefusedPauseNs = 1'000'000'000;
    static constexpr uint64_t kFailedPauseNs = 250'000'000;
    static constexpr size_t kOutgoingMax = 64;
    static constexpr size_t kCookieRepliesMax = 32;

    Handshaker(Role role, std::shared_ptr<const TlsContext> tls);

    // For the handshakes from now on; one under way begins anew.
    void set_tls(std::shared_ptr<const TlsContext> tls);
    // Whether the present context refuses a peer that was accepted earlier; take_refusal() then
    // says why, and the next attempt waits a moment.
    bool distrusts(uint64_t now_ns, const PeerIdentity& identity);

    // Connecting side. `cautious`: hold at the peer's first answer until proceed() or abandon().
    void connect(uint64_t now_ns, bool cautious, const wan_port::UdpAddress& peer);
    bool attempting() const { return client_.has_value(); }
    bool holding() const { return client_.has_value() && client_->held.has_value(); }
    void proceed(uint64_t now_ns);
    void abandon();  // no effect once the last flight is out: the peer may have completed
    bool may_connect(uint64_t now_ns) const { return !client_ && now_ns >= not_before_ns_; }
    uint64_t not_before_ns() const { return not_before_ns_; }

    // A datagram of type handshake, whole. Returns why it was dropped, if it was.
    std::optional<DropReason> receive(uint64_t now_ns, const wan_port::UdpAddress& from,
                                      ByteSpan datagram);
    void tick(uint64_t now_ns);
    size_t transmit(std::span<std::byte> out, wan_port::UdpAddress& to);
    uint64_t next_timeout_ns() const;

    std::optional<CompletedHandshake> take_completed() {
        return std::exchange(completed_, std::nullopt);
    }
    std::optional<std::string> take_refusal();
    uint64_t attempts() const { return attempts_; }
    bool active() const;  // an exchange is under way with an answering peer

  private:
    using Attempt = HandshakeAttempt;
    struct Outgoing {
        wan_port::UdpAddress to{};
        uint64_t attempt = 0;
        Bytes bytes;
    };

    std::optional<DropReason> receive_as_client(uint64_t now_ns, const wan_port::UdpAddress& from,
                                                uint64_t id, ByteSpan body);
    std::optional<DropReason> receive_as_server(uint64_t now_ns, const wan_port::UdpAddress& from,
                                                uint64_t id, ByteSpan body);
    // Takes what a step of `attempt` produced; returns handshake_failed when it ended it.
    std::optional<DropReason> advance(uint64_t now_ns, Attempt& attempt,
                                      DtlsHandshake::Progress progress);
    std::optional<Attempt>* free_slot(uint64_t now_ns);
    uint64_t client_stall_ns() const { return client_->answered ? kStallNs : kUnansweredNs; }
    void send_flight(const Attempt& attempt);
    void push(const wan_port::UdpAddress& to, uint64_t attempt, const Bytes& bytes);
    void report(const std::string& text);

    Role role_;
    std::shared_ptr<const TlsContext> tls_;
    DtlsListener listener_;
    std::optional<Attempt> client_;
    std::array<std::optional<Attempt>, kAttemptsMax> servers_;
    std::deque<Outgoing> outgoing_;
    std::array<CookieReply, kCookieRepliesMax> cookie_replies_{};  // a ring
    size_t cookie_first_ = 0;
    size_t cookie_count_ = 0;
    std::optional<CompletedHandshake> completed_;
    uint64_t not_before_ns_ = 0;
    uint64_t attempts_ = 0;
    std::string reported_;
    std::optional<std::string> refusal_;
};

}  // namespace evac::wan
