// Handover messages from the peer: never crashes, and what decodes is canonical.
#include <cstdint>
#include <cstdlib>

#include "evac/evacuation/handover_message.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace evac;
    const ByteSpan bytes(reinterpret_cast<const std::byte*>(data), size);
    const Result<evacuation::Message> message = evacuation::decode_message(bytes);
    if (message.ok()) {
        const Bytes again = evacuation::encode(*message);
        if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
    }
    return 0;
}
