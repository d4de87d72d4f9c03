#include "evac/prestage/stream_parser.hpp"

#include <algorithm>

#include "evac/prestage/captured_page.hpp"

namespace evac::prestage {
namespace {

constexpr size_t kNeedMore = SIZE_MAX;  // the element is not complete yet
constexpr size_t kNameBytesMax = 255;   // u8 length
// The longest element is a page with its block's name: u64, u8, 255 bytes, 4096 bytes.
constexpr size_t kElementBytesMax = 8 + 1 + kNameBytesMax + kPageBytes;
// 64 blocks of at most 264 bytes, the configuration and two section headers are below 18 KiB.
constexpr size_t kPrefixBytesMax = 64 * 1024;

constexpr uint32_t kMagic = 0x5145564d;
constexpr uint32_t kVersion = 3;
constexpr uint32_t kRamVersion = 4;

constexpr uint8_t kEof = 0x00, kStart = 0x01, kPart = 0x02, kEnd = 0x03, kFull = 0x04,
                  kSubsection = 0x05, kDescription = 0x06, kConfiguration = 0x07, kCommand = 0x08,
                  kFooter = 0x7e;

constexpr uint64_t kFlagMask = 0xfff;
constexpr uint64_t kZero = 0x02, kMemSize = 0x04, kPage = 0x08, kEos = 0x10, kContinue = 0x20;

std::string hex(uint64_t value) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string out;
    do {
        out.insert(out.begin(), kDigits[value & 15]);
        value >>= 4;
    } while (value != 0);
    return "0x" + out;
}

bool printable(std::string_view text) {
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
}

std::string quoted(std::string_view text) {
    std::string out = "'";
    for (const char c : text.substr(0, kNameBytesMax)) out += (c >= ' ' && c < 127) ? c : '.';
    return out + "'";
}

const char* unsupported_flag(uint64_t flags) {
    if (flags & 0x40) return "XBZRLE page (0x40): switch the capability xbzrle off";
    if (flags & 0x80) return "RDMA hook (0x80)";
    if (flags & 0x100) return "compressed page (0x100): switch the capability compress off";
    if (flags & 0x200) return "multifd flush (0x200): switch the capability multifd off";
    if (flags & 0x01) return "obsolete full flag (0x01)";
    return "unknown flag";
}

// Where the tail proper ends: just after the 00 of `7e <u32 id> 00 06 <u32 n> <json of n bytes>
// <end>`; 0 when there is none. JSON holds no NUL, so the last candidate is the right one whatever
// the devices' bytes look like.
size_t find_description(ByteSpan tail) {
    constexpr size_t kFooterBytes = 5;
    constexpr size_t kHeader = 6;
    constexpr size_t kJsonBytesMin = 2;
    if (tail.size() < kFooterBytes + kHeader + kJsonBytesMin || tail.back() != std::byte{'}'})
        return 0;
    for (size_t at = tail.size() - kHeader - kJsonBytesMin; at >= kFooterBytes; --at) {
        if (tail[at] != std::byte{kEof} || tail[at + 1] != std::byte{kDescription}) continue;
        if (tail[at - kFooterBytes] != std::byte{kFooter}) continue;
        ByteReader reader(tail.subspan(at + 2));
        if (reader.be32() != tail.size() - at - kHeader) continue;
        const ByteSpan json = tail.subspan(at + kHeader);
        if (json.front() != std::byte{'{'}) continue;
        if (std::find(json.begin(), json.end(), std::byte{0}) != json.end()) return 0;
        return at + 1;
    }
    return 0;
}

}  // namespace

StreamParser::StreamParser(StreamSink& sink, size_t tail_bytes_max)
    : sink_(sink), tail_bytes_max_(tail_bytes_max) {}

Error StreamParser::corrupt(std::string what) const {
    return make_error(Errc::corrupt, "migration stream at byte " + std::to_string(parsed_bytes_) +
                                         ": " + std::move(what));
}

Error StreamParser::refused(std::string what) const {
    return make_error(Errc::refused, "migration stream at byte " + std::to_string(parsed_bytes_) +
                                         ": " + std::move(what));
}

