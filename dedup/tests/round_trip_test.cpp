// Reducer and Expander joined by lanes that reorder against each other, with lies, losses and
// resets. Property: when everything is quiet, away holds exactly what was fed.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "util.hpp"

namespace evac::dedup {
namespace {

using test::Page;
using test::page_of;
using test::text_page_of;

constexpr uint32_t kVms = 3;
constexpr uint64_t kPages = 48;
constexpr uint64_t kContents = 60;

// Random and compressible ones, near ones of each, and pages made of two neighbours.
Page content_of(uint64_t id) {
    const uint64_t of = id % 10;
    if (id < 20 || of == 0) return page_of(id);
    if (id < 30) return text_page_of(id);
    if (id < 40) return test::mutated(page_of(of), id, 1 + of * 20);
    if (id < 50) return test::shifted(page_of(of), page_of(of + 1), of % 7 * 512 + 512);
    return test::mutated(test::shifted(page_of(of), page_of(of + 1), 1024), id, 5);
}

// Away's bookkeeping as storage keeps it: a put settles what was owed for the page.
struct OwingStaged : test::MemoryStaged {
    Status put(const PageKey& key, Epoch epoch,
               std::span<const std::byte, kPageBytes> page) override {
        const auto owing = owed.find(key);
        if (owing != owed.end() && owing->second <= epoch) owed.erase(owing);
        return MemoryStaged::put(key, epoch, page);
    }
    std::map<PageKey, Epoch> owed;
};

class World {
  public:
    explicit World(uint64_t seed) : random_(seed) {
        NullLogger log;
        index_ = std::move(Index::open({.directory = "", .table_bytes = 4096}, log)).value();
        ReducerOptions options;
        if (seed % 3 == 0) options.retained_bytes_max = 5 * kPageBytes;
        options.sketch_table_bytes = 1 << 16;
        options.cache_bytes = seed % 2 == 0 ? 32 * kPageBytes : 1 << 20;
        reducer_ = std::move(Reducer::create(options, test::make_hasher(), *index_,
                                             [this](EncodedBatch&& batch) {
                                                 lanes_[batch.lane].push_back(std::move(batch));
                                             }))
                       .value();
        expander_ = std::move(Expander::create(test::make_hasher(), away_)).value();
        for (uint32_t vm = 0; vm < kVms; ++vm) {
            EXPECT_TRUE(
                reducer_->set_region(VmId{vm}, RegionId{0}, RegionKind::main_ram, kPages).ok());
            EXPECT_TRUE(reducer_->set_region(VmId{vm}, RegionId{1}, RegionKind::disk, kPages).ok());
        }
        for (uint64_t id = 0; id < kContents; ++id) contents_.push_back(content_of(id));
    }

    // One random act.
    void step() {
        const uint64_t act = random_.below(1000);
        if (act < 400) return feed(some_key(), random_.below(kContents));
        if (act < 540) return feed_run();
        if (act < 700) return deliver();
        if (act < 850) return answer();
        if (act < 880) return reducer_->flush();
        if (act < 960) return lie();
        if (act < 970) {
            away_.unreadable.insert(some_key());
            return;
        }
        if (act < 980) return away_.unreadable.clear();
        if (act < 985) return lose_session();
        if (act < 990) return forget_one();
        if (act < 993) return swap_page();
        if (act < 998) return quiet();
    }

    // Drains everything, then begins the next round.
    void quiet() {
        away_.unreadable.clear();
        settle();
        check();
        ++epoch_;
    }
    void settle() {
        for (int turn = 0; turn < 10'000; ++turn) {
            reducer_->flush();
            deliver();
            answer();
            if (answers_.empty() &&
                std::ranges::all_of(lanes_, [](auto& l) { return l.empty(); }) &&
                open_pages() == 0) {
                break;
            }
        }
    }

    void check() {
        for (const PageKey& key : rotten_) {
            if (fed_.contains(key)) feed(key, fed_.at(key), false);
        }
        if (!rotten_.empty()) settle();
        rotten_.clear();
        for (const auto& [key, id] : fed_) {
            const auto at = away_.pages.find(key);
            ASSERT_NE(at, away_.pages.end());
            ASSERT_EQ(at->second.second, contents_[id])
                << "vm " << raw(key.vm) << " region " << raw(key.region) << " page " << key.page;
        }
        EXPECT_EQ(reducer_->stats().retained_pages, 0u);
        EXPECT_TRUE(away_.owed.empty());
    }

