// The session's forward error correction, deadlines and figures.
#include <algorithm>

#include "session.hpp"
#include "session_packets.hpp"

namespace evac::wan {
namespace {

// Tables of a session, allocated once.
size_t fixed_bytes() {
    return sizeof(Session) + Recovery::memory_bytes() +
           kClasses * (SendStream::table_bytes() + ReceiveStream::table_bytes());
}

}  // namespace

// ---- forward error correction ----

FecPath Session::fec_path() const {
    FecPath path;
    path.rtt_ns = recovery_.smoothed_rtt_ns();
    path.packet_ns = wire_size(mtu_.datagram_bytes()) * 1'000'000'000 /
                     std::max<uint64_t>(rate_.pacing_bytes_per_s(), 1);
    const auto dry = [this](Class c) { return !send_[index(c)].fresh(); };
    path.dry = {dry(Class::control), dry(Class::demand), dry(Class::disk) && dry(Class::bulk)};
    path.urgent_in_flight = urgent_in_flight_;
    return path;
}

void Session::fec_plan(uint64_t now_ns) {
    const uint64_t rtt_ns = recovery_.smoothed_rtt_ns();
    for (size_t i = 0; i < kClasses; ++i) {
        const bool room = fec_send_.wants_room(static_cast<Class>(i), rtt_ns);
        send_[i].set_reserve(room ? kFecReserveBytes : 0);
    }
    if (!fec_send_.active()) return;
    const FecPath path = fec_path();
    if (!path.dry[static_cast<size_t>(FecGroup::tail)]) fec_send_.abandon_tail();
    fec_send_.plan(now_ns, path, in_flight_);
}

void Session::fec_cover(uint64_t now_ns, const SentPacket& record, ByteSpan payload) {
    const Class c = urgency(record);
    if (c <= Class::demand) ++urgent_in_flight_;
    const FecGroup group = c == Class::control  ? FecGroup::control
                           : c == Class::demand ? FecGroup::demand
                                                : FecGroup::tail;
    fec_send_.on_packet(now_ns, recovery_.next_number(), payload, group, c,
                        payload_bytes(mtu_.datagram_bytes()));
}

// When the path has room for parity: urgent parity goes like control, that of a tail like bulk.
uint64_t Session::parity_open_ns(bool tail) const {
    const uint64_t inflight = recovery_.inflight_bytes();
    const uint64_t send_ns = rate_.next_send_ns();
    if (tail) return inflight < rate_.window_bytes() ? send_ns : UINT64_MAX;
    uint64_t open_ns = UINT64_MAX;
    if (control_room()) open_ns = send_ns - std::min(send_ns, kControlDebtNs);
    if (rate_.scavenger() && urgent_room()) open_ns = std::min(open_ns, rate_.next_urgent_ns());
    return open_ns;
}

size_t Session::transmit_parity(uint64_t now_ns, bool tail, std::span<std::byte> out) {
    if (!fec_send_.active() || !recovery_.room()) return 0;
    if (now_ns < parity_open_ns(tail)) return 0;
    const size_t room = payload_bytes(std::min(out.size(), mtu_.datagram_bytes()));
    if (!fec_send_.prepare(now_ns, tail, recovery_.next_number(), room, in_flight_)) return 0;
    return build(now_ns, Kind::parity, out);
}

uint64_t Session::fec_timeout_ns() const {
    if (!fec_send_.active() || !recovery_.room()) return UINT64_MAX;
    const FecPath path = fec_path();
    uint64_t next = std::max(fec_send_.urgent_due_ns(path), parity_open_ns(false));
    if (!has_data())
        next = std::min(next, std::max(fec_send_.tail_due_ns(path), parity_open_ns(true)));
    return next;
}

bool Session::take_rebuilt(uint64_t number, ByteSpan payload) {
    if (replay_.check(number) != ReplayWindow::Verdict::fresh) return false;  // it did arrive
    if (!parse_frames(payload, frames_) || frames_.fragment_count == 0) return false;
    if (check_fragments(frames_)) return false;
    for (size_t i = 0; i < frames_.fragment_count; ++i)
        receive_[index(frames_.fragments[i].c)].apply(frames_.fragments[i]);
    return true;
}

bool Session::on_recovered(const RecoveredFrame& recovered) {
    for (size_t i = 0; i < recovered.count; ++i) {
        if (recovered.numbers[i] >= recovery_.next_number()) return false;
    }
    recovered_by_peer_ = std::max(recovered_by_peer_, recovered.total);
    for (size_t i = 0; i < recovered.count; ++i) {
        const SentPacket* p = recovery_.find(recovered.numbers[i]);
        if (p == nullptr) continue;
        // The peer has the data. The packet itself stays lost: no rate sample, no RTT.
        for (size_t k = 0; k < p->chunk_count; ++k)
            send_[index(p->chunks[k].c)].mark_acked(p->chunks[k]);
    }
    return true;
}

// ---- deadlines ----

void Session::expire(uint64_t now_ns) {
    for (size_t i = 0; i < kClasses; ++i) {
        send_[i].expire(now_ns, [&](uint64_t ticket, uint64_t bytes) {
            if (dropped_.size() - dropped_head_ >= kDropReportsMax) {
                ++drop_reports_lost_;
                return;
            }
            dropped_.push_back(
                {static_cast<Class>(i), Dropped::Reason::expired, id(), ticket, bytes});
        });
    }
}

std::optional<Dropped> Session::take_dropped() {
    if (dropped_head_ == dropped_.size()) return std::nullopt;
    const Dropped first = dropped_[dropped_head_++];
    if (dropped_head_ == dropped_.size() || dropped_head_ >= kDropReportsMax) {
        dropped_.erase(dropped_.begin(), dropped_.begin() + static_cast<ptrdiff_t>(dropped_head_));
        dropped_head_ = 0;
    }
    return first;
}

size_t Session::memory_bytes() const {
    size_t held = fixed_bytes() + fec_send_.memory_bytes() + fec_receive_.memory_bytes();
    for (const SendStream& stream : send_) held += stream.unacked_bytes();
    for (const ReceiveStream& stream : receive_) held += stream.held_bytes();
    return held;
}

size_t Session::memory_bytes_max(const EndpointConfig& config) {
    // Copies of what was sent and of what came, and parities that wait: each shard at most a
    // datagram.
    const size_t payload = payload_bytes(config.datagram_bytes_max);
    const size_t history = FecHistory::bytes_for(config.fec_history_bytes, payload);
    const size_t shards = FecReceiver::kParitiesMax + 2 * kFecParityMax;
    const size_t numbers = kFecGroups * (history / (payload - kFecReserveBytes)) +
                           kFecBatchesMax * kFecBatchMembersMax;
    size_t most = fixed_bytes() + 2 * history + shards * config.datagram_bytes_max +
                  numbers * sizeof(uint64_t);
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
    s.fec_packets_sent += fec_send_.parity_packets();
    s.fec_packets_received += fec_receive_.parity_packets();
    s.fec_recovered += fec_receive_.recovered();
    s.fec_recovered_by_peer += recovered_by_peer_;
    s.fec_active = fec_send_.active() ? 1 : 0;
    s.fec_loss_ppm = static_cast<uint64_t>(fec_send_.meter().loss() * 1e6);
    s.fec_burst_milli = static_cast<uint64_t>(fec_send_.meter().burst() * 1e3);
    s.fec_memory_bytes = fec_send_.memory_bytes() + fec_receive_.memory_bytes();
    s.drop_reports_lost += drop_reports_lost_;
    s.rekeys += rekeys_;
    s.path_mtu_bytes = mtu_.datagram_bytes();
    s.path_mtu_probes += mtu_.probes();
    s.path_mtu_black_holes += mtu_.black_holes();
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
        c.cancelled_messages += send_[i].cancelled_messages();
        c.expired_messages += send_[i].expired_messages();
        c.parity_bytes += fec_send_.parity_bytes(static_cast<Class>(i));
    }
}

}  // namespace evac::wan
