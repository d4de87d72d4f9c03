#pragma once
// One session: keys, streams, recovery and rate, from the handshake that made it to the one that
// replaces it. Builds and takes apart data packets; the endpoint above it decides which session
// lives.
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ack_tracker.hpp"
#include "crypto.hpp"
#include "evac/wan/endpoint.hpp"
#include "fec_receiver.hpp"
#include "fec_sender.hpp"
#include "packet.hpp"
#include "path_mtu.hpp"
#include "rate_control.hpp"
#include "receive_stream.hpp"
#include "recovery.hpp"
#include "send_stream.hpp"

namespace evac::wan {

class Session {
  public:
    Session(const EndpointConfig& config, const SessionSecrets& secrets, uint64_t start_bits_per_s,
            uint64_t now_ns);
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    SessionId id() const { return SessionId{id_}; }
    uint32_t tag() const { return tag_; }

    // A datagram of type data with our tag. Returns why it was dropped, if it was.
    std::optional<DropReason> receive(uint64_t now_ns, ByteSpan datagram);
    // What the endpoint must know of the packet that receive() has just looked at.
    struct Arrival {
        bool authentic = false;
        bool newest = false;  // its number is above all before it
        std::optional<uint64_t> path_challenge;
        std::optional<uint64_t> path_response;
    };
    const Arrival& arrival() const { return arrival_; }
    // A copy of a packet that arrived before (receive() said replayed) and not a forgery.
    bool is_authentic_copy(ByteSpan datagram);
    // The part of receive() after decryption; public for the fuzzer.
    std::optional<DropReason> receive_payload(uint64_t now_ns, uint64_t number, ByteSpan payload);
    void tick(uint64_t now_ns);
    size_t transmit(uint64_t now_ns, std::span<std::byte> out);
    // A packet of its own for the path being validated; nobody waits for its acknowledgement.
    size_t transmit_path_frame(uint64_t now_ns, std::span<std::byte> out, uint8_t type,
                               uint64_t value);
    uint64_t next_timeout_ns() const;

    bool push(Class c, Bytes&& message, const SendOptions& options = {}) {
        return send_[index(c)].push(std::move(message), options);
    }
    bool cancel(Class c, uint64_t ticket) { return send_[index(c)].cancel(ticket).has_value(); }
    std::optional<Dropped> take_dropped();
    // Deadlines are in the caller's clock, which may run ahead of the protocol's.
    void expire(uint64_t callers_now_ns);
    uint64_t deadline_ns() const;  // the earliest, in that clock; UINT64_MAX = none
    std::optional<Bytes> take(Class c);
    // Ask the peer for a sign of life now, whatever the rate and the window say.
    void request_probe() { ping_probe_ = true; }
    // The peer has another address. `new_route`: not only its port changed. The peer is told, since
    // its packets take another path, too.
    void on_path_change(uint64_t now_ns, bool new_route);
    size_t datagram_bytes() const { return mtu_.datagram_bytes(); }  // present size of data packets

    // How long the peer has left us without an answer; 0 when nothing is open or it was just heard.
    uint64_t unanswered_ns(uint64_t now_ns) const;
    uint64_t heard_ns() const { return heard_ns_; }
    uint64_t pto_ns() const { return recovery_.pto_ns(); }
    bool sent(uint64_t number) const { return number < recovery_.next_number(); }
    uint64_t rate_bits_per_s() const { return rate_.rate_bytes_per_s() * 8; }
    void set_ceiling(uint64_t bits_per_s) { rate_.set_ceiling(bits_per_s / 8); }

    void set_scavenger(bool on) { rate_.set_scavenger(on); }
    // What this session holds now, and the most that any session of this configuration may hold.
    size_t memory_bytes() const;
    static size_t memory_bytes_max(const EndpointConfig& config);

    const SendStream& sending(Class c) const { return send_[index(c)]; }
    const ReceiveStream& receiving(Class c) const { return receive_[index(c)]; }
    // Adds this session's counters and sets the present values.
    void add_to(Stats& stats) const;

  private:
    enum class Kind : uint8_t { data, control, urgent, probe, ping, ack, mtu_probe, parity };

