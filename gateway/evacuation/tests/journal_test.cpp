#include "evac/evacuation/journal.hpp"

#include <gtest/gtest.h>

#include "evac/core/random.hpp"

namespace evac::evacuation {
namespace {

HandoverRecord record(uint32_t vm, State state, uint64_t handover = 1) {
    HandoverRecord r;
    r.role = Role::home;
    r.vm = VmId{vm};
    r.state = state;
    r.handover = HandoverId{handover};
    r.epoch = Epoch{7};
    r.options = {Policy::evacuation, 5'000, true, 60'000, 9'000};
    r.reason = AbortReason::seal_failed;
    r.attempts = 2;
    r.abort_asked = r.by_silence = r.forced = r.outside = true;
    r.since_unix_ms = 1'700'000'000'123;
    r.stopped_unix_ms = 1'700'000'000'100;
    r.downtime_ms = 23;
    return r;
}

EvacuationRecord evacuation() {
    EvacuationRecord e;
    e.stage = Stage::evacuating;
    e.event_id = "quake-1";
    e.reason = "intensity 6-";
    e.options = {Policy::evacuation, 10'000, false, 0, 15'000};
    e.since_unix_ms = 1'700'000'000'000;
    e.order = {{VmId{3}, 1'000, 40}, {VmId{1}, 2'000, 50}};
    return e;
}

// The content after `open` of a new file and two records.
Bytes three_records() {
    MemoryJournalFile file;
    Journal journal = std::move(Journal::open(file).value());
    EXPECT_TRUE(journal.append(record(1, State::draining), Durability::durable).ok());
    EXPECT_TRUE(journal.append(record(1, State::frozen), Durability::durable).ok());
    EXPECT_TRUE(journal.append(record(1, State::sealed), Durability::durable).ok());
    return file.content();
}

Result<Journal> open_bytes(MemoryJournalFile& file, Bytes bytes) {
    file.content() = std::move(bytes);
    return Journal::open(file);
}

TEST(Journal, KeepsTheLastRecordOfEachRoleAndVm) {
    MemoryJournalFile file;
    {
        Journal journal = std::move(Journal::open(file).value());
        ASSERT_TRUE(journal.append(record(1, State::draining), Durability::durable).ok());
        ASSERT_TRUE(journal.append(record(2, State::draining), Durability::durable).ok());
        HandoverRecord away = record(1, State::armed);
        away.role = Role::away;
        ASSERT_TRUE(journal.append(away, Durability::durable).ok());
        ASSERT_TRUE(journal.append(record(1, State::frozen), Durability::durable).ok());
        ASSERT_TRUE(journal.append(evacuation(), Durability::durable).ok());
        ASSERT_TRUE(journal.forget(Role::home, VmId{2}).ok());
    }
    Journal journal = std::move(Journal::open(file).value());
    EXPECT_EQ(*journal.find(Role::home, VmId{1}), record(1, State::frozen));
    EXPECT_EQ(journal.find(Role::home, VmId{2}), nullptr);
    EXPECT_EQ(journal.find(Role::away, VmId{1})->state, State::armed);
    EXPECT_EQ(journal.evacuation(), evacuation());
    EXPECT_EQ(journal.all(Role::home).size(), 1u);
    EXPECT_EQ(journal.opened().torn_bytes, 0u);
    EXPECT_EQ(journal.opened().records, 7u);
}

TEST(Journal, GoldenBytes) {
    MemoryJournalFile file;
    Journal journal = std::move(Journal::open(file).value());
    ASSERT_TRUE(journal.append(record(1, State::sealed), Durability::durable).ok());
    std::string hex;
    for (const std::byte b : file.content()) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", std::to_integer<unsigned>(b));
        hex += two;
    }
    EXPECT_EQ(hex,
              // begin: length 25, crc; seq 1, synced 0, type 1, "EVACJNL", version 1
              "19000000"
              "9d57b1e7"
              "0100000000000000"
              "0000000000000000"
              "01"
              "455641434a4e4c"
              "01"
              // handover: length 71, crc; seq 2, synced 1, type 2; role, state, policy, flags,
              // reason, attempts
              "47000000"
              "9d56168b"
              "0200000000000000"
              "0100000000000000"
              "02"
              "01"
              "05"
              "02"
              "1f"
              "05"
              "02"
              // vm, epoch, handover, silence, stopped max, patience, since, stopped, downtime
              "01000000"
              "07000000"
              "0100000000000000"
              "88130000"
              "60ea0000"
              "28230000"
              "7b68e5cf8b010000"
              "6468e5cf8b010000"
              "17000000");
}

TEST(Journal, LazyRecordsAreNotSynced) {
    MemoryJournalFile file;
    Journal journal = std::move(Journal::open(file).value());
    const uint64_t before = file.syncs();
    ASSERT_TRUE(journal.append(record(1, State::armed), Durability::lazy).ok());
    EXPECT_EQ(file.syncs(), before);
    ASSERT_TRUE(journal.append(record(1, State::draining), Durability::durable).ok());
    EXPECT_EQ(file.syncs(), before + 1);
}

TEST(Journal, EveryTornTailIsCutOff) {
    const Bytes whole = three_records();
    MemoryJournalFile probe;
    Journal two = std::move(Journal::open(probe).value());
    ASSERT_TRUE(two.append(record(1, State::draining), Durability::durable).ok());
    ASSERT_TRUE(two.append(record(1, State::frozen), Durability::durable).ok());
    const size_t last_at = probe.content().size();
    for (size_t n = last_at; n < whole.size(); ++n) {
        for (const bool zeros : {false, true}) {
            Bytes torn(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
            if (zeros) torn.resize(whole.size());
            if (torn == whole) continue;  // its last bytes are zeros
            MemoryJournalFile file;
            Result<Journal> journal = open_bytes(file, torn);
            ASSERT_TRUE(journal.ok()) << n << ": " << journal.error().message();
            EXPECT_EQ(journal->find(Role::home, VmId{1})->state, State::frozen) << n;
            EXPECT_EQ(journal->opened().torn_bytes, torn.size() - last_at) << n;
            // It goes on, and the next open is clean.
            ASSERT_TRUE(journal->append(record(1, State::aborted), Durability::durable).ok());
            Journal again = std::move(Journal::open(file).value());
            EXPECT_EQ(again.find(Role::home, VmId{1})->state, State::aborted);
            EXPECT_EQ(again.opened().torn_bytes, 0u);
        }
    }
}

// Any single damaged byte before the last record is seen, and never silently skipped.
TEST(Journal, DamageInTheMiddleIsAnError) {
    const Bytes whole = three_records();
    MemoryJournalFile probe;
    Journal two = std::move(Journal::open(probe).value());
    ASSERT_TRUE(two.append(record(1, State::draining), Durability::durable).ok());
    ASSERT_TRUE(two.append(record(1, State::frozen), Durability::durable).ok());
    const size_t last_at = probe.content().size();
    for (size_t at = 0; at < last_at; ++at) {
        for (const unsigned flip : {0x01u, 0x80u, 0xffu}) {
            Bytes bad = whole;
            bad[at] ^= std::byte(flip);
            MemoryJournalFile file;
            const Result<Journal> journal = open_bytes(file, bad);
            ASSERT_FALSE(journal.ok()) << "byte " << at;
            EXPECT_EQ(journal.error().code, Errc::corrupt);
            EXPECT_EQ(file.content(), bad) << "a refused journal is left as it was";
        }
    }
}

TEST(Journal, AMissingRecordInTheMiddleIsAnError) {
    const Bytes whole = three_records();
    MemoryJournalFile probe;
    Journal one = std::move(Journal::open(probe).value());
    const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(probe.content().size());
    ASSERT_TRUE(one.append(record(1, State::draining), Durability::durable).ok());
    const std::ptrdiff_t second = static_cast<std::ptrdiff_t>(probe.content().size());
    Bytes bad = whole;
    bad.erase(bad.begin() + first, bad.begin() + second);
    MemoryJournalFile file;
    EXPECT_EQ(open_bytes(file, bad).error().code, Errc::corrupt);
}

// Unsynced records that reached the disk out of order are a torn tail, not damage.
TEST(Journal, AnUnsyncedHoleBeforeAnUnsyncedRecordIsTorn) {
    MemoryJournalFile file;
    Journal journal = std::move(Journal::open(file).value());
    ASSERT_TRUE(journal.append(record(1, State::draining), Durability::durable).ok());
    const size_t hole = file.content().size();
    ASSERT_TRUE(journal.append(record(2, State::armed), Durability::lazy).ok());
    ASSERT_TRUE(journal.append(record(3, State::armed), Durability::lazy).ok());
    Bytes bytes = file.content();
    for (size_t i = hole; i < hole + 20; ++i) bytes[i] = std::byte{0};
    MemoryJournalFile after;
    const Result<Journal> opened = open_bytes(after, bytes);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    EXPECT_EQ(opened->find(Role::home, VmId{1})->state, State::draining);
    EXPECT_EQ(opened->find(Role::home, VmId{3}), nullptr);
}

TEST(Journal, ForeignContentIsRefused) {
    for (const std::string_view text :
         {"x", "hello, this is no journal at all, but a letter", "{}\n"}) {
        MemoryJournalFile file;
        const ByteSpan bytes = as_byte_span(text);
        EXPECT_EQ(open_bytes(file, Bytes(bytes.begin(), bytes.end())).error().code, Errc::corrupt);
    }
}

class FailingFile final : public JournalFile {
  public:
    Result<Bytes> read_all(size_t size_max) override { return inner.read_all(size_max); }
    Status append(ByteSpan bytes) override {
        if (fail_append) {
            EVAC_TRY(inner.append(bytes.first(bytes.size() / 2)));
            return io_error("append", ENOSPC);
        }
        return inner.append(bytes);
    }
    Status sync() override { return fail_sync ? Status(io_error("sync", EIO)) : inner.sync(); }
    Status truncate(uint64_t size) override { return inner.truncate(size); }
    Status replace(ByteSpan bytes) override { return inner.replace(bytes); }

    MemoryJournalFile inner;
    bool fail_append = false;
    bool fail_sync = false;
};

TEST(Journal, AfterAFailedWriteNothingIsAcceptedUntilReopened) {
    for (const bool at_sync : {false, true}) {
        FailingFile file;
        Journal journal = std::move(Journal::open(file).value());
        ASSERT_TRUE(journal.append(record(1, State::draining), Durability::durable).ok());
        (at_sync ? file.fail_sync : file.fail_append) = true;
        EXPECT_EQ(journal.append(record(1, State::frozen), Durability::durable).error().code,
                  Errc::io);
        file.fail_sync = file.fail_append = false;
        EXPECT_TRUE(journal.failed());
        EXPECT_FALSE(journal.append(record(1, State::aborted), Durability::durable).ok());
        EXPECT_EQ(journal.find(Role::home, VmId{1})->state, State::draining);
        Journal again = std::move(Journal::open(file).value());
        const State state = again.find(Role::home, VmId{1})->state;
        EXPECT_TRUE(state == State::draining || state == State::frozen);
        EXPECT_TRUE(again.append(record(1, State::aborted), Durability::durable).ok());
    }
}

TEST(Journal, StaysBoundedWhileRunning) {
    MemoryJournalFile file;
    Journal journal = std::move(Journal::open(file).value());
    for (uint32_t i = 0; i < 120'000; ++i) {
        ASSERT_TRUE(journal.append(record(i % 10, State::draining, i), Durability::durable).ok());
        ASSERT_LT(file.content().size(), kJournalCompactBytes + 1'000);
    }
    Journal again = std::move(Journal::open(file).value());
    EXPECT_EQ(again.all(Role::home).size(), 10u);
    EXPECT_EQ(raw(again.find(Role::home, VmId{9})->handover), 119'999u);
    EXPECT_LT(again.size_bytes(), 1'000u);
}

TEST(Journal, HoldsAnEvacuationOfTheLargestSize) {
    MemoryJournalFile file;
    Journal journal = std::move(Journal::open(file).value());
    EvacuationRecord e = evacuation();
    e.event_id = std::string(kTextMax, 'e');
    e.reason = std::string(kTextMax, 'r');
    e.order.resize(kVmsMax);
    ASSERT_TRUE(journal.append(e, Durability::durable).ok());
    EXPECT_EQ(std::move(Journal::open(file).value()).evacuation(), e);
    e.order.resize(kVmsMax + 1);
    EXPECT_EQ(journal.append(e, Durability::durable).error().code, Errc::invalid_argument);
}

// Against a plain model: after any crash exactly the acknowledged durable records, or more of the
// tail.
TEST(Journal, RandomCrashesKeepWhatWasAcknowledged) {
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        Random random(seed);
        MemoryJournalFile file;
        uint64_t acknowledged = 0, written = 0;
        for (int life = 0; life < 6; ++life) {
            Result<Journal> journal = Journal::open(file);
            ASSERT_TRUE(journal.ok()) << "seed " << seed << ": " << journal.error().message();
            const HandoverRecord* known = journal->find(Role::home, VmId{1});
            const uint64_t there = known == nullptr ? 0 : raw(known->handover);
            ASSERT_GE(there, acknowledged) << "seed " << seed;
            ASSERT_LE(there, written) << "seed " << seed;
            acknowledged = written = there;
            for (uint64_t n = random.below(5); n > 0; --n) {
                const bool durable = random.chance(0.5);
                ASSERT_TRUE(journal
                                ->append(record(1, State::draining, ++written),
                                         durable ? Durability::durable : Durability::lazy)
                                .ok());
                if (durable) acknowledged = written;
            }
            file.crash(random);
        }
    }
}

}  // namespace
}  // namespace evac::evacuation
