#include "send_stream.hpp"

#include <algorithm>

#include "evac/core/assert.hpp"

namespace evac::wan {

SendStream::SendStream(Class c, size_t send_bytes_max, size_t payload_bytes_max)
    : class_(c),
      send_bytes_max_(send_bytes_max),
      payload_bytes_max_(payload_bytes_max),
      slots_(kSendMessagesMax),
      waiting_(kSendMessagesMax) {
    EVAC_ASSERT(payload_bytes_max_ >= kChunkBytesMin + kMessageHeaderBytesMax);
}

bool SendStream::push(Bytes&& message, const SendOptions& options) {
    EVAC_ASSERT(!message.empty() && message.size() <= kMessageBytesMax);
    if (end_ - base_ + waiting_count_ >= kSendMessagesMax) return false;
    if (unacked_bytes_ > 0 && unacked_bytes_ + message.size() > send_bytes_max_) return false;
    unacked_bytes_ += message.size();
    unsent_bytes_ += message.size();
    ++accepted_;
    waiting(waiting_count_++) = {std::move(message), options};
    if (options.deadline_ns != 0) deadline_ns_ = std::min(deadline_ns_, options.deadline_ns);
    promote();
    return true;
}

void SendStream::promote() {
    if (unsent_ < end_ || waiting_count_ == 0) return;
    Waiting& first = waiting(0);
    waiting_head_ = (waiting_head_ + 1) % kSendMessagesMax;
    --waiting_count_;
    Slot& s = slot(end_);
    s.bytes = std::move(first.bytes);
    s.options = first.options;
    const size_t size = s.bytes.size();
    cut(s, end_);
    s.sent = s.acked = 0;
    s.cut = 0;
    s.acked_set.reset();
    s.lost_set.reset();
    cost_ += message_cost(size);
    s.cost_end = cost_;
    ++end_;
}

bool SendStream::due(uint64_t now_ns, const SendOptions& options) {
    if (options.deadline_ns == 0) return false;
    if (now_ns >= options.deadline_ns) return true;
    deadline_ns_ = std::min(deadline_ns_, options.deadline_ns);
    return false;
}

uint64_t SendStream::account_drop(uint64_t size) {
    unacked_bytes_ -= size;
    unsent_bytes_ -= size;
    dropped_bytes_ += size;
    return size;
}

uint64_t SendStream::drop_head() {
    Slot& s = slot(unsent_);
    const uint64_t size = s.bytes.size();
    s.bytes = Bytes();
    cost_ -= message_cost(size);
    --end_;
    promote();
    return account_drop(size);
}

uint64_t SendStream::drop_waiting(size_t i) {
    const uint64_t size = waiting(i).bytes.size();
    for (; i > 0; --i) waiting(i) = std::move(waiting(i - 1));
    waiting(0) = {};
    waiting_head_ = (waiting_head_ + 1) % kSendMessagesMax;
    --waiting_count_;
    return account_drop(size);
}

std::optional<uint64_t> SendStream::cancel(uint64_t ticket) {
    if (ticket == 0) return std::nullopt;
    if (head_unbegun() && slot(unsent_).options.ticket == ticket) {
        ++cancelled_messages_;
        return drop_head();
    }
    for (size_t i = 0; i < waiting_count_; ++i) {
        if (waiting(i).options.ticket != ticket) continue;
        ++cancelled_messages_;
        return drop_waiting(i);
    }
    return std::nullopt;
}

void SendStream::cut(Slot& s, uint64_t message) const {
    const size_t size = s.bytes.size();
    const size_t header = 1 + varint_bytes(message) + 2 * varint_bytes(size) + 2;
    // Room for parity over the packet, unless that would cut the message too small.
    const size_t room = payload_bytes_max_ - reserve_bytes_;
    const size_t chunk_bytes_max = (size + kChunksMax - 1) / kChunksMax + header <= room
                                       ? room - header
                                       : payload_bytes_max_ - header;
    // Equal chunks: the last one of a message is never a crumb that wastes a packet.
    const size_t chunks = (size + chunk_bytes_max - 1) / chunk_bytes_max;
    s.chunk_bytes = static_cast<uint32_t>((size + chunks - 1) / chunks);
    s.chunks = static_cast<uint16_t>((size + s.chunk_bytes - 1) / s.chunk_bytes);
}

void SendStream::set_payload_max(size_t payload_bytes_max) {
    EVAC_ASSERT(payload_bytes_max >= kChunkBytesMin + kMessageHeaderBytesMax);
    payload_bytes_max_ = payload_bytes_max;
    for (uint64_t m = base_; m < end_; ++m) {
        Slot& s = slot(m);
        if (s.acked == s.chunks) continue;
        const size_t header = 1 + varint_bytes(m) + 2 * varint_bytes(s.bytes.size()) + 2;
        if (s.sent == 0) {
            cut(s, m);
        } else if (s.chunk_bytes + header > payload_bytes_max_) {
            cut_again(m);
        }
    }
}

// A new chunk is acknowledged when all of its bytes were; any other that was begun goes again.
void SendStream::cut_again(uint64_t message) {
    Slot& s = slot(message);
    Slot old;
    old.chunk_bytes = s.chunk_bytes;
    old.sent = s.sent;
    old.acked_set = s.acked_set;
    old.lost_set = s.lost_set;
    const size_t size = s.bytes.size();
    const size_t sent_bytes = std::min<size_t>(size, size_t{old.sent} * old.chunk_bytes);
    cut(s, message);
    ++s.cut;
    lost_chunks_ -= old.lost_set.count();
    s.acked_set.reset();
    s.lost_set.reset();
    s.acked = 0;
    s.sent = static_cast<uint16_t>((sent_bytes + s.chunk_bytes - 1) / s.chunk_bytes);
    for (uint16_t chunk = 0; chunk < s.sent; ++chunk) {
        const size_t from = size_t{chunk} * s.chunk_bytes;
        const size_t to = from + chunk_size(s, chunk);
        bool acked = true;
        for (size_t o = from / old.chunk_bytes; o * old.chunk_bytes < to; ++o)
            acked = acked && old.acked_set.test(o);
        if (acked) {
            s.acked_set.set(chunk);
            ++s.acked;
        } else {
            s.lost_set.set(chunk);
            ++lost_chunks_;
        }
    }
    lost_hint_ = std::min(lost_hint_, message);
    // The chunk at the border counts as begun, with the bytes that it takes in.
    const size_t begun = std::min<size_t>(size, size_t{s.sent} * s.chunk_bytes);
    unsent_bytes_ -= begun - sent_bytes;
    departed_bytes_ += begun - sent_bytes;
    if (message == unsent_ && s.sent == s.chunks) {
        ++unsent_;
        promote();
    }
}

size_t SendStream::chunk_size(const Slot& s, uint16_t chunk) {
    const size_t offset = size_t{chunk} * s.chunk_bytes;
    return std::min<size_t>(s.chunk_bytes, s.bytes.size() - offset);
}

bool SendStream::credit_covers(uint64_t message) const {
    return message < credit_.messages && slot(message).cost_end <= credit_.bytes;
}

std::optional<ChunkRef> SendStream::next() const {
    if (lost_chunks_ > 0) {
        for (uint64_t m = std::max(lost_hint_, base_); m < end_; ++m) {
            const Slot& s = slot(m);
            if (s.lost_set.none()) continue;
            const size_t chunk = s.lost_set._Find_first();
            return ChunkRef{m, static_cast<uint16_t>(chunk), class_, s.cut};
        }
    }
    if (unsent_ < end_ && credit_covers(unsent_))
        return ChunkRef{unsent_, slot(unsent_).sent, class_, slot(unsent_).cut};
    return std::nullopt;
}

std::optional<ChunkRef> SendStream::oldest() const {
    if (base_ >= end_) return std::nullopt;
    const Slot& s = slot(base_);
    for (uint16_t chunk = 0; chunk < s.sent; ++chunk) {
        if (!s.acked_set.test(chunk)) return ChunkRef{base_, chunk, class_, s.cut};
    }
    return std::nullopt;
}

bool SendStream::blocked_by_credit() const {
    return unsent_ < end_ && !credit_covers(unsent_);
}

Fragment SendStream::fragment(const ChunkRef& ref) const {
    EVAC_ASSERT(live(ref));
    const Slot& s = slot(ref.message);
    const size_t offset = size_t{ref.chunk} * s.chunk_bytes;
    Fragment f;
    f.c = class_;
    f.message = ref.message;
    f.total = static_cast<uint32_t>(s.bytes.size());
    f.offset = static_cast<uint32_t>(offset);
    f.bytes = ByteSpan(s.bytes).subspan(offset, chunk_size(s, ref.chunk));
    return f;
}

void SendStream::mark_sent(const ChunkRef& ref) {
    EVAC_ASSERT(live(ref));
    Slot& s = slot(ref.message);
    const size_t size = chunk_size(s, ref.chunk);
    if (ref.chunk == s.sent && ref.message == unsent_) {
        ++s.sent;
        unsent_bytes_ -= size;
        departed_bytes_ += size;
        if (s.sent == s.chunks) {
            ++unsent_;
            promote();
        }
        return;
    }
    retransmitted_bytes_ += size;
    if (s.lost_set.test(ref.chunk)) {
        s.lost_set.reset(ref.chunk);
        --lost_chunks_;
        lost_hint_ = ref.message;  // next() returned the oldest lost one
    }
}

void SendStream::mark_acked(const ChunkRef& ref) {
    if (!live(ref)) return;
    Slot& s = slot(ref.message);
    if (s.acked_set.test(ref.chunk)) return;
    s.acked_set.set(ref.chunk);
    ++s.acked;
    if (s.lost_set.test(ref.chunk)) {
        s.lost_set.reset(ref.chunk);
        --lost_chunks_;
    }
    if (s.acked == s.chunks) {
        // The bytes go at once; the slot follows when it is the oldest.
        unacked_bytes_ -= s.bytes.size();
        released_bytes_ += s.bytes.size();
        s.bytes = Bytes();
    }
    while (base_ < unsent_ && slot(base_).acked == slot(base_).chunks) ++base_;
}

void SendStream::mark_lost(const ChunkRef& ref) {
    if (!live(ref)) return;
    Slot& s = slot(ref.message);
    if (s.acked_set.test(ref.chunk) || s.lost_set.test(ref.chunk)) return;
    s.lost_set.set(ref.chunk);
    ++lost_chunks_;
    lost_hint_ = std::min(lost_hint_, ref.message);
}

void SendStream::grant(const Credit& credit) {
    credit_.bytes = std::max(credit_.bytes, credit.bytes);
    credit_.messages = std::max(credit_.messages, credit.messages);
}

}  // namespace evac::wan
