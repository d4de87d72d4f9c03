#include "packet.hpp"

#include <cstring>

namespace evac::wan {

std::byte* PacketWriter::claim(size_t size) {
    if (!ok_ || out_.size() - size_ < size) {
        ok_ = false;
        return nullptr;
    }
    std::byte* at = out_.data() + size_;
    size_ += size;
    return at;
}

void PacketWriter::u8(uint8_t v) {
    if (std::byte* at = claim(1)) *at = std::byte{v};
}

void PacketWriter::le32(uint32_t v) {
    if (std::byte* at = claim(4)) {
        for (size_t i = 0; i < 4; ++i) at[i] = static_cast<std::byte>((v >> (8 * i)) & 0xff);
    }
}

void PacketWriter::le64(uint64_t v) {
    if (std::byte* at = claim(8)) {
        for (size_t i = 0; i < 8; ++i) at[i] = static_cast<std::byte>((v >> (8 * i)) & 0xff);
    }
}

void PacketWriter::varint(uint64_t v) {
    const size_t size = varint_bytes(v);
    std::byte* at = claim(size);
    if (at == nullptr) return;
    const uint64_t prefix = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
    v |= prefix << (8 * size - 2);
    for (size_t i = 0; i < size; ++i)
        at[i] = static_cast<std::byte>((v >> (8 * (size - 1 - i))) & 0xff);
}

void PacketWriter::put(ByteSpan bytes) {
    std::byte* at = claim(bytes.size());
    if (at != nullptr && !bytes.empty()) std::memcpy(at, bytes.data(), bytes.size());
}

size_t varint_bytes(uint64_t v) {
    if (v < (1u << 6)) return 1;
    if (v < (1u << 14)) return 2;
    if (v < (1u << 30)) return 4;
    return 8;
}

uint64_t read_varint(ByteReader& reader) {
    const uint8_t first = reader.u8();
    const size_t more = (size_t{1} << (first >> 6)) - 1;
    uint64_t value = first & 0x3fu;
    const ByteSpan rest = reader.take(more);
    for (const std::byte b : rest) value = (value << 8) | std::to_integer<uint8_t>(b);
    return reader.ok() ? value : 0;
}

void write_data_header(PacketWriter& out, const DataHeader& header) {
    out.u8(kTypeData);
    out.u8(header.phase);
    out.le32(header.session_tag);
    out.le64(header.number);
}

bool read_data_header(ByteSpan datagram, DataHeader& header) {
    if (datagram.size() < kDataHeaderBytes + 1 + kTagBytes) return false;
    ByteReader reader(datagram.subspan(1));
    header.phase = reader.u8();
    header.session_tag = reader.le32();
    header.number = reader.le64();
    return true;
}

void write_ack(PacketWriter& out, const AckFrame& ack) {
    out.u8(kFrameAck);
    out.varint(ack.ranges[0].last);
    out.varint(ack.delay_us);
    out.varint(ack.range_count - 1);
    out.varint(ack.ranges[0].last - ack.ranges[0].first);
    for (size_t i = 1; i < ack.range_count; ++i) {
        out.varint(ack.ranges[i - 1].first - ack.ranges[i].last - 2);
        out.varint(ack.ranges[i].last - ack.ranges[i].first);
    }
    for (const Credit& credit : ack.credit) {
        out.varint(credit.bytes);
        out.varint(credit.messages);
    }
}

void write_path_frame(PacketWriter& out, uint8_t type, uint64_t value) {
    out.u8(type);
    out.varint(sizeof value);
    out.le64(value);
}

size_t fragment_header_bytes(const Fragment& fragment, size_t length) {
    return 1 + varint_bytes(fragment.message) + varint_bytes(fragment.total) +
           varint_bytes(fragment.offset) + varint_bytes(length);
}

void write_fragment(PacketWriter& out, const Fragment& fragment) {
    out.u8(static_cast<uint8_t>(kFrameMessage + index(fragment.c)));
    out.varint(fragment.message);
    out.varint(fragment.total);
    out.varint(fragment.offset);
    out.varint(fragment.bytes.size());
    out.put(fragment.bytes);
}

namespace {

size_t parity_body_bytes(const ParityFrame& f, uint64_t carrier) {
    size_t size = varint_bytes(f.block) + 3 + varint_bytes(carrier - f.numbers[0]);
    for (size_t i = 1; i < f.members; ++i)
        size += varint_bytes(f.numbers[i] - f.numbers[i - 1] - 1);
    return size + f.shard.size();
}

size_t recovered_body_bytes(const RecoveredFrame& f) {
    size_t size = varint_bytes(f.total);
    for (size_t i = 0; i < f.count; ++i) size += varint_bytes(f.numbers[i]);
    return size;
}

bool parse_parity(ByteReader reader, ParityFrame& f) {
    f.block = read_varint(reader);
    f.members = reader.u8();
    f.rows = reader.u8();
    f.row = reader.u8();
    f.back = read_varint(reader);
    if (!reader.ok() || f.members == 0 || f.members > kFecMembersMax || f.rows == 0 ||
        f.rows > kFecParityMax || f.row >= f.rows || f.back == 0 || f.back > kParitySpanMax) {
        return false;
    }
    f.numbers[0] = 0;
    for (size_t i = 1; i < f.members; ++i) {
        const uint64_t gap = read_varint(reader);
        if (!reader.ok() || gap >= kParitySpanMax) return false;
        f.numbers[i] = f.numbers[i - 1] + 1 + gap;
        if (f.numbers[i] >= f.back) return false;
    }
    f.shard = reader.take(reader.remaining());
    return reader.ok() && f.shard.size() > kFecLengthBytes;
}

bool parse_recovered(ByteReader reader, RecoveredFrame& f) {
    f.total = read_varint(reader);
    f.count = 0;
    while (reader.ok() && !reader.at_end()) {
        if (f.count == kRecoveredNumbersMax) return false;
        f.numbers[f.count++] = read_varint(reader);
    }
    return reader.ok();
}

bool parse_skippable(uint8_t type, ByteSpan body, Frames& frames) {
    if (type == kFrameParity) {
        if (frames.has_parity || !parse_parity(ByteReader(body), frames.parity)) return false;
        frames.has_parity = true;
    } else if (type == kFrameRecovered) {
        if (frames.has_recovered || !parse_recovered(ByteReader(body), frames.recovered))
            return false;
        frames.has_recovered = true;
    }
    return true;
}

bool parse_ack(ByteReader& reader, AckFrame& ack) {
    uint64_t last = read_varint(reader);
    ack.delay_us = read_varint(reader);
    const uint64_t extra = read_varint(reader);
    if (!reader.ok() || extra >= kAckRangesMax) return false;
    ack.range_count = static_cast<size_t>(extra) + 1;
    for (size_t i = 0; i < ack.range_count; ++i) {
        if (i > 0) {
            const uint64_t gap = read_varint(reader);
            const uint64_t below = ack.ranges[i - 1].first;
            if (below < 2 || gap > below - 2) return false;
            last = below - 2 - gap;
        }
        const uint64_t length = read_varint(reader);
        if (!reader.ok() || length > last) return false;
        ack.ranges[i] = {last - length, last};
    }
    for (Credit& credit : ack.credit) {
        credit.bytes = read_varint(reader);
        credit.messages = read_varint(reader);
    }
    return reader.ok();
}

bool parse_fragment(ByteReader& reader, uint8_t type, Fragment& fragment) {
    fragment.c = static_cast<Class>(type - kFrameMessage);
    fragment.message = read_varint(reader);
    const uint64_t total = read_varint(reader);
    const uint64_t offset = read_varint(reader);
    const uint64_t length = read_varint(reader);
    if (!reader.ok() || total == 0 || total > kMessageBytesMax || length == 0 || offset >= total ||
        length > total - offset) {
        return false;
    }
    fragment.total = static_cast<uint32_t>(total);
    fragment.offset = static_cast<uint32_t>(offset);
    fragment.bytes = reader.take(static_cast<size_t>(length));
    return reader.ok();
}

}  // namespace

size_t parity_frame_bytes(const ParityFrame& parity, uint64_t carrier) {
    const size_t body = parity_body_bytes(parity, carrier);
    return 1 + varint_bytes(body) + body;
}

void write_parity(PacketWriter& out, const ParityFrame& parity) {
    out.u8(kFrameParity);
    out.varint(parity_body_bytes(parity, parity.carrier));
    out.varint(parity.block);
    out.u8(static_cast<uint8_t>(parity.members));
    out.u8(parity.rows);
    out.u8(parity.row);
    out.varint(parity.carrier - parity.numbers[0]);
    for (size_t i = 1; i < parity.members; ++i)
        out.varint(parity.numbers[i] - parity.numbers[i - 1] - 1);
    out.put(parity.shard);
}

size_t recovered_frame_bytes(const RecoveredFrame& recovered) {
    const size_t body = recovered_body_bytes(recovered);
    return 1 + varint_bytes(body) + body;
}

void write_recovered(PacketWriter& out, const RecoveredFrame& recovered) {
    out.u8(kFrameRecovered);
    out.varint(recovered_body_bytes(recovered));
    out.varint(recovered.total);
    for (size_t i = 0; i < recovered.count; ++i) out.varint(recovered.numbers[i]);
}

bool place_parity(ParityFrame& parity, uint64_t carrier) {
    if (parity.back > carrier) return false;
    parity.carrier = carrier;
    for (size_t i = 0; i < parity.members; ++i) parity.numbers[i] += carrier - parity.back;
    return true;
}

bool parse_frames(ByteSpan payload, Frames& frames) {
    frames.elicits_ack = false;
    frames.has_ack = false;
    frames.path_challenge.reset();
    frames.path_response.reset();
    frames.path_moved.reset();
    frames.fragment_count = 0;
    frames.has_parity = frames.has_recovered = false;
    ByteReader reader(payload);
    while (!reader.at_end()) {
        const uint8_t type = reader.u8();
        if (type == kFramePadding) continue;
        if (type == kFramePing) {
            frames.elicits_ack = true;
        } else if (type == kFrameAck) {
            if (frames.has_ack || !parse_ack(reader, frames.ack)) return false;
            frames.has_ack = true;
        } else if (type >= kFrameMessage && type < kFrameMessage + kClasses) {
            if (frames.fragment_count == kFragmentsPerPacketMax) return false;
            if (!parse_fragment(reader, type, frames.fragments[frames.fragment_count]))
                return false;
            ++frames.fragment_count;
            frames.elicits_ack = true;
        } else if (type >= kFramePathChallenge && type <= kFramePathMoved) {
            if (read_varint(reader) != sizeof(uint64_t)) return false;
            (type == kFramePathChallenge  ? frames.path_challenge
             : type == kFramePathResponse ? frames.path_response
                                          : frames.path_moved) = reader.le64();
        } else if (type >= kFrameSkippable) {
            const uint64_t length = read_varint(reader);
            if (!reader.ok() || length > reader.remaining()) return false;
            const ByteSpan body = reader.take(static_cast<size_t>(length));
            if (!parse_skippable(type, body, frames)) return false;
        } else {
            return false;
        }
        if (!reader.ok()) return false;
    }
    return true;
}

}  // namespace evac::wan
