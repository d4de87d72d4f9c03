#include "evac/wan/endpoint.hpp"

#include <algorithm>

#include "evac/core/random.hpp"
#include "evac/core/units.hpp"
#include "handshaker.hpp"
#include "packet.hpp"
#include "session.hpp"

namespace evac::wan {
namespace {

constexpr uint64_t kHoldMinNs = 250'000'000;  // how long an old session gets to prove that it lives
constexpr uint64_t kHoldMaxNs = 1'000'000'000;
constexpr uint64_t kHoldProbeNs = 50'000'000;
constexpr uint64_t kHintGapNs = 50'000'000;        // between hints that we send
constexpr uint64_t kSuspectGapNs = 1'000'000'000;  // between suspicions that hints may raise
constexpr uint64_t kConnectJitterNs = 20'000'000;
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
          handshaker_(config.role, config.peer_address, std::move(tls)),
          random_(seed),
          next_rate_(config.start_bits_per_s) {
        connect_ns_ = now_ns + random_.below(kConnectJitterNs);
        totals_.ceiling_bits_per_s = config.ceiling_bits_per_s;
    }

    void receive(uint64_t now_ns, const wan_port::UdpAddress& from, ByteSpan datagram) override {
        totals_.bytes_received += datagram.size();
        const std::optional<DropReason> dropped = dispatch(now_ns, from, datagram);
        if (dropped) ++totals_.drops[static_cast<size_t>(*dropped)];
    }

    void tick(uint64_t now_ns) override {
        handshaker_.tick(now_ns);
        if (config_.role == Role::connect) keep_connected(now_ns);
        if (!session_) return;
        session_->tick(now_ns);
        silent_ns_ = session_->unanswered_ns(now_ns);
    }

    size_t transmit(uint64_t now_ns, std::span<std::byte> out, wan_port::UdpAddress& to) override {
        size_t size = handshaker_.transmit(out, to);
        if (size == 0 && hint_) size = write_hint(out, to);
        if (size == 0 && session_) {
            size = session_->transmit(now_ns, out);
            to = session_peer_;
        }
        totals_.bytes_sent += size;
        return size;
    }

    uint64_t next_timeout_ns() const override {
        if (hint_) return 0;
        uint64_t next = handshaker_.next_timeout_ns();
        if (session_) {
            next = std::min(next, session_->next_timeout_ns());
            if (handshaker_.holding()) next = std::min(next, hold_probe_ns_);
            if (wants_attempt() && !handshaker_.attempting())
                next = std::min(next, handshaker_.not_before_ns());
        } else if (config_.role == Role::connect && !handshaker_.attempting()) {
            next = std::min(next, std::max(connect_ns_, handshaker_.not_before_ns()));
        }
        return next;
    }

    SendResult send(Class c, SessionId session, Bytes&& message) override {
        if (message.empty() || message.size() > kMessageBytesMax) return SendResult::invalid;
        if (!session_ || session == SessionId::none) return SendResult::not_connected;
        if (session != session_->id()) return SendResult::session_changed;
        return session_->push(c, std::move(message)) ? SendResult::ok : SendResult::full;
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
        return ended_[index(c)] + (session_ ? session_->sending(c).departed_bytes() : 0);
    }
    uint64_t released_bytes(Class c) const override {
        return ended_[index(c)] + (session_ ? session_->sending(c).released_bytes() : 0);
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

    Stats stats(uint64_t now_ns) const override {
        Stats s = totals_;
        s.memory_bytes_max = memory_bytes_max(config_);
        s.handshake_attempts = handshaker_.attempts();
        s.state = static_cast<uint64_t>(state());
        if (session_) {
            s.session_id = static_cast<uint64_t>(session_->id());
            s.silent_ns = state() == SessionState::silent ? session_->unanswered_ns(now_ns) : 0;
            session_->add_to(s);
        }
        s.memory_bytes += sizeof(EndpointImpl);
        if (handshaker_.active() || handshaker_.attempting())
            s.memory_bytes += (Handshaker::kAttemptsMax + 1) * kAttemptBytes;
        return s;
    }

  private:
    std::optional<DropReason> dispatch(uint64_t now_ns, const wan_port::UdpAddress& from,
                                       ByteSpan datagram) {
        if (config_.peer_address.ip != 0 && !(from == config_.peer_address))
            return DropReason::wrong_address;
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
        if (!(from == session_peer_)) return DropReason::wrong_address;
        const uint64_t heard_before = session_->heard_ns();
        const auto dropped = session_->receive(now_ns, datagram);
        if (session_->heard_ns() > heard_before || !dropped) {
            // The session lives: no new one is needed.
            suspect_ = false;
            silent_ns_ = 0;
            if (handshaker_.attempting()) handshaker_.abandon();
        }
        return dropped;
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
            if (now_ns >= connect_ns_) handshaker_.connect(now_ns, false);
            return;
        }
        if (wants_attempt()) handshaker_.connect(now_ns, true);
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

    void install(uint64_t now_ns, const CompletedHandshake& completed) {
        if (session_) {
            next_rate_ = session_->rate_bits_per_s();
            session_->add_to(totals_);
            for (size_t i = 0; i < kClasses; ++i) {
                const SendStream& old = session_->sending(static_cast<Class>(i));
                ended_[i] += old.departed_bytes() + old.unsent_bytes();
                totals_.classes[i].queued_bytes = totals_.classes[i].unsent_bytes = 0;
            }
        }
        session_ = std::make_unique<Session>(config_, completed.secrets, next_rate_, now_ns);
        session_->set_scavenger(totals_.scavenging != 0);
        session_peer_ = completed.peer;
        suspect_ = false;
        silent_ns_ = 0;
        hold_until_ns_ = 0;
        ++totals_.sessions;
    }

    EndpointConfig config_;
    Handshaker handshaker_;
    Random random_;
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
