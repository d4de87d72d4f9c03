// The head of a catalogue's file: any bytes give a header or an error, and a header is written
// again as it was read.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "catalogue_format.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace evac;
    using namespace evac::prestage;
    const ByteSpan bytes(reinterpret_cast<const std::byte*>(data), size);
    ByteReader reader(bytes);
    std::array<uint64_t, kStateWords> words{};
    for (uint64_t& word : words) word = reader.le64();
    static_cast<void>(plausible_state(words));
    // A fuzzer does not find checksums: a right one behind the input lets the rest be tried.
    Bytes summed(bytes.begin(), bytes.end());
    append_checksum(summed);
    for (const ByteSpan input : {bytes, ByteSpan(summed)}) {
        const auto header = decode_catalogue_header(input);
        if (!header.ok()) continue;
        const auto written = encode_catalogue_header(*header);
        if (!written.ok() || written->size() > input.size()) std::abort();
        const auto again = decode_catalogue_header(*written);
        if (!again.ok() || !(*again == *header)) std::abort();
        if (catalogue_layout(header->regions).bytes < kDataOffset) std::abort();
    }
    return 0;
}
