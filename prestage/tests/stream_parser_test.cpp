#include "evac/prestage/stream_parser.hpp"

#include <gtest/gtest.h>

#include "evac/core/random.hpp"
#include "stream_builder.hpp"

namespace evac::prestage::test {
namespace {

// Writes down what it is told.
class Recorder final : public StreamSink {
  public:
    Status ram_blocks(std::span<const RamBlock> blocks) override {
        for (const RamBlock& block : blocks)
            text += block.name + ":" + std::to_string(block.size_bytes) + " ";
        return answer;
    }
    void page(uint16_t block, uint64_t page, ByteSpan bytes) override {
        uint64_t sum = 0;
        for (const std::byte b : bytes) sum += std::to_integer<uint64_t>(b);
        text += "P" + std::to_string(block) + "/" + std::to_string(page) + "=" +
                std::to_string(sum) + " ";
    }
    void zero_page(uint16_t block, uint64_t page, uint8_t fill) override {
        text += "Z" + std::to_string(block) + "/" + std::to_string(page) + "=" +
                std::to_string(fill) + " ";
    }
    std::string text;
    Status answer;
};

struct Outcome {
    std::string text;
    Result<DeviceState> state = make_error(Errc::internal, "");
};

Outcome parse(ByteSpan stream, size_t chunk = SIZE_MAX, size_t tail_max = kTailBytesMax) {
    Recorder sink;
    StreamParser parser(sink, tail_max);
    Outcome out;
    for (size_t at = 0; at < stream.size();) {
        const size_t n = std::min(chunk, stream.size() - at);
        const Status pushed = parser.push(stream.subspan(at, n));
        if (!pushed.ok()) {
            EXPECT_EQ(parser.push(stream.first(1)).error().context, pushed.error().context);
            break;
        }
        at += n;
    }
    out.state = parser.finish();
    out.text = sink.text;
    return out;
}

void expect_error(const StreamBuilder& b, Errc code, const std::string& part) {
    for (const size_t chunk : {SIZE_MAX, size_t{1}}) {
        const Outcome out = parse(b.bytes(), chunk);
        ASSERT_FALSE(out.state.ok()) << part;
        EXPECT_EQ(out.state.error().code, code) << out.state.error().message();
        EXPECT_NE(out.state.error().context.find(part), std::string::npos)
            << out.state.error().message();
    }
}

StreamBuilder begun() {
    StreamBuilder b;
    b.header().ram_start(small_blocks());
    return b;
}

TEST(StreamParser, GoldenPlainAndBackgroundSnapshot) {
    for (const bool with_end : {true, false}) {
        const Bytes stream = small_stream(with_end);
        const Outcome out = parse(stream);
        ASSERT_TRUE(out.state.ok()) << out.state.error().message();
        EXPECT_EQ(out.text, "pc.ram:65536 vga.vram:8192 P0/1=69632 Z0/2=0 P1/1=139264 Z0/15=255 ");
        EXPECT_EQ(out.state->machine, "pc-q35-7.2");
        EXPECT_EQ(out.state->blocks, small_blocks());
        EXPECT_EQ(out.state->ram_section_id, kRamSection);
        const std::string prefix(as_text(out.state->prefix));
        EXPECT_EQ(prefix, std::string("QEVM\0\0\0\3\7\0\0\0\x0apc-q35-7.2"
                                      "\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4"
                                      "\0\0\0\0\0\1\x20\4\6pc.ram\0\0\0\0\0\1\0\0"
                                      "\x08vga.vram\0\0\0\0\0\0\x20\0"
                                      "\0\0\0\0\0\0\0\x10\x7e\0\0\0\2",
                                      93));
        const std::string tail(as_text(out.state->tail));
        EXPECT_EQ(tail,
                  std::string(
                      "\4\0\0\0\x09\5timer\0\0\0\0\0\0\0\1abc\0\6\0\0\0\2{}\x7e\0\0\0\x09\0", 36));
    }
}

TEST(StreamParser, ChunkingDoesNotMatter) {
    const Bytes stream = small_stream(true);
    const Outcome whole = parse(stream);
    for (const size_t chunk : {1, 2, 3, 7, 8, 9, 100, 4095, 4096, 4097, 4360}) {
        const Outcome out = parse(stream, chunk);
        ASSERT_TRUE(out.state.ok()) << chunk;
        EXPECT_EQ(out.text, whole.text);
        EXPECT_EQ(*out.state, *whole.state);
    }
    Random random(1);
    for (int i = 0; i < 200; ++i) {
        Recorder sink;
        StreamParser parser(sink);
        for (size_t at = 0; at < stream.size();) {
            const size_t n = std::min<size_t>(1 + random.below(random.chance(0.5) ? 20 : 6000),
                                              stream.size() - at);
            ASSERT_TRUE(parser.push(ByteSpan(stream).subspan(at, n)).ok());
            at += n;
        }
        const auto state = parser.finish();
        ASSERT_TRUE(state.ok());
        EXPECT_EQ(sink.text, whole.text);
        EXPECT_EQ(*state, *whole.state);
    }
}

TEST(StreamParser, PagesOfOneChunkAreNotCopied) {
    class Sink final : public StreamSink {
      public:
        Status ram_blocks(std::span<const RamBlock>) override { return {}; }
        void page(uint16_t, uint64_t, ByteSpan bytes) override { seen.push_back(bytes.data()); }
        void zero_page(uint16_t, uint64_t, uint8_t) override {}
        std::vector<const std::byte*> seen;
    } sink;
    const Bytes stream = small_stream(true);
    StreamParser parser(sink);
    ASSERT_TRUE(parser.push(stream).ok());
    ASSERT_EQ(sink.seen.size(), 2u);
    for (const std::byte* at : sink.seen)
        EXPECT_TRUE(at > stream.data() && at < stream.data() + stream.size());
}

TEST(StreamParser, EveryTruncationIsNoCheckpoint) {
    const Bytes stream = small_stream(false);
    for (size_t n = 0; n < stream.size(); ++n) {
        const Outcome out = parse(ByteSpan(stream).first(n));
        EXPECT_FALSE(out.state.ok()) << n;
    }
    Bytes longer = stream;
    longer.push_back(std::byte{'x'});
    EXPECT_FALSE(parse(longer).state.ok());
}

TEST(StreamParser, KnownSubsectionsAreTaken) {
    const std::array<std::byte, 4> bits{{{}, {}, {}, std::byte{12}}};
    const std::array<std::byte, 16> uuid{};
    StreamBuilder b;
    b.header()
        .subsection("configuration/target-page-bits", 1, bits)
        .subsection("configuration/uuid", 1, uuid);
    b.ram_start(small_blocks()).part().zero(0, "pc.ram").eos().device("d", "x").finish();
    EXPECT_TRUE(parse(b.bytes()).state.ok());
    EXPECT_TRUE(parse(b.bytes(), 1).state.ok());
}

// What is kept of it lands in a QEMU that knows nothing of the capability.
TEST(StreamParser, IgnoreSharedLeavesNoTraceInTheDeviceState) {
    const auto build = [](bool ignore_shared) {
        StreamBuilder b;
        b.header();
        if (ignore_shared) b.ignore_shared();
        b.ram_start(small_blocks(), "ram", 4, ignore_shared);
        b.part().page(0x1000, "vga.vram", std::byte{0x22}).eos().end().eos();
        return b.device("timer", "abc").finish().bytes();
    };
    const Outcome plain = parse(build(false));
    ASSERT_TRUE(plain.state.ok()) << plain.state.error().message();
    EXPECT_FALSE(plain.state->shared_left_out);
    const Bytes stream = build(true);
    for (const size_t chunk : {size_t{1}, size_t{3}, size_t{64}, stream.size()}) {
        const Outcome out = parse(stream, chunk);
        ASSERT_TRUE(out.state.ok()) << out.state.error().message();
        EXPECT_TRUE(out.state->shared_left_out);
        EXPECT_EQ(out.text, plain.text);
        EXPECT_EQ(out.state->prefix, plain.state->prefix);
        EXPECT_EQ(out.state->tail, plain.state->tail);
        EXPECT_EQ(out.state->blocks, plain.state->blocks);
    }
    for (size_t size = 0; size < stream.size(); ++size) {
        EXPECT_FALSE(parse(ByteSpan(stream).first(size)).state.ok()) << size;
    }
}

TEST(StreamParser, UnsupportedIsRefused) {
    const std::array<std::byte, 4> one{{{}, {}, {}, std::byte{1}}};
    const std::array<std::byte, 4> two{{{}, {}, {}, std::byte{2}}};
    StreamBuilder caps, compress, bits, other;
    expect_error(caps.header().subsection("configuration/capabilities", 1, two), Errc::refused,
                 "none or x-ignore-shared is accepted");
    expect_error(compress.header().ignore_shared("compress"), Errc::refused,
                 "capability 'compress'; none or x-ignore-shared is accepted");
    expect_error(bits.header().subsection("configuration/target-page-bits", 1, one), Errc::refused,
                 "2^1 bytes");
    expect_error(other.header().subsection("configuration/new", 1, one), Errc::refused,
                 "unknown configuration");
    expect_error(begun().part().word(0x1000 | 0x40), Errc::refused, "XBZRLE");
    expect_error(begun().part().word(0x1000 | 0x80), Errc::refused, "0x80");
    expect_error(begun().part().word(0x1000 | 0x100), Errc::refused, "compress");
    expect_error(begun().part().word(0x200), Errc::refused, "multifd");
    expect_error(begun().part().word(0x400), Errc::refused, "unknown flag");
    expect_error(begun().section(8, 0), Errc::refused, "command");
    expect_error(begun().section(1, 3), Errc::refused, "second START");
    StreamBuilder block, version;
    expect_error(block.header().ram_start(small_blocks(), "dirty-bitmap"), Errc::refused,
                 "'dirty-bitmap'");
    expect_error(version.header().ram_start(small_blocks(), "ram", 3), Errc::refused,
                 "RAM version 3");
}

TEST(StreamParser, HostileStreamsAreCorrupt) {
    StreamBuilder magic, early, late, empty;
    expect_error(magic.word(0x1234567812345678), Errc::corrupt, "QEVM");
    expect_error(begun().part().zero(0x10000, "pc.ram"), Errc::corrupt, "0x10000");
    expect_error(begun().part().zero(0xfffffffffffff000, "pc.ram"), Errc::corrupt,
                 "RAM block 'pc.ram'");
    expect_error(begun().part().zero(0, "absent"), Errc::corrupt, "'absent'");
    expect_error(begun().part().zero(0, ""), Errc::corrupt, "continues no block");
    expect_error(begun().part().word(0x20), Errc::corrupt, "flags 0x20");
    expect_error(begun().part().word(0x1000 | 0x0a), Errc::corrupt, "flags 0xa");
    expect_error(begun().part().word(0x4), Errc::corrupt, "flags 0x4");
    expect_error(begun().section(2, 7), Errc::corrupt, "section 7");
    expect_error(begun().part().word(0x10).footer(7), Errc::corrupt, "footer of section 7");
    expect_error(begun().part().word(0x10).word(0), Errc::corrupt, "footer 0x0");
    expect_error(begun().end().eos().part(), Errc::corrupt, "after the end of RAM");
    expect_error(begun().section(0, 0), Errc::corrupt, "without device state");
    expect_error(begun().section(9, 0), Errc::corrupt, "section type 0x9");
    expect_error(begun().device("ram", ""), Errc::corrupt, "RAM as a FULL section");
    expect_error(early.header().part(), Errc::corrupt, "before the list");
    expect_error(late.header().device("d", "x"), Errc::corrupt, "before the list");
    expect_error(empty.header(""), Errc::corrupt, "machine name");
}

TEST(StreamParser, HostileBlockListsAreRefused) {
    StreamBuilder twice, many, huge, none, beyond, inside;
    expect_error(twice.header().ram_start({{"a", 4096}, {"a", 4096}}), Errc::corrupt, "twice");
    std::vector<RamBlock> blocks;
    for (int i = 0; i <= kRegionsMax; ++i) blocks.push_back({"b" + std::to_string(i), 4096});
    expect_error(many.header().ram_start(blocks), Errc::refused, "more than 64");
    expect_error(huge.header().ram_start({{"a", uint64_t{1} << 44}}), Errc::corrupt,
                 "bytes of RAM");
    expect_error(none.header().ram_start({}), Errc::corrupt, "0 bytes of RAM");
    beyond.header().section(1, 2);
    const_cast<Bytes&>(beyond.bytes())
        .insert(beyond.bytes().end(),
                {std::byte{3}, std::byte{'r'}, std::byte{'a'}, std::byte{'m'}});
    expect_error(
        beyond.word(4).word(4096 | 4).word(0x0161'0000'0000'0000).word(0x2001'0000'0000'0000),
        Errc::corrupt, "left of the total");
    inside.header().section(1, 2);
    const_cast<Bytes&>(inside.bytes())
        .insert(inside.bytes().end(),
                {std::byte{3}, std::byte{'r'}, std::byte{'a'}, std::byte{'m'}});
    inside.word(4).word(4096 | 4).word(0x0161'0000'0000'0000);
    const_cast<Bytes&>(inside.bytes())
        .insert(inside.bytes().end(), {std::byte{0x10}, std::byte{0}});
    expect_error(inside.zero(0, "a"), Errc::corrupt, "within the list");
}

TEST(StreamParser, TailIsBoundedAndNeedsItsDescription) {
    StreamBuilder b = begun();
    b.part().zero(0, "pc.ram").eos().device("d", std::string(5000, 'x')).finish();
    EXPECT_TRUE(parse(b.bytes(), SIZE_MAX, 6000).state.ok());
    const Outcome out = parse(b.bytes(), SIZE_MAX, 4000);
    EXPECT_EQ(out.state.error().code, Errc::refused);
    EXPECT_NE(out.state.error().context.find("4000 bytes of device state"), std::string::npos);
    expect_error(begun().part().eos().device("d", "x").finish("[]"), Errc::corrupt,
                 "within the device state");
    expect_error(begun().part().eos().device("d", "x").finish(""), Errc::corrupt,
                 "within the device state");
}

TEST(StreamParser, SinkMayRefuseTheBlocks) {
    Recorder sink;
    sink.answer = make_error(Errc::refused, "other blocks");
    StreamParser parser(sink);
    EXPECT_EQ(parser.push(small_stream(true)).error().context, "other blocks");
    EXPECT_EQ(parser.finish().error().context, "other blocks");
}

}  // namespace
}  // namespace evac::prestage::test
