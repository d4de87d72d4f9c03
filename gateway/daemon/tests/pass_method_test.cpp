// Which round a pass makes of what the VM allows.
#include <gtest/gtest.h>

#include "../src/capture_jobs.hpp"

namespace evac::daemon {
namespace {

using prestage::RoundMethod;

TEST(PassMethod, EveryCombination) {
    constexpr uint64_t kFast = kMappedPauseMaxNs, kSlow = kMappedPauseMaxNs + 1;
    struct Case {
        PassMeans means;
        RoundMethod seal, final_pass;
    };
    const Case cases[] = {
        // snapshot, mapped, mapped snapshot, scan
        {{false, false, false, 0}, RoundMethod::stopped_pass, RoundMethod::final_stopped},
        {{true, false, false, 0}, RoundMethod::sealed_live, RoundMethod::final_stopped},
        {{true, true, true, kFast}, RoundMethod::mapped_sealed, RoundMethod::mapped_final},
        {{true, true, false, kFast}, RoundMethod::mapped_stopped, RoundMethod::mapped_final},
        {{true, false, false, 0, true}, RoundMethod::precopy_live, RoundMethod::final_stopped},
        // The guest would stand still too long: a background snapshot, where there is one.
        {{true, true, true, kSlow}, RoundMethod::sealed_live, RoundMethod::mapped_final},
        {{true, true, false, kSlow}, RoundMethod::sealed_live, RoundMethod::mapped_final},
        // There is none: mapping still stops it for less than a pass over its stream.
        {{false, true, true, kSlow}, RoundMethod::mapped_sealed, RoundMethod::mapped_final},
        {{false, true, false, kSlow}, RoundMethod::mapped_stopped, RoundMethod::mapped_final},
    };
    for (const Case& c : cases) {
        EXPECT_EQ(pass_method(PassKind::seal, c.means), c.seal);
        EXPECT_EQ(pass_method(PassKind::final_pass, c.means), c.final_pass);
        EXPECT_EQ(pass_method(PassKind::refresh, c.means), RoundMethod::mapped_refresh);
    }
}

TEST(PassMethod, UnknownAndDoubtfulScansAreMeasured) {
    const auto measured = [](uint64_t scan_ns) {
        return must_measure(PassKind::seal, {true, true, true, scan_ns});
    };
    EXPECT_TRUE(measured(0));
    EXPECT_FALSE(measured(1));
    EXPECT_FALSE(measured(kMappedPauseMaxNs));
    EXPECT_TRUE(measured(kMappedPauseMaxNs + 1));
    EXPECT_FALSE(measured(4 * kMappedPauseMaxNs));
    // Nothing depends on it.
    EXPECT_FALSE(must_measure(PassKind::final_pass, {true, true, true, 0}));
    EXPECT_FALSE(must_measure(PassKind::seal, {false, true, true, 0}));
    EXPECT_FALSE(must_measure(PassKind::seal, {true, false, false, 0}));
}

}  // namespace
}  // namespace evac::daemon
