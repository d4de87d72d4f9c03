// The whole input is a migration stream; its last byte also decides how it is cut into chunks.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "evac/prestage/stream_parser.hpp"

namespace {

class Checker final : public evac::prestage::StreamSink {
  public:
    evac::Status ram_blocks(std::span<const evac::prestage::RamBlock> blocks) override {
        if (blocks.empty() || blocks.size() > evac::kRegionsMax) std::abort();
        blocks_.assign(blocks.begin(), blocks.end());
        return {};
    }
    void page(uint16_t block, uint64_t page, evac::ByteSpan bytes) override {
        if (bytes.size() != evac::kPageBytes) std::abort();
        for (const std::byte b : bytes) sum_ += std::to_integer<uint64_t>(b);
        check(block, page);
    }
    void zero_page(uint16_t block, uint64_t page, uint8_t fill) override {
        sum_ += fill;
        check(block, page);
    }
    uint64_t sum() const { return sum_; }

  private:
    void check(uint16_t block, uint64_t page) {
        if (block >= blocks_.size() || page * evac::kPageBytes >= blocks_[block].size_bytes)
            std::abort();
        sum_ = sum_ * 31 + page;
    }
    std::vector<evac::prestage::RamBlock> blocks_;
    uint64_t sum_ = 0;
};

struct Outcome {
    uint64_t sum;
    bool ok;
};

// What a landing would send of a stream (with no page) is a stream again, of the same blocks and
// without any capability, whatever the captured one had.
void check_lands(const evac::prestage::DeviceState& state) {
    evac::Bytes again = state.prefix;
    evac::ByteWriter writer(again);
    writer.u8(3);
    writer.be32(state.ram_section_id);
    writer.be64(0x10);
    writer.u8(0x7e);
    writer.be32(state.ram_section_id);
    writer.put(state.tail);
    writer.u8(6);
    writer.be32(2);
    writer.put(std::string_view("{}"));
    Checker sink;
    evac::prestage::StreamParser parser(sink);
    if (!parser.push(again).ok()) std::abort();
    const auto landed = parser.finish();
    if (!landed.ok() || landed->shared_left_out || landed->blocks != state.blocks ||
        landed->prefix != state.prefix || landed->tail != state.tail)
        std::abort();
}

Outcome parse(evac::ByteSpan stream, size_t chunk) {
    Checker sink;
    evac::prestage::StreamParser parser(sink, 64 * 1024);
    for (size_t at = 0; at < stream.size(); at += chunk) {
        if (!parser.push(stream.subspan(at, std::min(chunk, stream.size() - at))).ok()) break;
    }
    const auto state = parser.finish();
    if (state.ok() && (state->machine.empty() || state->prefix.empty() || state->tail.empty()))
        std::abort();
    if (state.ok()) check_lands(*state);
    return {sink.sum(), state.ok()};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const evac::ByteSpan stream{reinterpret_cast<const std::byte*>(data), size};
    const Outcome whole = parse(stream, SIZE_MAX / 2);
    const Outcome cut = parse(stream, 1 + (size > 0 ? data[size - 1] : 0));
    if (whole.sum != cut.sum || whole.ok != cut.ok) std::abort();  // chunking must not matter
    return 0;
}
