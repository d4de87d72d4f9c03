#include "evac/prestage/dirty_model.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "evac/core/random.hpp"

namespace evac::prestage {
namespace {

const std::vector<DirtyTerm> kDatabase{{20, 40},
                                       {400, 6}};  // hot in half a second, warm in a minute

DirtyModel fed(const std::vector<DirtyTerm>& truth, double noise, uint64_t seed) {
    Random random(seed);
    DirtyModel model;
    const double intervals[] = {5, 12, 20, 7, 2, 30, 10, 60, 4, 15, 25, 8};
    for (const double t : intervals) {
        const double u = static_cast<double>(random.below(2001)) / 1000 - 1;
        model.add(t, dirty_mib(truth, t) * (1 + noise * u));
    }
    return model;
}

TEST(DirtyModel, TwoScalesAreFoundWithinFivePercent) {
    const auto terms = fed(kDatabase, 0, 1).fit(4096);
    ASSERT_EQ(terms.size(), 2u);
    for (const double t : {2.0, 3.0, 10.0, 30.0, 90.0})
        EXPECT_NEAR(dirty_mib(terms, t) / dirty_mib(kDatabase, t), 1, 0.05) << t;
}

TEST(DirtyModel, OneScaleAloneMissesThatGuest) {
    // What the second scale is for: the best single scale is far off somewhere in the same range.
    const auto one_scale = [](double t) { return dirty_mib({{450, 9}}, t); };
    double worst = 0;
    for (const double t : {1.0, 3.0, 10.0, 30.0, 90.0})
        worst = std::max(worst, std::abs(one_scale(t) / dirty_mib(kDatabase, t) - 1));
    EXPECT_GT(worst, 0.2);
}

TEST(DirtyModel, NoiseOfTenPercentIsBorne) {
    for (uint64_t seed = 1; seed <= 50; ++seed) {
        const auto terms = fed(kDatabase, 0.1, seed).fit(4096);
        for (const double t : {5.0, 10.0, 30.0})
            EXPECT_NEAR(dirty_mib(terms, t) / dirty_mib(kDatabase, t), 1, 0.15)
                << "seed " << seed << " t " << t;
    }
}

TEST(DirtyModel, ASteadyWriterGetsOneScale) {
    const std::vector<DirtyTerm> truth{{64, 8}};
    const auto terms = fed(truth, 0, 1).fit(256);
    ASSERT_EQ(terms.size(), 1u);
    EXPECT_NEAR(terms[0].working_set_mib, 64, 4);
    EXPECT_NEAR(terms[0].rate_mib_s, 8, 1.2);
}

TEST(DirtyModel, ThePastIsForgotten) {
    DirtyModel model;
    model.add(30, 300);  // booting
    for (int i = 0; i < 10; ++i) model.add(10, 5);
    EXPECT_NEAR(dirty_mib(model.fit(1024), 10), 5, 1);
}

TEST(DirtyModel, IntervalsAlikeGiveWhatWasSeenThereAndABoundedGuessBeyond) {
    DirtyModel model;
    for (int i = 0; i < 8; ++i) model.add(10, 40);
    const auto terms = model.fit(1024);
    EXPECT_NEAR(dirty_mib(terms, 10), 40, 2);
    EXPECT_LT(dirty_mib(terms, 1e6), 60);
    EXPECT_GE(dirty_mib(terms, 1e6), 40);
}

TEST(DirtyModel, NothingWrittenNothingSampledNonsense) {
    DirtyModel model;
    EXPECT_TRUE(model.fit(1024).empty());
    model.add(0, 5);
    model.add(-1, 5);
    model.add(NAN, 5);
    model.add(5, INFINITY);
    model.add(5, -1);
    EXPECT_TRUE(model.empty());
    for (int i = 0; i < 5; ++i) model.add(10, 0);
    EXPECT_NEAR(dirty_mib(model.fit(1024), 10), 0, 0.01);
    EXPECT_TRUE(model.fit(0).empty());
}

// Whatever comes: finite, no term above the memory, never falling with time.
TEST(DirtyModel, AnySamplesGiveALegalModel) {
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        Random random(seed);
        DirtyModel model;
        for (size_t n = 1 + random.below(40); n > 0; --n)
            model.add(std::pow(10.0, static_cast<double>(random.below(7)) - 2),
                      std::pow(10.0, static_cast<double>(random.below(9)) - 3));
        const auto terms = model.fit(2048);
        EXPECT_LE(terms.size(), 2u);
        double last = 0;
        for (const double t : {0.0, 0.1, 1.0, 10.0, 100.0, 1e4}) {
            const double mib = dirty_mib(terms, t);
            EXPECT_TRUE(std::isfinite(mib)) << seed;
            EXPECT_GE(mib, last) << seed;
            last = mib;
        }
        for (const auto& term : terms) {
            EXPECT_GT(term.working_set_mib, 0);
            EXPECT_LE(term.working_set_mib, 2048);
            EXPECT_GT(term.rate_mib_s, 0);
        }
    }
}

}  // namespace
}  // namespace evac::prestage
