// CPU time of the code of forward error correction, per operation. Prints; asserts only that the
// two ways of decoding agree. Not part of ctest: build/h/tests/wan_fec_bench
#include <isa-l/erasure_code.h>
#include <sys/resource.h>

#include <cstdio>
#include <vector>

#include "evac/core/assert.hpp"
#include "evac/core/random.hpp"
#include "fec_code.hpp"
#include "fec_history.hpp"

using namespace evac;
using namespace evac::wan;

namespace {

constexpr size_t kShardBytes = 1412;

double cpu_us() {
    rusage u{};
    ::getrusage(RUSAGE_SELF, &u);
    return static_cast<double>(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
           static_cast<double>(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

template <class Work>
double time_us(Work&& work) {
    size_t rounds = 0;
    const double start = cpu_us();
    double spent = 0;
    do {
        for (int i = 0; i < 50; ++i) work();
        rounds += 50;
        spent = cpu_us() - start;
    } while (spent < 200'000);
    return spent / static_cast<double>(rounds);
}

struct Block {
    std::vector<Bytes> members;
    std::vector<Bytes> parities;
    Block(size_t k, size_t m) {
        Random random(1);
        for (size_t i = 0; i < k; ++i) {
            members.emplace_back(kShardBytes);
            for (std::byte& b : members.back()) b = static_cast<std::byte>(random.below(256));
        }
        for (size_t row = 0; row < m; ++row) {
            parities.emplace_back(kShardBytes);
            for (size_t i = 0; i < k; ++i) fec_add(parities.back(), row, i, members[i]);
        }
    }
};

// The first e members are lost. Leaves them in `out`.
void by_syndromes(const Block& block, size_t e, std::vector<Bytes>& out) {
    static std::vector<Bytes> work(kFecParityMax, Bytes(kShardBytes));
    std::array<uint8_t, kFecParityMax> rows{}, missing{};
    std::array<std::byte*, kFecParityMax> from{}, to{};
    for (size_t r = 0; r < e; ++r) {
        work[r] = block.parities[r];
        for (size_t i = e; i < block.members.size(); ++i) fec_add(work[r], r, i, block.members[i]);
        rows[r] = missing[r] = static_cast<uint8_t>(r);
        from[r] = work[r].data();
        to[r] = out[r].data();
    }
    fec_solve({rows.data(), e}, {missing.data(), e}, {from.data(), e}, {to.data(), e}, kShardBytes);
}

// The usual way: invert the k x k matrix of what arrived, then one product for each lost shard.
void by_inversion(const Block& block, size_t e, std::vector<Bytes>& out) {
    const size_t k = block.members.size();
    static std::vector<unsigned char> matrix(4096), inverse(4096), tables(32 * 4096);
    std::fill_n(matrix.begin(), k * k, static_cast<unsigned char>(0));
    std::vector<unsigned char*> sources, targets;
    for (size_t i = e; i < k; ++i) {
        matrix[(i - e) * k + i] = 1;
        sources.push_back(
            reinterpret_cast<unsigned char*>(const_cast<std::byte*>(block.members[i].data())));
    }
    for (size_t r = 0; r < e; ++r) {
        for (size_t i = 0; i < k; ++i) matrix[(k - e + r) * k + i] = fec_coefficient(r, i);
        sources.push_back(
            reinterpret_cast<unsigned char*>(const_cast<std::byte*>(block.parities[r].data())));
        targets.push_back(reinterpret_cast<unsigned char*>(out[r].data()));
    }
    EVAC_ASSERT(gf_invert_matrix(matrix.data(), inverse.data(), static_cast<int>(k)) == 0);
    ec_init_tables(static_cast<int>(k), static_cast<int>(e), inverse.data(), tables.data());
    ec_encode_data(static_cast<int>(kShardBytes), static_cast<int>(k), static_cast<int>(e),
                   tables.data(), sources.data(), targets.data());
}

}  // namespace

int main() {
    const Block largest(kFecMembersMax, kFecParityMax);
    Bytes parity(kShardBytes);
    std::printf("shards of %zu bytes, CPU time\n", kShardBytes);
    const double add = time_us([&] { fec_add(parity, 1, 3, largest.members[3]); });
    std::printf("  one member into one parity          %6.2f us\n", add);
    std::printf("  a parity over %2zu members            %6.2f us\n", kFecMembersMax, time_us([&] {
                    for (size_t i = 0; i < kFecMembersMax; ++i)
                        fec_add(parity, 1, i, largest.members[i]);
                }));
    FecHistory history(2u << 20, 1442);
    uint64_t number = 0;
    std::printf("  keeping a copy of a packet           %6.2f us (history of 2 MiB)\n",
                time_us([&] { history.put(++number, parity); }));
    for (const size_t e : {1u, 2u, 4u, 8u}) {
        std::vector<Bytes> syndromes(kFecParityMax, Bytes(kShardBytes));
        std::vector<Bytes> inversion(kFecParityMax, Bytes(kShardBytes));
        const double fast = time_us([&] { by_syndromes(largest, e, syndromes); });
        const double slow = time_us([&] { by_inversion(largest, e, inversion); });
        for (size_t i = 0; i < e; ++i)
            EVAC_ASSERT(syndromes[i] == largest.members[i] && inversion[i] == largest.members[i]);
        std::printf(
            "  decode k=%zu, %zu lost: by syndromes %6.2f us, by inverting the matrix %6.2f "
            "us (%.1f times)\n",
            kFecMembersMax, e, fast, slow, slow / fast);
    }
    return 0;
}
