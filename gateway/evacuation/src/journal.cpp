#include "evac/evacuation/journal.hpp"

#include <array>
#include <string_view>

namespace evac::evacuation {
namespace {

constexpr std::string_view kMagic = "EVACJNL";
constexpr uint8_t kVersion = 1;
constexpr uint8_t kBegin = 1, kHandover = 2, kForget = 3, kEvacuation = 4;
constexpr size_t kFrameBytes = 8;        // length and crc
constexpr size_t kPayloadBytesMin = 17;  // seq, synced, type

constexpr std::array<uint32_t, 256> make_crc_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? (c >> 1) ^ 0x82f63b78U : c >> 1;
        table[i] = c;
    }
    return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

uint32_t crc32c(uint32_t seed, ByteSpan bytes) {
    uint32_t c = ~seed;
    for (const std::byte b : bytes) {
        c = kCrcTable[(c ^ std::to_integer<uint32_t>(b)) & 0xff] ^ (c >> 8);
    }
    return ~c;
}

uint32_t frame_crc(ByteSpan payload) {
    Bytes length;
    ByteWriter(length).le32(static_cast<uint32_t>(payload.size()));
    return crc32c(crc32c(0, length), payload);
}

struct Frame {
    size_t size = 0;  // with length and crc; 0 = none here
    uint64_t seq = 0;
    uint64_t synced = 0;
    ByteSpan body;
};

Frame read_frame(ByteSpan bytes) {
    ByteReader r(bytes);
    const uint32_t length = r.le32();
    const uint32_t crc = r.le32();
    if (!r.ok() || length < kPayloadBytesMin || length > kRecordBytesMax) return {};
    const ByteSpan payload = r.take(length);
    if (!r.ok() || frame_crc(payload) != crc) return {};
    ByteReader p(payload);
    Frame frame;
    frame.size = kFrameBytes + length;
    frame.seq = p.le64();
    frame.synced = p.le64();
    frame.body = payload.subspan(p.offset());
    return frame;
}

// The tail that begins with a bad record may be torn only if nothing behind it proves that the bad
// record had been acknowledged. Bounded: one CRC per offset whose length field is plausible, and at
// most kScanCrcBytesMax bytes of CRC work; beyond that the tail is taken for corrupt, the safe
// side.
constexpr uint64_t kScanCrcBytesMax = 512 * 1024 * 1024;

bool tail_is_torn(ByteSpan tail, uint64_t bad_seq) {
    uint64_t work = 0;
    for (size_t at = 0; at + kFrameBytes + kPayloadBytesMin <= tail.size(); ++at) {
        ByteReader r(tail.subspan(at));
        const uint32_t length = r.le32();
        if (length < kPayloadBytesMin || length > kRecordBytesMax || length > r.remaining())
            continue;
        work += length;
        if (work > kScanCrcBytesMax) return false;
        const Frame frame = read_frame(tail.subspan(at));
        if (frame.size != 0 && frame.seq > bad_seq && frame.synced >= bad_seq) return false;
    }
    return true;
}

void put_text(ByteWriter& w, std::string_view text) {
    w.put_sized(text.substr(0, kTextMax));
}

void put_options(ByteWriter& w, const HandoverOptions& o) {
    w.le32(o.silence_ms);
    w.le32(o.stopped_max_ms);
    w.le32(o.away_patience_ms);
}

void read_options(ByteReader& r, HandoverOptions& o) {
    o.silence_ms = r.le32();
    o.stopped_max_ms = r.le32();
    o.away_patience_ms = r.le32();
}

template <class E>
E read_enum(ByteReader& r, uint8_t min, uint8_t max) {
    const uint8_t value = r.u8();
    if (value < min || value > max) r.fail();
    return static_cast<E>(value);
}

Bytes encode(const HandoverRecord& h) {
    Bytes out;
    ByteWriter w(out);
    w.u8(kHandover);
    w.u8(static_cast<uint8_t>(h.role));
    w.u8(static_cast<uint8_t>(h.state));
    w.u8(static_cast<uint8_t>(h.options.policy));
    w.u8(static_cast<uint8_t>((h.options.hold_landing ? 1 : 0) | (h.abort_asked ? 2 : 0) |
                              (h.by_silence ? 4 : 0) | (h.forced ? 8 : 0) | (h.outside ? 16 : 0)));
    w.u8(static_cast<uint8_t>(h.reason));
    w.u8(h.attempts);
    w.le32(raw(h.vm));
    w.le32(raw(h.epoch));
    w.le64(raw(h.handover));
    put_options(w, h.options);
    w.le64(static_cast<uint64_t>(h.since_unix_ms));
    w.le64(static_cast<uint64_t>(h.stopped_unix_ms));
    w.le32(h.downtime_ms);
    return out;
}

HandoverRecord read_handover(ByteReader& r) {
    HandoverRecord h;
    h.role = read_enum<Role>(r, 1, 2);
    h.state = read_enum<State>(r, 1, static_cast<uint8_t>(State::lost));
    h.options.policy = read_enum<Policy>(r, 1, 2);
    const uint8_t flags = r.u8();
    if (flags > 31) r.fail();
    h.options.hold_landing = (flags & 1) != 0;
    h.abort_asked = (flags & 2) != 0;
    h.by_silence = (flags & 4) != 0;
    h.forced = (flags & 8) != 0;
    h.outside = (flags & 16) != 0;
    h.reason = read_enum<AbortReason>(r, 0, static_cast<uint8_t>(AbortReason::conflict));
    h.attempts = r.u8();
    h.vm = VmId{r.le32()};
    h.epoch = Epoch{r.le32()};
    h.handover = HandoverId{r.le64()};
    read_options(r, h.options);
    h.since_unix_ms = static_cast<int64_t>(r.le64());
    h.stopped_unix_ms = static_cast<int64_t>(r.le64());
    h.downtime_ms = r.le32();
    if (h.role == Role::away && (h.state == State::draining || h.state == State::frozen)) r.fail();
    return h;
}

Bytes encode(const EvacuationRecord& e) {
    Bytes out;
    ByteWriter w(out);
    w.u8(kEvacuation);
    w.u8(static_cast<uint8_t>(e.stage));
    w.u8(e.options.hold_landing ? 1 : 0);
    w.u8(static_cast<uint8_t>(e.options.policy));
    put_options(w, e.options);
    w.le64(static_cast<uint64_t>(e.since_unix_ms));
    put_text(w, e.event_id);
    put_text(w, e.reason);
    w.le32(static_cast<uint32_t>(e.order.size()));
    for (const Turn& turn : e.order) {
        w.le32(raw(turn.vm));
        w.le32(turn.predicted_away_ms);
        w.le32(turn.predicted_downtime_ms);
    }
    return out;
}

EvacuationRecord read_evacuation(ByteReader& r) {
    EvacuationRecord e;
    e.stage = read_enum<Stage>(r, 0, static_cast<uint8_t>(Stage::cancelled));
    const uint8_t flags = r.u8();
    if (flags > 1) r.fail();
    e.options.hold_landing = flags == 1;
    e.options.policy = read_enum<Policy>(r, 1, 2);
    read_options(r, e.options);
    e.since_unix_ms = static_cast<int64_t>(r.le64());
    e.event_id = r.text_sized(kTextMax);
    e.reason = r.text_sized(kTextMax);
    const uint32_t count = r.le32();
    if (count > kVmsMax || r.remaining() != size_t{count} * 12) r.fail();
    for (uint32_t i = 0; r.ok() && i < count; ++i) {
        Turn turn;
        turn.vm = VmId{r.le32()};
        turn.predicted_away_ms = r.le32();
        turn.predicted_downtime_ms = r.le32();
        e.order.push_back(turn);
    }
    return e;
}

Bytes begin_body() {
    Bytes out;
    ByteWriter w(out);
    w.u8(kBegin);
    w.put(kMagic);
    w.u8(kVersion);
    return out;
}

}  // namespace