    bool data_allowed(uint64_t now_ns) const;
    bool control_bypass(uint64_t now_ns) const;
    bool urgent_waits() const;
    bool urgent_allowed(uint64_t now_ns) const;
    bool urgent_room() const;
    bool control_room() const;
    bool has_data() const;
    SendStream* pick();  // the stream whose turn it is; nullptr when nothing waits
    void account_turn(Class c, size_t bytes);
    size_t build(uint64_t now_ns, Kind kind, std::span<std::byte> out);
    void write_pending_ack(uint64_t now_ns, PacketWriter& writer, size_t reserve,
                           SentPacket& record);
    void add_chunks(PacketWriter& writer, SentPacket& record, Kind kind);
    void add_probe(PacketWriter& writer, SentPacket& record);
    bool add_chunk(PacketWriter& writer, SentPacket& record, SendStream& stream,
                   const ChunkRef& ref);
    void maybe_rekey(uint64_t now_ns);
    std::optional<DropReason> check_fragments(const Frames& frames) const;
    bool credit_is_stale() const;
    void on_lost(uint64_t now_ns, const SentPacket& packet);
    void on_acked(uint64_t now_ns, const SentPacket& packet);
    void restart_path(uint64_t now_ns, bool new_route);
    void follow_mtu();  // after acknowledgements and losses: messages are cut to the new size
    size_t seal(uint64_t now_ns, std::span<std::byte> out, size_t written, bool elicits,
                bool urgent);

    // Forward error correction: the hooks.
    FecPath fec_path() const;
    void fec_plan(uint64_t now_ns);
    void fec_cover(uint64_t now_ns, const SentPacket& record, ByteSpan payload);
    size_t transmit_parity(uint64_t now_ns, bool tail, std::span<std::byte> out);
    uint64_t parity_open_ns(bool tail) const;
    uint64_t fec_timeout_ns() const;
    bool take_rebuilt(uint64_t number, ByteSpan payload);
    bool on_recovered(const RecoveredFrame& recovered);

    const EndpointConfig config_;
    uint64_t id_;
    uint32_t tag_;
    SealKeys seal_;
    OpenKeys open_;
    ReplayWindow replay_;
    uint64_t received_end_ = 0;  // 1 + the largest authentic packet number
    Arrival arrival_;
    PathMtu mtu_;
    size_t cut_for_bytes_ = PathMtu::kBaseBytes;
    AckTracker acks_;
    RateControl rate_;
    Recovery recovery_;
    std::vector<SendStream> send_;
    std::vector<ReceiveStream> receive_;
    std::array<Credit, kClasses> advertised_{};
    std::array<uint64_t, kClasses> turn_{};  // weighted service of disk and bulk
    Frames frames_;
    std::array<std::byte, kDatagramBytesMax> plain_{};

    FecSender fec_send_;
    FecReceiver fec_receive_;
    FecSender::InFlight in_flight_;
    FecReceiver::Deliver deliver_;
    uint64_t urgent_in_flight_ = 0;  // packets with control or demand
    uint64_t recovered_by_peer_ = 0;
    std::vector<Dropped> dropped_;  // reports, oldest first from dropped_head_
    size_t dropped_head_ = 0;
    uint64_t drop_reports_lost_ = 0;

    uint32_t probes_ = 0;       // tail probes to send, with data
    bool ping_probe_ = false;   // a ping to send at once
    bool small_probe_ = false;  // a ping after a probe that a black hole may swallow
    bool credit_wanted_ = false;
    bool move_wanted_ = false;  // PATH_MOVED must go out
    uint64_t moves_told_ = 0;   // its value: 2 x count + new route
    uint64_t moves_heard_ = 0;
    uint64_t heard_ns_;
    uint64_t elicited_ns_;  // when we last sent something that asks for an answer
    uint64_t phase_packets_ = 0;
    uint64_t phase_ns_;
    uint64_t rekeys_ = 0;

    uint64_t packets_sent_ = 0;
    uint64_t packets_received_ = 0;
    uint64_t probes_sent_ = 0;
};

}  // namespace evac::wan
