#include "innodb.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>

namespace evac::reduce {
namespace {

constexpr size_t kFrameBytes = kInnodbFramePages * kPageBytes;
using Frame = std::array<std::byte, kFrameBytes>;

void put(Frame& frame, size_t at, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        frame[at + i] = static_cast<std::byte>(value >> (8 * (bytes - 1 - i)));
    }
}

Frame index_frame() {
    Frame frame{};
    put(frame, 4, 1234, 4);        // number
    put(frame, 8, 0xffffffff, 4);  // no left neighbour
    put(frame, 12, 1235, 4);       // right neighbour
    put(frame, 16, 123456789, 8);  // LSN
    put(frame, 24, 17855, 2);      // index
    put(frame, 34, 5, 4);          // space
    put(frame, kFrameBytes - 10, 99, 2);
    put(frame, kFrameBytes - 8, 1111, 4);  // of an older flush: a dirty frame
    return frame;
}

TEST(Innodb, CleanAndDirtyIndexFramesAreFound) {
    Frame frame = index_frame();
    EXPECT_TRUE(is_innodb_frame(frame.data()));
    put(frame, kFrameBytes - 8, 123456789, 4);
    EXPECT_TRUE(is_innodb_frame(frame.data()));
}

TEST(Innodb, EachFieldCounts) {
    const auto broken = [](size_t at, uint64_t value, size_t bytes) {
        Frame frame = index_frame();
        put(frame, at, value, bytes);
        return is_innodb_frame(frame.data());
    };
    EXPECT_FALSE(broken(0, 1, 4)) << "key version";
    EXPECT_FALSE(broken(4, 0x80000000, 4)) << "number";
    EXPECT_FALSE(broken(8, 0x80000000, 4)) << "left neighbour";
    EXPECT_FALSE(broken(12, 0x80000000, 4)) << "right neighbour";
    EXPECT_FALSE(broken(16, 0, 8)) << "LSN";
    EXPECT_FALSE(broken(24, 17854, 2)) << "type";
    EXPECT_FALSE(broken(34, 0x00ffffff, 4)) << "space";
    EXPECT_FALSE(broken(kFrameBytes - 10, 100, 2)) << "first slot";
    EXPECT_FALSE(is_innodb_frame(Frame{}.data()));
}

TEST(Innodb, OtherTypesNeedTheirLsnAtTheEnd) {
    Frame frame = index_frame();
    put(frame, 24, 2, 2);  // undo
    EXPECT_FALSE(is_innodb_frame(frame.data()));
    put(frame, kFrameBytes - 8, 123456789, 4);
    EXPECT_TRUE(is_innodb_frame(frame.data()));
}

TEST(Innodb, AllFourPagesOfAFrameAreMarkedWhereverItBegins) {
    const std::string path = testing::TempDir() + "innodb_pages." + std::to_string(getpid());
    {
        std::ofstream file(path, std::ios::binary);
        const std::array<char, kPageBytes> other{'x'};
        const Frame frame = index_frame();
        for (int i = 0; i < 3; ++i) file.write(other.data(), kPageBytes);
        file.write(reinterpret_cast<const char*>(frame.data()), kFrameBytes);
        file.write(other.data(), kPageBytes);
        // A frame cut off by the end is none.
        file.write(reinterpret_cast<const char*>(frame.data()), kFrameBytes - kPageBytes);
    }
    auto dump = Dump::open(path);
    std::remove(path.c_str());
    ASSERT_TRUE(dump.ok());
    const std::vector<bool> expected{false, false, false, true,  true, true,
                                     true,  false, false, false, false};
    EXPECT_EQ(innodb_pages(*dump), expected);
}

}  // namespace
}  // namespace evac::reduce
