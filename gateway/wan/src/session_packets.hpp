#pragma once
// Small facts about packets that the parts of a session share.
#include <algorithm>

#include "packet.hpp"
#include "recovery.hpp"

namespace evac::wan {

inline constexpr uint64_t kControlExtraBytes = 32 * 1024;  // control may exceed the window by this
inline constexpr uint64_t kControlDebtNs = 5'000'000;      // and run ahead of the pacing by this

// The most urgent class in a packet with data.
inline Class urgency(const SentPacket& packet) {
    Class c = Class::bulk;
    for (size_t i = 0; i < packet.chunk_count; ++i) c = std::min(c, packet.chunks[i].c);
    return c;
}

inline bool is_urgent(const SentPacket& packet) {
    return packet.chunk_count > 0 && urgency(packet) <= Class::demand;
}

inline uint64_t wire_size(size_t datagram) {
    return datagram + kWireOverheadBytes;
}
inline size_t datagram_size(const SentPacket& packet) {
    return packet.wire_bytes - kWireOverheadBytes;
}
inline size_t payload_bytes(size_t datagram) {
    return datagram - kDataHeaderBytes - kTagBytes;
}

}  // namespace evac::wan
