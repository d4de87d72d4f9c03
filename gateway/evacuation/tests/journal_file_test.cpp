// One suite for every JournalFile.
#include "evac/evacuation/journal_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace evac::evacuation {
namespace {

struct MemoryMaker {
    std::unique_ptr<JournalFile> file = std::make_unique<MemoryJournalFile>();
    JournalFile& get() { return *file; }
    JournalFile& reopen() { return *file; }
};

struct DiskMaker {
    DiskMaker() {
        char name[] = "/tmp/evac_journal_XXXXXX";
        directory = ::mkdtemp(name);
        path = directory + "/journal";
        file = open();
    }
    ~DiskMaker() {
        file.reset();
        std::filesystem::remove_all(directory);
    }
    std::unique_ptr<JournalFile> open() {
        auto opened = DiskJournalFile::open(path);
        if (!opened.ok()) ADD_FAILURE() << opened.error().message();
        return opened.ok() ? std::move(*opened) : nullptr;
    }
    JournalFile& get() { return *file; }
    JournalFile& reopen() {
        file.reset();
        file = open();
        return *file;
    }
    std::string directory;
    std::string path;
    std::unique_ptr<JournalFile> file;
};

template <class Maker>
class JournalFileTest : public ::testing::Test {
  protected:
    static std::string text(JournalFile& file) {
        const Result<Bytes> bytes = file.read_all(1 << 20);
        return bytes.ok() ? std::string(as_text(*bytes)) : "error: " + bytes.error().message();
    }
    Maker maker_;
};
using Makers = ::testing::Types<MemoryMaker, DiskMaker>;
TYPED_TEST_SUITE(JournalFileTest, Makers);

TYPED_TEST(JournalFileTest, StartsEmpty) {
    EXPECT_EQ(this->text(this->maker_.get()), "");
}

TYPED_TEST(JournalFileTest, AppendsInOrderAndKeepsThemOverReopen) {
    JournalFile& file = this->maker_.get();
    ASSERT_TRUE(file.append(as_byte_span("ab")).ok());
    EXPECT_EQ(this->text(file), "ab");
    ASSERT_TRUE(file.append(as_byte_span("cd")).ok());
    ASSERT_TRUE(file.sync().ok());
    JournalFile& again = this->maker_.reopen();
    EXPECT_EQ(this->text(again), "abcd");
    ASSERT_TRUE(again.append(as_byte_span("e")).ok());
    EXPECT_EQ(this->text(again), "abcde");
}

TYPED_TEST(JournalFileTest, TruncatesAndAppendsAtTheNewEnd) {
    JournalFile& file = this->maker_.get();
    ASSERT_TRUE(file.append(as_byte_span("abcdef")).ok());
    ASSERT_TRUE(file.truncate(2).ok());
    ASSERT_TRUE(file.append(as_byte_span("xy")).ok());
    ASSERT_TRUE(file.sync().ok());
    EXPECT_EQ(this->text(this->maker_.reopen()), "abxy");
    EXPECT_EQ(this->maker_.get().truncate(99).error().code, Errc::invalid_argument);
}

TYPED_TEST(JournalFileTest, ReplacesAndGoesOnInTheNewContent) {
    JournalFile& file = this->maker_.get();
    ASSERT_TRUE(file.append(as_byte_span("old old old")).ok());
    ASSERT_TRUE(file.replace(as_byte_span("new")).ok());
    ASSERT_TRUE(file.append(as_byte_span("er")).ok());
    ASSERT_TRUE(file.sync().ok());
    EXPECT_EQ(this->text(file), "newer");
    EXPECT_EQ(this->text(this->maker_.reopen()), "newer");
}

TYPED_TEST(JournalFileTest, RefusesToReadMoreThanAsked) {
    JournalFile& file = this->maker_.get();
    ASSERT_TRUE(file.append(as_byte_span("abcdef")).ok());
    EXPECT_EQ(file.read_all(5).error().code, Errc::refused);
    EXPECT_TRUE(file.read_all(6).ok());
}

TEST(DiskJournalFile, IsPrivateAndLocked) {
    DiskMaker maker;
    struct stat info {};
    ASSERT_EQ(::stat(maker.path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777u, 0600u);
    EXPECT_EQ(info.st_size, 0) << "the reserve must not show in the size";
    const auto second = DiskJournalFile::open(maker.path);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code, Errc::unavailable);
    ASSERT_TRUE(maker.get().replace(as_byte_span("x")).ok());
    EXPECT_FALSE(DiskJournalFile::open(maker.path).ok()) << "replace() must keep the lock";
}

TEST(DiskJournalFile, SaysWhatIsWrongWithThePath) {
    EXPECT_EQ(DiskJournalFile::open("/nonexistent/journal").error().code, Errc::io);
    EXPECT_FALSE(DiskJournalFile::open("/tmp").ok());
}

TEST(DiskJournalFile, ALeftoverOfAnInterruptedReplaceDoesNoHarm) {
    DiskMaker maker;
    ASSERT_TRUE(maker.get().append(as_byte_span("abc")).ok());
    ASSERT_EQ(std::system(("echo garbage > " + maker.path + ".new").c_str()), 0);
    ASSERT_TRUE(maker.reopen().replace(as_byte_span("def")).ok());
    EXPECT_EQ(as_text(maker.get().read_all(100).value()), "def");
}

TEST(MemoryJournalFile, CrashKeepsWhatWasSyncedAndNothingSurely) {
    Random random(3);
    bool lost = false, kept = false, garbled = false;
    for (int i = 0; i < 200; ++i) {
        MemoryJournalFile file;
        ASSERT_TRUE(file.append(as_byte_span("synced")).ok());
        ASSERT_TRUE(file.sync().ok());
        ASSERT_TRUE(file.append(as_byte_span("tail")).ok());
        file.crash(random);
        const std::string after(as_text(file.read_all(100).value()));
        ASSERT_EQ(after.substr(0, 6), "synced");
        lost |= after == "synced";
        kept |= after == "syncedtail";
        garbled |= after.size() == 10 && after != "syncedtail";
    }
    EXPECT_TRUE(lost && kept && garbled);
}

}  // namespace
}  // namespace evac::evacuation