Status StreamParser::push(ByteSpan chunk) {
    if (state_ == State::failed) return error_;
    stream_bytes_ += chunk.size();
    auto fail = [this](const Error& error) -> Status {
        error_ = error;
        state_ = State::failed;
        return error_;
    };
    while (!carry_.empty() && !chunk.empty()) {
        const size_t old = carry_.size();
        const size_t added = std::min(chunk.size(), kElementBytesMax - old);
        carry_.insert(carry_.end(), chunk.begin(), chunk.begin() + static_cast<ptrdiff_t>(added));
        const Result<size_t> used = consume(carry_);
        if (!used.ok()) return fail(used.error());
        if (*used >= old) {  // the rest is parsed in place, without a copy
            chunk = chunk.subspan(*used - old);
            carry_.clear();
        } else {
            EVAC_ASSERT(*used == 0 && carry_.size() < kElementBytesMax);
            chunk = chunk.subspan(added);
        }
    }
    if (chunk.empty()) return {};
    const Result<size_t> used = consume(chunk);
    if (!used.ok()) return fail(used.error());
    carry_.assign(chunk.begin() + static_cast<ptrdiff_t>(*used), chunk.end());
    EVAC_ASSERT(carry_.size() < kElementBytesMax);
    return {};
}

Result<size_t> StreamParser::consume(ByteSpan in) {
    size_t offset = 0;
    while (offset < in.size()) {
        const ByteSpan rest = in.subspan(offset);
        if (state_ == State::tail) {
            EVAC_TRY(append_tail(rest));
            parsed_bytes_ += rest.size();
            return in.size();
        }
        const bool in_prefix = !prefix_complete_;
        left_out_ = 0;
        const Result<size_t> used = step(rest);
        if (!used.ok()) return used.error();
        if (*used == kNeedMore) break;
        if (in_prefix) {
            const ByteSpan element = rest.first(*used - left_out_);
            out_.prefix.insert(out_.prefix.end(), element.begin(), element.end());
            if (out_.prefix.size() > kPrefixBytesMax)
                return corrupt("more than 64 KiB before the first page");
        }
        offset += *used;
        parsed_bytes_ += *used;
    }
    return offset;
}

Result<size_t> StreamParser::step(ByteSpan in) {
    switch (state_) {
        case State::magic:
            return parse_magic(in);
        case State::config:
            return parse_config(in);
        case State::section:
            return parse_section(in);
        case State::ram_setup:
            return parse_ram_setup(in);
        case State::ram_blocks:
            return parse_ram_block(in);
        case State::ram_body:
            return parse_ram_entry(in);
        case State::footer:
            return parse_footer(in);
        case State::tail:
        case State::failed:
            break;
    }
    return make_error(Errc::internal, "migration stream parser: bad state");
}

Result<size_t> StreamParser::parse_magic(ByteSpan in) {
    if (in.size() < 8) return kNeedMore;
    ByteReader reader(in);
    const uint32_t magic = reader.be32();
    if (magic != kMagic)
        return corrupt("it begins with " + hex(magic) + ", expected " + hex(kMagic) + " (QEVM)");
    const uint32_t version = reader.be32();
    if (version != kVersion)
        return refused("version " + std::to_string(version) + ", 3 is accepted");
    state_ = State::config;
    return reader.offset();
}

Result<size_t> StreamParser::parse_config(ByteSpan in) {
    ByteReader reader(in);
    if (reader.u8() != kConfiguration) {
        return refused("no configuration section (machine property send-configuration=off?)");
    }
    const uint32_t size = reader.be32();
    if (!reader.ok()) return kNeedMore;
    if (size == 0 || size > kMachineNameBytesMax) {
        return corrupt("machine name of " + std::to_string(size) + " bytes, 1 to 127 are accepted");
    }
    const std::string_view name = as_text(reader.take(size));
    if (!reader.ok()) return kNeedMore;
    if (!printable(name)) return corrupt("machine name " + quoted(name));
    out_.machine = std::string(name);
    state_ = State::section;
    return reader.offset();
}

