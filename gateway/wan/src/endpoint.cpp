#include "evac/wan/endpoint.hpp"

#include <algorithm>
#include <utility>

#include "evac/core/assert.hpp"
#include "evac/core/random.hpp"
#include "evac/core/units.hpp"
#include "handshaker.hpp"
#include "packet.hpp"
#include "path_validator.hpp"
#include "session.hpp"

namespace evac::wan {
namespace {

constexpr uint64_t kHoldMinNs = 250'000'000;  // how long an old session gets to prove that it lives
constexpr uint64_t kHoldMaxNs = 1'000'000'000;
constexpr uint64_t kHoldProbeNs = 50'000'000;
constexpr uint64_t kHintGapNs = 50'000'000;        // between hints that we send
constexpr uint64_t kSuspectGapNs = 1'000'000'000;  // between suspicions that hints may raise
constexpr uint64_t kConnectJitterNs = 20'000'000;
constexpr uint64_t kLateNs = 250'000'000;  // a loop later than this was stopped

// Time as the protocol sees it: it does not run while the loop that promised to come back is
// stopped. Otherwise a paused guest would take its pause for a round-trip time.
class ProtocolClock {
  public:
    explicit ProtocolClock(uint64_t now_ns) : inside_ns_(now_ns), outside_ns_(now_ns) {}
    // `promised`: says when the loop was to be back, in time of the protocol; UINT64_MAX = never.
    template <class Promised>
    uint64_t advance(uint64_t outside_ns, Promised&& promised) {
        if (outside_ns <= outside_ns_) return inside_ns_;
        uint64_t passed_ns = outside_ns - outside_ns_;
        if (passed_ns > kLateNs) {
            const uint64_t promised_ns = promised();
            if (promised_ns != UINT64_MAX) {
                const uint64_t wait_ns = promised_ns - std::min(promised_ns, inside_ns_);
                passed_ns = std::min(passed_ns, wait_ns + kLateNs);
            }
        }
        inside_ns_ += passed_ns;
        outside_ns_ = outside_ns;
        return inside_ns_;
    }
    uint64_t inside(uint64_t outside_ns) const {
        return inside_ns_ + (outside_ns - std::min(outside_ns, outside_ns_));
    }
    uint64_t outside(uint64_t inside_ns) const {
        if (inside_ns == UINT64_MAX) return UINT64_MAX;
        return inside_ns <= inside_ns_ ? 0 : outside_ns_ + (inside_ns - inside_ns_);
    }

  private:
    uint64_t inside_ns_;
    uint64_t outside_ns_;
};
// One handshake under way: OpenSSL's objects (measured: about 70 KB), flights and buffers.
// Allowance for one handshake under way: OpenSSL's objects, flights and buffers. Not measured.
constexpr size_t kAttemptBytes = 128 * 1024;

Error bad(const char* field, const std::string& value, const char* accepted) {
    return make_error(Errc::invalid_argument,
                      std::string("wan.") + field + ": " + value + "; accepted: " + accepted);
}

Status validate(const EndpointConfig& c) {
    if (c.datagram_bytes_max < kDatagramBytesMin || c.datagram_bytes_max > kDatagramBytesMax) {
        return bad("datagram_bytes_max", std::to_string(c.datagram_bytes_max), "1200 to 9000");
    }
    if (c.role == Role::connect && (c.peer_address.ip == 0 || c.peer_address.port == 0)) {
        return bad("peer_address", to_string(c.peer_address), "ADDRESS:PORT of the listening site");
    }
    if (c.floor_bits_per_s < 8'000 || c.floor_bits_per_s > c.ceiling_bits_per_s) {
        return bad("floor_bits_per_s", std::to_string(c.floor_bits_per_s),
                   "8000 up to the ceiling");
    }
    if (c.ceiling_bits_per_s > 1'000'000'000'000) {
        return bad("ceiling_bits_per_s", std::to_string(c.ceiling_bits_per_s), "at most 10^12");
    }
    if (c.disk_weight == 0 || c.disk_weight > 1000 || c.bulk_weight == 0 || c.bulk_weight > 1000) {
        return bad("disk_weight, bulk_weight",
                   std::to_string(c.disk_weight) + ", " + std::to_string(c.bulk_weight),
                   "1 to 1000");
    }
    if (c.probe_interval_ns < kNsPerMs * 10 || c.keepalive_interval_ns < kNsPerMs * 10) {
        return bad("probe_interval_ns, keepalive_interval_ns", "below 10 ms", "10 ms or more");
    }
    if (c.rekey_after_packets == 0) return bad("rekey_after_packets", "0", "1 or more");
    if (c.fec_history_bytes < kFecHistoryBytesMin || c.fec_history_bytes > kFecHistoryBytesMax) {
        return bad("fec_history_bytes", std::to_string(c.fec_history_bytes), "64 KiB to 64 MiB");
    }
    for (size_t i = 0; i < kClasses; ++i) {
        const ClassLimits& limits = c.classes[i];
        if (limits.send_bytes_max < kMessageBytesMax ||
            limits.receive_bytes_max < kInitialCreditBytes) {
            return bad("classes", to_string(static_cast<Class>(i)),
                       "send_bytes_max >= 256 KiB and receive_bytes_max >= 512 KiB");
        }
    }
    return {};
}

class EndpointImpl final : public Endpoint {
  public:
    EndpointImpl(const EndpointConfig& config, std::shared_ptr<const TlsContext> tls, uint64_t seed,
                 uint64_t now_ns)
        : config_(config),
          handshaker_(config.role, std::move(tls)),
          paths_(&unpredictable_u64),
          clock_(now_ns),
          random_(seed),
          next_rate_(config.start_bits_per_s) {
        connect_ns_ = now_ns + random_.below(kConnectJitterNs);
        totals_.ceiling_bits_per_s = config.ceiling_bits_per_s;
    }

