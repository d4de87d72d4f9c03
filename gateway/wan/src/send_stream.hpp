#pragma once
// The sending half of one class in one session: messages wait, go out in chunks of equal size, and
// stay until every chunk is acknowledged. Memory: the messages themselves plus fixed tables.
//
// A message gets its number and its chunks when it becomes the next to send, so that one that is
// dropped while it waits (cancelled, or its deadline passed) leaves no hole in the numbers. Once a
// chunk was on the wire it cannot be recalled.
#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/wan/types.hpp"
#include "packet.hpp"

namespace evac::wan {

inline constexpr size_t kChunksMax = 256;         // per message
inline constexpr size_t kChunkBytesMin = 1024;    // kMessageBytesMax / kChunksMax
inline constexpr size_t kSendMessagesMax = 1024;  // accepted and unacknowledged, per class
// What a message costs of the peer's window besides its bytes: table slot and allocator.
inline constexpr uint64_t kMessageCostBytes = 128;
// Every receiver offers at least this much per class, so that data can follow the handshake at
// once.
inline constexpr uint64_t kInitialCreditBytes = 512 * 1024;
inline constexpr uint64_t kInitialCreditMessages = 256;
inline uint64_t message_cost(uint64_t size) {
    return size + kMessageCostBytes;
}

struct ChunkRef {
    uint64_t message = 0;
    uint16_t chunk = 0;
    Class c = Class::control;
    uint8_t cut = 0;  // which cutting of the message `chunk` counts in; older ones are ignored
};

class SendStream {
  public:
    // payload_bytes_max: room for frames in a packet, at least kChunkBytesMin +
    // kMessageHeaderBytesMax.
    SendStream(Class c, size_t send_bytes_max, size_t payload_bytes_max);

    bool push(Bytes&& message, const SendOptions& options = {});  // false: full, untouched

    // Drops the first message with this ticket that is not begun; its size, or none.
    std::optional<uint64_t> cancel(uint64_t ticket);
    // Drops every message not begun whose deadline has come: dropped(ticket, size).
    template <class Dropped>
    void expire(uint64_t now_ns, Dropped&& dropped) {
        if (now_ns < deadline_ns_) return;
        deadline_ns_ = UINT64_MAX;
        while (head_unbegun() && due(now_ns, slot(unsent_).options)) {
            const uint64_t ticket = slot(unsent_).options.ticket;
            ++expired_messages_;
            dropped(ticket, drop_head());
        }
        for (size_t i = 0; i < waiting_count_;) {
            if (!due(now_ns, waiting(i).options)) {
                ++i;
                continue;
            }
            const uint64_t ticket = waiting(i).options.ticket;
            ++expired_messages_;
            dropped(ticket, drop_waiting(i));
        }
    }
    uint64_t deadline_ns() const { return deadline_ns_; }  // the earliest; UINT64_MAX = none
    // Bytes of each packet to leave free, for parity over it; counts for messages begun later.
    void set_reserve(size_t bytes) { reserve_bytes_ = bytes; }

    // Packets have another size from now on. Messages whose chunks do not fit any more are cut
    // again: what of them was acknowledged stays so, what was under way counts as lost. Messages
    // not begun follow in either direction.
    void set_payload_max(size_t payload_bytes_max);

    // What should go next: a chunk that was lost, else one never sent that the peer's credit
    // allows.
    std::optional<ChunkRef> next() const;
    // The oldest chunk not acknowledged, for a tail probe.
    std::optional<ChunkRef> oldest() const;
    bool blocked_by_credit() const;
    bool fresh() const { return unsent_ < end_ && credit_covers(unsent_); }  // never sent, may go

    // Whether `ref` still names bytes that wait for an acknowledgement.
    bool holds(const ChunkRef& ref) const { return live(ref) && !slot(ref.message).bytes.empty(); }
    Fragment fragment(const ChunkRef& ref) const;  // views into the message
    // `ref` was put into a packet (it is next() or oldest()).
    void mark_sent(const ChunkRef& ref);
    void mark_acked(const ChunkRef& ref);
    void mark_lost(const ChunkRef& ref);
    void grant(const Credit& credit);  // ignores an older one