Result<size_t> StreamParser::parse_section(ByteSpan in) {
    ByteReader reader(in);
    const uint8_t type = reader.u8();
    switch (type) {
        case kSubsection:
            if (ram_setup_seen_) return corrupt("subsection outside of the configuration");
            return parse_subsection(in);
        case kStart:
            if (ram_setup_seen_) return refused("a second START section; only RAM is accepted");
            return parse_ram_start(in);
        case kPart:
        case kEnd: {
            const uint32_t id = reader.be32();
            if (!reader.ok()) return kNeedMore;
            if (!ram_setup_seen_) return corrupt("RAM pages before the list of RAM blocks");
            if (ram_ended_) return corrupt("RAM pages after the end of RAM");
            if (id != out_.ram_section_id) {
                return corrupt("section " + std::to_string(id) + ", RAM is " +
                               std::to_string(out_.ram_section_id));
            }
            ram_end_section_ = type == kEnd;
            state_ = State::ram_body;
            return reader.offset();
        }
        case kFull: {
            if (!ram_setup_seen_) return corrupt("device state before the list of RAM blocks");
            reader.be32();
            const std::string_view name = as_text(reader.take(reader.u8()));
            if (!reader.ok()) return kNeedMore;
            if (name == "ram") return corrupt("RAM as a FULL section");
            state_ = State::tail;
            return size_t{0};
        }
        case kEof:
            return corrupt("it ends without device state");
        case kCommand:
            return refused("a command section (post-copy or a return path is switched on)");
        default:
            return corrupt("unknown section type " + hex(type));
    }
}

Result<size_t> StreamParser::parse_subsection(ByteSpan in) {
    ByteReader reader(in.subspan(1));
    const std::string_view name = as_text(reader.take(reader.u8()));
    const uint32_t version = reader.be32();
    if (!reader.ok()) return kNeedMore;
    if (version != 1)
        return refused("subsection " + quoted(name) + " version " + std::to_string(version));
    if (name == "configuration/capabilities") {
        const uint32_t count = reader.be32();
        if (!reader.ok()) return kNeedMore;
        if (count > 1)
            return refused("it depends on " + std::to_string(count) +
                           " migration capabilities; none or x-ignore-shared is accepted");
        if (count == 1) {
            const std::string_view capability = as_text(reader.take(reader.u8()));
            if (!reader.ok()) return kNeedMore;
            if (capability != "x-ignore-shared")
                return refused("it depends on migration capability " + quoted(capability) +
                               "; none or x-ignore-shared is accepted");
            out_.shared_left_out = true;
            left_out_ = 1 + reader.offset();
        }
    } else if (name == "configuration/target-page-bits") {
        const uint32_t bits = reader.be32();
        if (!reader.ok()) return kNeedMore;
        if (bits != 12)
            return refused("pages of 2^" + std::to_string(bits) + " bytes, 4096 are accepted");
    } else if (name == "configuration/uuid") {
        reader.take(16);
        if (!reader.ok()) return kNeedMore;
    } else {
        return refused("unknown configuration " + quoted(name));
    }
    return 1 + reader.offset();
}

Result<size_t> StreamParser::parse_ram_start(ByteSpan in) {
    ByteReader reader(in.subspan(1));
    const uint32_t id = reader.be32();
    const std::string_view name = as_text(reader.take(reader.u8()));
    reader.be32();  // instance
    const uint32_t version = reader.be32();
    if (!reader.ok()) return kNeedMore;
    if (name != "ram") return refused("live section " + quoted(name) + "; only 'ram' is accepted");
    if (version != kRamVersion)
        return refused("RAM version " + std::to_string(version) + ", 4 is accepted");
    out_.ram_section_id = id;
    state_ = State::ram_setup;
    return 1 + reader.offset();
}

Result<size_t> StreamParser::parse_ram_setup(ByteSpan in) {
    ByteReader reader(in);
    const uint64_t word = reader.be64();
    if (!reader.ok()) return kNeedMore;
    if ((word & kFlagMask) != kMemSize)
        return corrupt("RAM begins with flags " + hex(word & kFlagMask));
    setup_left_bytes_ = word & ~kFlagMask;
    if (setup_left_bytes_ == 0 || setup_left_bytes_ > kRegionBytesMax) {
        return corrupt(std::to_string(setup_left_bytes_) +
                       " bytes of RAM, 4096 to 2^43 are accepted");
    }
    state_ = State::ram_blocks;
    return reader.offset();
}

