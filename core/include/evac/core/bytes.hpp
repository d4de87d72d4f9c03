#pragma once
// Bounds-checked little- and big-endian reading and writing. A short read makes the reader fail for
// good and return zeros, so a decoder checks ok() once, at the end of a message or before a loop
// bound is used.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace evac {

using Bytes = std::vector<std::byte>;
using ByteSpan = std::span<const std::byte>;

inline ByteSpan as_byte_span(std::string_view text) {
    return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(ByteSpan bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class ByteReader {
  public:
    explicit ByteReader(ByteSpan bytes) : bytes_(bytes) {}

    bool ok() const { return ok_; }
    size_t offset() const { return offset_; }
    size_t remaining() const { return ok_ ? bytes_.size() - offset_ : 0; }
    bool at_end() const { return ok_ && offset_ == bytes_.size(); }
    void fail() { ok_ = false; }

    uint8_t u8() { return integer<uint8_t>(std::endian::little); }
    uint16_t le16() { return integer<uint16_t>(std::endian::little); }
    uint32_t le32() { return integer<uint32_t>(std::endian::little); }
    uint64_t le64() { return integer<uint64_t>(std::endian::little); }
    uint16_t be16() { return integer<uint16_t>(std::endian::big); }
    uint32_t be32() { return integer<uint32_t>(std::endian::big); }
    uint64_t be64() { return integer<uint64_t>(std::endian::big); }

    // A view into the input; empty after failure.
    ByteSpan take(size_t size) {
        if (!ok_ || bytes_.size() - offset_ < size) {
            ok_ = false;
            return {};
        }
        const ByteSpan part = bytes_.subspan(offset_, size);
        offset_ += size;
        return part;
    }
    // Length-prefixed (le32) bytes of at most size_max.
    ByteSpan take_sized(size_t size_max) {
        const uint32_t size = le32();
        if (size > size_max) ok_ = false;
        return ok_ ? take(size) : ByteSpan{};
    }
    std::string text_sized(size_t size_max) { return std::string(as_text(take_sized(size_max))); }

  private:
    template <class T>
    T integer(std::endian order) {
        const ByteSpan part = take(sizeof(T));
        if (part.size() != sizeof(T)) return 0;
        uint64_t value = 0;
        for (size_t i = 0; i < sizeof(T); ++i) {
            const size_t shift = 8 * (order == std::endian::little ? i : sizeof(T) - 1 - i);
            value |= uint64_t{std::to_integer<uint8_t>(part[i])} << shift;
        }
        return static_cast<T>(value);
    }

    ByteSpan bytes_;
    size_t offset_ = 0;
    bool ok_ = true;
};

// Appends to a buffer that the caller owns.
class ByteWriter {
  public:
    explicit ByteWriter(Bytes& out) : out_(out) {}

    size_t size() const { return out_.size(); }
    void u8(uint8_t v) { out_.push_back(std::byte{v}); }
    void le16(uint16_t v) { integer(v, std::endian::little); }
    void le32(uint32_t v) { integer(v, std::endian::little); }
    void le64(uint64_t v) { integer(v, std::endian::little); }
    void be16(uint16_t v) { integer(v, std::endian::big); }
    void be32(uint32_t v) { integer(v, std::endian::big); }
    void be64(uint64_t v) { integer(v, std::endian::big); }
    void put(ByteSpan bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
    void put(std::string_view text) { put(as_byte_span(text)); }
    void put_sized(ByteSpan bytes) {
        le32(static_cast<uint32_t>(bytes.size()));
        put(bytes);
    }
    void put_sized(std::string_view text) { put_sized(as_byte_span(text)); }

  private:
    template <class T>
    void integer(T value, std::endian order) {
        for (size_t i = 0; i < sizeof(T); ++i) {
            const size_t shift = 8 * (order == std::endian::little ? i : sizeof(T) - 1 - i);
            out_.push_back(static_cast<std::byte>((uint64_t{value} >> shift) & 0xff));
        }
    }
    Bytes& out_;
};

}  // namespace evac
