#include "evac/prestage/capture_method.hpp"

#include <gtest/gtest.h>

namespace evac::prestage::test {
namespace {

VmFacts facts(const std::string& accelerator, bool snapshot) {
    VmFacts out;
    out.accelerator = accelerator;
    out.background_snapshot = snapshot;
    if (!snapshot) out.background_snapshot_reason = "no userfaultfd here";
    return out;
}

// Every combination of what a VM allows: the best of it is taken, continuous only under KVM.
TEST(CaptureMethod, TakesTheBestThatTheVmAllows) {
    for (int bits = 0; bits < 16; ++bits) {
        const bool mapped = (bits & 1) != 0, snapshot = (bits & 2) != 0, kvm = (bits & 4) != 0,
                   hot = (bits & 8) != 0;
        const VmFacts vm = facts(kvm ? "kvm" : "tcg", snapshot);
        const auto choice = choose_method({vm, mapped ? "" : "private memory", std::nullopt, hot});
        ASSERT_TRUE(choice.ok());
        const CaptureMethod expected = mapped       ? CaptureMethod::mapped
                                       : hot && kvm ? CaptureMethod::continuous
                                       : snapshot   ? CaptureMethod::sealed
                                                    : CaptureMethod::stopped;
        EXPECT_EQ(choice->method, expected) << bits;
        EXPECT_FALSE(choice->why.empty());
        ASSERT_EQ(choice->rejected.size(), 3u);
        for (const MethodRejection& r : choice->rejected) {
            EXPECT_NE(r.method, choice->method);
            EXPECT_FALSE(r.why.empty());
            if (r.method == CaptureMethod::mapped) EXPECT_EQ(r.why, "private memory");
            if (r.method == CaptureMethod::sealed && !snapshot)
                EXPECT_EQ(r.why, "no userfaultfd here");
            if (r.method == CaptureMethod::continuous && !kvm)
                EXPECT_NE(r.why.find("'tcg'; kvm is accepted"), std::string::npos);
        }
    }
}

TEST(CaptureMethod, AWantedMethodIsTakenOrRefusedNeverReplaced) {
    const VmFacts tcg = facts("tcg", false), kvm = facts("kvm", true);
    for (const auto wanted : {CaptureMethod::mapped, CaptureMethod::sealed,
                              CaptureMethod::continuous, CaptureMethod::stopped}) {
        const auto taken = choose_method({kvm, "", wanted, false});
        ASSERT_TRUE(taken.ok());
        EXPECT_EQ(taken->method, wanted);
        const auto refused = choose_method({tcg, "private memory", wanted, true});
        if (wanted == CaptureMethod::stopped) {
            ASSERT_TRUE(refused.ok());
            continue;
        }
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().code, Errc::refused);
        EXPECT_EQ(refused.error().context.find(std::string("capture: '") + to_string(wanted)), 0u);
        EXPECT_NE(refused.error().context.find("accepted for this VM: auto, stopped"),
                  std::string::npos);
    }
    EXPECT_FALSE(choose_method({facts("", true), "", CaptureMethod::continuous, true}).ok());
}

TEST(CaptureMethod, NamesAreReadAndOthersRefused) {
    for (const auto method : {CaptureMethod::mapped, CaptureMethod::sealed,
                              CaptureMethod::continuous, CaptureMethod::stopped}) {
        EXPECT_EQ(*parse_capture("capture", to_string(method)), method);
    }
    EXPECT_EQ(*parse_capture("capture", "auto"), std::nullopt);
    for (const std::string bad : {"", "Sealed", "live", "auto "}) {
        const auto parsed = parse_capture("capture", bad);
        ASSERT_FALSE(parsed.ok());
        EXPECT_EQ(parsed.error().code, Errc::invalid_argument);
        EXPECT_EQ(parsed.error().context.find("capture: '" + bad + "' is refused; accepted: auto"),
                  0u);
    }
}

TEST(CaptureMethod, HeatFollowsTheFormula) {
    // 8 GiB; rounds every 20 s, or a pre-copy of 120 s at 200 MiB/s.
    const HeatInputs in{8192, 20, 120, 200, false};
    EXPECT_FALSE(is_hot({}, in));
    // 100 MiB/s over 1 GiB: 0.9 GiB a round; passes converge at once.
    EXPECT_TRUE(is_hot({{1024, 100}}, in));
    // The same over a small set: one pass is as much as a round.
    EXPECT_FALSE(is_hot({{65, 1000}}, {8192, 20, 120, 30, false}));
    // Faster than the bandwidth: passes leave as much as rounds do.
    EXPECT_FALSE(is_hot({{4096, 1000}}, in));
    // A slow writer.
    EXPECT_FALSE(is_hot({{500, 1}}, in));
    // Rounds so rare that a pre-copy would copy more.
    EXPECT_FALSE(is_hot({{1024, 100}}, {8192, 110, 120, 200, false}));
    // It stays hot down to half of the threshold.
    const std::vector<DirtyTerm> cooling{{400, 2.5}};
    EXPECT_FALSE(is_hot(cooling, in));
    EXPECT_TRUE(is_hot(cooling, {8192, 20, 120, 200, true}));
    EXPECT_FALSE(is_hot({{400, 1}}, {8192, 20, 120, 200, true}));
    EXPECT_FALSE(is_hot({{1024, 100}}, {0, 20, 120, 200, false}));
    EXPECT_FALSE(is_hot({{1024, 100}}, {8192, 20, 120, 0, false}));
}

TEST(CaptureMethod, SteadyPassSolvesItsEquation) {
    const std::vector<DirtyTerm> terms{{1024, 300}, {100, 50}};
    for (const double mib_s : {20.0, 100.0, 250.0}) {
        const double p = steady_pass_s(terms, mib_s, 600);
        EXPECT_NEAR(dirty_mib(terms, p), mib_s * p, 0.01 * mib_s * p);
    }
    EXPECT_EQ(steady_pass_s(terms, 1000, 600), kPassMinS);
    EXPECT_EQ(steady_pass_s(terms, 1, 600), 600);
}

}  // namespace
}  // namespace evac::prestage::test
