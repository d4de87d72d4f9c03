#include "session.hpp"

#include <algorithm>
#include <utility>

#include "evac/core/assert.hpp"
#include "session_packets.hpp"

namespace evac::wan {
namespace {

constexpr uint64_t kPacingQuantumNs = 250'000;  // wake up for several packets at once
constexpr uint32_t kProbesMax = 2;

}  // namespace

Session::Session(const EndpointConfig& config, const SessionSecrets& secrets,
                 uint64_t start_bits_per_s, uint64_t now_ns)
    : config_(config),
      id_(secrets.id),
      tag_(secrets.tag),
      seal_(secrets.send),
      open_(secrets.receive),
      mtu_(config.datagram_bytes_max),
      rate_({config.ceiling_bits_per_s / 8, config.floor_bits_per_s / 8,
             std::clamp(start_bits_per_s, config.floor_bits_per_s, config.ceiling_bits_per_s) / 8},
            now_ns),
      recovery_(rate_, config.probe_interval_ns, now_ns),
      fec_send_(config.fec, config.fec_history_bytes, payload_bytes(config.datagram_bytes_max)),
      fec_receive_(config.fec_history_bytes, payload_bytes(config.datagram_bytes_max)),
      in_flight_([this](uint64_t number) {
          const SentPacket* p = recovery_.find(number);
          return p != nullptr && p->state == SentPacket::State::outstanding;
      }),
      deliver_([this](uint64_t number, ByteSpan payload) { return take_rebuilt(number, payload); }),
      heard_ns_(now_ns),
      elicited_ns_(now_ns),
      phase_ns_(now_ns) {
    const size_t payload_max = payload_bytes(mtu_.datagram_bytes());
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
    arrival_ = {};
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
    arrival_.authentic = true;
    arrival_.newest = header.number >= received_end_;
    received_end_ = std::max(received_end_, header.number + 1);
    heard_ns_ = now_ns;
    ++packets_received_;
    return receive_payload(now_ns, header.number, plain);
}

bool Session::is_authentic_copy(ByteSpan datagram) {
    DataHeader header;
    if (!read_data_header(datagram, header) || datagram.size() > plain_.size()) return false;
    const size_t sealed_size = datagram.size() - kDataHeaderBytes - kTagBytes;
    return open_.open(header.phase, header.number, datagram.first(kDataHeaderBytes),
                      datagram.subspan(kDataHeaderBytes, sealed_size), datagram.last(kTagBytes),
                      std::span(plain_).first(sealed_size)) == OpenKeys::Outcome::ok;
}

std::optional<DropReason> Session::receive_payload(uint64_t now_ns, uint64_t number,
                                                   ByteSpan payload) {
    if (!parse_frames(payload, frames_)) return DropReason::malformed_frame;
    if (frames_.has_parity && !place_parity(frames_.parity, number))
        return DropReason::malformed_frame;
    if (const auto refused = check_fragments(frames_)) return refused;
    if (frames_.has_recovered && !on_recovered(frames_.recovered))
        return DropReason::malformed_frame;
    if (frames_.has_ack) {
        RecoveryOutcome outcome;
        const uint64_t holes = mtu_.black_holes();
        const bool sane = recovery_.on_ack(
            now_ns, frames_.ack, outcome, [&](const SentPacket& p) { on_acked(now_ns, p); },
            [&](const SentPacket& p) {
                on_lost(now_ns, p);
                // Large packets vanish: that is their size, not congestion.
                if (mtu_.black_holes() != holes) outcome.lost_bytes = 0;
            });
        if (!sane) return DropReason::malformed_frame;
        follow_mtu();
        for (size_t i = 0; i < kClasses; ++i) send_[i].grant(frames_.ack.credit[i]);
    }
    for (size_t i = 0; i < frames_.fragment_count; ++i) {
        receive_[index(frames_.fragments[i].c)].apply(frames_.fragments[i]);
    }
    acks_.on_received(now_ns, number, frames_.elicits_ack);
    arrival_.path_challenge = frames_.path_challenge;
    arrival_.path_response = frames_.path_response;
    if (frames_.path_moved && *frames_.path_moved / 2 > moves_heard_) {
        moves_heard_ = *frames_.path_moved / 2;
        restart_path(now_ns, *frames_.path_moved % 2 == 1);
    }
    fec_receive_.on_packet(now_ns, number, payload, frames_.fragment_count > 0);
    if (frames_.has_parity) {
        const ParityFrame parity = frames_.parity;  // frames_ is used again for what is rebuilt
        fec_receive_.on_parity(now_ns, parity, deliver_);
    }
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

void Session::on_acked(uint64_t now_ns, const SentPacket& packet) {
    for (size_t i = 0; i < packet.chunk_count; ++i)
        send_[index(packet.chunks[i].c)].mark_acked(packet.chunks[i]);
    if (packet.state == SentPacket::State::lost && recovery_.counts(packet))
        fec_send_.meter().on_spurious();
    if (packet.state == SentPacket::State::outstanding) {
        fec_send_.meter().on_acked();
        if (is_urgent(packet)) --urgent_in_flight_;
    }
    mtu_.on_acked(now_ns, packet.number, datagram_size(packet), packet.mtu_probe);
}

void Session::follow_mtu() {
    if (mtu_.datagram_bytes() == cut_for_bytes_) return;
    cut_for_bytes_ = mtu_.datagram_bytes();
    for (SendStream& stream : send_) stream.set_payload_max(payload_bytes(cut_for_bytes_));
}

void Session::on_path_change(uint64_t now_ns, bool new_route) {
    moves_told_ = (moves_told_ / 2 + 1) * 2 + (new_route ? 1 : 0);
    move_wanted_ = true;
    restart_path(now_ns, new_route);
}

void Session::restart_path(uint64_t now_ns, bool new_route) {
    recovery_.on_path_change(now_ns, new_route);
    if (new_route) rate_.restart(now_ns);
    mtu_.restart();
    follow_mtu();
    ping_probe_ = true;  // its acknowledgement shows what the old path has swallowed
}

void Session::on_lost(uint64_t now_ns, const SentPacket& packet) {
    // What another path swallowed says nothing about the size that this one carries.
    if (packet.mtu_probe || recovery_.counts(packet))
        mtu_.on_lost(now_ns, packet.number, datagram_size(packet), packet.mtu_probe);
    if (recovery_.counts(packet)) fec_send_.meter().on_lost(packet.number);
    if (is_urgent(packet)) --urgent_in_flight_;
    for (size_t i = 0; i < packet.chunk_count; ++i)
        send_[index(packet.chunks[i].c)].mark_lost(packet.chunks[i]);
    if (packet.carries_credit) credit_wanted_ = true;
    if (packet.carries_move) move_wanted_ = true;
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
        const uint64_t holes = mtu_.black_holes();
        recovery_.detect(now_ns, outcome, [&](const SentPacket& p) {
            on_lost(now_ns, p);
            if (mtu_.black_holes() != holes) outcome.lost_bytes = 0;
        });
        follow_mtu();
        rate_.on_ack_end(now_ns, recovery_.inflight_bytes(), outcome.lost_bytes, false);
    }
    if (now_ns >= recovery_.pto_timer_ns()) {
        recovery_.on_pto(now_ns);
        probes_ = std::min(probes_ + 1, kProbesMax);
        small_probe_ = mtu_.datagram_bytes() > PathMtu::kBaseBytes;
    }
    if (recovery_.outstanding() == 0 && now_ns - elicited_ns_ >= config_.keepalive_interval_ns)
        ping_probe_ = true;
}

uint64_t Session::next_timeout_ns() const {
    if (probes_ > 0 || ping_probe_ || small_probe_ || credit_wanted_ || move_wanted_) return 0;
    uint64_t next = std::min({acks_.due_ns(), recovery_.loss_timer_ns(), recovery_.pto_timer_ns()});
    if (recovery_.outstanding() == 0)
        next = std::min(next, elicited_ns_ + config_.keepalive_interval_ns);
    if (recovery_.room()) {
        const uint64_t probe = mtu_.next_timeout_ns();
        if (probe != UINT64_MAX) next = std::min(next, std::max(probe, rate_.next_send_ns()));
    }
    const uint64_t open_ns = rate_.open_ns(recovery_.inflight_bytes());
    if (open_ns < next && recovery_.room() && has_data()) {
        next = std::min(next, std::max(open_ns, rate_.next_send_ns() + kPacingQuantumNs));
    }
    if (urgent_waits() && recovery_.room() && urgent_room())
        next = std::min(next, rate_.next_urgent_ns());
    if (recovery_.room() && control_room() && send_[index(Class::control)].next().has_value()) {
        const uint64_t at = rate_.next_send_ns();
        next = std::min(next, at - std::min(at, kControlDebtNs) + 1);
    }
    return std::min(next, fec_timeout_ns());
}

uint64_t Session::deadline_ns() const {
    uint64_t earliest = UINT64_MAX;
    for (const SendStream& stream : send_) earliest = std::min(earliest, stream.deadline_ns());
    return earliest;
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
           send_[index(Class::control)].next().has_value() && control_room();
}

// A window that was just cut is full of bulk for a round trip: what is urgent has room of its own.
bool Session::control_room() const {
    return recovery_.inflight_bytes() < rate_.window_bytes() + kControlExtraBytes ||
           urgent_in_flight_ * wire_size(mtu_.datagram_bytes()) < kControlExtraBytes;
}

bool Session::urgent_room() const {
    return recovery_.inflight_bytes() < rate_.urgent_window_bytes() ||
           urgent_in_flight_ * wire_size(mtu_.datagram_bytes()) < RateControl::kUrgentWindowBytes;
}

// While scavenging the window and the pacing are bulk's; control and demand have their own.
bool Session::urgent_waits() const {
    return rate_.scavenger() && (send_[index(Class::control)].next().has_value() ||
                                 send_[index(Class::demand)].next().has_value());
}

bool Session::urgent_allowed(uint64_t now_ns) const {
    return urgent_waits() && recovery_.room() && now_ns >= rate_.next_urgent_ns() && urgent_room();
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
    fec_plan(now_ns);
    if (ping_probe_ || credit_wanted_ || move_wanted_) return build(now_ns, Kind::ping, out);
    if (probes_ > 0) return build(now_ns, Kind::probe, out);
    if (small_probe_) return build(now_ns, Kind::ping, out);
    if (mtu_.probe_waits(now_ns) && recovery_.room() && now_ns >= rate_.next_send_ns())
        return build(now_ns, Kind::mtu_probe, out);
    if (const size_t size = transmit_parity(now_ns, false, out)) return size;
    if (has_data()) {
        if (data_allowed(now_ns)) return build(now_ns, Kind::data, out);
        if (control_bypass(now_ns)) return build(now_ns, Kind::control, out);
        if (urgent_allowed(now_ns)) return build(now_ns, Kind::urgent, out);
    } else if (recovery_.inflight_bytes() < rate_.window_bytes()) {
        rate_.on_app_limited(recovery_.inflight_bytes());
        if (const size_t size = transmit_parity(now_ns, true, out)) return size;
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
    fec_receive_.write_report(writer, reserve);
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
    recovery_.make_room([&](const SentPacket& p) { on_lost(now_ns, p); });
    follow_mtu();
    SentPacket& record = recovery_.prepare();
    record.carries_credit = false;
    record.key_generation = seal_.phase();
    const size_t size_max = std::min(
        out.size(), kind == Kind::mtu_probe ? mtu_.probe_bytes(now_ns) : mtu_.datagram_bytes());
    PacketWriter writer(out.first(size_max - kTagBytes));
    write_data_header(writer, {seal_.phase(), tag_, recovery_.next_number()});
    bool elicits = true;
    bool urgent = false;
    switch (kind) {
        case Kind::data:
        case Kind::control:
        case Kind::urgent:
            add_chunks(writer, record, kind);
            urgent = is_urgent(record);
            break;
        case Kind::probe:
            --probes_;
            add_probe(writer, record);
            break;
        case Kind::ping:
            ping_probe_ = small_probe_ = false;
            write_pending_ack(now_ns, writer, 1 + kPathFrameBytes, record);
            credit_wanted_ = false;
            if (move_wanted_) write_path_frame(writer, kFramePathMoved, moves_told_);
            record.carries_move = std::exchange(move_wanted_, false);
            writer.u8(kFramePing);
            break;
        case Kind::ack:
            write_pending_ack(now_ns, writer, 0, record);
            elicits = record.carries_credit;
            break;
        case Kind::mtu_probe:
            record.mtu_probe = true;
            mtu_.on_probe_sent(recovery_.next_number());
            writer.u8(kFramePing);
            while (writer.room() > 0) writer.u8(kFramePadding);
            break;
        case Kind::parity:
            writer.u8(kFramePing);  // asks for an acknowledgement, also of a peer without FEC
            fec_send_.write(writer);
            urgent = fec_send_.parity_class() <= Class::demand;
            break;
    }
    // What room is left may carry an acknowledgement that is waiting anyway, but not the room that
    // parity over this packet needs.
    if (kind != Kind::ack && kind != Kind::ping && acks_.pending()) {
        const bool coverable = fec_send_.active() && writer.room() >= kFecReserveBytes;
        write_pending_ack(now_ns, writer, coverable ? kFecReserveBytes : 0, record);
    }
    EVAC_ASSERT(writer.ok() && writer.size() > kDataHeaderBytes);
    if (record.chunk_count > 0)
        fec_cover(now_ns, record, ByteSpan(out).first(writer.size()).subspan(kDataHeaderBytes));
    return seal(now_ns, out, writer.size(), elicits, urgent);
}

size_t Session::transmit_path_frame(uint64_t now_ns, std::span<std::byte> out, uint8_t type,
                                    uint64_t value) {
    maybe_rekey(now_ns);
    recovery_.make_room([&](const SentPacket& p) { on_lost(now_ns, p); });
    SentPacket& record = recovery_.prepare();
    record.carries_credit = false;
    record.key_generation = seal_.phase();
    PacketWriter writer(out.first(PathMtu::kBaseBytes - kTagBytes));
    write_data_header(writer, {seal_.phase(), tag_, recovery_.next_number()});
    write_path_frame(writer, type, value);
    EVAC_ASSERT(writer.ok());
    return seal(now_ns, out, writer.size(), false, false);
}

// Closes a packet of `written` bytes (header and frames) and accounts for it.
size_t Session::seal(uint64_t now_ns, std::span<std::byte> out, size_t written, bool elicits,
                     bool urgent) {
    const size_t size = written + kTagBytes;
    const bool sealed =
        seal_.seal(recovery_.next_number(), out.first(kDataHeaderBytes),
                   out.subspan(kDataHeaderBytes, written - kDataHeaderBytes),
                   std::span<std::byte, kTagBytes>(out.data() + written, kTagBytes));
    EVAC_ASSERT(sealed);
    recovery_.on_sent(now_ns, static_cast<uint32_t>(wire_size(size)), elicits);
    if (elicits) {
        rate_.charge(now_ns, wire_size(size), urgent);
        elicited_ns_ = now_ns;
    }
    ++phase_packets_;
    ++packets_sent_;
    return size;
}

}  // namespace evac::wan
