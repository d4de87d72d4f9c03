// What an unauthenticated datagram costs: no allocation, neither ours nor OpenSSL's, and less CPU
// than handling a data packet. A program of its own: it counts every operator new and, through
// OpenSSL's hooks, every allocation of the library. CPU time is printed, not asserted.
#include <gtest/gtest.h>
#include <openssl/crypto.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "dtls.hpp"
#include "packet.hpp"
#include "sim_world.hpp"

namespace {

uint64_t allocations = 0;

void* count_malloc(size_t size, const char*, int) {
    ++allocations;
    return std::malloc(size);
}
void* count_realloc(void* p, size_t size, const char*, int) {
    ++allocations;
    return std::realloc(p, size);
}
void count_free(void* p, const char*, int) {
    std::free(p);
}

// Before OpenSSL allocates anything.
const bool hooked = CRYPTO_set_mem_functions(&count_malloc, &count_realloc, &count_free) == 1;

void* count_new(size_t size) {
    ++allocations;
    void* p = std::malloc(size == 0 ? 1 : size);
    if (p == nullptr) std::abort();
    return p;
}

}  // namespace

void* operator new(size_t size) {
    return count_new(size);
}
void* operator new[](size_t size) {
    return count_new(size);
}
void operator delete(void* p) noexcept {
    std::free(p);
}
void operator delete[](void* p) noexcept {
    std::free(p);
}
void operator delete(void* p, size_t) noexcept {
    std::free(p);
}
void operator delete[](void* p, size_t) noexcept {
    std::free(p);
}

namespace evac::wan::testing {
namespace {

constexpr wan_port::UdpAddress kStranger{0x0a000063, 7777};

double cpu_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

class Cheap : public ::testing::Test {
  protected:
    static constexpr int kRounds = 4000;

    void SetUp() override {
        ASSERT_TRUE(hooked);
        world_.tap = [this](size_t from, Bytes& bytes) {
            if (from != 0) return;
            if (bytes[0] == std::byte{kTypeHandshake} && hello_.empty()) hello_ = bytes;
            if (bytes[0] == std::byte{kTypeData} && data_.size() < 2000) data_.push_back(bytes);
        };
        ASSERT_TRUE(world_.run_until(world_.now_ns() + kNsPerSecond, [&] {
            return world_.a().session() != SessionId::none &&
                   world_.a().session() == world_.b().session();
        }));
        data_.clear();
        while (world_.a().send(Class::bulk, world_.a().session(), Bytes(250'000)) ==
               SendResult::ok) {
        }
        world_.link(0).outage = true;  // kept for later
        world_.run_until(world_.now_ns() + 300 * kNsPerMs);
        std::erase_if(data_, [](const Bytes& b) { return b.size() < 1150; });
        ASSERT_GT(data_.size(), 50u);
    }

    // Receives and answers `make(i)`, one per call; prints its cost against a data packet's.
    template <class Make>
    void expect_cheap(const char* what, Endpoint& end, const wan_port::UdpAddress& from,
                      DropReason reason, Make&& make) {
        std::array<std::byte, kDatagramBytesMax> out;
        wan_port::UdpAddress to;
        const uint64_t now = world_.now_ns() + kNsPerSecond;
        while (end.transmit(now, out, to) != 0) {
        }
        const auto before = end.stats(now).drops[static_cast<size_t>(reason)];
        uint64_t allocated = allocations;
        double start = cpu_ns();
        for (int i = -100; i < kRounds; ++i) {
            if (i == 0) {  // those before fill caches
                allocated = allocations;
                start = cpu_ns();
            }
            end.receive(now, from, make(i));
            while (end.transmit(now, out, to) != 0) {
            }
        }
        const double spent = cpu_ns() - start;
        const uint64_t counted = allocations - allocated;
        EXPECT_EQ(end.stats(now).drops[static_cast<size_t>(reason)] - before, kRounds + 100u)
            << what;
        EXPECT_EQ(counted, 0u) << what;
        std::printf("%-42s %6.0f ns\n", what, spent / kRounds);
    }

    World world_{{}};
    Bytes hello_;
    std::vector<Bytes> data_;
};

TEST_F(Cheap, UnauthenticatedDatagramsAllocateNothing) {
    Endpoint& b = world_.b();
    Bytes junk = data_.back();
    const auto numbered = [&](int i) {  // a fresh number each time, so that it is not a replay
        const auto n = static_cast<uint32_t>(i + 100'000);
        for (size_t k = 0; k < 4; ++k) junk[6 + k] = static_cast<std::byte>((n >> (8 * k)) & 0xff);
        return ByteSpan(junk);
    };
    expect_cheap("forged data, live session, full size", b, World::kAddressA, DropReason::bad_tag,
                 numbered);
    expect_cheap("the same from another address", b, kStranger, DropReason::bad_tag, numbered);
    junk[1] = std::byte{77};
    expect_cheap("wrong key phase", b, World::kAddressA, DropReason::bad_phase, numbered);
    junk[2] ^= std::byte{1};
    expect_cheap("data of an unknown session (hint)", b, kStranger, DropReason::unknown_session,
                 numbered);
    const Bytes type(1400, std::byte{0x77});
    expect_cheap("unknown kind", b, kStranger, DropReason::unknown_type,
                 [&](int) { return ByteSpan(type); });
    Bytes hint(kHintBytes, std::byte{1});
    hint[0] = std::byte{kTypeHint};
    expect_cheap("hint", b, kStranger, DropReason::hint_ignored,
                 [&](int) { return ByteSpan(hint); });
    Bytes stray(1200, std::byte{1});
    expect_cheap("handshake of no attempt, to the connector", world_.a(), World::kAddressB,
                 DropReason::handshake_unexpected, [&](int) { return ByteSpan(stray); });
    expect_cheap("not a hello", b, kStranger, DropReason::handshake_malformed,
                 [&](int) { return ByteSpan(stray); });
    Bytes hello = hello_;
    hello[3] ^= std::byte{0xff};  // another attempt than the session's
    expect_cheap("hello without a cookie (answered)", b, kStranger, DropReason::handshake_no_cookie,
                 [&](int i) {
                     hello[2] = static_cast<std::byte>(i & 0xff);  // attempt
                     return ByteSpan(hello);
                 });
}

TEST_F(Cheap, PrintsWhatADataPacketCosts) {
    Endpoint& b = world_.b();
    std::array<std::byte, kDatagramBytesMax> out;
    wan_port::UdpAddress to;
    const double start = cpu_ns();
    for (const Bytes& datagram : data_) {
        b.receive(world_.now_ns(), World::kAddressA, datagram);
        b.tick(world_.now_ns());
        while (b.transmit(world_.now_ns(), out, to) != 0) {
        }
    }
    std::printf("%-42s %6.0f ns\n", "data packet taken, acknowledgements sent",
                (cpu_ns() - start) / static_cast<double>(data_.size()));
    EXPECT_GT(b.stats(world_.now_ns()).packets_received, data_.size());
}

// The counters count: otherwise the test above would prove nothing.
TEST(CheapCounters, SeeOurAllocationsAndOpenSsls) {
    const uint64_t before = allocations;
    const std::unique_ptr<int> ours(new int(1));
    EXPECT_GT(allocations, before);
    const uint64_t between = allocations;
    void* theirs = OPENSSL_malloc(10);
    OPENSSL_free(theirs);
    EXPECT_GT(allocations, between);
}

}  // namespace
}  // namespace evac::wan::testing