const char* to_string(Stage stage) {
    switch (stage) {
        case Stage::idle:
            return "idle";
        case Stage::armed:
            return "armed";
        case Stage::evacuating:
            return "evacuating";
        case Stage::cancelling:
            return "cancelling";
        case Stage::done:
            return "done";
        case Stage::cancelled:
            return "cancelled";
    }
    return "?";
}

Result<Journal> Journal::open(JournalFile& file) {
    Result<Bytes> bytes = file.read_all(kJournalBytesMax);
    EVAC_TRY(bytes);
    Journal journal(file);
    EVAC_TRY(journal.load(*bytes));
    if (journal.opened_.torn_bytes > 0) {
        // Cut first: the compaction below replaces the file anyway, but may fail, and appends may
        // follow.
        EVAC_TRY(file.truncate(bytes->size() - journal.opened_.torn_bytes));
    }
    EVAC_TRY(journal.compact());
    return journal;
}

Status Journal::load(ByteSpan bytes) {
    size_t at = 0;
    while (at < bytes.size()) {
        const Frame frame = read_frame(bytes.subspan(at));
        if (frame.size == 0 || frame.seq != seq_ + 1 || frame.synced >= frame.seq) {
            // The first record is written by an atomic replace and cannot be torn.
            if (seq_ == 0 || !tail_is_torn(bytes.subspan(at), seq_ + 1)) {
                return make_error(Errc::corrupt,
                                  "journal: record " + std::to_string(seq_ + 1) + " at byte " +
                                      std::to_string(at) +
                                      " is damaged; restore the file from a copy, or move it "
                                      "away after making sure by hand where each VM runs");
            }
            opened_.torn_bytes = bytes.size() - at;
            return {};
        }
        const Status applied = apply(frame.body);
        if (!applied.ok()) {
            return make_error(Errc::corrupt, "journal: record " + std::to_string(frame.seq) +
                                                 " at byte " + std::to_string(at) + ": " +
                                                 applied.error().context);
        }
        seq_ = frame.seq;
        at += frame.size;
        ++opened_.records;
    }
    return {};
}