    const ReducerStats& stats() const { return reducer_->stats(); }
    const ExpandCounters& totals() const { return expander_->totals(); }

  private:
    struct Answer {
        Expanded expanded;
        uint8_t lane;
    };

    PageKey some_key() {
        return PageKey{VmId(random_.below(kVms)), RegionId(random_.below(2)),
                       random_.below(kPages)};
    }
    uint64_t open_pages() const {
        uint64_t pages = 0;
        for (uint32_t vm = 0; vm < kVms; ++vm) pages += reducer_->open_pages(VmId{vm});
        return pages;
    }
    Fingerprint fingerprint_of(uint64_t id) const { return fingerprinter_(contents_[id]); }

    void feed(const PageKey& key, uint64_t id, bool vary = true) {
        fed_[key] = id;
        PageItem item;
        item.key = key;
        item.epoch = Epoch{epoch_};
        item.lane = raw(key.region) == 0 ? 3 : 2;  // one lane per page: the contract
        if (vary && random_.chance(0.05)) {
            reducer_->set_effort({random_.chance(0.9), random_.chance(0.9), random_.chance(0.8),
                                  static_cast<int>(random_.below(4))});
        }
        item.is_zero = id == 0;
        if (id != 0) {
            item.fingerprint = fingerprint_of(id);
            item.page = contents_[id];
        }
        reducer_->add(item);
    }
    // Consecutive pages of consecutive contents, so that runs form (also a run over itself).
    void feed_run() {
        PageKey key = some_key();
        const bool neighbours = random_.chance(0.6);  // what shifted pages are made of
        const uint64_t first = neighbours ? random_.below(8) : random_.below(kContents);
        for (uint64_t i = 0; i < 12 && key.page < kPages; ++i, ++key.page) {
            feed(key, !neighbours && random_.chance(0.3) ? first : (first + i) % kContents);
        }
    }
    void deliver() {
        std::deque<EncodedBatch>& lane = lanes_[random_.below(kLanesMax)];
        if (lane.empty()) return;
        auto expanded = expander_->expand(lane.front().message);
        ASSERT_TRUE(expanded.ok()) << expanded.error().message();
        EXPECT_EQ(expanded->vm, lane.front().vm);
        EXPECT_EQ(expanded->sequence, lane.front().sequence);
        for (const Nak& nak : expanded->naks) away_.owed[nak.key] = nak.epoch;
        answers_.push_back(Answer{std::move(*expanded), lane.front().lane});
        lane.pop_front();
    }
    void answer() {
        if (answers_.empty()) return;
        const Answer answer = std::move(answers_.front());
        answers_.pop_front();
        const Expanded& expanded = answer.expanded;
        for (const Nak& nak : expanded.naks) {
            const NakOutcome outcome =
                reducer_->nak(expanded.vm, expanded.sequence, nak.key, nak.epoch, answer.lane);
            if (outcome == NakOutcome::unknown) feed(nak.key, fed_.at(nak.key));
        }
        reducer_->acknowledge(expanded.vm, expanded.sequence);
    }
    // Plants a wrong hint that passes all of home's checks: some place, at away holding anything,
    // is said to have some content, in the index and in the tags alike.
    void lie() {
        const Location place = some_key();
        const uint64_t id = 1 + random_.below(kContents - 1);
        index_->insert(index_key(fingerprint_of(id)), place);
        if (random_.chance(0.3)) return;  // the tags tell the truth
        const Fingerprint fingerprint = fingerprint_of(id);
        ASSERT_TRUE(
            reducer_->load_tags(place.vm, place.region, place.page, {&fingerprint, 1}).ok());
    }
    // Away's copy rots: what home believes of the page is wrong until the page is sent again.
    void swap_page() {
        const PageKey key = some_key();
        const auto at = away_.pages.find(key);
        if (at == away_.pages.end()) return;
        at->second.second = contents_[1 + random_.below(kContents - 1)];
        rotten_.insert(key);
    }
    // New handshake: what is in flight is lost, home reloads from away and sends what differs.
    void lose_session() {
        for (auto& lane : lanes_) lane.clear();
        answers_.clear();
        away_.owed.clear();
        for (uint32_t vm = 0; vm < kVms; ++vm) reducer_->reset_vm(VmId{vm});
        ++epoch_;
        for (const auto& [key, held] : away_.pages) {
            const Fingerprint fingerprint = fingerprinter_(held.second);
            ASSERT_TRUE(reducer_->load_tags(key.vm, key.region, key.page, {&fingerprint, 1}).ok());
        }
        for (const auto& [key, id] : std::map(fed_)) {
            const auto at = away_.pages.find(key);
            if (at == away_.pages.end() || at->second.second != contents_[id]) feed(key, id);
        }
    }
    // A VM is removed and enrolled anew under its old number, which never happens but must be
    // harmless.
    void forget_one() {
        const auto vm = VmId(random_.below(kVms));
        const auto of_vm = [vm](const auto& entry) { return entry.first.vm == vm; };
        std::erase_if(fed_, of_vm);
        std::erase_if(away_.pages, of_vm);
        std::erase_if(away_.owed, of_vm);
        for (auto& lane : lanes_)
            std::erase_if(lane, [vm](const auto& batch) { return batch.vm == vm; });
        std::erase_if(answers_, [vm](const auto& answer) { return answer.expanded.vm == vm; });
        reducer_->forget_vm(vm);
        EXPECT_TRUE(reducer_->set_region(vm, RegionId{0}, RegionKind::main_ram, kPages).ok());
        EXPECT_TRUE(reducer_->set_region(vm, RegionId{1}, RegionKind::disk, kPages).ok());
    }