    void receive(uint64_t outside_ns, const wan_port::UdpAddress& from,
                 ByteSpan datagram) override {
        const uint64_t now_ns = advance_clock(outside_ns);
        totals_.bytes_received += datagram.size();
        const std::optional<DropReason> dropped = dispatch(now_ns, from, datagram);
        if (dropped) ++totals_.drops[static_cast<size_t>(*dropped)];
    }

    void tick(uint64_t outside_ns) override {
        const uint64_t now_ns = advance_clock(outside_ns);
        handshaker_.tick(now_ns);
        if (config_.role == Role::connect) keep_connected(now_ns);
        if (!session_) return;
        session_->expire(outside_ns);
        session_->tick(now_ns);
        paths_.tick(now_ns);
        if (const auto moved = paths_.take_validated(now_ns)) move_to(now_ns, *moved);
        silent_ns_ = session_->unanswered_ns(now_ns);
    }

    size_t transmit(uint64_t outside_ns, std::span<std::byte> out,
                    wan_port::UdpAddress& to) override {
        const uint64_t now_ns = advance_clock(outside_ns);
        size_t size = handshaker_.transmit(out, to);
        if (size == 0 && hint_) size = write_hint(out, to);
        if (size == 0 && session_) size = transmit_for_path(now_ns, out, to);
        if (size == 0 && session_) {
            size = session_->transmit(now_ns, out);
            to = session_peer_;
        }
        totals_.bytes_sent += size;
        return size;
    }

    uint64_t next_timeout_ns() const override {
        const uint64_t next = clock_.outside(next_ns());
        return session_ ? std::min(next, session_->deadline_ns()) : next;
    }

    void set_tls(uint64_t outside_ns, std::shared_ptr<const TlsContext> tls) override {
        EVAC_ASSERT(tls != nullptr);
        const uint64_t now_ns = advance_clock(outside_ns);
        handshaker_.set_tls(std::move(tls));
        if (session_ && peer_identity_ && handshaker_.distrusts(now_ns, *peer_identity_))
            retire(now_ns);
    }

    using Endpoint::send;
    SendResult send(Class c, SessionId session, Bytes&& message,
                    const SendOptions& options) override {
        if (message.empty() || message.size() > kMessageBytesMax) return SendResult::invalid;
        if (!session_ || session == SessionId::none) return SendResult::not_connected;
        if (session != session_->id()) return SendResult::session_changed;
        return session_->push(c, std::move(message), options) ? SendResult::ok : SendResult::full;
    }

    Dropped::Reason cancel(Class c, SessionId session, uint64_t ticket) override {
        const bool live = session_ && session == session_->id();
        return live && session_->cancel(c, ticket) ? Dropped::Reason::cancelled
                                                   : Dropped::Reason::too_late;
    }

