#include "fec_receiver.hpp"

#include <algorithm>
#include <cstring>

namespace evac::wan {

FecReceiver::FecReceiver(size_t history_bytes, size_t payload_bytes_max)
    : history_(history_bytes, payload_bytes_max),
      shard_bytes_(payload_bytes_max + kFecLengthBytes) {}

void FecReceiver::on_packet(uint64_t now_ns, uint64_t number, ByteSpan payload, bool has_data) {
    if (any_ && number > highest_ + 1) keep_until_ns_ = now_ns + kKeepNs;
    if (!any_ || number > highest_) highest_ = number;
    any_ = true;
    if (has_data && now_ns < keep_until_ns_) history_.put(number, payload);
}

bool FecReceiver::same_block(const Waiting& w, const ParityFrame& parity) const {
    return w.used && w.block == parity.block && w.members == parity.members &&
           std::equal(w.numbers.begin(), w.numbers.begin() + w.members, parity.numbers.begin());
}

std::byte* FecReceiver::bytes_of(const Waiting& w) {
    return shards_.get() + static_cast<size_t>(&w - waiting_.data()) * shard_bytes_;
}

size_t FecReceiver::find_missing(const ParityFrame& parity) {
    size_t missing = 0;
    for (size_t i = 0; i < parity.members; ++i) {
        if (history_.shard(parity.numbers[i]).empty())
            missing_[missing++] = static_cast<uint8_t>(i);
    }
    return missing;
}

// The slot for this parity: none when the same one is held already. The oldest makes room.
FecReceiver::Waiting* FecReceiver::keep(const ParityFrame& parity) {
    Waiting* slot = waiting_.data();
    for (Waiting& w : waiting_) {
        if (same_block(w, parity) && w.row == parity.row) return nullptr;
        const bool better = slot->used && (!w.used || w.order < slot->order);
        if (better) slot = &w;
    }
    slot->used = true;
    slot->order = order_++;
    slot->block = parity.block;
    slot->row = parity.row;
    slot->members = static_cast<uint8_t>(parity.members);
    slot->numbers = parity.numbers;
    slot->size = static_cast<uint32_t>(parity.shard.size());
    std::memcpy(bytes_of(*slot), parity.shard.data(), parity.shard.size());
    return slot;
}

void FecReceiver::forget(const ParityFrame& parity) {
    for (Waiting& w : waiting_) {
        if (same_block(w, parity)) w.used = false;
    }
}

// Leaves the missing shards in the second half of the scratch. False: not enough parities yet, or
// they contradict the members (length_ is then 0).
bool FecReceiver::solve(const ParityFrame& parity, size_t missing) {
    std::array<uint8_t, kFecParityMax> rows{};
    std::array<std::byte*, kFecParityMax> syndromes{}, out{};
    size_t found = 0;
    length_ = 0;
    for (const Waiting& w : waiting_) {
        if (!same_block(w, parity) || found == missing) continue;
        length_ = std::max<size_t>(length_, w.size);
    }
    for (const Waiting& w : waiting_) {
        if (!same_block(w, parity) || found == missing) continue;
        std::byte* to = scratch_.get() + found * shard_bytes_;
        std::memcpy(to, bytes_of(w), w.size);
        std::fill(to + w.size, to + length_, std::byte{0});
        rows[found] = w.row;
        syndromes[found] = to;
        out[found] = scratch_.get() + (kFecParityMax + found) * shard_bytes_;
        ++found;
    }
    if (found < missing) return false;
    for (size_t i = 0; i < parity.members; ++i) {
        const ByteSpan shard = history_.shard(parity.numbers[i]);
        if (shard.empty()) continue;
        if (shard.size() > length_) {
            length_ = 0;
            return false;
        }
        for (size_t r = 0; r < found; ++r) fec_add({syndromes[r], length_}, rows[r], i, shard);
    }
    fec_solve({rows.data(), found}, {missing_.data(), found}, {syndromes.data(), found},
              {out.data(), found}, length_);
    return true;
}

void FecReceiver::on_parity(uint64_t now_ns, const ParityFrame& parity, const Deliver& deliver) {
    ++parity_packets_;
    keep_until_ns_ = now_ns + kKeepNs;
    const size_t missing = find_missing(parity);
    if (missing == 0) {
        forget(parity);
        return;
    }
    if (missing > parity.rows || parity.shard.size() > shard_bytes_) return;  // hopeless
    if (shards_ == nullptr) {
        shards_ = std::make_unique_for_overwrite<std::byte[]>(kParitiesMax * shard_bytes_);
        scratch_ = std::make_unique_for_overwrite<std::byte[]>(2 * kFecParityMax * shard_bytes_);
    }
    if (keep(parity) == nullptr) return;
    if (!solve(parity, missing)) {
        if (length_ == 0) forget(parity);
        return;
    }
    forget(parity);
    for (size_t i = 0; i < missing; ++i) {
        const std::byte* shard = scratch_.get() + (kFecParityMax + i) * shard_bytes_;
        const size_t size = std::to_integer<size_t>(shard[0]) | std::to_integer<size_t>(shard[1])
                                                                    << 8;
        if (size == 0 || size + kFecLengthBytes > length_) continue;
        const uint64_t number = parity.numbers[missing_[i]];
        const ByteSpan payload(shard + kFecLengthBytes, size);
        if (!deliver(number, payload)) continue;
        history_.put(number, payload);
        ++recovered_;
        report(number);
    }
}

void FecReceiver::report(uint64_t number) {
    // The one told most often makes room: what is lost here is a needless retransmission.
    const auto slot =
        std::min_element(reports_.begin(), reports_.end(),
                         [](const Report& a, const Report& b) { return a.times < b.times; });
    *slot = {number, kReportTimes};
}

void FecReceiver::write_report(PacketWriter& out, size_t reserve) {
    RecoveredFrame frame;
    frame.total = recovered_;
    for (const Report& r : reports_) {
        if (r.times > 0) frame.numbers[frame.count++] = r.number;
    }
    if (frame.count == 0 || recovered_frame_bytes(frame) + reserve > out.room()) return;
    write_recovered(out, frame);
    for (Report& r : reports_) r.times -= r.times > 0 ? 1 : 0;
}

size_t FecReceiver::waiting() const {
    return static_cast<size_t>(
        std::count_if(waiting_.begin(), waiting_.end(), [](const Waiting& w) { return w.used; }));
}

size_t FecReceiver::memory_bytes() const {
    const size_t shards = shards_ == nullptr ? 0 : kParitiesMax + 2 * kFecParityMax;
    return history_.memory_bytes() + shards * shard_bytes_;
}

}  // namespace evac::wan
