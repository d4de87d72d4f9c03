#pragma once
// The sending half of one class in one session: messages wait, go out in chunks of equal size, and
// stay until every chunk is acknowledged. Memory: the messages themselves plus a fixed table.
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
};

class SendStream {
  public:
    // payload_bytes_max: room for frames in a packet, at least kChunkBytesMin +
    // kMessageHeaderBytesMax.
    SendStream(Class c, size_t send_bytes_max, size_t payload_bytes_max);

    bool push(Bytes&& message);  // false: full, untouched

    // What should go next: a chunk that was lost, else one never sent that the peer's credit
    // allows.
    std::optional<ChunkRef> next() const;
    // The oldest chunk not acknowledged, for a tail probe.
    std::optional<ChunkRef> oldest() const;
    bool blocked_by_credit() const;

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
    uint64_t messages() const { return end_; }
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
        std::bitset<kChunksMax> acked_set;
        std::bitset<kChunksMax> lost_set;
    };
    Slot& slot(uint64_t message) { return slots_[message % kSendMessagesMax]; }
    const Slot& slot(uint64_t message) const { return slots_[message % kSendMessagesMax]; }
    static size_t chunk_size(const Slot& s, uint16_t chunk);
    bool live(const ChunkRef& ref) const { return ref.message >= base_ && ref.message < end_; }
    bool credit_covers(uint64_t message) const;

    Class class_;
    size_t send_bytes_max_;
    size_t payload_bytes_max_;
    std::vector<Slot> slots_;
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