    std::optional<Dropped> take_dropped() override {
        return session_ ? session_->take_dropped() : std::nullopt;
    }

    std::optional<Message> take(Class c) override {
        if (!session_) return std::nullopt;
        auto bytes = session_->take(c);
        if (!bytes) return std::nullopt;
        return Message{session_->id(), std::move(*bytes)};
    }

    SessionId session() const override { return session_ ? session_->id() : SessionId::none; }

    SessionState state() const override {
        if (session_)
            return silent_ns_ >= config_.silent_after_ns ? SessionState::silent : SessionState::up;
        return handshaker_.active() ? SessionState::handshaking : SessionState::down;
    }

    std::optional<std::string> take_refusal() override { return handshaker_.take_refusal(); }

    uint64_t departed_bytes(Class c) const override {
        if (!session_) return ended_[index(c)];
        const SendStream& stream = session_->sending(c);
        return ended_[index(c)] + stream.departed_bytes() + stream.dropped_bytes();
    }
    uint64_t released_bytes(Class c) const override {
        if (!session_) return ended_[index(c)];
        const SendStream& stream = session_->sending(c);
        return ended_[index(c)] + stream.released_bytes() + stream.dropped_bytes();
    }

    void set_ceiling_bits_per_s(uint64_t rate) override {
        config_.ceiling_bits_per_s =
            std::clamp(rate, config_.floor_bits_per_s, uint64_t{1'000'000'000'000});
        totals_.ceiling_bits_per_s = config_.ceiling_bits_per_s;
        if (session_) session_->set_ceiling(config_.ceiling_bits_per_s);
    }

    void set_scavenger(bool on) override {
        totals_.scavenging = on ? 1 : 0;
        if (session_) session_->set_scavenger(on);
    }

    Stats stats(uint64_t outside_ns) const override {
        const uint64_t now_ns = clock_.inside(outside_ns);
        Stats s = totals_;
        s.path_challenges = paths_.challenges();
        s.path_refused = paths_.refused();
        s.memory_bytes_max = memory_bytes_max(config_);
        s.handshake_attempts = handshaker_.attempts();
        s.state = static_cast<uint64_t>(state());
        if (session_) {
            s.session_id = static_cast<uint64_t>(session_->id());
            s.silent_ns = state() == SessionState::silent ? session_->unanswered_ns(now_ns) : 0;
            s.peer_ip = session_peer_.ip;
            s.peer_port = session_peer_.port;
            session_->add_to(s);
        }
        s.memory_bytes += sizeof(EndpointImpl);
        if (handshaker_.active() || handshaker_.attempting())
            s.memory_bytes += (Handshaker::kAttemptsMax + 1) * kAttemptBytes;
        return s;
    }

  private:
    uint64_t next_ns() const {
        if (hint_) return 0;
        uint64_t next = handshaker_.next_timeout_ns();
        if (session_) {
            if (response_) return 0;
            next = std::min({next, session_->next_timeout_ns(), paths_.next_timeout_ns()});
            const uint64_t deadline_ns = session_->deadline_ns();
            if (deadline_ns != UINT64_MAX) next = std::min(next, clock_.inside(deadline_ns));
            if (handshaker_.holding()) next = std::min(next, hold_probe_ns_);
            if (wants_attempt() && !handshaker_.attempting())
                next = std::min(next, handshaker_.not_before_ns());
        } else if (config_.role == Role::connect && !handshaker_.attempting()) {
            next = std::min(next, std::max(connect_ns_, handshaker_.not_before_ns()));
        }
        return next;
    }

    uint64_t advance_clock(uint64_t outside_ns) {
        return clock_.advance(outside_ns, [this] { return next_ns(); });
    }

    std::optional<DropReason> dispatch(uint64_t now_ns, const wan_port::UdpAddress& from,
                                       ByteSpan datagram) {
        if (!config_.allow_address_change && config_.peer_address.ip != 0 &&
            !(from == config_.peer_address)) {
            return DropReason::wrong_address;
        }
        if (datagram.empty()) return DropReason::too_short;
        switch (std::to_integer<uint8_t>(datagram[0])) {
            case kTypeHandshake: {
                const auto dropped = handshaker_.receive(now_ns, from, datagram);
                if (auto completed = handshaker_.take_completed()) install(now_ns, *completed);
                return dropped;
            }
            case kTypeData:
                return receive_data(now_ns, from, datagram);
            case kTypeHint:
                return receive_hint(now_ns, datagram);
            default:
                return DropReason::unknown_type;
        }
    }