    uint64_t unacked_bytes() const { return unacked_bytes_; }  // of messages not yet complete
    uint64_t unsent_bytes() const { return unsent_bytes_; }
    uint64_t departed_bytes() const { return departed_bytes_; }
    uint64_t released_bytes() const { return released_bytes_; }
    uint64_t retransmitted_bytes() const { return retransmitted_bytes_; }
    uint64_t messages() const { return accepted_; }
    uint64_t dropped_bytes() const { return dropped_bytes_; }  // cancelled and expired
    uint64_t cancelled_messages() const { return cancelled_messages_; }
    uint64_t expired_messages() const { return expired_messages_; }
    bool has_lost() const { return lost_chunks_ > 0; }
    static size_t table_bytes() { return sizeof(SendStream) + kSendMessagesMax * sizeof(Slot); }

  private:
    struct Slot {
        Bytes bytes;
        uint64_t cost_end = 0;  // cumulative cost up to and with this message
        uint32_t chunk_bytes = 0;
        uint16_t chunks = 0;
        uint16_t sent = 0;  // chunks put on the wire at least once: [0, sent)
        uint16_t acked = 0;
        uint8_t cut = 0;
        std::bitset<kChunksMax> acked_set;
        std::bitset<kChunksMax> lost_set;
        SendOptions options;
    };
    struct Waiting {
        Bytes bytes;
        SendOptions options;
    };
    Waiting& waiting(size_t i) { return waiting_[(waiting_head_ + i) % kSendMessagesMax]; }
    void promote();  // the first that waits becomes the next to send, when there is none
    bool head_unbegun() const { return unsent_ < end_ && slot(unsent_).sent == 0; }
    // Also notes the deadline of what stays.
    bool due(uint64_t now_ns, const SendOptions& options);
    uint64_t drop_head();
    uint64_t drop_waiting(size_t i);
    uint64_t account_drop(uint64_t size);
    Slot& slot(uint64_t message) { return slots_[message % kSendMessagesMax]; }
    const Slot& slot(uint64_t message) const { return slots_[message % kSendMessagesMax]; }
    static size_t chunk_size(const Slot& s, uint16_t chunk);
    bool live(const ChunkRef& ref) const {
        return ref.message >= base_ && ref.message < end_ && slot(ref.message).cut == ref.cut;
    }
    void cut(Slot& s, uint64_t message) const;
    void cut_again(uint64_t message);
    bool credit_covers(uint64_t message) const;

    Class class_;
    size_t send_bytes_max_;
    size_t payload_bytes_max_;
    std::vector<Slot> slots_;
    std::vector<Waiting> waiting_;  // ring, in order; not numbered yet
    size_t waiting_head_ = 0, waiting_count_ = 0;
    size_t reserve_bytes_ = 0;
    uint64_t deadline_ns_ = UINT64_MAX;
    uint64_t accepted_ = 0;
    uint64_t dropped_bytes_ = 0;
    uint64_t cancelled_messages_ = 0;
    uint64_t expired_messages_ = 0;
    uint64_t base_ = 0;    // oldest message not complete
    uint64_t unsent_ = 0;  // first message with a chunk never sent
    uint64_t end_ = 0;     // next message number
    uint64_t cost_ = 0;
    Credit credit_{kInitialCreditBytes, kInitialCreditMessages};
    uint64_t lost_chunks_ = 0;
    uint64_t lost_hint_ = 0;  // no lost chunk in messages below it
    uint64_t unacked_bytes_ = 0;
    uint64_t unsent_bytes_ = 0;
    uint64_t departed_bytes_ = 0;
    uint64_t released_bytes_ = 0;
    uint64_t retransmitted_bytes_ = 0;
};

}  // namespace evac::wan