Status Journal::apply(ByteSpan body) {
    ByteReader r(body);
    const uint8_t type = r.u8();
    if ((seq_ == 0) != (type == kBegin))
        return make_error(Errc::corrupt, "does not start with `begin`");
    switch (type) {
        case kBegin: {
            const ByteSpan magic = r.take(kMagic.size());
            const uint8_t version = r.u8();
            if (!r.at_end() || as_text(magic) != kMagic)
                return make_error(Errc::corrupt, "no journal");
            if (version != kVersion) {
                return make_error(Errc::corrupt,
                                  "format " + std::to_string(version) + ", known is 1");
            }
            return {};
        }
        case kHandover: {
            const HandoverRecord record = read_handover(r);
            if (!r.at_end()) return make_error(Errc::corrupt, "malformed handover record");
            handovers_[{record.role, record.vm}] = record;
            return {};
        }
        case kForget: {
            const Role role = read_enum<Role>(r, 1, 2);
            const VmId vm{r.le32()};
            if (!r.at_end()) return make_error(Errc::corrupt, "malformed forget record");
            handovers_.erase({role, vm});
            return {};
        }
        case kEvacuation: {
            EvacuationRecord record = read_evacuation(r);
            if (!r.at_end()) return make_error(Errc::corrupt, "malformed evacuation record");
            evacuation_ = std::move(record);
            return {};
        }
        default:
            return make_error(Errc::corrupt, "unknown record type " + std::to_string(type));
    }
}

void Journal::frame(Bytes& out, ByteSpan body) {
    Bytes payload;
    ByteWriter p(payload);
    p.le64(++seq_);
    p.le64(synced_);
    p.put(body);
    ByteWriter w(out);
    w.le32(static_cast<uint32_t>(payload.size()));
    w.le32(frame_crc(payload));
    w.put(payload);
}

Status Journal::append_body(ByteSpan body, Durability durability) {
    if (failed_) {
        return make_error(Errc::io,
                          "journal: an earlier write failed; nothing is journaled until restart");
    }
    if (body.size() > kRecordBytesMax - kPayloadBytesMin) {
        return make_error(Errc::invalid_argument, "journal: record too long");
    }
    if (size_bytes_ > kJournalCompactBytes && size_bytes_ > 2 * compacted_bytes_)
        EVAC_TRY(compact());
    Bytes bytes;
    frame(bytes, body);
    Status status = file_->append(bytes);
    if (status.ok() && durability == Durability::durable) status = file_->sync();
    if (!status.ok()) {
        failed_ = true;
        return status;
    }
    size_bytes_ += bytes.size();
    if (durability == Durability::durable) synced_ = seq_;
    return apply(body);
}

Status Journal::append(const HandoverRecord& record, Durability durability) {
    return append_body(encode(record), durability);
}

Status Journal::append(const EvacuationRecord& record, Durability durability) {
    if (record.order.size() > kVmsMax) {
        return make_error(Errc::invalid_argument,
                          "journal: more than " + std::to_string(kVmsMax) + " VMs");
    }
    return append_body(encode(record), durability);
}

Status Journal::forget(Role role, VmId vm) {
    if (handovers_.find({role, vm}) == handovers_.end()) return {};
    Bytes body;
    ByteWriter w(body);
    w.u8(kForget);
    w.u8(static_cast<uint8_t>(role));
    w.le32(raw(vm));
    return append_body(body, Durability::durable);
}

Status Journal::compact() {
    seq_ = 0;
    synced_ = 0;
    Bytes bytes;
    frame(bytes, begin_body());
    for (const auto& [key, record] : handovers_) frame(bytes, encode(record));
    if (evacuation_ != EvacuationRecord{}) frame(bytes, encode(evacuation_));
    const Status status = file_->replace(bytes);
    if (!status.ok()) {
        failed_ = true;
        return status;
    }
    synced_ = seq_;
    size_bytes_ = compacted_bytes_ = bytes.size();
    return {};
}

const HandoverRecord* Journal::find(Role role, VmId vm) const {
    const auto it = handovers_.find({role, vm});
    return it == handovers_.end() ? nullptr : &it->second;
}

std::vector<HandoverRecord> Journal::all(Role role) const {
    std::vector<HandoverRecord> records;
    for (const auto& [key, record] : handovers_) {
        if (key.first == role) records.push_back(record);
    }
    return records;
}

}  // namespace evac::evacuation
