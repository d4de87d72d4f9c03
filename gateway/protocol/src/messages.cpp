#include "evac/protocol/messages.hpp"

#include "evac/core/assert.hpp"

namespace evac::protocol {
namespace {

enum class Kind : uint8_t {
    hello = 0x01,
    enrol,
    enrol_result,
    fingerprints_request,
    fingerprints,
    batch_ack,
    nak,
    seal,
    seal_result,
    handover,
    forget,
    heartbeat,
    batch,
    echo,
    ballast,
};

template <class... F>
struct Overloaded : F... {
    using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

void put_kind(ByteWriter& w, Kind kind) {
    w.u8(static_cast<uint8_t>(kind));
}
void put_vm(ByteWriter& w, VmId vm) {
    w.le32(raw(vm));
}

void put_fingerprints_request(ByteWriter& w, const FingerprintsRequest& m) {
    EVAC_ASSERT(m.ranges.size() <= kRangesMax);
    put_vm(w, m.vm);
    w.le32(m.request_id);
    w.le64(m.after_batches);
    w.le64(m.copy_id);
    w.le16(static_cast<uint16_t>(m.ranges.size()));
    for (const FingerprintRange& range : m.ranges) {
        w.le16(raw(range.region));
        w.le64(range.first_page);
        w.le32(range.pages);
    }
}

void put_fingerprints(ByteWriter& w, const Fingerprints& m) {
    EVAC_ASSERT(m.zero.size() == m.values.size() && m.values.size() <= kFingerprintsMax);
    put_vm(w, m.vm);
    w.le32(m.request_id);
    w.le64(m.copy_id);
    w.le16(raw(m.region));
    w.le64(m.first_page);
    w.le32(static_cast<uint32_t>(m.values.size()));
    w.u8(m.last ? 1 : 0);
    for (size_t i = 0; i < m.zero.size(); i += 8) {
        unsigned bits = 0;
        for (size_t j = i; j < i + 8 && j < m.zero.size(); ++j)
            bits |= m.zero[j] ? 1U << (j - i) : 0U;
        w.u8(static_cast<uint8_t>(bits));
    }
    for (size_t i = 0; i < m.values.size(); ++i) {
        if (m.zero[i]) continue;
        w.le64(m.values[i].low);
        w.le64(m.values[i].high);
    }
}

bool get_flag(ByteReader& r) {
    const uint8_t value = r.u8();
    if (value > 1) r.fail();
    return value == 1;
}

VmId get_vm(ByteReader& r) {
    return VmId{r.le32()};
}

RegionId get_region(ByteReader& r) {
    const uint16_t region = r.le16();
    if (region >= kRegionsMax) r.fail();
    return RegionId{region};
}

Bytes get_rest(ByteReader& r) {
    const ByteSpan rest = r.take(r.remaining());
    return {rest.begin(), rest.end()};
}

Hello get_hello(ByteReader& r) {
    Hello m;
    m.version = r.le16();
    m.site = r.text_sized(kNameBytesMax);
    m.boot_id = r.le64();
    m.wall_unix_ms = static_cast<int64_t>(r.le64());
    return m;
}

Enrol get_enrol(ByteReader& r) {
    Enrol m;
    m.vm = get_vm(r);
    m.name = r.text_sized(kNameBytesMax);
    m.uuid = r.text_sized(kNameBytesMax);
    const uint16_t regions = r.le16();
    if (regions > kRegionsMax) r.fail();
    for (uint16_t i = 0; r.ok() && i < regions; ++i) {
        RegionSpec region;
        const uint8_t kind = r.u8();
        if (kind > static_cast<uint8_t>(RegionKind::disk)) r.fail();
        region.kind = static_cast<RegionKind>(kind);
        region.bytes = r.le64();
        region.name = r.text_sized(kNameBytesMax);
        m.regions.push_back(std::move(region));
    }
    m.facts = r.text_sized(kFactsBytesMax);
    const uint16_t arguments = r.le16();
    if (arguments > kArgumentsMax) r.fail();
    for (uint16_t i = 0; r.ok() && i < arguments; ++i)
        m.argv.push_back(r.text_sized(kArgumentBytesMax));
    m.last_epoch = Epoch{r.le32()};
    return m;
}

EnrolResult get_enrol_result(ByteReader& r) {
    EnrolResult m;
    m.vm = get_vm(r);
    m.ok = get_flag(r);
    m.reason = r.text_sized(kReasonBytesMax);
    m.sealed = Epoch{r.le32()};
    m.newest = Epoch{r.le32()};
    m.point_unix_ms = static_cast<int64_t>(r.le64());
    return m;
}

FingerprintsRequest get_fingerprints_request(ByteReader& r) {
    FingerprintsRequest m;
    m.vm = get_vm(r);
    m.request_id = r.le32();
    m.after_batches = r.le64();
    m.copy_id = r.le64();
    const uint16_t count = r.le16();
    if (count > kRangesMax) r.fail();
    for (uint16_t i = 0; r.ok() && i < count; ++i) {
        FingerprintRange range;
        range.region = get_region(r);
        range.first_page = r.le64();
        range.pages = r.le32();
        if (range.pages == 0) r.fail();
        m.ranges.push_back(range);
    }
    return m;
}

Fingerprints get_fingerprints(ByteReader& r) {
    Fingerprints m;
    m.vm = get_vm(r);
    m.request_id = r.le32();
    m.copy_id = r.le64();
    m.region = get_region(r);
    m.first_page = r.le64();
    const uint32_t count = r.le32();
    m.last = get_flag(r);
    if (count > kFingerprintsMax) r.fail();
    const ByteSpan bits = r.take((size_t{count} + 7) / 8);
    if (!r.ok()) return m;
    m.zero.resize(count);
    m.values.resize(count);
    for (uint32_t i = 0; i < count; ++i) {
        m.zero[i] = (std::to_integer<unsigned>(bits[i / 8]) >> (i % 8) & 1U) != 0;
        if (m.zero[i]) continue;
        m.values[i].low = r.le64();
        m.values[i].high = r.le64();
    }
    return m;
}

BatchAck get_batch_ack(ByteReader& r) {
    BatchAck m;
    m.vm = get_vm(r);
    const uint16_t count = r.le16();
    if (count > kAcksMax) r.fail();
    for (uint16_t i = 0; r.ok() && i < count; ++i) m.sequences.push_back(r.le64());
    return m;
}

Nak get_nak(ByteReader& r) {
    Nak m;
    m.vm = get_vm(r);
    m.sequence = r.le64();
    const uint16_t count = r.le16();
    if (count > kNaksMax) r.fail();
    for (uint16_t i = 0; r.ok() && i < count; ++i) {
        NakPage page;
        page.region = get_region(r);
        page.page = r.le64();
        page.epoch = Epoch{r.le32()};
        m.pages.push_back(page);
    }
    return m;
}

Seal get_seal(ByteReader& r) {
    Seal m;
    m.vm = get_vm(r);
    m.epoch = Epoch{r.le32()};
    m.batches = r.le64();
    m.handover = r.le64();
    m.point_unix_ms = static_cast<int64_t>(r.le64());
    const ByteSpan state = r.take_sized(kDeviceStateBytesMax);
    m.device_state.assign(state.begin(), state.end());
    return m;
}

SealResult get_seal_result(ByteReader& r) {
    SealResult m;
    m.vm = get_vm(r);
    m.epoch = Epoch{r.le32()};
    m.ok = get_flag(r);
    m.reason = r.text_sized(kReasonBytesMax);
    m.apply_ns = r.le64();
    return m;
}

Heartbeat get_heartbeat(ByteReader& r) {
    Heartbeat m;
    m.wall_unix_ms = static_cast<int64_t>(r.le64());
    m.armed = get_flag(r);
    return m;
}

Echo get_echo(ByteReader& r) {
    Echo m;
    m.nonce = r.le64();
    m.reply = get_flag(r);
    m.filler = get_rest(r);
    if (m.filler.size() > kEchoFillerMax) r.fail();
    return m;
}

}  // namespace

Bytes encode(const Message& message) {
    Bytes out;
    ByteWriter w(out);
    std::visit(Overloaded{
                   [&](const Hello& m) {
                       put_kind(w, Kind::hello);
                       w.le16(m.version);
                       w.put_sized(m.site);
                       w.le64(m.boot_id);
                       w.le64(static_cast<uint64_t>(m.wall_unix_ms));
                   },
                   [&](const Enrol& m) {
                       put_kind(w, Kind::enrol);
                       put_vm(w, m.vm);
                       w.put_sized(m.name);
                       w.put_sized(m.uuid);
                       w.le16(static_cast<uint16_t>(m.regions.size()));
                       for (const auto& region : m.regions) {
                           w.u8(static_cast<uint8_t>(region.kind));
                           w.le64(region.bytes);
                           w.put_sized(region.name);
                       }
                       w.put_sized(m.facts);
                       w.le16(static_cast<uint16_t>(m.argv.size()));
                       for (const auto& argument : m.argv) w.put_sized(argument);
                       w.le32(raw(m.last_epoch));
                   },
                   [&](const EnrolResult& m) {
                       put_kind(w, Kind::enrol_result);
                       put_vm(w, m.vm);
                       w.u8(m.ok ? 1 : 0);
                       w.put_sized(std::string_view(m.reason).substr(0, kReasonBytesMax));
                       w.le32(raw(m.sealed));
                       w.le32(raw(m.newest));
                       w.le64(static_cast<uint64_t>(m.point_unix_ms));
                   },
                   [&](const FingerprintsRequest& m) {
                       put_kind(w, Kind::fingerprints_request);
                       put_fingerprints_request(w, m);
                   },
                   [&](const Fingerprints& m) {
                       put_kind(w, Kind::fingerprints);
                       put_fingerprints(w, m);
                   },
                   [&](const BatchAck& m) {
                       EVAC_ASSERT(m.sequences.size() <= kAcksMax);
                       put_kind(w, Kind::batch_ack);
                       put_vm(w, m.vm);
                       w.le16(static_cast<uint16_t>(m.sequences.size()));
                       for (const uint64_t sequence : m.sequences) w.le64(sequence);
                   },
                   [&](const Nak& m) {
                       EVAC_ASSERT(m.pages.size() <= kNaksMax);
                       put_kind(w, Kind::nak);
                       put_vm(w, m.vm);
                       w.le64(m.sequence);
                       w.le16(static_cast<uint16_t>(m.pages.size()));
                       for (const auto& page : m.pages) {
                           w.le16(raw(page.region));
                           w.le64(page.page);
                           w.le32(raw(page.epoch));
                       }
                   },
                   [&](const Seal& m) {
                       put_kind(w, Kind::seal);
                       put_vm(w, m.vm);
                       w.le32(raw(m.epoch));
                       w.le64(m.batches);
                       w.le64(m.handover);
                       w.le64(static_cast<uint64_t>(m.point_unix_ms));
                       w.put_sized(ByteSpan(m.device_state));
                   },
                   [&](const SealResult& m) {
                       put_kind(w, Kind::seal_result);
                       put_vm(w, m.vm);
                       w.le32(raw(m.epoch));
                       w.u8(m.ok ? 1 : 0);
                       w.put_sized(std::string_view(m.reason).substr(0, kReasonBytesMax));
                       w.le64(m.apply_ns);
                   },
                   [&](const Handover& m) {
                       put_kind(w, Kind::handover);
                       w.put(m.payload);
                   },
                   [&](const Forget& m) {
                       put_kind(w, Kind::forget);
                       put_vm(w, m.vm);
                   },
                   [&](const Heartbeat& m) {
                       put_kind(w, Kind::heartbeat);
                       w.le64(static_cast<uint64_t>(m.wall_unix_ms));
                       w.u8(m.armed ? 1 : 0);
                   },
                   [&](const Batch& m) {
                       put_kind(w, Kind::batch);
                       w.put(m.payload);
                   },
                   [&](const Echo& m) {
                       put_kind(w, Kind::echo);
                       w.le64(m.nonce);
                       w.u8(m.reply ? 1 : 0);
                       w.put(m.filler);
                   },
                   [&](const Ballast& m) {
                       put_kind(w, Kind::ballast);
                       w.put(m.filler);
                   },
               },
               message);
    return out;
}

void encode_batch(Bytes& message) {
    EVAC_ASSERT(message.size() >= kBatchHeadroomBytes);
    message[0] = static_cast<std::byte>(Kind::batch);
}

Result<Message> decode(ByteSpan bytes) {
    if (bytes.size() > kMessageBytesMax)
        return make_error(Errc::corrupt, "peer's message: too long");
    ByteReader r(bytes);
    const uint8_t kind = r.u8();
    if (!r.ok()) return make_error(Errc::corrupt, "peer's message: empty");
    Message message;
    switch (static_cast<Kind>(kind)) {
        case Kind::hello:
            message = get_hello(r);
            break;
        case Kind::enrol:
            message = get_enrol(r);
            break;
        case Kind::enrol_result:
            message = get_enrol_result(r);
            break;
        case Kind::fingerprints_request:
            message = get_fingerprints_request(r);
            break;
        case Kind::fingerprints:
            message = get_fingerprints(r);
            break;
        case Kind::batch_ack:
            message = get_batch_ack(r);
            break;
        case Kind::nak:
            message = get_nak(r);
            break;
        case Kind::seal:
            message = get_seal(r);
            break;
        case Kind::seal_result:
            message = get_seal_result(r);
            break;
        case Kind::handover:
            message = Handover{get_rest(r)};
            break;
        case Kind::forget:
            message = Forget{get_vm(r)};
            break;
        case Kind::heartbeat:
            message = get_heartbeat(r);
            break;
        case Kind::batch:
            message = Batch{get_rest(r)};
            break;
        case Kind::echo:
            message = get_echo(r);
            break;
        case Kind::ballast:
            message = Ballast{get_rest(r)};
            break;
        default:
            return make_error(Errc::corrupt,
                              "peer's message: unknown kind " + std::to_string(kind));
    }
    if (!r.at_end()) {
        return make_error(Errc::corrupt, std::string("peer's message ") + name_of(message) + ": " +
                                             (r.ok() ? "bytes after its end"
                                                     : "truncated or a field out of range"));
    }
    return message;
}

const char* name_of(const Message& message) {
    static constexpr const char* kNames[] = {
        "HELLO",        "ENROL",     "ENROL_RESULT", "FINGERPRINTS_REQUEST",
        "FINGERPRINTS", "BATCH_ACK", "NAK",          "SEAL",
        "SEAL_RESULT",  "HANDOVER",  "FORGET",       "HEARTBEAT",
        "BATCH",        "ECHO",      "BALLAST"};
    return kNames[message.index()];
}

}  // namespace evac::protocol
