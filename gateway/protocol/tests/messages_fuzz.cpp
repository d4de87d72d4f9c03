#include <cstdlib>

#include "evac/protocol/device_state.hpp"
#include "evac/protocol/messages.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const evac::ByteSpan bytes(reinterpret_cast<const std::byte*>(data), size);
    const auto message = evac::protocol::decode(bytes);
    if (message.ok()) {
        // What was understood is said again in the same way, padding bits of a bitmap apart.
        const auto again = evac::protocol::decode(evac::protocol::encode(*message));
        if (!again.ok() || again->index() != message->index()) std::abort();
    }
    static_cast<void>(evac::protocol::unpack_device_state(bytes).ok());
    return 0;
}
