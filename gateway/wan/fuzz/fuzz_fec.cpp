// PARITY and RECOVERED frames of an authenticated peer: the parser, and the receiver behind it.
// Input: records of kind(1) size(le16) bytes. kind even: a packet with these bytes as payload
// arrives; kind & 2: its number is lost first. kind odd: a packet with these bytes as frames.
#include <algorithm>
#include <cstdint>

#include "evac/core/assert.hpp"
#include "fec_receiver.hpp"

using namespace evac;
using namespace evac::wan;

namespace {

constexpr size_t kPayload = 1442;
constexpr size_t kHistory = 64 * 1024;

// What was parsed can be written, and is then parsed as the same.
void check_round_trip(const Frames& frames, uint64_t carrier) {
    std::array<std::byte, 70'000> buffer;
    PacketWriter writer(buffer);
    if (frames.has_parity) {
        write_parity(writer, frames.parity);
        EVAC_ASSERT(writer.ok());
        EVAC_ASSERT(writer.size() == parity_frame_bytes(frames.parity, carrier));
        Frames again;
        EVAC_ASSERT(parse_frames(ByteSpan(buffer).first(writer.size()), again));
        EVAC_ASSERT(again.has_parity && place_parity(again.parity, carrier));
        EVAC_ASSERT(
            again.parity.block == frames.parity.block && again.parity.row == frames.parity.row &&
            again.parity.members == frames.parity.members &&
            std::equal(again.parity.numbers.begin(),
                       again.parity.numbers.begin() + static_cast<ptrdiff_t>(again.parity.members),
                       frames.parity.numbers.begin()) &&
            std::ranges::equal(again.parity.shard, frames.parity.shard));
    }
    if (frames.has_recovered) {
        PacketWriter told(buffer);
        write_recovered(told, frames.recovered);
        EVAC_ASSERT(told.ok() && told.size() == recovered_frame_bytes(frames.recovered));
        Frames again;
        EVAC_ASSERT(parse_frames(ByteSpan(buffer).first(told.size()), again));
        EVAC_ASSERT(again.recovered.total == frames.recovered.total &&
                    again.recovered.count == frames.recovered.count &&
                    again.recovered.numbers == frames.recovered.numbers);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    FecReceiver receiver(kHistory, kPayload);
    ByteReader reader({reinterpret_cast<const std::byte*>(data), size});
    uint64_t number = 0;
    uint64_t recovered = 0;
    for (int records = 0; records < 300 && reader.remaining() > 0; ++records, ++number) {
        const uint8_t kind = reader.u8();
        const ByteSpan body = reader.take(std::min<size_t>(reader.le16(), reader.remaining()));
        if ((kind & 2) != 0) ++number;
        if ((kind & 1) == 0) {
            receiver.on_packet(number + 1, number, body, !body.empty());
            continue;
        }
        Frames frames;
        if (!parse_frames(body, frames)) continue;
        if (frames.has_parity && !place_parity(frames.parity, number)) continue;
        check_round_trip(frames, number);
        receiver.on_packet(number + 1, number, body, frames.fragment_count > 0);
        if (!frames.has_parity) continue;
        receiver.on_parity(number + 1, frames.parity, [&](uint64_t n, ByteSpan payload) {
            EVAC_ASSERT(n < number);
            EVAC_ASSERT(!payload.empty() && payload.size() <= kPayload);
            ++recovered;
            return true;
        });
        EVAC_ASSERT(receiver.recovered() == recovered);
        EVAC_ASSERT(receiver.waiting() <= FecReceiver::kParitiesMax);
        std::array<std::byte, 300> report;
        PacketWriter writer(report);
        receiver.write_report(writer, 0);
        EVAC_ASSERT(writer.ok());
    }
    EVAC_ASSERT(receiver.memory_bytes() <=
                2 * kHistory + (FecReceiver::kParitiesMax + 2 * kFecParityMax) * (kPayload + 2));
    return 0;
}
