#pragma once
// Writes small migration streams as QEMU 7.2 does (checked against a real one by
// prestage_round_qemu_test).
#include <string>
#include <utility>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/units.hpp"
#include "evac/prestage/stream_parser.hpp"

namespace evac::prestage::test {

inline constexpr uint32_t kRamSection = 2;

class StreamBuilder {
  public:
    StreamBuilder& header(std::string_view machine = "pc-q35-7.2") {
        w().be32(0x5145564d);
        w().be32(3);
        w().u8(7);
        w().be32(static_cast<uint32_t>(machine.size()));
        w().put(machine);
        return *this;
    }
    StreamBuilder& subsection(std::string_view name, uint32_t version, ByteSpan body) {
        w().u8(5);
        text(name);
        w().be32(version);
        w().put(body);
        return *this;
    }
    // As x-ignore-shared has it: ignore_shared() before, with_addresses here.
    StreamBuilder& ignore_shared(std::string_view capability = "x-ignore-shared") {
        Bytes body;
        ByteWriter writer(body);
        writer.be32(1);
        writer.u8(static_cast<uint8_t>(capability.size()));
        writer.put(capability);
        return subsection("configuration/capabilities", 1, body);
    }
    StreamBuilder& ram_start(const std::vector<RamBlock>& blocks, std::string_view id = "ram",
                             uint32_t version = 4, bool with_addresses = false) {
        w().u8(1);
        w().be32(kRamSection);
        text(id);
        w().be32(0);
        w().be32(version);
        uint64_t total = 0;
        for (const RamBlock& block : blocks) total += block.size_bytes;
        w().be64(total | 4);
        for (const RamBlock& block : blocks) {
            text(block.name);
            w().be64(block.size_bytes);
            if (with_addresses) w().be64(0xfd000000);
        }
        return eos();
    }
    StreamBuilder& part() { return section(2); }
    StreamBuilder& end() { return section(3); }
    StreamBuilder& section(uint8_t type, uint32_t id = kRamSection) {
        w().u8(type);
        w().be32(id);
        return *this;
    }
    // An empty block name = continue.
    StreamBuilder& page(uint64_t address, std::string_view block, std::byte fill) {
        w().be64(address | 8 | (block.empty() ? 0x20 : 0));
        if (!block.empty()) text(block);
        out_.insert(out_.end(), kPageBytes, fill);
        return *this;
    }
    StreamBuilder& zero(uint64_t address, std::string_view block, uint8_t fill = 0) {
        w().be64(address | 2 | (block.empty() ? 0x20 : 0));
        if (!block.empty()) text(block);
        w().u8(fill);
        return *this;
    }
    StreamBuilder& word(uint64_t word) {
        w().be64(word);
        return *this;
    }
    StreamBuilder& eos() {
        w().be64(0x10);
        return footer();
    }
    StreamBuilder& footer(uint32_t id = kRamSection) {
        w().u8(0x7e);
        w().be32(id);
        return *this;
    }
    StreamBuilder& device(std::string_view name, std::string_view state) {
        w().u8(4);
        w().be32(9);
        text(name);
        w().be32(0);
        w().be32(1);
        w().put(state);
        return footer(9);
    }
    StreamBuilder& finish(std::string_view json = "{\"page_size\": 4096}") {
        w().u8(0);
        w().u8(6);
        w().be32(static_cast<uint32_t>(json.size()));
        w().put(json);
        return *this;
    }
    const Bytes& bytes() const { return out_; }
    Bytes take() { return std::move(out_); }
    void reserve(size_t bytes) { out_.reserve(bytes); }
    size_t size() const { return out_.size(); }

  private:
    void text(std::string_view value) {
        w().u8(static_cast<uint8_t>(value.size()));
        w().put(value);
    }
    Bytes out_;
    ByteWriter w() { return ByteWriter(out_); }
};

inline std::vector<RamBlock> small_blocks() {
    return {{"pc.ram", 16 * kPageBytes}, {"vga.vram", 2 * kPageBytes}};
}

// A complete stream: four pages; `with_end` as a plain migration writes it, without as a background
// snapshot does.
inline Bytes small_stream(bool with_end) {
    StreamBuilder b;
    b.header().ram_start(small_blocks());
    b.part().page(0x1000, "pc.ram", std::byte{0x11}).zero(0x2000, "").eos();
    if (with_end) {
        b.end();
    } else {
        b.part();
    }
    b.page(0x1000, "vga.vram", std::byte{0x22}).zero(0xf000, "pc.ram", 0xff).eos();
    b.device("timer", std::string("abc\0\x06\0\0\0\x02{}", 11)).finish();
    return b.bytes();
}

}  // namespace evac::prestage::test
