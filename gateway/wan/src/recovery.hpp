#pragma once
// What is in flight: RTT, loss by time and packet number (after RACK), tail probes. A packet is
// lost when one sent later was acknowledged and a round trip plus the reordering allowance has
// passed since it was sent. The allowance widens when a packet thought lost arrives after all.
#include <array>
#include <cstdint>
#include <vector>

#include "packet.hpp"
#include "rate_control.hpp"
#include "send_stream.hpp"

namespace evac::wan {

inline constexpr size_t kChunksPerPacketMax = 6;
inline constexpr size_t kInflightPacketsMax = 16384;  // 24 MB in flight: 10 Gbit/s at 20 ms
inline constexpr size_t kInflightReserve = 1024;

struct SentPacket {
    enum class State : uint8_t { none, outstanding, acked, lost };
    uint64_t number = UINT64_MAX;
    uint64_t sent_ns = 0;
    uint64_t run_low = 0;  // acked: every packet in [run_low, number] is known to be acked
    DeliverySnapshot snapshot;
    uint32_t wire_bytes = 0;
    State state = State::none;
    uint8_t chunk_count = 0;
    uint8_t key_generation = 0;
    bool carries_credit = false;  // a window update that must be repeated if this is lost
    bool carries_move = false;    // the same for PATH_MOVED
    bool mtu_probe = false;       // may be lost for its size: no sign of congestion
    std::array<ChunkRef, kChunksPerPacketMax> chunks{};
};

// What one acknowledgement or one timer brought. Views are valid until the next call.
struct RecoveryOutcome {
    bool progress = false;  // at least one packet newly acknowledged
    uint64_t lost_bytes = 0;
};

class Recovery {
  public:
    static constexpr uint64_t kRunMax = 64;     // a longer run of losses counts as this long
    static constexpr uint64_t kRunsMax = 2048;  // then both sums are halved
    static constexpr uint64_t kGranularityNs = 1'000'000;
    static constexpr uint64_t kPeerAckDelayNs =
        5'000'000;  // the peer's largest delay of an acknowledgement

    Recovery(RateControl& rate, uint64_t probe_interval_ns, uint64_t now_ns);

    uint64_t next_number() const { return next_number_; }
    // Data may go out; acknowledgements and probes may always.
    bool room() const { return next_number_ - base_ < kInflightPacketsMax - kInflightReserve; }
    // Frees the record that the next packet needs: a packet still outstanding there is given up as
    // lost. Happens only when thousands of acknowledgements went out while nothing came back.
    template <class Lost>
    void make_room(Lost&& lost) {
        for (; next_number_ - base_ >= kInflightPacketsMax; ++base_) {
            SentPacket& p = at(base_);
            if (p.number == base_ && p.state == SentPacket::State::outstanding) give_up(p, lost);
        }
    }
    // The record for the packet about to be sent with next_number(); on_sent() makes it count.
    SentPacket& prepare();
    void on_sent(uint64_t now_ns, uint32_t wire_bytes, bool elicits_ack);

    // Calls acked(const SentPacket&) and lost(const SentPacket&) for what changes. False:
    // acknowledges what was never sent.
    template <class Acked, class Lost>
    bool on_ack(uint64_t now_ns, const AckFrame& ack, RecoveryOutcome& outcome, Acked&& acked,
                Lost&& lost) {
        if (ack.ranges[0].last >= next_number_) return false;
        const bool after_outage = now_ns - progress_ns_ > outage_ns();
        newest_ = nullptr;
        for (size_t i = 0; i < ack.range_count; ++i) {
            scan_range(ack.ranges[i], [&](SentPacket& p) {
                // One that asked for no answer shows nothing about those that did: it must not keep
                // the probe timer from running out.
                outcome.progress = outcome.progress || p.state != SentPacket::State::none;
                account_acked(now_ns, p);
                acked(static_cast<const SentPacket&>(p));
            });
        }
        if (outcome.progress) finish_ack(now_ns, ack);
        detect(now_ns, outcome, lost);
        rate_.on_ack_end(now_ns, inflight_, outcome.lost_bytes, after_outage);
        return true;
    }
    // Declares lost what is overdue.
    template <class Lost>
    void detect(uint64_t now_ns, RecoveryOutcome& outcome, Lost&& lost) {
        loss_ns_ = UINT64_MAX;
        for (; base_ < next_number_; ++base_) {
            SentPacket& p = at(base_);
            if (p.state != SentPacket::State::outstanding) continue;
            if (!has_acked_ || p.number > largest_acked_) return;
            const uint64_t due = p.sent_ns + loss_delay_ns();
            if (now_ns < due) {
                loss_ns_ = due;
                return;
            }
            if (counts(p)) outcome.lost_bytes += p.wire_bytes;
            give_up(p, lost);
        }
    }
    // The peer has another address: what was sent to the old one says nothing about the new path.
    void on_path_change(uint64_t now_ns, bool forget_rtt);