    std::optional<DropReason> receive_data(uint64_t now_ns, const wan_port::UdpAddress& from,
                                           ByteSpan datagram) {
        DataHeader header;
        if (!read_data_header(datagram, header)) return DropReason::too_short;
        if (!session_ || header.session_tag != session_->tag()) {
            offer_hint(now_ns, from, header);
            return DropReason::unknown_session;
        }
        const bool elsewhere = !(from == session_peer_);
        if (elsewhere && !config_.allow_address_change) return DropReason::wrong_address;
        const auto dropped = session_->receive(now_ns, datagram);
        if (session_->arrival().authentic) {
            note_path(now_ns, from, header.number, datagram.size());
            // The session lives: no new one is needed.
            suspect_ = false;
            silent_ns_ = 0;
            if (handshaker_.attempting()) handshaker_.abandon();
        }
        // A copy that took the known path: somebody else was faster with the first one.
        if (!elsewhere && dropped == DropReason::replayed && paths_.pending() &&
            session_->is_authentic_copy(datagram)) {
            paths_.on_active(now_ns, header.number);
        }
        return dropped;
    }

    void note_path(uint64_t now_ns, const wan_port::UdpAddress& from, uint64_t number,
                   size_t bytes) {
        const Session::Arrival& arrival = session_->arrival();
        if (from == session_peer_) {
            paths_.on_active(now_ns, number);
        } else if (paths_.on_elsewhere(now_ns, from, number, arrival.newest, bytes,
                                       session_->pto_ns())) {
            session_->request_probe();
        }
        if (arrival.path_response) paths_.on_response(from, *arrival.path_response);
        if (arrival.path_challenge) response_ = {from, *arrival.path_challenge};
    }

    size_t transmit_for_path(uint64_t now_ns, std::span<std::byte> out, wan_port::UdpAddress& to) {
        uint8_t type = kFramePathResponse;
        std::optional<PathValidator::Challenge> frame = std::exchange(response_, std::nullopt);
        if (!frame) {
            type = kFramePathChallenge;
            frame = paths_.take_challenge(now_ns);
        }
        if (!frame) return 0;
        to = frame->to;
        return session_->transmit_path_frame(now_ns, out, type, frame->value);
    }

    void move_to(uint64_t now_ns, const wan_port::UdpAddress& address) {
        session_->on_path_change(now_ns, address.ip != session_peer_.ip);
        session_peer_ = address;
        ++totals_.path_changes;
    }

    // Where the next attempt goes: in turn to where the session was last, and to where the peer is
    // configured.
    wan_port::UdpAddress attempt_address() const {
        const bool moved = session_ && !(session_peer_ == config_.peer_address);
        return moved && handshaker_.attempts() % 2 == 0 ? session_peer_ : config_.peer_address;
    }

    // Only the listening side hints: the connecting side starts handshakes by itself.
    void offer_hint(uint64_t now_ns, const wan_port::UdpAddress& from, const DataHeader& header) {
        if (config_.role != Role::listen || now_ns < hint_after_ns_) return;
        hint_after_ns_ = now_ns + kHintGapNs;
        hint_ = header;
        hint_to_ = from;
    }

    size_t write_hint(std::span<std::byte> out, wan_port::UdpAddress& to) {
        PacketWriter writer(out);
        writer.u8(kTypeHint);
        writer.u8(kVersion);
        writer.le32(hint_->session_tag);
        writer.le64(hint_->number);
        hint_.reset();
        to = hint_to_;
        return writer.size();
    }

    // Not authenticated: all it does is make us probe, and knock without giving the session up.
    std::optional<DropReason> receive_hint(uint64_t now_ns, ByteSpan datagram) {
        if (datagram.size() != kHintBytes) return DropReason::too_short;
        ByteReader reader(datagram.subspan(1));
        if (reader.u8() != kVersion) return DropReason::bad_version;
        const uint32_t tag = reader.le32();
        const uint64_t number = reader.le64();
        if (config_.role != Role::connect || !session_ || tag != session_->tag() ||
            !session_->sent(number) || now_ns < suspect_after_ns_) {
            return DropReason::hint_ignored;
        }
        suspect_after_ns_ = now_ns + kSuspectGapNs;
        suspect_ = true;
        session_->request_probe();
        return std::nullopt;
    }

