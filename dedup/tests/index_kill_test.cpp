// The index's process is killed while it writes; and the pair's secret changes.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "index_values.hpp"

namespace evac::dedup {
namespace {

using test::identity_of;
using test::location_of;

struct Writer {
    Writer(const std::string& directory, uint64_t first) {
        int ends[2];
        if (pipe(ends) != 0) return;
        pid = fork();
        if (pid == 0) {
            dup2(ends[1], STDOUT_FILENO);
            close(ends[0]);
            const std::string number = std::to_string(first);
            execl(EVAC_INDEX_WRITER, EVAC_INDEX_WRITER, directory.c_str(), number.c_str(),
                  static_cast<char*>(nullptr));
            _exit(127);
        }
        close(ends[1]);
        from = fdopen(ends[0], "r");
    }
    ~Writer() {
        if (from != nullptr) std::fclose(from);
    }
    // Reads `lines` lines, kills, and reads what was said before it died.
    uint64_t flushed_when_killed(int lines) {
        char line[64];
        uint64_t flushed = 0;
        for (int i = 0; std::fgets(line, sizeof line, from) != nullptr; ++i) {
            if (line[0] == 'F') flushed = std::strtoull(line + 2, nullptr, 10);
            if (i == lines) kill(pid, SIGKILL);
        }
        int status = 0;
        waitpid(pid, &status, 0);
        killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        return flushed;
    }
    pid_t pid = -1;
    std::FILE* from = nullptr;
    bool killed = false;
};

// What flush() had returned for survives the process; nothing that is found is wrong.
TEST(IndexKill, FlushedEntriesSurviveTheProcess) {
    const test::TempDirectory directory;
    NullLogger log;
    Random random(99);
    uint64_t first = 1;
    for (int turn = 0; turn < 12; ++turn) {
        SCOPED_TRACE(turn);
        Writer writer(directory.path(), first);
        ASSERT_NE(writer.from, nullptr);
        const uint64_t flushed = writer.flushed_when_killed(static_cast<int>(random.below(60)));
        ASSERT_TRUE(writer.killed);
        ASSERT_GE(flushed, first);
        auto index = Index::open({.directory = directory.path(), .warm_table = false}, log);
        ASSERT_TRUE(index.ok()) << index.error().message();
        EXPECT_FALSE((*index)->stats().recreated);
        for (uint64_t i = 1; i <= flushed + 3000; ++i) {
            const auto hit = (*index)->lookup(identity_of(i));
            ASSERT_TRUE(hit.has_value() || i > flushed) << i;
            if (hit) {
                ASSERT_EQ(*hit, location_of(i));
            }
        }
        first = flushed + 1;
    }
    EXPECT_GT(first, 20'000u);
}

TEST(IndexKey, EntriesOfAnotherSecretAreNotRead) {
    const test::TempDirectory directory;
    NullLogger log;
    const auto open = [&](uint64_t key_check, bool warm) {
        return std::move(
                   Index::open(
                       {.directory = directory.path(), .warm_table = warm, .key_check = key_check},
                       log))
            .value();
    };
    const auto store = [](Index& index) {
        index.hand_over();
        ASSERT_TRUE(index.flush().ok());
    };
    {
        const auto index = open(1, true);
        for (uint64_t i = 0; i < 100; ++i) index->insert(identity_of(i), location_of(i));
        store(*index);
    }
    {
        const auto index = open(1, true);  // the same secret
        EXPECT_EQ(index->stats().warmed, 100u);
        // It changes while entries of the old one are still to be written.
        index->insert(identity_of(500), location_of(500));
        index->rekey(2);
        EXPECT_FALSE(index->lookup(identity_of(5)).has_value());
        index->insert(identity_of(1000), location_of(1000));
        EXPECT_TRUE(index->lookup(identity_of(1000)).has_value());
        store(*index);
        EXPECT_EQ(index->stats().key_generation, 1u);
        EXPECT_EQ(index->stats().table_entries, 1u);
    }
    for (const bool warm : {true, false}) {
        const auto index = open(2, warm);
        EXPECT_EQ(index->stats().key_generation, 1u);
        EXPECT_TRUE(index->lookup(identity_of(1000)).has_value());
        EXPECT_FALSE(index->lookup(identity_of(5)).has_value());
        EXPECT_FALSE(index->lookup(identity_of(500)).has_value());
        if (warm) {
            EXPECT_EQ(index->stats().old_entries, 101u);
        }
        std::vector<Identity> wanted{identity_of(5), identity_of(1000)};
        std::vector<std::optional<Location>> found(2);
        index->lookup_batch(wanted, found);
        EXPECT_FALSE(found[0].has_value());
        EXPECT_TRUE(found[1].has_value());
    }
    const auto index = open(3, true);  // changed while the gateway was down
    EXPECT_EQ(index->stats().key_generation, 2u);
    EXPECT_EQ(index->stats().warmed, 0u);
    EXPECT_FALSE(index->lookup(identity_of(1000)).has_value());
}

// The background work of the store is bounded and shown.
TEST(IndexKey, StatisticsOfTheStore) {
    const test::TempDirectory directory;
    NullLogger log;
    IndexOptions options;
    options.directory = directory.path();
    options.store_bytes_max = 4 * kMiB;
    options.write_buffer_bytes = 256 * 1024;
    const auto index = std::move(Index::open(options, log)).value();
    for (uint64_t i = 0; i < 300'000; ++i) {
        index->insert(identity_of(i), location_of(i));
        if (i % 2048 == 0) {
            ASSERT_TRUE(index->flush().ok());
        }
    }
    const IndexStats stats = index->stats();
    EXPECT_GT(stats.store_files, 0u);
    EXPECT_LT(stats.store_files, 100u);
    EXPECT_LT(stats.log_bytes, 8 * options.write_buffer_bytes);
    EXPECT_GT(stats.store_bytes, 1 * kMiB);
    EXPECT_LT(stats.store_bytes, 8 * kMiB);
}

}  // namespace
}  // namespace evac::dedup
