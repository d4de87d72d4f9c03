#include "evac/evacuation/handover_message.hpp"

#include <string_view>

namespace evac::evacuation {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kMessageTextMax = 256;
constexpr uint8_t kReasonMax = static_cast<uint8_t>(AbortReason::conflict);

bool known(uint8_t kind) {
    return (kind >= static_cast<uint8_t>(MessageKind::prepare) &&
            kind <= static_cast<uint8_t>(MessageKind::released)) ||
           (kind >= static_cast<uint8_t>(MessageKind::prepared) &&
            kind <= static_cast<uint8_t>(MessageKind::lost));
}

bool read_bool(ByteReader& r) {
    const uint8_t value = r.u8();
    if (value > 1) r.fail();
    return value == 1;
}

AbortReason read_reason(ByteReader& r) {
    const uint8_t value = r.u8();
    if (value > kReasonMax) r.fail();
    return static_cast<AbortReason>(value);
}

void read_body(ByteReader& r, Message& m) {
    switch (m.kind) {
        case MessageKind::prepare: {
            const uint8_t policy = r.u8();
            if (policy != 1 && policy != 2) r.fail();
            m.policy = static_cast<Policy>(policy);
            m.hold = read_bool(r);
            m.silence_ms = r.le32();
            return;
        }
        case MessageKind::commit:
            m.hold = read_bool(r);
            return;
        case MessageKind::abort:
            m.reason = read_reason(r);
            return;
        case MessageKind::aborted:
            m.reason = read_reason(r);
            m.floor = HandoverId{r.le64()};
            m.text = r.text_sized(kMessageTextMax);
            return;
        case MessageKind::seal_failed:
        case MessageKind::lost:
            m.text = r.text_sized(kMessageTextMax);
            return;
        default:
            return;
    }
}

}  // namespace

Bytes encode(const Message& m) {
    Bytes out;
    ByteWriter w(out);
    const std::string_view text = std::string_view(m.text).substr(0, kMessageTextMax);
    w.u8(kVersion);
    w.u8(static_cast<uint8_t>(m.kind));
    w.le32(raw(m.vm));
    w.le64(raw(m.handover));
    w.le32(raw(m.epoch));
    switch (m.kind) {
        case MessageKind::prepare:
            w.u8(static_cast<uint8_t>(m.policy));
            w.u8(m.hold ? 1 : 0);
            w.le32(m.silence_ms);
            break;
        case MessageKind::commit:
            w.u8(m.hold ? 1 : 0);
            break;
        case MessageKind::abort:
            w.u8(static_cast<uint8_t>(m.reason));
            break;
        case MessageKind::aborted:
            w.u8(static_cast<uint8_t>(m.reason));
            w.le64(raw(m.floor));
            w.put_sized(text);
            break;
        case MessageKind::seal_failed:
        case MessageKind::lost:
            w.put_sized(text);
            break;
        default:
            break;
    }
    return out;
}

Result<Message> decode_message(ByteSpan bytes) {
    ByteReader r(bytes);
    Message m;
    const uint8_t version = r.u8();
    if (r.ok() && version != kVersion) {
        return make_error(Errc::corrupt, "handover message: version " + std::to_string(version) +
                                             ", this gateway speaks 1");
    }
    const uint8_t kind = r.u8();
    if (r.ok() && !known(kind)) {
        return make_error(Errc::corrupt, "handover message: unknown kind " + std::to_string(kind));
    }
    m.kind = static_cast<MessageKind>(kind);
    m.vm = VmId{r.le32()};
    m.handover = HandoverId{r.le64()};
    m.epoch = Epoch{r.le32()};
    if (r.ok()) read_body(r, m);
    if (!r.at_end()) {
        return make_error(Errc::corrupt, std::string("handover message ") + to_string(m.kind) +
                                             ": malformed, " + std::to_string(bytes.size()) +
                                             " bytes");
    }
    return m;
}

const char* to_string(Policy policy) {
    return policy == Policy::planned ? "planned" : "evacuation";
}

const char* to_string(MessageKind kind) {
    switch (kind) {
        case MessageKind::prepare:
            return "PREPARE";
        case MessageKind::sealing:
            return "SEALING";
        case MessageKind::commit:
            return "COMMIT";
        case MessageKind::abort:
            return "ABORT";
        case MessageKind::released:
            return "RELEASED";
        case MessageKind::prepared:
            return "PREPARED";
        case MessageKind::sealed:
            return "SEALED";
        case MessageKind::seal_failed:
            return "SEAL_FAILED";
        case MessageKind::not_sealed:
            return "NOT_SEALED";
        case MessageKind::committed:
            return "COMMITTED";
        case MessageKind::landed_paused:
            return "LANDED_PAUSED";
        case MessageKind::running:
            return "RUNNING";
        case MessageKind::aborted:
            return "ABORTED";
        case MessageKind::lost:
            return "LOST";
    }
    return "?";
}

const char* to_string(AbortReason reason) {
    switch (reason) {
        case AbortReason::none:
            return "none";
        case AbortReason::cancelled:
            return "cancelled";
        case AbortReason::drain_failed:
            return "the live work failed";
        case AbortReason::stop_failed:
            return "the guest could not be stopped";
        case AbortReason::capture_failed:
            return "the final capture failed";
        case AbortReason::seal_failed:
            return "away could not seal";
        case AbortReason::stopped_too_long:
            return "the guest stood still for too long";
        case AbortReason::away_silent:
            return "away is silent";
        case AbortReason::away_refused:
            return "away refused";
        case AbortReason::landing_failed:
            return "the landing failed, given back";
        case AbortReason::given_back:
            return "given back by an operator at away";
        case AbortReason::superseded:
            return "superseded";
        case AbortReason::forced:
            return "forced by an operator";
        case AbortReason::guest_gone:
            return "the guest is gone at home";
        case AbortReason::conflict:
            return "away says that it runs already";
    }
    return "?";
}

}  // namespace evac::evacuation
