// What an authenticated peer may put into a packet: the frame parser and a live session behind it.
// Input: records of length(le16) payload.
#include <algorithm>
#include <cstdint>

#include "evac/core/assert.hpp"
#include "evac/core/units.hpp"
#include "session.hpp"

using namespace evac;
using namespace evac::wan;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    EndpointConfig config;
    for (ClassLimits& limits : config.classes) limits = {512 * 1024, 512 * 1024};
    SessionSecrets secrets;
    secrets.id = 1;
    uint64_t now_ns = kNsPerSecond;
    Session session(config, secrets, 100'000'000, now_ns);
    for (size_t i = 0; i < kClasses; ++i) session.push(static_cast<Class>(i), Bytes(5000));
    std::array<std::byte, 2000> buffer;
    const auto transmit = [&] {
        for (int i = 0; i < 50; ++i) {
            const size_t n = session.transmit(now_ns, buffer);
            EVAC_ASSERT(n <= config.datagram_bytes_max);
            if (n == 0) return;
        }
    };
    transmit();

    ByteReader reader({reinterpret_cast<const std::byte*>(data), size});
    uint64_t number = 0;
    while (reader.remaining() > 0 && number < 200) {
        const ByteSpan payload = reader.take(std::min<size_t>(reader.le16(), reader.remaining()));
        now_ns += kNsPerMs;
        session.receive_payload(now_ns, number++, payload);
        session.tick(now_ns);
        transmit();
        EVAC_ASSERT(session.datagram_bytes() >= kDatagramBytesMin &&
                    session.datagram_bytes() <= config.datagram_bytes_max);
        if (number % 16 == 0) session.on_path_change(now_ns, number % 32 == 0);
        if (number % 8 == 0) session.transmit_path_frame(now_ns, buffer, kFramePathResponse, 1);
        for (size_t i = 0; i < kClasses; ++i) {
            const auto c = static_cast<Class>(i);
            EVAC_ASSERT(session.receiving(c).held_bytes() <= config.classes[i].receive_bytes_max);
            if (number % 3 != 0) continue;
            while (auto message = session.take(c))
                EVAC_ASSERT(!message->empty() && message->size() <= kMessageBytesMax);
        }
    }
    // It still runs: timers come, and nothing is due for ever at one instant.
    for (int i = 0; i < 20; ++i) {
        now_ns = std::max(now_ns + 1, std::min(session.next_timeout_ns(), now_ns + kNsPerSecond));
        session.tick(now_ns);
        transmit();
    }
    return 0;
}
