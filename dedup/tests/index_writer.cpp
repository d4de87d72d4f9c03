// Writes entries to an index until it is killed: number i is identity_of(i) at location_of(i). Says
// on stdout up to which number everything was flushed (F) and synced (S).
//   dedup_index_writer DIRECTORY FIRST
#include <cstdio>
#include <cstdlib>

#include "index_values.hpp"

int main(int argc, char** argv) {
    using namespace evac;
    using namespace evac::dedup;
    if (argc != 3) return 2;
    NullLogger log;
    IndexOptions options;
    options.directory = argv[1];
    options.write_buffer_bytes = 256 * 1024;  // files change hands often
    auto index = Index::open(options, log);
    if (!index.ok()) return 1;
    for (uint64_t i = std::strtoull(argv[2], nullptr, 10);; ++i) {
        (*index)->insert(test::identity_of(i), test::location_of(i));
        if (i % 500 != 0) continue;
        (*index)->hand_over();
        if (!(*index)->flush().ok()) return 1;
        std::printf("F %llu\n", static_cast<unsigned long long>(i));
        if (i % 5000 == 0) {
            if (!(*index)->sync().ok()) return 1;
            std::printf("S %llu\n", static_cast<unsigned long long>(i));
        }
        std::fflush(stdout);
    }
}
