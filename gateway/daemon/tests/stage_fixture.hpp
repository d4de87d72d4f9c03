#pragma once
// A ReducerStage on its own thread, and away's half behind a transport that keeps what it is given.
// Time is the test's.
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "evac/core/random.hpp"
#include "evac/dedup/expander.hpp"
#include "evac/protocol/messages.hpp"
#include "reducer_stage.hpp"

namespace evac::daemon::test {

using Page = PageBuffer;

inline constexpr VmId kVm{1};
inline constexpr RegionId kRam{0};
inline constexpr RegionId kDisk{1};
inline constexpr std::string_view kSecret = "a secret of the pair, for tests";
inline constexpr std::string_view kNewSecret = "another secret of the pair";
inline constexpr int kPatienceMs = 30'000;  // a hang fails, a slow machine does not

inline Page page_of(uint64_t id) {
    Page page{};
    Random random(id * 0x1234567);
    for (size_t i = 0; i < kPageBytes; i += 8) {
        const uint64_t word = random.next();
        std::memcpy(page.data() + i, &word, 8);
    }
    return page;
}
inline Page mutated(Page page) {
    for (size_t at = 700; at < 760; at += 3) page[at] ^= std::byte{0x55};
    return page;
}
inline Page shifted(const Page& first, const Page& second, size_t shift) {
    Page page{};
    std::memcpy(page.data(), first.data() + shift, kPageBytes - shift);
    std::memcpy(page.data() + kPageBytes - shift, second.data(), shift);
    return page;
}

// By any thread, unlike a ManualClock: the stage reads it while the test moves it.
class SharedClock final : public Clock {
  public:
    uint64_t now_ns() const override { return now_ns_.load(); }
    int64_t wall_unix_ms() const override { return 1'700'000'000'000; }
    void advance_ns(uint64_t ns) { now_ns_ += ns; }

  private:
    std::atomic<uint64_t> now_ns_{1};
};

// Takes every message; nothing else happens.
class KeepingTransport final : public wan::Transport {
  public:
    KeepingTransport() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
    void run(std::stop_token) override {}
    using wan::Transport::try_send;
    wan::SendResult try_send(wan::Class, wan::SessionId session, Bytes&& message,
                             const wan::SendOptions&) override {
        if (session != this->session()) return wan::SendResult::session_changed;
        const std::lock_guard lock(mutex_);
        sent_.push_back(std::move(message));
        return wan::SendResult::ok;
    }
    bool try_cancel(wan::Class, wan::SessionId, uint64_t) override { return false; }
    std::optional<wan::Dropped> try_dropped(wan::Class) override { return {}; }
    int writable_fd(wan::Class) const override { return fd_.get(); }
    uint64_t queued_bytes(wan::Class) const override { return 0; }
    uint64_t unsent_bytes(wan::Class) const override { return 0; }
    std::optional<wan::Message> try_receive(wan::Class) override { return {}; }
    int control_fd() const override { return fd_.get(); }
    int data_fd() const override { return fd_.get(); }
    std::optional<wan::TransportEvent> try_event() override { return {}; }
    bool connected() const override { return true; }
    wan::SessionId session() const override { return session_.load(); }
    wan::SessionState state() const override { return wan::SessionState::up; }
    wan::Stats stats() const override { return {}; }
    void set_ceiling_bits_per_s(uint64_t) override {}
    void set_tls(std::shared_ptr<const wan::TlsContext>) override {}
    void set_scavenger(bool) override {}

    void set_session(wan::SessionId session) { session_ = session; }
    std::optional<Bytes> take() {
        const std::lock_guard lock(mutex_);
        if (sent_.empty()) return std::nullopt;
        Bytes message = std::move(sent_.front());
        sent_.pop_front();
        return message;
    }

  private:
    UniqueFd fd_;
    std::atomic<wan::SessionId> session_{wan::SessionId{1}};
    std::mutex mutex_;
    std::deque<Bytes> sent_;
};

inline dedup::IdentityHasher make_hasher(std::string_view secret) {
    return std::move(dedup::IdentityHasher::create(as_byte_span(secret))).value();
}

class Away final : public dedup::StagedPages {
  public:
    Away() : expander_(std::move(dedup::Expander::create(make_hasher(kSecret), *this)).value()) {}
    Status read(const PageKey& key, std::span<std::byte, kPageBytes> out) override {
        const auto at = pages.find(key);
        if (at == pages.end()) return make_error(Errc::not_found, "page");
        std::copy(at->second.begin(), at->second.end(), out.begin());
        return {};
    }
    Status put(const PageKey& key, Epoch, std::span<const std::byte, kPageBytes> page) override {
        std::copy(page.begin(), page.end(), pages[key].begin());
        return {};
    }
    Status put_zero(const PageKey& first, Epoch, uint64_t count) override {
        for (uint64_t i = 0; i < count; ++i) pages[{first.vm, first.region, first.page + i}] = {};
        return {};
    }
    dedup::Expander& expander() { return *expander_; }
    const dedup::ExpandCounters& totals() const { return expander_->totals(); }
    std::map<PageKey, Page> pages;