    Random random_;
    Fingerprinter fingerprinter_ = test::make_fingerprinter();
    std::vector<Page> contents_;
    std::unique_ptr<Index> index_;
    std::unique_ptr<Reducer> reducer_;
    OwingStaged away_;
    std::unique_ptr<Expander> expander_;
    std::array<std::deque<EncodedBatch>, kLanesMax> lanes_;
    std::deque<Answer> answers_;
    std::map<PageKey, uint64_t> fed_;
    std::set<PageKey> rotten_;
    uint32_t epoch_ = 1;
};

TEST(RoundTrip, AwayHoldsWhatWasFed) {
    ReducerStats sum;
    uint64_t mismatched = 0;
    uint64_t unreadable = 0;
    uint64_t referenced = 0;
    uint64_t shifted = 0;
    uint64_t deltas = 0;
    for (uint64_t seed = 1; seed <= 60; ++seed) {
        SCOPED_TRACE(seed);
        World world(seed);
        for (int i = 0; i < 1500; ++i) world.step();
        world.quiet();
        if (HasFailure()) return;
        sum.naks_resent += world.stats().naks_resent;
        sum.naks_superseded += world.stats().naks_superseded;
        sum.naks_unknown += world.stats().naks_unknown;
        sum.stale_hits += world.stats().stale_hits;
        sum.literals_for_retention += world.stats().literals_for_retention;
        shifted += world.totals().shifted_pages;
        deltas += world.totals().delta_pages;
        mismatched += world.totals().mismatched_pages;
        unreadable += world.totals().unreadable_pages;
        referenced += world.totals().referenced_pages;
    }
    // Every path was taken; otherwise the property would say little.
    EXPECT_GT(sum.naks_resent, 1000u);
    EXPECT_GT(sum.naks_superseded, 100u);
    EXPECT_GT(sum.stale_hits, 1000u);
    EXPECT_GT(sum.literals_for_retention, 100u);
    EXPECT_GT(mismatched, 1000u);
    EXPECT_GT(unreadable, 100u);
    EXPECT_GT(referenced, 10'000u);
    EXPECT_GT(shifted, 200u);
    EXPECT_GT(deltas, 1500u);
}

struct Away {
    Away() { expander = std::move(Expander::create(test::make_hasher(), pages)).value(); }
    Expanded take(const Bytes& message) {
        auto result = expander->expand(message);
        EXPECT_TRUE(result.ok()) << result.error().message();
        return std::move(*result);
    }
    test::MemoryStaged pages;
    std::unique_ptr<Expander> expander;
};

// The canary of the whole design: a crafted identity, or an identity under another secret, puts
// nothing.
TEST(Expander, BelievesContentOnly) {
    Away away;
    const PageKey source{VmId{1}, RegionId{0}, 1};
    const PageKey target{VmId{1}, RegionId{0}, 2};
    ASSERT_TRUE(away.pages.put(source, Epoch{1}, page_of(1)).ok());
    auto builder = std::move(BatchBuilder::create(1)).value();
    auto stranger = std::move(IdentityHasher::create(as_byte_span("another secret, 16+"))).value();
    Identity one_bit_off = test::make_hasher()(page_of(1));
    one_bit_off[15] ^= std::byte{1};
    uint64_t sequence = 0;
    for (const Identity& wrong :
         {Identity{}, one_bit_off, stranger(page_of(1)), test::make_hasher()(page_of(2))}) {
        builder.add_reference(target, Epoch{7}, wrong, source);
        const Expanded expanded = away.take(builder.finish(++sequence).message);
        ASSERT_EQ(expanded.naks, (std::vector<Nak>{{target, Epoch{7}}}));
        EXPECT_EQ(expanded.counters.mismatched_pages, 1u);
        EXPECT_EQ(expanded.sequence, sequence);
        EXPECT_FALSE(away.pages.pages.contains(target));
    }
    builder.add_reference(target, Epoch{7}, test::make_hasher()(page_of(1)), source);
    EXPECT_TRUE(away.take(builder.finish(++sequence).message).naks.empty());
    EXPECT_EQ(away.pages.pages.at(target).second, page_of(1));
    EXPECT_EQ(away.expander->totals().referenced_pages, 1u);
}

TEST(Expander, OwesNothingThatTheSameBatchBrings) {
    Away away;
    auto builder = std::move(BatchBuilder::create(1)).value();
    const auto key = [](uint64_t page) { return PageKey{VmId{1}, RegionId{0}, page}; };
    for (uint64_t page = 1; page <= 4; ++page) {
        builder.add_reference(key(page), Epoch{2}, Identity{}, key(90));
    }
    builder.add_reference(key(1), Epoch{2}, Identity{}, key(91));
    builder.add_literal(key(2), Epoch{2}, page_of(2));
    builder.add_zero(key(3), Epoch{1});  // an older epoch settles nothing
    builder.add_reference(key(4), Epoch{2}, test::make_hasher()(page_of(2)), key(2));
    const Expanded expanded = away.take(builder.finish(1).message);
    EXPECT_EQ(expanded.naks, (std::vector<Nak>{{key(1), Epoch{2}}, {key(3), Epoch{2}}}));
    EXPECT_EQ(expanded.counters.unreadable_pages, 5u);
}

TEST(Expander, ResolvesARunThatFeedsItself) {
    Away away;
    auto builder = std::move(BatchBuilder::create(1)).value();
    const Identity identity = test::make_hasher()(page_of(1));
    builder.add_literal(PageKey{VmId{1}, RegionId{0}, 0}, Epoch{1}, page_of(1));
    for (uint64_t i = 1; i < 10; ++i) {  // page i from page i - 1: one run
        builder.add_reference(PageKey{VmId{1}, RegionId{0}, i}, Epoch{1}, identity,
                              Location{VmId{1}, RegionId{0}, i - 1});
    }
    EXPECT_TRUE(away.take(builder.finish(1).message).naks.empty());
    for (const auto& [key, held] : away.pages.pages) EXPECT_EQ(held.second, page_of(1));
    EXPECT_EQ(away.pages.pages.size(), 10u);
}

TEST(Expander, PassesOnWhatTheStageRefuses) {
    Away away;
    auto builder = std::move(BatchBuilder::create(1)).value();
    builder.add_zero(PageKey{VmId{1}, RegionId{0}, away.pages.page_limit}, Epoch{1});
    const auto zero = away.expander->expand(builder.finish(1).message);
    ASSERT_FALSE(zero.ok());
    EXPECT_EQ(zero.error().code, Errc::invalid_argument);
    builder.add_literal(PageKey{VmId{1}, RegionId{0}, away.pages.page_limit}, Epoch{1}, page_of(1));
    EXPECT_FALSE(away.expander->expand(builder.finish(2).message).ok());
    EXPECT_TRUE(away.pages.pages.empty());
}

TEST(Expander, AppliesNothingOfABadBatch) {
    Away away;
    auto builder = std::move(BatchBuilder::create(1)).value();
    builder.add_zero(PageKey{VmId{1}, RegionId{0}, 1}, Epoch{1});
    builder.add_literal(PageKey{VmId{1}, RegionId{0}, 2}, Epoch{1}, text_page_of(1));
    Bytes message = builder.finish(1).message;
    message[message.size() - 6] ^= std::byte{0x55};
    Random random(4);
    for (int i = 0; i < 2000; ++i) {
        Bytes bad = message;
        bad.resize(random.below(bad.size()));
        EXPECT_FALSE(away.expander->expand(bad).ok());
    }
    EXPECT_TRUE(away.pages.pages.empty());
}

}  // namespace
}  // namespace evac::dedup
