#include "receive_stream.hpp"

#include <algorithm>
#include <cstring>

#include "evac/core/assert.hpp"
#include "send_stream.hpp"  // message_cost

namespace evac::wan {

bool IntervalSet::separate(uint32_t begin, uint32_t end) const {
    return std::none_of(items_.begin(), items_.begin() + static_cast<ptrdiff_t>(size_),
                        [&](const Interval& i) { return begin <= i.end && end >= i.begin; });
}

bool IntervalSet::insert(uint32_t begin, uint32_t end) {
    // First interval that touches [begin, end) or lies above it.
    size_t at = 0;
    while (at < size_ && items_[at].end < begin) ++at;
    if (at == size_ || items_[at].begin > end) {
        if (size_ == kIntervalsMax) return false;
        std::copy_backward(items_.begin() + static_cast<ptrdiff_t>(at),
                           items_.begin() + static_cast<ptrdiff_t>(size_),
                           items_.begin() + static_cast<ptrdiff_t>(size_ + 1));
        items_[at] = {begin, end};
        ++size_;
        return true;
    }
    items_[at].begin = std::min(items_[at].begin, begin);
    items_[at].end = std::max(items_[at].end, end);
    size_t above = at + 1;
    while (above < size_ && items_[above].begin <= items_[at].end) {
        items_[at].end = std::max(items_[at].end, items_[above].end);
        ++above;
    }
    std::copy(items_.begin() + static_cast<ptrdiff_t>(above),
              items_.begin() + static_cast<ptrdiff_t>(size_),
              items_.begin() + static_cast<ptrdiff_t>(at + 1));
    size_ -= above - at - 1;
    return true;
}

uint64_t IntervalSet::covered() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < size_; ++i) sum += items_[i].end - items_[i].begin;
    return sum;
}

ReceiveStream::Verdict ReceiveStream::check(const Fragment& f, uint64_t& planned_bytes) const {
    if (f.message < next_) return Verdict::duplicate;
    if (f.message - next_ >= kReceiveMessagesMax) return Verdict::flow_violation;
    const Slot& s = slots_[f.message % kReceiveMessagesMax];
    if (!s.active) {
        planned_bytes += message_cost(f.total);
        return reserved_cost_ + planned_bytes <= window_bytes_ ? Verdict::ok
                                                               : Verdict::flow_violation;
    }
    if (s.complete) return Verdict::duplicate;
    if (s.bytes.size() != f.total) return Verdict::inconsistent;
    // A packet holds at most kFragmentsPerPacketMax pieces: near the limit only those that merge
    // are taken, so that apply() cannot fail half-way through a packet.
    if (s.pieces.size() + kFragmentsPerPacketMax > kIntervalsMax &&
        s.pieces.separate(f.offset, f.offset + static_cast<uint32_t>(f.bytes.size()))) {
        return Verdict::full;
    }
    return Verdict::ok;
}

void ReceiveStream::apply(const Fragment& f) {
    if (f.message < next_) return;  // delivered before
    Slot& s = slots_[f.message % kReceiveMessagesMax];
    if (!s.active) {
        s.active = true;
        s.complete = false;
        s.pieces.clear();
        s.bytes.resize(f.total);
        reserved_cost_ += message_cost(f.total);
    }
    // Two fragments of one packet may disagree about a new message's size, or complete it twice.
    if (s.complete || s.bytes.size() != f.total) return;
    std::memcpy(s.bytes.data() + f.offset, f.bytes.data(), f.bytes.size());
    const bool inserted =
        s.pieces.insert(f.offset, f.offset + static_cast<uint32_t>(f.bytes.size()));
    EVAC_ASSERT(inserted);
    if (s.pieces.size() == 1 && s.pieces.covered() == f.total) {
        s.complete = true;
        ++received_messages_;
        received_bytes_ += f.total;
    }
}

std::optional<Bytes> ReceiveStream::take() {
    if (!ready()) return std::nullopt;
    Slot& s = slots_[next_ % kReceiveMessagesMax];
    Bytes bytes = std::move(s.bytes);
    s.bytes = Bytes();
    s.active = s.complete = false;
    const uint64_t cost = message_cost(bytes.size());
    reserved_cost_ -= cost;
    taken_cost_ += cost;
    ++next_;
    return bytes;
}

}  // namespace evac::wan
