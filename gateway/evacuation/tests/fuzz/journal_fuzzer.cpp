// A journal file of any content: never crashes; if it opens, it opens again with the same states,
// and the state machines built from it survive a restart and some ticks. A first byte of 1 means
// that the rest is records without their frames, so that the fuzzer gets past the checksums.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "evac/evacuation/away_desk.hpp"
#include "evac/evacuation/coordinator.hpp"
#include "evac/evacuation/journal.hpp"

namespace {

using namespace evac;
using namespace evac::evacuation;

uint32_t crc32c(ByteSpan bytes) {
    uint32_t c = ~0U;
    for (const std::byte b : bytes) {
        c ^= std::to_integer<uint32_t>(b);
        for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? (c >> 1) ^ 0x82f63b78U : c >> 1;
    }
    return ~c;
}

// body* with u8 length each -> framed records with right sequence numbers and checksums
Bytes framed(ByteSpan input) {
    Bytes out;
    uint64_t seq = 0;
    while (!input.empty()) {
        const size_t size = std::min<size_t>(std::to_integer<size_t>(input[0]), input.size() - 1);
        Bytes record;
        ByteWriter w(record);
        w.le32(static_cast<uint32_t>(16 + size));
        w.le64(++seq);
        w.le64(seq - 1);
        w.put(input.subspan(1, size));
        ByteWriter o(out);
        const uint32_t crc = crc32c(record);
        o.put(ByteSpan(record).first(4));
        o.le32(crc);
        o.put(ByteSpan(record).subspan(4));
        input = input.subspan(1 + size);
    }
    return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size > 64 * 1024) return 0;
    const ByteSpan input(reinterpret_cast<const std::byte*>(data), size);
    MemoryJournalFile file;
    if (size > 0 && data[0] == 1) {
        file.content() = framed(input.subspan(1));
    } else {
        file.content().assign(input.begin(), input.end());
    }
    Result<Journal> journal = Journal::open(file);
    if (!journal.ok()) return 0;
    Result<Journal> again = Journal::open(file);
    if (!again.ok() || again->opened().torn_bytes != 0) std::abort();
    for (const Role role : {Role::home, Role::away}) {
        if (again->all(role) != journal->all(role)) std::abort();
    }
    if (again->evacuation() != journal->evacuation()) std::abort();

    Now now{1'000'000'000, 1'700'000'000'000};
    Coordinator home(*again, CoordinatorOptions{}, now);
    AwayDesk away(*again, now);
    if (!home.restart(now).ok() || !away.restart(now).ok()) std::abort();
    for (int i = 0; i < 4; ++i) {
        now.ns += 1'500'000'000;
        now.unix_ms += 1'500;
        if (!home.tick(now).ok() || !home.advance(0, now).ok() || !away.tick(now).ok())
            std::abort();
    }
    static_cast<void>(home.progress(now));
    return 0;
}