    bool wants_attempt() const {
        return config_.role == Role::connect &&
               (suspect_ || silent_ns_ >= config_.reconnect_after_ns);
    }

    void keep_connected(uint64_t now_ns) {
        if (!session_) {
            if (now_ns >= connect_ns_) handshaker_.connect(now_ns, false, config_.peer_address);
            return;
        }
        if (wants_attempt()) handshaker_.connect(now_ns, true, attempt_address());
        if (!handshaker_.holding()) {
            hold_until_ns_ = 0;
            return;
        }
        // The peer's site answers hellos. If it still had our session it would answer our probes as
        // well.
        if (hold_until_ns_ == 0) {
            hold_until_ns_ = now_ns + std::clamp(4 * session_->pto_ns(), kHoldMinNs, kHoldMaxNs);
            hold_probe_ns_ = now_ns;
        }
        if (now_ns >= hold_until_ns_) {
            handshaker_.proceed(now_ns);
            hold_until_ns_ = 0;
        } else if (now_ns >= hold_probe_ns_) {
            session_->request_probe();
            hold_probe_ns_ = std::min(now_ns + kHoldProbeNs, hold_until_ns_);
        }
    }

    // The session is over; its counters stay.
    void retire(uint64_t now_ns) {
        if (!session_) return;
        next_rate_ = session_->rate_bits_per_s();
        session_->add_to(totals_);
        for (size_t i = 0; i < kClasses; ++i) {
            const SendStream& old = session_->sending(static_cast<Class>(i));
            ended_[i] += old.departed_bytes() + old.unsent_bytes() + old.dropped_bytes();
            totals_.classes[i].queued_bytes = totals_.classes[i].unsent_bytes = 0;
        }
        totals_.inflight_bytes = totals_.window_bytes = totals_.queue_delay_ns = 0;
        totals_.memory_bytes = totals_.fec_memory_bytes = totals_.fec_active = 0;
        session_.reset();
        peer_identity_.reset();
        paths_.clear();
        response_.reset();
        suspect_ = false;
        silent_ns_ = 0;
        hold_until_ns_ = 0;
        connect_ns_ = now_ns;
    }

    void install(uint64_t now_ns, const CompletedHandshake& completed) {
        retire(now_ns);
        peer_identity_ = completed.identity;
        session_ = std::make_unique<Session>(config_, completed.secrets, next_rate_, now_ns);
        session_->set_scavenger(totals_.scavenging != 0);
        session_peer_ = completed.peer;
        ++totals_.sessions;
    }

    EndpointConfig config_;
    Handshaker handshaker_;
    PathValidator paths_;
    std::optional<PathValidator::Challenge> response_;  // to a challenge of the peer; newest only
    ProtocolClock clock_;
    Random random_;
    std::shared_ptr<const PeerIdentity> peer_identity_;
    std::unique_ptr<Session> session_;
    wan_port::UdpAddress session_peer_{};
    uint64_t connect_ns_ = 0;
    uint64_t next_rate_;
    uint64_t silent_ns_ = 0;
    bool suspect_ = false;
    uint64_t suspect_after_ns_ = 0;
    uint64_t hold_until_ns_ = 0;
    uint64_t hold_probe_ns_ = 0;
    std::optional<DataHeader> hint_;
    wan_port::UdpAddress hint_to_{};
    uint64_t hint_after_ns_ = 0;
    std::array<uint64_t, kClasses> ended_{};
    Stats totals_{};
};

}  // namespace

size_t Endpoint::memory_bytes_max(const EndpointConfig& config) {
    return sizeof(EndpointImpl) + Session::memory_bytes_max(config) +
           (Handshaker::kAttemptsMax + 1) * kAttemptBytes;
}

Result<std::unique_ptr<Endpoint>> Endpoint::create(const EndpointConfig& config,
                                                   std::shared_ptr<const TlsContext> tls,
                                                   uint64_t seed, uint64_t now_ns) {
    EVAC_TRY(validate(config));
    if (tls == nullptr) return make_error(Errc::invalid_argument, "wan: no TLS context");
    return std::unique_ptr<Endpoint>(new EndpointImpl(config, std::move(tls), seed, now_ns));
}

}  // namespace evac::wan
