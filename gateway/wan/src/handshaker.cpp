#include "handshaker.hpp"

#include <algorithm>

#include "evac/core/assert.hpp"
#include "packet.hpp"

namespace evac::wan {
Handshaker::Handshaker(Role role, std::shared_ptr<const TlsContext> tls)
    : role_(role), tls_(tls), listener_(std::move(tls)) {}

void Handshaker::set_tls(std::shared_ptr<const TlsContext> tls) {
    tls_ = tls;
    listener_.set_tls(std::move(tls));
    abandon();
    for (std::optional<Attempt>& slot : servers_) {
        if (slot && slot->dtls) slot.reset();
    }
    reported_.clear();
}

bool Handshaker::distrusts(uint64_t now_ns, const PeerIdentity& identity) {
    const std::string reason = why_distrusted(*tls_, role_, identity);
    if (reason.empty()) return false;
    not_before_ns_ = now_ns + kRefusedPauseNs;
    report(reason);
    return true;
}

void Handshaker::connect(uint64_t now_ns, bool cautious, const wan_port::UdpAddress& peer) {
    EVAC_ASSERT(role_ == Role::connect);
    if (!may_connect(now_ns)) return;
    client_.emplace();
    client_->id = unpredictable_u64();
    client_->peer = peer;
    client_->started_ns = client_->progress_ns = now_ns;
    client_->cautious = cautious;
    client_->dtls = std::make_unique<DtlsHandshake>(tls_, Role::connect);
    ++attempts_;
    if (advance(now_ns, *client_, client_->dtls->start())) client_.reset();
}

void Handshaker::proceed(uint64_t now_ns) {
    if (!holding()) return;
    const Bytes held = std::move(*client_->held);
    client_->held.reset();
    client_->cautious = false;
    client_->progress_ns = now_ns;
    if (advance(now_ns, *client_, client_->dtls->feed(held))) client_.reset();
}

void Handshaker::abandon() {
    if (client_ && !client_->committed) client_.reset();
}

bool Handshaker::active() const {
    if (client_ && client_->answered) return true;
    return std::any_of(servers_.begin(), servers_.end(),
                       [](const auto& s) { return s && s->dtls; });
}

std::optional<std::string> Handshaker::take_refusal() {
    return std::exchange(refusal_, std::nullopt);
}

void Handshaker::report(const std::string& text) {
    if (text == reported_) return;
    reported_ = text;
    refusal_ = text;
}

std::optional<DropReason> Handshaker::receive(uint64_t now_ns, const wan_port::UdpAddress& from,
                                              ByteSpan datagram) {
    if (datagram.size() <= kHandshakeHeaderBytes) return DropReason::too_short;
    ByteReader reader(datagram);
    reader.u8();
    if (reader.u8() != kVersion) return DropReason::bad_version;
    const uint64_t id = reader.le64();
    const ByteSpan body = reader.take(reader.remaining());
    return role_ == Role::connect ? receive_as_client(now_ns, from, id, body)
                                  : receive_as_server(now_ns, from, id, body);
}

std::optional<DropReason> Handshaker::receive_as_client(uint64_t now_ns,
                                                        const wan_port::UdpAddress& from,
                                                        uint64_t id, ByteSpan body) {
    if (!client_ || client_->id != id) return DropReason::handshake_unexpected;
    if (!(from == client_->peer)) return DropReason::wrong_address;
    Attempt& attempt = *client_;
    if (!attempt.answered) attempt.progress_ns = now_ns;
    attempt.answered = true;
    if (attempt.cautious) {
        if (!is_hello_verify(body)) return DropReason::handshake_unexpected;
        if (!attempt.held) attempt.held.emplace(body.begin(), body.end());
        return std::nullopt;
    }
    const auto dropped = advance(now_ns, attempt, attempt.dtls->feed(body));
    if (dropped || (client_ && !client_->dtls)) client_.reset();
    return dropped;
}

std::optional<DropReason> Handshaker::receive_as_server(uint64_t now_ns,
                                                        const wan_port::UdpAddress& from,
                                                        uint64_t id, ByteSpan body) {
    for (std::optional<Attempt>& slot : servers_) {
        if (!slot || slot->id != id) continue;
        if (!(from == slot->peer)) return DropReason::wrong_address;
        if (slot->dtls) return advance(now_ns, *slot, slot->dtls->feed(body));
        // Finished: the peer asks again, so our last flight (or alert) was lost.
        if (now_ns >= slot->resend_ns) {
            slot->resend_ns = now_ns + kRepeatGapNs;
            send_flight(*slot);
        }
        return std::nullopt;
    }
    HelloOrigin origin;
    origin.from = from;
    origin.attempt = id;
    origin.now_ns = now_ns;
    CookieReply reply;
    std::unique_ptr<DtlsHandshake> accepted;
    switch (listener_.offer(origin, body, reply, accepted)) {
        case DtlsListener::Verdict::malformed:
            return DropReason::handshake_malformed;
        case DtlsListener::Verdict::cookie_sent:
            // A full ring forgets the answer: a genuine peer asks again.
            if (cookie_count_ < kCookieRepliesMax)
                cookie_replies_[(cookie_first_ + cookie_count_++) % kCookieRepliesMax] = reply;
            return DropReason::handshake_no_cookie;
        case DtlsListener::Verdict::accepted:
            break;
    }
    std::optional<Attempt>* slot = free_slot(now_ns);
    if (slot == nullptr) return DropReason::handshake_limited;
    Attempt& attempt = slot->emplace();
    attempt.id = id;
    attempt.peer = from;
    attempt.started_ns = attempt.progress_ns = now_ns;
    attempt.answered = true;
    attempt.dtls = std::move(accepted);
    ++attempts_;
    return advance(now_ns, attempt, attempt.dtls->start());
}

std::optional<Handshaker::Attempt>* Handshaker::free_slot(uint64_t now_ns) {
    std::optional<Attempt>* oldest = nullptr;
    for (std::optional<Attempt>& slot : servers_) {
        if (!slot) return &slot;
        if (oldest == nullptr || slot->started_ns < (*oldest)->started_ns) oldest = &slot;
    }
    return now_ns - (*oldest)->started_ns >= kYoungNs ? oldest : nullptr;
}

std::optional<DropReason> Handshaker::advance(uint64_t now_ns, Attempt& attempt,
                                              DtlsHandshake::Progress progress) {
    std::vector<Bytes> output = attempt.dtls->take_output();
    if (!output.empty()) {
        attempt.flight = std::move(output);
        attempt.progress_ns = now_ns;
        attempt.resend_ns = now_ns + kResendNs;
        // The flight that follows the server's certificate carries our Finished: it is the only one
        // of ours that starts with a Certificate (11) message.
        const Bytes& first = attempt.flight.front();
        attempt.committed =
            attempt.committed || (role_ == Role::connect && first.size() > 13 &&
                                  first[0] == std::byte{22} && first[13] == std::byte{11});
        send_flight(attempt);
    }
    if (progress == DtlsHandshake::Progress::working) return std::nullopt;
    bool failed = progress == DtlsHandshake::Progress::failed;
    if (!failed) {
        CompletedHandshake completed;
        completed.peer = attempt.peer;
        completed.identity = attempt.dtls->peer_identity();
        failed = !attempt.dtls->export_secrets(attempt.id, completed.secrets);
        // The context may have been replaced after our last flight was out.
        if (!failed && attempt.dtls->context() != tls_.get() &&
            distrusts(now_ns, *completed.identity)) {
            attempt.dtls.reset();
            return DropReason::handshake_failed;
        }
        if (!failed) {
            completed_.emplace(completed);
            reported_.clear();
            refusal_.reset();
        }
    }
    if (failed) {
        not_before_ns_ = now_ns + (attempt.dtls->refused() ? kRefusedPauseNs : kFailedPauseNs);
        report(attempt.dtls->failure());
    }
    attempt.dtls.reset();
    attempt.progress_ns = now_ns;
    attempt.resend_ns = now_ns + kRepeatGapNs;
    return failed ? std::optional(DropReason::handshake_failed) : std::nullopt;
}

void Handshaker::tick(uint64_t now_ns) {
    if (client_ && now_ns - client_->progress_ns >= client_stall_ns()) client_.reset();
    if (client_ && !client_->held && now_ns >= client_->resend_ns) {
        client_->resend_ns = now_ns + kResendNs;
        send_flight(*client_);
    }
    for (std::optional<Attempt>& slot : servers_) {
        if (!slot) continue;
        const uint64_t life_ns = slot->dtls ? kStallNs : kLingerNs;
        if (now_ns - slot->progress_ns >= life_ns) {
            slot.reset();
        } else if (slot->dtls && now_ns >= slot->resend_ns) {
            slot->resend_ns = now_ns + kResendNs;
            send_flight(*slot);
        }
    }
}

uint64_t Handshaker::next_timeout_ns() const {
    if (!outgoing_.empty() || cookie_count_ > 0) return 0;
    uint64_t next = UINT64_MAX;
    if (client_) {
        if (!client_->held) next = std::min(next, client_->resend_ns);
        next = std::min(next, client_->progress_ns + client_stall_ns());
    }
    for (const std::optional<Attempt>& slot : servers_) {
        if (!slot) continue;
        next = std::min(next, slot->progress_ns + (slot->dtls ? kStallNs : kLingerNs));
        if (slot->dtls) next = std::min(next, slot->resend_ns);
    }
    return next;
}

void Handshaker::send_flight(const Attempt& attempt) {
    for (const Bytes& bytes : attempt.flight) push(attempt.peer, attempt.id, bytes);
}

void Handshaker::push(const wan_port::UdpAddress& to, uint64_t attempt, const Bytes& bytes) {
    if (outgoing_.size() < kOutgoingMax) outgoing_.push_back({to, attempt, bytes});
}

size_t Handshaker::transmit(std::span<std::byte> out, wan_port::UdpAddress& to) {
    if (outgoing_.empty() && cookie_count_ == 0) return 0;
    PacketWriter writer(out);
    writer.u8(kTypeHandshake);
    writer.u8(kVersion);
    if (!outgoing_.empty()) {
        const Outgoing& next = outgoing_.front();
        writer.le64(next.attempt);
        writer.put(next.bytes);
        to = next.to;
        outgoing_.pop_front();
    } else {
        const CookieReply& reply = cookie_replies_[cookie_first_];
        writer.le64(reply.attempt);
        write_cookie_reply(writer, reply);
        to = reply.to;
        cookie_first_ = (cookie_first_ + 1) % kCookieRepliesMax;
        --cookie_count_;
    }
    EVAC_ASSERT(writer.ok());
    return writer.size();
}

}  // namespace evac::wan
