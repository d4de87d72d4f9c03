#include "evac/landing/stream.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "evac/core/units.hpp"

namespace evac::landing {
namespace {

Bytes bytes_of(std::initializer_list<int> values) {
    Bytes out;
    for (const int v : values) out.push_back(static_cast<std::byte>(v));
    return out;
}

// Golden: prefix, END section, one block of two pages (zero, then 0xAB...), EOS, footer, tail.
TEST(Stream, GoldenBytes) {
    const std::string file = testing::TempDir() + "evac-landing-block";
    {
        std::ofstream out(file, std::ios::binary);
        out << std::string(kPageBytes, '\0') << std::string(kPageBytes, '\xab');
    }
    Bytes got;
    ASSERT_TRUE(write_landing_stream({bytes_of({0x51}), 2, bytes_of({0x00})},
                                     {{"rom", file, 2 * kPageBytes}},
                                     [&got](ByteSpan piece) -> Status {
                                         got.insert(got.end(), piece.begin(), piece.end());
                                         return {};
                                     })
                    .ok());
    Bytes want = bytes_of({0x51, 0x03, 0,   0,   0, 2, 0, 0, 0, 0, 0, 0,    0,   0x02,
                           3,    'r',  'o', 'm', 0, 0, 0, 0, 0, 0, 0, 0x10, 0x28});
    want.insert(want.end(), kPageBytes, std::byte{0xab});
    for (const std::byte b : bytes_of({0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0, 0, 2, 0x00}))
        want.push_back(b);
    EXPECT_EQ(got, want);
    std::filesystem::remove(file);
}

TEST(Stream, MissingBlockFileIsAnError) {
    const auto status = write_landing_stream({}, {{"rom", "/nonexistent/x", kPageBytes}},
                                             [](ByteSpan) -> Status { return {}; });
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, Errc::io);
}

}  // namespace
}  // namespace evac::landing
