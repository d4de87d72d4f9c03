#include "fec_sender.hpp"

#include <algorithm>

#include "evac/core/assert.hpp"

namespace evac::wan {
namespace {

size_t at(FecGroup group) {
    return static_cast<size_t>(group);
}

}  // namespace

FecSender::FecSender(FecMode mode, size_t history_bytes, size_t payload_bytes_max)
    : mode_(mode), history_(history_bytes, payload_bytes_max - kFecReserveBytes) {
    if (mode_ == FecMode::off) return;
    for (Pending& p : pending_) p.numbers.resize(history_.slots());
    for (Batch& b : batches_) b.members.reserve(kFecBatchMembersMax);
    shard_.resize(payload_bytes_max);
}

bool FecSender::wants_room(Class c, uint64_t rtt_ns) const {
    if (!active()) return false;
    if (c <= Class::demand) return true;
    return mode_ == FecMode::full && rtt_ns >= kTailRttMinNs;
}

void FecSender::on_packet(uint64_t now_ns, uint64_t number, ByteSpan payload, FecGroup group,
                          Class c, size_t room) {
    if (!active()) {
        for (Pending& p : pending_) p.count = 0;
        return;
    }
    if (group == FecGroup::tail && mode_ != FecMode::full) return;
    // Parity is as long as the longest member: one without room would cost all of its block's.
    if (payload.size() + kFecReserveBytes > room) return;
    history_.put(number, payload);
    if (history_.shard(number).empty()) return;  // too long to leave room for parity
    Pending& p = pending_[at(group)];
    if (p.count == p.numbers.size()) {  // the oldest left the history just now
        p.head = (p.head + 1) % p.numbers.size();
        --p.count;
    }
    if (p.count == 0) p.first_ns = now_ns;
    p.last_ns = now_ns;
    p.c = c;
    p.numbers[(p.head + p.count++) % p.numbers.size()] = number;
}

uint64_t FecSender::spacing_ns(const FecPath& path) const {
    return fec_spacing_ns(meter_.burst(), path.packet_ns);
}

uint64_t FecSender::close_ns(FecGroup group, const FecPath& path) const {
    const Pending& p = pending_[at(group)];
    if (p.count == 0 || !active()) return UINT64_MAX;
    if (std::none_of(batches_.begin(), batches_.end(), [](const Batch& b) { return !b.used; }))
        return UINT64_MAX;
    if (group != FecGroup::control && !path.dry[at(group)]) return UINT64_MAX;
    const uint64_t after_last = p.last_ns + spacing_ns(path);
    return group == FecGroup::tail ? after_last : std::min(after_last, p.first_ns + kUrgentWaitNs);
}

void FecSender::plan(uint64_t now_ns, const FecPath& path, const InFlight& in_flight) {
    for (size_t i = 0; i < kFecGroups; ++i) {
        const auto group = static_cast<FecGroup>(i);
        while (now_ns >= close_ns(group, path)) close(now_ns, group, path, in_flight);
    }
}

size_t FecSender::choose_parity(FecGroup group, const FecPath& path,
                                const std::vector<uint64_t>& numbers, size_t blocks) const {
    const size_t members = numbers.size();
    // Packets between neighbours of one block, whatever else was sent between them.
    const size_t interleave = members > blocks
                                  ? (numbers.back() - numbers.front()) / (members - 1) * blocks
                                  : static_cast<size_t>(LossMeter::kBurstMax);
    const FecBlockShape shape{meter_.loss(), meter_.burst(), (members + blocks - 1) / blocks,
                              interleave};
    if (group != FecGroup::tail) {
        const double held_up = 1 + static_cast<double>(path.urgent_in_flight);
        const double target = kUrgentMissTarget * static_cast<double>(shape.members) / held_up;
        return fec_parity(shape, target, kUrgentParityMax);
    }
    const size_t parity =
        fec_parity(shape, kTailMissTarget / static_cast<double>(blocks), kFecParityMax);
    const bool pays =
        path.rtt_ns >= kTailRttMinNs &&
        fec_tail_pays(meter_.loss(), members, parity * blocks, path.packet_ns, path.rtt_ns);
    return pays ? parity : 0;
}

void FecSender::close(uint64_t now_ns, FecGroup group, const FecPath& path,
                      const InFlight& in_flight) {
    Pending& p = pending_[at(group)];
    Batch* batch = free_batch();
    EVAC_ASSERT(batch != nullptr);
    batch->members.clear();
    while (p.count > 0 && batch->members.size() < kFecBatchMembersMax) {
        const uint64_t number = p.numbers[p.head];
        p.head = (p.head + 1) % p.numbers.size();
        --p.count;
        if (in_flight(number) && !history_.shard(number).empty()) batch->members.push_back(number);
    }
    const size_t members = batch->members.size();
    if (members == 0) return;
    batch->blocks = (members + kFecMembersMax - 1) / kFecMembersMax;
    batch->parity = choose_parity(group, path, batch->members, batch->blocks);
    if (batch->parity == 0) return;
    batch->used = true;
    batch->group = group;
    batch->c = p.c;
    batch->round = batch->block = 0;
    batch->first_id = next_id_;
    next_id_ += batch->blocks;
    batch->due_ns = now_ns;
    const uint64_t spacing = spacing_ns(path);
    batch->gap_ns = group == FecGroup::tail || batch->parity == 1
                        ? spacing
                        : std::min(spacing, (kUrgentSpanNs - spacing) / (batch->parity - 1));
}

void FecSender::abandon_tail() {
    for (Batch& b : batches_) {
        if (b.group == FecGroup::tail) b.used = false;
    }
}

FecSender::Batch* FecSender::free_batch() {
    const auto found =
        std::find_if(batches_.begin(), batches_.end(), [](const Batch& b) { return !b.used; });
    return found == batches_.end() ? nullptr : &*found;
}

FecSender::Batch* FecSender::due_batch(uint64_t now_ns, bool tail) {
    Batch* best = nullptr;
    for (Batch& b : batches_) {
        if (!b.used || (b.group == FecGroup::tail) != tail || b.due_ns > now_ns) continue;
        if (best == nullptr || b.due_ns < best->due_ns) best = &b;
    }
    return best;
}

uint64_t FecSender::urgent_due_ns(const FecPath& path) const {
    uint64_t due = std::min(close_ns(FecGroup::control, path), close_ns(FecGroup::demand, path));
    for (const Batch& b : batches_) {
        if (b.used && b.group != FecGroup::tail) due = std::min(due, b.due_ns);
    }
    return due;
}

uint64_t FecSender::tail_due_ns(const FecPath& path) const {
    uint64_t due = close_ns(FecGroup::tail, path);
    for (const Batch& b : batches_) {
        if (b.used && b.group == FecGroup::tail) due = std::min(due, b.due_ns);
    }
    return due;
}

// Members of block b are b, b + blocks, b + 2 blocks ...: a burst is spread over all blocks.
bool FecSender::load_block(const Batch& batch, uint64_t number, size_t room,
                           const InFlight& in_flight) {
    frame_.members = 0;
    frame_.block = batch.first_id + batch.block;
    frame_.row = static_cast<uint8_t>(batch.round);
    frame_.rows = static_cast<uint8_t>(batch.parity);
    size_t length = 0;
    bool wanted = false;
    for (size_t i = batch.block; i < batch.members.size(); i += batch.blocks) {
        const ByteSpan shard = history_.shard(batch.members[i]);
        if (shard.empty()) return false;
        if (shard.size() + kFecReserveBytes - kFecLengthBytes > room) continue;  // of a larger path
        length = std::max(length, shard.size());
        wanted = wanted || in_flight(batch.members[i]);
        frame_.numbers[frame_.members++] = batch.members[i];
    }
    if (!wanted || frame_.members == 0) return false;
    std::fill_n(shard_.begin(), length, std::byte{0});
    frame_.shard = ByteSpan(shard_.data(), length);
    if (parity_frame_bytes(frame_, number) + 1 > room) return false;
    for (size_t i = 0; i < frame_.members; ++i) {
        fec_add({shard_.data(), length}, frame_.row, i, history_.shard(frame_.numbers[i]));
    }
    frame_.carrier = number;
    frame_class_ = batch.c;
    return true;
}

void FecSender::advance(uint64_t now_ns, Batch& batch) {
    if (++batch.block < batch.blocks) return;
    batch.block = 0;
    batch.due_ns = std::max(now_ns, batch.due_ns + batch.gap_ns);
    if (++batch.round == batch.parity) batch.used = false;
}

bool FecSender::prepare(uint64_t now_ns, bool tail, uint64_t number, size_t room,
                        const InFlight& in_flight) {
    while (Batch* batch = due_batch(now_ns, tail)) {
        const bool loaded = load_block(*batch, number, room, in_flight);
        advance(now_ns, *batch);
        if (loaded) return true;
    }
    return false;
}

void FecSender::write(PacketWriter& out) {
    const size_t before = out.size();
    write_parity(out, frame_);
    ++parity_packets_;
    parity_bytes_[index(frame_class_)] += out.size() - before;
}

}  // namespace evac::wan
