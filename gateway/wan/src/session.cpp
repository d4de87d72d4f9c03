#include "session.hpp"

#include <algorithm>

#include "evac/core/assert.hpp"

namespace evac::wan {
namespace {

constexpr uint64_t kControlExtraBytes = 32 * 1024;  // control may exceed the window by this much
constexpr uint64_t kControlDebtNs = 5'000'000;      // and run ahead of the pacing by this much
constexpr uint64_t kPacingQuantumNs = 250'000;      // wake up for several packets at once
constexpr uint32_t kProbesMax = 2;

uint64_t wire_size(size_t datagram) {
    return datagram + kWireOverheadBytes;
}

// Tables of a session, allocated once.
size_t fixed_bytes() {
    return sizeof(Session) + Recovery::memory_bytes() +
           kClasses * (SendStream::table_bytes() + ReceiveStream::table_bytes());
}

}  // namespace

Session::Session(const EndpointConfig& config, const SessionSecrets& secrets,
                 uint64_t start_bits_per_s, uint64_t now_ns)
    : config_(config),
      id_(secrets.id),
      tag_(secrets.tag),
      seal_(secrets.send),
      open_(secrets.receive),
      rate_({config.ceiling_bits_per_s / 8, config.floor_bits_per_s / 8,
             std::clamp(start_bits_per_s, config.floor_bits_per_s, config.ceiling_bits_per_s) / 8},
            now_ns),
      recovery_(rate_, config.probe_interval_ns, now_ns),
      heard_ns_(now_ns),
      elicited_ns_(now_ns),
      phase_ns_(now_ns) {
    const size_t payload_max = config.datagram_bytes_max - kDataHeaderBytes - kTagBytes;
    send_.reserve(kClasses);
    receive_.reserve(kClasses);
    for (size_t i = 0; i < kClasses; ++i) {
        send_.emplace_back(static_cast<Class>(i), config.classes[i].send_bytes_max, payload_max);
        receive_.emplace_back(config.classes[i].receive_bytes_max);
        advertised_[i] = {kInitialCreditBytes, kInitialCreditMessages};
    }
    ping_probe_ = true;  // measures the RTT and tells the peer that we are here
}

// ---- receiving ----

std::optional<DropReason> Session::receive(uint64_t now_ns, ByteSpan datagram) {
    DataHeader header;
    if (!read_data_header(datagram, header)) return DropReason::too_short;
    if (datagram.size() > plain_.size() || header.number > kVarintMax) return DropReason::bad_tag;
    switch (replay_.check(header.number)) {
        case ReplayWindow::Verdict::fresh:
            break;
        case ReplayWindow::Verdict::replayed:
            return DropReason::replayed;
        case ReplayWindow::Verdict::too_old:
            return DropReason::too_old;
    }
    const size_t sealed_size = datagram.size() - kDataHeaderBytes - kTagBytes;
    const std::span<std::byte> plain(plain_.data(), sealed_size);
    const uint64_t generation = open_.generation();
    switch (open_.open(header.phase, header.number, datagram.first(kDataHeaderBytes),
                       datagram.subspan(kDataHeaderBytes, sealed_size), datagram.last(kTagBytes),
                       plain)) {
        case OpenKeys::Outcome::ok:
            break;
        case OpenKeys::Outcome::bad_phase:
            return DropReason::bad_phase;
        case OpenKeys::Outcome::bad_tag:
            return DropReason::bad_tag;
    }
    rekeys_ += open_.generation() - generation;
    replay_.mark(header.number);
    heard_ns_ = now_ns;
    ++packets_received_;
    return receive_payload(now_ns, header.number, plain);
}

std::optional<DropReason> Session::receive_payload(uint64_t now_ns, uint64_t number,
                                                   ByteSpan payload) {
    if (!parse_frames(payload, frames_)) return DropReason::malformed_frame;
    if (const auto refused = check_fragments(frames_)) return refused;
    if (frames_.has_ack) {
        RecoveryOutcome outcome;
        const bool sane = recovery_.on_ack(
            now_ns, frames_.ack, outcome,
            [&](const SentPacket& p) {
                for (size_t i = 0; i < p.chunk_count; ++i)
                    send_[index(p.chunks[i].c)].mark_acked(p.chunks[i]);
            },
            [&](const SentPacket& p) { on_lost(p); });
        if (!sane) return DropReason::malformed_frame;
        for (size_t i = 0; i < kClasses; ++i) send_[i].grant(frames_.ack.credit[i]);
    }
    for (size_t i = 0; i < frames_.fragment_count; ++i) {
        receive_[index(frames_.fragments[i].c)].apply(frames_.fragments[i]);
    }
    acks_.on_received(now_ns, number, frames_.elicits_ack);
    return std::nullopt;
}

std::optional<DropReason> Session::check_fragments(const Frames& frames) const {
    std::array<uint64_t, kClasses> planned{};
    for (size_t i = 0; i < frames.fragment_count; ++i) {
        const Fragment& f = frames.fragments[i];
        switch (receive_[index(f.c)].check(f, planned[index(f.c)])) {
            case ReceiveStream::Verdict::ok:
            case ReceiveStream::Verdict::duplicate:
                break;
            case ReceiveStream::Verdict::flow_violation:
                return DropReason::flow_violation;
            case ReceiveStream::Verdict::inconsistent:
                return DropReason::malformed_frame;
            case ReceiveStream::Verdict::full:
                return DropReason::reassembly_full;
        }
    }
    return std::nullopt;
}

void Session::on_lost(const SentPacket& packet) {
    for (size_t i = 0; i < packet.chunk_count; ++i)
        send_[index(packet.chunks[i].c)].mark_lost(packet.chunks[i]);
    if (packet.carries_credit) credit_wanted_ = true;
}

std::optional<Bytes> Session::take(Class c) {
    auto bytes = receive_[index(c)].take();
    if (bytes && credit_is_stale()) credit_wanted_ = true;
    return bytes;
}

bool Session::credit_is_stale() const {
    for (size_t i = 0; i < kClasses; ++i) {
        const Credit now = receive_[i].credit();
        if (now.bytes - std::min(now.bytes, advertised_[i].bytes) >=
            config_.classes[i].receive_bytes_max / 4)
            return true;
        if (now.messages - std::min(now.messages, advertised_[i].messages) >=
            kReceiveMessagesMax / 4)
            return true;
    }
    return false;
}

// ---- timers ----

void Session::tick(uint64_t now_ns) {
    if (now_ns >= recovery_.loss_timer_ns()) {
        RecoveryOutcome outcome;
        recovery_.detect(now_ns, outcome, [&](const SentPacket& p) { on_lost(p); });
        rate_.on_ack_end(now_ns, recovery_.inflight_bytes(), outcome.lost_bytes, false);
    }
    if (now_ns >= recovery_.pto_timer_ns()) {
        recovery_.on_pto(now_ns);
        probes_ = std::min(probes_ + 1, kProbesMax);
    }
    if (recovery_.outstanding() == 0 && now_ns - elicited_ns_ >= config_.keepalive_interval_ns)
        ping_probe_ = true;
}

uint64_t Session::next_timeout_ns() const {
    if (probes_ > 0 || ping_probe_ || credit_wanted_) return 0;
    uint64_t next = std::min({acks_.due_ns(), recovery_.loss_timer_ns(), recovery_.pto_timer_ns()});
    if (recovery_.outstanding() == 0)
        next = std::min(next, elicited_ns_ + config_.keepalive_interval_ns);
    const uint64_t open_ns = rate_.open_ns(recovery_.inflight_bytes());
    if (open_ns < next && recovery_.room() && has_data()) {
        next = std::min(next, std::max(open_ns, rate_.next_send_ns() + kPacingQuantumNs));
    }
    if (urgent_waits() && recovery_.room() &&
        recovery_.inflight_bytes() < rate_.urgent_window_bytes())
        next = std::min(next, rate_.next_urgent_ns());
    return next;
}

uint64_t Session::unanswered_ns(uint64_t now_ns) const {
    if (recovery_.outstanding() == 0) return 0;
    return now_ns - std::min(now_ns, std::max(recovery_.progress_ns(), heard_ns_));
}

// ---- sending ----

bool Session::has_data() const {
    return std::any_of(send_.begin(), send_.end(),
                       [](const SendStream& s) { return s.next().has_value(); });
}

bool Session::data_allowed(uint64_t now_ns) const {
    return recovery_.room() && now_ns >= rate_.next_send_ns() &&
           now_ns >= rate_.open_ns(recovery_.inflight_bytes());
}

bool Session::control_bypass(uint64_t now_ns) const {
    return recovery_.room() && rate_.next_send_ns() < now_ns + kControlDebtNs &&
           send_[index(Class::control)].next().has_value() &&
           recovery_.inflight_bytes() < rate_.window_bytes() + kControlExtraBytes;
}

// While scavenging the window and the pacing are bulk's; control and demand have their own.
bool Session::urgent_waits() const {
    return rate_.scavenger() && (send_[index(Class::control)].next().has_value() ||
                                 send_[index(Class::demand)].next().has_value());
}

bool Session::urgent_allowed(uint64_t now_ns) const {
    return urgent_waits() && recovery_.room() && now_ns >= rate_.next_urgent_ns() &&
           recovery_.inflight_bytes() < rate_.urgent_window_bytes();
}

SendStream* Session::pick() {
    SendStream& control = send_[index(Class::control)];
    if (control.next()) return &control;
    SendStream& demand = send_[index(Class::demand)];
    if (demand.next()) return &demand;
    SendStream& disk = send_[index(Class::disk)];
    SendStream& bulk = send_[index(Class::bulk)];
    const bool disk_waits = disk.next().has_value();
    const bool bulk_waits = bulk.next().has_value();
    if (disk_waits && bulk_waits)
        return turn_[index(Class::disk)] <= turn_[index(Class::bulk)] ? &disk : &bulk;
    // One that was idle must not claim the past: both start level.
    if (disk_waits) turn_[index(Class::bulk)] = turn_[index(Class::disk)];
    if (bulk_waits) turn_[index(Class::disk)] = turn_[index(Class::bulk)];
    return disk_waits ? &disk : bulk_waits ? &bulk : nullptr;
}

void Session::account_turn(Class c, size_t bytes) {
    if (c == Class::disk) turn_[index(c)] += bytes * config_.bulk_weight;
    if (c == Class::bulk) turn_[index(c)] += bytes * config_.disk_weight;
}

size_t Session::transmit(uint64_t now_ns, std::span<std::byte> out) {
    if (ping_probe_ || credit_wanted_) return build(now_ns, Kind::ping, out);
    if (probes_ > 0) return build(now_ns, Kind::probe, out);
    if (has_data()) {
        if (data_allowed(now_ns)) return build(now_ns, Kind::data, out);
        if (control_bypass(now_ns)) return build(now_ns, Kind::control, out);
        if (urgent_allowed(now_ns)) return build(now_ns, Kind::urgent, out);
    } else if (recovery_.inflight_bytes() < rate_.window_bytes()) {
        rate_.on_app_limited(recovery_.inflight_bytes());
    }
    if (acks_.pending() && now_ns >= acks_.due_ns()) return build(now_ns, Kind::ack, out);
    return 0;
}

bool Session::add_chunk(PacketWriter& writer, SentPacket& record, SendStream& stream,
                        const ChunkRef& ref) {
    const Fragment fragment = stream.fragment(ref);
    if (fragment_header_bytes(fragment, fragment.bytes.size()) + fragment.bytes.size() >
        writer.room())
        return false;
    write_fragment(writer, fragment);
    record.chunks[record.chunk_count++] = ref;
    stream.mark_sent(ref);
    account_turn(ref.c, fragment.bytes.size());
    return true;
}

void Session::add_chunks(PacketWriter& writer, SentPacket& record, Kind kind) {
    const size_t lowest = kind == Kind::control  ? index(Class::control)
                          : kind == Kind::urgent ? index(Class::demand)
                                                 : kClasses - 1;
    while (record.chunk_count < kChunksPerPacketMax) {
        SendStream* stream = kind == Kind::control ? &send_[index(Class::control)] : pick();
        if (stream == nullptr || static_cast<size_t>(stream - send_.data()) > lowest) return;
        const auto ref = stream->next();
        if (!ref || !add_chunk(writer, record, *stream, *ref)) return;
    }
}

void Session::add_probe(PacketWriter& writer, SentPacket& record) {
    ++probes_sent_;
    if (SendStream* stream = pick()) {
        add_chunk(writer, record, *stream, *stream->next());
        return;
    }
    for (SendStream& stream : send_) {
        const auto ref = stream.oldest();
        if (ref && add_chunk(writer, record, stream, *ref)) return;
    }
    writer.u8(kFramePing);
}

void Session::write_pending_ack(uint64_t now_ns, PacketWriter& writer, size_t reserve,
                                SentPacket& record) {
    if (acks_.empty()) return;
    AckFrame& ack = frames_.ack;  // scratch: received frames are done with by now
    std::array<std::byte, 1024> scratch;
    PacketWriter sized(scratch);
    for (size_t i = 0; i < kClasses; ++i) ack.credit[i] = receive_[i].credit();
    AckTracker before = acks_;
    acks_.fill(now_ns, ack);
    write_ack(sized, ack);
    EVAC_ASSERT(sized.ok());
    if (sized.size() + reserve > writer.room()) {
        acks_ = before;
        return;
    }
    writer.put(ByteSpan(scratch.data(), sized.size()));
    advertised_ = ack.credit;
    record.carries_credit = credit_wanted_;
    credit_wanted_ = false;
}

void Session::maybe_rekey(uint64_t now_ns) {
    const bool due = phase_packets_ >= config_.rekey_after_packets ||
                     now_ns - phase_ns_ >= config_.rekey_after_ns;
    // The peer holds one key ahead: go on only when it has confirmed the present one.
    if (!due || !recovery_.generation_acked(seal_.phase())) return;
    seal_.advance();
    ++rekeys_;
    phase_packets_ = 0;
    phase_ns_ = now_ns;
}

size_t Session::build(uint64_t now_ns, Kind kind, std::span<std::byte> out) {
    maybe_rekey(now_ns);
    recovery_.make_room([&](const SentPacket& p) { on_lost(p); });
    SentPacket& record = recovery_.prepare();
    record.carries_credit = false;
    record.key_generation = seal_.phase();
    const size_t size_max = std::min(out.size(), config_.datagram_bytes_max);
    PacketWriter writer(out.first(size_max - kTagBytes));
    write_data_header(writer, {seal_.phase(), tag_, recovery_.next_number()});
    bool elicits = true;
    switch (kind) {
        case Kind::data:
        case Kind::control:
        case Kind::urgent:
            add_chunks(writer, record, kind);
            break;
        case Kind::probe:
            --probes_;
            add_probe(writer, record);
            break;
        case Kind::ping:
            ping_probe_ = false;
            write_pending_ack(now_ns, writer, 1, record);
            credit_wanted_ = false;
            writer.u8(kFramePing);
            break;
        case Kind::ack:
            write_pending_ack(now_ns, writer, 0, record);
            elicits = record.carries_credit;
            break;
    }
    // What room is left may carry an acknowledgement that is waiting anyway.
    if (kind != Kind::ack && kind != Kind::ping && acks_.pending())
        write_pending_ack(now_ns, writer, 0, record);
    EVAC_ASSERT(writer.ok() && writer.size() > kDataHeaderBytes);
    const size_t size = writer.size() + kTagBytes;
    const bool sealed =
        seal_.seal(recovery_.next_number(), out.first(kDataHeaderBytes),
                   out.subspan(kDataHeaderBytes, writer.size() - kDataHeaderBytes),
                   std::span<std::byte, kTagBytes>(out.data() + writer.size(), kTagBytes));
    EVAC_ASSERT(sealed);
    recovery_.on_sent(now_ns, static_cast<uint32_t>(wire_size(size)), elicits);
    if (elicits) {
        const bool urgent =
            record.chunk_count > 0 && index(record.chunks[0].c) <= index(Class::demand);
        rate_.charge(now_ns, wire_size(size), urgent);
        elicited_ns_ = now_ns;
    }
    ++phase_packets_;
    ++packets_sent_;
    return size;
}

size_t Session::memory_bytes() const {
    size_t held = fixed_bytes();
    for (const SendStream& stream : send_) held += stream.unacked_bytes();
    for (const ReceiveStream& stream : receive_) held += stream.held_bytes();
    return held;
}

size_t Session::memory_bytes_max(const EndpointConfig& config) {
    size_t most = fixed_bytes();
    for (const ClassLimits& limits : config.classes)
        most += limits.send_bytes_max + limits.receive_bytes_max;
    return most;
}

void Session::add_to(Stats& s) const {
    s.rtt_smoothed_ns = recovery_.smoothed_rtt_ns();
    s.rtt_min_ns = rate_.min_rtt_ns();
    s.delivery_rate_bits_per_s = rate_bits_per_s();
    s.pacing_rate_bits_per_s = rate_.pacing_bytes_per_s() * 8;
    s.inflight_bytes = recovery_.inflight_bytes();
    s.window_bytes = rate_.window_bytes();
    s.loss_ppm = rate_.loss_ppm();
    s.loss_burst_milli = recovery_.mean_burst_milli();
    s.queue_delay_ns = rate_.queue_delay_ns();
    s.rate_mode = static_cast<uint64_t>(rate_.mode());
    s.cuts_undone += rate_.undone_cuts();
    s.memory_bytes = memory_bytes();
    s.packets_sent += packets_sent_;
    s.packets_received += packets_received_;
    s.packets_lost += recovery_.lost_packets();
    s.packets_spurious += recovery_.spurious_packets();
    s.probes_sent += probes_sent_;
    s.rekeys += rekeys_;
    for (size_t i = 0; i < kClasses; ++i) {
        ClassStats& c = s.classes[i];
        c.sent_messages += send_[i].messages();
        c.sent_bytes += send_[i].departed_bytes();
        c.acked_bytes += send_[i].released_bytes();
        c.retransmitted_bytes += send_[i].retransmitted_bytes();
        c.received_messages += receive_[i].received_messages();
        c.received_bytes += receive_[i].received_bytes();
        c.queued_bytes = send_[i].unacked_bytes();
        c.unsent_bytes = send_[i].unsent_bytes();
    }
}

}  // namespace evac::wan