    uint64_t loss_timer_ns() const { return loss_ns_; }
    uint64_t pto_timer_ns() const;  // UINT64_MAX when nothing is outstanding
    void on_pto(uint64_t now_ns);   // the caller sends a probe

    // What is known of a packet sent; nullptr when its record is gone.
    const SentPacket* find(uint64_t number) const {
        const SentPacket& p = packets_[number % kInflightPacketsMax];
        return p.number == number ? &p : nullptr;
    }
    uint64_t inflight_bytes() const { return inflight_; }
    uint64_t outstanding() const { return outstanding_; }
    uint64_t smoothed_rtt_ns() const { return has_rtt_ ? srtt_ns_ : RateControl::kInitialRttNs; }
    uint64_t pto_ns() const;
    uint64_t progress_ns() const { return progress_ns_; }
    // Whether its loss says something about the present path: no size probe, none of a former path.
    bool counts(const SentPacket& p) const { return !p.mtu_probe && p.number >= path_first_; }
    uint64_t lost_packets() const { return lost_packets_; }
    uint64_t spurious_packets() const { return spurious_packets_; }
    // Mean length of runs of lost packets, times 1000 (of the last few thousand losses; outages
    // count as kRunMax at most). 0 = nothing was lost.
    uint64_t mean_burst_milli() const { return runs_ == 0 ? 0 : run_packets_ * 1000 / runs_; }
    static size_t memory_bytes() { return sizeof(SentPacket) * kInflightPacketsMax; }
    // Highest key generation (mod 256) of an acknowledged packet is current: the ratchet may move
    // on.
    bool generation_acked(uint8_t generation) const {
        return acked_generation_valid_ && acked_generation_ == generation;
    }

  private:
    template <class Lost>
    void give_up(SentPacket& p, Lost&& lost) {
        p.state = SentPacket::State::lost;
        inflight_ -= p.wire_bytes;
        --outstanding_;
        if (!p.mtu_probe) {
            ++lost_packets_;
            count_run(p.number);
        }
        lost(static_cast<const SentPacket&>(p));
    }
    void count_run(uint64_t number);
    SentPacket& at(uint64_t number) { return packets_[number % kInflightPacketsMax]; }
    void account_acked(uint64_t now_ns, SentPacket& p);
    void finish_ack(uint64_t now_ns, const AckFrame& ack);
    void sample_rtt(uint64_t now_ns, uint64_t rtt_ns, uint64_t delay_ns);
    uint64_t loss_delay_ns() const;
    uint64_t outage_ns() const { return 3 * pto_ns(); }

    // Visits the packets of a range that are newly acknowledged, newest first; skips runs
    // acknowledged before.
    template <class Visit>
    void scan_range(const AckRange& range, Visit&& visit) {
        const uint64_t oldest =
            next_number_ > kInflightPacketsMax ? next_number_ - kInflightPacketsMax : 0;
        if (range.last < oldest) return;
        const uint64_t low = range.first > oldest ? range.first : oldest;
        uint64_t number = range.last;
        uint64_t reached = range.last;
        while (true) {
            SentPacket& p = at(number);
            if (p.number != number) break;
            if (p.state == SentPacket::State::acked) {
                reached = p.run_low > low ? p.run_low : low;
            } else {
                visit(p);
                p.state = SentPacket::State::acked;
                p.run_low = number;
                reached = number;
            }
            if (reached <= low) break;
            number = reached - 1;
        }
        SentPacket& top = at(range.last);
        if (top.number == range.last && top.state == SentPacket::State::acked &&
            reached < top.run_low) {
            top.run_low = reached;
        }
    }

    RateControl& rate_;
    uint64_t probe_interval_ns_;
    std::vector<SentPacket> packets_;
    uint64_t next_number_ = 0;
    uint64_t base_ = 0;  // oldest that may be outstanding
    uint64_t largest_acked_ = 0;
    bool has_acked_ = false;
    uint64_t inflight_ = 0;
    uint64_t outstanding_ = 0;
    const SentPacket* newest_ = nullptr;  // largest newly acknowledged in this ack

    bool has_rtt_ = false;
    uint64_t srtt_ns_ = 0;
    uint64_t rttvar_ns_ = 0;
    uint64_t latest_rtt_ns_ = 0;
    uint64_t reorder_ns_ = 0;  // extra allowance learnt from spurious losses
    uint64_t progress_ns_ = 0;
    uint64_t loss_ns_ = UINT64_MAX;
    uint64_t pto_from_ns_ = 0;
    uint32_t pto_count_ = 0;
    uint64_t path_first_ = 0;  // first packet sent on the present path
    uint64_t lost_packets_ = 0;
    uint64_t spurious_packets_ = 0;
    uint64_t run_next_ = UINT64_MAX;  // continues the present run of losses
    uint64_t run_length_ = 0;
    uint64_t run_packets_ = 0;
    uint64_t runs_ = 0;
    uint8_t acked_generation_ = 0;
    bool acked_generation_valid_ = false;
};

}  // namespace evac::wan