  private:
    std::unique_ptr<dedup::Expander> expander_;
};

class Stage {
  public:
    // `pages` in RAM and on the disk each; no page cache: bases come from home's content alone.
    Stage(uint64_t pages, double background_share, Away* at = nullptr)
        : away(at != nullptr ? *at : own_away_), pages_(pages) {
        index_ =
            std::move(dedup::Index::open({.directory = "", .table_bytes = 1 << 16}, log_)).value();
        ReducerOptions options;
        options.zstd_level = 1;  // not tuned: all rungs always
        options.delta_cache_bytes = 0;
        options.background_share = background_share;
        stage = std::move(ReducerStage::create(options, as_byte_span(kSecret), *index_, transport,
                                               clock, log_))
                    .value();
        thread_ = std::jthread([this](std::stop_token stop) { stage->run(stop); });
    }
    ~Stage() {
        thread_.request_stop();
        thread_.join();
    }

    // A session, and the VM in it, synchronised with an away that has nothing.
    void begin(std::vector<HomeSource>&& sources) {
        const uint64_t bytes = pages_ * kPageBytes;
        stage->command(to_reducer::NewSession{transport.session()});
        stage->command(to_reducer::AddVm{
            kVm,
            1,
            {{"pc.ram", RegionKind::main_ram, bytes}, {"vd0", RegionKind::disk, bytes}},
            flow_,
            std::move(sources)});
        reset();
    }
    void reset() {
        stage->command(to_reducer::ResetVm{kVm, ++generation_});
        wait("the VM is reset", [&] {
            while (const auto event = stage->try_event()) {
                const auto* done = std::get_if<from_reducer::VmReset>(&*event);
                if (done != nullptr && done->generation == generation_) return true;
            }
            return false;
        });
    }
    // At both sites, and the session that follows; tags are not loaded.
    void change_secret(std::string_view secret) {
        stage->command(to_reducer::Rekey{std::string(secret)});
        away.expander().rekey(make_hasher(secret));
        fingerprinter = dedup::Fingerprinter(dedup::fingerprint_seed(as_byte_span(secret)));
        transport.set_session(wan::SessionId{static_cast<uint64_t>(transport.session()) + 1});
        stage->command(to_reducer::NewSession{transport.session()});
        reset();
    }
    uint32_t generation() const { return generation_; }
    void push(RegionId region, uint64_t page, const Page& content) {
        fed[{kVm, region, page}] = content;
        push_as(generation_, region, page, content);
    }
    // Not expected at away.
    void push_as(uint32_t generation, RegionId region, uint64_t page, const Page& content) {
        ASSERT_TRUE(stage->budget().try_reserve());
        CapturedItem item;
        item.vm = kVm;
        item.generation = generation;
        item.region = region;
        item.page = page;
        item.epoch = Epoch{1};
        item.fingerprint = fingerprinter(content);
        ASSERT_TRUE(stage->push(0, std::move(item), true, ByteSpan(content)));
    }
    // All that was pushed has gone out, and away holds it.
    void settle() {
        const auto all_arrived = [&] {
            take_all();
            for (const auto& [key, page] : fed) {
                const auto at = away.pages.find(key);
                if (at == away.pages.end() || at->second != page) return false;
            }
            return true;
        };
        wait("away holds all", all_arrived);
    }
    // What away has, under the secret in force, as the FINGERPRINTS exchange brings it.
    void load_tags() {
        for (const RegionId region : {kRam, kDisk}) {
            std::vector<Fingerprint> prints(pages_);
            for (uint64_t i = 0; i < pages_; ++i) {
                const auto at = away.pages.find({kVm, region, i});
                if (at != away.pages.end()) prints[i] = fingerprinter(at->second);
            }
            stage->command(to_reducer::LoadTags{kVm, region, 0, std::move(prints)});
        }
    }
    // A pass that learns so many pages, in all since the stage began.
    void wait_for_reindex(uint64_t learned) {
        wait("a pass begins and ends", [&] {
            clock.advance_ns(100 * kNsPerMs);
            // In this order: what it learned is shown with or after its end.
            return stage->stats().learned >= learned && !stage->reindex().running.load();
        });
        EXPECT_EQ(stage->stats().learned, learned);
    }
    template <class Condition>
    void wait(const char* what, Condition&& condition) {
        for (int i = 0; i < kPatienceMs; ++i) {
            if (condition()) return;
            ::usleep(1000);
        }
        FAIL() << "not within " << kPatienceMs << " ms: " << what;
    }

    SharedClock clock;
    KeepingTransport transport;
    std::unique_ptr<ReducerStage> stage;
    dedup::Fingerprinter fingerprinter{dedup::fingerprint_seed(as_byte_span(kSecret))};
    std::map<PageKey, Page> fed;
    uint64_t naks = 0;

  private:
    void take_all() {
        while (const auto bytes = transport.take()) {
            auto message = protocol::decode(*bytes);
            ASSERT_TRUE(message.ok());
            const auto* batch = std::get_if<protocol::Batch>(&*message);
            if (batch == nullptr) continue;
            auto expanded = away.expander().expand(batch->payload);
            ASSERT_TRUE(expanded.ok()) << expanded.error().message();
            to_reducer::Naks refused{expanded->vm, expanded->sequence, {}};
            for (const auto& nak : expanded->naks) {
                refused.pages.push_back({nak.key.region, nak.key.page, nak.epoch});
            }
            naks += refused.pages.size();
            if (!refused.pages.empty()) stage->command(std::move(refused));
            stage->command(to_reducer::Acknowledge{expanded->vm, {expanded->sequence}});
        }
    }

    Away own_away_;

  public:
    Away& away;

  private:
    NullLogger log_;
    uint64_t pages_;
    uint32_t generation_ = 1;
    std::shared_ptr<VmFlow> flow_ = std::make_shared<VmFlow>();
    std::unique_ptr<dedup::Index> index_;
    std::jthread thread_;
};

}  // namespace evac::daemon::test