Result<size_t> StreamParser::parse_ram_block(ByteSpan in) {
    ByteReader reader(in);
    const std::string_view name = as_text(reader.take(reader.u8()));
    const uint64_t size_bytes = reader.be64();
    if (out_.shared_left_out) {
        reader.be64();  // address in its memory region
        left_out_ = sizeof(uint64_t);
    }
    if (!reader.ok()) return kNeedMore;
    if (!printable(name)) return corrupt("RAM block name " + quoted(name));
    if (size_bytes == 0 || size_bytes > setup_left_bytes_) {
        return corrupt("RAM block " + quoted(name) + " of " + std::to_string(size_bytes) +
                       " bytes, 1 to " + std::to_string(setup_left_bytes_) +
                       " are left of the total");
    }
    if (out_.blocks.size() == kRegionsMax) {
        return refused("more than " + std::to_string(kRegionsMax) + " RAM blocks");
    }
    for (const RamBlock& other : out_.blocks) {
        if (other.name == name) return corrupt("RAM block " + quoted(name) + " twice");
    }
    out_.blocks.push_back({std::string(name), size_bytes});
    setup_left_bytes_ -= size_bytes;
    if (setup_left_bytes_ == 0) {
        EVAC_TRY(sink_.ram_blocks(out_.blocks));
        ram_setup_seen_ = true;
        state_ = State::ram_body;
    }
    return reader.offset();
}

Result<size_t> StreamParser::parse_ram_entry(ByteSpan in) {
    ByteReader reader(in);
    const uint64_t word = reader.be64();
    if (!reader.ok()) return kNeedMore;
    const uint64_t flags = word & kFlagMask;
    if (flags == kEos) {
        state_ = State::footer;
        return reader.offset();
    }
    if (flags & ~(kZero | kPage | kContinue | kMemSize | kEos)) {
        return refused("flags " + hex(flags) + ": " + unsupported_flag(flags));
    }
    const uint64_t kind = flags & ~kContinue;
    if (kind != kZero && kind != kPage) return corrupt("flags " + hex(flags) + " of a RAM entry");
    if (!prefix_complete_) return corrupt("a page within the list of RAM blocks");
    std::string_view name;
    if (!(flags & kContinue)) name = as_text(reader.take(reader.u8()));
    const ByteSpan content = reader.take(kind == kZero ? 1 : kPageBytes);
    if (!reader.ok()) return kNeedMore;
    if (!(flags & kContinue)) EVAC_TRY(select_block(name));
    if (!block_known_) return corrupt("a page that continues no block");
    EVAC_TRY(deliver(word & ~kFlagMask, content, kind == kZero));
    return reader.offset();
}

Status StreamParser::select_block(std::string_view name) {
    for (size_t i = 0; i < out_.blocks.size(); ++i) {
        if (out_.blocks[i].name != name) continue;
        block_ = static_cast<uint16_t>(i);
        block_known_ = true;
        return {};
    }
    return corrupt("a page of RAM block " + quoted(name) + ", which is not in its list");
}

Status StreamParser::deliver(uint64_t address, ByteSpan content, bool is_zero) {
    const RamBlock& block = out_.blocks[block_];
    if (address >= block.size_bytes) {
        return corrupt("a page at " + hex(address) + " of RAM block " + quoted(block.name) +
                       ", which has " + hex(block.size_bytes) + " bytes");
    }
    pages_seen_ = true;
    if (is_zero) {
        sink_.zero_page(block_, address / kPageBytes, std::to_integer<uint8_t>(content.front()));
    } else {
        sink_.page(block_, address / kPageBytes, content);
    }
    return {};
}

Result<size_t> StreamParser::parse_footer(ByteSpan in) {
    ByteReader reader(in);
    const uint8_t type = reader.u8();
    if (type != kFooter) return corrupt("section footer " + hex(type) + ", 0x7e is accepted");
    const uint32_t id = reader.be32();
    if (!reader.ok()) return kNeedMore;
    if (id != out_.ram_section_id) return corrupt("footer of section " + std::to_string(id));
    prefix_complete_ = true;
    ram_ended_ = ram_ended_ || ram_end_section_;
    state_ = State::section;
    return reader.offset();
}

Status StreamParser::append_tail(ByteSpan bytes) {
    if (bytes.size() > tail_bytes_max_ - out_.tail.size()) {
        return refused("more than " + std::to_string(tail_bytes_max_) + " bytes of device state");
    }
    out_.tail.insert(out_.tail.end(), bytes.begin(), bytes.end());
    return {};
}

Result<DeviceState> StreamParser::finish() {
    if (state_ == State::failed) return error_;
    const State state = state_;
    state_ = State::failed;
    error_ = make_error(Errc::internal, "migration stream parser: used after its end");
    if (state != State::tail)
        return corrupt("it ended before the device state; this is no checkpoint");
    const size_t end = find_description(out_.tail);
    if (end == 0) return corrupt("it ended within the device state; this is no checkpoint");
    out_.tail.resize(end);
    return std::move(out_);
}

}  // namespace evac::prestage
